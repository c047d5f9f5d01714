//! Traces, at a receiver of OTLP.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, PodIs, SYSTEM, serving};
use parkway_tests::parkway::Builder;
use parkway_tests::{
    Collector, Gate, Parkway, QueueProxy, Site, Span, Upstream, eventually, hello_service,
    revision_with_endpoints,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How far the sum of the phases may be from the whole, in milliseconds.
const SLACK_MS: f64 = 2.0;

pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(super) const CALLER: &str = "00f067aa0ba902b7";

/// A Parkway that sends traces there, often.
pub(super) fn tracing(collector: &Collector, protocol: &str) -> Builder {
    Parkway::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", 50)
}

pub(super) const HTTP: &str = "http/protobuf";

pub(super) fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[track_caller]
pub(super) fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let named = named(spans, name);
    assert_eq!(named.len(), 1, "{name} in {spans:#?}");
    named[0]
}

fn children<'a>(spans: &'a [Span], of: &Span) -> Vec<&'a Span> {
    let mut children: Vec<_> = { spans.iter() }
        .filter(|span| span.parent == of.id && span.trace == of.trace)
        .collect();
    children.sort_by_key(|span| span.from);
    children
}

pub(super) fn of_kind<'a>(spans: &'a [Span], kind: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

/// Whether a start and so many requests have come, each with all its spans: they come together.
pub(super) fn has_told(spans: &[Span], requests: usize) -> bool {
    of_kind(spans, "server").len() == requests && !named(spans, "cold start").is_empty()
}

/// What the workload saw of a header.
pub(super) fn seen(answer: &Value, name: &str) -> Option<String> {
    let values = answer["headers"][name].as_array()?;
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    Some(values[0].as_str().unwrap().to_owned())
}

/// Trace, span and flags of a `traceparent`.
#[track_caller]
pub(super) fn parts(traceparent: &str) -> (String, String, String) {
    let parts: Vec<_> = traceparent.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        panic!("{traceparent}");
    };
    assert_eq!((version, trace.len(), span.len()), ("00", 32, 16));
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

async fn get_with(site: &Site, fields: &[(&str, &str)]) -> Value {
    site.send(request_with(fields)).await.expect(200).json()
}

pub(super) fn request_with(fields: &[(&str, &str)]) -> Request<Bytes> {
    let request = Request::get("/headers");
    let request = { fields.iter() }.fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(Bytes::new()).unwrap()
}

/// A Revision that has served a request, and what was told of that has been forgotten.
async fn warm(parkway: &Parkway) -> Site {
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    shop
}

