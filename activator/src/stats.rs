//! How many requests of each Revision are inside, over time: what an autoscaler scales on.
//!
//! A request is counted in by [`RevisionStats::enter`] and out when its [`InFlight`] is dropped; time spent parked
//! counts. Once a second the reporter asks [`Stats::report`] for the time-weighted mean concurrency and the arrivals
//! of the period that ended. A Revision that was idle announces its first request at once through [`Stats::poked`],
//! because a second is long in a cold start; the announcement stands for one request, which the next report leaves
//! out (or the report tells it and the announcement is withdrawn, when nobody has fetched it by then). Source: knative/serving `pkg/activator/handler/concurrency_reporter.go` and knative/networking
//! `pkg/http/stats/request.go`.
//!
//! ```text
//!            first arrival: poke                 a whole period with a mean of 0 and nobody inside:
//!   idle ───────────────────────────▶ active ─────────────────────────────────────────────────────▶ idle
//!  (silent)                    (one report a second)          its report of zeros is the last
//! ```
//!
//! Counting is sharded by worker: a warm request locks only its own worker's shard, in cache lines of its own; the
//! lock is contended once a second by the reporter. The rare steps between idle and active hold the Revision's
//! `period` lock. Order of locks: one `period`, then shards by index, or the pokes; `enter` never waits for another
//! lock while it holds its shard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::revision::RevisionId;

#[cfg(test)]
mod tests;

/// The accounts of all Revisions.
///
/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Stats {
    shared: Arc<Shared>,
}

/// What one Revision saw in the period that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whose report this is.
    pub revision: RevisionId,
    /// Time-weighted mean of the requests inside, less the one a poke has announced; never negative.
    pub concurrency: f64,
    /// Arrivals, less the one a poke has announced; never negative.
    pub requests: f64,
}

impl Stats {
    /// Accounts for requests that come in on `workers` threads; 0 counts as 1.
    pub fn new(workers: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                workers: workers.max(1),
                revisions: RwLock::default(),
                pokes: Arc::default(),
            }),
        }
    }

    /// The account of a Revision, made when it is not there yet.
    ///
    /// Takes the registry's lock: workers keep what they get, until it [is removed](RevisionStats::is_removed).
    pub fn revision(&self, id: &RevisionId) -> Arc<RevisionStats> {
        let known = self.shared.revisions.read().get(id).cloned();
        known.unwrap_or_else(|| self.create(id))
    }

    /// Forgets a Revision: no further report, no further poke.
    ///
    /// Requests still inside go on and count out of an account that nobody reads.
    pub fn remove(&self, id: &RevisionId) {
        let removed = self.shared.revisions.write().remove(id);
        if let Some(stats) = removed {
            stats.retire();
        }
    }

    /// Ends the period of every Revision that is not idle, in the order of their names.
    ///
    /// One caller, once a second: each call starts a new period.
    pub fn report(&self, now: Instant) -> Vec<Report> {
        let all = self.all();
        all.iter().filter_map(|stats| stats.report(now)).collect()
    }

    /// Waits until Revisions get their first request after having been idle, and names them, each once.
    ///
    /// One consumer. What waits to be fetched is bounded by the number of Revisions.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn poked(&self) -> Vec<RevisionId> {
        let pokes = &self.shared.pokes;
        loop {
            let waiting = mem::take(&mut *pokes.waiting.lock());
            if !waiting.is_empty() {
                return waiting.into_iter().collect();
            }
            // A poke between the look above and this wait has left its permit here.
            pokes.arrived.notified().await;
        }
    }

    /// For metrics, in the order of names: the Revision, its requests inside now, and the concurrency last reported.
    pub fn gauges(&self) -> Vec<(RevisionId, u64, f64)> {
        let all = self.all();
        all.iter().map(|stats| stats.gauge()).collect()
    }

    fn create(&self, id: &RevisionId) -> Arc<RevisionStats> {
        let mut revisions = self.shared.revisions.write();
        let stats = revisions.entry(id.clone()).or_insert_with(|| {
            let pokes = Arc::clone(&self.shared.pokes);
            Arc::new(RevisionStats::new(id.clone(), self.shared.workers, pokes))
        });
        Arc::clone(stats)
    }

    fn all(&self) -> Vec<Arc<RevisionStats>> {
        self.shared.revisions.read().values().cloned().collect()
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats")
            .field("workers", &self.shared.workers)
            .finish_non_exhaustive()
    }
}

