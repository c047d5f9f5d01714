//! Plain requests that are to come again by TLS: `httpOption` of a KIngress.

use http::Method;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use parkway_tests::{QueueProxy, eventually};
use serde_json::json;

#[tokio::test]
async fn plain_requests_from_outside_are_sent_to_tls_while_the_kingress_says_so() {
    let cluster = Cluster::start();
    let shop = serving("shop");
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let (outside, inside) = (parkway.at(shop.host()), parkway.at_local(shop.host()));
    outside.get("/").await.expect(200);
    let option = |value: &str| {
        let spec = json!({ "spec": { "httpOption": value } });
        cluster.api.edit("ingresses", NAMESPACE, "shop", spec);
    };

    option("Redirected");

    let moved = eventually("the redirect", async || {
        let answer = outside.get("/a?b=c").await;
        (answer.status == 301).then_some(answer)
    })
    .await;
    let location = format!("https://{}/a?b=c", shop.host());
    assert_eq!(moved.header("location"), Some(location.as_str()));
    inside.get("/").await.expect(200);
    let challenge = "/.well-known/acme-challenge/token";
    outside.get(challenge).await.expect(200);
    let mut probe = outside.request(Method::GET, "/healthz", "");
    for (name, value) in [("K-Network-Probe", "probe"), ("K-Network-Hash", "override")] {
        probe.headers_mut().insert(name, value.parse().unwrap());
    }
    outside.send(probe).await.expect(200);
    option("Enabled");
    eventually("plain requests to be served", async || {
        (outside.get("/").await.status == 200).then_some(())
    })
    .await;
    parkway.finish().await;
}
