//! `/metrics`: Knative's names as they are, ours beside them, and nothing that a client could make grow.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::metrics::{Metrics, Sample};
use parkway_tests::{Gate, Parkway, anonymous_kib, eventually, hello_service, service, settled};

/// The attributes of a Revision in Knative's metrics, in Prometheus' form.
const FOUR: [&str; 4] = [
    "k8s_namespace_name",
    "kn_configuration_name",
    "kn_revision_name",
    "kn_service_name",
];
const TWO: [&str; 2] = ["k8s_namespace_name", "kn_revision_name"];
const SCOPE: &str = "otel_scope_name";

/// The bounds of durations in seconds (knative/serving `pkg/metrics`).
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Those of sizes in bytes (OpenTelemetry's SDK).
const BYTES: &[f64] = &[
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// What Knative's activator emits: name, kind, attributes, bounds (knative/serving `pkg/activator/handler/metrics.go`,
/// `pkg/activator/net/throttler.go`, `pkg/activator/stat_reporter.go`; the HTTP metrics are those of Go's `otelhttp`). What
/// it has besides comes from Go itself and from its Kubernetes client (`go_…`, `kn_k8s_client_…`) and is not emitted.
struct Row {
    name: &'static str,
    kind: &'static str,
    labels: Vec<&'static str>,
    bounds: Option<&'static [f64]>,
}

fn table() -> Vec<Row> {
    let with = |labels: &[&'static str], more: &[&'static str]| [labels, more].concat();
    let http = |more: &[&'static str]| {
        let known = [
            "http_request_method",
            "http_response_status_code",
            "url_scheme",
        ];
        with(&with(&FOUR, &known), more)
    };
    let row = |name, kind, labels, bounds| Row {
        name,
        kind,
        labels,
        bounds,
    };
    vec![
        row(
            "kn_revision_request_concurrency",
            "gauge",
            with(&FOUR, &[SCOPE]),
            None,
        ),
        row(
            "kn_revision_request_queued",
            "gauge",
            with(&TWO, &[SCOPE]),
            None,
        ),
        row(
            "kn_revision_request_active",
            "gauge",
            with(&TWO, &[SCOPE]),
            None,
        ),
        row(
            "kn_activator_stats_conn_reachable",
            "gauge",
            vec!["peer", SCOPE],
            None,
        ),
        row(
            "kn_activator_stats_conn_errors",
            "counter",
            vec!["peer", SCOPE],
            None,
        ),
        row(
            "http_server_request_duration_seconds",
            "histogram",
            http(&[]),
            Some(SECONDS),
        ),
        row(
            "http_server_request_body_size_bytes",
            "histogram",
            http(&[]),
            Some(BYTES),
        ),
        row(
            "http_server_response_body_size_bytes",
            "histogram",
            http(&[]),
            Some(BYTES),
        ),
        row(
            "http_client_request_duration_seconds",
            "histogram",
            http(&[]),
            Some(SECONDS),
        ),
    ]
}

/// The samples of a family that have to do with the Revision, if they have to do with one.
fn samples<'m>(metrics: &'m Metrics, row: &Row) -> Vec<&'m Sample> {
    let name = match row.kind {
        "counter" => format!("{}_total", row.name),
        "histogram" => format!("{}_bucket", row.name),
        _ => row.name.to_owned(),
    };
    let mut found = metrics.of(&name, &[]);
    if row.labels.contains(&"kn_revision_name") {
        found.retain(|sample| {
            sample
                .labels
                .get("kn_revision_name")
                .is_some_and(|name| name == "shop-00001")
        });
    }
    found
}

