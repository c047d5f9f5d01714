//! The last cold starts as waterfalls: what the time went into, from top to bottom, until it adds up.

use maud::{Markup, html};
use parkway_activator::cold_start::{ColdStartState, Outcome, Phase, PhaseName};
use tokio::time::Instant;

use super::super::story::{ms, sentence, told};
use super::super::text::{count_of, millis, moment};
use super::super::view::View;
use super::{Asked, Part};
use crate::telemetry::Clock;

/// How many are shown unless more are asked for.
const SHOWN: usize = 10;

/// Bars are drawn in thousandths of the whole; the smallest that can be seen.
const SEEN: f64 = 2.0;

/// The starts that are shown, and a line about those that are not.
pub(super) fn parts(view: &View, asked: &Asked) -> (Vec<Part>, Part) {
    let most = asked.starts.unwrap_or(SHOWN);
    let found = || {
        let starts = view.starts.iter();
        starts.filter(|start| asked.wants(start.revision()))
    };
    let parts: Vec<_> = found()
        .take(most)
        .enumerate()
        .map(|(place, start)| {
            let id = format!("start:{}", start.number());
            let state = start.state(view.clock.instant());
            let html = one(&id, &state, &view.clock, place == 0).into_string();
            Part { id, html }
        })
        .collect();
    let note = note(parts.len(), found().count(), asked);
    (parts, Part::new("starts-note", &note))
}

fn note(shown: usize, found: usize, asked: &Asked) -> Markup {
    html! {
        p #starts-note .note {
            @if found == 0 {
                "No request has waited for a start yet."
            } @else if shown < found {
                "The last " (shown) " of " (found) " that are remembered. "
                a href=(asked.link_to_all_starts()) { "Show all" }
            } @else {
                (count_of(found, "start")) " remembered."
            }
        }
    }
}

fn one(id: &str, start: &ColdStartState, clock: &Clock, is_open: bool) -> Markup {
    let total = start.total.as_secs_f64() * 1e3;
    html! {
        details.start id=(id) open[is_open] {
            summary {
                span.what {
                    span.name { (start.revision.name()) }
                    " " span.namespace { (start.revision.namespace()) }
                }
                " " (outcome(&start.outcome))
                " " span.total { (millis(total)) }
                " " (stacked(start))
                " " span.waited {
                    (count_of(start.waited, "request")) " waited"
                }
                " " (moment(clock.unix(start.arrived)))
            }
            div.story {
                p { (sentence(start)) }
                @if let Some(failure) = start.outcome.failure() { pre { (failure) } }
                (waterfall(start))
                (milestones(start))
            }
        }
    }
}

fn outcome(outcome: &Outcome) -> Markup {
    let (class, word) = match outcome {
        Outcome::Starting => ("wait", "starting"),
        Outcome::Ready => ("good", "ready"),
        Outcome::Failed(_) => ("bad", "failed"),
        Outcome::Abandoned => ("rest", "abandoned"),
    };
    html! { span class=(format_args!("chip {class}")) { (word) } }
}

/// All phases in one bar.
fn stacked(start: &ColdStartState) -> Markup {
    let scale = Scale::of(start);
    html! {
        svg.stacked viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
            @for phase in &start.phases { (bar(phase, &scale, 0.0)) }
        }
    }
}

fn waterfall(start: &ColdStartState) -> Markup {
    let scale = Scale::of(start);
    html! {
        table.waterfall {
            caption { "Phases; they add up to " (millis(ms(start.total))) "." }
            thead { tr {
                th scope="col" { "Phase" }
                th scope="col" { span.unseen { "When" } }
                th.number scope="col" { "Took" }
            } }
            tbody {
                @for phase in &start.phases {
                    @let (_, why) = told(phase.name);
                    tr class=(group(phase.name)) title=(why) {
                        th scope="row" { (phase.name.as_str()) }
                        td.bar {
                            svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" {
                                (bar(phase, &scale, SEEN))
                            }
                        }
                        td.number { (millis(ms(phase.duration()))) }
                    }
                }
            }
        }
    }
}

fn bar(phase: &Phase, scale: &Scale, least: f64) -> Markup {
    let (x, width) = scale.place(phase, least);
    html! {
        rect class=(group(phase.name)) x=(format_args!("{x:.1}")) width=(format_args!("{width:.1}")) height="10" {
            title { (phase.name.as_str()) ", " (millis(ms(phase.duration()))) }
        }
    }
}

struct Scale {
    from: Instant,
    total: f64,
}

impl Scale {
    fn of(start: &ColdStartState) -> Self {
        Self {
            from: start.arrived,
            total: ms(start.total).max(1e-6),
        }
    }

    fn place(&self, phase: &Phase, least: f64) -> (f64, f64) {
        let x = ms(phase.from.saturating_duration_since(self.from)) / self.total * 1e3;
        let width = (ms(phase.duration()) / self.total * 1e3).max(least);
        (x.min(1e3 - width).max(0.0), width.min(1e3))
    }
}

fn milestones(start: &ColdStartState) -> Markup {
    let of_arrival = |at: Instant| {
        let before = start.arrived.saturating_duration_since(at);
        match before.is_zero() {
            true => format!(
                "+{}",
                millis(ms(at.saturating_duration_since(start.arrived)))
            ),
            false => format!("{} earlier", millis(ms(before))),
        }
    };
    html! {
        ol.milestones aria-label="What was seen" {
            @for seen in &start.seen {
                li {
                    b { (seen.milestone.as_str()) } " "
                    span.at { (of_arrival(seen.at)) }
                    @if let Some(detail) = &seen.detail { " " code { (&**detail) } }
                }
            }
            @if start.released > 1 && let Some(last) = start.last_released {
                li { b { "last released" } " " span.at { (of_arrival(last)) } " " (start.released) " in all" }
            }
        }
    }
}

/// Whose time it is: Parkway's, the platform's, the workload's, or nobody knows.
fn group(phase: PhaseName) -> &'static str {
    use PhaseName as P;
    match phase {
        P::Parking | P::Signal | P::Decision | P::Release | P::Connect => "parkway",
        P::Spawn
        | P::PodCreation
        | P::Scheduling
        | P::Sandbox
        | P::ImagePull
        | P::ContainerStart
        | P::FirstProbe => "platform",
        P::Readiness | P::FirstByte | P::Response => "workload",
        P::Waiting => "waiting",
        P::Gap => "gap",
    }
}
