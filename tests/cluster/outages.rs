//! The real `parkway serve` while its API server is away, forgets, or will not have it.

use std::time::Duration;

use parkway_tests::api::Which;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::{Parkway, QueueProxy, Site, State, eventually};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::load::Load;

/// A cluster with a Service that has a Pod, and a Parkway that serves it.
async fn warm(shop: &Serving) -> (Cluster, QueueProxy, Parkway) {
    let cluster = Cluster::start();
    cluster.put(shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    (cluster, pod, parkway)
}

/// Requests to this Service carry another marker from now on.
fn mark(cluster: &Cluster, shop: &Serving, marker: &str) {
    let mut spec = shop.ingress()["spec"].clone();
    for rule in spec["rules"].as_array_mut().unwrap() {
        rule["http"]["paths"][0]["appendHeaders"] = json!({ "Marker": marker });
    }
    let patch = json!({ "spec": spec });
    cluster.api.edit("ingresses", NAMESPACE, shop.name(), patch);
}

async fn marked(site: &Site, marker: &str) {
    eventually(format!("the marker {marker}"), async || {
        let answer = site.get("/").await.expect(200).json();
        (answer["headers"]["marker"] == marker).then_some(())
    })
    .await;
}

fn all_fail(state: &State) -> bool {
    let watches = state.0["watches"].as_object().unwrap();
    watches.values().all(|watch| watch["failing"].is_string())
}

fn all_work(state: &State) -> bool {
    let watches = state.0["watches"].as_object().unwrap();
    watches.values().all(|watch| watch["failing"].is_null())
}

#[tokio::test]
async fn server_that_is_away_for_a_while_is_not_missed_and_nothing_that_happened_meanwhile_is_lost()
{
    let shop = serving("shop");
    let (cluster, pod, parkway) = warm(&shop).await;
    let site = parkway.at(shop.host());
    let load = Load::get(&site, "/", 4);

    cluster.api.refuse_connections();
    parkway.state_when("all watches to fail", all_fail).await;
    load.more(200).await;
    let readiness = parkway.admin_get("/readyz").await.unwrap();
    assert_eq!(readiness.status, 200, "who serves is ready");

    // Meanwhile: a marker, another Pod in the place of the first, another Service; and nobody remembers how it came.
    mark(&cluster, &shop, "meanwhile");
    let next = QueueProxy::start("shop-2", 10).await;
    cluster.pods(&shop, &[(next.address(), PodIs::Ready)]);
    let cart = serving("cart");
    cluster.put(&cart);
    cluster.api.compact();
    load.more(100).await;
    assert_eq!(next.requests(), 0, "nobody has told yet");
    cluster.api.accept_connections();

    marked(&site, "meanwhile").await;
    eventually("the new Pod to be used", async || {
        (next.requests() > 0).then_some(())
    })
    .await;
    cluster.ready("cart").await;
    parkway.state_when("all watches to work", all_work).await;
    let before = pod.requests();
    load.more(50).await;
    assert_eq!(pod.requests(), before, "it is gone");
    load.stop().await.assert_all_succeeded(350);
    parkway.finish().await;
}

#[tokio::test]
async fn pod_that_was_asked_for_before_the_server_went_away_is_used_all_the_same() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    let parked = tokio::spawn(async move { site.get("/").await.expect(200) });
    let pod = QueueProxy::starting("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
    eventually("the Pod to be asked", async || {
        (pod.probes() > 0).then_some(())
    })
    .await;

    cluster.api.refuse_connections();
    parkway.state_when("all watches to fail", all_fail).await;
    pod.set_ready(true);

    parked.await.unwrap();
    parkway.finish().await;
}

#[tokio::test]
async fn watches_that_are_cut_again_and_again_under_load_leave_the_last_state_in_effect() {
    let shop = serving("shop");
    let (cluster, first, parkway) = warm(&shop).await;
    let site = parkway.at(shop.host());
    let load = Load::get(&site, "/", 4);

    let second = QueueProxy::start("shop-2", 10).await;
    let until = Instant::now() + Duration::from_secs(4);
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        match number % 3 {
            0 => cluster.api.expire_watches("ingresses"),
            1 => cluster.api.expire_watches("endpointslices"),
            _ => cluster.api.cut_watches(),
        }
        mark(&cluster, &shop, &number.to_string());
        let pod = if number % 2 == 0 { &first } else { &second };
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
        sleep(Duration::from_millis(200)).await;
    }
    cluster.pods(&shop, &[(second.address(), PodIs::Ready)]);

    marked(&site, &number.to_string()).await;
    cluster.ready("shop").await;
    let only_second = |state: &State| {
        let endpoints = state.revision("shop-00001").0["endpoints"].clone();
        let ready = endpoints.as_array().unwrap().iter();
        let ready: Vec<_> = ready.filter(|it| it["ready"] == true).collect();
        ready.len() == 1 && ready[0]["address"] == second.address().to_string()
    };
    parkway.state_when("only the last Pod", only_second).await;
    load.stop().await.assert_all_succeeded(200);
    parkway.finish().await;
}

