//! One role alone, another class, and what may be asked where.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{
    CLASS_ANNOTATION, Cluster, NAMESPACE, PodIs, Serving, is_ready, serving,
};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{Parkway, QueueProxy, Site, State, eventually};
use serde_json::{Value, json};

/// A request as an ingress sends it to an activator.
fn by_headers(shop: &Serving) -> Request<Bytes> {
    let request = Request::get("/?sleep_ms=20")
        .header("Knative-Serving-Namespace", NAMESPACE)
        .header("Knative-Serving-Revision", shop.revision_name());
    request.body(Bytes::new()).unwrap()
}

/// The slice of the public Service, with activators as its endpoints, as Kubernetes makes it of what Serving writes.
fn public(shop: &Serving, endpoints: &[SocketAddr]) -> Value {
    let addresses = endpoints.iter().map(|it| it.ip().to_string());
    let endpoints = addresses.map(|address| {
        json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
    });
    let revision = shop.revision_name();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{revision}-6x897"),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": revision,
                "networking.internal.knative.dev/serverlessservice": revision,
                "networking.internal.knative.dev/serviceType": "Public",
                "serving.knative.dev/revision": revision,
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8012, "protocol": "TCP"}],
    })
}

/// Addresses that it says it listens on.
fn listening(parkway: &Parkway) -> Vec<&'static str> {
    let said = &parkway.logged("serving")[0];
    let all = [
        "external",
        "external_tls",
        "local",
        "local_tls",
        "activator",
        "activator_h2c",
        "activator_tls",
        "peers",
        "metrics",
        "admin",
    ];
    let is_there = |name: &&str| said[*name].is_string();
    all.into_iter().filter(is_there).collect()
}

#[tokio::test]
async fn activators_alone_have_the_activators_ports_and_share_pods_by_the_public_endpoints() {
    let (cluster, shop) = (Cluster::start(), serving("shop").concurrency(1));
    cluster.put(&shop);
    let pods = [
        QueueProxy::start("shop-1", 1).await,
        QueueProxy::start("shop-2", 1).await,
    ];
    let all = pods.each_ref().map(|pod| (pod.address(), PodIs::Ready));
    cluster.pods(&shop, &all);
    let mut activators = Vec::new();
    for number in 0..2 {
        let (address, name) = (IpAddr::V4(loopback()), format!("activator-{number}"));
        let activator = cluster.replica(address, &name).flag("--roles", "activator");
        activators.push(activator.start().await);
    }
    let addresses = activators.iter().map(|it| it.listens("activator"));
    cluster
        .api
        .put(public(&shop, &addresses.collect::<Vec<_>>()));

    for activator in &activators {
        assert_eq!(
            listening(activator),
            [
                "activator",
                "activator_h2c",
                "activator_tls",
                "metrics",
                "admin"
            ]
        );
        let its_share = |state: &State| {
            let found = state.find(&shop.revision_name());
            found.is_some_and(|revision| revision.ready_endpoints() == 1)
        };
        activator.state_when("its share", its_share).await;
    }
    let sites: Vec<_> = { activators.iter() }
        .map(|activator| Site::new(activator.listens("activator"), shop.host()))
        .collect();
    let requests = (0..20).flat_map(|_| &sites).map(|site| async {
        site.send(by_headers(&shop)).await.expect(200);
    });
    futures::future::join_all(requests).await;
    for pod in &pods {
        assert_eq!((pod.most_admitted(), pod.requests()), (1, 20), "{pod:?}");
    }
    // KIngresses are another's business altogether.
    let asked = cluster.api.requests().into_iter();
    let mut of_ingresses = asked.filter(|request| request.plural == "ingresses");
    assert!(of_ingresses.next().is_none());
    for activator in activators {
        activator.finish().await;
    }
}

#[tokio::test]
async fn an_ingress_alone_has_the_gateways_ports_and_parks_itself() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster
        .parkway_with(|builder| builder.flag("--roles", "ingress"))
        .await;
    assert_eq!(
        listening(&parkway),
        [
            "external",
            "external_tls",
            "local",
            "local_tls",
            "peers",
            "metrics",
            "admin"
        ]
    );
    cluster.ready("shop").await;
    let site = parkway.at(shop.host());
    let request = tokio::spawn(async move { site.get("/").await.expect(200) });
    parkway.parked(1).await;
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
    request.await.unwrap();
    assert_eq!(pod.unmarked(), 0);
    parkway.finish().await;
}

#[tokio::test]
async fn any_class_may_be_ours() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let mut ingress = serving("cart").ingress();
    ingress["metadata"]["annotations"][CLASS_ANNOTATION] = "gateway.shop.example".into();
    cluster.api.put(ingress);
    let parkway = cluster
        .parkway_with(|builder| builder.flag("--ingress-class", "gateway.shop.example"))
        .await;

    // It names a Revision that is not there, so it waits; but it is spoken of.
    eventually("its status to be written", async || {
        let ingress = cluster.ingress("cart");
        ingress["status"]["conditions"].is_array().then_some(())
    })
    .await;
    cluster.api.put(serving("cart").revision());
    cluster.ready("cart").await;
    assert!(!is_ready(&cluster.ingress("shop")), "it is another's");
    parkway.at(shop.host()).get("/").await.expect(404);
    parkway.finish().await;
}

#[tokio::test]
async fn anybody_may_ask_for_health_readiness_and_metrics_and_for_nothing_else() {
    let cluster = Cluster::start();
    let parkway = cluster.parkway().await;
    let metrics = Site::new(parkway.listens("metrics"), "metrics");
    for path in ["/metrics", "/healthz", "/readyz"] {
        metrics.get(path).await.expect(200);
    }
    for path in [
        "/",
        "/state",
        "/explain?host=a",
        "/events",
        "/page.js",
        "/debug/pprof/",
    ] {
        metrics.get(path).await.expect(404);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn serving_that_goes_between_activators_and_pods_is_seen_by_nobody() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let before = cluster.ingress("shop");
    let load = crate::load::Load::get(&parkway.at(shop.host()), "/", 4);

    let activator = parkway.listens("activator");
    for number in 0..40 {
        let (mode, endpoint) = match number % 2 {
            0 => ("Serve", pod.address()),
            _ => ("Proxy", activator),
        };
        cluster.api.put(json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1",
            "kind": "ServerlessService",
            "metadata": {"name": shop.revision_name(), "namespace": NAMESPACE},
            "spec": {"mode": mode, "protocolType": "http1"},
        }));
        cluster.api.put(public(&shop, &[endpoint]));
        load.more(10).await;
    }

    load.stop().await.assert_all_succeeded(400);
    assert_eq!(
        pod.unmarked(),
        0,
        "each is counted by us, whatever the mode"
    );
    assert_eq!(cluster.ingress("shop"), before);
    parkway.finish().await;
}
