//! `system-internal-tls`: Pods are spoken to by TLS, and in no other way, and a certificate that will not do is explained.

use bytes::Bytes;
use http::Request;
use parkway_tests::certificates::{DATA_PLANE, of_pods, of_routing, secret, server};
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, SYSTEM, Serving, serving};
use parkway_tests::tls::{Authority, Identity, TlsClient};
use parkway_tests::{Parkway, QueueProxy, Secured, Site, eventually, settled};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::load::Load;

const CERTIFICATES: &str = "routing-serving-certs";

fn switch(cluster: &Cluster, is: &str) {
    cluster.api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": SYSTEM},
        "data": {"system-internal-tls": is},
    }));
}

fn bundle(cluster: &Cluster, authorities: &[&Authority]) {
    let pems: Vec<_> = authorities.iter().map(|one| one.root()).collect();
    cluster.api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "knative-bundle", "namespace": SYSTEM,
            "labels": {"networking.knative.dev/trust-bundle": "true"},
        },
        "data": {"ca.crt": pems.concat()},
    }));
}

fn certificates(cluster: &Cluster, authority: &Authority) {
    let routing = of_routing(authority);
    cluster
        .api
        .put(secret(SYSTEM, CERTIFICATES, &routing, authority));
}

/// A cluster in which it is on, and whose Secret is of this authority.
fn secured_cluster(authority: &Authority) -> Cluster {
    let cluster = Cluster::start();
    switch(&cluster, "Enabled");
    certificates(&cluster, authority);
    cluster
}

async fn pod(name: &str, identity: &Identity) -> (QueueProxy, Secured) {
    let pod = QueueProxy::start(name, 100).await;
    let secured = pod.secured(server(identity)).await;
    (pod, secured)
}

/// A Revision whose container speaks HTTP/2, as its objects say.
fn put_h2c(cluster: &Cluster, shop: &Serving, pod: &QueueProxy) {
    let mut revision = shop.revision();
    revision["spec"]["containers"][0]["ports"] = json!([{"name": "h2c", "containerPort": 8080}]);
    cluster.api.put(revision);
    for service in shop.services() {
        cluster.api.put(service);
    }
    let mut slice = shop.slice(&[(pod.address(), PodIs::Ready)]);
    for port in slice["ports"].as_array_mut().unwrap() {
        if port["name"] == "http" {
            port["name"] = "http2".into();
        }
    }
    cluster.api.put(slice);
    cluster.api.put(shop.ingress());
}

/// Says a few bytes through an upgrade, and hears them.
async fn through_an_upgrade(site: &Site) {
    let mut raw = site.raw().await;
    let head = site.head("GET /chat");
    raw.send(format!(
        "{head}connection: upgrade\r\nupgrade: echo\r\n\r\nearly "
    ))
    .await;
    let answer = raw.head().await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    raw.send("and late").await;
    assert_eq!(&*raw.exactly(14).await, b"early and late");
}

fn failing(state: &parkway_tests::State) -> Vec<Value> {
    let failing = state.0["internalTls"]["failing"].as_array();
    failing.cloned().unwrap_or_default()
}

async fn failures(parkway: &Parkway, reason: &str) -> f64 {
    let name = "parkway_internal_tls_failures_total";
    let metric = parkway.metric(name, &[("reason", reason)]).await;
    metric.unwrap_or_default()
}

