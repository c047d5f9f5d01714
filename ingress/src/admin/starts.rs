//! `coldStarts` of `/state`: the last starts, each with its milestones and phases.
//!
//! Times within a start are milliseconds since the arrival of its first request, by Parkway's own clock.

use parkway_activator::cold_start::{ColdStartState, ColdStarts, Milestone, Phase, Seen};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::telemetry::Clock;

/// The starts that are remembered, the latest first.
pub(super) fn of(starts: &ColdStarts, clock: &Clock) -> Vec<Value> {
    let recent = starts.recent();
    let recent = recent.iter().map(|start| start.state(clock.instant()));
    recent.map(|start| of_start(&start, clock)).collect()
}

/// One start.
pub(super) fn of_start(start: &ColdStartState, clock: &Clock) -> Value {
    let ms = |at: Instant| since(start.arrived, at);
    let milestones = start.seen.iter().map(|seen| milestone(seen, start.arrived));
    let phases = start
        .phases
        .iter()
        .map(|phase| of_phase(phase, start.arrived));
    json!({
        "number": start.number,
        "namespace": start.revision.namespace(),
        "revision": start.revision.name(),
        "outcome": start.outcome.as_str(),
        "failure": start.outcome.failure(),
        "arrivedUnixMs": u64::try_from(clock.unix(start.arrived).as_millis()).unwrap_or(u64::MAX),
        "totalMs": start.total.as_secs_f64() * 1e3,
        "waited": start.waited,
        "mostParked": start.most_parked,
        "released": start.released,
        "lastReleasedMs": start.last_released.map(ms),
        "milestones": milestones.collect::<Vec<_>>(),
        "phases": phases.collect::<Vec<_>>(),
    })
}

fn milestone(seen: &Seen, arrived: Instant) -> Value {
    json!({
        "name": seen.milestone.as_str(),
        "atMs": since(arrived, seen.at),
        "stampUnixSeconds": seen.stamp,
        "detail": seen.detail.as_deref(),
    })
}

fn of_phase(phase: &Phase, arrived: Instant) -> Value {
    json!({
        "name": phase.name.as_str(),
        "after": phase.after.as_str(),
        "until": phase.until.map(Milestone::as_str),
        "fromMs": since(arrived, phase.from),
        "ms": phase.duration().as_secs_f64() * 1e3,
    })
}

/// Milliseconds; negative before the arrival.
fn since(arrived: Instant, at: Instant) -> f64 {
    let after = at.saturating_duration_since(arrived);
    let before = arrived.saturating_duration_since(at);
    (after.as_secs_f64() - before.as_secs_f64()) * 1e3
}
