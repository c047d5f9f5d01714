//! Milestones of starts that nobody else would notice, and starts that come to nothing.

use std::sync::Arc;
use std::time::Duration;

use parkway_activator::cold_start::{ColdStarts, Milestone, Seen};
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::sink::StatSink;
use parkway_autoscaler_client::stat::StatMessage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

use crate::provider::kubernetes::client::Client;
use crate::provider::kubernetes::pods::{CannotStart, PodWatches};
use crate::telemetry::Clock;

/// How long newcomers are refused after a start has failed; the next one then starts it again.
pub(super) const RETRY_START: Duration = Duration::from_secs(10);

/// Notes when the autoscaler was first told of a Revision that starts.
pub(super) struct Noting {
    sink: Arc<dyn StatSink>,
    throttler: Throttler,
    starts: ColdStarts,
}

impl Noting {
    /// In front of `sink`.
    pub(super) fn new(sink: Arc<dyn StatSink>, throttler: Throttler) -> Arc<Self> {
        let starts = throttler.cold_starts();
        Arc::new(Self {
            sink,
            throttler,
            starts,
        })
    }
}

impl StatSink for Noting {
    fn send(&self, messages: Vec<StatMessage>) {
        if self.starts.under_way() > 0 && self.sink.is_connected() {
            let now = Instant::now();
            let told = { messages.iter() }
                .filter(|message| message.stat.average_concurrent_requests > 0.0);
            for message in told {
                self.throttler
                    .saw(&message.revision, Seen::new(Milestone::Signalled, now));
            }
        }
        self.sink.send(messages);
    }

    fn is_connected(&self) -> bool {
        self.sink.is_connected()
    }
}

/// Watches the Pods of Revisions that start, and ends starts whose Pods cannot.
pub(super) fn watch_pods(
    client: &Client,
    throttler: &Throttler,
    tasks: &mut JoinSet<()>,
) -> PodWatches {
    let unix = |at| Clock::now().unix(at);
    let (watches, watching, failed) = PodWatches::new(client, throttler.cold_starts(), unix);
    tasks.spawn(watching);
    tasks.spawn(give_up(failed, throttler.clone()));
    watches
}

async fn give_up(mut failed: mpsc::Receiver<CannotStart>, throttler: Throttler) {
    while let Some(CannotStart { start, reason }) = failed.recv().await {
        if start.is_under_way() {
            info!(revision = %start.revision(), %reason, "its Pods cannot start: who waits is answered so");
            throttler.start_failed(start.revision(), reason, RETRY_START);
        }
    }
}
