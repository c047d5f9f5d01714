//! The task that watches all Revisions and orders replicas.
//!
//! Everything that calls the [`Scaler`] happens in [`Embedded::run`], so that orders keep their sequence; what comes
//! in from elsewhere marks Revisions as due and wakes it. Source: knative/serving
//! `pkg/autoscaler/scaling/multiscaler.go` and `pkg/autoscaler/metrics/collector.go`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, info};

use parkway_activator::revision::RevisionId;

use super::decider::{Decider, Decision, Observed, TICK, initial_excess_burst_capacity};
use super::lifecycle::{Lifecycle, Phase};
use super::scaling::{Metric, RevisionScaling};
use super::window::Window;
use crate::sink::StatSink;
use crate::stat::{Stat, StatMessage};

#[cfg(test)]
mod tests;

/// How long the ready replicas may differ from those ordered before the order is repeated.
pub const REPEAT_ORDER_AFTER: Duration = Duration::from_secs(30);

/// Starts and ends replicas.
pub trait Scaler: Send + Sync {
    /// Orders so many replicas. Must not wait: starting takes its time elsewhere.
    ///
    /// Called when the number changes, and again with the same number when after [`REPEAT_ORDER_AFTER`] another
    /// number is ready.
    fn scale(&self, id: &RevisionId, replicas: u32);

    /// How many replicas are ready now.
    fn ready(&self, id: &RevisionId) -> u32;
}

/// Whether traffic can reach a Revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// A route names it, or it is new and may be named.
    Reachable,
    /// No route names it: no minimum, no retention, no slow scaling down.
    Unreachable,
}

/// The autoscaler in process.
///
/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// What the autoscaler thinks about one Revision, for the state dump and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct DeciderState {
    /// Which Revision.
    pub revision: RevisionId,
    /// Replicas desired by the last decision, before bounds; none before the first.
    pub desired: Option<u32>,
    /// Replicas ordered.
    pub wanted: u32,
    /// Replicas ready when last looked at.
    pub ready: u32,
    /// Where it is on its way from zero and back.
    pub phase: Phase,
    /// What it is scaled by.
    pub metric: Metric,
    /// What one replica should get of it.
    pub target: f64,
    /// Its average over the stable window, at the last decision.
    pub stable: f64,
    /// Its average over the panic window, at the last decision.
    pub panic: f64,
    /// Whether it is in panic mode.
    pub is_panicking: bool,
    /// Room for a burst beyond the target burst capacity; negative when there is less.
    pub excess_burst_capacity: i32,
    /// Whether traffic can reach it.
    pub reachability: Reachability,
}

impl Embedded {
    /// An autoscaler that knows no Revision yet and orders from `scaler`.
    pub fn new(scaler: Arc<dyn Scaler>) -> Self {
        Self {
            shared: Arc::new(Shared {
                scaler,
                revisions: Mutex::default(),
                work: Notify::new(),
            }),
        }
    }

    /// Makes a Revision known, or changes how it is scaled.
    ///
    /// A new one gets its initial scale at once, or keeps the replicas that it has.
    pub fn upsert(&self, id: RevisionId, scaling: RevisionScaling, reachability: Reachability) {
        let ready = self.shared.scaler.ready(&id);
        let now = Instant::now();
        let mut revisions = self.shared.revisions.lock();
        match revisions.get_mut(&id) {
            Some(known) => known.change(scaling, reachability),
            None => {
                revisions.insert(id, Revision::new(scaling, reachability, ready, now));
            }
        }
        drop(revisions);
        self.shared.work.notify_one();
    }

    /// Forgets a Revision. Its replicas are left to whoever removes it.
    pub fn remove(&self, id: &RevisionId) {
        self.shared.revisions.lock().remove(id);
    }

    /// Decides every two seconds, and at once when a Revision at zero gets a request. Does not end by itself.
    ///
    /// One caller. Ticks that were missed are not made up for: after a pause the next decision comes two seconds
    /// after the first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped; a later call goes on.
    pub async fn run(&self) {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // a tick also does what is due
                _ = ticks.tick() => self.work(Scope::All),
                () = self.shared.work.notified() => self.work(Scope::Due),
            }
        }
    }

    /// What is thought about every Revision, in the order of names.
    pub fn state(&self) -> Vec<DeciderState> {
        let revisions = self.shared.revisions.lock();
        revisions
            .iter()
            .map(|(id, revision)| revision.state(id.clone()))
            .collect()
    }

    fn work(&self, scope: Scope) {
        for id in self.chosen(scope) {
            let ready = self.shared.scaler.ready(&id);
            if let Some(replicas) = self.look(&id, scope, ready) {
                info!(revision = %id, replicas, ready, "scaling");
                self.shared.scaler.scale(&id, replicas);
            }
        }
    }

    fn chosen(&self, scope: Scope) -> Vec<RevisionId> {
        let revisions = self.shared.revisions.lock();
        let chosen = revisions
            .iter()
            .filter(|(_, revision)| scope == Scope::All || revision.due.is_some());
        chosen.map(|(id, _)| id.clone()).collect()
    }

    fn look(&self, id: &RevisionId, scope: Scope, ready: u32) -> Option<u32> {
        let now = Instant::now();
        let mut revisions = self.shared.revisions.lock();
        let revision = revisions.get_mut(id)?;
        let due = revision.due.take();
        if scope == Scope::All || due == Some(Due::Decision) {
            revision.decide(ready, now);
        }
        revision.apply(ready, now)
    }
}

