//! TLS as KIngresses ask for it: certificates from Secrets, for both entrances, exchanged while requests pass.

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::http2::Http2;
use parkway_tests::tls::{Authority, Identity, TlsClient};
use parkway_tests::{Parkway, QueueProxy, Raw, Site, eventually, settled};
use serde_json::{Value, json};

use crate::load::Load;

/// Puts a certificate into a Secret.
fn put_secret(cluster: &Cluster, name: &str, identity: &Identity) {
    cluster.api.put(identity.secret("certificates", name));
}

/// A Service whose KIngress wants this Secret's certificate for its host outside.
fn put_with_tls(cluster: &Cluster, shop: &Serving, secret: &str) {
    cluster.put(shop);
    ask_for(cluster, shop, &[&shop.host()], secret);
}

fn ask_for(cluster: &Cluster, shop: &Serving, hosts: &[&str], secret: &str) {
    let tls = json!([{"hosts": hosts, "secretName": secret, "secretNamespace": "certificates"}]);
    let spec = json!({ "spec": { "tls": tls } });
    cluster.api.edit("ingresses", NAMESPACE, shop.name(), spec);
}

async fn pod(cluster: &Cluster, shop: &Serving) -> QueueProxy {
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(shop, &[(pod.address(), PodIs::Ready)]);
    pod
}

