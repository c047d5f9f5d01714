//! What is written down about each request when it ends: counters, a duration, a line of the access log, one of the
//! request log.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parkway_activator::cold_start::{ColdStart, Milestone, Seen};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::Ticket;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::access_log::{Begun, Logged};
use super::counts::{Ended, Kind, MethodName};
pub use super::counts::{RequestCounts, WorkerCounts};
use super::destination::Destination;
use super::request_log::{self, Pending};
use super::send::SendError;
use crate::routing::retry::Reason;
use crate::trace::{End, Passing, Recording};

/// One request, from its head to its end; its drop writes it down.
#[derive(Debug)]
pub struct Observation {
    counts: Rc<WorkerCounts>,
    lines: Option<Box<Lines>>,
    destination: Option<Rc<Destination>>,
    /// The start it waited for first.
    start: Option<Arc<ColdStart>>,
    passing: Passing,
    marks: Marks,
    method: MethodName,
    /// Stops at the greatest number.
    attempts: u16,
    status: Option<StatusCode>,
    arrived: Instant,
    response_bytes: u64,
    /// Of the request's body; stops at the greatest number.
    received: u32,
    /// Of the last attempt, in microseconds: its beginning since the arrival, and when it is answered, how long that took.
    attempt_micros: u32,
}

/// What is so and what is not: bits, because many requests wait at once.
#[derive(Clone, Copy, Debug, Default)]
struct Marks(u8);

impl Marks {
    const PARKED: u8 = 1;
    const ANSWERED: u8 = 1 << 1;
    const ENDED: u8 = 1 << 2;
    const TIMED_OUT: u8 = 1 << 3;
    const TLS: u8 = 1 << 4;
    /// A browser was shown a page.
    const PAGE: u8 = 1 << 5;
    /// The access log's sample left it out.
    const NOT_DRAWN: u8 = 1 << 6;

    fn set(&mut self, mark: u8) {
        self.0 |= mark;
    }

    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }
}

/// What tells of the request, as far as it is known: lines, the recording of its trace, and what they need besides figures.
#[derive(Debug, Default)]
struct Lines {
    access: Option<Begun>,
    request: Option<Pending>,
    recording: Option<Box<Recording>>,
    parked: Duration,
    /// Why it was sent again, each time, up to [`MOST_REASONS`].
    retries: Vec<Reason>,
    /// Since when it waits, while it does.
    waits_since: Option<Instant>,
}

/// So many reasons the access log tells of one request.
const MOST_REASONS: usize = 16;

impl Observation {
    /// A request that arrived at `arrived`.
    pub fn new(counts: Rc<WorkerCounts>, arrived: Instant) -> Self {
        Self {
            counts,
            lines: None,
            destination: None,
            start: None,
            passing: Passing::Nothing,
            marks: Marks::default(),
            method: MethodName::OTHER,
            attempts: 0,
            status: None,
            arrived,
            response_bytes: 0,
            received: 0,
            attempt_micros: 0,
        }
    }

    /// Notes what its head asks, and whether that came by TLS.
    pub fn asks(&mut self, head: &Parts, is_tls: bool) {
        self.method = MethodName::of(&head.method);
        if is_tls {
            self.marks.set(Marks::TLS);
        }
    }

    /// Looks at the head for the trace the request belongs to, if anybody wants to know. `client`: who asks.
    pub fn trace(&mut self, head: &mut Parts, client: IpAddr) {
        let (passing, recording) = self.counts.tracer.begin(head, self.arrived);
        self.passing = passing;
        if let Some(mut recording) = recording {
            recording.from_client(client);
            self.lines().recording = Some(recording);
        }
    }

    /// Nobody wants to know of it: a probe.
    pub fn forget_trace(&mut self) {
        self.passing = Passing::Nothing;
        if let Some(lines) = &mut self.lines {
            lines.recording = None;
        }
    }

    fn recording(&mut self) -> Option<&mut Recording> {
        self.lines.as_mut()?.recording.as_deref_mut()
    }

