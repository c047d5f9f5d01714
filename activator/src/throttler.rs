//! The async shell: all queues by `RevisionId`, shared by the request workers.
//!
//! The control side ([`Throttler`]) says which Revisions there are and which endpoints are ready; each request worker
//! ([`Worker`]) admits requests. A Revision has one lock, for limited Revisions and for whatever is parked. While a
//! Revision without a limit has nothing parked, its ready endpoints are published as an open list, and workers take
//! their requests there by themselves: no lock, and nothing written that another worker reads per request.
//!
//! ```text
//!  control thread            any thread                     worker thread
//!  upsert, set_endpoints ─▶ shell: lock ─▶ ledger ─▶ queue    admit ──▶ open list? ──▶ lane ──▶ Permit
//!  suspect, start_failed       │                               │ no
//!                              │ grants, refusals              ▼
//!                              ▼                             shell: lock ──▶ Permit, Ticket or Refusal
//!                           mailbox of each worker ── one wake ──▶ run ──▶ Ticket ──▶ Permit
//! ```
//!
//! Lock order: registry, then one queue, then the list of new suspects; a mailbox is locked alone. Under a lock
//! nothing is woken, and nothing is dropped that could lock.

mod histogram;
mod history;
mod lane;
mod ledger;
mod mailbox;
mod office;
mod permit;
mod shell;
mod starts;
mod state;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cold_start::{ColdStarts, Seen};
use crate::endpoint::Endpoint;
pub use crate::queue::Bound;
use crate::revision::{RevisionId, RevisionMap, RevisionSpec};
use office::Office;
use shell::Shell;

pub use histogram::Histogram;
pub use mailbox::Traffic;
pub use permit::Permit;
pub use state::{Counters, EndpointState, Refused, RevisionState};
pub use worker::{QueuePlace, Ticket, Worker};

/// How much may be parked, and how it is let go.
///
/// The bounds on what is parked are for newcomers. A request that was admitted once and is being sent again, because
/// its endpoint was killed ([`Ask::first_in_line`]), is parked however full the queue is, and counts like the others,
/// so that newcomers see the bounds reached. The excess is bounded by the requests that held a permit when the queue
/// became full: per Revision its slots in use (without a limit: its requests in flight), for while the queue is full
/// nobody new gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests parked per Revision. Default 10,000, what Knative's activator is configured with (knative/serving
    /// `pkg/activator/net/throttler.go`). More are refused with [`Refusal::QueueFull`].
    pub depth: usize,
    /// Bytes held by parked requests per Revision. Default 64 MiB. More are refused with [`Refusal::QueueFull`].
    pub bytes: usize,
    /// Bytes held by parked requests of all Revisions. Default 256 MiB. More are refused with [`Refusal::QueueFull`].
    pub total_bytes: usize,
    /// Percent of `depth` and of `bytes` that one client key may hold. Off by default.
    pub client_share: Option<NonZeroU8>,
    /// Without a limit: requests released through the queue that one endpoint works on at once, until they are on their
    /// way ([`Worker::has_answered`]), to begin with. Default 64.
    pub release_window: NonZeroU32,
    /// … and at most: while answers come about as fast as the fastest has, each lets one more go. Default 1,024.
    pub widest_window: NonZeroU32,
    /// Without a limit: how long a Revision's released requests are waited for while none is answered, before they make
    /// room all the same ([`Worker::takes_its_time`]). Default 100 ms.
    pub release_patience: Duration,
    /// Parked requests a worker lets go in one turn. Default 64.
    pub release_batch: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            depth: 10_000,
            bytes: 64 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
            client_share: None,
            release_window: NonZeroU32::new(64).expect("not zero"),
            widest_window: NonZeroU32::new(1_024).expect("not zero"),
            release_patience: Duration::from_millis(100),
            release_batch: 64,
        }
    }
}

