//! When to probe which endpoint; the probe itself comes in as a trait.
//!
//! An endpoint is asked soon and often at first, then less and less: [`Cadence`] says when. It serves two purposes.
//! Whoever waits for a new endpoint learns of it within a fraction of its start time; and an endpoint that refused a
//! connection is back within a second of recovering ([`restore_suspects`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::endpoint::Endpoint;
use crate::revision::RevisionId;
use crate::throttler::Throttler;

/// Longest pause between two probes of a new endpoint.
pub const NEW_ENDPOINT_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Longest pause between two probes of a suspect endpoint.
pub const SUSPECT_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long a suspect may take to answer a probe, unless the probe says otherwise. As in knative/serving
/// `pkg/activator/net/revision_backends.go`, `probeTimeout`.
pub const SUSPECT_PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// Probes of suspects under way at once, unless the probe says otherwise; further ones wait for their turn.
pub const SUSPECT_PROBES_MAX: usize = 64;

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Pauses between probes: 1 ms at first, each longer than the last by the same fraction, up to a cap.
///
/// So the time at which an endpoint is found ready exceeds the time it took by no more than that fraction and a
/// millisecond, and never by more than the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    pause: Duration,
    cap: Duration,
    /// Each pause is longer by one part in this many.
    growth: u32,
}

impl Cadence {
    /// For an endpoint that is starting: pauses grow by a quarter each, to [`NEW_ENDPOINT_PAUSE_MAX`].
    pub fn new_endpoint() -> Self {
        Self::up_to(NEW_ENDPOINT_PAUSE_MAX, 4)
    }

    /// For an endpoint that refused a connection: pauses grow by a quarter each, to [`SUSPECT_PAUSE_MAX`].
    pub fn suspect() -> Self {
        Self::up_to(SUSPECT_PAUSE_MAX, 4)
    }

    /// For a Pod that has an address and does not listen yet: pauses grow slowly, by a sixty-fourth each, to
    /// [`NEW_ENDPOINT_PAUSE_MAX`].
    ///
    /// A refused connection costs both sides a few tens of microseconds, and a cold request waits for the first one
    /// that is accepted: after 160 ms the pause is 3.5 ms, after 3 s the cap.
    pub fn not_listening() -> Self {
        Self::up_to(NEW_ENDPOINT_PAUSE_MAX, 64)
    }

    /// How long to pause before the next probe.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause + pause / self.growth).min(self.cap);
        pause
    }

    fn up_to(cap: Duration, growth: u32) -> Self {
        Self {
            pause: FIRST_PAUSE,
            cap,
            growth,
        }
    }
}

/// Asks an endpoint whether it can take requests.
pub trait Probe {
    /// Whether the endpoint can take requests of the Revision. May be dropped before it has ended.
    fn probe(&self, revision: &RevisionId, endpoint: Endpoint)
    -> impl Future<Output = bool> + Send;

    /// How long one probe may take; a later answer counts as none. [`SUSPECT_PROBE_TIMEOUT`] unless said otherwise.
    fn deadline(&self) -> Duration {
        SUSPECT_PROBE_TIMEOUT
    }

    /// How many suspects are probed at once; further ones wait for their turn. [`SUSPECT_PROBES_MAX`] unless said
    /// otherwise: more, where a probe may take long.
    fn at_once(&self) -> usize {
        SUSPECT_PROBES_MAX
    }
}

/// Probes suspect endpoints until they answer, and then lets the throttler choose them again.
///
/// An endpoint that leaves or is restored by others is forgotten. At most [`Probe::at_once`] probes are under way at
/// once. Never ends.
///
/// # Cancel safety
///
/// Dropping it ends its probes; suspects it knew of stay suspect.
pub async fn restore_suspects(throttler: Throttler, probe: impl Probe) {
    let places = Semaphore::new(probe.at_once());
    let mut watched = HashSet::new();
    let mut rounds = FuturesUnordered::new();
    loop {
        // Both are cancel safe: what is suspect stays with the throttler, what is under way in `rounds`.
        tokio::select! {
            suspects = throttler.suspects() => {
                for suspect in suspects {
                    let suspect = Arc::new(suspect);
                    if watched.insert(Arc::clone(&suspect)) {
                        warn!(revision = %suspect.0, endpoint = %suspect.1, "endpoint set aside");
                        rounds.push(round(&probe, &places, suspect, Cadence::suspect()));
                    }
                }
            }
            Some((suspect, cadence, answered)) = rounds.next() => {
                let (revision, endpoint) = &*suspect;
                if answered {
                    throttler.restore(revision, *endpoint);
                    info!(%revision, %endpoint, "endpoint answers again");
                }
                // Asked after the answer: what is suspected (again) from here on is told by `suspects`.
                if throttler.is_suspect(revision, *endpoint) {
                    rounds.push(round(&probe, &places, suspect, cadence));
                } else {
                    watched.remove(&suspect);
                }
            }
        }
    }
}

/// A suspect, the pauses before its next probes, and whether it answered.
type Round = (Arc<(RevisionId, Endpoint)>, Cadence, bool);

/// One pause and one probe.
async fn round(
    probe: &impl Probe,
    places: &Semaphore,
    suspect: Arc<(RevisionId, Endpoint)>,
    mut cadence: Cadence,
) -> Round {
    sleep(cadence.next_pause()).await;
    let place = places.acquire().await;
    let answer = timeout(probe.deadline(), probe.probe(&suspect.0, suspect.1)).await;
    drop(place);
    (suspect, cadence, answer == Ok(true))
}

#[cfg(test)]
mod tests;