    /// Notes what the access log shows, if this request is to be written down as far as can be said yet.
    pub fn log(&mut self, head: &Parts, remote: SocketAddr, tls: Option<&dyn fmt::Display>) {
        let is_noted = match self.counts.access_log.logged() {
            Logged::Off => return,
            Logged::Errors => true,
            Logged::Share(share) => self.counts.draws(share),
        };
        if is_noted {
            let begun = self.counts.access_log.begin(head, remote, tls);
            self.lines().access = begun;
        } else {
            self.marks.set(Marks::NOT_DRAWN);
        }
    }

    /// A request that waits is written down, whether or not it was drawn.
    pub fn log_parked(&mut self, head: &Parts, remote: SocketAddr, tls: Option<&dyn fmt::Display>) {
        if self.marks.has(Marks::NOT_DRAWN) && self.lines().access.is_none() {
            let begun = self.counts.access_log.begin(head, remote, tls);
            self.lines().access = begun;
        }
    }

    /// The line of the request log; it is written if the request turns out to be for a Revision.
    pub fn log_request(&mut self, line: Pending) {
        self.lines().request = Some(line);
    }

    fn lines(&mut self) -> &mut Lines {
        self.lines.get_or_insert_default()
    }

    /// The request is for this destination.
    pub fn destination(&mut self, destination: &Rc<Destination>) {
        self.destination = Some(Rc::clone(destination));
    }

    /// Whose endpoints the request is for, if that is known.
    pub fn revision(&self) -> Option<&RevisionId> {
        self.destination.as_ref().map(|destination| &destination.id)
    }

    /// When it arrived.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The request had to wait for an endpoint, and does so from now on.
    pub fn has_parked(&mut self) {
        self.marks.set(Marks::PARKED);
        self.waits();
    }

    /// The request has this place in a queue from now on.
    pub fn waits_for(&mut self, ticket: &Ticket, head: &Parts) {
        let start = ticket.start();
        if self.start.is_none() {
            self.start = start.map(Arc::clone);
        }
        let tracer = &self.counts.tracer;
        if let Some(recording) = tracer.keep(self.passing, head, self.arrived) {
            self.passing = Passing::Nothing;
            self.lines.get_or_insert_default().recording = Some(recording);
        }
        let tracer = &self.counts.tracer;
        if let Some(lines) = &mut self.lines
            && let Some(recording) = &mut lines.recording
        {
            recording.waits(tracer, Some(ticket.place()), start);
        }
    }

    /// Whether it matters when an attempt had a connection.
    pub fn follows_attempts(&self) -> bool {
        let is_kept = |lines: &Lines| lines.recording.is_some();
        self.start.is_some() || self.lines.as_deref().is_some_and(is_kept)
    }

