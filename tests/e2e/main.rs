//! End to end: the real binary, real processes, real sockets; each test one behaviour a user can see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_start;
mod concurrency;
mod deadlines;
mod departed;
mod drain;
mod failing_starts;
mod manifests;
mod queue_full;
mod replay;
mod restart;
mod splits;
