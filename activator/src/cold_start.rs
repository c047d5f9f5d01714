//! What happened in a cold start, and when: the record behind metrics, traces and the admin page.
//!
//! A start of a Revision is recorded once, however many requests wait for it: its [`Milestone`]s, each at the first
//! moment at which Parkway saw it, by Parkway's own clock. So the [`Phase`]s between them add up to the whole, whatever
//! other clocks say; what another one says of a milestone is kept beside it as its stamp. Between two milestones that
//! do not follow from one another, time is a gap and is called one.
//!
//! ```text
//!  arrived ─ parked ─ signalled ┬ scaled ─ spawned ────────────────────────────┬ probed ─ ready ─ released ─┐
//!                               └ created ─ scheduled ─ addressed ─ pulled ─ started ┘                      │
//!                                                   finished ─ first byte ─ connected ──────────────────────┘
//! ```
//!
//! The upper way is that of a local process, the lower one that of a Pod. What belongs to several (Pods of one start, or
//! the requests that waited) counts for the first of them, stage by stage.

mod log;
mod phases;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::revision::RevisionId;

pub use log::{ColdStarts, REMEMBERED};
pub use phases::{Phase, PhaseName};

/// How many characters of a failure or a detail are kept. What is longer is cut.
const TEXT_MAX: usize = 1_024;

/// A step of a start that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Milestone {
    /// The first request that waited came in.
    Arrived,
    /// It was parked.
    Parked,
    /// The autoscaler was told of it.
    Signalled,
    /// The embedded autoscaler asked for replicas.
    Scaled,
    /// A local process was started.
    Spawned,
    /// A Pod was there.
    Created,
    /// It had a node.
    Scheduled,
    /// It had a sandbox with an address.
    Addressed,
    /// Its images were there.
    Pulled,
    /// Its containers ran, all of them.
    Started,
    /// The replica was asked for the first time whether it serves.
    Probed,
    /// The first endpoint was ready.
    Ready,
    /// The first request was let go.
    Released,
    /// The first of them had a connection.
    Connected,
    /// The first response began.
    FirstByte,
    /// The first response ended.
    Finished,
}

impl Milestone {
    /// All of them, in the order in which they are expected.
    pub const ALL: [Self; 16] = [
        Self::Arrived,
        Self::Parked,
        Self::Signalled,
        Self::Scaled,
        Self::Spawned,
        Self::Created,
        Self::Scheduled,
        Self::Addressed,
        Self::Pulled,
        Self::Started,
        Self::Probed,
        Self::Ready,
        Self::Released,
        Self::Connected,
        Self::FirstByte,
        Self::Finished,
    ];

    /// The word for it, for output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Parked => "parked",
            Self::Signalled => "signalled",
            Self::Scaled => "scaled",
            Self::Spawned => "spawned",
            Self::Created => "created",
            Self::Scheduled => "scheduled",
            Self::Addressed => "addressed",
            Self::Pulled => "pulled",
            Self::Started => "started",
            Self::Probed => "probed",
            Self::Ready => "ready",
            Self::Released => "released",
            Self::Connected => "connected",
            Self::FirstByte => "firstByte",
            Self::Finished => "finished",
        }
    }

    fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// A milestone that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub milestone: Milestone,
    /// When Parkway saw it.
    pub at: Instant,
    /// When it happened as whoever did it says: whole seconds since 1970.
    pub stamp: Option<i64>,
    /// What is known besides: a Pod's name, a node's, a process's number.
    pub detail: Option<Arc<str>>,
}

impl Seen {
    /// Seen at this moment; nothing else is known.
    pub fn new(milestone: Milestone, at: Instant) -> Self {
        Self {
            milestone,
            at,
            stamp: None,
            detail: None,
        }
    }

    /// What is known besides.
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        self.detail = Some(cut(detail));
        self
    }

    /// When it happened as whoever did it says: whole seconds since 1970.
    #[must_use]
    pub fn with_stamp(mut self, stamp: i64) -> Self {
        self.stamp = Some(stamp);
        self
    }
}

/// What a start is called in a trace: the trace's number and the span's.
pub type Mark = [u8; 24];

/// How a start stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// No endpoint is ready yet.
    #[default]
    Starting,
    /// An endpoint is ready.
    Ready,
    /// It failed, because of this.
    Failed(Arc<str>),
    /// Nobody is interested any more: the Revision was deleted, or another start began long after.
    Abandoned,
}

impl Outcome {
    /// The word for it, for output.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Abandoned => "abandoned",
        }
    }

    /// Why it failed.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Starting | Self::Ready | Self::Abandoned => None,
        }
    }
}