    /// An attempt had a connection at that moment, or none.
    pub fn connected(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return };
        if let Some(start) = &self.start {
            start.saw(Seen::new(Milestone::Connected, at));
        }
        if let Some(recording) = self.recording() {
            recording.connected(at);
        }
    }

    /// An endpoint answers.
    pub fn answered(&mut self, status: StatusCode, now: Instant) {
        self.status(status);
        self.marks.set(Marks::ANSWERED);
        self.attempt_micros = self.since_arrival(now).saturating_sub(self.attempt_micros);
        if let Some(start) = &self.start {
            start.saw(Seen::new(Milestone::FirstByte, now));
        }
        if let Some(recording) = self.recording() {
            recording.answered(status);
        }
    }

    /// The request waits from now on.
    pub fn waits(&mut self) {
        if let Some(log) = &mut self.lines {
            log.waits_since = Some(Instant::now());
        }
    }

    /// The request waits no longer.
    pub fn goes_on(&mut self) {
        let Some(lines) = &mut self.lines else { return };
        if let Some(since) = lines.waits_since.take() {
            lines.parked += since.elapsed();
        }
        if let Some(recording) = &mut lines.recording {
            recording.goes_on();
        }
    }

    /// The request is sent to an endpoint, perhaps once more.
    pub fn attempt(&mut self, endpoint: Endpoint, headers: &mut HeaderMap) {
        // The first one of a request that did not wait begins with it: the clock is not asked.
        if self.attempts > 0 || self.marks.has(Marks::PARKED) {
            self.attempt_micros = self.since_arrival(Instant::now());
        }
        self.attempts = self.attempts.saturating_add(1);
        if let Some(lines) = &mut self.lines
            && let Some(recording) = &mut lines.recording
        {
            recording.attempt(&self.counts.tracer, endpoint, headers);
        }
    }

    fn since_arrival(&self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.arrived).as_micros();
        u32::try_from(micros).unwrap_or(u32::MAX)
    }

    /// The attempt brought no answer.
    pub fn attempt_failed(&mut self, error: &SendError) {
        if let Some(recording) = self.recording() {
            recording.failed(error.reason().label(), &error.to_string());
        }
    }

    /// The endpoint has sent an informational response that nobody gets.
    pub fn informational(&self) {
        if let Some(destination) = &self.destination {
            self.counts.informational(&destination.id);
        }
    }

    /// The request is about to be sent again.
    pub fn retried(&mut self, reason: Reason) {
        if let Some(destination) = &self.destination {
            self.counts.retried(&destination.id, reason);
        }
        if let Some(lines) = &mut self.lines
            && lines.retries.len() < MOST_REASONS
        {
            lines.retries.push(reason);
        }
    }

    /// The response's status.
    pub fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// So many bytes of the body went on.
    pub fn sent(&mut self, bytes: usize) {
        self.response_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// So many bytes of the request's body were read.
    pub fn received(&mut self, bytes: usize) {
        self.received = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// The answer is a page for people who wait.
    pub fn shows_a_page(&mut self) {
        self.marks.set(Marks::PAGE);
    }

    /// The start it waited for first.
    pub fn start(&self) -> Option<&Arc<ColdStart>> {
        self.start.as_ref()
    }

    /// Writes into an answer what the start has cost this request, if answers are to say so and there was one.
    pub fn tell_start(&self, answer: &mut HeaderMap) {
        let Some(start) = self.start.as_ref().filter(|_| self.counts.tells_starts) else {
            return;
        };
        let (timing, told) = start_fields(start, self.arrived);
        if let (Ok(timing), Ok(told)) = (HeaderValue::try_from(timing), HeaderValue::try_from(told))
        {
            answer.append(SERVER_TIMING, timing);
            answer.insert(COLD_START, told);
        }
    }

    /// The response reached its end.
    pub fn ended(&mut self) {
        self.marks.set(Marks::ENDED);
        if let Some(start) = &self.start
            && self.marks.has(Marks::ANSWERED)
        {
            start.saw(Seen::new(Milestone::Finished, Instant::now()));
        }
    }

    /// A timeout cut the response.
    pub fn timed_out(&mut self) {
        self.marks.set(Marks::TIMED_OUT);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let revision = self.destination.as_ref().map(|to| &to.id);
        self.counts.record(revision, &self.figures());
        if let Some(mut lines) = self.lines.take() {
            if let Some(recording) = lines.recording.take() {
                self.leave(recording);
            }
            self.write(*lines);
        }
    }
}

impl Lines {
    fn told_retries(&self) -> Option<String> {
        let reasons: Vec<_> = self.retries.iter().map(|reason| reason.label()).collect();
        (!reasons.is_empty()).then(|| reasons.join(","))
    }
}

impl Observation {
    fn leave(&self, recording: Box<Recording>) {
        let destination = self.destination.as_ref();
        let end = End {
            at: Instant::now(),
            revision: destination.map(|to| (to.id.clone(), Arc::clone(&to.spec))),
            status: self.status,
            bytes: self.response_bytes,
            is_whole: self.marks.has(Marks::ENDED),
            has_timed_out: self.marks.has(Marks::TIMED_OUT),
        };
        self.counts.tracer.end(recording, end);
    }

    fn code(&self) -> u16 {
        self.status.map_or(0, |status| status.as_u16())
    }

    fn figures(&self) -> Ended {
        let answered = self.marks.has(Marks::ANSWERED);
        Ended {
            kind: Kind {
                method: self.method,
                is_tls: self.marks.has(Marks::TLS),
                status: self.code(),
            },
            took: self.arrived.elapsed(),
            attempt: answered.then(|| Duration::from_micros(self.attempt_micros.into())),
            received: self.received.into(),
            sent: self.response_bytes,
            is_whole: self.marks.has(Marks::ENDED),
            was_parked: self.marks.has(Marks::PARKED),
            was_retried: self.attempts > 1,
            was_shown_a_page: self.marks.has(Marks::PAGE),
        }
    }

    fn write(&self, mut lines: Lines) {
        let took = self.arrived.elapsed();
        if let (Some(line), Some(destination)) = (lines.request.take(), &self.destination)
            && destination.stats.is_some()
        {
            line.end(destination, self.status, self.response_bytes, took);
        }
        let Some(access) = lines.access.take() else {
            return;
        };
        let is_error = self.code() >= 500 || !self.marks.has(Marks::ENDED);
        if self.counts.access_log.logged() == Logged::Errors && !is_error {
            return;
        }
        let ended = request_log::Ended {
            destination: self.destination.as_deref(),
            code: self.code(),
            size: self.response_bytes,
            took,
        };
        self.counts
            .access_log
            .end(access, &ended, || self.fields(&lines, took));
    }

    /// What a line of the access log says of how it went.
    fn fields(&self, lines: &Lines, took: Duration) -> Map<String, Value> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut fields = Map::new();
        let mut say = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        if let Some(destination) = &self.destination {
            say("revision", destination.id.to_string().into());
        }
        say("bytes", self.response_bytes.into());
        say("received_bytes", self.received.into());
        say("attempts", self.attempts.into());
        if let Some(retries) = lines.told_retries() {
            say("retries", retries.into());
        }
        say("parked_ms", millis(lines.parked).into());
        say("took_ms", millis(took).into());
        say("ended", self.marks.has(Marks::ENDED).into());
        say("timed_out", self.marks.has(Marks::TIMED_OUT).into());
        if self.marks.has(Marks::PAGE) {
            say("waiting_page", true.into());
        }
        if let Some(start) = &self.start {
            say("cold_start", start_of_line(start));
        }
        fields
    }
}

