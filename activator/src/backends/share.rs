//! What may be used, and which part of it is ours when several Parkways share a Revision.

use std::num::NonZeroU32;

use crate::endpoint::Endpoint;
use crate::revision::ContainerConcurrency;
use crate::subset::assign_slice;

/// The most slots there are: Knative's bound of a breaker, 2³¹ − 1.
const SLOTS_MAX: u64 = i32::MAX as u64;

/// What may have requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// These Pods, in [Knative's order](super::by_address_text).
    Pods(Vec<Endpoint>),
    /// Whatever Pods are behind the ClusterIP of the private Service.
    ClusterIp {
        /// The ClusterIP and its port.
        endpoint: Endpoint,
        /// Pods that are ready, at least one.
        ready: usize,
    },
}

/// How many replicas of Parkway share a Revision, and which of them we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Our place among the ready replicas, in order of their addresses as text. `None`: we are not among them.
    pub index: Option<usize>,
    /// How many there are.
    pub count: usize,
}

/// The part of a Revision that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where requests may go.
    pub endpoints: Vec<Endpoint>,
    /// How many at once to each of them.
    pub slots: ContainerConcurrency,
}

impl Replicas {
    /// What counts once `news` are in: where we are not among the replicas, the last place we had stays, and the count
    /// with it. Who never had a place uses everything.
    ///
    /// Source: `handlePubEpsUpdate`, knative/serving `pkg/activator/net/throttler.go`.
    #[must_use]
    pub fn updated(self, news: Self) -> Self {
        if news.index.is_some() { news } else { self }
    }
}

impl Usable {
    /// The part that is ours. Without a limit that is everything.
    ///
    /// Through a ClusterIP nobody knows which Pod is reached: all slots of the ready Pods are shared out, at least one
    /// to each replica. Source: `calculateCapacity`, knative/serving `pkg/activator/net/throttler.go`.
    pub fn share(&self, concurrency: ContainerConcurrency, replicas: Replicas) -> Share {
        let (endpoints, slots) = match (self, concurrency) {
            (Self::Pods(pods), ContainerConcurrency::Unlimited) => (pods.clone(), concurrency),
            (Self::Pods(pods), ContainerConcurrency::Limited(_)) => {
                let ours = assign_slice(pods, replicas.index, replicas.count);
                (ours, concurrency)
            }
            (Self::ClusterIp { endpoint, .. }, ContainerConcurrency::Unlimited) => {
                (vec![*endpoint], concurrency)
            }
            (Self::ClusterIp { endpoint, ready }, ContainerConcurrency::Limited(limit)) => {
                (vec![*endpoint], part(limit, *ready, replicas))
            }
        };
        Share { endpoints, slots }
    }
}

/// Our part of the slots of `ready` Pods.
fn part(limit: NonZeroU32, ready: usize, replicas: Replicas) -> ContainerConcurrency {
    let sharers = match replicas.index {
        Some(_) => replicas.count.max(1) as u64,
        None => 1,
    };
    let all = u64::from(limit.get()).saturating_mul(ready as u64);
    let ours = (all.min(SLOTS_MAX) / sharers).max(1);
    ContainerConcurrency::from(u32::try_from(ours).unwrap_or(u32::MAX))
}
