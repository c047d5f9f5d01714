//! An autoscaler that goes away and comes back elsewhere: neither warm nor parked requests notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use parkway_activator::subset::choose_subset;
use parkway_autoscaler_client::wire;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, SYSTEM, Serving, serving};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{Parkway, QueueProxy, eventually, settled};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

use crate::load::Load;

/// The names of Revisions of which something was said, in order.
type Heard = Arc<Mutex<Vec<String>>>;

/// One that listens. Dropping it breaks its connections.
struct Autoscaler {
    address: SocketAddr,
    heard: Heard,
    connections: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Autoscaler {
    async fn start() -> Self {
        Self::start_at(SocketAddr::from((loopback(), 0))).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Heard::default();
        let connections = Arc::<AtomicUsize>::default();
        let serving = accept(listener, Arc::clone(&heard), Arc::clone(&connections));
        let serving = tokio::spawn(serving);
        Self {
            address,
            heard,
            connections,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    async fn hears_of(&self, revision: &str) {
        let so_far = self.heard.lock().len();
        eventually(format!("something to be said of {revision}"), async || {
            let heard = self.heard.lock();
            heard
                .iter()
                .skip(so_far)
                .any(|it| it == revision)
                .then_some(())
        })
        .await;
    }
}

async fn accept(listener: TcpListener, heard: Heard, count: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        count.fetch_add(1, Ordering::Relaxed);
        connections.spawn(converse(stream, Arc::clone(&heard)));
    }
}

async fn converse(stream: TcpStream, heard: Heard) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(list) = message {
            let messages = wire::decode(&list).unwrap();
            let names = messages.iter().map(|it| it.revision.name().to_owned());
            heard.lock().extend(names);
        }
        // Pongs are queued by the library, and leave with this.
        drop(socket.flush().await);
    }
}

/// The slice that the owner of the only bucket writes.
fn owned_by(owner: SocketAddr) -> serde_json::Value {
    bucket("autoscaler-bucket-00-of-01", owner)
}

/// The slice that the owner of a bucket writes.
fn bucket(bucket: &str, owner: SocketAddr) -> serde_json::Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": bucket,
            "namespace": SYSTEM,
            "labels": {"kubernetes.io/service-name": bucket},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [owner.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": owner.port(), "protocol": "TCP"}],
    })
}

/// Waits until the metric that Knative's activator has says so.
async fn reachable(parkway: &Parkway, wanted: f64) {
    settled("the metric to tell of the link", async || {
        let found = parkway
            .metric("kn_activator_stats_conn_reachable", &[])
            .await;
        let state = &parkway.state().await.0["autoscaler"];
        match found == Some(wanted) {
            true => Ok(()),
            false => Err(format!("{found:?} and {state}")),
        }
    })
    .await;
}

/// Which bucket is whose: knative/pkg `hash/hash.go`, whose vectors are tested beside `parkway_activator::subset`.
#[tokio::test]
async fn each_owner_of_a_bucket_has_one_connection_and_hears_of_its_own_revisions_only() {
    let cluster = Cluster::start();
    let services: Vec<_> = (0..6)
        .map(|number| serving(&format!("shop-{number}")))
        .collect();
    let mut pods = Vec::new();
    for shop in &services {
        cluster.put(shop);
        let pod = QueueProxy::start(shop.name(), 10).await;
        cluster.pods(shop, &[(pod.address(), PodIs::Ready)]);
        pods.push(pod);
    }
    let owners = [Autoscaler::start().await, Autoscaler::start().await];
    let buckets = ["autoscaler-bucket-00-of-02", "autoscaler-bucket-01-of-02"];
    for (name, owner) in buckets.iter().zip(&owners) {
        cluster.api.put(bucket(name, owner.address));
    }
    let parkway = cluster.parkway().await;
    let whose = |shop: &Serving| {
        let revision = format!("{NAMESPACE}/{}", shop.revision_name());
        let chosen = choose_subset(buckets, 1, &revision);
        buckets.iter().position(|bucket| chosen.contains(bucket))
    };
    let wanted: Vec<_> = services.iter().map(|shop| whose(shop).unwrap()).collect();
    assert!(wanted.contains(&0) && wanted.contains(&1), "{wanted:?}");

    for (shop, owner) in services.iter().zip(&wanted) {
        let load = Load::get(&parkway.at(shop.host()), "/", 1);
        owners[*owner].hears_of(&shop.revision_name()).await;
        load.stop().await.assert_all_succeeded(1);
    }
    for (index, owner) in owners.iter().enumerate() {
        let heard = owner.heard.lock().clone();
        for (shop, of) in services.iter().zip(&wanted) {
            let has = heard.contains(&shop.revision_name());
            assert_eq!(has, *of == index, "{heard:?}");
        }
        assert_eq!(owner.connections.load(Ordering::Relaxed), 1);
    }
    // The Service leads nowhere here, and need not. Without one of its owners not everything is heard any more.
    reachable(&parkway, 1.0).await;
    let [_there, gone] = owners;
    drop(gone);
    reachable(&parkway, 0.0).await;
    parkway.finish().await;
}

#[tokio::test]
async fn autoscaler_that_comes_back_elsewhere_is_found_and_no_request_has_waited_for_it() {
    let (cluster, shop, cold) = (Cluster::start(), serving("shop"), serving("cold"));
    for serving in [&shop, &cold] {
        cluster.put(serving);
    }
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let service = Autoscaler::start().await;
    let owner = Autoscaler::start().await;
    cluster.api.put(owned_by(owner.address));
    let url = format!("ws://{}", service.address);
    let parkway = cluster
        .parkway_with(|builder| builder.flag("--autoscaler", url))
        .await;
    let load = Load::get(&parkway.at(shop.host()), "/", 2);
    owner.hears_of("shop-00001").await;

    // Gone, owner and Service: requests are served and parked as ever.
    let there = service.address;
    drop((service, owner));
    load.more(200).await;
    let site = parkway.at(cold.host());
    let parked = tokio::spawn(async move { site.get("/").await.expect(200) });
    parkway.parked(1).await;
    for path in ["/readyz", "/healthz"] {
        let health = parkway.admin_get(path).await.unwrap();
        assert_eq!(health.status, 200, "it is no part of being ready or alive");
    }
    reachable(&parkway, 0.0).await;

    // Another owns the bucket; the Service leads to another Pod.
    let owner = Autoscaler::start().await;
    cluster.api.put(owned_by(owner.address));
    owner.hears_of("shop-00001").await;
    owner.hears_of("cold-00001").await;
    reachable(&parkway, 1.0).await;
    // No owner is known any more: the Service knows.
    let service = Autoscaler::start_at(there).await;
    cluster
        .api
        .delete("endpointslices", SYSTEM, "autoscaler-bucket-00-of-01");
    service.hears_of("shop-00001").await;

    let late = QueueProxy::start("cold-1", 10).await;
    cluster.pods(&cold, &[(late.address(), PodIs::NotReady)]);
    parked.await.unwrap();
    load.stop().await.assert_all_succeeded(200);
    parkway.finish().await;
}
