//! Three Parkways beside each other: who sends where, who says what of KIngresses, and what becomes of the others when
//! one of them dies.

use std::net::{IpAddr, SocketAddr};

use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, SYSTEM, Serving, serving};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{Parkway, QueueProxy, Site, State, eventually};
use serde_json::json;

use crate::load::Load;

/// The account of the replicas, as the API server's reviews name it.
const ACCOUNT: &str = "system:serviceaccount:knative-serving:activator";

struct Replica {
    address: IpAddr,
    name: String,
    parkway: Parkway,
}

/// Three replicas in the gateway's Service, in the order of their addresses, which know of each other.
async fn three(cluster: &Cluster) -> Vec<Replica> {
    // A leader that is gone is to be missed soon.
    cluster.api.put(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-leader-election", "namespace": SYSTEM},
        "data": {"lease-duration": "3s", "renew-deadline": "2s", "retry-period": "1s"},
    }));
    cluster
        .api
        .issue("a replica's", ACCOUNT, &["parkway-peers"]);
    let token = cluster.write("peers-token", "a replica's");

    let mut replicas = Vec::new();
    let mut peers = None;
    for number in 0..3 {
        let (address, name) = (IpAddr::V4(loopback()), format!("parkway-{number}"));
        // All listen on the same port for each other; the system chooses it for the first.
        let port = peers.unwrap_or(0);
        let builder = cluster
            .replica(address, &name)
            .workers(1)
            .flag("--peer-auth", "token")
            .flag("--peer-token-file", &token)
            .flag("--listen-peers", SocketAddr::new(address, port));
        let parkway = builder.start().await;
        peers = Some(parkway.listens("peers").port());
        replicas.push(Replica {
            address,
            name,
            parkway,
        });
    }
    replicas.sort_by_key(|replica| replica.address.to_string());
    gateway(cluster, &replicas);
    for replica in &replicas {
        replica.knows(replicas.len()).await;
    }
    replicas
}

fn gateway(cluster: &Cluster, replicas: &[Replica]) {
    let replicas: Vec<_> = { replicas.iter() }
        .map(|replica| (replica.address, replica.name.as_str()))
        .collect();
    cluster.replicas(&replicas);
}

impl Replica {
    /// Waits until it knows of so many replicas, itself among them.
    async fn knows(&self, count: usize) {
        eventually(format!("{} to know of {count}", self.name), async || {
            let told = self.parkway.logged("the gateway's replicas");
            let last = told.last()?;
            (last["replicas"] == count && last["index"].as_str()?.contains("Some")).then_some(())
        })
        .await;
    }

    fn site(&self, serving: &Serving) -> Site {
        self.parkway.at(serving.host())
    }
}

async fn pods(cluster: &Cluster, shop: &Serving, count: usize) -> Vec<QueueProxy> {
    let mut pods = Vec::new();
    for number in 0..count {
        pods.push(QueueProxy::start(&format!("shop-{number}"), 1).await);
    }
    let all: Vec<_> = { pods.iter() }
        .map(|pod| (pod.address(), PodIs::Ready))
        .collect();
    cluster.pods(shop, &all);
    pods
}

async fn finish(replicas: Vec<Replica>) {
    for replica in replicas {
        replica.parkway.finish().await;
    }
}

