//! Which Pods of a Revision in a cluster may be used, and which must be asked first.
//!
//! EndpointSlices say which Pods there are. Whether a Pod can be reached and serves, its queue-proxy says: a Pod is
//! asked from the moment it has an address, since Kubernetes tells its readiness late. [`Backends`] is what is known
//! of one Revision, pure: [`Pods`] and [`Outcome`]s go in, [`Order`]s for whoever asks and [`Usable`] endpoints come
//! out.
//!
//! ```text
//!                  is to be asked              Outcome::Ready
//!   appears ──▶ idle ──────────────▶ asking ──────────────────▶ passed
//!                ▲                  │   ▲ │ any other: again,     │
//!                ├──────────────────┘   └─┘ after a pause         │
//!                │  is not to be asked                            │
//!                └────────── ready → not ready ───────────────────┘
//! ```
//!
//! The rules are those of knative/serving `pkg/activator/net/revision_backends.go`: who has passed is not asked again
//! until it leaves or turns from ready to not ready; one that Kubernetes does not call ready counts all the same where
//! its queue-proxy knows everything ([`Pods::trusts_early`]); and in a mesh that lets nobody reach single Pods the
//! Revision is used through the ClusterIP of its private Service, once that has passed.
//!
//! Two things are different. Each Pod has a probe of its own that may take long, instead of a round for all of them
//! every 200 ms that is given up after 300: queue-proxy holds a probe for up to 10 s while it looks at its container
//! every 50 ms, so an answer that is waited for comes as soon as there is one, whatever the network's delay. And the
//! ClusterIP is only asked about once every Pod that Kubernetes calls ready has been asked *since*, in vain: a container
//! that becomes ready between two probes is not taken for a mesh.

mod asked;
mod share;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use self::asked::Asked;
pub use self::asked::{Phase, STALE_PROBE};
pub use self::share::{Replicas, Share, Usable};
use crate::endpoint::Endpoint;

/// Pods of one Revision that are looked at; further ones are left out, those that are not ready first.
///
/// Knative sees 1,000, because it reads Endpoints, which Kubernetes truncates.
pub const PODS_MAX: usize = 4_096;

/// What EndpointSlices say of one Revision's Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// Those that Kubernetes calls ready.
    pub ready: Vec<Endpoint>,
    /// Those that have an address, are not ready yet or any more, and are not terminating.
    pub not_ready: Vec<Endpoint>,
    /// Whether a Pod that is not ready may be used when its queue-proxy says yes. Not with an exec readiness probe,
    /// which queue-proxy replaces by a connection, nor with any startup probe, which only the kubelet runs.
    pub trusts_early: bool,
    /// ClusterIP and port of the private Service, where there is one: the way in if a mesh hides the Pods.
    pub service: Option<Endpoint>,
}

/// Whether Pods can be reached one by one: `mesh-compatibility-mode`.
///
/// Source: knative/networking `pkg/config/config.go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshMode {
    /// Found out: every Pod is asked before it is used, and if none can be reached the ClusterIP is tried.
    #[default]
    Auto,
    /// They cannot: the ClusterIP is used.
    Enabled,
    /// They can: what Kubernetes calls ready is used unasked, and the ClusterIP never.
    Disabled,
}

/// What is configured about meshes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Whether Pods can be reached one by one.
    pub mode: MeshMode,
    /// `enable-mesh-pod-addressability`: the mesh passes on what names a Pod. So Pods are used, whatever the mode, and
    /// the ClusterIP never is.
    pub passthrough: bool,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A Pod.
    Pod(Endpoint),
    /// Whoever answers at the ClusterIP of the private Service.
    Service(Endpoint),
}

