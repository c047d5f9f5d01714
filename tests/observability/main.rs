//! What a Parkway tells of itself: the record of cold starts, and traces.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_starts;
mod pods;
mod python;
mod traces;
mod waiting;
