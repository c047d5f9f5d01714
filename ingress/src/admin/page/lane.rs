//! A Revision's requests as a picture: dots that wait before a gate, and endpoints behind it.
//!
//! Positions depend on counts alone, so that a dot that stays is the same element from one event to the next and the
//! browser moves it.

use maud::{Markup, html};
use parkway_activator::throttler::{EndpointState, RevisionState};

use super::super::text::count_of;

const WIDTH: u32 = 300;
const HEIGHT: u32 = 28;
/// Where the gate stands.
const GATE: u32 = 142;
/// Two rows of this many dots fit before it.
const COLUMNS: u32 = 13;
const DOT: u32 = 9;
/// Endpoints with more slots than this are drawn with a number in place of them.
const SLOTS_DRAWN: u32 = 8;

pub(super) fn lane(revision: &RevisionState, starting: usize) -> Markup {
    let ready = super::revisions::ready(revision);
    let parked = u32::try_from(revision.parked).unwrap_or(u32::MAX);
    let drawn = parked.min(COLUMNS * 2);
    let beyond = parked - drawn;
    let label = label(revision, ready, starting);
    html! {
        svg.lane viewBox=(format_args!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
            g.waiting {
                @for place in 0..drawn {
                    circle.parked
                        cx=(GATE - 10 - (place / 2) * DOT)
                        cy=(9 + (place % 2) * 10) r="3.5" {}
                }
            }
            text.beyond x="2" y="18" { @if beyond > 0 { "+" (beyond) } }
            g.gate.open[ready > 0] {
                line x1=(GATE) x2=(GATE) y1="2" y2="14" {}
                line x1=(GATE) x2=(GATE) y1="14" y2="26" {}
            }
            g.endpoints { (endpoints(revision, starting)) }
            g.flight data-keep {}
        }
    }
}

fn label(revision: &RevisionState, ready: usize, starting: usize) -> String {
    let starting = match starting {
        0 => String::new(),
        count => format!(", {count} starting"),
    };
    format!(
        "{} parked, {} in flight, {} ready{starting}",
        revision.parked,
        revision.in_flight,
        count_of(ready, "endpoint")
    )
}

fn endpoints(revision: &RevisionState, starting: usize) -> Markup {
    let limit = revision.spec.concurrency.as_number();
    let width = width(limit);
    let room = (WIDTH - GATE - 40) / (width + 5);
    let count = u32::try_from(revision.endpoints.len() + starting).unwrap_or(u32::MAX);
    let all = revision.endpoints.iter().map(Some);
    let boxes = all.chain(std::iter::repeat_n(None, starting)).zip(0..room);
    html! {
        @for (endpoint, place) in boxes {
            @let x = GATE + 12 + place * (width + 5);
            @match endpoint {
                Some(endpoint) => (one(endpoint, limit, x, width)),
                None => { g.endpoint.starting { (frame(x, width)) } }
            }
        }
        @if count > room {
            text.beyond x=(WIDTH - 26) y="18" { "+" (count - room) }
        }
    }
}

fn one(endpoint: &EndpointState, limit: u32, x: u32, width: u32) -> Markup {
    let is_drawn = (1..=SLOTS_DRAWN).contains(&limit);
    html! {
        g.endpoint.left[!endpoint.is_ready].suspect[endpoint.is_suspect].busy[endpoint.in_flight > 0] {
            (frame(x, width))
            @if is_drawn {
                @for slot in 0..limit {
                    circle.slot.taken[u64::from(slot) < endpoint.in_flight]
                        cx=(x + 7 + (slot / rows(limit)) * DOT)
                        cy=(slot_y(slot, limit)) r="3" {}
                }
            } @else {
                text.count x=(x + width / 2) y="18" { (short(endpoint.in_flight)) }
            }
        }
    }
}

fn frame(x: u32, width: u32) -> Markup {
    html! { rect x=(x) y="3" width=(width) height="22" rx="5" {} }
}

fn rows(limit: u32) -> u32 {
    limit.min(2)
}

fn slot_y(slot: u32, limit: u32) -> u32 {
    match rows(limit) {
        1 => 14,
        rows => 9 + (slot % rows) * 10,
    }
}

fn width(limit: u32) -> u32 {
    match limit {
        1..=SLOTS_DRAWN => 5 + limit.div_ceil(2) * DOT,
        _ => 28,
    }
}

/// At most four characters.
fn short(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}
