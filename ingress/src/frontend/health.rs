//! What the kubelet is told at the activator ports.
//!
//! Health fails before anything else changes: from then on no new traffic is meant for us, but what comes all the same is
//! served, until the drain begins.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Why the process is unhealthy from SIGTERM on (knative/serving `cmd/activator/main.go`).
pub const TERMINATING: &str = "received SIGTERM from kubelet";

/// Whether the process is healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// Probes are answered 200.
    #[default]
    Healthy,
    /// Probes are answered 500 with this reason.
    Unhealthy(Cow<'static, str>),
}

/// Whether the process is healthy at any moment; read without a lock. By default it is and stays so.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<ArcSwap<HealthState>>);

impl Health {
    /// Why it is not healthy at this moment, if it is not.
    pub fn reason(&self) -> Option<String> {
        match &**self.0.load() {
            HealthState::Healthy => None,
            HealthState::Unhealthy(reason) => Some(reason.to_string()),
        }
    }
}

/// Says whether the process is healthy.
#[derive(Debug)]
pub struct HealthPublisher(Health);

impl HealthPublisher {
    /// A publisher, and what readers hold.
    pub fn new(first: HealthState) -> (Self, Health) {
        let health = Health(Arc::new(ArcSwap::from_pointee(first)));
        (Self(health.clone()), health)
    }

    /// From now on it is like this.
    pub fn publish(&self, state: HealthState) {
        self.0.0.store(Arc::new(state));
    }
}