/// What the KIngress's condition Ready says.
fn condition(cluster: &Cluster, name: &str) -> (String, String) {
    let ingress = cluster.ingress(name);
    let conditions = ingress["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    let ready = conditions.find(|it| it["type"] == "Ready");
    let ready = ready.unwrap_or(Value::Null);
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

/// This host by TLS.
async fn secure(parkway: &Parkway, client: &TlsClient, host: &str) -> Site {
    let at = parkway.listens("external_tls");
    Site::new(client.tunnel(at, host).await, host)
}

/// The certificate that a client is shown which says this name.
async fn shown(parkway: &Parkway, client: &TlsClient, host: &str) -> Option<Vec<u8>> {
    let at = parkway.listens("external_tls");
    let stream = client.connect(at, host).await.ok()?;
    let certificates = stream.get_ref().1.peer_certificates()?;
    Some(certificates.first()?.to_vec())
}

#[tokio::test]
async fn a_kingress_with_tls_is_served_by_tls_and_plainly() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let hosts = [shop.host(), shop.local_host()];
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    put_secret(&cluster, "shop", &authority.issue(&hosts));
    cluster.put(&shop);
    ask_for(&cluster, &shop, &hosts, "shop");
    let _pod = pod(&cluster, &shop).await;
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let client = TlsClient::trusting(&authority);

    parkway.at(shop.host()).get("/").await.expect(200);
    let outside = secure(&parkway, &client, &shop.host()).await;
    outside.get("/").await.expect(200);
    let at = parkway.listens("local_tls");
    for host in hosts {
        let inside = Site::new(client.tunnel(at, host).await, host);
        inside.get("/").await.expect(200);
    }
    // What is visible within has no certificate outside.
    let (at, local) = (parkway.listens("external_tls"), shop.local_host());
    client.connect(at, &local).await.unwrap_err();

    let done = [("entrance", "external"), ("end", "done")];
    let done = parkway.metric("parkway_tls_handshakes_total", &done).await;
    assert_eq!(done, Some(1.0));
    let source = [("source", "Secret certificates/shop")];
    let expiry = parkway
        .metric("parkway_tls_certificate_expiry_seconds", &source)
        .await;
    assert!(expiry.is_some_and(|seconds| seconds > 1e9), "{expiry:?}");
    let state = parkway.state().await;
    assert_eq!(
        state.0["tls"][0]["certificates"][0]["source"],
        "Secret certificates/shop"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_kingress_whose_secret_is_missing_waits_and_says_so_while_others_are_served() {
    let authority = Authority::new("all");
    let (cluster, shop, other) = (Cluster::start(), serving("shop"), serving("other"));
    put_with_tls(&cluster, &shop, "shop");
    put_with_tls(&cluster, &other, "other");
    put_secret(&cluster, "other", &authority.issue(&[&other.host()]));
    let _pods = (pod(&cluster, &shop).await, pod(&cluster, &other).await);
    let parkway = cluster.parkway().await;
    cluster.ready("other").await;
    let client = TlsClient::trusting(&authority);
    let site = secure(&parkway, &client, &other.host()).await;
    site.get("/").await.expect(200);
    settled("the KIngress to say what is missing", async || {
        let (status, message) = condition(&cluster, "shop");
        let says = message.contains("Secret certificates/shop")
            && message.contains("kubectl create secret tls shop -n certificates");
        match status != "True" && says {
            true => Ok(()),
            false => Err(format!("{status}: {message}")),
        }
    })
    .await;
    parkway.at(shop.host()).get("/").await.expect(200);

    put_secret(&cluster, "shop", &authority.issue(&[&shop.host()]));

    cluster.ready("shop").await;
    let site = secure(&parkway, &client, &shop.host()).await;
    site.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_certificate_that_goes_bad_is_told_and_the_one_before_keeps_serving() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let good = authority.issue(&[&shop.host()]);
    put_secret(&cluster, "shop", &good);
    put_with_tls(&cluster, &shop, "shop");
    let _pod = pod(&cluster, &shop).await;
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let client = TlsClient::trusting(&authority);
    let another = authority.issue(&[&shop.host()]);
    let mismatch = Identity {
        chain: another.chain.clone(),
        key: good.key.clone(),
    };
    let expired = authority.issue_expired(&[&shop.host()]);
    for (bad, wanted) in [(mismatch, "tls.key"), (expired, "tls.crt")] {
        put_secret(&cluster, "shop", &bad);
        settled("the KIngress to say what is wrong", async || {
            let (status, message) = condition(&cluster, "shop");
            match status != "True" && message.contains(wanted) {
                true => Ok(()),
                false => Err(format!("{status}: {message}")),
            }
        })
        .await;
        let now = shown(&parkway, &client, &shop.host()).await;
        assert_eq!(now.as_deref(), Some(good.first().as_ref()), "{wanted}");
    }
    put_secret(&cluster, "shop", &another);
    cluster.ready("shop").await;
    let now = shown(&parkway, &client, &shop.host()).await;
    assert_eq!(now.as_deref(), Some(another.first().as_ref()));
    parkway.finish().await;
}

#[tokio::test]
async fn a_certificate_whose_secret_is_deleted_serves_on_until_the_kingress_lets_go_of_it_and_this_is_said()
 {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let identity = authority.issue(&[&shop.host()]);
    put_secret(&cluster, "shop", &identity);
    put_with_tls(&cluster, &shop, "shop");
    let _pod = pod(&cluster, &shop).await;
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let client = TlsClient::trusting(&authority);

    cluster.api.delete("secrets", "certificates", "shop");

    settled("the KIngress to say what is missing", async || {
        let (status, message) = condition(&cluster, "shop");
        let says = message.contains("Secret certificates/shop is not there");
        match status != "True" && says {
            true => Ok(()),
            false => Err(format!("{status}: {message}")),
        }
    })
    .await;
    let site = secure(&parkway, &client, &shop.host()).await;
    site.get("/").await.expect(200);
    // Its rules change as ever meanwhile.
    let mut spec = cluster.ingress("shop")["spec"].clone();
    for rule in spec["rules"].as_array_mut().unwrap() {
        rule["http"]["paths"][0]["appendHeaders"] = json!({"Marker": "changed"});
    }
    let edit = json!({ "spec": spec });
    cluster.api.edit("ingresses", NAMESPACE, "shop", edit);
    eventually("the change to act", async || {
        let answer = site.get("/").await.expect(200).json();
        (answer["headers"]["marker"] == "changed").then_some(())
    })
    .await;
    let now = shown(&parkway, &client, &shop.host()).await;
    assert_eq!(now.as_deref(), Some(identity.first().as_ref()));

    let without = json!({ "spec": { "tls": [] } });
    cluster.api.edit("ingresses", NAMESPACE, "shop", without);
    cluster.ready("shop").await;
    assert_eq!(shown(&parkway, &client, &shop.host()).await, None);
    parkway.at(shop.host()).get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_certificate_is_exchanged_under_load_and_nothing_is_lost() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    put_secret(&cluster, "shop", &authority.issue(&[&shop.host()]));
    put_with_tls(&cluster, &shop, "shop");
    let _pod = pod(&cluster, &shop).await;
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let client = TlsClient::trusting(&authority);
    let site = secure(&parkway, &client, &shop.host()).await;
    let mut lasting = Raw::connect(site.address()).await;
    let get = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", shop.host());
    lasting.send(&get).await;
    lasting.answer().await.expect(200);
    let load = Load::get(&site, "/", 4);

    for _ in 0..5 {
        load.more(20).await;
        let next = authority.issue(&[&shop.host()]);
        put_secret(&cluster, "shop", &next);
        let wanted = next.first();
        eventually("the new certificate", async || {
            let now = shown(&parkway, &client, &shop.host()).await;
            (now.as_deref() == Some(wanted.as_ref())).then_some(())
        })
        .await;
    }

    load.more(20).await;
    load.stop().await.assert_all_succeeded(100);
    lasting.send(&get).await;
    lasting.answer().await.expect(200);
    drop(lasting);
    parkway.finish().await;
}

#[tokio::test]
async fn the_name_decides_on_the_certificate_and_requests_for_other_hosts_are_misdirected() {
    let authority = Authority::new("all");
    let cluster = Cluster::start();
    let (shop, other, wild) = (serving("shop"), serving("other"), serving("wild"));
    let for_all = format!("*.{NAMESPACE}.example.com");
    let certificates = [
        (&shop, authority.issue(&[&shop.host()])),
        (&other, authority.issue(&[&other.host()])),
        (&wild, authority.issue(&[&for_all])),
    ];
    let mut pods = Vec::new();
    for (serving, identity) in &certificates {
        put_secret(&cluster, serving.name(), identity);
        put_with_tls(&cluster, serving, serving.name());
        pods.push(pod(&cluster, serving).await);
    }
    let parkway = cluster.parkway().await;
    cluster.all_ready(3).await;
    let client = TlsClient::trusting(&authority);
    for (serving, identity) in &certificates {
        let now = shown(&parkway, &client, &serving.host()).await;
        assert_eq!(now.as_deref(), Some(identity.first().as_ref()));
    }
    client
        .connect(parkway.listens("external_tls"), "unknown.example.com")
        .await
        .unwrap_err();

    let get = |host: String| {
        let request = Request::get("/").header("host", host);
        request.body(Bytes::new()).unwrap()
    };
    let at_shop = secure(&parkway, &client, &shop.host()).await;
    at_shop.send(get(shop.host())).await.expect(200);
    at_shop.send(get(other.host())).await.expect(421);
    // The certificate that was shown covers the other host too: a client may use the connection for it.
    let at_wild = secure(&parkway, &client, &wild.host()).await;
    at_wild.send(get(shop.host())).await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_default_certificate_is_shown_to_whoever_asks_for_something_else() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    put_secret(&cluster, "default", &authority.issue(&[&shop.host()]));
    cluster.put(&shop);
    let _pod = pod(&cluster, &shop).await;
    let flag = |builder: parkway_tests::Builder| {
        builder.flag("--default-tls-secret", "certificates/default")
    };
    let parkway = cluster.parkway_with(flag).await;
    let client = TlsClient::trusting(&authority);
    let site = secure(&parkway, &client, &shop.host()).await;
    site.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_parked_request_by_tls_is_answered_when_there_is_an_endpoint() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    put_secret(&cluster, "shop", &authority.issue(&[&shop.host()]));
    put_with_tls(&cluster, &shop, "shop");
    let parkway = cluster.parkway().await;
    let client = TlsClient::trusting(&authority);
    let over_http1 = secure(&parkway, &client, &shop.host()).await;
    let over_http2 = secure(&parkway, &client.clone().protocols(&["h2"]), &shop.host()).await;
    let first = tokio::spawn(async move { over_http1.post("/", "a body").await });
    let second = tokio::spawn(async move {
        let h2 = Http2::connect(over_http2.address(), over_http2.host()).await;
        h2.post("/", "a body").await
    });
    parkway.parked(2).await;

    let _pod = pod(&cluster, &shop).await;

    first.await.unwrap().expect(200);
    second.await.unwrap().expect(200);
    parkway.finish().await;
}