/// Whether requests wait for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    /// A Revision: its requests wait for an endpoint, or for a slot.
    Allowed,
    /// An ordinary Service: nobody would start it. Without endpoints requests are refused at once, a concurrency in
    /// its spec is ignored, and suspect endpoints are used when there are no others.
    Never,
}

/// A request that asks for admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Bytes it holds while parked.
    pub bytes: usize,
    /// Whose share of the queue it counts against, if shares are on.
    pub client: Option<u64>,
    /// On a retry: go elsewhere if another endpoint has room. Forgotten when the request parks.
    pub avoid: Option<Endpoint>,
    /// It was admitted before and is being sent again, so it parks before all that were not. It is parked even while
    /// draining, and however full the queue is (see [`QueueLimits`]): it is not lost because others came. Once parked
    /// it may not [grow](Ticket::grow) beyond the bounds.
    pub first_in_line: bool,
    /// It wakes nobody: where no endpoint is ready it is refused with [`Refusal::Asleep`] instead of parked.
    pub only_if_up: bool,
    /// When it came in, for the record of a start that begins with it. Default: now.
    pub arrived: Option<Instant>,
}

/// The answer to [`Worker::admit`].
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// Go.
    Granted(Permit),
    /// Wait for the ticket.
    Parked(Ticket),
    /// Answer the client.
    Refused(Refusal),
}

/// Why a request gets no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such Revision.
    #[error("unknown Revision")]
    UnknownRevision,
    /// As much is parked as allowed. The text is what Knative's clients know (knative/serving
    /// `pkg/queue/breaker.go`, `ErrRequestQueueFull`).
    #[error("pending request queue full")]
    QueueFull {
        /// When to come again: whole seconds, 1 to 300, from observed start times; 1 if an endpoint is ready.
        retry_after: Duration,
        /// Which bound.
        bound: Bound,
    },
    /// The workload cannot start.
    #[error("the Revision cannot start: {reason}")]
    StartFailed {
        /// Why not, as its starter says.
        reason: Arc<str>,
        /// When it is tried again: whole seconds, 1 to 300.
        retry_after: Duration,
    },
    /// The Revision was deleted while the request was parked.
    #[error("the Revision is gone")]
    RevisionGone,
    /// An ordinary Service has no endpoint.
    #[error("no endpoint is ready")]
    NoEndpoint,
    /// The Revision has no ready endpoint, and the request is not to wake it ([`Ask::only_if_up`]).
    #[error("the Revision is scaled to zero, and this request does not wake it")]
    Asleep,
    /// Parkway is about to end, and does not park any more.
    #[error("shutting down")]
    Draining,
}

/// All queues, and the control side of them. Clones are the same throttler.
#[derive(Clone, Debug)]
pub struct Throttler {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    office: Arc<Office>,
    registry: RwLock<Registry>,
    /// How many Revisions were removed so far: tells workers to look through what they remember.
    removals: AtomicU64,
    /// Suspect endpoints nobody has asked for yet. Written under the lock of their queue, so that it always agrees:
    /// an endpoint forgotten here would be set aside for ever.
    new_suspects: Mutex<BTreeSet<(RevisionId, Endpoint)>>,
    suspected: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    live: RevisionMap<Arc<Shell>>,
    /// Deleted ones whose permits may still be in use: one that comes back finds its slots in use. The idle ones are
    /// let go whenever there are as many as live ones.
    deleted: RevisionMap<Arc<Shell>>,
}

