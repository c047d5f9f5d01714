//! Pods that come and go, and configuration that comes all at once, under load.

use std::time::Duration;

use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::{QueueProxy, State, eventually};
use serde_json::Value;
use tokio::time::sleep;

use crate::load::Load;
use crate::random::Random;

/// How many KIngresses come at once.
const STORM: usize = 5_000;

#[tokio::test]
async fn pods_that_flap_in_the_api_fail_no_request() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pods = [
        QueueProxy::start("shop-1", 10).await,
        QueueProxy::start("shop-2", 10).await,
        QueueProxy::start("shop-3", 10).await,
    ];
    let parkway = cluster.parkway().await;
    let load = Load::get(&parkway.at(shop.host()), "/", 8);

    let mut random = Random::of(1);
    for _ in 0..100 {
        let mut now = Vec::new();
        for pod in &pods {
            match random.below(4) {
                0 => now.push((pod.address(), PodIs::Ready)),
                1 => now.push((pod.address(), PodIs::NotReady)),
                2 => now.push((pod.address(), PodIs::Terminating)),
                _ => {}
            }
        }
        cluster.pods(&shop, &now);
        sleep(Duration::from_millis(20)).await;
    }
    let all: Vec<_> = { pods.iter() }
        .map(|pod| (pod.address(), PodIs::Ready))
        .collect();
    cluster.pods(&shop, &all);

    load.more(200).await;
    load.stop().await.assert_all_succeeded(200);
    let all_back = |state: &State| state.revision("shop-00001").ready_endpoints() == 3;
    parkway.state_when("all Pods to be used", all_back).await;
    parkway.finish().await;
}

/// The load is some thousand requests a second, as fast as the machine allows.
#[tokio::test]
async fn pod_that_dies_under_load_fails_no_request_that_may_be_sent_again() {
    let (cluster, shop) = (Cluster::start(), serving("shop").concurrency(0));
    cluster.put(&shop);
    let steady = QueueProxy::start("steady", 0).await;
    let parkway = cluster.parkway().await;
    let load = Load::get(&parkway.at(shop.host()), "/", 32);

    for round in 0..4 {
        let mortal = QueueProxy::start("mortal", 0).await;
        let pods = [
            (steady.address(), PodIs::Ready),
            (mortal.address(), PodIs::Ready),
        ];
        cluster.pods(&shop, &pods);
        eventually("the Pod to be used", async || {
            (mortal.requests() > 100).then_some(())
        })
        .await;
        drop(mortal);
        // The API says so later, in every other round never.
        load.more(500).await;
        if round % 2 == 0 {
            cluster.pods(&shop, &pods[..1]);
        }
    }
    load.more(200).await;
    load.stop().await.assert_all_succeeded(2_000);
    parkway.finish().await;
}

/// A KIngress like that of `shop`, to the same Revision.
fn another(shop: &Serving, name: &str) -> Value {
    let mut ingress = serving(name).ingress();
    for rule in ingress["spec"]["rules"].as_array_mut().unwrap() {
        let split = &mut rule["http"]["paths"][0]["splits"][0];
        split["serviceName"] = shop.revision_name().into();
        split["appendHeaders"]["Knative-Serving-Revision"] = shop.revision_name().into();
    }
    ingress
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_kingresses_at_once_are_all_routed_and_nobody_waits_for_it() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let load = Load::get(&parkway.at(shop.host()), "/?sleep_ms=5", 2);

    for number in 0..STORM {
        cluster.api.put(another(&shop, &format!("storm-{number}")));
    }
    cluster.all_ready(STORM + 1).await;
    let hosts = |state: &State| state.0["hosts"]["external"].as_array().unwrap().len();
    assert_eq!(hosts(&parkway.state().await), STORM + 1);
    for number in (0..STORM).step_by(STORM / 20) {
        let host = serving(&format!("storm-{number}")).host();
        parkway.at(host).get("/").await.expect(200);
    }

    for number in 0..STORM {
        let name = format!("storm-{number}");
        cluster.api.delete("ingresses", NAMESPACE, &name);
    }
    let only_shop = |state: &State| hosts(state) == 1;
    parkway
        .state_when("all of them to be gone", only_shop)
        .await;
    load.stop().await.assert_all_succeeded(100);
    parkway.finish().await;
}
