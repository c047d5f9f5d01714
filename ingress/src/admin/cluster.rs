//! What a Parkway in a cluster tells of itself besides, for `/metrics`: how the cluster is watched, who leads, what waits,
//! how the writing of status goes.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::DescriptorEncoder;

use super::metrics::{Labels, counters, gauges};
use crate::provider::kubernetes::WatchHealth;
use crate::provider::kubernetes::lease::Leadership;
use crate::provider::kubernetes::peers::confirm::Confirmations;
use crate::provider::kubernetes::status::StatusBoard;

/// What is known of the cluster's part; clones are the same.
#[derive(Clone)]
pub struct InCluster(Arc<Shared>);

struct Shared {
    watches: WatchHealth,
    /// KIngresses whose rules wait for a name to be looked up.
    held: AtomicUsize,
    /// Set once the cluster has told what there is; never where there are no KIngresses to speak of.
    leading: OnceLock<Leading>,
}

/// Who leads, what is written, and what the replicas say.
pub type Leading = (Leadership, StatusBoard, Confirmations);

impl InCluster {
    /// Nothing waits yet, and nobody is known to lead.
    pub fn new(watches: WatchHealth) -> Self {
        Self(Arc::new(Shared {
            watches,
            held: AtomicUsize::new(0),
            leading: OnceLock::new(),
        }))
    }

    /// So many KIngresses' rules wait for names to be looked up.
    pub fn set_held(&self, count: usize) {
        self.0.held.store(count, Ordering::Relaxed);
    }

    /// From now on there is somebody to lead. Counts once.
    pub fn set_leading(&self, leading: Leading) {
        drop(self.0.leading.set(leading));
    }
}

impl fmt::Debug for InCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InCluster")
            .field("held", &self.0.held)
            .finish_non_exhaustive()
    }
}

/// For `/metrics`.
pub(super) fn metrics(cluster: &InCluster, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    watches(&cluster.0.watches, out)?;
    gauges(
        out,
        "parkway_kingresses_waiting_for_names",
        "KIngresses whose rules wait for a name to be looked up",
        one(count(cluster.0.held.load(Ordering::Relaxed))),
    )?;
    match cluster.0.leading.get() {
        Some(leading) => status(leading, out),
        None => Ok(()),
    }
}

fn watches(watches: &WatchHealth, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let states = watches.state();
    let labels = |kind: &&'static str| vec![("kind", (*kind).to_owned())];
    gauges(
        out,
        "parkway_watch_failing",
        "1 while objects of this kind cannot be watched; what was known stays in effect",
        states.iter().map(|(kind, state)| {
            let is_failing = state.failing.is_some();
            (labels(kind), f64::from(u8::from(is_failing)))
        }),
    )?;
    let all = || states.iter();
    counters(
        out,
        "parkway_watch_lists",
        "How often all objects of this kind were listed",
        all().map(|(kind, state)| (labels(kind), state.lists)),
    )?;
    counters(
        out,
        "parkway_watch_events",
        "Changes of objects of this kind",
        all().map(|(kind, state)| (labels(kind), state.events)),
    )?;
    counters(
        out,
        "parkway_watch_errors",
        "Lists and watches of this kind that failed",
        all().map(|(kind, state)| (labels(kind), state.errors)),
    )
}

fn status((leadership, board, replicas): &Leading, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counts = board.counts();
    let (ready, silent) = replicas.counts();
    for (name, help, value) in [
        (
            "parkway_leader",
            "1 while this replica writes the status of KIngresses",
            usize::from(leadership.is_leader()),
        ),
        (
            "parkway_kingresses",
            "KIngresses of our class",
            counts.known,
        ),
        (
            "parkway_kingresses_unsettled",
            "Those whose status is not what it has to be yet, or that are not in effect at every replica, as far as \
             this replica knows",
            counts.unsettled,
        ),
        (
            "parkway_replicas",
            "Ready replicas of the gateway, this one among them if it is",
            ready,
        ),
        (
            "parkway_replicas_silent",
            "Those that do not say what is in effect there: KIngresses do not become Ready (asked by the leader only)",
            silent,
        ),
    ] {
        gauges(out, name, help, one(count(value)))?;
    }
    for (name, help, value) in [
        (
            "parkway_status_writes",
            "Statuses of KIngresses written",
            counts.writes,
        ),
        (
            "parkway_status_conflicts",
            "Writes that met a newer object, and were done again over it",
            counts.conflicts,
        ),
        (
            "parkway_status_errors",
            "Writes that failed otherwise, and are tried again",
            counts.errors,
        ),
    ] {
        counters(out, name, help, one(value))?;
    }
    Ok(())
}

fn one<T>(value: T) -> [(Labels, T); 1] {
    [(Labels::new(), value)]
}

#[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
fn count(value: usize) -> f64 {
    value as f64
}