#[tokio::test]
async fn knatives_metrics_have_the_names_kinds_attributes_and_buckets_of_its_activator() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--autoscaler", "ws://127.0.0.1:1")
        .start()
        .await;
    parkway
        .service("shop")
        .post("/", "hello, world")
        .await
        .expect(200);

    let metrics = parkway.scraped().await;

    for row in table() {
        assert_eq!(
            metrics.kinds.get(row.name).map(String::as_str),
            Some(row.kind),
            "{}",
            row.name
        );
        let found = samples(&metrics, &row);
        assert!(!found.is_empty(), "{} of {:?}", row.name, metrics.names());
        let mut expected: BTreeSet<&str> = row.labels.iter().copied().collect();
        let mut bounds = Vec::new();
        if row.kind == "histogram" {
            expected.insert("le");
            bounds.extend(found.iter().map(|sample| sample.labels["le"].clone()));
        }
        for sample in &found {
            assert_eq!(sample.label_names(), expected, "{}", row.name);
            if let Some(scope) = sample.labels.get(SCOPE) {
                assert_eq!(scope, "knative.dev/serving/pkg/activator");
            }
        }
        let bounds: Vec<f64> = { bounds.iter() }
            .filter(|bound| *bound != "+Inf")
            .map(|bound| bound.parse().unwrap())
            .collect();
        assert_eq!(bounds, row.bounds.unwrap_or_default(), "{}", row.name);
    }
    let post = [
        ("http_request_method", "POST"),
        ("http_response_status_code", "200"),
        ("url_scheme", "http"),
    ];
    for (name, expected) in [
        ("http_server_request_duration_seconds_count", 1.0),
        ("http_server_request_body_size_bytes_sum", 12.0),
        ("http_client_request_duration_seconds_count", 1.0),
    ] {
        assert_eq!(metrics.sum(name, &post), Some(expected), "{name}");
    }
    let peer = [("peer", "autoscaler")];
    assert_eq!(
        metrics.sum("kn_activator_stats_conn_reachable", &peer),
        Some(0.0)
    );
    assert_eq!(
        metrics
            .of("target_info", &[("service_name", "parkway")])
            .len(),
        1
    );
    parkway.finish().await;
}

#[tokio::test]
async fn the_autoscaler_inside_has_the_metrics_of_knatives_with_its_attributes() {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway.service("shop").get("/").await.expect(200);

    let metrics = parkway.scraped().await;

    let expected: BTreeSet<&str> = FOUR.into_iter().chain([SCOPE]).collect();
    for name in [
        "pods_desired",
        "pods_requested",
        "pods_count",
        "panic_mode",
        "capacity_excess",
        "concurrency_stable",
        "concurrency_panic",
        "concurrency_target",
    ] {
        let found = metrics.of(&format!("kn_revision_{name}"), &[]);
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].label_names(), expected, "{name}");
        assert_eq!(found[0].labels[SCOPE], "knative.dev/serving/pkg/autoscaler");
    }
    assert_eq!(
        metrics.sum("kn_revision_rps_stable", &[]),
        None,
        "it is not scaled by that"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_cold_start_is_counted_by_phase_and_outcome_and_its_phases_are_the_whole_of_it() {
    let gate = Gate::closed();
    let broken = service("broken", &["no-such-command-anywhere"]);
    let manifests = format!("{}---\n{broken}", gate.holds(hello_service("shop")));
    let parkway = Parkway::with(manifests).await;
    let shop = parkway.service("shop");
    let (one, two, ()) = tokio::join!(shop.get("/"), shop.get("/"), async {
        parkway.parked(2).await;
        gate.open();
    });
    one.expect(200);
    two.expect(200);
    parkway.service("broken").get("/").await.expect(503);

    settled("both starts to be counted", async || {
        let metrics = parkway.scraped().await;
        let ended = metrics.of("parkway_cold_starts_ended_total", &[]);
        let told = async || parkway.state().await.0["coldStarts"].to_string();
        match ended.len() {
            2 => Ok(()),
            _ => Err(format!("{ended:?}, {}", told().await)),
        }
    })
    .await;
    let metrics = parkway.scraped().await;

    let of = |revision, label: &'static str, value: &'static str| {
        [
            ("k8s_namespace_name", "default"),
            ("kn_revision_name", revision),
            (label, value),
        ]
    };
    let ended = "parkway_cold_starts_ended_total";
    assert_eq!(
        metrics.sum(ended, &of("shop-00001", "outcome", "ready")),
        Some(1.0)
    );
    assert_eq!(
        metrics.sum(ended, &of("broken-00001", "outcome", "failed")),
        Some(1.0)
    );
    let phase = "parkway_cold_start_phase_seconds";
    for name in [
        "parking",
        "signal",
        "decision",
        "spawn",
        "first-probe",
        "readiness",
        "release",
        "connect",
        "first-byte",
        "response",
    ] {
        let count = metrics.sum(&format!("{phase}_count"), &of("shop-00001", "phase", name));
        assert_eq!(count, Some(1.0), "{name}");
    }
    let whole = metrics
        .sum(
            &format!("{phase}_sum"),
            &[("kn_revision_name", "shop-00001")],
        )
        .unwrap();
    let state = parkway.state().await;
    let starts = state.0["coldStarts"].as_array().unwrap();
    let start = starts
        .iter()
        .find(|start| start["revision"] == "shop-00001")
        .unwrap();
    let total = start["totalMs"].as_f64().unwrap() / 1e3;
    assert!((whole - total).abs() < 0.002, "{whole} of {total}");
    let shop = [("kn_revision_name", "shop-00001")];
    assert_eq!(metrics.sum("parkway_parked_requests", &shop), Some(0.0));
    assert_eq!(metrics.sum("parkway_parked_requests_max", &shop), Some(2.0));
    assert_eq!(
        metrics.sum("parkway_parked_request_bytes", &shop),
        Some(0.0)
    );
    assert_eq!(
        metrics.sum("parkway_released_requests_total", &shop),
        Some(2.0)
    );
    let states = |state| metrics.sum("parkway_endpoint_states", &[shop[0], ("state", state)]);
    assert_eq!((states("idle"), states("suspect")), (Some(1.0), Some(0.0)));
    assert_eq!(
        metrics.sum("parkway_cold_starts_missed_total", &[]),
        Some(0.0)
    );
    parkway.finish().await;
}

#[tokio::test]
async fn each_worker_says_what_it_has_to_do_and_what_it_may_send_again() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .workers(1)
        .start()
        .await;
    let mut client = parkway.service("shop").http1().await;
    for _ in 0..3 {
        let request = Request::get("/").body(Bytes::new()).unwrap();
        client.send(request).await.expect(200);
    }

    // Said every five seconds.
    let metrics = eventually("the worker's connection", async || {
        let metrics = parkway.scraped().await;
        (metrics.sum("parkway_worker_connections", &[("worker", "0")]) == Some(1.0))
            .then_some(metrics)
    })
    .await;

    assert_eq!(
        metrics.sum("parkway_worker_requests_total", &[("worker", "0")]),
        Some(3.0)
    );
    assert!(
        metrics
            .sum("parkway_worker_cpu_seconds_total", &[])
            .unwrap()
            > 0.0
    );
    assert!(
        metrics.sum("parkway_retry_budget", &[]).unwrap() >= 100.0,
        "ten a second for ten seconds"
    );
    assert_eq!(
        metrics.sum("parkway_configuration_generation", &[]),
        Some(1.0)
    );
    assert!(
        metrics
            .sum("parkway_configuration_age_seconds", &[])
            .unwrap()
            > 0.0
    );
    for limit in [
        "parkway_queue_depth_limit",
        "parkway_queue_bytes_limit",
        "parkway_queue_total_bytes_limit",
    ] {
        assert!(metrics.sum(limit, &[]).unwrap() > 0.0, "{limit}");
    }
    drop(client);
    parkway.finish().await;
}

