//! `/state`: everything that is going on at this moment, as JSON.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parkway_activator::throttler::{Histogram, RevisionState};
use parkway_autoscaler_client::embedded::DeciderState;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Admin, Autoscaler, internal_tls, pods, starts};
use crate::frontend::tls::Certificates;
use crate::provider::kubernetes::WatchHealth;
use crate::provider::kubernetes::lease::Leadership;
use crate::provider::kubernetes::status::StatusBoard;
use crate::routing::rules::Visibility;
use crate::standalone::{Processes, ReplicaState};
use crate::telemetry::Clock;
use crate::trace::Tracer;

/// The state as one JSON value.
pub(super) fn of(admin: &Admin) -> Value {
    let clock = Clock::now();
    let now = clock.instant();
    let found = admin.problems.found();
    let routes = admin.routes.current();
    let processes = admin.processes.as_ref().map(Processes::state);
    let processes = processes.unwrap_or_default();
    let deciders = match &admin.autoscaler {
        Autoscaler::Embedded(embedded) => embedded.state(),
        Autoscaler::Remote(_) => Vec::new(),
    };
    let counted = admin.stats.gauges();
    let counted: HashMap<_, _> = { counted.iter() }
        .map(|(id, count, _)| (id, *count))
        .collect();
    let revisions: Vec<_> = admin
        .throttler
        .state()
        .iter()
        .map(|revision| {
            let decider = deciders
                .iter()
                .find(|decider| decider.revision == revision.id);
            let counted = counted.get(&revision.id).copied();
            of_revision(revision, counted, decider, &processes, now)
        })
        .collect();
    json!({
        "ready": admin.ready.waits_for().is_empty(),
        "waitsFor": admin.ready.waits_for(),
        "workers": admin.workers,
        "connections": admin.places.open(),
        "parked": admin.throttler.parked(),
        "parkedBytes": admin.throttler.parked_bytes(),
        "configuration": {
            "generation": routes.generation(),
            "accepted": found.generation,
            "rejected": found.is_rejected,
            "rejections": found.rejections,
            "problems": found.problems,
            "conflicts": found.conflicts,
        },
        "hosts": {
            "external": hosts(&routes, Visibility::ExternalIp),
            "local": hosts(&routes, Visibility::ClusterLocal),
        },
        "tls": admin.certificates.iter().map(certified).collect::<Vec<_>>(),
        "autoscaler": autoscaler(&admin.autoscaler),
        "traces": traces(&admin.tracer),
        "watches": admin.watches.as_ref().map(WatchHealth::state),
        "podWatches": admin.pods.as_ref().map(pods::state),
        "leader": admin.leading.as_ref().map(leading),
        "internalTls": admin.internal_tls.as_ref().map(|tls| internal_tls::state(tls, now)),
        "revisions": revisions,
        "coldStarts": starts::of(&admin.throttler.cold_starts(), &clock),
    })
}

/// How many KIngresses that are not Ready are shown.
const WAITING_SHOWN: usize = 100;

fn leading((leadership, board): &(Leadership, StatusBoard)) -> Value {
    let counts = board.counts();
    let waiting = board.waiting(WAITING_SHOWN);
    let waiting = waiting.iter().map(|ingress| {
        json!({
            "ingress": ingress.key.to_string(),
            "generation": ingress.generation,
            "seconds": ingress.since.elapsed().as_secs_f64(),
            "for": ingress.why,
        })
    });
    json!({
        "isUs": leadership.is_leader(),
        "holder": leadership.holder().as_deref(),
        "known": counts.known,
        "unsettled": counts.unsettled,
        "writes": counts.writes,
        "conflicts": counts.conflicts,
        "errors": counts.errors,
        "waiting": waiting.collect::<Vec<_>>(),
    })
}

/// How many certificates of an entrance are shown.
const CERTIFICATES_SHOWN: usize = 100;