impl Target {
    /// Where to connect.
    pub fn endpoint(self) -> Endpoint {
        match self {
            Self::Pod(endpoint) | Self::Service(endpoint) => endpoint,
        }
    }
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Queue-proxy says yes: status 200 and the body `queue`.
    Ready,
    /// Any other answer, with its status.
    NotReady(u16),
    /// Nobody listens.
    Refused,
    /// There is no way there, or no connection to be had on our side.
    Unreachable,
    /// No connection, or no answer, in time.
    TimedOut,
    /// The connection ended before an answer, or the answer was no HTTP.
    Broken,
    /// It was to be spoken to by TLS, and does not, or is not who it should be.
    Untrusted,
}

impl Outcome {
    /// Whether a mesh may be why: proxies answer 502 or 503 where they let nobody through, or let connections fail.
    ///
    /// Source: `IsPotentialMeshErrorResponse`, knative/networking `pkg/http/error.go`. Queue-proxy says 503, too,
    /// when its container is not ready.
    pub fn is_mesh_suspect(self) -> bool {
        match self {
            // Somebody is there and has shown who: no mesh stands between.
            Self::Ready | Self::Untrusted => false,
            Self::NotReady(status) => matches!(status, 502 | 503),
            Self::Refused | Self::Unreachable | Self::TimedOut | Self::Broken => true,
        }
    }
}

/// What whoever asks shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Asks, at this moment, and tells how it ended. Takes the place of whatever was ordered for this target before.
    Ask {
        /// Whom.
        target: Target,
        /// When.
        at: Instant,
    },
    /// Asks no more, and forgets an answer that is on its way.
    Stop(Target),
}

/// What is known of one Revision's Pods. See the [module](self).
#[derive(Debug)]
pub struct Backends {
    mesh: Mesh,
    /// In [Knative's order](by_address_text).
    pods: Vec<Pod>,
    left_out: usize,
    trusts_early: bool,
    service: Option<Asked>,
    /// Nothing was found, in [`MeshMode::Auto`], that hides the Pods. Once something was, that stays so.
    is_direct: bool,
}

#[derive(Debug)]
struct Pod {
    asked: Asked,
    /// To Kubernetes.
    is_ready: bool,
    /// Was asked since it is ready, and a mesh may be why that was in vain.
    is_suspect: bool,
}

