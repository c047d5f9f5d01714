//! An autoscaler that goes away and comes back elsewhere: neither warm nor parked requests notice.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use parkway_autoscaler_client::wire;
use parkway_tests::cluster::{Cluster, PodIs, SYSTEM, serving};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{QueueProxy, eventually};
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
        let serving = tokio::spawn(accept(listener, Arc::clone(&heard)));
        Self {
            address,
            heard,
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

async fn accept(listener: TcpListener, heard: Heard) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
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
    let bucket = "autoscaler-bucket-00-of-01";
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
    let readiness = parkway.admin_get("/readyz").await.unwrap();
    assert_eq!(readiness.status, 200, "it is no part of being ready");

    // Another owns the bucket; the Service leads to another Pod.
    let owner = Autoscaler::start().await;
    cluster.api.put(owned_by(owner.address));
    owner.hears_of("shop-00001").await;
    owner.hears_of("cold-00001").await;
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
