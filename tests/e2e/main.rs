//! End to end: the real binary, real processes, real sockets; each test one behaviour a user can see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_start;
mod concurrency;
mod data_path;
mod deadlines;
mod departed;
mod drain;
mod explain;
mod failing_starts;
mod headers;
mod hosts;
mod leftovers;
mod limits;
mod manifests;
mod memory;
mod pipelining;
mod policies;
mod queue_full;
mod replay;
mod restart;
mod splits;
mod tls;
mod tls_clients;
mod trust;
mod uncooperative;
mod waiting_page;

/// Bytes in which any that are missing, doubled or swapped show.
fn pattern(length: u32) -> bytes::Bytes {
    (0..length / 4)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect()
}
