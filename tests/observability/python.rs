//! The same traces at a receiver that others have written: Python's grpcio and opentelemetry-proto.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use parkway_tests::{Gate, Parkway, eventually, hello_service};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const COLLECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/observability/collector.py");

/// So many wait for the start that is told of.
pub(super) const WAITERS: usize = 3;

/// The receiver. Dropping it ends it.
pub(super) struct Python {
    child: Child,
    pub(super) ports: Value,
    spans: Arc<Mutex<Vec<Value>>>,
    reading: Option<JoinHandle<()>>,
}

impl Python {
    /// Starts it; none, and says why, where what it needs is absent.
    #[expect(clippy::print_stderr, reason = "part of the report of a test")]
    pub(super) fn start() -> Option<Self> {
        // `PARKWAY_TEST_PYTHON` may name one that has the packages.
        let python = env::var("PARKWAY_TEST_PYTHON").unwrap_or_else(|_unset| "python3".to_owned());
        let absent = |what: &str| {
            assert!(
                env::var_os("REQUIRE_OTLP_PYTHON").is_none(),
                "{what}, and REQUIRE_OTLP_PYTHON is set"
            );
            eprintln!(
                "ABSENT: {what}; this test proves nothing (pip install grpcio opentelemetry-proto)"
            );
        };
        let started = Command::new(&python)
            .arg(COLLECTOR)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            absent(&python);
            return None;
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(Ok(ports)) = lines.next() else {
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(3), "only absence is an excuse");
            absent(&format!("{python}'s grpcio or opentelemetry-proto"));
            return None;
        };
        let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
        let taken = Arc::clone(&spans);
        let reading = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                taken.lock().push(serde_json::from_str(&line).unwrap());
            }
        });
        Some(Self {
            child,
            ports: serde_json::from_str(&ports).unwrap(),
            spans,
            reading: Some(reading),
        })
    }

    /// What has come over this protocol, as soon as a start and so many requests have.
    pub(super) async fn told(&self, over: &str, requests: usize) -> Vec<Value> {
        eventually(format!("{requests} requests over {over}"), async || {
            let spans = self.spans.lock().clone();
            let spans: Vec<_> = { spans.into_iter() }
                .filter(|span| span["over"] == over)
                .collect();
            // What is told last of each request, and of the start.
            let is_told = named(&spans, "response").len() == requests + 1;
            is_told.then_some(spans)
        })
        .await
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.reading.take().map(JoinHandle::join));
    }
}

fn of_kind<'a>(spans: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let kind = format!("SPAN_KIND_{kind}");
    spans.iter().filter(|span| span["kind"] == kind).collect()
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

#[tokio::test]
async fn pythons_receiver_reads_a_cold_start_as_one_tree_over_grpc_and_over_http() {
    let Some(python) = Python::start() else {
        return;
    };
    for (over, protocol) in [("grpc", "grpc"), ("http", "http/protobuf")] {
        let endpoint = format!("http://127.0.0.1:{}", python.ports[over]);
        let parkway = started(endpoint, protocol).await;
        let spans = python.told(over, WAITERS).await;
        assert_are_as_jaeger_wants_them(&spans);
        parkway.finish().await;
    }
}

/// A Parkway that sends there, and has started a workload for which some have waited.
pub(super) async fn started(endpoint: String, protocol: &str) -> Parkway {
    let gate = Gate::closed();
    let parkway = Parkway::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", 50)
        .manifest("main", gate.holds(hello_service("shop")))
        .start()
        .await;
    let mut clients = JoinSet::new();
    for _ in 0..WAITERS {
        let shop = parkway.service("shop");
        clients.spawn(async move { shop.get("/").await });
    }
    parkway.parked(WAITERS.try_into().unwrap()).await;
    gate.open();
    while let Some(answer) = clients.join_next().await {
        answer.unwrap().expect(200);
    }
    parkway
}

/// What Jaeger reads of OTLP: who sent it, which spans are above and below each other, which are linked, of which kind they
/// are and what they say (jaegertracing/jaeger `internal/storage/v1/api`, opentelemetry-collector-contrib
/// `pkg/translator/jaeger/traces_to_jaegerproto.go`).
pub(super) fn assert_are_as_jaeger_wants_them(spans: &[Value]) {
    let by_id: BTreeMap<_, _> = { spans.iter() }
        .map(|span| (span["id"].as_str().unwrap(), span))
        .collect();
    assert_eq!(by_id.len(), spans.len(), "each has a number of its own");
    for span in spans {
        assert_eq!(span["resource"]["service.name"], "parkway");
        assert_eq!(span["scope"], "parkway");
        assert!(span["ns"].as_i64().unwrap() >= 0, "{span:#}");
        let parent = span["parent"].as_str().unwrap();
        if parent.is_empty() {
            assert_eq!(span["kind"], "SPAN_KIND_SERVER", "{span:#}");
        } else {
            assert_eq!(by_id[parent]["trace"], span["trace"], "{span:#}");
        }
    }
    let servers = of_kind(spans, "SERVER");
    let traces: BTreeSet<_> = servers.iter().map(|span| span["trace"].as_str()).collect();
    assert_eq!(traces.len(), WAITERS, "each request has a trace of its own");
    for server in servers {
        let attributes = &server["attributes"];
        assert_eq!(attributes["http.request.method"], "GET");
        assert_eq!(attributes["http.response.status_code"], 200);
        assert_eq!(attributes["k8s.namespace.name"], "default");
        assert_eq!(attributes["kn.revision.name"], "shop-00001");
        assert_eq!(attributes["parkway.parked"], true);
        assert_ne!(server["status"], "STATUS_CODE_ERROR");
    }
    for attempt in of_kind(spans, "CLIENT") {
        assert_eq!(attempt["attributes"]["parkway.attempt.reason"], "first");
        assert!(attempt["attributes"]["server.port"].is_u64(), "{attempt:#}");
        assert_eq!(attempt["events"], json!(["connected"]));
    }

    let starts = named(spans, "cold start");
    let [start] = starts[..] else {
        panic!("told once: {starts:#?}");
    };
    assert_eq!(start["kind"], "SPAN_KIND_INTERNAL");
    assert_eq!(
        by_id[start["parent"].as_str().unwrap()]["kind"],
        "SPAN_KIND_SERVER"
    );
    let parked = named(spans, "parked");
    assert_eq!(parked.len(), WAITERS);
    for parked in parked {
        assert_eq!(parked["links"], json!([[start["trace"], start["id"]]]));
        assert!(parked["attributes"]["parkway.queue.position"].is_u64());
    }
    let mut phases: Vec<_> = { spans.iter() }
        .filter(|span| span["parent"] == start["id"])
        .collect();
    phases.sort_by_key(|phase| phase["from"].as_u64());
    assert!(phases.len() > 5, "{phases:#?}");
    let ns = |span: &Value| span["ns"].as_u64().unwrap();
    let mut at = start["from"].as_u64().unwrap();
    for phase in &phases {
        assert_eq!(phase["from"], at, "neither overlaps nor holes: {phases:#?}");
        at += ns(phase);
    }
    let sum: u64 = phases.iter().map(|phase| ns(phase)).sum();
    assert!(sum.abs_diff(ns(start)) < 2_000_000, "{phases:#?}");
}
