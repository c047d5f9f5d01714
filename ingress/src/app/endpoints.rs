//! Endpoints of Revisions in a cluster: Pods are asked whether they serve, and queues learn of those that do.
//!
//! What Pods there are comes in ([`ClusterEndpoints::set`]); which of them may be used, [`Backends`] decide; the part
//! of a limited Revision that is ours goes to the [`Throttler`], in the same turn in which a Pod has said yes. One task
//! asks, for all Revisions: a Revision of which nobody is asked costs an entry in a table, and neither task nor timer.
//!
//! One table behind a lock says what there is. The lock is held while queues are told, so that what they are told last
//! is what the table says; the order is the table, then the throttler's own. Whom to ask is left in the table too, the
//! latest order for each target, for the task to fetch.

mod asking;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::backends::{
    Backends, BackendsState, Mesh, MeshMode, Order, Outcome, Pods, Replicas, Share, Target,
};
use parkway_activator::cold_start::{ColdStarts, Milestone, Seen};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::prober;
use parkway_activator::revision::{ContainerConcurrency, RevisionId, RevisionMap, RevisionSpec};
use parkway_activator::throttler::{Parking, Throttler};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::proxy::probe::{self, ANSWER_DEADLINE, CONNECT_DEADLINE, Dial};

/// Pauses before somebody is asked again are at least this long for each one that is being asked: so there are no more
/// than 5,000 attempts a second over all, which cost some tenth of a core, however many Pods start at once.
const PAUSE_PER_PROBE: Duration = Duration::from_micros(200);

/// … but no longer than this.
const LEAST_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Suspects that are asked at once; further ones wait for their turn. Their queue-proxy may hold the probe.
const SUSPECT_PROBES_MAX: usize = 256;

/// How much is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLimits {
    /// Probes under way over all Revisions: a connection each. Default 1,024. Further ones wait for their turn, in
    /// order.
    pub at_once: usize,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { at_once: 1_024 }
    }
}

/// The endpoints of all Revisions of a cluster. Clones are the same.
#[derive(Clone, Debug)]
pub struct ClusterEndpoints {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    throttler: Throttler,
    starts: ColdStarts,
    table: Mutex<Table>,
    /// There are orders in the table.
    ordered: Notify,
    limits: ProbeLimits,
    /// One for each probe under way.
    places: Semaphore,
}

#[derive(Debug, Default)]
struct Table {
    /// Behind pointers: up to half of a table is empty.
    revisions: RevisionMap<Box<Entry>>,
    replicas: Replicas,
    mesh: Mesh,
    /// When to ask whom, or no more: the latest for each target that the task has not fetched.
    orders: HashMap<(RevisionId, Target), Option<Instant>>,
    /// How many are asked, those that pause among them.
    asking: usize,
}

/// One Revision.
#[derive(Debug)]
struct Entry {
    backends: Backends,
    /// `None`: only its replicas are known yet.
    revision: Option<Revision>,
    /// Its own, where they are told for each Revision.
    replicas: Option<Replicas>,
}

#[derive(Debug)]
struct Revision {
    spec: Arc<RevisionSpec>,
    private_service: Arc<str>,
    /// Slots per endpoint that the throttler knows of. `None`: those of `spec`, or others that we told it before.
    slots: Option<ContainerConcurrency>,
}

/// All Revisions' endpoints, for the admin.
#[derive(Clone, Debug)]
pub struct EndpointsState {
    /// In order of their ids.
    pub revisions: Vec<RevisionEndpoints>,
    /// Whom we share with, unless a Revision says otherwise.
    pub replicas: Replicas,
    /// What is configured about meshes.
    pub mesh: Mesh,
    /// How many are asked, those that pause or wait for their turn among them.
    pub asking: usize,
    /// Probes under way.
    pub probes: usize,
}