#[tokio::test]
async fn a_cold_start_is_one_trace_whose_phases_add_up_even_if_nothing_is_sampled() {
    let collector = Collector::http().await;
    let gate = Gate::closed();
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", 0)
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .manifest("main", gate.holds(hello_service("shop")))
        .start()
        .await;
    let shop = parkway.service("shop");

    let (answer, ()) = tokio::join!(get_with(&shop, &[("user-agent", "a test")]), async {
        parkway.parked(1).await;
        gate.open();
    });

    let spans = collector
        .spans_when("the start", |spans| has_told(spans, 1))
        .await;
    let traces: BTreeSet<_> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces.len(), 1, "{spans:#?}");
    let server = of_kind(&spans, "server")[0];
    assert_eq!((server.name.as_str(), server.parent.as_str()), ("GET", ""));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/headers"),
        ("url.scheme", "http"),
        ("server.address", "shop.default.localhost"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "a test"),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "200"),
        ("k8s.namespace.name", "default"),
        ("kn.revision.name", "shop-00001"),
        ("kn.service.name", "shop"),
        ("parkway.parked", "true"),
    ] {
        assert_eq!(server.says(key), Some(value), "{key} of {server:?}");
    }
    assert_eq!(server.resource["service.name"], "parkway");
    assert_eq!(server.resource["deployment.environment.name"], "test");

    let parked = only(&spans, "parked");
    assert_eq!(parked.parent, server.id);
    assert_eq!(parked.says("parkway.queue.position"), Some("1"));
    assert_eq!(parked.says("parkway.queue.depth"), Some("1"));
    let attempt = of_kind(&spans, "client")[0];
    assert_eq!(attempt.parent, server.id);
    assert_eq!(attempt.says("parkway.attempt.reason"), Some("first"));
    assert_eq!(attempt.events[0].0, "connected");
    // It was not sampled when it came, and it is by the time that it goes on.
    let (trace, caller, flags) = parts(&seen(&answer, "traceparent").unwrap());
    assert_eq!((trace, caller), (server.trace.clone(), attempt.id.clone()));
    assert_eq!(flags, "01");

    let start = only(&spans, "cold start");
    assert_eq!((&start.parent, start.from), (&server.id, server.from));
    assert_eq!(parked.links, [(start.trace.clone(), start.id.clone())]);
    assert_eq!(start.says("parkway.cold_start.outcome"), Some("ready"));
    let phases = children(&spans, start);
    let names: Vec<_> = phases.iter().map(|phase| phase.name.as_str()).collect();
    let expected = [
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
    ];
    assert_eq!(names, expected, "{spans:#?}");
    let mut end = start.from;
    for phase in &phases {
        assert_eq!(phase.from, end, "no overlap, no hole: {phases:#?}");
        end = phase.to;
    }
    let sum: f64 = phases.iter().map(|phase| phase.ms()).sum();
    assert!((sum - start.ms()).abs() < SLACK_MS, "{sum} of {start:?}");
    let told: Vec<_> = start.events.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        told.contains(&"spawned") && told.contains(&"firstByte"),
        "{told:?}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn of_two_hundred_requests_of_one_start_each_is_linked_to_it_and_it_is_told_once() {
    const WAITERS: u64 = 200;
    let collector = Collector::http().await;
    let gate = Gate::closed();
    let parkway = tracing(&collector, HTTP)
        .manifest("main", gate.holds(hello_service("shop")))
        .start()
        .await;
    let mut clients = JoinSet::new();
    for _ in 0..WAITERS {
        let shop = parkway.service("shop");
        clients.spawn(async move { shop.get("/").await });
    }
    parkway.parked(WAITERS).await;
    gate.open();
    while let Some(answer) = clients.join_next().await {
        answer.unwrap().expect(200);
    }

    let spans = collector
        .spans_when("all requests", |spans| has_told(spans, 200))
        .await;

    let start = only(&spans, "cold start");
    assert_eq!(start.says("parkway.cold_start.waited"), Some("200"));
    let phases = children(&spans, start);
    let sum: f64 = phases.iter().map(|phase| phase.ms()).sum();
    assert!((sum - start.ms()).abs() < SLACK_MS, "{sum} of {start:?}");
    let parked = named(&spans, "parked");
    assert_eq!(parked.len(), 200);
    for parked in &parked {
        assert_eq!(parked.links, [(start.trace.clone(), start.id.clone())]);
        let server = spans.iter().find(|span| span.id == parked.parent).unwrap();
        assert_eq!((&server.trace, server.kind), (&parked.trace, "server"));
    }
    let traces: BTreeSet<_> = parked.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), 200, "each has its own trace");
    parkway.finish().await;
}