#[tokio::test]
async fn probes_requests_and_upgrades_go_to_pods_by_tls_from_every_entrance_and_never_in_the_clear()
{
    let authority = Authority::new("routing");
    let (cluster, shop) = (secured_cluster(&authority), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let parked = parkway.at(shop.host());
    let parked = tokio::spawn(async move { parked.get("/").await });
    parkway.parked(1).await;
    let (pod, secured) = pod("shop-1", &of_pods(&authority, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);

    let answer = parked.await.unwrap().expect(200).json();
    assert_eq!(
        (&answer["pod"], &answer["host"]),
        (&json!("shop-1"), &json!(shop.host()))
    );
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    for site in [parkway.at(shop.host()), parkway.at_local(shop.host())] {
        site.get("/").await.expect(200);
        site.http2().await.get("/").await.expect(200);
        let echoed = site.post("/", large.clone()).await.expect(200);
        assert!(echoed.body == large, "other bytes came back");
        through_an_upgrade(&site).await;
    }
    for port in ["activator", "activator_h2c"] {
        let site = Site::new(parkway.listens(port), shop.host());
        let request = Request::get("/")
            .header("Knative-Serving-Namespace", NAMESPACE)
            .header("Knative-Serving-Revision", shop.revision_name());
        let request = request.body(Bytes::new()).unwrap();
        site.send(request.clone()).await.expect(200);
        let by_http2 = site.http2().await.send(request).await.expect(200).json();
        assert_eq!(
            by_http2["headers"]["saw-scheme"], "https",
            "by HTTP/2 to the end"
        );
    }
    assert_eq!(pod.probes(), 1);
    assert_eq!(pod.unmarked(), 0, "queue-proxy must know that we count");
    assert_eq!(secured.seen(), pod.requests() + pod.probes());
    assert!(
        secured.connections() < secured.seen(),
        "connections are kept"
    );
    let state = parkway.state().await;
    assert_eq!(state.0["internalTls"]["enabled"], true);
    assert!(failing(&state).is_empty(), "{state:?}");
    parkway.finish().await;
}

#[tokio::test]
async fn a_revision_that_speaks_http2_is_spoken_to_by_http2_in_tls() {
    let authority = Authority::new("routing");
    let (cluster, shop) = (secured_cluster(&authority), serving("shop"));
    let (pod, secured) = pod("shop-1", &of_pods(&authority, NAMESPACE)).await;
    put_h2c(&cluster, &shop, &pod);
    let parkway = cluster.parkway().await;

    let site = parkway.at(shop.host());
    for _ in 0..20 {
        let answer = site.get("/").await.expect(200).json();
        assert_eq!(answer["headers"]["saw-scheme"], "https");
    }
    let body = Bytes::from(vec![b'y'; 200_000]);
    let echoed = site.http2().await.post("/", body.clone()).await.expect(200);
    assert!(echoed.body == body, "other bytes came back");
    through_an_upgrade(&site).await;
    assert_eq!(secured.seen(), pod.requests() + pod.probes());
    parkway.finish().await;
}

#[tokio::test]
async fn a_pod_with_somebody_elses_certificate_gets_nothing_and_why_is_told_to_all_who_ask() {
    let authority = Authority::new("routing");
    let (cluster, shop) = (secured_cluster(&authority), serving("shop"));
    cluster.put(&shop);
    let (pod, secured) = pod("shop-1", &of_pods(&authority, "other")).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;

    let answer = parkway.at(shop.host()).get("/").await.expect(503);
    let text = answer.text();
    assert!(text.contains("cannot be trusted"), "{text}");
    assert!(
        text.contains("kn-user-other") && text.contains(&format!("kn-user-{NAMESPACE}")),
        "{text}"
    );
    assert_eq!(
        (pod.requests(), pod.probes(), secured.connections()),
        (0, 0, 0)
    );
    let state = parkway.state().await;
    let failing_now = failing(&state);
    assert_eq!(failing_now[0]["reason"], "wrong_name");
    assert_eq!(failing_now[0]["revision"], shop.revision_name());
    assert!(failures(&parkway, "wrong_name").await >= 1.0);
    parkway.says("no secured connection to a Pod").await;
    let logged = parkway.logged("no secured connection to a Pod; it gets no requests");
    assert_eq!(logged.len(), 1, "once, however often it fails: {logged:?}");

    secured.shows(server(&of_pods(&authority, NAMESPACE)));
    eventually("the Pod to be used", async || {
        (parkway.at(shop.host()).get("/").await.status == 200).then_some(())
    })
    .await;
    parkway
        .state_when("nothing to fail", |state| failing(state).is_empty())
        .await;
    parkway.finish().await;
}

#[tokio::test]
async fn pods_that_will_not_do_are_told_apart_and_others_serve_meanwhile() {
    let authority = Authority::new("routing");
    let (cluster, shop) = (secured_cluster(&authority), serving("shop"));
    cluster.put(&shop);
    let names = [&*format!("kn-user-{NAMESPACE}"), DATA_PLANE];
    let (good, _good) = pod("good", &of_pods(&authority, NAMESPACE)).await;
    let (expired, _expired) = pod("expired", &authority.issue_expired(&names)).await;
    let stranger = Authority::new("stranger");
    let (strange, _strange) = pod("strange", &of_pods(&stranger, NAMESPACE)).await;
    // One speaks no TLS where it should, another says nothing at all.
    let clear = QueueProxy::start("clear", 100).await;
    let clear_at = (
        clear.address().ip(),
        parkway_tests::queue_proxy::secured::PORT,
    );
    let _clear = QueueProxy::starting_at(clear_at.into(), "in the clear", 100).await;
    let mute = QueueProxy::start("mute", 100).await;
    let mute_at = (
        mute.address().ip(),
        parkway_tests::queue_proxy::secured::PORT,
    );
    let _mute = TcpListener::bind(mute_at).await.unwrap();
    let all = [&good, &expired, &strange, &clear, &mute];
    let pods = all.map(|pod| (pod.address(), PodIs::Ready));
    cluster.pods(&shop, &pods);
    let parkway = cluster.parkway().await;

    let load = Load::get(&parkway.at(shop.host()), "/", 4);
    settled("all reasons to be told", async || {
        let failing = failing(&parkway.state().await);
        let mut reasons: Vec<_> = { failing.iter() }
            .map(|one| one["reason"].as_str().unwrap().to_owned())
            .collect();
        reasons.sort();
        match reasons == ["expired", "protocol", "timed_out", "untrusted"] {
            true => Ok(()),
            false => Err(format!("{failing:?}")),
        }
    })
    .await;
    load.more(100).await;
    load.stop().await.assert_all_succeeded(100);
    for pod in [&expired, &strange, &clear, &mute] {
        assert_eq!(pod.requests() + pod.probes(), 0);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn authorities_are_rotated_under_load_and_no_request_fails() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (cluster, shop) = (secured_cluster(&old), serving("shop"));
    cluster.put(&shop);
    let (pod, secured) = pod("shop-1", &of_pods(&old, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let load = Load::echo(&parkway.at(shop.host()), "/?sleep_ms=1", 8);
    load.more(200).await;

    // As cert-manager's guide has it: trust both, show the new one, forget the old one.
    let trusts = |count: u64| {
        move |state: &parkway_tests::State| state.0["internalTls"]["authorities"] == count
    };
    bundle(&cluster, &[&new]);
    parkway.state_when("both to be trusted", trusts(2)).await;
    load.more(200).await;
    secured.shows(server(&of_pods(&new, NAMESPACE)));
    load.more(200).await;
    certificates(&cluster, &new);
    let is_new = |state: &parkway_tests::State| state.0["internalTls"]["generation"] == 3;
    parkway
        .state_when("the old one to be forgotten", is_new)
        .await;
    load.more(200).await;
    let before = secured.connections();
    cluster.api.delete("configmaps", SYSTEM, "knative-bundle");
    parkway.state_when("one to be trusted", trusts(1)).await;
    load.more(200).await;
    assert!(secured.connections() > before, "connections are made anew");
    load.stop().await.assert_all_succeeded(1_000);
    assert_eq!(secured.refused(), 0);
    assert!(failing(&parkway.state().await).is_empty());

    // And now one that is trusted no more, while connections to it are kept.
    certificates(&cluster, &old);
    let is_old = |state: &parkway_tests::State| state.0["internalTls"]["generation"] == 5;
    parkway
        .state_when("the new one to be forgotten", is_old)
        .await;
    let answer = parkway.at(shop.host()).get("/").await.expect(503).text();
    assert!(answer.contains("cannot be trusted"), "{answer}");
    assert!(secured.refused() > 0);
    assert!(failures(&parkway, "untrusted").await >= 1.0);
    secured.shows(server(&of_pods(&old, NAMESPACE)));
    eventually("the Pod to be used", async || {
        (parkway.at(shop.host()).get("/").await.status == 200).then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn switched_on_and_off_with_pods_there_it_acts_at_once_and_no_request_fails() {
    let authority = Authority::new("routing");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    certificates(&cluster, &authority);
    cluster.put(&shop);
    let (pod, secured) = pod("shop-1", &of_pods(&authority, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let load = Load::echo(&parkway.at(shop.host()), "/", 4);
    load.more(100).await;
    assert_eq!(secured.seen(), 0);
    let asked = cluster.api.requests();
    assert!(
        asked.iter().all(|request| request.plural != "secrets"),
        "who does not use it needs no right to read Secrets"
    );

    switch(&cluster, "enabled");
    eventually("requests by TLS", async || {
        (secured.seen() > 1).then_some(())
    })
    .await;
    load.more(100).await;
    let (seen, all) = (secured.seen(), pod.requests());
    load.more(100).await;
    assert!(
        pod.requests() - all <= secured.seen() - seen + 8,
        "some in the clear"
    );
    let selector = format!("fieldSelector=metadata.name%3D{CERTIFICATES}");
    let asked = cluster.api.requests();
    let mut secrets = asked.iter().filter(|request| request.plural == "secrets");
    assert!(
        secrets.all(|request| request.query.contains(&selector)),
        "by name only"
    );

    switch(&cluster, "Disabled");
    eventually("requests in the clear", async || {
        let (seen, all) = (secured.seen(), pod.requests());
        load.more(50).await;
        (secured.seen() == seen && pod.requests() > all).then_some(())
    })
    .await;
    load.stop().await.assert_all_succeeded(300);
    parkway.finish().await;
}

#[tokio::test]
async fn without_the_secret_nothing_goes_out_and_what_is_missing_is_said() {
    let cluster = Cluster::start();
    switch(&cluster, "Enabled");
    let (authority, shop) = (Authority::new("routing"), serving("shop"));
    cluster.put(&shop);
    let (pod, secured) = pod("shop-1", &of_pods(&authority, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    let request = tokio::spawn(async move { site.get("/").await });
    parkway.parked(1).await;
    let state = parkway
        .state_when("a failure", |state| !failing(state).is_empty())
        .await;
    let problems = state.0["internalTls"]["problems"].to_string();
    assert!(
        problems.contains("routing-serving-certs is not there"),
        "{problems}"
    );
    assert_eq!(failing(&state)[0]["reason"], "no_authority");

    certificates(&cluster, &authority);
    request.await.unwrap().expect(200);
    assert_eq!(secured.seen(), pod.requests() + pod.probes());
    parkway.finish().await;
}

#[tokio::test]
async fn the_activators_port_for_tls_shows_the_secrets_certificate_and_changes_it_without_a_break()
{
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    certificates(&cluster, &old);
    cluster.put(&shop);
    let (pod, _secured) = pod("shop-1", &of_pods(&old, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let port = parkway.listens("activator_tls");
    let trusting = |authority| TlsClient::trusting(authority);
    let connects = async |client: TlsClient| client.connect(port, DATA_PLANE).await.is_ok();
    assert!(!connects(trusting(&old)).await, "it is off");

    switch(&cluster, "Enabled");
    eventually("it to be on", async || {
        connects(trusting(&old)).await.then_some(())
    })
    .await;
    let older = trusting(&old).version(&rustls::version::TLS12);
    assert!(!connects(older).await, "TLS 1.2");
    let request = || {
        Request::get("/")
            .header("Knative-Serving-Namespace", NAMESPACE)
            .header("Knative-Serving-Revision", shop.revision_name())
            .body(Bytes::new())
            .unwrap()
    };
    let by_http1 = trusting(&old).tunnel(port, DATA_PLANE).await;
    let by_http1 = Site::new(by_http1, shop.host()).http1().await;
    let by_http2 = trusting(&old)
        .protocols(&["h2"])
        .tunnel(port, DATA_PLANE)
        .await;
    let by_http2 = Site::new(by_http2, shop.host()).http2().await;
    let mut by_http1 = by_http1;
    by_http1.send(request()).await.expect(200);
    by_http2.send(request()).await.expect(200);
    let probe = Request::get("//healthz").header("K-Network-Probe", "activator");
    let probe = by_http2.send(probe.body(Bytes::new()).unwrap()).await;
    assert_eq!(probe.expect(200).text(), "activator");

    // A key that is not the certificate's leaves what was before, and is told.
    let torn = Identity {
        key: of_routing(&new).key,
        ..of_routing(&new)
    };
    cluster.api.put(secret(SYSTEM, CERTIFICATES, &torn, &old));
    let is_told = |state: &parkway_tests::State| {
        let problems = state.0["internalTls"]["problems"].to_string();
        problems.contains("tls.key")
    };
    parkway.state_when("the key to be refused", is_told).await;
    assert!(connects(trusting(&old)).await);

    bundle(&cluster, &[&old]); // the Pod's is still of the old one
    certificates(&cluster, &new);
    eventually("the new one to be shown", async || {
        connects(trusting(&new)).await.then_some(())
    })
    .await;
    assert!(!connects(trusting(&old)).await);
    by_http1.send(request()).await.expect(200);
    by_http2.send(request()).await.expect(200);
    drop((by_http1, by_http2));

    switch(&cluster, "Disabled");
    eventually("it to be off", async || {
        (!connects(trusting(&new)).await).then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn the_request_log_shows_what_the_handshake_agreed_on_as_go_does() {
    let authority = Authority::new("all");
    let (cluster, shop) = (secured_cluster(&authority), serving("shop"));
    cluster.api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-observability", "namespace": SYSTEM},
        "data": {
            "logging.enable-request-log": "true",
            "logging.request-log-template": "TLS: {{.Request.TLS}}",
        },
    }));
    cluster.put(&shop);
    let (pod, _secured) = pod("shop-1", &of_pods(&authority, NAMESPACE)).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let port = parkway.listens("activator_tls");
    let client = TlsClient::trusting(&authority).protocols(&["h2"]);
    let by_http2 = client.tunnel(port, DATA_PLANE).await;
    let by_http2 = Site::new(by_http2, shop.host()).http2().await;
    let request = Request::get("/")
        .header("Knative-Serving-Namespace", NAMESPACE)
        .header("Knative-Serving-Revision", shop.revision_name());
    let request = request.body(Bytes::new()).unwrap();
    by_http2.send(request).await.expect(200);
    parkway
        .says(&format!(
            "TLS: {{772 true false 4866 h2 true {DATA_PLANE}}}"
        ))
        .await;
    parkway.at(shop.host()).get("/").await.expect(200);
    parkway.says("TLS: <nil>").await;
    parkway.finish().await;
}
