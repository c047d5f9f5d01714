//! Routes whose clients show certificates, as KIngresses ask for them by annotation.

use http::Method;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Parkway, QueueProxy, Site, certificates, eventually, settled};
use serde_json::{Value, json};

fn annotate(cluster: &Cluster, shop: &Serving, mode: &Value) {
    let annotations = json!({"parkway.dev/client-certificate": mode});
    let change = json!({ "metadata": { "annotations": annotations } });
    cluster
        .api
        .edit("ingresses", NAMESPACE, shop.name(), change);
}

fn ask_for_tls(cluster: &Cluster, shop: &Serving) {
    let tls =
        json!([{"hosts": [shop.host()], "secretName": "shop", "secretNamespace": "certificates"}]);
    let spec = json!({ "spec": { "tls": tls } });
    cluster.api.edit("ingresses", NAMESPACE, shop.name(), spec);
}

async fn secure(parkway: &Parkway, client: &TlsClient, host: &str) -> Site {
    let at = parkway.listens("external_tls");
    Site::new(client.tunnel(at, host).await, host)
}

/// What the Pod is told of the client's certificate, or the answer's status; none when there is no answer.
async fn told(site: &Site) -> Option<Result<Value, u16>> {
    let request = site.request(Method::GET, "/", "");
    let answer = site.try_send(request).await.ok()?;
    Some(match answer.status.as_u16() {
        200 => Ok(answer.json()["headers"]["x-forwarded-client-cert"].clone()),
        other => Err(other),
    })
}

#[tokio::test]
async fn a_kingress_asks_for_certificates_and_stops_asking_while_requests_pass() {
    let (authority, clients) = (Authority::new("all"), Authority::new("clients"));
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let host = shop.host();
    let identity = authority.issue(&[&host]);
    let secret =
        |clients: &Authority| certificates::secret("certificates", "shop", &identity, clients);
    cluster.api.put(secret(&clients));
    cluster.put(&shop);
    ask_for_tls(&cluster, &shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let nobody = TlsClient::trusting(&authority);
    let known = nobody.clone().showing(clients.issue(&["till-7"]));
    let by = async |client: &TlsClient| told(&secure(&parkway, client, &host).await).await;
    assert_eq!(by(&nobody).await, Some(Ok(Value::Null)), "nobody asks");
    assert_eq!(by(&known).await, Some(Ok(Value::Null)));

    annotate(&cluster, &shop, &json!("required"));

    eventually("it to be asked for", async || {
        by(&nobody).await.is_none().then_some(())
    })
    .await;
    eventually("the route to require it", async || {
        (parkway.at(&host).get("/").await.status == 403).then_some(())
    })
    .await;
    let shown = by(&known).await.unwrap().unwrap().to_string();
    assert!(
        shown.contains("Hash=") && shown.contains("DNS=till-7"),
        "{shown}"
    );
    parkway.at(&host).get("/").await.expect(403);
    // Within, nobody is asked.
    parkway.at_local(&host).get("/").await.expect(200);
    let local = nobody.tunnel(parkway.listens("local_tls"), &host).await;
    Site::new(local, &host).get("/").await.expect(200);

    let others = Authority::new("others");
    cluster.api.put(secret(&others));
    eventually("the other issuer", async || {
        by(&known).await.is_none().then_some(())
    })
    .await;
    let other = nobody.clone().showing(others.issue(&["till-8"]));
    assert!(by(&other).await.unwrap().is_ok());

    annotate(&cluster, &shop, &json!("optional"));
    eventually("those without", async || {
        (by(&nobody).await == Some(Ok(Value::Null))).then_some(())
    })
    .await;
    assert!(by(&other).await.unwrap().unwrap().is_string());
    assert_eq!(by(&known).await, None, "a stranger");

    annotate(&cluster, &shop, &json!("requierd"));
    eventually("a slip of the hand to close it", async || {
        by(&nobody).await.is_none().then_some(())
    })
    .await;
    annotate(&cluster, &shop, &Value::Null);
    eventually("everybody", async || {
        (by(&nobody).await == Some(Ok(Value::Null))).then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn without_an_issuer_in_the_secret_the_kingress_says_so_and_serves_nobody() {
    let (authority, clients) = (Authority::new("all"), Authority::new("clients"));
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let host = shop.host();
    let identity = authority.issue(&[&host]);
    cluster.api.put(identity.secret("certificates", "shop"));
    cluster.put(&shop);
    annotate(&cluster, &shop, &json!("required"));
    ask_for_tls(&cluster, &shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    settled("the KIngress to say what is missing", async || {
        let status = cluster.ingress("shop")["status"].to_string();
        match status.contains("certificates/shop: ca.crt: there is no certificate in it") {
            true => Ok(()),
            false => Err(status),
        }
    })
    .await;
    let nobody = TlsClient::trusting(&authority);
    assert_eq!(told(&secure(&parkway, &nobody, &host).await).await, None);
    parkway.at(&host).get("/").await.expect(403);

    let secret = certificates::secret("certificates", "shop", &identity, &clients);
    cluster.api.put(secret);
    cluster.ready("shop").await;
    let known = nobody.showing(clients.issue(&["till-7"]));
    let shown = told(&secure(&parkway, &known, &host).await).await;
    assert!(shown.unwrap().unwrap().is_string());
    parkway.finish().await;
}