impl StatSink for Embedded {
    fn send(&self, messages: Vec<StatMessage>) {
        let now = Instant::now();
        let mut is_poked = false;
        let mut revisions = self.shared.revisions.lock();
        for message in &messages {
            match revisions.get_mut(&message.revision) {
                Some(revision) => is_poked |= revision.record(&message.stat, now),
                None => debug!(revision = %message.revision, "stat of an unknown revision"),
            }
        }
        drop(revisions);
        if is_poked {
            self.shared.work.notify_one();
        }
    }

    /// It is always there.
    fn is_connected(&self) -> bool {
        true
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

struct Shared {
    scaler: Arc<dyn Scaler>,
    revisions: Mutex<BTreeMap<RevisionId, Revision>>,
    work: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Due,
}

/// What cannot wait for the next tick.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// How it is scaled has changed.
    Order,
    /// It is at zero and got a request.
    Decision,
}

/// One Revision: what was reported, what was decided, what was ordered.
struct Revision {
    scaling: RevisionScaling,
    reachability: Reachability,
    concurrency: Averages,
    rps: Averages,
    decider: Decider,
    lifecycle: Lifecycle,
    desired: Option<u32>,
    excess_burst_capacity: i32,
    /// Averages of the last decision, over the stable and the panic window.
    observed: (f64, f64),
    ready: u32,
    due: Option<Due>,
    ordered_at: Instant,
}

impl Revision {
    fn new(scaling: RevisionScaling, reachability: Reachability, ready: u32, now: Instant) -> Self {
        Self {
            concurrency: Averages::new(&scaling, now),
            rps: Averages::new(&scaling, now),
            decider: Decider::new(ready, now),
            lifecycle: Lifecycle::new(&scaling, reachability, ready, now),
            desired: None,
            excess_burst_capacity: initial_excess_burst_capacity(&scaling),
            observed: (0.0, 0.0),
            ready,
            due: Some(Due::Order),
            ordered_at: now,
            scaling,
            reachability,
        }
    }

    fn change(&mut self, scaling: RevisionScaling, reachability: Reachability) {
        self.concurrency.reshape(&scaling);
        self.rps.reshape(&scaling);
        self.scaling = scaling;
        self.reachability = reachability;
        self.due = self.due.or(Some(Due::Order));
    }

    /// Takes a measurement in; true when it asks for a decision at once.
    fn record(&mut self, stat: &Stat, now: Instant) -> bool {
        let concurrency =
            stat.average_concurrent_requests - stat.average_proxied_concurrent_requests;
        self.concurrency.record(now, concurrency);
        self.rps
            .record(now, stat.request_count - stat.proxied_request_count);
        let is_at_zero = self.desired.unwrap_or(0) == 0;
        let pokes = is_at_zero && stat.average_concurrent_requests != 0.0;
        if pokes {
            self.due = Some(Due::Decision);
        }
        pokes
    }

    fn decide(&mut self, ready: u32, now: Instant) {
        let averages = match self.scaling.metric {
            Metric::Concurrency => &self.concurrency,
            Metric::Rps => &self.rps,
        };
        let observed = Observed {
            stable: averages.stable.average(now),
            panic: averages.panic.average(now),
            ready,
            is_reachable: self.reachability == Reachability::Reachable,
        };
        let decision = self.decider.decide(&self.scaling, observed, now);
        let Decision {
            desired,
            excess_burst_capacity,
        } = decision;
        self.desired = Some(desired);
        self.excess_burst_capacity = excess_burst_capacity;
        self.observed = (observed.stable, observed.panic);
    }

    /// The number to order, if there is anything to order.
    fn apply(&mut self, ready: u32, now: Instant) -> Option<u32> {
        self.ready = ready;
        let changed =
            self.lifecycle
                .look(self.desired, &self.scaling, self.reachability, ready, now);
        let order = changed.or_else(|| self.repeated_order(ready, now));
        if order.is_some() {
            self.ordered_at = now;
        }
        order
    }

    fn repeated_order(&self, ready: u32, now: Instant) -> Option<u32> {
        let ordered = self.lifecycle.replicas();
        let is_overdue = now.saturating_duration_since(self.ordered_at) >= REPEAT_ORDER_AFTER;
        (ready != ordered && is_overdue).then_some(ordered)
    }

    fn state(&self, revision: RevisionId) -> DeciderState {
        DeciderState {
            revision,
            desired: self.desired,
            wanted: self.lifecycle.replicas(),
            ready: self.ready,
            phase: self.lifecycle.phase(),
            metric: self.scaling.metric,
            target: self.scaling.target_value,
            stable: self.observed.0,
            panic: self.observed.1,
            is_panicking: self.decider.is_panicking(),
            excess_burst_capacity: self.excess_burst_capacity,
            reachability: self.reachability,
        }
    }
}

/// One metric over both windows.
struct Averages {
    stable: Window,
    panic: Window,
}

impl Averages {
    fn new(scaling: &RevisionScaling, now: Instant) -> Self {
        Self {
            stable: Window::new(now, scaling.stable_window, scaling.aggregation),
            panic: Window::new(now, scaling.panic_window, scaling.aggregation),
        }
    }

    fn reshape(&mut self, scaling: &RevisionScaling) {
        self.stable
            .reshape(scaling.stable_window, scaling.aggregation);
        self.panic
            .reshape(scaling.panic_window, scaling.aggregation);
    }

    fn record(&mut self, now: Instant, value: f64) {
        self.stable.record(now, value);
        self.panic.record(now, value);
    }
}
