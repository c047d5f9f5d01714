//! Milestones of starts that nobody else would notice.

use std::sync::Arc;

use parkway_activator::cold_start::{ColdStarts, Milestone, Seen};
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::sink::StatSink;
use parkway_autoscaler_client::stat::StatMessage;
use tokio::time::Instant;

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