impl Backends {
    /// Nothing is known yet.
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            pods: Vec::new(),
            left_out: 0,
            trusts_early: false,
            service: None,
            is_direct: true,
        }
    }

    /// EndpointSlices say this now. Says whether what is usable has changed.
    ///
    /// Level-triggered and idempotent.
    pub fn set_pods(&mut self, pods: Pods, now: Instant, orders: &mut Vec<Order>) -> bool {
        let before = self.usable();
        self.trusts_early = pods.trusts_early;
        let (listed, left_out) = in_order(pods.ready, pods.not_ready);
        self.left_out = left_out;
        if !self.lists(&listed) {
            self.merge(listed, now, orders);
        }
        self.set_service(pods.service, now, orders);
        self.settle(now, orders);
        before != self.usable()
    }

    /// The mesh is configured like this now. Says whether what is usable has changed.
    ///
    /// What was found out about a mesh is forgotten. Pods must pass again where that means something else than before:
    /// if they are asked in another way, or were trusted unasked.
    pub fn set_mesh(&mut self, mesh: Mesh, now: Instant, orders: &mut Vec<Order>) -> bool {
        if mesh == self.mesh {
            return false;
        }
        let before = self.usable();
        let pods_must_pass_again =
            mesh.mode == MeshMode::Auto || mesh.passthrough != self.mesh.passthrough;
        self.mesh = mesh;
        self.is_direct = true;
        if let Some(service) = &mut self.service
            && service.rest(now)
        {
            orders.push(Order::Stop(Target::Service(service.endpoint())));
        }
        if pods_must_pass_again {
            for pod in &mut self.pods {
                if pod.asked.rest(now) {
                    orders.push(Order::Stop(Target::Pod(pod.asked.endpoint())));
                }
            }
        }
        self.settle(now, orders);
        before != self.usable()
    }

    /// A probe has ended. Says whether what is usable has changed.
    ///
    /// What is asked again is asked after `least_pause` at the earliest. An answer of a target that is not being asked
    /// is left aside.
    pub fn answered(
        &mut self,
        target: Target,
        outcome: Outcome,
        now: Instant,
        least_pause: Duration,
        orders: &mut Vec<Order>,
    ) -> bool {
        let asked = match target {
            Target::Pod(endpoint) => self.pod_mut(endpoint).map(|pod| &mut pod.asked),
            Target::Service(endpoint) => self
                .service
                .as_mut()
                .filter(|service| service.endpoint() == endpoint),
        };
        let Some(asked) = asked.filter(|asked| asked.phase() == Phase::Asking) else {
            return false;
        };
        if let Some(at) = asked.answer(outcome, now, least_pause) {
            orders.push(Order::Ask { target, at });
        }
        let changed = match target {
            Target::Pod(endpoint) => self.pod_answered(endpoint, outcome),
            Target::Service(_) => self.service_answered(outcome),
        };
        self.settle(now, orders);
        changed
    }

    /// What may have requests now.
    pub fn usable(&self) -> Usable {
        if self.uses_pods() {
            let usable = self.pods.iter().filter(|pod| self.is_usable(pod));
            return Usable::Pods(usable.map(|pod| pod.asked.endpoint()).collect());
        }
        let ready = self.ready();
        match &self.service {
            Some(service) if service.phase() == Phase::Passed && ready > 0 => Usable::ClusterIp {
                endpoint: service.endpoint(),
                ready,
            },
            Some(_) | None => Usable::Pods(Vec::new()),
        }
    }

    /// Everything that is known, for the admin.
    pub fn state(&self) -> BackendsState {
        let pods = self.pods.iter().map(|pod| PodState {
            is_ready: pod.is_ready,
            is_usable: self.is_usable(pod),
            asked: pod.asked.state(),
        });
        BackendsState {
            pods: pods.collect(),
            left_out: self.left_out,
            uses_pods: self.uses_pods(),
            service: self.service.as_ref().map(Asked::state),
        }
    }

    /// Whom to stop asking, when the Revision is gone.
    pub fn stop(self, orders: &mut Vec<Order>) {
        let pods = self
            .pods
            .iter()
            .map(|pod| (Target::Pod as fn(_) -> _, &pod.asked));
        let service = self
            .service
            .iter()
            .map(|it| (Target::Service as fn(_) -> _, it));
        let asking = pods
            .chain(service)
            .filter(|(_, asked)| asked.phase() == Phase::Asking);
        orders.extend(asking.map(|(target, asked)| Order::Stop(target(asked.endpoint()))));
    }

    /// Pods are used one by one, rather than through the ClusterIP.
    pub fn uses_pods(&self) -> bool {
        self.mesh.passthrough
            || match self.mesh.mode {
                MeshMode::Auto => self.is_direct,
                MeshMode::Enabled => false,
                MeshMode::Disabled => true,
            }
    }

    fn is_usable(&self, pod: &Pod) -> bool {
        let is_trusted = pod.is_ready || self.trusts_early;
        self.uses_pods() && is_trusted && pod.asked.phase() == Phase::Passed
    }

    fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| pod.is_ready).count()
    }

    fn lists(&self, listed: &[(Endpoint, bool)]) -> bool {
        let known = self
            .pods
            .iter()
            .map(|pod| (pod.asked.endpoint(), pod.is_ready));
        known.eq(listed.iter().copied())
    }

    /// Takes in the Pods there are now; both lists are in order.
    fn merge(&mut self, listed: Vec<(Endpoint, bool)>, now: Instant, orders: &mut Vec<Order>) {
        let mut leave = |pod: &Pod| {
            if pod.asked.phase() == Phase::Asking {
                orders.push(Order::Stop(Target::Pod(pod.asked.endpoint())));
            }
        };
        let mut known = std::mem::take(&mut self.pods).into_iter().peekable();
        let mut restarted = Vec::new();
        self.pods.reserve_exact(listed.len());
        for (endpoint, is_ready) in listed {
            let is_before = |pod: &Pod| by_address_text(pod.asked.endpoint(), endpoint).is_lt();
            while let Some(gone) = known.next_if(is_before) {
                leave(&gone);
            }
            let stays = known.next_if(|pod| pod.asked.endpoint() == endpoint);
            let mut pod = stays.unwrap_or_else(|| Pod::new(endpoint, is_ready, now));
            if pod.is_ready != is_ready && pod.turn(is_ready, now) {
                restarted.push(Order::Ask {
                    target: Target::Pod(endpoint),
                    at: now,
                });
            }
            self.pods.push(pod);
        }
        known.for_each(|gone| leave(&gone));
        orders.append(&mut restarted);
    }

    fn set_service(&mut self, service: Option<Endpoint>, now: Instant, orders: &mut Vec<Order>) {
        if self.service.as_ref().map(Asked::endpoint) == service {
            return;
        }
        if let Some(old) = &self.service
            && old.phase() == Phase::Asking
        {
            orders.push(Order::Stop(Target::Service(old.endpoint())));
        }
        self.service = service.map(|endpoint| Asked::new(endpoint, now));
    }

    fn pod_answered(&mut self, endpoint: Endpoint, outcome: Outcome) -> bool {
        let Some(pod) = self.pod_mut(endpoint) else {
            return false;
        };
        pod.is_suspect |= pod.is_ready && outcome.is_mesh_suspect();
        outcome == Outcome::Ready && (pod.is_ready || self.trusts_early)
    }

    fn service_answered(&mut self, outcome: Outcome) -> bool {
        if outcome == Outcome::Ready {
            self.is_direct = false; // only matters in `Auto`
        }
        outcome == Outcome::Ready
    }

    /// Begins to ask whom it must, and no longer asks whom it need not.
    fn settle(&mut self, now: Instant, orders: &mut Vec<Order>) {
        let uses_pods = self.uses_pods();
        let asks_all = self.mesh.mode == MeshMode::Auto;
        let trusts_early = self.trusts_early;
        for pod in &mut self.pods {
            let target = Target::Pod(pod.asked.endpoint());
            let is_trusted = uses_pods && !asks_all && pod.is_ready;
            let is_asked = uses_pods && (asks_all || (trusts_early && !pod.is_ready));
            if is_trusted {
                if pod.asked.trust(now) {
                    orders.push(Order::Stop(target));
                }
            } else if is_asked {
                if pod.asked.begin(now) {
                    orders.push(Order::Ask { target, at: now });
                }
            } else if (pod.asked.phase() == Phase::Asking || !uses_pods) && pod.asked.rest(now) {
                orders.push(Order::Stop(target));
            }
        }
        self.settle_service(now, orders);
    }

    fn settle_service(&mut self, now: Instant, orders: &mut Vec<Order>) {
        let is_asked = self.asks_service();
        let is_empty = self.pods.is_empty();
        let Some(service) = &mut self.service else {
            return;
        };
        let target = Target::Service(service.endpoint());
        let is_asking = service.phase() == Phase::Asking;
        if is_asked {
            if service.begin(now) {
                orders.push(Order::Ask { target, at: now });
            }
        } else if (is_asking || is_empty) && service.rest(now) {
            orders.push(Order::Stop(target));
        }
    }

    fn asks_service(&self) -> bool {
        let may = !self.mesh.passthrough && self.mesh.mode != MeshMode::Disabled;
        may && self.ready() > 0 && (!self.uses_pods() || self.seems_meshed())
    }

    /// No Pod can be used; those that should be usable have been asked, and nothing tells that they can be reached.
    fn seems_meshed(&self) -> bool {
        self.pods.iter().all(|pod| {
            let last = pod.asked.last();
            let is_reached = last.is_some_and(|outcome| !outcome.is_mesh_suspect());
            !self.is_usable(pod) && !is_reached && (pod.is_suspect || !pod.is_ready)
        })
    }

    fn pod_mut(&mut self, endpoint: Endpoint) -> Option<&mut Pod> {
        let place = self
            .pods
            .binary_search_by(|pod| by_address_text(pod.asked.endpoint(), endpoint));
        self.pods.get_mut(place.ok()?)
    }
}

