//! `/why`: one paragraph on why the next request would or would not wait, and where the last cold start spent its time.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use parkway_activator::cold_start::{ColdStartState, Outcome};
use parkway_activator::throttler::RevisionState;
use serde_json::json;

use super::explain::{Asked, question};
use super::story::{longest, ms, sentence};
use super::text::{count_of, millis, seconds};
use super::{Admin, starts};
use crate::explain::Answer;
use crate::routing::explain::Share;
use crate::routing::host::Host;
use crate::telemetry::Clock;

/// How many phases of the last start are named.
const PHASES: usize = 3;

/// Answers a [`Question`](crate::explain::Question) about a host.
pub(super) async fn answer(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    match question(&headers).and_then(Asked::parse) {
        Ok(asked) => Json(why(&admin, &asked)).into_response(),
        Err(mistake) => (StatusCode::BAD_REQUEST, mistake).into_response(),
    }
}

fn why(admin: &Admin, asked: &Asked) -> Answer {
    let host = match Host::parse(&asked.question.host) {
        Ok(host) => host,
        Err(error) => return refused(&format!("Nothing is served by that name: {error}.")),
    };
    let routes = admin.routes.current();
    let explanation = asked.explained(&routes, &host, None);
    if let Some(refusal) = &explanation.refusal {
        let text = format!(
            "The next request to {} would not wait, for it would be answered {}: {}.",
            host.as_str(),
            refusal.status,
            refusal.reason.trim_end_matches('.')
        );
        return refused(&text);
    }
    let shares = { explanation.passes.last() }.map_or(&[][..], |pass| &pass.shares);
    let states = admin.throttler.state();
    let clock = Clock::now();
    let mut text = goes_to(host.as_str(), shares);
    let mut told = Vec::new();
    for share in shares {
        let state = { states.iter() }.find(|state| state.id.to_string() == share.target);
        let Some(state) = state.filter(|_| share.kind == "revision") else {
            told.push(json!({ "target": share.target, "waits": false }));
            continue;
        };
        let (waits, why) = wait(state, &clock);
        let last = admin.throttler.cold_starts().recent();
        let last = { last.iter() }.find(|start| *start.revision() == state.id);
        let last = last.map(|start| start.state(clock.instant()));
        let name = match shares.len() {
            1 => "It".to_owned(),
            _ => state.id.to_string(),
        };
        sentences(&mut text, &name, &why, last.as_ref(), &clock);
        told.push(json!({
            "target": share.target,
            "waits": waits,
            "why": why,
            "usualStartSeconds": state.usual_start.map(|usual| usual.as_secs_f64()),
            "lastColdStart": last.map(|last| starts::of_start(&last, &clock)),
        }));
    }
    text.push('\n');
    Answer {
        is_served: true,
        text,
        explanation: json!({ "host": host.as_str(), "targets": told }),
    }
}

fn refused(text: &str) -> Answer {
    Answer {
        is_served: false,
        text: format!("{text}\n"),
        explanation: json!({ "refusal": text }),
    }
}

fn goes_to(host: &str, shares: &[Share]) -> String {
    match shares {
        [] => format!("The next request to {host} goes nowhere."),
        [one] => format!("The next request to {host} goes to {}.", one.target),
        many => {
            let shares = { many.iter() }
                .map(|share| format!("{} ({} %)", share.target, share.percent))
                .collect::<Vec<_>>();
            format!("Requests to {host} are split: {}.", shares.join(", "))
        }
    }
}

fn sentences(
    text: &mut String,
    name: &str,
    why: &str,
    last: Option<&ColdStartState>,
    clock: &Clock,
) {
    // A String takes everything.
    write!(text, " {name} {why}.").unwrap_or_default();
    let Some(last) = last else {
        text.push_str(" No cold start of it is remembered.");
        return;
    };
    if last.outcome == Outcome::Starting {
        write!(text, " {}", sentence(last)).unwrap_or_default();
        return;
    }
    let ago = clock.instant().saturating_duration_since(last.arrived);
    write!(
        text,
        " Its last cold start, {} ago, {} {} and {} waited for it. {} What took longest: {}.",
        seconds(ago.as_secs_f64()),
        match last.outcome {
            Outcome::Ready => "took",
            _ => "came to nothing after",
        },
        millis(ms(last.total)),
        count_of(last.waited, "request"),
        sentence(last),
        longest(last, PHASES),
    )
    .unwrap_or_default();
}

/// Whether a request would wait, and why.
fn wait(state: &RevisionState, clock: &Clock) -> (bool, String) {
    let endpoints = state.endpoints.iter();
    let ready = endpoints.filter(|endpoint| endpoint.is_ready && !endpoint.is_suspect);
    let ready = ready.count();
    let limit = u64::from(state.spec.concurrency.as_number());
    let (in_flight, parked) = (state.in_flight, state.parked);
    let before = match parked {
        0 => "nobody waits before it".to_owned(),
        1 => "1 request waits before it".to_owned(),
        parked => format!("{parked} requests wait before it"),
    };
    if let Some(failure) = state.failure.as_deref().filter(|_| ready == 0) {
        let why = format!(
            "would not wait but be answered 503 until the next start is tried, because the last one failed: {}",
            failure.trim_end_matches('.')
        );
        return (false, why);
    }
    if ready == 0 {
        let usual = match state.usual_start {
            None => "how long a start takes is not known yet".to_owned(),
            Some(usual) => format!("a start usually takes up to {}", millis(ms(usual))),
        };
        let starting = state.starting_since.map(|since| {
            let since = clock.instant().saturating_duration_since(since);
            format!("is being started since {}", seconds(since.as_secs_f64()))
        });
        let how = starting.unwrap_or_else(|| "is at zero".to_owned());
        let why = format!(
            "would make it wait, because no endpoint is ready: the Revision {how}, {before}, and {usual}"
        );
        return (true, why);
    }
    let slots = limit.saturating_mul(ready as u64);
    if limit > 0 && in_flight >= slots {
        let why = format!(
            "would make it wait, because all {slots} slots of {} are taken; {before}",
            count_of(ready, "endpoint")
        );
        return (true, why);
    }
    if parked > 0 {
        return (true, format!("would make it wait: {before}"));
    }
    let why = format!(
        "would serve it at once: {} ready, {} in flight",
        count_of(ready, "endpoint"),
        count_of(in_flight, "request")
    );
    (false, why)
}
