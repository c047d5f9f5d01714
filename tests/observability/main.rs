//! What a Parkway tells of itself: the record of cold starts, traces, metrics, the access log, and to those who ask at a
//! terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod cold_starts;
mod grafana;
mod metrics;
mod pods;
mod python;
mod rotel;
mod sampling;
mod terminal;
mod traces;
mod waiting;
