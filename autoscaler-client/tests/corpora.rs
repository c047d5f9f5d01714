//! The corpora of the fuzz targets, run as ordinary tests: whatever a target has ever stumbled over stays here.

#![expect(
    unreachable_pub,
    reason = "a test fails by panicking, and the bodies are another crate's too"
)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

#[test]
fn every_target_passes_over_its_corpus_and_over_every_beginning_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, body) in bodies::ALL {
        let mut count = 0;
        for entry in fs::read_dir(folder.join(target)).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            for cut in 0..=data.len() {
                body(&data[..cut]);
            }
            count += 1;
        }
        assert!(count >= 4, "{target}");
    }
}
