//! Spans of what was noted.
//!
//! Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and Kubernetes, and Knative's `kn.`
//! (knative/serving `pkg/activator/handler`); what nobody has named begins with `parkway.`.
//!
//! ```text
//!  GET (server) ─┬─ parked ─ ─ ─ ─ linked to ─ ─ ─ ─┐
//!                ├─ GET (client), one per attempt    │
//!                ├─ response                         ▼
//!                └─ cold start, below the first that waited ─┬─ parking
//!                                                            ├─ signal … one per phase
//!                                                            └─ response
//! ```

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use http::{Method, Version};
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use parkway_activator::cold_start::{ColdStartState, Milestone, Outcome, Phase, Seen};
use parkway_activator::revision::RevisionId;
use tokio::time::Instant;

use super::Dice;
use super::queue::StartToTell;
use super::recording::{Attempt, End, Head, Recording, Wait};
use crate::telemetry::Clock;

/// Writes spans.
#[derive(Debug)]
pub(super) struct Scribe {
    scope: InstrumentationScope,
    dice: Dice,
}

/// The trace that spans belong to.
#[derive(Clone)]
struct Of {
    trace: TraceId,
    state: TraceState,
}

impl Scribe {
    pub(super) fn new() -> Self {
        let scope =
            InstrumentationScope::builder("parkway").with_version(env!("CARGO_PKG_VERSION"));
        Self {
            scope: scope.build(),
            dice: Dice::new(RandomState::new().hash_one("spans")),
        }
    }

    /// A request, and what happened to it.
    pub(super) fn request(&self, recording: Recording, clock: &Clock, spans: &mut Vec<SpanData>) {
        let Recording {
            trace,
            parent,
            state,
            span,
            arrived,
            head,
            waits,
            attempts,
            more,
            answered,
            end: Some(end),
            ..
        } = recording
        else {
            return; // it has not ended
        };
        let state = state.and_then(|state| state.parse().ok());
        let of = Of {
            trace,
            state: state.unwrap_or_default(),
        };
        let name = name(&head.method);
        let mut server = self.span(&of, span, parent, name, (arrived, end.at), clock);
        server.parent_span_is_remote = parent.is_some();
        server.span_kind = SpanKind::Server;
        server.attributes = asked(&head);
        server.attributes.extend(ended(&end));
        server
            .attributes
            .push(KeyValue::new("parkway.parked", !waits.is_empty()));
        server.dropped_attributes_count = 0;
        server.links.dropped_count = more;
        server.status = outcome(&end);
        spans.push(server);
        for wait in &waits {
            let mut parked = self.wait(&of, span, wait, end.at, clock);
            parked
                .attributes
                .extend(end.revision.as_ref().map(|(id, _)| revision(id)));
            spans.push(parked);
        }
        let mut reason = "first";
        for (sent, attempt) in attempts.iter().enumerate() {
            spans.push(self.attempt(&of, span, (attempt, sent, reason), &head, end.at, clock));
            reason = attempt.failure.as_ref().map_or("again", |(kind, _)| kind);
        }
        if let Some(answered) = answered {
            let id = self.dice.span_id();
            let mut response =
                self.span(&of, id, Some(span), "response", (answered, end.at), clock);
            let bytes = KeyValue::new("http.response.body.size", count(end.bytes));
            response.attributes.push(bytes);
            spans.push(response);
        }
    }

    fn wait(&self, of: &Of, parent: SpanId, wait: &Wait, end: Instant, clock: &Clock) -> SpanData {
        let times = (wait.from, wait.to.unwrap_or(end));
        let mut span = self.span(of, wait.span, Some(parent), "parked", times, clock);
        if let Some(place) = wait.place {
            span.attributes = vec![
                KeyValue::new("parkway.queue.position", i64::from(place.position)),
                KeyValue::new("parkway.queue.depth", i64::from(place.depth)),
            ];
        }
        if let Some(start) = wait.start {
            let to = context(start.trace, start.span, TraceState::default());
            let what = vec![KeyValue::new("parkway.link", "cold start")];
            span.links.links.push(Link::new(to, what, 0));
        }
        span
    }

