//! `/metrics`: Knative's names where Knative has the metric, `parkway_…` for the rest.
//!
//! Values are read when asked for; nothing is kept twice. Source of Knative's names: knative/serving
//! `pkg/activator/handler`, `pkg/activator/net`, in the Prometheus form of OpenTelemetry names (dots become
//! underscores, counters end in `_total`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::{Histogram, RevisionState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Admin, Autoscaler, internal_tls};
use crate::proxy::observe::{Counts, DURATION_BOUNDS};
use crate::routing::retry::Reason;
use crate::telemetry;
use crate::trace::TraceCounts;

/// The metrics of this moment as text.
pub(super) fn encode(admin: &Admin) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Moment(admin.clone())));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

struct Moment(Admin);

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moment")
    }
}

impl Collector for Moment {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        process(&self.0, &mut out)?;
        tls(&self.0, &mut out)?;
        let revisions = self.0.throttler.state();
        queues(&revisions, &mut out)?;
        knative(&self.0, &revisions, &mut out)?;
        requests(&self.0, &mut out)?;
        traces(&self.0.tracer.counts(), &mut out)?;
        if let Some(tls) = &self.0.internal_tls {
            internal_tls::metrics(tls, &mut out)?;
        }
        autoscaler(&self.0, &mut out)
    }
}

