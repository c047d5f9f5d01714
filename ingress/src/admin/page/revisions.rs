//! The Revisions: what each is doing, and more of it where asked.

use maud::{Markup, html};
use parkway_activator::throttler::{Parking, RevisionState};
use parkway_autoscaler_client::embedded::DeciderState;
use tokio::time::Instant;

use super::super::text::{bytes, count_of, seconds};
use super::super::view::View;
use super::lane::lane;
use super::{Asked, Part};
use crate::standalone::{ReplicaPhase, ReplicaState};

/// How many are shown; the others are found with the filter.
const ROWS: usize = 100;

/// How many endpoints and processes of one are listed.
const LISTED: usize = 50;

/// What a Revision is doing, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Failing,
    Starting,
    Full,
    Ready,
    Unserved,
    Zero,
}

impl Condition {
    fn of(revision: &RevisionState, processes: &[ReplicaState]) -> Self {
        let is_starting = processes
            .iter()
            .any(|process| process.phase == ReplicaPhase::Starting);
        match ready(revision) {
            0 if revision.failure.is_some() => Self::Failing,
            0 if revision.starting_since.is_some() || revision.parked > 0 || is_starting => {
                Self::Starting
            }
            0 if revision.parking == Parking::Never => Self::Unserved,
            0 => Self::Zero,
            _ if revision.parked > 0 => Self::Full,
            _ => Self::Ready,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Failing => "bad",
            Self::Starting | Self::Full => "wait",
            Self::Ready => "good",
            Self::Unserved | Self::Zero => "rest",
        }
    }
}

/// How many endpoints take requests.
pub(super) fn ready(revision: &RevisionState) -> usize {
    let endpoints = revision.endpoints.iter();
    endpoints
        .filter(|endpoint| endpoint.is_ready && !endpoint.is_suspect)
        .count()
}

/// The rows that are shown, and a line about those that are not.
pub(super) fn parts(view: &View, asked: &Asked) -> (Vec<Part>, Part) {
    let mut found: Vec<_> = view
        .revisions
        .iter()
        .filter(|revision| asked.wants(&revision.id) || asked.has(&revision.spec.service))
        .map(|revision| {
            let processes = view.processes_of(&revision.id);
            (Condition::of(revision, processes), revision)
        })
        .collect();
    let total = found.len();
    // Those that nothing happens to are the same to each other: by name, as they come.
    found.sort_by_key(|(condition, _)| *condition);
    found.truncate(ROWS);
    let now = view.clock.instant();
    let rows = found.into_iter().map(|(condition, revision)| {
        let id = format!("revision:{}", revision.id);
        let html = row(&id, condition, revision, view, now).into_string();
        Part { id, html }
    });
    let rows: Vec<_> = rows.collect();
    let note = note(rows.len(), total, view.revisions.len(), asked);
    (rows, Part::new("revisions-note", &note))
}

fn note(shown: usize, found: usize, known: usize, asked: &Asked) -> Markup {
    html! {
        p #revisions-note .note role="status" {
            @if known == 0 {
                "No Revision is known yet."
            } @else if found == 0 {
                "None of " (count_of(known, "Revision")) " matches " q { (asked.filter()) } "."
            } @else if shown < found {
                (shown) " of " (found) " shown, the busiest first. The filter finds the others."
            } @else if found < known {
                (found) " of " (count_of(known, "Revision")) "."
            } @else {
                (count_of(known, "Revision")) "."
            }
        }
    }
}

fn row(
    id: &str,
    condition: Condition,
    revision: &RevisionState,
    view: &View,
    now: Instant,
) -> Markup {
    let processes = view.processes_of(&revision.id);
    let decider = view.deciders.get(&revision.id);
    let starting = processes
        .iter()
        .filter(|process| process.phase == ReplicaPhase::Starting)
        .count();
    let done = revision.counters.granted_at_once + revision.counters.released;
    html! {
        tbody id=(id) data-done=(done) data-parked=(revision.parked) data-busy=(revision.in_flight) {
            tr.revision {
                th scope="row" data-label="Revision" {
                    details {
                        summary {
                            span.name { (revision.id.name()) }
                            " " span.namespace { (revision.id.namespace()) }
                        }
                    }
                }
                td data-label="State" { (chip(condition, revision, now)) }
                td.picture data-label="Requests" { (lane(revision, starting)) }
                td.number data-label="Parked" { (revision.parked) }
                td.number data-label="In flight" { (revision.in_flight) }
                td.number data-label="Ready" { (replicas(revision, decider)) }
                td.number data-label="Cold starts" { (starts(revision)) }
                td.spark data-label="Last minute" data-keep {}
            }
            tr.more {
                td colspan="8" { (more(revision, decider, processes, now)) }
            }
        }
    }
}

