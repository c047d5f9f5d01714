//! How fast and how large: printed, never asserted.
//!
//! ```text
//! cargo test --release -p parkway-tests --test cluster figures -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `FIGURES_PERCENT=1` before it takes a hundredth of everything, to see whether it works; `PARKWAY_BIN` names another
//! binary than the one that is built.
//!
//! Clients, Pods and the API server's double run in the test's process, on the same cores, and their part is in every
//! figure.

#![expect(clippy::print_stdout, reason = "figures go to standard output")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use std::{env, fs};

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::{Parkway, QueueProxy, State, eventually};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// A number, unless `FIGURES_PERCENT` wants only a part of it.
#[derive(Clone, Copy)]
struct Scaled(usize);

impl Scaled {
    fn get(self) -> usize {
        let percent = env::var("FIGURES_PERCENT").map_or(100, |text| text.parse().unwrap());
        (self.0 * percent / 100).max(2)
    }
}

/// Services that are there.
const MANY: Scaled = Scaled(10_000);
/// Changes that are timed.
const CHANGES: Scaled = Scaled(300);
/// KIngresses that come at once.
const AT_ONCE: Scaled = Scaled(1_000);
/// Cold starts that are timed.
const STARTS: Scaled = Scaled(200);

fn show(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}, worst {:?} ({} samples)",
        at(50),
        at(90),
        at(99),
        at(100),
        samples.len()
    );
}

fn memory(parkway: &Parkway, when: &str) {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", parkway.pid())).unwrap();
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    };
    println!(
        "memory {when}: PSS {:.1} MiB, RSS {:.1} MiB",
        field("Pss:"),
        field("Rss:")
    );
}

/// Loopback addresses for Pods of this Service, all of them the same listener.
fn addresses(number: usize, port: u16) -> [(SocketAddr, PodIs); 2] {
    let octet = |number: usize| u8::try_from(number % 250).unwrap();
    [0, 1].map(|pod| {
        let ip = Ipv4Addr::new(127, 100 + pod, octet(number / 250), octet(number) + 1);
        (SocketAddr::from((ip, port)), PodIs::Ready)
    })
}

fn all_hosts(state: &State) -> bool {
    state.0["hosts"]["external"].as_array().unwrap().len() == MANY.get()
}

/// A request for this host that shows what is in effect.
async fn marker(parkway: &Parkway, shop: &Serving, wanted: &str) {
    let mut client = parkway.at(shop.host()).http1().await;
    loop {
        let request = Request::get("/").body(Bytes::new()).unwrap();
        let answer = client.send(request).await.expect(200).json();
        if answer["headers"]["marker"] == wanted {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_a_large_cluster() {
    let many = MANY.get();
    let changes = CHANGES.get();
    let cluster = Cluster::start();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let pod = QueueProxy::starting_at(any, "any", 0).await;
    pod.set_ready(true);
    let port = pod.address().port();
    for number in 0..many {
        let shop = serving(&format!("shop-{number}"));
        cluster.put(&shop);
        cluster.pods(&shop, &addresses(number, port));
    }
    let empty = Cluster::start();
    let idle = empty.parkway_with(|builder| builder.workers(2)).await;
    memory(&idle, "with nothing");
    idle.finish().await;

    let started = Instant::now();
    let parkway = cluster.parkway_with(|builder| builder.workers(2)).await;
    println!(
        "start to ready with {many} Services: {:?}",
        started.elapsed()
    );
    parkway.state_when("all hosts", all_hosts).await;
    eventually("all Pods to be asked", async || {
        (pod.probes() >= 2 * many).then_some(())
    })
    .await;
    println!("… and all Pods asked: {:?}", started.elapsed());
    let started = Instant::now();
    cluster.all_ready(many).await;
    println!("… and all statuses written, {:?} later", started.elapsed());
    memory(
        &parkway,
        &format!("with {many} KIngresses, Revisions, 2 Pods each"),
    );

    let mut samples = Vec::new();
    for change in 0..changes {
        let shop = serving(&format!("shop-{}", change * 7919 % many));
        let mut spec = shop.ingress()["spec"].clone();
        let wanted = change.to_string();
        for rule in spec["rules"].as_array_mut().unwrap() {
            rule["http"]["paths"][0]["appendHeaders"] = json!({ "Marker": wanted });
        }
        let patch = json!({ "spec": spec });
        let started = Instant::now();
        cluster.api.edit("ingresses", NAMESPACE, shop.name(), patch);
        marker(&parkway, &shop, &wanted).await;
        samples.push(started.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    show(
        &format!("change in the watch to effect, {many} present"),
        samples,
    );
    sleep(Duration::from_secs(10)).await;
    memory(&parkway, "after the changes");
    parkway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_many_kingresses_at_once() {
    let at_once = AT_ONCE.get();
    let cluster = Cluster::start();
    let shops: Vec<_> = (0..at_once)
        .map(|number| serving(&format!("shop-{number}")))
        .collect();
    for shop in &shops {
        cluster.api.put(shop.revision());
    }
    let parkway = cluster.parkway_with(|builder| builder.workers(2)).await;
    let started = Instant::now();
    for shop in &shops {
        cluster.api.put(shop.ingress());
    }
    println!("{at_once} KIngresses made in {:?}", started.elapsed());
    cluster.all_ready(at_once).await;
    println!("… all Ready after {:?}", started.elapsed());
    parkway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_cold_starts() {
    let starts = STARTS.get();
    let cluster = Cluster::start();
    let parkway = cluster.parkway_with(|builder| builder.workers(2)).await;
    let (mut from_ready, mut from_slice) = (Vec::new(), Vec::new());
    for number in 0..starts {
        let shop = serving(&format!("shop-{number}"));
        cluster.put(&shop);
        cluster.ready(shop.name()).await;
        let site = parkway.at(shop.host());
        let request = tokio::spawn(async move { site.get("/").await.expect(200) });
        parkway.parked(1).await;
        // Half of them become ready after their address is known, half before.
        let pod = QueueProxy::starting(shop.name(), 10).await;
        let asked = async || (pod.probes() > 0).then_some(());
        let (samples, since) = if number % 2 == 0 {
            cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
            eventually("a probe", asked).await;
            let since = Instant::now();
            pod.set_ready(true);
            (&mut from_ready, since)
        } else {
            pod.set_ready(true);
            let since = Instant::now();
            cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
            (&mut from_slice, since)
        };
        request.await.unwrap();
        samples.push(pod.first_request().unwrap() - since);
        cluster.pods(&shop, &[]);
    }
    show("Pod able to answer to first request in it", from_ready);
    show(
        "address of a ready Pod in the watch to first request in it",
        from_slice,
    );
    parkway.finish().await;
}