pub(super) type Labels = Vec<(&'static str, String)>;

fn labels(id: &RevisionId) -> Labels {
    vec![
        ("k8s_namespace_name", id.namespace().to_owned()),
        ("kn_revision_name", id.name().to_owned()),
    ]
}

/// Knative's four attributes.
fn knative_labels(revision: &RevisionState) -> Labels {
    let mut labels = labels(&revision.id);
    labels.push(("kn_service_name", revision.spec.service.to_string()));
    labels.push((
        "kn_configuration_name",
        revision.spec.configuration.to_string(),
    ));
    labels
}

pub(super) fn gauges(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        if labels.is_empty() {
            metric.encode_gauge(&value)?;
        } else {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

pub(super) fn counters(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        if labels.is_empty() {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        } else {
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
    }
    Ok(())
}

fn histogram(
    metric_labels: &Labels,
    buckets: &[u64],
    sum: f64,
    metric: &mut prometheus_client::encoding::MetricEncoder<'_>,
) -> fmt::Result {
    let bounds = DURATION_BOUNDS.into_iter().chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric
        .encode_family(metric_labels)?
        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn process(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let found = admin.problems.found();
    let one = |value: f64| [(Labels::new(), value)];
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let connections = admin.connections.load(Ordering::Relaxed) as f64;
    gauges(
        out,
        "parkway_connections",
        "Client connections open",
        one(connections),
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let bytes = admin.throttler.parked_bytes() as f64;
    gauges(
        out,
        "parkway_parked_bytes",
        "Bytes held by parked requests",
        one(bytes),
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let generation = admin.routes.current().generation() as f64;
    gauges(
        out,
        "parkway_configuration_generation",
        "Generation of the routes in effect",
        one(generation),
    )?;
    let rejected = f64::from(u8::from(found.is_rejected));
    gauges(
        out,
        "parkway_configuration_rejected",
        "1 while the last edit of the configuration is not in effect",
        one(rejected),
    )?;
    counters(
        out,
        "parkway_configuration_rejections",
        "Configurations that were not taken",
        [(Labels::new(), found.rejections)],
    )?;
    counters(
        out,
        "parkway_panics",
        "Bugs that ended a request or task",
        [(Labels::new(), telemetry::panics())],
    )
}

fn traces(counts: &TraceCounts, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counters(
        out,
        "parkway_trace_spans_exported",
        "Spans that a collector has taken",
        [(Labels::new(), counts.exported)],
    )?;
    let dropped = [("queue-full", counts.full), ("not-taken", counts.failed)];
    counters(
        out,
        "parkway_trace_spans_dropped",
        "Spans that were lost: too many waited to be sent, or the collector did not take them",
        dropped.map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    )
}

/// How handshakes end, and until when certificates are valid.
fn tls(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if admin.certificates.is_empty() {
        return Ok(());
    }
    let label = |name: &'static str, value: &str| (name, value.to_owned());
    let (mut ends, mut resumptions) = (Vec::new(), Vec::new());
    let mut expiries = BTreeMap::new();
    for (entrance, certificates) in &admin.certificates {
        for (end, count) in certificates.handshakes().counts() {
            ends.push((
                vec![label("entrance", entrance), label("end", end.as_str())],
                count,
            ));
        }
        resumptions.push((
            vec![label("entrance", entrance)],
            certificates.handshakes().resumptions(),
        ));
        for certificate in certificates.current().certificates() {
            let until = certificate.not_after().duration_since(UNIX_EPOCH);
            let seconds = until.unwrap_or_default().as_secs_f64();
            expiries.insert(Arc::clone(certificate.source()), seconds);
        }
    }
    counters(
        out,
        "parkway_tls_handshakes",
        "TLS handshakes by how they ended",
        ends,
    )?;
    counters(
        out,
        "parkway_tls_resumptions",
        "TLS handshakes that went on with a session of before",
        resumptions,
    )?;
    gauges(
        out,
        "parkway_tls_certificate_expiry_seconds",
        "When a certificate that is served expires, in seconds since 1970",
        expiries
            .into_iter()
            .map(|(source, seconds)| (vec![label("source", &source)], seconds)),
    )
}

fn queues(revisions: &[RevisionState], out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let each = |value: fn(&RevisionState) -> u64| {
        revisions
            .iter()
            .map(move |revision| (labels(&revision.id), value(revision)))
    };
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let gauge = |value: fn(&RevisionState) -> u64| {
        each(value).map(|(labels, value)| (labels, value as f64))
    };
    gauges(
        out,
        "parkway_parked_requests",
        "Requests that wait for an endpoint",
        gauge(|revision| revision.parked as u64),
    )?;
    gauges(
        out,
        "parkway_endpoints",
        "Endpoints that are ready",
        gauge(|revision| {
            revision
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.is_ready && !endpoint.is_suspect)
                .count() as u64
        }),
    )?;
    counters(
        out,
        "parkway_parked_requests_seen",
        "Requests that had to wait for an endpoint",
        each(|revision| revision.counters.parked_total),
    )?;
    counters(
        out,
        "parkway_released_requests",
        "Requests that waited and got an endpoint",
        each(|revision| revision.counters.released),
    )?;
    counters(
        out,
        "parkway_cancelled_requests",
        "Requests whose client left, or whose time was over, while they waited",
        each(|revision| revision.counters.cancelled),
    )?;
    counters(
        out,
        "parkway_cold_starts",
        "Times a request came and no endpoint was there",
        each(|revision| revision.counters.cold_starts),
    )?;
    let refused = revisions.iter().flat_map(|revision| {
        let refused = &revision.counters.refused;
        let reasons = [
            ("queue_depth", refused.depth),
            ("queue_bytes", refused.bytes),
            ("total_bytes", refused.total_bytes),
            ("client_share", refused.client_share),
            ("start_failed", refused.start_failed),
            ("revision_gone", refused.revision_gone),
            ("no_endpoint", refused.no_endpoint),
            ("asleep", refused.asleep),
            ("draining", refused.draining),
        ];
        reasons.map(|(reason, count)| {
            let mut labels = labels(&revision.id);
            labels.push(("reason", reason.to_owned()));
            (labels, count)
        })
    });
    counters(
        out,
        "parkway_refused_requests",
        "Requests that were answered 503 instead of waiting",
        refused,
    )?;
    histograms(
        revisions,
        "parkway_parked_seconds",
        "Time requests waited for an endpoint",
        |revision| &revision.parked_seconds,
        out,
    )?;
    histograms(
        revisions,
        "parkway_cold_start_seconds",
        "From the first request that waits to the first ready endpoint",
        |revision| &revision.cold_start_seconds,
        out,
    )
}

fn histograms(
    revisions: &[RevisionState],
    name: &str,
    help: &str,
    of: fn(&RevisionState) -> &Histogram,
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for revision in revisions {
        let seconds = of(revision);
        histogram(
            &labels(&revision.id),
            seconds.counts(),
            seconds.sum().as_secs_f64(),
            &mut metric,
        )?;
    }
    Ok(())
}

fn knative(
    admin: &Admin,
    revisions: &[RevisionState],
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let known: Vec<_> = revisions
        .iter()
        .filter(|revision| !revision.id.is_service())
        .collect();
    let reported = admin.stats.gauges();
    let concurrency = reported.iter().filter_map(|(id, _, concurrency)| {
        let revision = known.iter().find(|revision| revision.id == *id)?;
        Some((knative_labels(revision), *concurrency))
    });
    gauges(
        out,
        "kn_revision_request_concurrency",
        "Concurrent requests as reported to the autoscaler",
        concurrency,
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let queued = known
        .iter()
        .map(|revision| (labels(&revision.id), revision.parked as f64));
    gauges(
        out,
        "kn_revision_request_queued",
        "Requests that wait for an endpoint",
        queued,
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let active = known
        .iter()
        .map(|revision| (labels(&revision.id), revision.in_flight as f64));
    gauges(
        out,
        "kn_revision_request_active",
        "Requests at an endpoint",
        active,
    )?;
    let Autoscaler::Remote(sink) = &admin.autoscaler else {
        return Ok(());
    };
    let connections = sink.connections();
    let peer = || vec![("peer", "autoscaler".to_owned())];
    let reachable = connections
        .iter()
        .map(|connection| (peer(), f64::from(u8::from(connection.is_connected))))
        .take(1);
    gauges(
        out,
        "kn_activator_stats_conn_reachable",
        "1 while the autoscaler can be told",
        reachable,
    )?;
    let errors = connections.iter().map(|connection| connection.errors).sum();
    counters(
        out,
        "kn_activator_stats_conn_errors",
        "Failed and lost connections to the autoscaler",
        [(peer(), errors)],
    )
}

fn requests(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let total = admin.counts.total();
    let mut total: Vec<_> = total
        .iter()
        .map(|(id, counts)| (id.as_ref().map(labels).unwrap_or_default(), counts))
        .collect();
    total.sort_by(|left, right| left.0.cmp(&right.0));
    let by_status = total.iter().flat_map(|(labels, counts)| {
        counts.by_status.iter().map(move |(status, count)| {
            let mut labels = labels.clone();
            labels.push(("http_response_status_code", status.to_string()));
            (labels, *count)
        })
    });
    counters(
        out,
        "parkway_requests",
        "Requests that have ended, by status; 0: the client left before there was one",
        by_status,
    )?;
    let each = |value: fn(&Counts) -> u64| {
        total
            .iter()
            .map(move |(labels, counts)| (labels.clone(), value(counts)))
    };
    counters(
        out,
        "parkway_aborted_requests",
        "Requests whose response did not reach its end",
        each(|counts| counts.aborted),
    )?;
    counters(
        out,
        "parkway_retried_requests",
        "Requests that were sent to more than one endpoint",
        each(|counts| counts.retried),
    )?;
    let retries = total.iter().flat_map(|(labels, counts)| {
        let by_reason = Reason::ALL.into_iter().zip(counts.retries);
        by_reason.map(|(reason, count)| {
            let mut labels = labels.clone();
            labels.push(("reason", reason.label().to_owned()));
            (labels, count)
        })
    });
    counters(
        out,
        "parkway_retries",
        "Times requests were sent again, by what became of the attempt before",
        retries.filter(|(_, count)| *count > 0),
    )?;
    counters(
        out,
        "parkway_response_bytes",
        "Response body bytes",
        each(|counts| counts.response_bytes),
    )?;
    let mut metric = out.encode_descriptor(
        "http_server_request_duration_seconds",
        "From a request's head to the end of its response",
        None,
        MetricType::Histogram,
    )?;
    for (labels, counts) in &total {
        histogram(labels, &counts.durations, counts.seconds, &mut metric)?;
    }
    Ok(())
}

fn autoscaler(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Autoscaler::Embedded(embedded) = &admin.autoscaler else {
        return Ok(());
    };
    let deciders = embedded.state();
    let each = |value: fn(&parkway_autoscaler_client::embedded::DeciderState) -> f64| {
        deciders
            .iter()
            .map(move |decider| (labels(&decider.revision), value(decider)))
    };
    gauges(
        out,
        "kn_revision_pods_desired",
        "Replicas the autoscaler wants",
        each(|decider| f64::from(decider.wanted)),
    )?;
    gauges(
        out,
        "kn_revision_pods_count",
        "Replicas that are ready",
        each(|decider| f64::from(decider.ready)),
    )?;
    gauges(
        out,
        "kn_revision_panic_mode",
        "1 in panic mode",
        each(|decider| f64::from(u8::from(decider.is_panicking))),
    )?;
    gauges(
        out,
        "kn_revision_capacity_excess",
        "Room for a burst beyond the target burst capacity",
        each(|decider| f64::from(decider.excess_burst_capacity)),
    )?;
    gauges(
        out,
        "kn_revision_concurrency_stable",
        "Average over the stable window",
        each(|decider| decider.stable),
    )?;
    gauges(
        out,
        "kn_revision_concurrency_panic",
        "Average over the panic window",
        each(|decider| decider.panic),
    )?;
    gauges(
        out,
        "kn_revision_concurrency_target",
        "What one replica should get",
        each(|decider| decider.target),
    )
}