fn chip(condition: Condition, revision: &RevisionState, now: Instant) -> Markup {
    let since = revision
        .starting_since
        .map(|since| now.saturating_duration_since(since).as_secs_f64());
    html! {
        span class=(format_args!("chip {}", condition.class())) {
            @match condition {
                Condition::Failing => "fails to start",
                Condition::Starting => {
                    "starting"
                    @if let Some(since) = since { " " (seconds(since)) }
                },
                Condition::Full => "all busy",
                Condition::Ready => "ready",
                Condition::Unserved => "no endpoints",
                Condition::Zero => "at zero",
            }
        }
    }
}

fn replicas(revision: &RevisionState, decider: Option<&DeciderState>) -> Markup {
    let ready = ready(revision);
    html! {
        (ready)
        @if let Some(decider) = decider {
            @if decider.wanted as usize != ready { span.of { " of " (decider.wanted) } }
        }
    }
}

fn starts(revision: &RevisionState) -> Markup {
    let measured = revision.cold_start_seconds.count();
    html! {
        (revision.counters.cold_starts)
        @if measured > 0 {
            @let mean = revision.cold_start_seconds.sum().as_secs_f64() / measured as f64;
            span.of { " · " (seconds(mean)) }
        }
    }
}

fn more(
    revision: &RevisionState,
    decider: Option<&DeciderState>,
    processes: &[ReplicaState],
    now: Instant,
) -> Markup {
    let counters = &revision.counters;
    html! {
        @if let Some(failure) = &revision.failure {
            div.failure {
                p { "The last start failed. The next request tries again." }
                pre { (&**failure) }
            }
        }
        div.facts {
            dl {
                div { dt { "Service" } dd { (&*revision.spec.service) } }
                div { dt { "Concurrency" } dd {
                    @match revision.spec.concurrency.as_number() {
                        0 => "unlimited",
                        limit => { (limit) " at once per endpoint" }
                    }
                } }
                div { dt { "Parked now" } dd { (revision.parked) ", " (bytes(revision.parked_bytes)) } }
                div { dt { "Went at once" } dd { (counters.granted_at_once) } }
                div { dt { "Waited, then went" } dd { (counters.released) } }
                div { dt { "Left while waiting" } dd { (counters.cancelled) } }
                div { dt { "Answered 503" } dd { (counters.refused.total()) } }
            }
            @if let Some(decider) = decider {
                dl {
                    div { dt { "Autoscaler" } dd { (decider_phase(decider)) } }
                    div { dt { "Wanted" } dd { (count_of(decider.wanted as usize, "replica")) } }
                    div { dt { (decider.metric.to_string()) ", stable" } dd { (format_args!("{:.2}", decider.stable)) } }
                    div { dt { (decider.metric.to_string()) ", panic" } dd { (format_args!("{:.2}", decider.panic)) } }
                    div { dt { "Target per replica" } dd { (format_args!("{:.1}", decider.target)) } }
                }
            }
            @if !revision.endpoints.is_empty() {
                table.inner {
                    caption { "Endpoints" }
                    thead { tr { th scope="col" { "Address" } th scope="col" { "State" } th scope="col" { "In flight" } } }
                    tbody {
                        @for endpoint in revision.endpoints.iter().take(LISTED) {
                            tr {
                                td { code { (endpoint.endpoint.to_string()) } }
                                td {
                                    @if !endpoint.is_ready { "leaving" }
                                    @else if endpoint.is_suspect { "set aside: it refused a connection" }
                                    @else { "ready" }
                                }
                                td.number { (endpoint.in_flight) }
                            }
                        }
                    }
                }
                @if revision.endpoints.len() > LISTED { p.note { "and " (revision.endpoints.len() - LISTED) " more" } }
            }
            @if !processes.is_empty() {
                table.inner {
                    caption { "Processes" }
                    thead { tr { th scope="col" { "Number" } th scope="col" { "Process id" } th scope="col" { "State" } th scope="col" { "Age" } } }
                    tbody {
                        @for process in processes.iter().take(LISTED) {
                            tr {
                                td { (process.number) }
                                td { (process.pid) }
                                td { (process.phase.as_str()) }
                                td { (age(process, now)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// In steps, so that it is no news each time.
fn age(process: &ReplicaState, now: Instant) -> String {
    match now.saturating_duration_since(process.started).as_secs() {
        0..10 => "seconds".to_owned(),
        age @ 10..60 => format!("{} s", age / 10 * 10),
        age @ 60..3_600 => format!("{} min", age / 60),
        age => format!("{} h", age / 3_600),
    }
}

fn decider_phase(decider: &DeciderState) -> &'static str {
    use parkway_autoscaler_client::embedded::Phase;
    match (decider.phase, decider.is_panicking) {
        (_, true) => "in panic mode: scales up only",
        (Phase::Activating, false) => "activating",
        (Phase::Active, false) => "active",
        (Phase::Inactive, false) => "inactive",
    }
}