impl Pod {
    fn new(endpoint: Endpoint, is_ready: bool, now: Instant) -> Self {
        Self {
            asked: Asked::new(endpoint, now),
            is_ready,
            is_suspect: false,
        }
    }

    /// Kubernetes has changed its mind. Says whether it is to be asked at once, though it is being asked already.
    fn turn(&mut self, is_ready: bool, now: Instant) -> bool {
        self.is_ready = is_ready;
        self.is_suspect = false;
        if self.asked.phase() == Phase::Passed && !is_ready {
            self.asked.rest(now); // and whether it is asked again is for the rules
            return false;
        }
        self.asked.hurry(now)
    }
}

/// Everything that is known of one Revision's Pods.
#[derive(Clone, Debug)]
pub struct BackendsState {
    /// In [Knative's order](by_address_text).
    pub pods: Vec<PodState>,
    /// Pods beyond [`PODS_MAX`].
    pub left_out: usize,
    /// Pods are used one by one, rather than through the ClusterIP.
    pub uses_pods: bool,
    /// The private Service's ClusterIP.
    pub service: Option<AskedState>,
}

/// One Pod.
#[derive(Clone, Copy, Debug)]
pub struct PodState {
    /// To Kubernetes.
    pub is_ready: bool,
    /// May have requests, of this Parkway or another.
    pub is_usable: bool,
    /// What is known from asking.
    pub asked: AskedState,
}