#[tokio::test]
async fn a_sampled_caller_is_the_parent_and_the_workload_hears_of_the_attempt_over_every_protocol()
{
    for (service, version) in [
        (hello_service("shop"), "1.1"),
        (hello_service("shop").h2c(), "2"),
    ] {
        let collector = Collector::http().await;
        let builder =
            tracing(&collector, HTTP).env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
        let parkway = builder.manifest("main", service).start().await;
        let shop = warm(&parkway).await;
        let before = collector
            .spans_when("the start", |spans| has_told(spans, 1))
            .await;
        let mut request = request_with(&[
            ("traceparent", &format!("00-{TRACE}-{CALLER}-01")),
            ("tracestate", "vendor=opaque,other=1"),
            ("baggage", "user=1"),
        ]);

        let answer = if version == "2" {
            // As gRPC does.
            *request.method_mut() = http::Method::POST;
            let grpc = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", grpc);
            shop.http2().await.send(request).await
        } else {
            shop.send(request).await
        };

        let answer = answer.expect(200).json();
        let spans = collector
            .spans_when("the request", |spans| {
                spans.iter().any(|span| span.trace == TRACE)
            })
            .await;
        let spans: Vec<_> = spans
            .into_iter()
            .filter(|span| !before.contains(span))
            .collect();
        let server = of_kind(&spans, "server")[0];
        let attempt = of_kind(&spans, "client")[0];
        assert_eq!(
            (server.trace.as_str(), server.parent.as_str()),
            (TRACE, CALLER)
        );
        assert_eq!(server.says("network.protocol.version"), Some(version));
        assert_eq!(server.state, "vendor=opaque,other=1");
        assert_eq!(server.says("parkway.parked"), Some("false"));
        assert_eq!(
            (&attempt.parent, attempt.trace.as_str()),
            (&server.id, TRACE)
        );
        let told = format!("00-{TRACE}-{}-01", attempt.id);
        assert_eq!(seen(&answer, "traceparent"), Some(told));
        assert_eq!(
            seen(&answer, "tracestate").as_deref(),
            Some("vendor=opaque,other=1")
        );
        assert_eq!(seen(&answer, "baggage").as_deref(), Some("user=1"));
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_warm_request_that_is_not_sampled_is_passed_on_as_such_and_not_told_of() {
    let collector = Collector::http().await;
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let shop = warm(&parkway).await;
    let before = collector
        .spans_when("the start", |spans| has_told(spans, 1))
        .await;

    let line = format!("00-{TRACE}-{CALLER}-00");
    let answer = get_with(&shop, &[("traceparent", &line), ("tracestate", "a=b")]).await;
    assert_eq!(seen(&answer, "traceparent"), Some(line));
    assert_eq!(seen(&answer, "tracestate").as_deref(), Some("a=b"));
    let answer = get_with(&shop, &[("tracestate", "a=b")]).await;
    let (trace, _, flags) = parts(&seen(&answer, "traceparent").unwrap());
    assert_ne!(trace, TRACE);
    assert_eq!(flags, "00");
    assert_eq!(
        seen(&answer, "tracestate"),
        None,
        "of a trace that nobody knows"
    );

    // What comes after them has come, so they never will.
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    get_with(&shop, &[("traceparent", &sampled)]).await;
    let spans = collector
        .spans_when("the last", |spans| {
            spans.iter().any(|span| span.trace == TRACE)
        })
        .await;
    let servers = |spans: &[Span]| of_kind(spans, "server").len();
    assert_eq!(servers(&spans), servers(&before) + 1, "{spans:#?}");
    parkway.finish().await;
}

#[tokio::test]
async fn b3_is_taken_in_and_passed_on_in_the_form_it_came() {
    let collector = Collector::http().await;
    let builder = tracing(&collector, HTTP).env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let parkway = builder
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let shop = warm(&parkway).await;
    let single = format!("{TRACE}-{CALLER}-1");

    let answer = get_with(&shop, &[("b3", &single)]).await;
    let (trace, span, flags) = parts(&seen(&answer, "traceparent").unwrap());
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_eq!(seen(&answer, "b3"), Some(format!("{TRACE}-{span}-1")));

    let several = [
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", CALLER),
        ("x-b3-sampled", "1"),
        ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
    ];
    let answer = get_with(&shop, &several).await;
    let (trace, span, _) = parts(&seen(&answer, "traceparent").unwrap());
    assert_eq!(trace, TRACE);
    assert_eq!(seen(&answer, "x-b3-traceid").as_deref(), Some(TRACE));
    assert_eq!(seen(&answer, "x-b3-spanid"), Some(span));
    assert_eq!(seen(&answer, "x-b3-sampled").as_deref(), Some("1"));
    assert_eq!(seen(&answer, "x-b3-parentspanid"), None);

    let spans = collector
        .spans_when("both requests", |spans| {
            let of_ours = |span: &&Span| span.trace == TRACE && span.kind == "server";
            spans.iter().filter(of_ours).count() == 2
        })
        .await;
    let ours = spans
        .iter()
        .filter(|span| span.trace == TRACE && span.kind == "server");
    for server in ours {
        assert_eq!(server.parent, CALLER);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn every_attempt_is_a_span_that_says_why_it_was_made() {
    let collector = Collector::http().await;
    let (refusing, answering) = (Upstream::refusing(), Upstream::answering("b").await);
    let manifests = revision_with_endpoints("shop", &[refusing.address()]);
    let parkway = tracing(&collector, HTTP)
        .manifest("main", manifests)
        .start()
        .await;
    let shop = parkway.service("shop");
    let request = tokio::spawn(async move { shop.get("/").await });
    parkway.parked(1).await;
    let both = [refusing.address(), answering.address()];
    parkway.edit("main", revision_with_endpoints("shop", &both));
    request.await.unwrap().expect(200);

    let spans = collector
        .spans_when("the request", |spans| !of_kind(spans, "server").is_empty())
        .await;

    let mut attempts = of_kind(&spans, "client");
    attempts.sort_by_key(|attempt| attempt.from);
    let (first, last) = (attempts[0], attempts[attempts.len() - 1]);
    assert!(attempts.len() >= 2, "{spans:#?}");
    assert_eq!(first.says("parkway.attempt.reason"), Some("first"));
    assert_eq!(first.says("error.type"), Some("connect"));
    assert!(first.is_error);
    assert_eq!(first.says("http.request.resend_count"), None);
    assert_eq!(last.says("parkway.attempt.reason"), Some("connect"));
    let resent = (attempts.len() - 1).to_string();
    assert_eq!(
        last.says("http.request.resend_count"),
        Some(resent.as_str())
    );
    assert_eq!(last.says("http.response.status_code"), Some("200"));
    assert!(!last.is_error);
    let port = answering.address().port().to_string();
    assert_eq!(last.says("server.port"), Some(port.as_str()));
    parkway.finish().await;
}

#[tokio::test]
async fn a_collector_that_dies_costs_spans_and_nothing_else_and_is_used_again_when_it_returns() {
    // An address that nobody else takes meanwhile.
    let collector = Collector::http_at(([127, 0, 82, 1], 0).into()).await;
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", 1_000)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let shop = warm(&parkway).await;
    collector
        .spans_when("the start", |spans| has_told(spans, 1))
        .await;
    let address = collector.address();

    drop(collector);
    let lost = [("reason", "not-taken")];
    eventually("spans to be lost", async || {
        shop.get("/").await.expect(200);
        let lost = parkway
            .metric("parkway_trace_spans_dropped_total", &lost)
            .await;
        lost.filter(|lost| *lost > 0.0)
    })
    .await;

    let collector = Collector::http_at(address).await;
    eventually("spans to come again", async || {
        shop.get("/").await.expect(200);
        (!collector.spans().is_empty()).then_some(())
    })
    .await;
    assert!(
        parkway
            .metric("parkway_trace_spans_exported_total", &[])
            .await
            > Some(0.0)
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_full_queue_costs_spans_and_no_request() {
    let collector = Collector::http().await;
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_BSP_MAX_QUEUE_SIZE", 2)
        .env("OTEL_BSP_SCHEDULE_DELAY", 3_600_000)
        .manifest("main", hello_service("shop"))
        .workers(1)
        .start()
        .await;
    let shop = warm(&parkway).await;
    let full = [("reason", "queue-full")];

    eventually("the queue to be full", async || {
        let mut clients = JoinSet::new();
        for _ in 0..64 {
            let shop = shop.clone();
            clients.spawn(async move { shop.get("/").await });
        }
        while let Some(answer) = clients.join_next().await {
            answer.unwrap().expect(200);
        }
        let full = parkway
            .metric("parkway_trace_spans_dropped_total", &full)
            .await;
        full.filter(|full| *full > 0.0)
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn what_waits_is_sent_when_the_process_ends() {
    let collector = Collector::grpc().await;
    let parkway = tracing(&collector, "grpc")
        .env("OTEL_BSP_SCHEDULE_DELAY", 3_600_000)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    warm(&parkway).await;
    assert_eq!(collector.spans(), []);

    parkway.stop().await;

    let spans = collector.spans();
    assert!(has_told(&spans, 1), "{spans:#?}");
}

#[tokio::test]
async fn without_a_collector_heads_pass_untouched() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = warm(&parkway).await;
    assert_eq!(seen(&get_with(&shop, &[]).await, "traceparent"), None);
    let line = format!("00-{TRACE}-{CALLER}-01");
    let answer = get_with(&shop, &[("traceparent", &line), ("b3", "0")]).await;
    assert_eq!(seen(&answer, "traceparent"), Some(line));
    assert_eq!(seen(&answer, "b3").as_deref(), Some("0"));
    parkway.finish().await;
}

#[tokio::test]
async fn config_observability_turns_traces_on_and_off_while_requests_are_served() {
    let collector = Collector::grpc().await;
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let often = |builder: Builder| builder.env("OTEL_BSP_SCHEDULE_DELAY", 50);
    let parkway = cluster.parkway_with(often).await;
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let site = parkway.at(shop.host());
    let traceparent = async || {
        let answer = site.get("/").await.expect(200).json();
        answer["headers"]["traceparent"].as_str().map(str::to_owned)
    };
    assert_eq!(traceparent().await, None);
    let configure = |data: Value| {
        cluster.api.put(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "config-observability", "namespace": SYSTEM},
            "data": data,
        }));
    };

    configure(json!({
        "tracing-protocol": "grpc",
        "tracing-endpoint": collector.endpoint(),
        "tracing-sampling-rate": "1",
    }));
    let line = eventually("traces to be kept", traceparent).await;
    let (trace, _, flags) = parts(&line);
    assert_eq!(flags, "01");
    let spans = collector
        .spans_when("the request", |spans| {
            spans.iter().any(|span| span.trace == trace)
        })
        .await;
    let server = of_kind(&spans, "server")[0];
    assert_eq!(server.resource["k8s.pod.name"], "parkway-0");
    assert_eq!(server.says("kn.revision.name"), Some("shop-00001"));

    // What cannot be used changes nothing.
    configure(json!({"tracing-protocol": "zipkin", "tracing-endpoint": "http://z"}));
    parkway.says("traces stay as they were").await;
    assert_ne!(traceparent().await, None);

    configure(json!({"tracing-protocol": "none"}));
    eventually("traces to be off", async || {
        traceparent().await.is_none().then_some(())
    })
    .await;
    parkway.finish().await;
}
