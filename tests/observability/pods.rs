//! Cold starts in a cluster: what Pods and their Events tell, in the record, in a trace, and to those who wait.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use parkway_tests::api::Which;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::parkway::Builder;
use parkway_tests::pods::{Reached, broken_pod, event, pod};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{Answer, Collector, Parkway, QueueProxy, Span, State};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::accept_async;
use tokio_util::task::AbortOnDropHandle;

/// How far the sum of the phases may be from the whole, in milliseconds.
const SLACK_MS: f64 = 2.0;

/// An autoscaler that listens to whatever it is told.
struct Listener {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl Listener {
    async fn start() -> Self {
        let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(listen(stream));
            }
        };
        Self {
            address,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// Waits until Parkway is connected to it.
    async fn listens_to(&self, parkway: &Parkway) {
        parkway
            .state_when("the autoscaler's connection", |state| {
                state.0["autoscaler"]["connections"][0]["connected"] == true
            })
            .await;
    }
}

async fn listen(stream: TcpStream) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    while let Some(Ok(_)) = socket.next().await {
        drop(socket.flush().await);
    }
}

/// The last start.
fn last(state: &State) -> &Value {
    &state.0["coldStarts"][0]
}

fn milestone<'a>(start: &'a Value, name: &str) -> Option<&'a Value> {
    let mut milestones = start["milestones"].as_array()?.iter();
    milestones.find(|seen| seen["name"] == name)
}

async fn seen(parkway: &Parkway, name: &str) {
    parkway
        .state_when(&format!("{name} to be seen"), |state| {
            milestone(last(state), name).is_some()
        })
        .await;
}

fn phases(start: &Value) -> Vec<&str> {
    let phases = start["phases"].as_array().unwrap().iter();
    phases
        .map(|phase| phase["name"].as_str().unwrap())
        .collect()
}

/// Each phase begins where the one before ended, and together they are the whole.
#[track_caller]
fn assert_add_up(start: &Value) {
    let mut sum = 0.0;
    for phase in start["phases"].as_array().unwrap() {
        let from = phase["fromMs"].as_f64().unwrap();
        assert!((from - sum).abs() < SLACK_MS, "{start:#}");
        sum += phase["ms"].as_f64().unwrap();
    }
    let total = start["totalMs"].as_f64().unwrap();
    assert!((total - sum).abs() < SLACK_MS, "{sum} of {start:#}");
}

/// A request to this Service, in the background.
async fn parked(parkway: &Parkway, shop: &Serving) -> JoinHandle<Answer> {
    let site = parkway.at(shop.host());
    let request = tokio::spawn(async move { site.get("/").await });
    parkway.parked(1).await;
    request
}

/// Waits until it is known which Pods there are: what is recorded is old, and the first list would take it for Pods from
/// before the start.
async fn listed(parkway: &Parkway) {
    parkway
        .state_when("the Pods to be listed", |state| {
            state.0["podWatches"]["watches"]["Pod"]["isSynced"] == true
        })
        .await;
}

/// A Parkway that sends its traces there, and is quick about it.
async fn tracing(cluster: &Cluster, autoscaler: &Listener, collector: &Collector) -> Parkway {
    let parkway = cluster
        .parkway_with(|builder: Builder| {
            builder
                .flag("--autoscaler", format!("ws://{}", autoscaler.address))
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
                .env("OTEL_TRACES_SAMPLER", "always_off")
                .env("OTEL_BSP_SCHEDULE_DELAY", 50)
        })
        .await;
    autoscaler.listens_to(&parkway).await;
    parkway
}

