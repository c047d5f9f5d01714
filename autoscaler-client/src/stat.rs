//! What an autoscaler is told: a [`Stat`] about a Revision is a [`StatMessage`].
//!
//! The terms and units are the autoscaler's own: knative/serving `pkg/autoscaler/metrics/stat.proto` and
//! `pkg/autoscaler/metrics/collector.go`.

use std::sync::Arc;

use parkway_activator::revision::RevisionId;
use parkway_activator::stats::Report;

/// One measurement by one reporting process, about one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stat {
    /// Who measured; for people to read.
    pub pod_name: Arc<str>,
    /// Time-weighted mean of the requests inside, parked ones included.
    pub average_concurrent_requests: f64,
    /// The part of it that another reporter has counted; always 0 from us.
    pub average_proxied_concurrent_requests: f64,
    /// Arrivals in this second.
    pub request_count: f64,
    /// The part of them that another reporter has counted; always 0 from us.
    pub proxied_request_count: f64,
    /// Seconds since the reporter started; always 0 from us.
    pub process_uptime: f64,
    /// Unix time in seconds; 0 means when it is received.
    pub timestamp: i64,
}

/// A [`Stat`] and the Revision that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct StatMessage {
    /// Whose measurement this is.
    pub revision: RevisionId,
    /// The measurement.
    pub stat: Stat,
}

impl StatMessage {
    /// The message that announces the first request after idleness: one request, inside now.
    ///
    /// Source: `getOrCreateStat`, knative/serving `pkg/activator/handler/concurrency_reporter.go`.
    pub fn first_request(revision: RevisionId, pod_name: &Arc<str>) -> Self {
        Self::about(revision, pod_name, 1.0, 1.0)
    }

    /// The message of one period's report.
    pub fn of_report(report: Report, pod_name: &Arc<str>) -> Self {
        Self::about(
            report.revision,
            pod_name,
            report.concurrency,
            report.requests,
        )
    }

    fn about(revision: RevisionId, pod_name: &Arc<str>, concurrency: f64, requests: f64) -> Self {
        Self {
            revision,
            stat: Stat {
                pod_name: Arc::clone(pod_name),
                average_concurrent_requests: concurrency,
                request_count: requests,
                ..Stat::default()
            },
        }
    }
}