#[tokio::test]
async fn pods_of_concurrency_one_are_shared_without_two_requests_at_once_and_nobody_starves() {
    let cluster = Cluster::start();
    let replicas = three(&cluster).await;

    for count in [1, 2, 7] {
        let shop = serving(&format!("shop-of-{count}")).concurrency(1);
        cluster.put(&shop);
        let pods = pods(&cluster, &shop, count).await;
        for replica in &replicas {
            let has_a_share = |state: &State| {
                let found = state.find(&shop.revision_name());
                found.is_some_and(|revision| revision.ready_endpoints() > 0)
            };
            replica.parkway.state_when("a share", has_a_share).await;
        }
        let loads: Vec<Load> = { replicas.iter() }
            .map(|replica| Load::get(&replica.site(&shop), "/?sleep_ms=5", 6))
            .collect();
        for load in &loads {
            load.more(50).await;
        }
        for load in loads {
            load.stop().await.assert_all_succeeded(50);
        }
        for pod in &pods {
            assert_eq!(pod.most_inside(), 1, "of {count}");
            assert!(pod.requests() > 0, "none of {count} is left out");
            // Where there are enough, each belongs to one replica; else those that share it, one request each.
            let sharers = replicas.len().div_ceil(count);
            assert!(
                pod.most_admitted() <= sharers,
                "{} of {count}",
                pod.most_admitted()
            );
            assert_eq!(pod.turned_away(), 0);
        }
    }
    finish(replicas).await;
}

#[tokio::test]
async fn kingress_is_ready_once_all_replicas_have_it_and_one_of_them_says_so() {
    let cluster = Cluster::start();
    let replicas = three(&cluster).await;
    let shop = serving("shop");
    cluster.put(&shop);
    let _pods = pods(&cluster, &shop, 1).await;
    cluster.ready("shop").await;

    for number in 0..10 {
        let mut spec = shop.ingress()["spec"].clone();
        for rule in spec["rules"].as_array_mut().unwrap() {
            let marker = json!({ "Marker": number.to_string() });
            rule["http"]["paths"][0]["appendHeaders"] = marker;
        }
        let spec = json!({ "spec": spec });
        cluster.api.edit("ingresses", NAMESPACE, "shop", spec);
        cluster.ready("shop").await;
        for replica in &replicas {
            let answer = replica.site(&shop).get("/").await.expect(200).json();
            assert_eq!(
                answer["headers"]["marker"],
                number.to_string(),
                "{}",
                replica.name
            );
        }
    }
    finish(replicas).await;
}

#[tokio::test]
async fn replica_that_is_killed_takes_only_its_own_connections_with_it() {
    let cluster = Cluster::start();
    let mut replicas = three(&cluster).await;
    let shop = serving("shop").concurrency(1);
    cluster.put(&shop);
    let pods = pods(&cluster, &shop, 3).await;
    cluster.ready("shop").await;
    let sites: Vec<Site> = { replicas.iter() }
        .map(|replica| replica.site(&shop))
        .collect();
    // Four connections to each replica.
    let load = Load::get_anywhere(&sites, "/?sleep_ms=2", 12);
    load.more(200).await;

    let killed = eventually("a leader", async || replicas.iter().position(leads)).await;
    let dead = replicas.remove(killed);
    drop(dead.parkway.kill().await);
    assert!(sites[killed].try_get("/").await.is_err());
    load.more(200).await;

    // The cluster has noticed: its share goes to the others.
    gateway(&cluster, &replicas);
    for replica in &replicas {
        replica.knows(2).await;
    }
    let before: Vec<_> = pods.iter().map(QueueProxy::requests).collect();
    load.more(400).await;
    for (pod, before) in pods.iter().zip(before) {
        assert!(pod.requests() > before, "nobody uses the share of the dead");
        assert_eq!(pod.most_inside(), 1);
    }
    let tally = load.stop().await;
    let lost = tally.failures.len() + tally.begun.len();
    assert!(
        (1..=4).contains(&lost),
        "one request for each of its connections: {lost}, {:?} {:?}",
        tally.failures,
        tally.begun
    );
    assert_eq!(tally.statuses.keys().collect::<Vec<_>>(), [&200]);

    // Another leads by now.
    let cart = serving("cart");
    cluster.put(&cart);
    cluster.ready("cart").await;
    eventually("one leader", async || {
        (replicas.iter().filter(|replica| leads(replica)).count() == 1).then_some(())
    })
    .await;
    finish(replicas).await;
}

fn leads(replica: &Replica) -> bool {
    let (leads, follows) = (
        replica.parkway.logged("leading"),
        replica.parkway.logged("no longer leading"),
    );
    leads.len() > follows.len()
}
