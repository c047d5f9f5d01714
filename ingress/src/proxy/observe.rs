//! What is written down about each request when it ends: counters, a duration, a line of the access log, one of the
//! request log.
//!
//! Every worker counts for itself; the admin adds the workers up when it is asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use parkway_activator::cold_start::{ColdStart, Milestone, Seen};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{RevisionId, RevisionMap};
use parkway_activator::throttler::Ticket;
use tokio::time::Instant;
use tracing::info;

use super::destination::Destination;
use super::request_log::Pending;
use super::send::SendError;
use crate::routing::retry::Reason;
use crate::trace::{End, Passing, Recording, WorkerTracer};

/// Upper bounds of the duration buckets in seconds, as Knative's histograms have them.
///
/// Source: knative/serving `pkg/metrics`, the explicit bounds of Knative-defined durations.
pub const DURATION_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// All counts about requests, one shard per worker.
#[derive(Clone, Debug)]
pub struct RequestCounts(Arc<[Shard]>);

/// On a cache line of its own: only its worker writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_revision: RevisionMap<Counts>,
    unrouted: Counts,
}

/// What is known of the requests of one Revision, or of those that reached none.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests by status, in order of first sight; at most a few dozen.
    pub by_status: Vec<(u16, u64)>,
    /// Requests whose response did not reach its end: the client left, the endpoint broke off, a timeout.
    pub aborted: u64,
    /// Requests that had to wait for an endpoint.
    pub parked: u64,
    /// Requests that were sent again at least once.
    pub retried: u64,
    /// Times a request was sent again, by the number of its [`Reason`].
    pub retries: [u64; Reason::ALL.len()],
    /// Informational responses of endpoints that ended here: all but 100 and 101.
    pub informational: u64,
    /// Response body bytes.
    pub response_bytes: u64,
    /// Requests by duration; the last bucket has no upper bound.
    pub durations: [u64; DURATION_BOUNDS.len() + 1],
    /// All durations together.
    pub seconds: f64,
}

impl RequestCounts {
    /// Counts for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Shard::default()).collect())
    }

    /// The counts of all workers together.
    pub fn total(&self) -> HashMap<Option<RevisionId>, Counts> {
        let mut total: HashMap<Option<RevisionId>, Counts> = HashMap::new();
        for shard in &*self.0 {
            let shard = shard.0.lock();
            total.entry(None).or_default().add(&shard.unrouted);
            for (revision, counts) in &shard.by_revision {
                total.entry(Some(revision.clone())).or_default().add(counts);
            }
        }
        total
    }

    /// Forgets Revisions that are gone, so that the table is bounded by what is configured.
    pub fn retain(&self, mut keep: impl FnMut(&RevisionId) -> bool) {
        for shard in &*self.0 {
            shard
                .0
                .lock()
                .by_revision
                .retain(|revision, _| keep(revision));
        }
    }

    /// The part of worker `index`, which traces like this.
    pub fn of_worker(&self, index: usize, tracer: WorkerTracer) -> WorkerCounts {
        WorkerCounts {
            all: self.clone(),
            index,
            tracer,
        }
    }
}

/// The counts that one worker writes, and how it traces.
#[derive(Debug)]
pub struct WorkerCounts {
    all: RequestCounts,
    index: usize,
    tracer: WorkerTracer,
}

impl WorkerCounts {
    fn record(&self, observation: &Observation) {
        let Some(shard) = self.all.0.get(self.index) else {
            return;
        };
        let took = observation.arrived.elapsed();
        let revision = observation
            .destination
            .as_ref()
            .map(|destination| &destination.id);
        let mut shard = shard.0.lock();
        let Some(id) = revision else {
            return shard.unrouted.record(observation, took);
        };
        // Looked up without cloning the key: the clone would write a count that all workers share.
        match shard.by_revision.get_mut(id) {
            Some(counts) => counts.record(observation, took),
            None => shard
                .by_revision
                .entry(id.clone())
                .or_default()
                .record(observation, took),
        }
    }
}

