//! What is counted about requests, for the operator.
//!
//! Every worker counts for itself; the admin adds the workers up when it is asked. What there is to count is bounded by
//! what is configured: nothing that a client chooses makes a new entry, except within [`MOST_KINDS`].

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use parkway_activator::revision::{RevisionId, RevisionMap};

use super::access_log::AccessLog;
use crate::routing::retry::Reason;
use crate::trace::WorkerTracer;

mod spread;
mod starts;

pub use self::spread::Spread;
pub use self::starts::{PHASE_BUCKETS, StartCounts, StartOfRevision};

/// Upper bounds of the duration buckets in seconds, as Knative's histograms have them.
///
/// Source: knative/serving `pkg/metrics`, the explicit bounds of Knative-defined durations; they are those of
/// OpenTelemetry's semantic conventions for HTTP, too.
pub const DURATION_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Upper bounds of the size buckets in bytes: those of OpenTelemetry's SDK, which Go's `otelhttp` leaves as they are.
///
/// Source: open-telemetry/opentelemetry-specification `specification/metrics/sdk.md`, explicit bucket histograms.
pub const SIZE_BOUNDS: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// Durations by bucket.
pub type Durations = Spread<{ DURATION_BOUNDS.len() + 1 }>;
/// Sizes by bucket.
pub type Sizes = Spread<{ SIZE_BOUNDS.len() + 1 }>;

/// So many kinds of requests are told apart for each Revision; further ones are counted together as [`Kind::OTHER`].
pub const MOST_KINDS: usize = 64;

/// Methods that metrics name (RFC 9110 section 9, RFC 5789); others are `_OTHER`, as the semantic conventions have it.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// A method as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MethodName(u8);

impl MethodName {
    /// None of those that are named.
    pub const OTHER: Self = Self(u8::MAX);

    /// The name of this one.
    pub fn of(method: &Method) -> Self {
        let known = METHODS.iter().position(|name| *name == method.as_str());
        let index = known.and_then(|index| u8::try_from(index).ok());
        index.map_or(Self::OTHER, Self)
    }

    /// As a label has it.
    pub fn as_str(self) -> &'static str {
        METHODS.get(usize::from(self.0)).unwrap_or(&"_OTHER")
    }
}

impl Default for MethodName {
    fn default() -> Self {
        Self::OTHER
    }
}

/// What requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// What was asked.
    pub method: MethodName,
    /// Whether by TLS.
    pub is_tls: bool,
    /// What was answered; 0: the client left before that.
    pub status: u16,
}

impl Kind {
    /// All that come when there are too many.
    pub const OTHER: Self = Self {
        method: MethodName::OTHER,
        is_tls: false,
        status: 0,
    };
}

/// Requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct OfKind {
    /// From the head to the end of the response, in seconds; how many there are is how many requests there were.
    pub durations: Durations,
    /// Request bodies, as far as they were read when the response ended.
    pub received: Sizes,
    /// Response bodies.
    pub sent: Sizes,
}

/// All counts about requests, one shard per worker. Clones are the same.
#[derive(Clone, Debug)]
pub struct RequestCounts {
    shards: Arc<[Shard]>,
    starts: Arc<StartCounts>,
}

/// On cache lines of its own: only its worker writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    table: Mutex<Table>,
    load: Load,
}

#[derive(Debug, Default)]
struct Table {
    by_revision: RevisionMap<Counts>,
    unrouted: Counts,
}

/// What a worker has to do, as it says every few seconds.
#[derive(Debug, Default)]
struct Load {
    connections: AtomicU64,
    cpu_micros: AtomicU64,
    budget: AtomicU64,
}

/// What a worker has to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerLoad {
    /// Client connections.
    pub connections: u64,
    /// Processor time it has used.
    pub cpu: Duration,
    /// So many requests it may send again.
    pub budget: u64,
}

/// What is known of the requests of one Revision, or of those that reached none.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests by kind, in order of first sight; at most [`MOST_KINDS`], and [`Kind::OTHER`].
    pub kinds: Vec<(Kind, OfKind)>,
    /// Attempts that were answered, in seconds from their beginning to the response's head, by method and status.
    pub attempts: Vec<(Kind, Durations)>,
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
    /// Browsers that were shown a page instead of being kept waiting.
    pub pages: u64,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) kind: Kind,
    pub(super) took: Duration,
    /// Of the last attempt, if it was answered.
    pub(super) attempt: Option<Duration>,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) is_whole: bool,
    pub(super) was_parked: bool,
    pub(super) was_retried: bool,
    pub(super) was_shown_a_page: bool,
}