#[tokio::test]
async fn a_cold_start_in_a_cluster_is_one_trace_whose_phases_tell_of_its_pod_and_add_up() {
    let (autoscaler, collector) = (Listener::start().await, Collector::http().await);
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    // The Pod before it is about to end.
    let mut old = pod(&shop, "shop-0", loopback().into(), Reached::Ready);
    old["metadata"]["finalizers"] = json!(["example.com/takes-its-time"]);
    cluster.api.put(old);
    cluster.api.delete("pods", NAMESPACE, "shop-0");
    let parkway = tracing(&cluster, &autoscaler, &collector).await;
    let request = parked(&parkway, &shop).await;
    seen(&parkway, "signalled").await;
    listed(&parkway).await;

    let proxy = QueueProxy::starting("shop-1", 10).await;
    let address = proxy.address().ip();
    let pod = |reached| cluster.api.put(pod(&shop, "shop-1", address, reached));
    let event = |container, reason, message: &str| {
        let event = event("shop-1", Some(container), reason, message);
        cluster.api.put(event);
    };
    pod(Reached::Created);
    seen(&parkway, "created").await;
    pod(Reached::Scheduled);
    seen(&parkway, "scheduled").await;
    pod(Reached::Addressed);
    seen(&parkway, "addressed").await;
    cluster.pods(&shop, &[(proxy.address(), PodIs::NotReady)]);
    seen(&parkway, "probed").await;
    let message = "Successfully pulled image \"dev.local/single\" in 812ms";
    event("user-container", "Pulled", message);
    event(
        "queue-proxy",
        "Pulled",
        "Container image \"dev.local/queue\" already present on machine",
    );
    seen(&parkway, "pulled").await;
    pod(Reached::FirstRuns);
    pod(Reached::Runs);
    seen(&parkway, "started").await;
    proxy.set_ready(true);
    request.await.unwrap().expect(200);

    seen(&parkway, "finished").await;
    let state = parkway.state().await;
    let start = last(&state);
    let expected = [
        "parking",
        "signal",
        "pod-creation",
        "scheduling",
        "sandbox",
        "first-probe",
        "image-pull",
        "container-start",
        "readiness",
        "release",
        "connect",
        "first-byte",
        "response",
    ];
    assert_eq!(phases(start), expected, "{start:#}");
    assert_add_up(start);
    assert_eq!(milestone(start, "created").unwrap()["detail"], "shop-1");
    assert_eq!(
        state.0["podWatches"]["watches"]["Pod"]["failing"],
        Value::Null
    );

    let spans = collector
        .spans_when("the start", |spans| {
            spans.iter().any(|span| span.name == "cold start")
        })
        .await;
    let traces: Vec<_> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert!(traces.iter().all(|trace| *trace == traces[0]), "{spans:#?}");
    let whole = spans.iter().find(|span| span.name == "cold start").unwrap();
    let mut told: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parent == whole.id)
        .collect();
    told.sort_by_key(|span| span.from);
    let names: Vec<_> = told.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, expected);
    let mut end = whole.from;
    for span in &told {
        assert_eq!(span.from, end, "no overlap, no hole: {told:#?}");
        assert_eq!(span.kind, "internal");
        end = span.to;
    }
    let sum: f64 = told.iter().map(|span| span.ms()).sum();
    assert!((sum - whole.ms()).abs() < SLACK_MS, "{sum} of {whole:?}");
    let told: BTreeMap<_, _> = told.iter().map(|span| (span.name.as_str(), span)).collect();
    let address = address.to_string();
    for (phase, key, value) in [
        ("pod-creation", "k8s.pod.name", "shop-1"),
        ("scheduling", "k8s.node.name", "node-1"),
        ("sandbox", "k8s.pod.ip", address.as_str()),
        ("image-pull", "parkway.detail", message),
    ] {
        assert_eq!(told[phase].says(key), Some(value), "{phase}");
        let stamp = told[phase].says("parkway.stamp").unwrap();
        assert!(stamp.parse::<u64>().is_ok(), "whole seconds: {stamp}");
        assert_eq!(told[phase].says("k8s.namespace.name"), Some(NAMESPACE));
    }
    parkway.finish().await;
}

#[tokio::test]
async fn who_waits_for_an_image_that_cannot_be_pulled_is_answered_with_the_reason() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let request = parked(&parkway, &shop).await;
    listed(&parkway).await;

    cluster.api.put(broken_pod(&shop, "shop-1", "ErrImagePull"));
    seen(&parkway, "created").await;
    assert!(!request.is_finished(), "it may work the next time");
    let backs_off = broken_pod(&shop, "shop-1", "ImagePullBackOff");
    cluster.api.put(backs_off);

    let answer = request.await.unwrap().expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let text = answer.text();
    assert!(
        text.contains("ImagePullBackOff: Back-off pulling image"),
        "{text}"
    );
    let state = parkway.state().await;
    assert_eq!(last(&state)["outcome"], "failed");
    assert_add_up(last(&state));
    parkway.finish().await;
}

