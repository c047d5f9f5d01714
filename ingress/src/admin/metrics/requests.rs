//! What is counted about requests, and OpenTelemetry's histograms of them.
//!
//! Source of names, attributes and buckets of the latter: open-telemetry/semantic-conventions `docs/http/http-metrics.md`, and
//! what Go's `otelhttp` makes of it, with Knative's four attributes. `server.address` and what else a client chooses is left
//! out; methods that are not known are `_OTHER`.

use std::collections::HashMap;
use std::fmt;

use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::RevisionState;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::super::Admin;
use super::{Family, Labels, counters, histogram, knative, labels};
use crate::proxy::counts::{Counts, DURATION_BOUNDS, Kind, OfKind, SIZE_BOUNDS, Spread};
use crate::routing::retry::Reason;

/// The counts of one Revision, or of those that reached none: its labels, and Knative's.
struct Counted {
    labels: Labels,
    attributes: Labels,
    counts: Counts,
}

pub(super) fn encode(
    admin: &Admin,
    revisions: &[RevisionState],
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let known: HashMap<&RevisionId, &RevisionState> = revisions
        .iter()
        .map(|revision| (&revision.id, revision))
        .collect();
    let mut total: Vec<_> = { admin.counts.total().into_iter() }
        .map(|(id, counts)| {
            let labels = id.as_ref().map(labels).unwrap_or_default();
            let revision = id.as_ref().and_then(|id| known.get(id));
            let attributes = revision.map(|revision| knative::attributes(revision));
            Counted {
                attributes: attributes.unwrap_or_else(|| labels.clone()),
                labels,
                counts,
            }
        })
        .collect();
    total.sort_by(|left, right| left.labels.cmp(&right.labels));
    counted(&total, out)?;
    durations(&total, out)
}

fn counted(total: &[Counted], out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let by_status = total.iter().flat_map(|one| {
        let by_status = one.counts.by_status().into_iter();
        by_status.map(|(status, count)| {
            let mut labels = one.labels.clone();
            labels.push(("http_response_status_code", status.to_string()));
            (labels, count)
        })
    });
    counters(
        out,
        "parkway_requests",
        "Requests that have ended, by status; 0: the client left before there was one",
        by_status,
    )?;
    let retries = total.iter().flat_map(|one| {
        let by_reason = Reason::ALL.into_iter().zip(one.counts.retries);
        by_reason.map(|(reason, count)| {
            let mut labels = one.labels.clone();
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
    let families: [Family<Counts, u64>; 5] = [
        (
            "parkway_aborted_requests",
            "Requests whose response did not reach its end",
            |counts| counts.aborted,
        ),
        (
            "parkway_retried_requests",
            "Requests that were sent to more than one endpoint",
            |counts| counts.retried,
        ),
        (
            "parkway_informational_responses",
            "Informational responses of endpoints that were not passed on: all but 100 and 101",
            |counts| counts.informational,
        ),
        ("parkway_response_bytes", "Response body bytes", |counts| {
            counts.response_bytes
        }),
        (
            "parkway_waiting_pages",
            "Browsers that were shown a page instead of being kept waiting",
            |counts| counts.pages,
        ),
    ];
    for (name, help, value) in families {
        let each = { total.iter() }.map(|one| (one.labels.clone(), value(&one.counts)));
        counters(out, name, help, each)?;
    }
    Ok(())
}

fn durations(total: &[Counted], out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    spreads(
        out,
        "http_server_request_duration_seconds",
        "From a request's head to the end of its response",
        (total, of_server(|of| &of.durations)),
        &DURATION_BOUNDS,
    )?;
    spreads(
        out,
        "http_server_request_body_size_bytes",
        "Request bodies, as far as they were read when the response ended",
        (total, of_server(|of| &of.received)),
        &SIZE_BOUNDS,
    )?;
    spreads(
        out,
        "http_server_response_body_size_bytes",
        "Response bodies",
        (total, of_server(|of| &of.sent)),
        &SIZE_BOUNDS,
    )?;
    spreads(
        out,
        "http_client_request_duration_seconds",
        "From sending a request to an endpoint to the head of its response",
        (total, |counts: &Counts| {
            let attempts = counts.attempts.iter();
            attempts
                .map(|(kind, seconds)| (*kind, seconds.clone()))
                .collect()
        }),
        &DURATION_BOUNDS,
    )
}

/// The histograms of one family that belong to a Revision.
type OfRevision<const N: usize> = Vec<(Kind, Spread<N>)>;

fn of_server<const N: usize>(
    value: fn(&OfKind) -> &Spread<N>,
) -> impl Fn(&Counts) -> OfRevision<N> {
    move |counts| {
        let kinds = counts.kinds.iter();
        kinds.map(|(kind, of)| (*kind, value(of).clone())).collect()
    }
}

fn spreads<const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    (total, of): (&[Counted], impl Fn(&Counts) -> OfRevision<N>),
    bounds: &[f64],
) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for one in total {
        for (kind, spread) in of(&one.counts) {
            let mut labels = one.attributes.clone();
            let scheme = if kind.is_tls { "https" } else { "http" };
            labels.push(("http_request_method", kind.method.as_str().to_owned()));
            labels.push(("http_response_status_code", kind.status.to_string()));
            labels.push(("url_scheme", scheme.to_owned()));
            histogram(
                &labels,
                bounds,
                (spread.counts(), spread.sum()),
                &mut metric,
            )?;
        }
    }
    Ok(())
}