/// What a line says of the start its request waited for: which, how it stood when the request ended, and its phases.
fn start_of_line(start: &ColdStart) -> Value {
    let state = start.state(Instant::now());
    let mut phases = Map::new();
    for phase in &state.phases {
        let ms = rounded_ms(phase.duration());
        let before = phases.get(phase.name.as_str()).and_then(Value::as_f64);
        phases.insert(
            phase.name.as_str().to_owned(),
            json!(before.unwrap_or(0.0) + ms),
        );
    }
    json!({
        "number": state.number,
        "outcome": state.outcome.as_str(),
        "phases_ms": phases,
    })
}

fn rounded_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Source: W3C Server Timing, section 4 (the header field); phases become metrics named `cold-…`.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const COLD_START: HeaderName = HeaderName::from_static("x-parkway-cold-start");

/// `Server-Timing` with the phases as far as they have come, and a summary: which start, and how long this request waited.
fn start_fields(start: &ColdStart, arrived: Instant) -> (String, String) {
    let now = Instant::now();
    let state = start.state(now);
    let waited = rounded_ms(now.saturating_duration_since(arrived));
    let mut timing = format!("parkway;dur={waited}");
    for phase in &state.phases {
        let (name, ms) = (phase.name.as_str(), rounded_ms(phase.duration()));
        timing.push_str(&format!(", cold-{name};dur={ms}"));
    }
    let told = format!(
        "start={}, outcome={}, waited-ms={waited}, total-ms={}",
        state.number,
        state.outcome.as_str(),
        rounded_ms(state.total)
    );
    (timing, told)
}