/// What is known of somebody from asking.
#[derive(Clone, Copy, Debug)]
pub struct AskedState {
    /// Its address.
    pub endpoint: Endpoint,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// How the last probe ended.
    pub last: Option<Outcome>,
}

/// The order in which Knative shares Pods out among activators: that of `ip:port` as text. So `10.0.0.10:8012` comes
/// before `10.0.0.9:8012`, and before `10.0.0.1:8012` too, as a colon sorts behind digits.
///
/// Source: `updateThrottlerState` and `assignSlice`, knative/serving `pkg/activator/net/throttler.go`.
pub fn by_address_text(one: Endpoint, other: Endpoint) -> Ordering {
    Text::of(one).as_bytes().cmp(Text::of(other).as_bytes())
}

/// An address as text, without the heap: big sets are compared often.
struct Text {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Text {
    /// The longest there is: `[` + 39 of IPv6 or 45 with a dotted end + `%` and a scope of 10 + `]:` and a port of 5.
    const ROOM: usize = 64;

    fn of(endpoint: Endpoint) -> Self {
        let mut text = Self {
            bytes: [0; Self::ROOM],
            length: 0,
        };
        let written = write!(text, "{endpoint}");
        debug_assert!(
            written.is_ok(),
            "{endpoint} is longer than an address can be"
        );
        text
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let end = self.length + piece.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(piece.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Both lists as one in order, each Pod once; and how many are beyond [`PODS_MAX`]. Ready wins, as slices that change
/// one after the other may name a Pod twice.
fn in_order(ready: Vec<Endpoint>, not_ready: Vec<Endpoint>) -> (Vec<(Endpoint, bool)>, usize) {
    let ready = ready.into_iter().map(|endpoint| (endpoint, true));
    let not_ready = not_ready.into_iter().map(|endpoint| (endpoint, false));
    let mut all: Vec<_> = ready.chain(not_ready).collect();
    let order = |one: &(Endpoint, bool), other: &(Endpoint, bool)| {
        by_address_text(one.0, other.0).then(other.1.cmp(&one.1))
    };
    all.sort_by(order);
    all.dedup_by_key(|(endpoint, _)| *endpoint);
    let left_out = all.len().saturating_sub(PODS_MAX);
    if left_out > 0 {
        all.sort_by_key(|(_, is_ready)| !is_ready);
        all.truncate(PODS_MAX);
        all.sort_by(order);
    }
    (all, left_out)
}
