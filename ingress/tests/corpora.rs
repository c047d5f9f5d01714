//! The corpora of the fuzz targets, run as ordinary tests: whatever a target has ever stumbled over stays here.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test fails by panicking, and the bodies are another crate's too"
)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder().join("corpus").join(target)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn every_target_passes_over_its_corpus() {
    for (target, body) in bodies::ALL {
        let corpus = corpus(target);
        assert!(corpus.len() >= 4, "{target}");
        for (file, data) in corpus {
            println!("{file}");
            body(&data);
        }
    }
}

#[test]
fn every_body_is_a_target_and_every_target_a_body() {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let targets = manifest.lines().filter_map(|line| {
        line.strip_prefix("path = \"fuzz_targets/")?
            .strip_suffix(".rs\"")
    });
    assert_eq!(
        targets.collect::<Vec<_>>(),
        bodies::ALL.map(|(name, _)| name)
    );
    for (name, _) in bodies::ALL {
        let target = folder().join(format!("fuzz_targets/{name}.rs"));
        let target = fs::read_to_string(target).unwrap();
        assert!(target.contains(&format!("bodies::{name}(data)")), "{name}");
    }
}

/// One of a corpus, with some bytes exchanged, taken out or put in.
fn nearly(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let files: Vec<_> = corpus(target).into_iter().map(|(_, data)| data).collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..8);
    (prop::sample::select(files), edits).prop_map(|(mut data, edits)| {
        for (at, byte, edit) in edits {
            let at = at.index(data.len() + 1);
            match edit {
                0 if at < data.len() => data[at] = byte,
                1 if at < data.len() => drop(data.remove(at)),
                _ => data.insert(at, byte),
            }
        }
        data
    })
}

proptest! {
    #[test]
    fn what_is_nearly_in_a_corpus_passes_too(
        data in prop::sample::select(bodies::ALL.to_vec())
            .prop_flat_map(|(name, body)| nearly(name).prop_map(move |data| (body, data))),
    ) {
        let (body, data) = data;
        body(&data);
    }
}
