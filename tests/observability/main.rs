//! What a Parkway tells of itself: the record of cold starts, traces, metrics, the access log, and to those who ask at a
//! terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod cold_starts;
mod grafana;
mod metrics;
mod pods;
mod python;
mod sampling;
mod terminal;
mod traces;
mod waiting;

/// Names of phases with parking in front: on its way to its place, a request goes on beside those who start the workload,
/// and which of their steps comes first is chance.
#[track_caller]
fn parking_first(mut names: Vec<&str>) -> Vec<&str> {
    let parking = names.iter().position(|name| *name == "parking");
    let parking = parking.unwrap_or_else(|| panic!("no parking in {names:?}"));
    names[..=parking].rotate_right(1);
    names
}
