//! A split that names an ordinary Service.

use std::net::SocketAddr;

use axum::Router;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::{QueueProxy, eventually};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::load::Load;

/// A Service that no Revision has, in the place of a Revision's: its KIngress leads there, all its Pods are ready.
fn put(cluster: &Cluster, shop: &Serving, pods: &[SocketAddr]) {
    let port = pods[0].port();
    let mut service = shop.services()[0].clone();
    service["metadata"] = json!({ "name": "plain", "namespace": NAMESPACE });
    service["spec"]["ports"] = json!([{ "name": "http", "port": 80, "targetPort": port }]);
    cluster.api.put(service);
    cluster.api.put(slice(shop, pods));
    let mut ingress = shop.ingress();
    for rule in ingress["spec"]["rules"].as_array_mut().unwrap() {
        for path in rule["http"]["paths"].as_array_mut().unwrap() {
            path["splits"] = json!([{
                "percent": 100, "serviceName": "plain", "serviceNamespace": NAMESPACE, "servicePort": 80,
            }]);
        }
    }
    cluster.api.put(ingress);
}

fn slice(shop: &Serving, pods: &[SocketAddr]) -> Value {
    let ready: Vec<_> = pods.iter().map(|pod| (*pod, PodIs::Ready)).collect();
    let mut slice = shop.slice(&ready);
    slice["metadata"] = json!({
        "name": "plain-1", "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": "plain" },
    });
    slice["ports"] = json!([{ "name": "http", "port": pods[0].port() }]);
    slice
}

#[tokio::test]
async fn requests_are_balanced_over_its_endpoints_as_they_come_and_go() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let mut pods = Vec::new();
    for number in 0..4 {
        pods.push(QueueProxy::start(&format!("plain-{number}"), 0).await);
    }
    let addresses: Vec<_> = pods.iter().map(QueueProxy::address).collect();
    put(&cluster, &shop, &addresses[..3]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let load = Load::get(&parkway.at(shop.host()), "/", 8);

    load.more(600).await;
    let counts: Vec<_> = pods.iter().map(QueueProxy::requests).collect();
    let (least, most) = (counts[..3].iter().min(), counts[..3].iter().max());
    assert!(
        counts[3] == 0 && least.unwrap() * 2 > *most.unwrap(),
        "{counts:?}"
    );
    cluster.api.put(slice(&shop, &addresses[1..]));
    eventually("the fourth to be used", async || {
        (pods[3].requests() > 50).then_some(())
    })
    .await;
    load.stop().await.assert_all_succeeded(600);
    parkway.finish().await;
}

#[tokio::test]
async fn a_pod_that_is_ready_before_it_listens_costs_nobody_a_request() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    put(&cluster, &shop, &[socket.local_addr().unwrap()]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let site = parkway.at(shop.host());

    let request = tokio::spawn(async move { site.get("/").await });
    parkway.says("endpoint set aside").await;
    let listener = socket.listen(16).unwrap();
    let app = Router::new().fallback(async || "at last");
    let serving = tokio::spawn(axum::serve(listener, app).into_future());

    request.await.unwrap().expect(200);
    parkway.finish().await;
    serving.abort();
}
