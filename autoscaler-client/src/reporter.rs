//! Tells a [`StatSink`] what [`Stats`] saw: once a second, and at once when an idle Revision gets its first request.
//!
//! Source: knative/serving `pkg/activator/handler/concurrency_reporter.go`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use parkway_activator::stats::Stats;

use crate::sink::StatSink;
use crate::stat::StatMessage;

/// How often each Revision that is not idle is reported.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports until it is dropped; does not end by itself.
///
/// All Revisions of one tick go in one list; when there is nothing to say, nothing is sent. First requests that come
/// together go together. `pod_name` tells people who reported. A tick that comes late moves the later ones, because
/// the autoscaler adds up what it gets within one second: two reports close together would count double.
///
/// # Cancel safety
///
/// Nothing is lost but the reports of the period that has begun.
pub async fn run(stats: Stats, sink: Arc<dyn StatSink>, pod_name: String) {
    let pod_name: Arc<str> = pod_name.into();
    let mut ticks = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let messages: Vec<StatMessage> = tokio::select! {
            biased; // first requests before the report that leaves them out
            revisions = stats.poked() => {
                revisions.into_iter().map(|id| StatMessage::first_request(id, &pod_name)).collect()
            }
            _ = ticks.tick() => {
                let reports = stats.report(Instant::now());
                reports.into_iter().map(|report| StatMessage::of_report(report, &pod_name)).collect()
            }
        };
        if !messages.is_empty() {
            sink.send(messages);
        }
    }
}