#[tokio::test]
async fn a_flood_of_hosts_methods_and_paths_makes_no_new_series() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let ask = |host: String, method: &str, path: String| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .body(Bytes::new())
            .unwrap()
    };
    shop.get("/").await.expect(200);
    let mut client = shop.http1().await;
    client
        .send(ask("nobody.example.com".to_owned(), "GET", "/".to_owned()))
        .await
        .expect(404);
    client
        .send(ask("nobody.example.com".to_owned(), "BREW", "/".to_owned()))
        .await
        .expect(404);
    client
        .send(ask(shop.host().to_owned(), "BREW", "/".to_owned()))
        .await
        .expect(200);
    eventually("the start to be counted", async || {
        let count = parkway
            .scraped()
            .await
            .sum("parkway_cold_starts_ended_total", &[]);
        (count == Some(1.0)).then_some(())
    })
    .await;
    let before = parkway.scraped().await;

    for number in 0..2_000 {
        let host = format!("flood-{number}.example.com");
        client
            .send(ask(host, "GET", format!("/{number}")))
            .await
            .expect(404);
    }
    for number in 0..300 {
        let method = format!("BREW{number}");
        client
            .send(ask(shop.host().to_owned(), &method, format!("/{number}")))
            .await
            .expect(200);
        client
            .send(ask(
                format!("{number}.example.com"),
                &method,
                "/".to_owned(),
            ))
            .await
            .expect(404);
    }

    let after = parkway.scraped().await;
    assert_eq!(
        after.samples.len(),
        before.samples.len(),
        "{:#?}",
        after.samples
    );
    let unrouted = [
        ("http_request_method", "GET"),
        ("http_response_status_code", "404"),
    ];
    let counted = after.sum("http_server_request_duration_seconds_count", &unrouted);
    assert_eq!(counted, Some(2_001.0));

    const MORE: u64 = 8_000;
    let before_kib = anonymous_kib(parkway.pid());
    for number in 0..MORE {
        let host = format!("{}{number}.example.com", "flood.".repeat(38));
        client
            .send(ask(host, "GET", format!("/{number}")))
            .await
            .expect(404);
    }
    // What was freed goes back a moment later.
    parkway_tests::eventually("less than half of the hosts' bytes", async || {
        let grown_kib = anonymous_kib(parkway.pid()).saturating_sub(before_kib);
        (grown_kib * 1_024 < MORE * 128).then_some(())
    })
    .await;
    drop(client);
    parkway.finish().await;
}
