//! Traces of those who wait for a start: many of them, over every protocol, whatever the collector does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use parkway_tests::upstream::Connection;
use parkway_tests::{Answer, Collector, Gate, Parkway, Site, Upstream, hello_service};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::traces::{
    CALLER, HTTP, TRACE, has_told, named, of_kind, only, parts, request_with, seen, tracing,
};

/// So many wait for one start.
const MANY: u32 = 1_000;

async fn get_many(parkway: &Arc<Parkway>, count: u32) -> JoinSet<Answer> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let shop = parkway.service("shop");
        clients.spawn(async move { shop.get("/").await });
    }
    parkway.parked(count.into()).await;
    clients
}

async fn all_served(mut clients: JoinSet<Answer>) {
    while let Some(answer) = clients.join_next().await {
        answer.unwrap().expect(200);
    }
}

#[tokio::test]
async fn of_a_thousand_requests_of_one_start_each_is_linked_to_it_and_it_is_told_once() {
    let collector = Collector::grpc().await;
    let gate = Gate::closed();
    let parkway = tracing(&collector, "grpc")
        .manifest("main", gate.holds(hello_service("shop")))
        .start()
        .await;
    let parkway = Arc::new(parkway);
    let clients = get_many(&parkway, MANY).await;
    gate.open();
    all_served(clients).await;

    let count = usize::try_from(MANY).unwrap();
    let spans = collector
        .spans_when("all requests", |spans| has_told(spans, count))
        .await;
    let start = only(&spans, "cold start");
    let many = MANY.to_string();
    assert_eq!(start.says("parkway.cold_start.waited"), Some(&*many));
    let parked = named(&spans, "parked");
    assert_eq!(parked.len(), count);
    for parked in &parked {
        assert_eq!(parked.links, [(start.trace.clone(), start.id.clone())]);
    }
    let traces: BTreeSet<_> = parked.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), count, "each has its own trace");
    assert!(traces.contains(&start.trace), "the start is in one of them");
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len());
    let place = |span: &parkway_tests::Span| {
        let place = span.says("parkway.queue.position").unwrap();
        place.parse::<u32>().unwrap()
    };
    let places: BTreeSet<u32> = parked.iter().map(|span| place(span)).collect();
    assert_eq!(places, BTreeSet::from_iter(1..=MANY));
    for reason in ["queue-full", "not-taken"] {
        let name = "parkway_trace_spans_dropped_total";
        let dropped = parkway.metric(name, &[("reason", reason)]).await;
        assert_eq!(dropped, Some(0.0), "{reason}");
    }
    let state = parkway.state().await;
    assert_eq!(state.0["coldStarts"].as_array().unwrap().len(), 1);
    assert_eq!(state.0["coldStarts"][0]["waited"], MANY);
    Arc::into_inner(parkway).unwrap().finish().await;
}

#[tokio::test]
async fn a_collector_that_dies_while_requests_wait_changes_nothing_for_them() {
    // An address that nobody else takes meanwhile.
    let collector = Collector::http_at(([127, 0, 82, 2], 0).into()).await;
    let gate = Gate::closed();
    let parkway = tracing(&collector, HTTP)
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", 1_000)
        .manifest("main", gate.holds(hello_service("shop")))
        .start()
        .await;
    let parkway = Arc::new(parkway);
    let clients = get_many(&parkway, 100).await;
    let address = collector.address();
    drop(collector);

    gate.open();
    all_served(clients).await;
    let lost = [("reason", "not-taken")];
    parkway_tests::eventually("what was told to be lost", async || {
        let name = "parkway_trace_spans_dropped_total";
        let lost = parkway.metric(name, &lost).await;
        lost.filter(|lost| *lost >= 400.0)
    })
    .await;

    let collector = Collector::http_at(address).await;
    parkway.service("shop").get("/").await.expect(200);
    // Some of those who waited may be told only now.
    let back = |spans: &[parkway_tests::Span]| {
        let mut servers = of_kind(spans, "server").into_iter();
        servers.any(|span| span.says("parkway.parked") == Some("false"))
    };
    collector.spans_when("the next request", back).await;
    Arc::into_inner(parkway).unwrap().finish().await;
}

#[tokio::test]
async fn a_collector_that_never_answers_keeps_nobody_waiting() {
    let silent = |mut connection: Connection| async move {
        while connection.whole_request().await.is_some() {}
    };
    let silent = Upstream::start(silent).await;
    let parkway = Parkway::builder()
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", silent.address()),
        )
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", 3_600_000)
        .env("OTEL_BSP_SCHEDULE_DELAY", 10)
        .env("OTEL_BSP_MAX_QUEUE_SIZE", 16)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let shop = parkway.service("shop");
    let full = [("reason", "queue-full")];

    parkway_tests::eventually("its queue to be full", async || {
        shop.get("/").await.expect(200);
        let name = "parkway_trace_spans_dropped_total";
        let full = parkway.metric(name, &full).await;
        full.filter(|full| *full > 0.0)
    })
    .await;
    for _ in 0..100 {
        shop.get("/").await.expect(200);
    }
    parkway.finish().await;
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    Http1,
    Http2,
    Grpc,
}

async fn ask(site: Site, over: Over, mut request: Request<Bytes>) -> Value {
    if over == Over::Grpc {
        *request.method_mut() = Method::POST;
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
    }
    let answer = match over {
        Over::Http1 => site.send(request).await,
        Over::Http2 | Over::Grpc => site.http2().await.send(request).await,
    };
    answer.expect(200).json()
}

#[tokio::test]
async fn who_waits_is_passed_on_as_sampled_in_the_callers_trace_over_http1_http2_and_grpc() {
    let w3c = format!("00-{TRACE}-{CALLER}-00");
    let b3 = format!("{TRACE}-{CALLER}-0");
    for over in [Over::Http1, Over::Http2, Over::Grpc] {
        for (name, value) in [("traceparent", &w3c), ("b3", &b3)] {
            let what = format!("{over:?}, {name}");
            let (collector, gate) = (Collector::http().await, Gate::closed());
            let service = match over {
                Over::Grpc => hello_service("shop").h2c(),
                Over::Http1 | Over::Http2 => hello_service("shop"),
            };
            let parkway = tracing(&collector, HTTP)
                .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
                .manifest("main", gate.holds(service))
                .start()
                .await;
            let request = request_with(&[(name, value)]);
            let shop = parkway.service("shop");
            let (answer, ()) = tokio::join!(ask(shop, over, request), async {
                parkway.parked(1).await;
                gate.open();
            });

            let spans = collector
                .spans_when("the request", |spans| has_told(spans, 1))
                .await;
            let (server, attempt) = (of_kind(&spans, "server")[0], of_kind(&spans, "client")[0]);
            let ids = (server.trace.as_str(), server.parent.as_str());
            assert_eq!(ids, (TRACE, CALLER), "{what}");
            let version = if over == Over::Http1 { "1.1" } else { "2" };
            assert_eq!(
                server.says("network.protocol.version"),
                Some(version),
                "{what}"
            );
            let (trace, span, flags) = parts(&seen(&answer, "traceparent").unwrap());
            assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"), "{what}");
            assert_eq!(span, attempt.id, "{what}");
            let passed_on = (name == "b3").then(|| format!("{TRACE}-{span}-1"));
            assert_eq!(seen(&answer, "b3"), passed_on, "{what}");
            assert_eq!(only(&spans, "cold start").trace, TRACE, "{what}");
            parkway.finish().await;
        }
    }
}