impl Throttler {
    /// A throttler without Revisions, for this many workers.
    pub fn new(limits: QueueLimits, workers: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                office: Arc::new(Office::new(limits, workers)),
                registry: RwLock::default(),
                removals: AtomicU64::new(0),
                new_suspects: Mutex::default(),
                suspected: Notify::new(),
            }),
        }
    }

    /// How much may be parked.
    pub fn limits(&self) -> &QueueLimits {
        &self.inner.office.limits
    }

    /// The way in for one worker. Call it on the worker's thread, once for each index.
    ///
    /// # Panics
    ///
    /// When `index` is not below the number of workers, or was asked for before.
    pub fn worker(&self, index: usize) -> Worker {
        self.worker_with_seed(index, RandomState::new().hash_one(index))
    }

    /// Like [`worker`](Self::worker), but its choices among endpoints repeat with the seed: for tests.
    ///
    /// # Panics
    ///
    /// Likewise.
    pub fn worker_with_seed(&self, index: usize, seed: u64) -> Worker {
        assert!(
            self.inner.office.claim(index),
            "worker {index} exists once or not at all"
        );
        Worker::new(Arc::clone(&self.inner), index, seed)
    }

    /// Makes a Revision known, or changes what it promises.
    ///
    /// Requests admitted while there was no limit do not count against a limit that comes later.
    pub fn upsert(&self, id: &RevisionId, spec: Arc<RevisionSpec>, parking: Parking) {
        let mut registry = self.inner.registry.write();
        let shell = registry.shell(id, &self.inner.office);
        let ((), outbox) = shell.act(|ledger, _, out| ledger.configure(spec, parking, out));
        drop(registry);
        shell.send(outbox);
    }

    /// The Revision is deleted: what is parked ends with [`Refusal::RevisionGone`], permits in use stay valid.
    pub fn remove(&self, id: &RevisionId) {
        let mut registry = self.inner.registry.write();
        let Some(shell) = registry.remove(id) else {
            return;
        };
        let ((), outbox) = shell.act(|ledger, _, out| {
            self.inner.unsuspect(id, &ledger.suspects());
            ledger.remove(out);
        });
        drop(registry);
        self.inner.removals.fetch_add(1, Ordering::Relaxed);
        shell.send(outbox);
    }

    /// The endpoints that are ready now, all of them.
    ///
    /// Level-triggered and idempotent. A set that is not empty ends a start, and clears a failed one.
    pub fn set_endpoints(&self, id: &RevisionId, endpoints: Vec<Endpoint>) {
        let Some(shell) = self.inner.shell(id) else {
            return;
        };
        shell.step(|ledger, _, out| {
            let mut left = ledger.suspects();
            ledger.set_endpoints(endpoints, out);
            left.retain(|endpoint| !ledger.is_suspect(*endpoint));
            self.inner.unsuspect(id, &left);
        });
    }

    /// The workload cannot start: ends all parked requests with [`Refusal::StartFailed`], and refuses newcomers
    /// likewise for `retry_in`. Does nothing if an endpoint is ready.
    pub fn start_failed(&self, id: &RevisionId, reason: Arc<str>, retry_in: Duration) {
        if let Some(shell) = self.inner.shell(id) {
            shell.step(|ledger, _, out| ledger.start_failed(reason, retry_in, out));
        }
    }

    /// As [`start_failed`](Self::start_failed), where endpoints are known, but all of them are set aside
    /// ([`suspect`](Self::suspect)) and will not come back by themselves. Does nothing if one is not.
    pub fn set_aside_failed(&self, id: &RevisionId, reason: Arc<str>, retry_in: Duration) {
        if let Some(shell) = self.inner.shell(id) {
            shell.step(|ledger, _, out| ledger.set_aside_failed(reason, retry_in, out));
        }
    }

    /// The endpoint refused a connection: it is not chosen until [`restore`](Self::restore).
    pub fn suspect(&self, id: &RevisionId, endpoint: Endpoint) {
        let Some(shell) = self.inner.shell(id) else {
            return;
        };
        let is_new = shell.step(|ledger, _, out| {
            let is_new = ledger.suspect(endpoint, out);
            if is_new {
                self.inner
                    .new_suspects
                    .lock()
                    .insert((id.clone(), endpoint));
            }
            is_new
        });
        if is_new {
            self.inner.suspected.notify_one();
        }
    }

    /// The endpoint answers again.
    pub fn restore(&self, id: &RevisionId, endpoint: Endpoint) {
        let Some(shell) = self.inner.shell(id) else {
            return;
        };
        shell.step(|ledger, _, out| {
            ledger.restore(endpoint, out);
            self.inner.unsuspect(id, &[endpoint]);
        });
    }

    /// Waits for endpoints to become suspect; returns all that did since the last call. For one caller, the prober.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn suspects(&self) -> Vec<(RevisionId, Endpoint)> {
        loop {
            let suspects = std::mem::take(&mut *self.inner.new_suspects.lock());
            if !suspects.is_empty() {
                return suspects.into_iter().collect();
            }
            self.inner.suspected.notified().await;
        }
    }

    /// Whether the endpoint is ready but set aside.
    pub fn is_suspect(&self, id: &RevisionId, endpoint: Endpoint) -> bool {
        let shell = self.inner.shell(id);
        shell.is_some_and(|shell| shell.read(|ledger| ledger.is_suspect(endpoint)))
    }

    /// From now on newcomers that would park are refused with [`Refusal::Draining`]; what is parked stays.
    pub fn drain(&self) {
        self.inner.office.drain();
    }

    /// All Revisions as they are now, in order of their ids.
    pub fn state(&self) -> Vec<RevisionState> {
        let shells: Vec<_> = self.inner.registry.read().live.values().cloned().collect();
        let mut states: Vec<_> = shells
            .iter()
            .filter_map(|shell| shell.read(|ledger| ledger.state()))
            .collect();
        states.sort_by(|a, b| a.id.cmp(&b.id));
        states
    }

    /// One Revision as it is now.
    pub fn revision_state(&self, id: &RevisionId) -> Option<RevisionState> {
        self.inner.shell(id)?.read(|ledger| ledger.state())
    }

    /// Requests parked, over all Revisions.
    pub fn parked(&self) -> usize {
        self.inner.office.parked()
    }

    /// Bytes held by parked requests, over all Revisions.
    pub fn parked_bytes(&self) -> usize {
        self.inner.office.parked_bytes()
    }

    /// A milestone of this Revision's start was seen. Nothing is noted while an endpoint is ready; before anybody waits,
    /// it is kept for the start that the next request begins.
    pub fn saw(&self, id: &RevisionId, seen: Seen) {
        if let Some(shell) = self.inner.shell(id) {
            shell.step(|ledger, _, _| ledger.saw(seen));
        }
    }

    /// The starts that are remembered.
    pub fn cold_starts(&self) -> ColdStarts {
        self.inner.office.cold_starts.clone()
    }

    /// How parked requests reached their workers so far.
    pub fn traffic(&self) -> Traffic {
        self.inner.office.traffic()
    }
}