/// The account of one Revision.
pub struct RevisionStats {
    id: RevisionId,
    /// One per worker, each behind an `Arc` of its own, so that counting in does not touch a shared count either.
    shards: Box<[Arc<Shard>]>,
    period: Mutex<Period>,
    removed: AtomicBool,
    pokes: Arc<Pokes>,
}

impl RevisionStats {
    /// Counts a request in that arrives on `worker` at `now`; it counts out when the guard is dropped.
    ///
    /// Worker numbers start at 0; one beyond those announced shares a shard. Waits at most for the reporter, or for
    /// another first request of the same Revision.
    pub fn enter(self: &Arc<Self>, worker: usize, now: Instant) -> InFlight {
        let shard = &self.shards[worker % self.shards.len()];
        let counted = shard.0.lock().try_enter(now);
        if !counted {
            self.enter_from_idle(shard, now);
        }
        InFlight {
            shard: Arc::clone(shard),
        }
    }

    /// Whether [`Stats::remove`] has forgotten this account, so that a cached one must be looked up again.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    fn new(id: RevisionId, workers: usize, pokes: Arc<Pokes>) -> Self {
        let idle_since = Instant::now();
        Self {
            id,
            shards: (0..workers)
                .map(|_| Arc::new(Shard(Mutex::new(Count::idle(idle_since)))))
                .collect(),
            period: Mutex::new(Period {
                since: idle_since,
                announced: false,
                last_reported: 0.0,
            }),
            removed: AtomicBool::new(false),
            pokes,
        }
    }

    /// Counts in the first request of an idle Revision, or one that came while another did so.
    fn enter_from_idle(&self, shard: &Shard, now: Instant) {
        let mut period = self.period.lock();
        // Whoever held the lock before may have woken the Revision for us.
        if shard.0.lock().try_enter(now) {
            return;
        }
        period.since = now;
        period.announced = true;
        for each in &self.shards {
            each.0.lock().wake(now);
        }
        let counted = shard.0.lock().try_enter(now);
        debug_assert!(
            counted,
            "only the reporter puts shards to sleep, and it needs the period lock"
        );
        if !self.is_removed() {
            self.pokes.announce(self.id.clone());
        }
    }

    fn retire(&self) {
        let _period = self.period.lock(); // so that nobody is about to announce
        self.removed.store(true, Ordering::Relaxed);
        self.pokes.withdraw(&self.id);
    }

    /// Ends the period; nothing when the Revision is idle.
    fn report(&self, now: Instant) -> Option<Report> {
        let mut period = self.period.lock();
        if !self.shards[0].0.lock().active {
            return None;
        }
        let mut total = Taken::default();
        for shard in &self.shards {
            let taken = shard.0.lock().take(now);
            total.add(&taken);
        }
        let elapsed = now.saturating_duration_since(period.since);
        let mean = total.mean(elapsed);
        let was_told = mem::take(&mut period.announced) && !self.pokes.withdraw(&self.id);
        let announced = if was_told { 1.0 } else { 0.0 };
        period.since = now;
        period.last_reported = (mean - announced).max(0.0);
        if total.integral == 0 && total.in_flight == 0 {
            self.go_idle();
        }
        Some(Report {
            revision: self.id.clone(),
            concurrency: period.last_reported,
            requests: (as_float(total.arrivals.into()) - announced).max(0.0),
        })
    }

    /// Goes idle unless somebody has come since the report was taken; the caller holds `period`.
    ///
    /// All shards are held at once: an arrival either is seen here and starts the next period, or finds its shard
    /// asleep and pokes.
    fn go_idle(&self) {
        let mut counts: Vec<MutexGuard<'_, Count>> =
            self.shards.iter().map(|shard| shard.0.lock()).collect();
        if counts.iter().all(|count| count.is_untouched()) {
            for count in &mut counts {
                count.active = false;
            }
        }
    }

    fn gauge(&self) -> (RevisionId, u64, f64) {
        let in_flight = self
            .shards
            .iter()
            .map(|shard| shard.0.lock().in_flight)
            .sum();
        (self.id.clone(), in_flight, self.period.lock().last_reported)
    }
}

