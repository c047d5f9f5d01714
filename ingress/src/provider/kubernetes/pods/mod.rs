//! Pods of Revisions that start: how far they are, and whether they will ever serve.
//!
//! Nothing here is on a request's way. While a start is under way, and a moment longer, one watch follows the Pods of its
//! Revision and one more the Events of each of the first [`EVENTS_OF`] of them; what they say becomes milestones in the
//! record of the start, each at the moment at which it was heard here. Revisions that do not start are not watched:
//! there may be tens of thousands of Pods, and the endpoints of warm ones come from EndpointSlices.
//!
//! ```text
//!  ColdStarts ──begun──▶ PodWatches ──one task per start──▶ watches ──News──▶ Told (pure) ──▶ ColdStart::saw
//!                                                                               └─ Verdict ──▶ CannotStart
//! ```
//!
//! What cannot be watched (a right is missing, the API server is away) leaves the start as it was: a gap in its record.

pub mod kept;
pub mod objects;
pub mod told;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kube::{Api, Client};
use parking_lot::Mutex;
use parkway_activator::cold_start::{ColdStart, ColdStarts, Milestone};
use parkway_activator::revision::RevisionId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::slices::REVISION_LABEL;
use super::watch::{Watch, WatchHealth, WatchState};
use kept::{KeptEvent, KeptPod};
use objects::{Event, Pod};
use told::{News, Told};

/// Starts whose Pods are watched at once. Further ones keep a gap in their record, and are counted.
pub const MOST_STARTS: usize = 64;

/// Pods of a start whose Events are watched: the first ones. Each is a connection.
pub const EVENTS_OF: usize = 2;

/// How long Pods are watched after their start is over: news that come late are told all the same.
pub const LINGERS: Duration = Duration::from_secs(2);

/// No start is watched for longer: its clients may have left long ago, and its Pods never come.
pub const LONGEST: Duration = Duration::from_secs(600);

/// How long the first list of Pods is waited for before a Revision is believed that says that they have no node.
const LISTS_WITHIN: Duration = Duration::from_secs(2);

/// How much news of one start may wait. When full, its watches wait too.
const NEWS: usize = 64;

/// How many starts that have come to nothing may wait to be ended. When full, further ones wait their turn.
const FAILURES: usize = 64;

/// How often it is looked whether a start is over.
const TICK: Duration = Duration::from_millis(100);

/// The watches of Pods, for who wants to know how they are. Clones are the same.
#[derive(Clone, Debug)]
pub struct PodWatches(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    skipped: AtomicU64,
    health: WatchHealth,
    /// Revisions with starts whose Pods are seen.
    seen: Mutex<BTreeSet<RevisionId>>,
}

/// A start that will come to nothing, as its Pods say.
#[derive(Debug)]
pub struct CannotStart {
    /// Which.
    pub start: Arc<ColdStart>,
    /// Why.
    pub reason: Arc<str>,
}

/// What each start is followed with.
struct Follower {
    client: Client,
    shared: Arc<Shared>,
    failures: mpsc::Sender<CannotStart>,
    unix: fn(Instant) -> Duration,
}

impl PodWatches {
    /// None yet; the task that watches, to be spawned, which never ends; and the starts that are to be ended. `unix`
    /// says what the wall clock said at a moment, since 1970.
    pub fn new(
        client: &Client,
        starts: ColdStarts,
        unix: fn(Instant) -> Duration,
    ) -> (
        Self,
        impl Future<Output = ()> + Send + use<>,
        mpsc::Receiver<CannotStart>,
    ) {
        let shared = Arc::new(Shared::default());
        let (failures, failed) = mpsc::channel(FAILURES);
        let follower = Arc::new(Follower {
            client: client.clone(),
            shared: Arc::clone(&shared),
            failures,
            unix,
        });
        (Self(shared), run(follower, starts), failed)
    }

    /// Starts whose Pods are watched now.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Starts whose Pods were not watched because too many were.
    pub fn skipped(&self) -> u64 {
        self.0.skipped.load(Ordering::Relaxed)
    }

    /// How the watches are, by kind.
    pub fn health(&self) -> impl Iterator<Item = (&'static str, WatchState)> + use<> {
        self.0.health.state().into_iter()
    }

