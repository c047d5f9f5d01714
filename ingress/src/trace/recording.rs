//! What is noted of a request whose trace is kept, until it has ended and its spans are made.
//!
//! Notes are moments and short texts; spans, with all they say, are made of them by the thread that sends them.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version, header};
use opentelemetry::trace::{SpanId, TraceId};
use parkway_activator::cold_start::ColdStart;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{RevisionId, RevisionSpec};
use parkway_activator::throttler::QueuePlace;
use tokio::time::Instant;

use super::WorkerTracer;
use super::context::{Form, TRACESTATE, pass_on};

/// How many waits, and how many attempts, are noted of one request. Further ones are counted.
const MOST_STEPS: usize = 32;

/// How many bytes of a client's text are kept: a recording must not keep a head alive.
const TEXT_MAX: usize = 256;

/// A request whose trace is kept.
#[derive(Debug)]
pub struct Recording {
    pub(super) trace: TraceId,
    /// The span that called; none begins the trace.
    pub(super) parent: Option<SpanId>,
    pub(super) state: Option<Box<str>>,
    pub(super) form: Form,
    /// The request itself.
    pub(super) span: SpanId,
    pub(super) arrived: Instant,
    pub(super) head: Head,
    pub(super) waits: Vec<Wait>,
    pub(super) attempts: Vec<Attempt>,
    /// Waits and attempts beyond those that are noted.
    pub(super) more: u32,
    pub(super) answered: Option<Instant>,
    pub(super) end: Option<End>,
}

/// What a head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) scheme: Option<Box<str>>,
    pub(super) host: Option<Box<str>>,
    pub(super) path: Box<str>,
    pub(super) client: Option<Box<str>>,
    pub(super) user_agent: Option<Box<str>>,
}

/// A time during which the request was parked.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) span: SpanId,
    pub(super) from: Instant,
    pub(super) to: Option<Instant>,
    pub(super) place: Option<QueuePlace>,
    /// What it waited for.
    pub(super) start: Option<StartContext>,
}

/// The span of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// One sending to one endpoint.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) span: SpanId,
    pub(super) from: Instant,
    pub(super) connected: Option<Instant>,
    pub(super) to: Option<Instant>,
    pub(super) endpoint: Endpoint,
    pub(super) status: Option<StatusCode>,
    /// Why it brought no answer: a word, and what there is to say.
    pub(super) failure: Option<(&'static str, Box<str>)>,
}

/// How a request ended.
#[derive(Debug)]
pub struct End {
    /// When.
    pub at: Instant,
    /// Whose endpoints it was for, if that is known.
    pub revision: Option<(RevisionId, Arc<RevisionSpec>)>,
    /// The response's status.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body that went to the client.
    pub bytes: u64,
    /// Whether the response reached its end.
    pub is_whole: bool,
    /// Whether a timeout cut it.
    pub has_timed_out: bool,
}

impl Recording {
    pub(super) fn new(
        trace: TraceId,
        parent: Option<SpanId>,
        form: Form,
        span: SpanId,
        arrived: Instant,
        head: &Parts,
    ) -> Box<Self> {
        let state = parent.and_then(|_parent| text(&head.headers, &TRACESTATE));
        Box::new(Self {
            trace,
            parent,
            state,
            form,
            span,
            arrived,
            head: Head::of(head),
            waits: Vec::new(),
            attempts: Vec::new(),
            more: 0,
            answered: None,
            end: None,
        })
    }

    /// Who asked, if the head does not say so yet.
    pub fn from_client(&mut self, client: IpAddr) {
        self.head.client = Some(client.to_string().into());
    }

    /// The request waits from now on: for this start, or for a slot.
    pub fn waits(
        &mut self,
        tracer: &WorkerTracer,
        place: Option<QueuePlace>,
        start: Option<&Arc<ColdStart>>,
    ) {
        if self.waits.len() >= MOST_STEPS {
            self.more = self.more.saturating_add(1);
            return;
        }
        let start = start.map(|start| tracer.start_context(start, self.trace, self.span));
        self.waits.push(Wait {
            span: tracer.dice.span_id(),
            from: Instant::now(),
            to: None,
            place,
            start,
        });
    }

    /// The request waits no longer.
    pub fn goes_on(&mut self) {
        if let Some(wait) = self.waits.last_mut()
            && wait.to.is_none()
        {
            wait.to = Some(Instant::now());
        }
    }

    /// The request goes to this endpoint, which is told of the trace.
    pub fn attempt(&mut self, tracer: &WorkerTracer, endpoint: Endpoint, headers: &mut HeaderMap) {
        let span = tracer.dice.span_id();
        pass_on(headers, self.form, self.trace, span, true);
        if self.attempts.len() >= MOST_STEPS {
            self.more = self.more.saturating_add(1);
            // The last one counts: whatever comes is its.
            self.attempts.pop();
        }
        self.attempts.push(Attempt {
            span,
            from: Instant::now(),
            connected: None,
            to: None,
            endpoint,
            status: None,
            failure: None,
        });
    }

    /// The attempt had a connection.
    pub fn connected(&mut self, at: Instant) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.connected = Some(at);
        }
    }

    /// The attempt brought no answer.
    pub fn failed(&mut self, kind: &'static str, error: &str) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.to = Some(Instant::now());
            attempt.failure = Some((kind, cut(error)));
        }
    }

    /// An endpoint answers.
    pub fn answered(&mut self, status: StatusCode) {
        self.answered = Some(Instant::now());
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status);
        }
    }

    /// Of how many spans it will consist.
    pub(super) fn spans(&self) -> usize {
        1 + self.waits.len() + self.attempts.len() + usize::from(self.answered.is_some())
    }
}

impl Head {
    fn of(head: &Parts) -> Self {
        let host = head.uri.host().map(cut);
        Self {
            method: head.method.clone(),
            version: head.version,
            scheme: text(&head.headers, "x-forwarded-proto").or(head.uri.scheme_str().map(cut)),
            host: host.or_else(|| text(&head.headers, header::HOST)),
            path: cut(head.uri.path()),
            client: text(&head.headers, "x-forwarded-for")
                .and_then(|all| Some(all.split(',').next()?.trim().into())),
            user_agent: text(&head.headers, header::USER_AGENT),
        }
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<Box<str>> {
    Some(cut(headers.get(name)?.to_str().ok()?))
}

fn cut(text: &str) -> Box<str> {
    let end = (0..=TEXT_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default())
        .unwrap_or_default()
        .into()
}
