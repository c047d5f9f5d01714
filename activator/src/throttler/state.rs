//! What the admin shows: plain values, copied out under the lock.

use std::sync::Arc;

use tokio::time::Instant;

use super::histogram::Histogram;
use super::{Bound, Parking, Refusal};
use crate::endpoint::Endpoint;
use crate::revision::{RevisionId, RevisionSpec};

/// One Revision's queue and endpoints at a moment.
#[derive(Clone, Debug)]
pub struct RevisionState {
    /// Which.
    pub id: RevisionId,
    /// What it promises, its concurrency among it.
    pub spec: Arc<RevisionSpec>,
    /// Whether its requests wait for an endpoint.
    pub parking: Parking,
    /// The ready ones in address order, then those that left while busy.
    pub endpoints: Vec<EndpointState>,
    /// Requests parked.
    pub parked: usize,
    /// The most that were parked at once since the Revision is known.
    pub most_parked: usize,
    /// Bytes they hold.
    pub parked_bytes: usize,
    /// Requests that hold a permit, over all endpoints.
    pub in_flight: u64,
    /// Counted since the Revision is known.
    pub counters: Counters,
    /// Seconds spent parked by all that are not parked any more.
    pub parked_seconds: Histogram,
    /// Seconds from the first request parked without an endpoint to the first ready endpoint.
    pub cold_start_seconds: Histogram,
    /// When the start under way began.
    pub starting_since: Option<Instant>,
    /// How long a start takes at most, as nine of ten of the last ones did; none before the first.
    pub usual_start: Option<std::time::Duration>,
    /// Why the last start failed; until an endpoint is ready.
    pub failure: Option<Arc<str>>,
}

/// One endpoint at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its address.
    pub endpoint: Endpoint,
    /// Requests that hold a permit for it.
    pub in_flight: u64,
    /// How many of these hold a slot: all with a limit; without one, those that passed through the queue.
    pub slots_in_use: u32,
    /// In the set of ready endpoints; otherwise it has left and its last requests have not ended.
    pub is_ready: bool,
    /// Set aside, because it refused a connection.
    pub is_suspect: bool,
}

/// What happened to a Revision's requests.
///
/// `parked_total` = parked now + `released` + `cancelled` + those among `refused` that had parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Got a permit without parking.
    pub granted_at_once: u64,
    /// Parked.
    pub parked_total: u64,
    /// Parked and got a permit, whether or not the client was still there to use it.
    pub released: u64,
    /// Parked and gave up: the client left, a deadline passed, or it was to hold more than allowed.
    pub cancelled: u64,
    /// Refused, at once or after having parked.
    pub refused: Refused,
    /// Starts begun: a request parked while there was no endpoint.
    pub cold_starts: u64,
}

/// Refusals by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// [`Bound::Depth`].
    pub depth: u64,
    /// [`Bound::Bytes`].
    pub bytes: u64,
    /// [`Bound::TotalBytes`].
    pub total_bytes: u64,
    /// [`Bound::ClientShare`].
    pub client_share: u64,
    /// [`Refusal::StartFailed`].
    pub start_failed: u64,
    /// [`Refusal::RevisionGone`].
    pub revision_gone: u64,
    /// [`Refusal::NoEndpoint`].
    pub no_endpoint: u64,
    /// [`Refusal::Asleep`].
    pub asleep: u64,
    /// [`Refusal::Draining`].
    pub draining: u64,
}

impl Refused {
    pub(super) fn count(&mut self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::QueueFull { bound, .. } => match bound {
                Bound::Depth => &mut self.depth,
                Bound::Bytes => &mut self.bytes,
                Bound::TotalBytes => &mut self.total_bytes,
                Bound::ClientShare => &mut self.client_share,
            },
            Refusal::StartFailed { .. } => &mut self.start_failed,
            Refusal::RevisionGone | Refusal::UnknownRevision => &mut self.revision_gone,
            Refusal::NoEndpoint => &mut self.no_endpoint,
            Refusal::Asleep => &mut self.asleep,
            Refusal::Draining => &mut self.draining,
        };
        *counter += 1;
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        let full = self.depth + self.bytes + self.total_bytes + self.client_share;
        full + self.start_failed
            + self.revision_gone
            + self.no_endpoint
            + self.asleep
            + self.draining
    }
}