    fn attempt(
        &self,
        of: &Of,
        parent: SpanId,
        (attempt, sent, reason): (&Attempt, usize, &'static str),
        head: &Head,
        end: Instant,
        clock: &Clock,
    ) -> SpanData {
        let times = (attempt.from, attempt.to.unwrap_or(end));
        let name = name(&head.method);
        let mut span = self.span(of, attempt.span, Some(parent), name, times, clock);
        span.span_kind = SpanKind::Client;
        let address = attempt.endpoint.address();
        span.attributes = vec![
            KeyValue::new("http.request.method", method(&head.method)),
            KeyValue::new("url.full", format!("http://{address}{}", head.path)),
            KeyValue::new("server.address", address.ip().to_string()),
            KeyValue::new("server.port", i64::from(address.port())),
            KeyValue::new("network.peer.address", address.ip().to_string()),
            KeyValue::new("network.peer.port", i64::from(address.port())),
            KeyValue::new("parkway.attempt.reason", reason),
        ];
        if sent > 0 {
            let resent = i64::try_from(sent).unwrap_or(i64::MAX);
            let resent = KeyValue::new("http.request.resend_count", resent);
            span.attributes.push(resent);
        }
        if let Some(at) = attempt.connected {
            let event = Event::new("connected", clock.wall(at), Vec::new(), 0);
            span.events.events.push(event);
        }
        if let Some(status) = attempt.status {
            let code = i64::from(status.as_u16());
            span.attributes
                .push(KeyValue::new("http.response.status_code", code));
            if status.as_u16() >= 400 {
                span.attributes
                    .push(KeyValue::new("error.type", code.to_string()));
                span.status = Status::error("");
            }
        }
        if let Some((kind, text)) = &attempt.failure {
            span.attributes.push(KeyValue::new("error.type", *kind));
            span.status = Status::error(text.to_string());
        }
        span
    }

    /// A start with its phases; what was seen of it are its events.
    pub(super) fn start(&self, told: &StartToTell, clock: &Clock, spans: &mut Vec<SpanData>) {
        let state = told.start.state(clock.instant());
        let of = Of {
            trace: told.context.trace,
            state: TraceState::default(),
        };
        let id = told.context.span;
        let times = (state.arrived, state.arrived + state.total);
        let mut span = self.span(&of, id, Some(told.parent), "cold start", times, clock);
        span.attributes = vec![
            namespace(&state.revision),
            revision(&state.revision),
            KeyValue::new("parkway.cold_start.number", count(state.number)),
            KeyValue::new("parkway.cold_start.outcome", state.outcome.as_str()),
            KeyValue::new("parkway.cold_start.waited", count(state.waited)),
            KeyValue::new("parkway.cold_start.most_parked", count(state.most_parked)),
            KeyValue::new("parkway.cold_start.released", count(state.released)),
        ];
        if let Outcome::Failed(reason) = &state.outcome {
            span.status = Status::error(reason.to_string());
            span.attributes
                .push(KeyValue::new("error.type", "start-failed"));
        }
        let events = state.seen.iter().map(|seen| {
            let attributes = said(seen);
            Event::new(seen.milestone.as_str(), clock.wall(seen.at), attributes, 0)
        });
        span.events.events = events.collect();
        spans.push(span);
        for phase in &state.phases {
            spans.push(self.phase(&of, id, phase, &state, clock));
        }
    }

    fn phase(
        &self,
        of: &Of,
        parent: SpanId,
        phase: &Phase,
        start: &ColdStartState,
        clock: &Clock,
    ) -> SpanData {
        let times = (phase.from, phase.to);
        let id = self.dice.span_id();
        let mut span = self.span(of, id, Some(parent), phase.name.as_str(), times, clock);
        span.attributes = vec![
            namespace(&start.revision),
            revision(&start.revision),
            KeyValue::new("parkway.phase", phase.name.as_str()),
            KeyValue::new("parkway.phase.after", phase.after.as_str()),
        ];
        if let Some(until) = phase.until {
            span.attributes
                .push(KeyValue::new("parkway.phase.until", until.as_str()));
            let seen = start.seen.iter().find(|seen| seen.milestone == until);
            span.attributes.extend(seen.into_iter().flat_map(said));
        }
        span
    }

    fn span(
        &self,
        of: &Of,
        id: SpanId,
        parent: Option<SpanId>,
        name: &'static str,
        (from, to): (Instant, Instant),
        clock: &Clock,
    ) -> SpanData {
        SpanData {
            span_context: context(of.trace, id, of.state.clone()),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(name),
            start_time: clock.wall(from),
            end_time: clock.wall(to.max(from)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn context(trace: TraceId, span: SpanId, state: TraceState) -> SpanContext {
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state)
}

/// What a head says of a request.
fn asked(head: &Head) -> Vec<KeyValue> {
    let scheme = head.scheme.as_deref().unwrap_or("http").to_owned();
    let mut asked = vec![
        KeyValue::new("http.request.method", method(&head.method)),
        KeyValue::new("url.path", head.path.to_string()),
        KeyValue::new("url.scheme", scheme),
        KeyValue::new("network.protocol.version", version(head.version)),
    ];
    if method(&head.method) == OTHER {
        let original = head.method.as_str().chars().take(64).collect::<String>();
        asked.push(KeyValue::new("http.request.method_original", original));
    }
    let texts = [
        ("server.address", &head.host),
        ("client.address", &head.client),
        ("user_agent.original", &head.user_agent),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some(KeyValue::new(name, text.as_deref()?.to_owned())));
    asked.extend(texts);
    asked
}

/// How it ended, and whose it was.
fn ended(end: &End) -> Vec<KeyValue> {
    let mut ended = vec![KeyValue::new("http.response.body.size", count(end.bytes))];
    if let Some(status) = end.status {
        let code = i64::from(status.as_u16());
        ended.push(KeyValue::new("http.response.status_code", code));
    }
    if let Some(error) = error(end) {
        ended.push(KeyValue::new("error.type", error));
    }
    if let Some((id, spec)) = &end.revision {
        ended.extend([namespace(id), revision(id)]);
        let names = [
            ("kn.service.name", &spec.service),
            ("kn.configuration.name", &spec.configuration),
        ];
        let names = names.into_iter().filter(|(_, name)| !name.is_empty());
        ended.extend(names.map(|(key, name)| KeyValue::new(key, name.to_string())));
    }
    ended
}

/// Source: opentelemetry semantic-conventions `docs/http/http-spans.md`, "Status": only 5xx is the server's error.
fn outcome(end: &End) -> Status {
    match error(end) {
        Some(error) => Status::error(error),
        None => Status::Unset,
    }
}

fn error(end: &End) -> Option<String> {
    if end.has_timed_out {
        return Some("timeout".to_owned());
    }
    match end.status {
        Some(status) if status.is_server_error() => Some(status.as_u16().to_string()),
        _ if !end.is_whole => Some("aborted".to_owned()),
        _ => None,
    }
}

/// What is known of a milestone.
fn said(seen: &Seen) -> Vec<KeyValue> {
    let key = match seen.milestone {
        Milestone::Created => "k8s.pod.name",
        Milestone::Scheduled => "k8s.node.name",
        Milestone::Addressed => "k8s.pod.ip",
        _ => "parkway.detail",
    };
    let detail = seen.detail.as_deref();
    let detail = detail.map(|detail| KeyValue::new(key, detail.to_owned()));
    let stamp = seen
        .stamp
        .map(|stamp| KeyValue::new("parkway.stamp", stamp));
    detail.into_iter().chain(stamp).collect()
}

fn namespace(id: &RevisionId) -> KeyValue {
    KeyValue::new("k8s.namespace.name", id.namespace().to_owned())
}

fn revision(id: &RevisionId) -> KeyValue {
    KeyValue::new("kn.revision.name", id.name().to_owned())
}

const OTHER: &str = "_OTHER";

/// Those that everybody knows: others could be anything.
fn method(method: &Method) -> &'static str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    const WORDS: [&str; 9] = [
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    let known = KNOWN.iter().position(|known| known == method);
    known
        .and_then(|index| WORDS.get(index))
        .copied()
        .unwrap_or(OTHER)
}

/// A span is named for the method alone where the route is not known.
fn name(of: &Method) -> &'static str {
    match method(of) {
        OTHER => "HTTP",
        known => known,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
