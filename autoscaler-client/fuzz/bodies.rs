//! What the fuzz targets do with their bytes, as plain functions: `fuzz_targets/` runs them with what libFuzzer thinks of,
//! and `tests/corpora.rs` of the crate with what is kept in `corpus/`.

use parkway_autoscaler_client::wire::{decode, encode};

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target of this crate by its name.
pub const ALL: [(&str, Body); 1] = [("stat", stat)];

/// A WebSocket message of stats: what is read can be written, and is read again as the same.
pub fn stat(data: &[u8]) {
    let Ok(messages) = decode(data) else {
        return;
    };
    let written = encode(&messages);
    let again = decode(&written).expect("what we write can be read");
    // Compared as bytes: a number that is none equals nothing.
    assert_eq!(encode(&again), written);
    assert_eq!(again.len(), messages.len());
}