impl RequestCounts {
    /// Counts for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            starts: Arc::default(),
        }
    }

    /// The counts of all workers together.
    pub fn total(&self) -> HashMap<Option<RevisionId>, Counts> {
        let mut total: HashMap<Option<RevisionId>, Counts> = HashMap::new();
        for shard in &*self.shards {
            let table = shard.table.lock();
            total.entry(None).or_default().add(&table.unrouted);
            for (revision, counts) in &table.by_revision {
                total.entry(Some(revision.clone())).or_default().add(counts);
            }
        }
        total
    }

    /// What each worker has to do, and how many requests of its have ended.
    pub fn loads(&self) -> Vec<(WorkerLoad, u64)> {
        let of = |shard: &Shard| {
            let load = WorkerLoad {
                connections: shard.load.connections.load(Ordering::Relaxed),
                cpu: Duration::from_micros(shard.load.cpu_micros.load(Ordering::Relaxed)),
                budget: shard.load.budget.load(Ordering::Relaxed),
            };
            let table = shard.table.lock();
            let all = table.by_revision.values().chain([&table.unrouted]);
            (load, all.map(Counts::requests).sum())
        };
        self.shards.iter().map(of).collect()
    }

    /// Cold starts that are over.
    pub fn starts(&self) -> &StartCounts {
        &self.starts
    }

    /// Forgets Revisions that are gone, so that the table is bounded by what is configured.
    pub fn retain(&self, mut keep: impl FnMut(&RevisionId) -> bool) {
        for shard in &*self.shards {
            let mut table = shard.table.lock();
            table.by_revision.retain(|revision, _| keep(revision));
        }
        self.starts.retain(keep);
    }

    /// The part of worker `index`, which traces like this.
    pub fn of_worker(&self, index: usize, tracer: WorkerTracer) -> WorkerCounts {
        WorkerCounts {
            all: self.clone(),
            index,
            tracer,
            tells_starts: false,
            access_log: AccessLog::default(),
            due: Cell::new(0),
        }
    }
}

/// A line of the access log, in parts; the smallest share is one of them.
const WHOLE: u32 = 1_000_000_000;

/// The counts that one worker writes, and how it traces.
#[derive(Debug)]
pub struct WorkerCounts {
    all: RequestCounts,
    index: usize,
    pub(super) tracer: WorkerTracer,
    pub(super) tells_starts: bool,
    pub(super) access_log: AccessLog,
    /// How much of a line of the access log's share is due, in parts of [`WHOLE`].
    due: Cell<u32>,
}

impl WorkerCounts {
    /// Whether answers say what a cold start has cost them. Default: they do not.
    #[must_use]
    pub fn telling_starts(mut self, tells: bool) -> Self {
        self.tells_starts = tells;
        self
    }

    /// Writes requests down here. Default: nowhere.
    #[must_use]
    pub fn logging(mut self, access_log: AccessLog) -> Self {
        self.access_log = access_log;
        self
    }

    /// Whether the next request is one of this share: evenly spread, so that nothing is drawn.
    pub(super) fn draws(&self, share: f64) -> bool {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share is above 0 and at most 1"
        )]
        let parts = (share * f64::from(WHOLE)).ceil() as u32;
        let due = self.due.get() + parts;
        self.due.set(due % WHOLE);
        due >= WHOLE
    }

    /// Says what this worker has to do.
    pub fn publish(&self, load: WorkerLoad) {
        let Some(shard) = self.all.shards.get(self.index) else {
            return;
        };
        let cpu = u64::try_from(load.cpu.as_micros()).unwrap_or(u64::MAX);
        shard
            .load
            .connections
            .store(load.connections, Ordering::Relaxed);
        shard.load.cpu_micros.store(cpu, Ordering::Relaxed);
        shard.load.budget.store(load.budget, Ordering::Relaxed);
    }

    pub(super) fn record(&self, revision: Option<&RevisionId>, ended: &Ended) {
        let Some(shard) = self.all.shards.get(self.index) else {
            return;
        };
        let mut table = shard.table.lock();
        let Some(id) = revision else {
            return table.unrouted.record(ended);
        };
        // Looked up without cloning the key: the clone would write a count that all workers share.
        match table.by_revision.get_mut(id) {
            Some(counts) => counts.record(ended),
            None => table
                .by_revision
                .entry(id.clone())
                .or_default()
                .record(ended),
        }
    }

    /// Counts another attempt at once: rare, and so it takes no room in each request.
    pub(super) fn retried(&self, revision: &RevisionId, reason: Reason) {
        let Some(shard) = self.all.shards.get(self.index) else {
            return;
        };
        let mut table = shard.table.lock();
        let counts = table.by_revision.entry(revision.clone()).or_default();
        if let Some(count) = counts.retries.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// Counts an informational response at once, for the same reason.
    pub(super) fn informational(&self, revision: &RevisionId) {
        let Some(shard) = self.all.shards.get(self.index) else {
            return;
        };
        let mut table = shard.table.lock();
        let counts = table.by_revision.entry(revision.clone()).or_default();
        counts.informational += 1;
    }
}

