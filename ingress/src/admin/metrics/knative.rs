//! Knative's own metrics, in the Prometheus form of OpenTelemetry names: dots become underscores, counters end in `_total`.
//!
//! Source: knative/serving `pkg/activator/handler`, `pkg/activator/net`, `pkg/autoscaler/metrics` and
//! `pkg/autoscaler/scaling`.

use std::collections::HashMap;
use std::fmt;

use parkway_activator::throttler::RevisionState;
use parkway_autoscaler_client::embedded::{DeciderState, Metric};
use prometheus_client::encoding::DescriptorEncoder;

use super::super::{Admin, Autoscaler};
use super::{Family, Labels, counters, gauges, labels};

/// Whose metrics they are: the label `otel_scope_name`.
const ACTIVATOR: &str = "knative.dev/serving/pkg/activator";
const AUTOSCALER: &str = "knative.dev/serving/pkg/autoscaler";

/// Knative's four attributes.
pub(super) fn attributes(revision: &RevisionState) -> Labels {
    let mut labels = labels(&revision.id);
    labels.push(("kn_service_name", revision.spec.service.to_string()));
    labels.push((
        "kn_configuration_name",
        revision.spec.configuration.to_string(),
    ));
    labels
}

fn scoped(mut labels: Labels, scope: &str) -> Labels {
    labels.push(("otel_scope_name", scope.to_owned()));
    labels
}

pub(super) fn encode(
    admin: &Admin,
    revisions: &[RevisionState],
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let about = vec![
        ("service_name", "parkway".to_owned()),
        ("service_version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    gauges(out, "target_info", "Who tells this", [(about, 1.0)])?;
    let known: HashMap<_, _> = revisions
        .iter()
        .filter(|revision| !revision.id.is_service())
        .map(|revision| (&revision.id, revision))
        .collect();
    let reported = admin.stats.gauges();
    let concurrency = reported.iter().filter_map(|(id, _, concurrency)| {
        let revision = known.get(id)?;
        Some((scoped(attributes(revision), ACTIVATOR), *concurrency))
    });
    gauges(
        out,
        "kn_revision_request_concurrency",
        "Concurrent requests as reported to the autoscaler",
        concurrency,
    )?;
    let of_each = |value: fn(&RevisionState) -> u64| {
        let revisions = revisions.iter();
        let revisions = revisions.filter(|revision| !revision.id.is_service());
        #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
        revisions.map(move |revision| {
            (
                scoped(labels(&revision.id), ACTIVATOR),
                value(revision) as f64,
            )
        })
    };
    gauges(
        out,
        "kn_revision_request_queued",
        "Requests that wait for an endpoint",
        of_each(|revision| revision.parked as u64),
    )?;
    gauges(
        out,
        "kn_revision_request_active",
        "Requests at an endpoint",
        of_each(|revision| revision.in_flight),
    )?;
    match &admin.autoscaler {
        Autoscaler::Remote(_) => link(admin, out),
        Autoscaler::Embedded(embedded) => deciders(&embedded.state(), &known, out),
    }
}

/// The link to the autoscaler.
fn link(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Autoscaler::Remote(sink) = &admin.autoscaler else {
        return Ok(());
    };
    let connections = sink.connections();
    let peer = || scoped(vec![("peer", "autoscaler".to_owned())], ACTIVATOR);
    let reachable = [(peer(), f64::from(u8::from(sink.reaches_all())))];
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
    )?;
    let address = |address: &str| vec![("address", address.to_owned())];
    gauges(
        out,
        "parkway_autoscaler_connected",
        "1 while the connection to this autoscaler, or to this owner of a part of the Revisions, stands",
        connections.iter().map(|connection| {
            let is_connected = f64::from(u8::from(connection.is_connected));
            (address(&connection.address), is_connected)
        }),
    )?;
    counters(
        out,
        "parkway_autoscaler_reports_dropped",
        "Reports that were lost because there was no connection or nobody read them",
        { connections.iter() }.map(|connection| (address(&connection.address), connection.dropped)),
    )
}

/// What the embedded autoscaler decides.
fn deciders(
    deciders: &[DeciderState],
    known: &HashMap<&parkway_activator::revision::RevisionId, &RevisionState>,
    out: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let attributes = |decider: &DeciderState| {
        let known = known.get(&decider.revision);
        let attributes = known.map_or_else(|| labels(&decider.revision), |known| attributes(known));
        scoped(attributes, AUTOSCALER)
    };
    let each = |value: fn(&DeciderState) -> f64| {
        { deciders.iter() }.map(move |decider| (attributes(decider), value(decider)))
    };
    let families: [Family<DeciderState, f64>; 5] = [
        (
            "kn_revision_pods_desired",
            "Replicas the autoscaler wants",
            |decider| f64::from(decider.desired.unwrap_or(decider.wanted)),
        ),
        (
            "kn_revision_pods_requested",
            "Replicas the autoscaler has asked for",
            |decider| f64::from(decider.wanted),
        ),
        (
            "kn_revision_pods_count",
            "Replicas that are ready",
            |decider| f64::from(decider.ready),
        ),
        ("kn_revision_panic_mode", "1 in panic mode", |decider| {
            f64::from(u8::from(decider.is_panicking))
        }),
        (
            "kn_revision_capacity_excess",
            "Room for a burst beyond the target burst capacity",
            |decider| f64::from(decider.excess_burst_capacity),
        ),
    ];
    for (name, help, value) in families {
        gauges(out, name, help, each(value))?;
    }
    for (metric, word) in [(Metric::Concurrency, "concurrency"), (Metric::Rps, "rps")] {
        let of_metric = |value: fn(&DeciderState) -> f64| {
            let of_metric = deciders.iter().filter(|decider| decider.metric == metric);
            of_metric
                .map(|decider| (attributes(decider), value(decider)))
                .collect::<Vec<_>>()
        };
        let averages: [Family<DeciderState, f64>; 3] = [
            ("stable", "Average over the stable window", |decider| {
                decider.stable
            }),
            ("panic", "Average over the panic window", |decider| {
                decider.panic
            }),
            ("target", "What one replica should get", |decider| {
                decider.target
            }),
        ];
        for (of, help, value) in averages {
            gauges(
                out,
                &format!("kn_revision_{word}_{of}"),
                help,
                of_metric(value),
            )?;
        }
    }
    Ok(())
}
