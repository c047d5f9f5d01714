//! A split that names an ordinary Service.

use axum::Router;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use serde_json::json;
use tokio::net::TcpSocket;

#[tokio::test]
async fn a_pod_that_is_ready_before_it_listens_costs_nobody_a_request() {
    let cluster = Cluster::start();
    let shop = serving("shop");
    cluster.put(&shop);
    // Its KIngress leads to a Service that no Revision has.
    let mut service = shop.services()[0].clone();
    service["metadata"] = json!({ "name": "plain", "namespace": NAMESPACE });
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let pod = socket.local_addr().unwrap();
    service["spec"]["ports"] = json!([{ "name": "http", "port": 80, "targetPort": pod.port() }]);
    cluster.api.put(service);
    let mut slice = shop.slice(&[(pod, PodIs::Ready)]);
    slice["metadata"] = json!({
        "name": "plain-1", "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": "plain" },
    });
    slice["ports"] = json!([{ "name": "http", "port": pod.port() }]);
    cluster.api.put(slice);
    let mut ingress = shop.ingress();
    for rule in ingress["spec"]["rules"].as_array_mut().unwrap() {
        for path in rule["http"]["paths"].as_array_mut().unwrap() {
            path["splits"] = json!([{
                "percent": 100, "serviceName": "plain", "serviceNamespace": NAMESPACE, "servicePort": 80,
            }]);
        }
    }
    cluster.api.put(ingress);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let site = parkway.at(shop.host());

    let (answer, serving) = tokio::join!(site.get("/"), async {
        parkway.says("endpoint set aside").await;
        let listener = socket.listen(16).unwrap();
        let app = Router::new().fallback(async || "at last");
        tokio::spawn(axum::serve(listener, app).into_future())
    });

    answer.expect(200);
    parkway.finish().await;
    serving.abort();
}