/// One Revision's endpoints.
#[derive(Clone, Debug)]
pub struct RevisionEndpoints {
    /// Which.
    pub id: RevisionId,
    /// Its Pods.
    pub backends: BackendsState,
    /// Whom we share them with.
    pub replicas: Replicas,
    /// Those that are ours.
    pub share: Share,
}

impl ClusterEndpoints {
    /// No Revisions, and the task that asks their Pods by `dial`: spawn it. It never ends.
    pub fn new<D: Dial + 'static>(
        throttler: Throttler,
        dial: D,
        limits: ProbeLimits,
    ) -> (Self, impl Future<Output = ()> + Send + use<D>) {
        let shared = Arc::new(Shared {
            starts: throttler.cold_starts(),
            throttler,
            table: Mutex::default(),
            ordered: Notify::new(),
            limits,
            places: Semaphore::new(limits.at_once),
        });
        let asking = asking::run(Arc::clone(&shared), Arc::new(dial));
        (Self { shared }, asking)
    }

    /// These are the Revision's Pods now. `private_service` is the name of the Service that selects them.
    ///
    /// Level-triggered and idempotent. The throttler must know the Revision, by `spec`: call this after
    /// [`Throttler::upsert`], and again after each further one, because behind a ClusterIP a limit is another one here.
    pub fn set(
        &self,
        id: &RevisionId,
        spec: &Arc<RevisionSpec>,
        private_service: &Arc<str>,
        pods: Pods,
    ) {
        self.change(|table, throttler, now| {
            let mesh = table.mesh;
            let entry = table
                .revisions
                .entry(id.clone())
                .or_insert_with(|| Box::new(Entry::new(mesh)));
            let mut orders = Vec::new();
            let changed = entry.backends.set_pods(pods, now, &mut orders);
            let before = entry.revision.take();
            let is_new = before.is_none();
            let slots = before.map_or(Some(spec.concurrency), |before| before.slots);
            let slots = slots.filter(|slots| *slots == spec.concurrency);
            entry.revision = Some(Revision {
                spec: Arc::clone(spec),
                private_service: Arc::clone(private_service),
                slots,
            });
            if is_new || changed || slots.is_none() {
                entry.publish(id, table.replicas, throttler);
            }
            table.order(id, orders);
        });
    }

    /// The Revision is gone: nobody is asked any more, and its replicas are forgotten. The throttler is not told:
    /// whoever calls this calls [`Throttler::remove`].
    pub fn remove(&self, id: &RevisionId) {
        self.change(|table, _, _| {
            if let Some(entry) = table.revisions.remove(id) {
                let mut orders = Vec::new();
                entry.backends.stop(&mut orders);
                table.order(id, orders);
            }
        });
    }

    /// Whom we share limited Revisions with: our place among the ready replicas. Shares change at once.
    ///
    /// While we are not among them our last place counts ([`Replicas::updated`]).
    pub fn set_replicas(&self, replicas: Replicas) {
        self.change(|table, throttler, _| {
            let replicas = table.replicas.updated(replicas);
            if replicas == table.replicas {
                return;
            }
            table.replicas = replicas;
            let general = table.revisions.iter_mut();
            for (id, entry) in general.filter(|(_, entry)| entry.replicas.is_none()) {
                entry.publish_if_shared(id, replicas, throttler);
            }
        });
    }

    /// Whom we share this Revision with, where each has replicas of its own: our place among the ready addresses of its
    /// public Endpoints. May come before [`set`](Self::set). Its share changes at once.
    pub fn set_revision_replicas(&self, id: &RevisionId, replicas: Replicas) {
        self.change(|table, throttler, _| {
            let mesh = table.mesh;
            let entry = table
                .revisions
                .entry(id.clone())
                .or_insert_with(|| Box::new(Entry::new(mesh)));
            let before = entry.replicas;
            let replicas = before.unwrap_or_default().updated(replicas);
            entry.replicas = Some(replicas);
            if before != entry.replicas {
                entry.publish_if_shared(id, replicas, throttler);
            }
        });
    }

    /// `mesh-compatibility-mode` and `enable-mesh-pod-addressability`. A change asks all Pods anew for which it means
    /// something.
    pub fn set_mesh(&self, mode: MeshMode, passthrough: bool) {
        let mesh = Mesh { mode, passthrough };
        self.change(|table, throttler, now| {
            table.mesh = mesh;
            let mut ordered = Vec::new();
            for (id, entry) in &mut table.revisions {
                let mut orders = Vec::new();
                if entry.backends.set_mesh(mesh, now, &mut orders) {
                    entry.publish(id, table.replicas, throttler);
                }
                if !orders.is_empty() {
                    ordered.push((id.clone(), orders));
                }
            }
            for (id, orders) in ordered {
                table.order(&id, orders);
            }
        });
    }

    /// The Revision's Pods that are known, used or not.
    pub fn pods(&self, id: &RevisionId) -> Vec<Endpoint> {
        let table = self.shared.table.lock();
        let entry = table.revisions.get(id);
        let pods = entry.map(|entry| entry.backends.state().pods);
        drop(table);
        let pods = pods.unwrap_or_default().into_iter();
        pods.map(|pod| pod.asked.endpoint).collect()
    }

    /// Everything that is known, for the admin.
    pub fn state(&self) -> EndpointsState {
        let table = self.shared.table.lock();
        let revisions = table.revisions.iter().filter_map(|(id, entry)| {
            let replicas = entry.replicas.unwrap_or(table.replicas);
            let concurrency = entry.revision.as_ref()?.spec.concurrency;
            Some(RevisionEndpoints {
                id: id.clone(),
                backends: entry.backends.state(),
                replicas,
                share: entry.backends.usable().share(concurrency, replicas),
            })
        });
        let mut state = EndpointsState {
            revisions: revisions.collect(),
            replicas: table.replicas,
            mesh: table.mesh,
            asking: table.asking,
            probes: self.shared.limits.at_once - self.shared.places.available_permits(),
        };
        drop(table);
        state.revisions.sort_by(|one, other| one.id.cmp(&other.id));
        state
    }

    /// What brings suspect endpoints back in a cluster, for [`prober::restore_suspects`].
    pub fn suspect_probe<D: Dial>(&self, dial: D) -> SuspectProbe<D> {
        SuspectProbe {
            endpoints: self.clone(),
            dial,
        }
    }

    fn change(&self, act: impl FnOnce(&mut Table, &Throttler, Instant)) {
        self.shared.change(act);
    }
}