#[tokio::test]
async fn whoever_starts_without_a_server_waits_for_it_and_is_not_ready_before() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    cluster.api.refuse_connections();
    let metrics = QueueProxy::nowhere();
    let starting = cluster.parkway_with(|builder| builder.flag("--metrics-listen", metrics));
    let readiness = Site::new(metrics, "metrics");

    let (parkway, ()) = tokio::join!(starting, async {
        let said = eventually("readiness to be told", async || {
            readiness.try_get("/readyz").await.ok()
        })
        .await;
        assert_eq!(said.status, 503, "{said:?}");
        assert!(said.text().contains("configuration"), "{said:?}");
        // One kind alone is not enough either.
        cluster.api.refuse(Which::lists("revisions"), 2, 500);
        cluster.api.accept_connections();
    });

    parkway.at(shop.host()).get("/").await.expect(200);
    assert_eq!(readiness.get("/readyz").await.status, 200);
    parkway.finish().await;
}

#[tokio::test]
async fn one_kind_that_is_forbidden_is_seen_and_the_others_go_on() {
    let shop = serving("shop");
    let (cluster, _pod, parkway) = warm(&shop).await;
    let site = parkway.at(shop.host());

    cluster
        .api
        .refuse(Which::any().plural("revisions"), u32::MAX, 403);
    cluster.api.expire_watches("revisions");
    let forbidden = |state: &State| {
        let failing = state.0["watches"]["Revision"]["failing"].as_str();
        failing.is_some_and(|failing| failing.contains("forbidden"))
    };
    parkway
        .state_when("the watch to say why it fails", forbidden)
        .await;
    mark(&cluster, &shop, "all the same");
    marked(&site, "all the same").await;

    cluster.api.heal();
    parkway.state_when("all watches to work", all_work).await;
    parkway.finish().await;
}

#[tokio::test]
#[ignore = "takes a minute: that often the file of a token is read again"]
async fn token_that_has_expired_is_replaced_by_the_one_in_its_file() {
    let shop = serving("shop");
    let cluster = Cluster::start();
    cluster.wants_token("old");
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());

    cluster.api.admit("new");
    cluster.api.expire("old");
    cluster.api.cut_watches();
    parkway.state_when("all watches to fail", all_fail).await;
    site.get("/").await.expect(200);
    cluster.write_token("new");
    mark(&cluster, &shop, "new");

    // Two minutes are not too much for what may wait for up to one.
    let until = Instant::now() + Duration::from_secs(120);
    while !all_work(&parkway.state().await) {
        assert!(Instant::now() < until, "{:?}", parkway.state().await);
        sleep(Duration::from_millis(100)).await;
    }
    marked(&site, "new").await;
    cluster.ready("shop").await;
    parkway.finish().await;
}