impl Counts {
    /// How many requests have ended.
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|(_, of)| of.durations.count()).sum()
    }

    /// Requests by status.
    pub fn by_status(&self) -> BTreeMap<u16, u64> {
        let mut by_status = BTreeMap::new();
        for (kind, of) in &self.kinds {
            *by_status.entry(kind.status).or_default() += of.durations.count();
        }
        by_status
    }

    fn record(&mut self, ended: &Ended) {
        let of = of_kind(&mut self.kinds, ended.kind);
        of.durations.add(ended.took.as_secs_f64(), &DURATION_BOUNDS);
        of.received.add(size(ended.received), &SIZE_BOUNDS);
        of.sent.add(size(ended.sent), &SIZE_BOUNDS);
        if let Some(attempt) = ended.attempt {
            let kind = Kind {
                is_tls: false,
                ..ended.kind
            };
            of_kind(&mut self.attempts, kind).add(attempt.as_secs_f64(), &DURATION_BOUNDS);
        }
        self.aborted += u64::from(!ended.is_whole);
        self.parked += u64::from(ended.was_parked);
        self.retried += u64::from(ended.was_retried);
        self.pages += u64::from(ended.was_shown_a_page);
        self.response_bytes += ended.sent;
    }

    fn add(&mut self, other: &Self) {
        for (kind, more) in &other.kinds {
            let of = of_kind(&mut self.kinds, *kind);
            of.durations.merge(&more.durations);
            of.received.merge(&more.received);
            of.sent.merge(&more.sent);
        }
        for (kind, more) in &other.attempts {
            of_kind(&mut self.attempts, *kind).merge(more);
        }
        self.aborted += other.aborted;
        self.parked += other.parked;
        self.retried += other.retried;
        for (total, count) in self.retries.iter_mut().zip(other.retries) {
            *total += count;
        }
        self.informational += other.informational;
        self.response_bytes += other.response_bytes;
        self.pages += other.pages;
    }
}

/// The entry of a kind; that of all others when there are too many.
fn of_kind<T: Default>(known: &mut Vec<(Kind, T)>, kind: Kind) -> &mut T {
    let find = |known: &[(Kind, T)], kind| known.iter().position(|(one, _)| *one == kind);
    let index = match find(known, kind) {
        Some(index) => index,
        None => {
            let kind = match known.len() < MOST_KINDS {
                true => kind,
                false => Kind::OTHER,
            };
            find(known, kind).unwrap_or_else(|| {
                known.push((kind, T::default()));
                known.len() - 1
            })
        }
    };
    &mut known[index].1
}

#[expect(clippy::cast_precision_loss, reason = "a size in a histogram")]
fn size(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(kind: Kind) -> Ended {
        Ended {
            kind,
            took: Duration::from_millis(20),
            attempt: None,
            received: 7,
            sent: 70_000,
            is_whole: true,
            was_parked: false,
            was_retried: false,
            was_shown_a_page: false,
        }
    }

    #[test]
    fn methods_that_clients_invent_are_one() {
        let name = |text: &str| MethodName::of(&text.parse().unwrap()).as_str();
        assert_eq!(name("GET"), "GET");
        assert_eq!(name("PATCH"), "PATCH");
        assert_eq!(name("FROBNICATE"), "_OTHER");
    }

    #[test]
    fn there_are_no_more_kinds_than_are_allowed_and_no_request_is_missing() {
        let mut counts = Counts::default();
        let method = MethodName::of(&Method::GET);
        for status in 100..600 {
            counts.record(&ended(Kind {
                method,
                is_tls: false,
                status,
            }));
        }
        assert_eq!(counts.kinds.len(), MOST_KINDS + 1);
        assert_eq!(counts.requests(), 500);
        let others = counts.kinds.iter().find(|(kind, _)| *kind == Kind::OTHER);
        assert_eq!(others.unwrap().1.durations.count(), 436);
    }

    #[test]
    fn workers_are_added_up() {
        let mut total = Counts::default();
        let mut one = Counts::default();
        one.record(&ended(Kind::OTHER));
        total.add(&one);
        total.add(&one);
        let (_, of) = &total.kinds[0];
        assert_eq!(of.durations.count(), 2);
        assert_eq!(of.received.counts()[2], 2, "7 bytes: up to 10");
        assert_eq!(of.sent.counts().last(), Some(&2));
        assert!((of.sent.sum() - 140_000.0).abs() < f64::EPSILON);
    }
}