impl Inner {
    fn shell(&self, id: &RevisionId) -> Option<Arc<Shell>> {
        self.registry.read().live.get(id).cloned()
    }

    /// These need no probe any more.
    fn unsuspect(&self, id: &RevisionId, endpoints: &[Endpoint]) {
        if endpoints.is_empty() {
            return;
        }
        let mut new_suspects = self.new_suspects.lock();
        for endpoint in endpoints {
            new_suspects.remove(&(id.clone(), *endpoint));
        }
    }
}

impl Registry {
    /// The Revision's shell: the live one, the deleted one if somebody still holds it, or a new one.
    fn shell(&mut self, id: &RevisionId, office: &Arc<Office>) -> Arc<Shell> {
        if let Some(shell) = self.live.get(id) {
            return Arc::clone(shell);
        }
        let deleted = self.deleted.remove(id);
        let shell = deleted.unwrap_or_else(|| Arc::new(Shell::new(id.clone(), Arc::clone(office))));
        self.live.insert(id.clone(), Arc::clone(&shell));
        shell
    }

    fn remove(&mut self, id: &RevisionId) -> Option<Arc<Shell>> {
        let shell = self.live.remove(id)?;
        if self.deleted.len() >= self.live.len() {
            self.deleted
                .retain(|_, shell| !shell.read(|ledger| ledger.is_idle()));
        }
        self.deleted.insert(id.clone(), Arc::clone(&shell));
        Some(shell)
    }
}