impl Shared {
    fn change(&self, act: impl FnOnce(&mut Table, &Throttler, Instant)) {
        let mut table = self.table.lock();
        act(&mut table, &self.throttler, Instant::now());
        let has_orders = !table.orders.is_empty();
        drop(table);
        if has_orders {
            self.ordered.notify_one();
        }
    }

    /// A probe begins.
    fn asks(&self, id: &RevisionId, endpoint: Endpoint) {
        if self.starts.under_way() > 0 {
            let seen = Seen::new(Milestone::Probed, Instant::now());
            self.throttler
                .saw(id, seen.with_detail(&endpoint.to_string()));
        }
    }

    /// Probes have ended. All of one turn come together, so that a Revision of which many Pods pass is told once.
    fn answered(&self, answers: Vec<(RevisionId, Target, Outcome)>) {
        self.change(|table, throttler, now| {
            let crowd = u32::try_from(table.asking).unwrap_or(u32::MAX);
            let least_pause = PAUSE_PER_PROBE.saturating_mul(crowd).min(LEAST_PAUSE_MAX);
            let mut changed = HashSet::new();
            for (id, target, outcome) in answers {
                let Some(entry) = table.revisions.get_mut(&id) else {
                    continue;
                };
                debug!(revision = %id, ?target, ?outcome, "asked");
                let mut orders = Vec::new();
                let backends = &mut entry.backends;
                let through_pods = backends.uses_pods();
                let is_changed =
                    backends.answered(target, outcome, now, least_pause, &mut orders);
                if through_pods && !backends.uses_pods() {
                    warn!(revision = %id, "its Pods cannot be reached one by one, as in a mesh: using its ClusterIP");
                }
                table.order(&id, orders);
                if is_changed {
                    changed.insert(id);
                }
            }
            for id in changed {
                if let Some(entry) = table.revisions.get_mut(&id) {
                    entry.publish(&id, table.replicas, throttler);
                }
            }
        });
    }