impl WorkerCounts {
    /// Counts another attempt at once: rare, and so it takes no room in each request.
    fn retried(&self, revision: &RevisionId, reason: Reason) {
        let Some(shard) = self.all.0.get(self.index) else {
            return;
        };
        let mut shard = shard.0.lock();
        let counts = shard.by_revision.entry(revision.clone()).or_default();
        if let Some(count) = counts.retries.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

impl WorkerCounts {
    /// Counts an informational response at once, for the same reason.
    fn informational(&self, revision: &RevisionId) {
        let Some(shard) = self.all.0.get(self.index) else {
            return;
        };
        let mut shard = shard.0.lock();
        let counts = shard.by_revision.entry(revision.clone()).or_default();
        counts.informational += 1;
    }
}

impl Counts {
    fn record(&mut self, observation: &Observation, took: Duration) {
        let status = observation.status.map_or(0, |status| status.as_u16());
        match self
            .by_status
            .iter_mut()
            .find(|(known, _)| *known == status)
        {
            Some((_, count)) => *count += 1,
            None => self.by_status.push((status, 1)),
        }
        self.aborted += u64::from(!observation.is_ended);
        self.parked += u64::from(observation.was_parked);
        self.retried += u64::from(observation.attempts > 1);
        self.response_bytes += observation.response_bytes;
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(DURATION_BOUNDS.len());
        if let Some(count) = self.durations.get_mut(bucket) {
            *count += 1;
        }
        self.seconds += seconds;
    }

    fn add(&mut self, other: &Self) {
        for (status, count) in &other.by_status {
            match self.by_status.iter_mut().find(|(known, _)| known == status) {
                Some((_, total)) => *total += count,
                None => self.by_status.push((*status, *count)),
            }
        }
        self.aborted += other.aborted;
        self.parked += other.parked;
        self.retried += other.retried;
        for (total, count) in self.retries.iter_mut().zip(other.retries) {
            *total += count;
        }
        self.informational += other.informational;
        self.response_bytes += other.response_bytes;
        for (total, count) in self.durations.iter_mut().zip(other.durations) {
            *total += count;
        }
        self.seconds += other.seconds;
    }
}

/// One request, from its head to its end; its drop writes it down.
#[derive(Debug)]
pub struct Observation {
    counts: Rc<WorkerCounts>,
    lines: Option<Box<Lines>>,
    destination: Option<Rc<Destination>>,
    /// The start it waited for first.
    start: Option<Arc<ColdStart>>,
    passing: Passing,
    arrived: Instant,
    status: Option<StatusCode>,
    attempts: u32,
    response_bytes: u64,
    was_parked: bool,
    is_answered: bool,
    is_ended: bool,
    has_timed_out: bool,
}

/// What tells of the request, as far as it is known: lines, the recording of its trace, and what they need besides figures.
#[derive(Debug, Default)]
struct Lines {
    access: Option<Access>,
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

/// What the access log says of a head.
#[derive(Debug)]
struct Access {
    method: Method,
    host: String,
    path: String,
}

impl Observation {
    /// A request that arrived at `arrived`.
    pub fn new(counts: Rc<WorkerCounts>, arrived: Instant) -> Self {
        Self {
            counts,
            lines: None,
            destination: None,
            start: None,
            passing: Passing::Nothing,
            arrived,
            status: None,
            attempts: 0,
            response_bytes: 0,
            was_parked: false,
            is_answered: false,
            is_ended: false,
            has_timed_out: false,
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

    /// Notes what the access log shows.
    pub fn log(&mut self, method: &Method, host: &str, path: &str) {
        self.lines().access = Some(Access {
            method: method.clone(),
            host: host.to_owned(),
            path: path.to_owned(),
        });
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
        self.was_parked = true;
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
    pub fn answered(&mut self, status: StatusCode) {
        self.status(status);
        self.is_answered = true;
        if let Some(start) = &self.start {
            start.saw(Seen::new(Milestone::FirstByte, Instant::now()));
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
        self.attempts += 1;
        if let Some(lines) = &mut self.lines
            && let Some(recording) = &mut lines.recording
        {
            recording.attempt(&self.counts.tracer, endpoint, headers);
        }
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

    /// The response reached its end.
    pub fn ended(&mut self) {
        self.is_ended = true;
        if let Some(start) = &self.start
            && self.is_answered
        {
            start.saw(Seen::new(Milestone::Finished, Instant::now()));
        }
    }

    /// A timeout cut the response.
    pub fn timed_out(&mut self) {
        self.has_timed_out = true;
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.counts.record(self);
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
            is_whole: self.is_ended,
            has_timed_out: self.has_timed_out,
        };
        self.counts.tracer.end(recording, end);
    }

    fn write(&self, lines: Lines) {
        let took = self.arrived.elapsed();
        let retries = lines.told_retries();
        if let (Some(line), Some(destination)) = (lines.request, &self.destination)
            && destination.stats.is_some()
        {
            line.end(destination, self.status, self.response_bytes, took);
        }
        let Some(access) = lines.access else { return };
        info!(
            target: "parkway::access",
            method = %access.method,
            host = %access.host,
            path = %access.path,
            status = self.status.map_or(0, |status| status.as_u16()),
            revision = self.destination.as_ref().map(|destination| tracing::field::display(&destination.id)),
            bytes = self.response_bytes,
            attempts = self.attempts,
            retries,
            parked_ms = u64::try_from(lines.parked.as_millis()).unwrap_or(u64::MAX),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ended = self.is_ended,
            timed_out = self.has_timed_out,
            "request"
        );
    }
}