/// What a Revision says of its Pods.
fn says(cluster: &Cluster, of: &Serving, reason: &str, message: &str) {
    let condition = json!({
        "type": "ResourcesAvailable", "status": "False", "reason": reason, "message": message,
    });
    let patch = json!({"status": {"conditions": [condition]}});
    cluster
        .api
        .edit("revisions", NAMESPACE, &of.revision_name(), patch);
}

#[tokio::test]
async fn a_pod_for_which_a_node_is_made_is_waited_for_whatever_its_revision_says() {
    let (cluster, shop, cart) = (Cluster::start(), serving("shop"), serving("cart"));
    cluster.put(&shop);
    cluster.put(&cart);
    let parkway = cluster.parkway().await;
    let request = parked(&parkway, &shop).await;
    listed(&parkway).await;
    let proxy = QueueProxy::start("shop-1", 10).await;
    let address = proxy.address().ip();
    let mut without_node = pod(&shop, "shop-1", address, Reached::Created);
    without_node["status"]["conditions"] = json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }]);
    cluster.api.put(without_node);
    cluster.api.put(event(
        "shop-1",
        None,
        "TriggeredScaleUp",
        "pod triggered scale-up",
    ));
    seen(&parkway, "created").await;

    says(
        &cluster,
        &shop,
        "Unschedulable",
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
    // What is said after it has its effect, so that it has had its own.
    let site = parkway.at(cart.host());
    let other = tokio::spawn(async move { site.get("/").await });
    parkway.parked(2).await;
    says(&cluster, &cart, "NotFound", "there is no such image");
    let text = other.await.unwrap().expect(503).text();
    assert!(text.contains("there is no such image"), "{text}");
    assert!(!request.is_finished());

    cluster
        .api
        .put(pod(&shop, "shop-1", address, Reached::Addressed));
    cluster.pods(&shop, &[(proxy.address(), PodIs::NotReady)]);
    request.await.unwrap().expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn without_the_right_to_see_pods_a_start_goes_as_it_did_and_the_log_says_so_once() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    for plural in ["pods", "events"] {
        cluster
            .api
            .refuse(Which::any().plural(plural), u32::MAX, 403);
    }
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    for round in 0..3 {
        let request = parked(&parkway, &shop).await;
        let asked = round;
        parkway
            .state_when("the Pods to be asked for", |state| {
                let errors = state.0["podWatches"]["watches"]["Pod"]["errors"].as_u64();
                errors > Some(asked)
            })
            .await;
        let proxy = QueueProxy::start("shop-1", 10).await;
        cluster.pods(&shop, &[(proxy.address(), PodIs::NotReady)]);
        request.await.unwrap().expect(200);
        cluster.pods(&shop, &[]);
        parkway
            .state_when("no endpoint", |state| {
                state.revision(&shop.revision_name()).ready_endpoints() == 0
            })
            .await;
    }

    let state = parkway.state().await;
    assert!(phases(last(&state)).contains(&"gap"), "{:#}", last(&state));
    assert_add_up(last(&state));
    let said = parkway.logs().into_iter();
    let said: Vec<_> = said.filter(|line| line.contains("a watch fails")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    parkway.finish().await;
}

#[tokio::test]
async fn pods_that_are_not_to_be_watched_are_not_asked_for() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let off = |builder: Builder| builder.flag("--watch-pods", "false");
    let parkway = cluster.parkway_with(off).await;
    let request = parked(&parkway, &shop).await;
    cluster
        .api
        .put(broken_pod(&shop, "shop-1", "ImagePullBackOff"));
    let proxy = QueueProxy::start("shop-2", 10).await;
    cluster.pods(&shop, &[(proxy.address(), PodIs::NotReady)]);

    request.await.unwrap().expect(200);

    for plural in ["pods", "events"] {
        assert_eq!(cluster.api.count(&Which::any().plural(plural)), 0);
    }
    let state = parkway.state().await;
    assert_eq!(state.0["podWatches"], Value::Null);
    assert!(phases(last(&state)).contains(&"gap"));
    parkway.finish().await;
}