    /// The host by which a mesh that passes on what names a Pod knows the Revision; `None`: it is not needed.
    ///
    /// Source: knative/serving `pkg/activator/net/revision_backends.go`, `probe`.
    fn passthrough_host(table: &Table, id: &RevisionId) -> Option<String> {
        let entry = table.revisions.get(id)?;
        let service = &entry.revision.as_ref()?.private_service;
        let host = || format!("{service}.{}", id.namespace());
        table.mesh.passthrough.then(host)
    }
}

impl Table {
    fn order(&mut self, id: &RevisionId, orders: Vec<Order>) {
        for order in orders {
            let (target, at) = match order {
                Order::Ask { target, at } => (target, Some(at)),
                Order::Stop(target) => (target, None),
            };
            self.orders.insert((id.clone(), target), at);
        }
    }
}

impl Entry {
    fn new(mesh: Mesh) -> Self {
        Self {
            backends: Backends::new(mesh),
            revision: None,
            replicas: None,
        }
    }

    /// Tells the throttler which endpoints are ours.
    fn publish(&mut self, id: &RevisionId, general: Replicas, throttler: &Throttler) {
        let Some(revision) = &mut self.revision else {
            return;
        };
        let replicas = self.replicas.unwrap_or(general);
        let usable = self.backends.usable();
        let share = usable.share(revision.spec.concurrency, replicas);
        if revision.slots != Some(share.slots) {
            // First the slots: either there is no endpoint, or it is the same ClusterIP.
            revision.slots = Some(share.slots);
            let spec = RevisionSpec {
                concurrency: share.slots,
                ..RevisionSpec::clone(&revision.spec)
            };
            throttler.upsert(id, Arc::new(spec), Parking::Allowed);
        }
        debug!(revision = %id, ?usable, ours = share.endpoints.len(), "endpoints changed");
        throttler.set_endpoints(id, share.endpoints);
    }

    /// Likewise, if who shares with us makes a difference.
    fn publish_if_shared(&mut self, id: &RevisionId, general: Replicas, throttler: &Throttler) {
        let is_limited = self
            .revision
            .as_ref()
            .is_some_and(|revision| revision.spec.concurrency != ContainerConcurrency::Unlimited);
        if is_limited {
            self.publish(id, general, throttler);
        }
    }
}

/// Asks the queue-proxy of a suspect endpoint whether it serves again. An endpoint of an ordinary Service has none:
/// there a connection is enough.
#[derive(Clone, Debug)]
pub struct SuspectProbe<D> {
    endpoints: ClusterEndpoints,
    dial: D,
}

impl<D: Dial> prober::Probe for SuspectProbe<D> {
    async fn probe(&self, revision: &RevisionId, endpoint: Endpoint) -> bool {
        if revision.is_service() {
            return probe::connect(&self.dial, endpoint).await.is_ok();
        }
        let host = {
            let table = self.endpoints.shared.table.lock();
            Shared::passthrough_host(&table, revision)
        };
        probe::ask(&self.dial, endpoint, revision, host.as_deref()).await == Outcome::Ready
    }

    fn deadline(&self) -> Duration {
        CONNECT_DEADLINE * 2 + ANSWER_DEADLINE
    }

    fn at_once(&self) -> usize {
        SUSPECT_PROBES_MAX
    }
}
