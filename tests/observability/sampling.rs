//! Which traces are kept, besides those of cold starts: what the settings say, and how they change.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, PodIs, SYSTEM, serving};
use parkway_tests::parkway::Builder;
use parkway_tests::{Collector, QueueProxy, Site, Span, eventually, hello_service};
use serde_json::{Value, json};

use crate::traces::{CALLER, HTTP, TRACE, has_told, of_kind, parts, seen, tracing};

/// Enough that a share of them is far from none and from all.
const REQUESTS: usize = 1_000;

async fn traceparents(site: &Site, count: usize) -> Vec<(String, String, String)> {
    let mut client = site.http1().await;
    let mut told = Vec::new();
    for _ in 0..count {
        let request = Request::get("/headers").body(Bytes::new()).unwrap();
        let answer = client.send(request).await.expect(200).json();
        told.push(parts(&seen(&answer, "traceparent").unwrap()));
    }
    told
}

fn traces(spans: &[Span]) -> BTreeSet<String> {
    let servers = of_kind(spans, "server").into_iter();
    servers.map(|span| span.trace.clone()).collect()
}

#[tokio::test]
async fn the_workload_is_told_of_just_those_of_a_share_that_reach_the_collector() {
    let collector = Collector::http().await;
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", 0.1)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let before = collector
        .spans_when("the start", |spans| has_told(spans, 1))
        .await;

    let told = traceparents(&shop, REQUESTS).await;

    let kept: BTreeSet<_> = { told.iter() }
        .filter(|(_, _, flags)| flags == "01")
        .map(|(trace, _, _)| trace.clone())
        .collect();
    // Six standard deviations on either side.
    assert!((43..=157).contains(&kept.len()), "{} kept", kept.len());
    let count = 1 + kept.len();
    let spans = collector
        .spans_when("those that were kept", |spans| {
            of_kind(spans, "server").len() >= count
        })
        .await;
    let came = &traces(&spans) - &traces(&before);
    assert_eq!(came, kept);
    eventually("them to be counted", async || {
        let exported = parkway
            .metric("parkway_trace_spans_exported_total", &[])
            .await;
        let servers_and_attempts = 2 * u32::try_from(kept.len()).unwrap();
        (exported? >= f64::from(servers_and_attempts)).then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn config_observability_changes_collector_protocol_and_share_while_requests_are_served() {
    let (first, second) = (Collector::grpc().await, Collector::http().await);
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let often = |builder: Builder| {
        let builder = builder.env("OTEL_BSP_SCHEDULE_DELAY", 50);
        // What the ConfigMap says comes before the variables.
        builder
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env("OTEL_TRACES_SAMPLER", "always_off")
    };
    let configure = |protocol: &str, endpoint: String, rate: Option<&str>| {
        let mut data = json!({"tracing-protocol": protocol, "tracing-endpoint": endpoint});
        if let Some(rate) = rate {
            data["tracing-sampling-rate"] = Value::from(rate);
        }
        cluster.api.put(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "config-observability", "namespace": SYSTEM},
            "data": data,
        }));
    };
    configure("grpc", first.endpoint(), Some("1"));
    let parkway = cluster.parkway_with(often).await;
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let site = parkway.at(shop.host());
    let flags = async |traceparent: Option<String>| {
        let mut request = site.request(http::Method::GET, "/", Bytes::new());
        if let Some(line) = traceparent {
            let line = line.parse().unwrap();
            request.headers_mut().insert("traceparent", line);
        }
        let answer = site.send(request).await.expect(200).json();
        let line = answer["headers"]["traceparent"].as_str().unwrap();
        let (trace, _, flags) = parts(line);
        (trace, flags)
    };
    let (trace, sampled) = flags(None).await;
    assert_eq!(sampled, "01");
    let has = |trace: String| move |spans: &[Span]| traces(spans).contains(&trace);
    first.spans_when("the first", has(trace)).await;

    configure(
        "http/protobuf",
        format!("{}/v1/traces", second.endpoint()),
        Some("1"),
    );
    eventually("spans at the other collector", async || {
        flags(None).await;
        (!second.spans().is_empty()).then_some(())
    })
    .await;

    // Knative's default share is 0, and who calls decides.
    configure(
        "http/protobuf",
        format!("{}/v1/traces", second.endpoint()),
        None,
    );
    eventually("none to be kept", async || {
        (flags(None).await.1 == "00").then_some(())
    })
    .await;
    let (trace, sampled) = flags(Some(format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!((trace.as_str(), sampled.as_str()), (TRACE, "01"));
    second
        .spans_when("the caller's", has(TRACE.to_owned()))
        .await;
    parkway.finish().await;
}