impl fmt::Debug for RevisionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevisionStats")
            .field("revision", &self.id)
            .field("removed", &self.is_removed())
            .finish_non_exhaustive()
    }
}

/// A request that has been counted in. Dropping it counts the request out, on whatever thread that happens.
#[derive(Debug)]
#[must_use = "dropping it counts the request out at once"]
pub struct InFlight {
    shard: Arc<Shard>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = Instant::now();
        self.shard.0.lock().leave(now);
    }
}

struct Shared {
    workers: usize,
    revisions: RwLock<BTreeMap<RevisionId, Arc<RevisionStats>>>,
    pokes: Arc<Pokes>,
}

/// First requests that nobody has fetched yet.
#[derive(Default)]
struct Pokes {
    waiting: Mutex<BTreeSet<RevisionId>>,
    arrived: Notify,
}

impl Pokes {
    fn announce(&self, id: RevisionId) {
        self.waiting.lock().insert(id);
        self.arrived.notify_one();
    }

    /// Takes an announcement back; false when it has been fetched.
    fn withdraw(&self, id: &RevisionId) -> bool {
        self.waiting.lock().remove(id)
    }
}

/// What changes only once a period, or when the Revision wakes.
struct Period {
    since: Instant,
    /// Whether a poke has told the autoscaler of one request of this period already.
    announced: bool,
    last_reported: f64,
}

/// One worker's part: a cache line of 64 bytes, after one with the counts of its `Arc`. Processors fetch lines in pairs,
/// and allocators place 128 bytes at multiples of that.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(Mutex<Count>);

#[derive(Debug)]
struct Count {
    /// False while the Revision is idle; then everything else but the time is zero.
    active: bool,
    in_flight: u64,
    arrivals: u64,
    /// Requests inside times nanoseconds, up to `counted_to`. It would take 10,000 requests three weeks without a report to
    /// fill it.
    integral: u64,
    counted_to: Instant,
}

impl Count {
    fn idle(now: Instant) -> Self {
        Self {
            active: false,
            in_flight: 0,
            arrivals: 0,
            integral: 0,
            counted_to: now,
        }
    }

    fn wake(&mut self, now: Instant) {
        self.active = true;
        self.counted_to = now;
    }

    /// Counts one in, or returns false when the Revision is idle.
    fn try_enter(&mut self, now: Instant) -> bool {
        if self.active {
            self.advance(now);
            self.in_flight += 1;
            self.arrivals += 1;
        }
        self.active
    }

    fn leave(&mut self, now: Instant) {
        self.advance(now);
        debug_assert!(
            self.in_flight > 0,
            "a guard leaves the shard that it entered, once"
        );
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Empties the accumulators; who is inside stays inside.
    fn take(&mut self, now: Instant) -> Taken {
        self.advance(now);
        Taken {
            in_flight: self.in_flight,
            arrivals: mem::take(&mut self.arrivals),
            integral: mem::take(&mut self.integral).into(),
        }
    }

    fn is_untouched(&self) -> bool {
        self.in_flight == 0 && self.arrivals == 0 && self.integral == 0
    }

    /// Time read before another thread had the lock can lie behind `counted_to`; it adds nothing.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_to);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let inside = self.in_flight.saturating_mul(nanos);
        self.integral = self.integral.saturating_add(inside);
        self.counted_to = self.counted_to.max(now);
    }
}

/// One period's sums over the shards.
#[derive(Default)]
struct Taken {
    in_flight: u64,
    arrivals: u64,
    integral: u128,
}

impl Taken {
    fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.arrivals += other.arrivals;
        self.integral += other.integral;
    }

    fn mean(&self, elapsed: Duration) -> f64 {
        if elapsed.is_zero() {
            return 0.0;
        }
        as_float(self.integral) / as_float(elapsed.as_nanos())
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a mean")]
fn as_float(value: u128) -> f64 {
    value as f64
}