/// One start of a Revision, as far as it has been seen. Written from all sides; its lock is held for no longer than a
/// few values take, and nothing else is locked meanwhile.
#[derive(Debug)]
pub struct ColdStart {
    number: u64,
    revision: RevisionId,
    arrived: Instant,
    /// The milestones that have been seen, a bit each: those who come later need no lock.
    seen: AtomicU32,
    waited: AtomicU64,
    most_parked: AtomicU64,
    story: Mutex<Story>,
    mark: OnceLock<Mark>,
    /// How many starts are under way, this one among them until it ends.
    under_way: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Story {
    seen: Vec<Seen>,
    outcome: Outcome,
    /// When it failed or was abandoned.
    ended: Option<Instant>,
    released: u64,
    last_released: Option<Instant>,
}

/// A start at a moment: plain values.
#[derive(Clone, Debug)]
pub struct ColdStartState {
    /// Counts the starts of this Parkway from 1.
    pub number: u64,
    /// Whose start it is.
    pub revision: RevisionId,
    /// When the first request that waited came in.
    pub arrived: Instant,
    /// How it stands.
    pub outcome: Outcome,
    /// Requests that parked before an endpoint was ready.
    pub waited: u64,
    /// The most that were parked at once meanwhile.
    pub most_parked: u64,
    /// How many of those that waited were let go.
    pub released: u64,
    /// When the last of them was.
    pub last_released: Option<Instant>,
    /// What was seen, in order of time.
    pub seen: Vec<Seen>,
    /// The time from the arrival to the end, or to the last milestone, or while it is starting to the moment of asking:
    /// without overlaps, and without holes.
    pub phases: Vec<Phase>,
    /// All of them together.
    pub total: Duration,
}

impl ColdStart {
    fn new(
        number: u64,
        revision: RevisionId,
        arrived: Instant,
        under_way: Arc<AtomicUsize>,
    ) -> Self {
        under_way.fetch_add(1, Ordering::Relaxed);
        let start = Self {
            number,
            revision,
            arrived,
            seen: AtomicU32::new(0),
            waited: AtomicU64::new(0),
            most_parked: AtomicU64::new(0),
            story: Mutex::default(),
            mark: OnceLock::new(),
            under_way,
        };
        start.saw(Seen::new(Milestone::Arrived, arrived));
        start
    }

    /// Counts the starts of this Parkway from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whose start it is.
    pub fn revision(&self) -> &RevisionId {
        &self.revision
    }

    /// When the first request that waited came in.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// What it is called where else it is told of. The first to ask names it.
    pub fn mark(&self, name: impl FnOnce() -> Mark) -> Mark {
        *self.mark.get_or_init(name)
    }

    /// Whether a milestone has been seen.
    pub fn has_seen(&self, milestone: Milestone) -> bool {
        self.seen.load(Ordering::Relaxed) & milestone.bit() != 0
    }

    /// A milestone was seen. Only the first time counts.
    pub fn saw(&self, seen: Seen) {
        if self.has_seen(seen.milestone) {
            return;
        }
        let mut story = self.story.lock();
        let bit = seen.milestone.bit();
        if self.seen.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            story.seen.push(seen);
        }
    }

    /// Whether neither an endpoint is ready nor the start has been given up.
    pub fn is_under_way(&self) -> bool {
        self.story.lock().outcome == Outcome::Starting
    }

    /// One more request waits; so many are parked now.
    pub(crate) fn parks(&self, parked: usize) {
        self.waited.fetch_add(1, Ordering::Relaxed);
        let parked = u64::try_from(parked).unwrap_or(u64::MAX);
        self.most_parked.fetch_max(parked, Ordering::Relaxed);
    }

    /// The first endpoint is ready.
    pub(crate) fn is_ready(&self, now: Instant) {
        self.saw(Seen::new(Milestone::Ready, now));
        self.ends(Outcome::Ready, None);
    }

    /// It has come to nothing.
    pub(crate) fn fails(&self, outcome: Outcome, now: Instant) {
        self.ends(outcome, Some(now));
    }

    fn ends(&self, outcome: Outcome, ended: Option<Instant>) {
        let mut story = self.story.lock();
        if story.outcome == Outcome::Starting {
            story.outcome = outcome;
            story.ended = ended;
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// So many that waited are let go.
    pub(crate) fn releases(&self, count: u64, now: Instant) {
        self.saw(Seen::new(Milestone::Released, now));
        let mut story = self.story.lock();
        story.released += count;
        story.last_released = Some(now);
    }

    /// How it stands.
    pub fn state(&self, now: Instant) -> ColdStartState {
        let story = self.story.lock();
        let mut seen = story.seen.clone();
        let (outcome, ended) = (story.outcome.clone(), story.ended);
        let (released, last_released) = (story.released, story.last_released);
        drop(story);
        seen.sort_by_key(|seen| (seen.at, seen.milestone));
        let until = match &outcome {
            Outcome::Starting => Some(now),
            Outcome::Ready => None,
            Outcome::Failed(_) | Outcome::Abandoned => ended,
        };
        let phases = phases::between(&seen, self.arrived, until);
        let end = phases.last().map_or(self.arrived, |last| last.to);
        ColdStartState {
            number: self.number,
            revision: self.revision.clone(),
            arrived: self.arrived,
            outcome,
            waited: self.waited.load(Ordering::Relaxed),
            most_parked: self.most_parked.load(Ordering::Relaxed),
            released,
            last_released,
            seen,
            phases,
            total: end.saturating_duration_since(self.arrived),
        }
    }
}

impl Drop for ColdStart {
    fn drop(&mut self) {
        if self.story.get_mut().outcome == Outcome::Starting {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Text of others, bounded.
pub(crate) fn cut(text: &str) -> Arc<str> {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.into(),
        Some((end, _)) => text.get(..end).unwrap_or_default().into(),
    }
}
