//! The whole way from a request to an order and back to zero: stats, reporter, embedded autoscaler.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::revision::RevisionId;
use parkway_activator::stats::Stats;
use tokio::time::{Instant, sleep};

use parkway_autoscaler_client::embedded::{
    AutoscalerConfig, Embedded, Reachability, RevisionScaling, Scaler,
};
use parkway_autoscaler_client::reporter;
use parkway_autoscaler_client::sink::StatSink;

/// Replicas that are ready at once.
#[derive(Default)]
struct Instantly {
    replicas: Mutex<u32>,
    orders: Mutex<Vec<(Instant, u32)>>,
}

impl Scaler for Instantly {
    fn scale(&self, _id: &RevisionId, replicas: u32) {
        *self.replicas.lock() = replicas;
        self.orders.lock().push((Instant::now(), replicas));
    }

    fn ready(&self, _id: &RevisionId) -> u32 {
        *self.replicas.lock()
    }
}

/// The moments of all orders in milliseconds since `started`, and the numbers.
fn orders(scaler: &Instantly, started: Instant) -> Vec<(u128, u32)> {
    let orders = scaler.orders.lock();
    orders
        .iter()
        .map(|(at, replicas)| ((*at - started).as_millis(), *replicas))
        .collect()
}

fn shop() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

/// Runs everything for one Revision with a window of 6 s.
async fn start() -> (Stats, Arc<Instantly>, Instant) {
    let scaler = Arc::new(Instantly::default());
    let embedded = Embedded::new(Arc::clone(&scaler) as Arc<dyn Scaler>);
    let window = BTreeMap::from([("autoscaling.knative.dev/window".to_owned(), "6s".to_owned())]);
    let scaling =
        RevisionScaling::parse(&window, 1.into(), &AutoscalerConfig::standalone()).unwrap();
    embedded.upsert(shop(), scaling, Reachability::Reachable);
    let stats = Stats::new(1);
    let sink = Arc::new(embedded.clone()) as Arc<dyn StatSink>;
    tokio::spawn(reporter::run(stats.clone(), sink, "parkway".into()));
    tokio::spawn(async move { embedded.run().await });
    tokio::task::yield_now().await; // their ticks count from here
    (stats, scaler, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_request_at_zero_starts_a_replica_in_the_same_instant() {
    let (stats, scaler, started) = start().await;
    sleep(Duration::from_millis(3_300)).await;
    let request = stats.revision(&shop()).enter(0, Instant::now());
    sleep(Duration::from_millis(1)).await;

    // The target is 70 % of 1: ⌈1 / 0.7⌉ = 2.
    assert_eq!(orders(&scaler, started), [(3_300, 2)]);
    drop(request);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_request_and_the_window_nothing_runs_and_nothing_is_ordered_again() {
    let (stats, scaler, started) = start().await;
    let request = stats.revision(&shop()).enter(0, Instant::now());
    sleep(Duration::from_millis(10)).await;
    drop(request);
    sleep(Duration::from_secs(600)).await;

    let orders = orders(&scaler, started);
    assert_eq!(orders.first(), Some(&(0, 2)));
    let (last_ms, last) = *orders.last().unwrap();
    assert_eq!(last, 0);
    // Panic (2 ≥ 2 · 1) lasts a window after the last poke; then the window is empty, too.
    assert!((6_000..=16_000).contains(&last_ms), "{orders:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_that_stay_keep_their_replicas() {
    let (stats, scaler, _started) = start().await;
    let revision = stats.revision(&shop());
    let requests: Vec<_> = (0..7).map(|_| revision.enter(0, Instant::now())).collect();
    sleep(Duration::from_secs(120)).await;

    // ⌈7 / 0.7⌉.
    assert_eq!(scaler.orders.lock().last().unwrap().1, 10);
    drop(requests);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(*scaler.replicas.lock(), 0);
}