/// An entrance that speaks TLS; the certificates that expire first come first.
fn certified((entrance, certificates): &(&'static str, Certificates)) -> Value {
    let current = certificates.current();
    let mut known: Vec<_> = current.certificates().collect();
    known.sort_by_key(|certificate| (certificate.not_after(), Arc::clone(certificate.source())));
    known.dedup();
    let count = known.len();
    let shown = known.into_iter().take(CERTIFICATES_SHOWN);
    let shown = shown.map(|certificate| {
        let until = certificate.not_after().duration_since(UNIX_EPOCH);
        json!({
            "source": &**certificate.source(),
            "names": certificate.names().to_string(),
            "notAfter": until.unwrap_or_default().as_secs(),
        })
    });
    let handshakes = certificates.handshakes().counts();
    let handshakes = handshakes.map(|(end, count)| (end.as_str().to_owned(), count.into()));
    json!({
        "entrance": entrance,
        "count": count,
        "certificates": shown.collect::<Vec<_>>(),
        "handshakes": handshakes.collect::<serde_json::Map<_, _>>(),
    })
}

fn hosts(routes: &crate::routing::table::RouteSnapshot, entrance: Visibility) -> Vec<Value> {
    let mut hosts: Vec<_> = routes
        .hosts(entrance)
        .map(|(host, ingress)| (host.to_owned(), ingress.to_string()))
        .collect();
    hosts.sort();
    hosts
        .into_iter()
        .map(|(host, ingress)| json!({ "host": host, "ingress": ingress }))
        .collect()
}

fn autoscaler(autoscaler: &Autoscaler) -> Value {
    match autoscaler {
        Autoscaler::Embedded(_) => json!({ "kind": "embedded" }),
        Autoscaler::Remote(sink) => {
            let connections = sink.connections().into_iter().map(|connection| {
                json!({
                    "address": connection.address,
                    "connected": connection.is_connected,
                    "errors": connection.errors,
                    "dropped": connection.dropped,
                    "lastError": connection.last_error.as_deref(),
                })
            });
            json!({ "kind": "remote", "connections": connections.collect::<Vec<_>>() })
        }
    }
}

/// Nothing while there are none.
fn traces(tracer: &Tracer) -> Value {
    if !tracer.is_on() {
        return Value::Null;
    }
    let counts = tracer.counts();
    json!({
        "spansExported": counts.exported,
        "spansDropped": { "queue-full": counts.full, "not-taken": counts.failed },
        "failing": tracer.failing().as_deref(),
    })
}

fn of_revision(
    revision: &RevisionState,
    counted: Option<u64>,
    decider: Option<&DeciderState>,
    processes: &[ReplicaState],
    now: Instant,
) -> Value {
    let endpoints = revision.endpoints.iter().map(|endpoint| {
        json!({
            "address": endpoint.endpoint.to_string(),
            "inFlight": endpoint.in_flight,
            "ready": endpoint.is_ready,
            "suspect": endpoint.is_suspect,
        })
    });
    let processes = processes
        .iter()
        .filter(|process| process.revision == revision.id)
        .map(|process| {
            json!({
                "number": process.number,
                "pid": process.pid,
                "address": process.endpoint.to_string(),
                "phase": process.phase.as_str(),
                "ageSeconds": now.saturating_duration_since(process.started).as_secs_f64(),
            })
        });
    let counters = &revision.counters;
    json!({
        "namespace": revision.id.namespace(),
        "name": revision.id.name(),
        "service": &*revision.spec.service,
        "containerConcurrency": revision.spec.concurrency.as_number(),
        "parked": revision.parked,
        "mostParked": revision.most_parked,
        "parkedBytes": revision.parked_bytes,
        "counted": counted,
        "inFlight": revision.in_flight,
        "endpoints": endpoints.collect::<Vec<_>>(),
        "processes": processes.collect::<Vec<_>>(),
        "usualStartSeconds": revision.usual_start.map(|usual| usual.as_secs_f64()),
        "startingSeconds": revision.starting_since.map(|since| now.saturating_duration_since(since).as_secs_f64()),
        "failure": revision.failure.as_deref(),
        "counters": {
            "grantedAtOnce": counters.granted_at_once,
            "parked": counters.parked_total,
            "released": counters.released,
            "cancelled": counters.cancelled,
            "refused": counters.refused.total(),
            "queueFull": counters.refused.depth + counters.refused.bytes + counters.refused.total_bytes + counters.refused.client_share,
            "coldStarts": counters.cold_starts,
        },
        "parkedSeconds": summary(&revision.parked_seconds),
        "coldStartSeconds": summary(&revision.cold_start_seconds),
        "autoscaler": decider.map(of_decider),
    })
}

fn summary(histogram: &Histogram) -> Value {
    json!({ "count": histogram.count(), "sum": histogram.sum().as_secs_f64() })
}

fn of_decider(decider: &DeciderState) -> Value {
    json!({
        "phase": format!("{:?}", decider.phase),
        "desired": decider.desired,
        "wanted": decider.wanted,
        "ready": decider.ready,
        "metric": format!("{:?}", decider.metric),
        "target": decider.target,
        "stable": decider.stable,
        "panic": decider.panic,
        "panicking": decider.is_panicking,
        "excessBurstCapacity": decider.excess_burst_capacity,
    })
}
