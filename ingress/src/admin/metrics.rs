//! `/metrics`: Knative's names where Knative has the metric, `parkway_…` for the rest.
//!
//! Values are read when asked for; nothing is kept twice. Labels are bounded by what is configured: Revisions, endpoints of
//! the autoscaler, workers, and fixed words; nothing that a client chooses is among them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::{EndpointState, Histogram, RevisionState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Admin, cluster, internal_tls, pods};
use crate::proxy::log_lines::Log;
use crate::telemetry;
use crate::trace::TraceCounts;

mod knative;
mod requests;
mod starts;
mod workers;

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
        queues(&self.0, &revisions, &mut out)?;
        endpoints(&revisions, &mut out)?;
        starts::encode(&self.0, &mut out)?;
        knative::encode(&self.0, &revisions, &mut out)?;
        requests::encode(&self.0, &revisions, &mut out)?;
        workers::encode(&self.0, &mut out)?;
        traces(&self.0.tracer.counts(), &mut out)?;
        if let Some(watches) = &self.0.pods {
            pods::metrics(watches, &mut out)?;
        }
        if let Some(tls) = &self.0.internal_tls {
            internal_tls::metrics(tls, &mut out)?;
        }
        if let Some(in_cluster) = &self.0.cluster {
            cluster::metrics(in_cluster, &mut out)?;
        }
        Ok(())
    }
}

/// A family: its name, what it is, and how its value is found.
type Family<T, V> = (&'static str, &'static str, fn(&T) -> V);

pub(super) type Labels = Vec<(&'static str, String)>;

fn labels(id: &RevisionId) -> Labels {
    vec![
        ("k8s_namespace_name", id.namespace().to_owned()),
        ("kn_revision_name", id.name().to_owned()),
    ]
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

/// One histogram of a family: its buckets by `bounds`, and one more without an upper bound.
fn histogram(
    metric_labels: &Labels,
    bounds: &[f64],
    (counts, sum): (&[u64], f64),
    metric: &mut MetricEncoder<'_>,
) -> fmt::Result {
    let bounds = bounds.iter().copied().chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric
        .encode_family(metric_labels)?
        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn process(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let found = admin.problems.found();
    let one = |value: f64| [(Labels::new(), value)];
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let connections = admin.places.open() as f64;
    gauges(
        out,
        "parkway_connections",
        "Client connections open",
        one(connections),
    )?;
    let refused = admin.places.unwelcome().map(|(why, count)| {
        let label = ("reason", why.as_str().to_owned());
        (vec![label], count)
    });
    counters(
        out,
        "parkway_connections_refused",
        "Client connections that were closed at once, some with a 503 or 429",
        refused,
    )?;
    counters(
        out,
        "parkway_accept_failures",
        "Times a connection that waits could not be accepted for want of files or memory",
        [(Labels::new(), admin.places.not_accepted())],
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
    if let Some(since) = found.since {
        gauges(
            out,
            "parkway_configuration_age_seconds",
            "Since when the routes in effect are in effect",
            one(since.elapsed().as_secs_f64()),
        )?;
    }
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
    )?;
    let lost = Log::ALL.map(|log| {
        let label = ("log", log.as_str().to_owned());
        (vec![label], admin.lines.lost(log))
    });
    counters(
        out,
        "parkway_log_lines_dropped",
        "Lines about requests that could not be written fast enough",
        lost,
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

fn queues(
    admin: &Admin,
    revisions: &[RevisionState],
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let limits = admin.throttler.limits();
    let bounds = [
        (
            "parkway_queue_depth_limit",
            "Requests that may wait for one Revision",
            limits.depth,
        ),
        (
            "parkway_queue_bytes_limit",
            "Bytes that requests which wait for one Revision may hold",
            limits.bytes,
        ),
        (
            "parkway_queue_total_bytes_limit",
            "Bytes that all requests which wait may hold",
            limits.total_bytes,
        ),
    ];
    for (name, help, bound) in bounds {
        #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
        gauges(out, name, help, [(Labels::new(), bound as f64)])?;
    }
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
        "parkway_parked_requests_max",
        "The most requests that waited for an endpoint at once",
        gauge(|revision| revision.most_parked as u64),
    )?;
    gauges(
        out,
        "parkway_parked_request_bytes",
        "Bytes held by requests that wait for an endpoint",
        gauge(|revision| revision.parked_bytes as u64),
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
        let values = (seconds.counts(), seconds.sum().as_secs_f64());
        let bounds = &Histogram::BOUNDS;
        histogram(&labels(&revision.id), bounds, values, &mut metric)?;
    }
    Ok(())
}

/// Endpoints by what may be done with them: each is in one state.
fn endpoints(revisions: &[RevisionState], out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    const STATES: [&str; 4] = ["idle", "busy", "suspect", "leaving"];
    let state_of = |endpoint: &EndpointState| match endpoint {
        EndpointState {
            is_ready: false, ..
        } => "leaving",
        EndpointState {
            is_suspect: true, ..
        } => "suspect",
        EndpointState { in_flight: 0, .. } => "idle",
        _ => "busy",
    };
    let states = revisions.iter().flat_map(|revision| {
        STATES.map(|state| {
            let endpoints = revision.endpoints.iter();
            let count = endpoints
                .filter(|endpoint| state_of(endpoint) == state)
                .count();
            let mut labels = labels(&revision.id);
            labels.push(("state", state.to_owned()));
            #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
            (labels, count as f64)
        })
    });
    gauges(
        out,
        "parkway_endpoint_states",
        "Endpoints by state: idle, busy, suspect (set aside because it refused a connection), leaving",
        states,
    )
}
