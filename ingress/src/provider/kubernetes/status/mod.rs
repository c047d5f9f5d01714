//! Writing the status of KIngresses: what is in effect everywhere is Ready, and what is not says why.
//!
//! ```text
//!  provider ──seen, gone──▶ StatusBoard ──what differs──▶ writer ──PUT …/status──▶ API server
//!                                                          ▲  ▲
//!                                          Confirmations ──┘  └── Leadership
//! ```
//!
//! Every Parkway feeds its board; only the one that leads writes. What it writes is a function of what the API has and
//! of a [`Verdict`] ([`conditions`]); when that is what the API has already, nothing is written. Each write names the
//! version it replaces, so a status is never written over something newer: on a conflict the newer object is read, and
//! written again if it is still of the same generation and class.
//!
//! What is settled (the API says what we would) costs an entry without a status; that is almost all of them, almost
//! always.

mod board;
pub mod conditions;
#[cfg(test)]
mod tests;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lease::Leadership;
use super::peers::confirm::{Confirmations, SILENT_AFTER};
use super::{IngressChange, Key, Outcome};
use board::Board;
use conditions::{Entrances, IngressStatus, Verdict};

/// How many statuses are written at once, unless something else is said.
pub const WRITES_AT_ONCE: usize = 16;
/// How long a new generation may take to be in effect everywhere before its status says that it waits: what is faster,
/// as almost everything is, is written once.
pub const GRACE: Duration = Duration::from_millis(100);

/// What the writing of statuses is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The class of the KIngresses that are ours: what has another by now is not touched.
    pub ingress_class: String,
    /// Where the entrances are.
    pub entrances: Entrances,
    /// How many statuses are written at once; at least one.
    pub writes_at_once: usize,
    /// When those that are waited for are named.
    pub name_after: Duration,
    /// The wall clock, for the times of conditions.
    pub clock: fn() -> Timestamp,
}

impl Settings {
    /// With everything else as it is by default.
    pub fn new(ingress_class: impl Into<String>, entrances: Entrances) -> Self {
        Self {
            ingress_class: ingress_class.into(),
            entrances,
            writes_at_once: WRITES_AT_ONCE,
            name_after: SILENT_AFTER,
            clock: Timestamp::now,
        }
    }
}

/// A KIngress of our class as it is in the API, and what became of it here.
#[derive(Clone, Debug, PartialEq)]
pub struct IngressObject {
    /// Its name.
    pub key: Key,
    /// Tells it from another of the same name.
    pub uid: Arc<str>,
    /// The generation that was looked at.
    pub generation: i64,
    /// The state of the object that was looked at.
    pub resource_version: Box<str>,
    /// Its status in that state.
    pub status: serde_json::Value,
    /// What became of that generation.
    pub outcome: Outcome,
}

impl From<&IngressChange> for IngressObject {
    fn from(change: &IngressChange) -> Self {
        Self {
            key: change.key.clone(),
            uid: Arc::clone(&change.uid),
            generation: change.generation,
            resource_version: change.resource_version.clone(),
            // The API server has sent it.
            status: serde_json::from_str(&change.status).unwrap_or_default(),
            outcome: change.outcome.clone(),
        }
    }
}

/// What is known of KIngresses for their status; cheap to clone, all clones are the same.
#[derive(Clone, Debug)]
pub struct StatusBoard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    board: Mutex<Board>,
    /// The board has something to look at.
    wake: Notify,
    writes: AtomicU64,
    conflicts: AtomicU64,
    errors: AtomicU64,
}

/// How the writing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// Statuses written.
    pub writes: u64,
    /// Writes that met a newer object.
    pub conflicts: u64,
    /// Requests that failed otherwise.
    pub errors: u64,
    /// KIngresses known.
    pub known: usize,
    /// Those whose status is not what it has to be, or that are not in effect everywhere.
    pub unsettled: usize,
}

/// A KIngress whose status is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingIngress {
    /// Its name.
    pub key: Key,
    /// Which generation.
    pub generation: i64,
    /// Since when.
    pub since: Instant,
    /// For what; empty until the writer has looked, which it does only while it leads.
    pub why: Box<str>,
}

impl StatusBoard {
    /// An empty board.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Shared {
            settings,
            board: Mutex::default(),
            wake: Notify::new(),
            writes: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }))
    }

    /// A KIngress is new, or anything of it has changed: its spec, its status, or what became of it.
    pub fn seen(&self, object: IngressObject) {
        self.seen_all([object]);
    }

    /// The same for many at once.
    pub fn seen_all(&self, objects: impl IntoIterator<Item = IngressObject>) {
        let now = Instant::now();
        {
            let mut board = self.0.board.lock();
            for object in objects {
                board.see(object, now, &self.0.settings);
            }
        }
        self.0.wake.notify_one();
    }

    /// A KIngress is gone, or not ours any more.
    pub fn gone(&self, key: &Key) {
        self.0.board.lock().forget(key);
    }

    /// How the writing goes.
    pub fn counts(&self) -> StatusCounts {
        let (known, unsettled) = self.0.board.lock().sizes();
        StatusCounts {
            writes: self.0.writes.load(Ordering::Relaxed),
            conflicts: self.0.conflicts.load(Ordering::Relaxed),
            errors: self.0.errors.load(Ordering::Relaxed),
            known,
            unsettled,
        }
    }

    /// Up to `limit` of those that are not settled, the longest waiting first.
    pub fn waiting(&self, limit: usize) -> Vec<WaitingIngress> {
        self.0.board.lock().waiting(limit)
    }

    /// Writes what differs, whenever `leadership` is ours. Has to be run, once, and never ends.
    ///
    /// # Cancel safety
    ///
    /// A write that is dropped half-way may or may not have been done; whoever leads next sees which.
    pub fn write(
        &self,
        client: Client,
        leadership: Leadership,
        confirmations: Confirmations,
    ) -> impl Future<Output = ()> + Send + use<> {
        writer::Writer::new(Arc::clone(&self.0), client, confirmations).run(leadership)
    }
}
