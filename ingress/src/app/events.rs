//! What local processes tell, joined to queues and to the rollout.

use std::sync::Arc;
use std::time::Duration;

use parkway_activator::cold_start::{Milestone, Seen};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::embedded::Scaler;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::standalone::{Events, Processes};

/// How many events may wait for the rollout. When full, further ones are dropped with a warning: a later event of the
/// same Revision, or the next edit of its manifest, sets the rollout going again.
const EVENTS: usize = 1_024;

/// What the rollout needs to know.
#[derive(Debug)]
pub(super) enum RolloutEvent {
    /// A Revision has its first ready process.
    Ready(RevisionId),
    /// A Revision cannot start.
    Failed(RevisionId, String),
}

/// Tells queues at once, and the rollout through a channel.
#[derive(Debug)]
pub(super) struct ProcessEvents {
    throttler: Throttler,
    rollout: mpsc::Sender<RolloutEvent>,
}

impl ProcessEvents {
    pub(super) fn new(throttler: Throttler) -> (Arc<Self>, mpsc::Receiver<RolloutEvent>) {
        let (rollout, events) = mpsc::channel(EVENTS);
        (Arc::new(Self { throttler, rollout }), events)
    }

    fn tell(&self, event: RolloutEvent) {
        if let Err(error) = self.rollout.try_send(event) {
            warn!(%error, "a rollout misses an event");
        }
    }
}

impl Events for ProcessEvents {
    fn endpoints(&self, id: &RevisionId, ready: Vec<Endpoint>) {
        self.throttler.set_endpoints(id, ready);
    }

    fn start_failed(&self, id: &RevisionId, reason: String, retry_in: Duration) {
        warn!(revision = %id, %reason, retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX), "cannot start");
        self.throttler
            .start_failed(id, reason.as_str().into(), retry_in);
        self.tell(RolloutEvent::Failed(id.clone(), reason));
    }

    fn started(&self, id: &RevisionId, pid: i32, at: Instant) {
        let seen = Seen::new(Milestone::Spawned, at).with_detail(&format!("pid {pid}"));
        self.throttler.saw(id, seen);
    }

    fn probed(&self, id: &RevisionId) {
        self.throttler
            .saw(id, Seen::new(Milestone::Probed, Instant::now()));
    }

    fn ready(&self, id: &RevisionId, took: Duration) {
        info!(revision = %id, took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "ready");
        self.tell(RolloutEvent::Ready(id.clone()));
    }

    fn is_idle(&self, id: &RevisionId, endpoint: Endpoint) -> bool {
        let Some(state) = self.throttler.revision_state(id) else {
            return true;
        };
        state
            .endpoints
            .iter()
            .all(|known| known.endpoint != endpoint || known.in_flight == 0)
    }
}

/// Scales local processes; endpoints that are someone else's are only counted.
#[derive(Debug)]
pub(super) struct ScaleProcesses {
    pub(super) processes: Processes,
    pub(super) throttler: Throttler,
}

impl Scaler for ScaleProcesses {
    fn scale(&self, id: &RevisionId, replicas: u32) {
        if replicas > 0 {
            let seen = Seen::new(Milestone::Scaled, Instant::now());
            let detail = match replicas {
                1 => "1 replica".to_owned(),
                _ => format!("{replicas} replicas"),
            };
            self.throttler.saw(id, seen.with_detail(&detail));
        }
        self.processes.scale(id, replicas);
    }

    fn ready(&self, id: &RevisionId) -> u32 {
        let Some(state) = self.throttler.revision_state(id) else {
            return 0;
        };
        let ready = state
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ready)
            .count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }
}
