//! End to end: the real binary, real processes, real sockets; each test one behaviour a user can see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_start;
mod concurrency;
mod departed;
mod limits;
mod queue_full;
mod replay;
mod trust;