    /// Whether the Pods of a start of this Revision are seen, or will be soon: then they say themselves whether there
    /// is no node for them, and there may be one long before their Revision says so.
    pub fn sees(&self, id: &RevisionId) -> bool {
        self.0.seen.lock().contains(id)
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

async fn run(follower: Arc<Follower>, starts: ColdStarts) {
    let mut last = 0;
    let mut following = JoinSet::new();
    loop {
        tokio::select! {
            begun = starts.begun(last) => for start in begun {
                last = start.number();
                if !start.is_under_way() {
                    continue;
                }
                if following.len() >= MOST_STARTS {
                    follower.shared.skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                following.spawn(Arc::clone(&follower).follow(start));
            },
            Some(ended) = following.join_next() => if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            },
        }
        let shared = &follower.shared;
        shared.running.store(following.len(), Ordering::Relaxed);
    }
}

/// Says of a start, while it is there, that its Pods are seen.
struct Sees<'a> {
    shared: &'a Shared,
    id: &'a RevisionId,
    is_said: bool,
}

impl Sees<'_> {
    fn set(&mut self, sees: bool) {
        if self.is_said != sees {
            self.is_said = sees;
            let mut all = self.shared.seen.lock();
            match sees {
                true => drop(all.insert(self.id.clone())),
                false => drop(all.remove(self.id)),
            }
        }
    }
}

impl Drop for Sees<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl Follower {
    /// Follows one start to its end.
    async fn follow(self: Arc<Self>, start: Arc<ColdStart>) {
        let id = start.revision();
        let (news, mut heard) = mpsc::channel(NEWS);
        let mut watches = JoinSet::new();
        watches.spawn(self.pods(id, news.clone()).run());
        let mut with_events: BTreeSet<Box<str>> = BTreeSet::new();
        let mut told = Told::new(start.arrived(), (self.unix)(start.arrived()));
        let mut sees = Sees {
            shared: &self.shared,
            id,
            is_said: false,
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let mut until = begun + LONGEST;
        let mut is_over = false;
        loop {
            let seen = tokio::select! {
                Some(said) = heard.recv() => told.hear(said, Instant::now()),
                _ = tick.tick() => Vec::new(),
            };
            let now = Instant::now();
            sees.set(told.is_listed() || now < begun + LISTS_WITHIN);
            if !start.is_under_way() && !start.has_seen(Milestone::Ready) {
                return; // it has failed, and ends there
            }
            seen.into_iter().for_each(|seen| start.saw(seen));
            for pod in told.coming() {
                if with_events.len() < EVENTS_OF && !with_events.contains(pod) {
                    with_events.insert(pod.into());
                    watches.spawn(self.events(id, pod, news.clone()).run());
                }
            }
            if now >= until {
                return;
            }
            if !is_over && !start.is_under_way() {
                is_over = true;
                until = until.min(now + LINGERS);
            }
            if !is_over && let Some(verdict) = told.verdict().filter(|it| it.from <= now) {
                let failure = CannotStart {
                    start: Arc::clone(&start),
                    reason: verdict.reason,
                };
                // Nobody listens: the process ends.
                return drop(self.failures.send(failure).await);
            }
        }
    }

    fn pods(&self, id: &RevisionId, news: mpsc::Sender<News>) -> Watch<Pod, KeptPod, News> {
        Watch {
            kind: "Pod",
            api: Api::namespaced(self.client.clone(), id.namespace()),
            labels: format!("{REVISION_LABEL}={}", id.name()),
            fields: String::new(),
            keep: Box::new(|object| Some(KeptPod::of(&object))),
            wrap: Box::new(News::Pods),
            news,
            health: self.shared.health.clone(),
        }
    }

    fn events(
        &self,
        id: &RevisionId,
        pod: &str,
        news: mpsc::Sender<News>,
    ) -> Watch<Event, KeptEvent, News> {
        Watch {
            kind: "Event",
            api: Api::namespaced(self.client.clone(), id.namespace()),
            labels: String::new(),
            fields: format!("involvedObject.uid={pod}"),
            keep: Box::new(|object| KeptEvent::of(&object)),
            wrap: Box::new(News::Events),
            news,
            health: self.shared.health.clone(),
        }
    }
}
