use std::collections::HashMap;

use tokio::task::JoinHandle;
use tokio::time::{advance, sleep, sleep_until};

use super::*;
use crate::embedded::config::AutoscalerConfig;

/// A scaler whose replicas become ready when the test says so.
#[derive(Default)]
struct Lab {
    orders: Mutex<Vec<(Instant, RevisionId, u32)>>,
    ready: Mutex<HashMap<RevisionId, u32>>,
}

impl Scaler for Lab {
    fn scale(&self, id: &RevisionId, replicas: u32) {
        self.orders
            .lock()
            .push((Instant::now(), id.clone(), replicas));
    }

    fn ready(&self, id: &RevisionId) -> u32 {
        self.ready.lock().get(id).copied().unwrap_or(0)
    }
}

/// An autoscaler that runs.
struct Case {
    embedded: Embedded,
    lab: Arc<Lab>,
    started: Instant,
    task: JoinHandle<()>,
}

impl Case {
    async fn start() -> Self {
        let lab = Arc::new(Lab::default());
        let embedded = Embedded::new(Arc::clone(&lab) as Arc<dyn Scaler>);
        let running = embedded.clone();
        let task = tokio::spawn(async move { running.run().await });
        tokio::task::yield_now().await; // its ticks count from here
        Self {
            embedded,
            lab,
            started: Instant::now(),
            task,
        }
    }

    /// Standalone defaults: starts at zero, windows of 60 s and 6 s unless said otherwise.
    async fn with_shop(pairs: &[(&str, &str)]) -> Self {
        let case = Self::start().await;
        case.embedded
            .upsert(shop(), scaling(pairs), Reachability::Reachable);
        case
    }

    fn set_ready(&self, ready: u32) {
        self.lab.ready.lock().insert(shop(), ready);
    }

    fn report(&self, concurrency: f64, requests: f64) {
        let stat = Stat {
            average_concurrent_requests: concurrency,
            request_count: requests,
            ..Stat::default()
        };
        self.embedded.send(vec![StatMessage {
            revision: shop(),
            stat,
        }]);
    }

    /// Reports the same every second, `seconds` times.
    async fn load(&self, seconds: u32, concurrency: f64) {
        for _ in 0..seconds {
            self.report(concurrency, concurrency);
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn until(&self, ms: u64) {
        sleep_until(self.started + Duration::from_millis(ms)).await;
    }

    /// Orders so far: milliseconds since the start, and replicas.
    fn orders(&self) -> Vec<(u128, u32)> {
        let orders = self.lab.orders.lock();
        orders
            .iter()
            .map(|(at, _, replicas)| ((*at - self.started).as_millis(), *replicas))
            .collect()
    }

    fn numbers(&self) -> Vec<u32> {
        self.orders()
            .iter()
            .map(|(_, replicas)| *replicas)
            .collect()
    }

    fn state(&self) -> DeciderState {
        let mut states = self.embedded.state();
        assert_eq!(states.len(), 1);
        states.remove(0)
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shop() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn scaling(pairs: &[(&str, &str)]) -> RevisionScaling {
    let pairs = pairs.iter().map(|(name, value)| {
        (
            format!("autoscaling.knative.dev/{name}"),
            (*value).to_owned(),
        )
    });
    let annotations: BTreeMap<String, String> = pairs.collect();
    RevisionScaling::parse(&annotations, 0.into(), &AutoscalerConfig::standalone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_first_request_at_zero_is_decided_at_once() {
    let case = Case::with_shop(&[]).await;
    case.until(4_700).await;
    case.report(1.0, 1.0);
    case.until(4_701).await;

    assert_eq!(case.orders(), [(4_700, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_first_request_before_the_first_decision_is_decided_at_once() {
    let case = Case::with_shop(&[]).await;
    case.until(300).await;
    case.report(1.0, 1.0);
    case.until(301).await;

    assert_eq!(case.orders(), [(300, 1)]);
}

#[tokio::test(start_paused = true)]
async fn zeros_wake_nobody() {
    let case = Case::with_shop(&[]).await;
    case.until(3_000).await;
    case.report(0.0, 0.0);
    case.until(60_000).await;

    assert_eq!(case.orders(), []);
}

#[tokio::test(start_paused = true)]
async fn with_replicas_running_decisions_come_with_the_ticks() {
    let case = Case::with_shop(&[("target", "10"), ("target-utilization-percentage", "100")]).await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.until(2_500).await;
    case.report(300.0, 300.0);
    case.until(3_999).await;
    assert_eq!(case.numbers(), [1]);
    case.until(4_001).await;

    // Stable window: seconds 0 to 2 hold 1, 0, 300; 301 / 3 / 10 = 10.03, so 11. So does the panic window.
    assert_eq!(case.orders(), [(0, 1), (4_000, 11)]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_goes_to_zero_when_it_was_active_and_idle_for_its_window() {
    let case = Case::with_shop(&[("window", "6s")]).await;
    case.report(1.0, 1.0); // at 0 s
    case.until(500).await;
    case.set_ready(1); // seen at the tick of 2 s: active from there
    case.until(30_000).await;

    // Nothing in the window from 6 s on; active for 6 s at 8 s.
    assert_eq!(case.orders(), [(0, 1), (8_000, 0)]);
    assert_eq!(case.state().phase, Phase::Inactive);
}

#[tokio::test(start_paused = true)]
async fn steady_traffic_keeps_replicas_and_silence_ends_them() {
    let case = Case::with_shop(&[("window", "6s")]).await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.load(60, 1.0).await; // the last report is in second 59
    assert_eq!(case.numbers(), [1]);
    case.until(90_000).await;

    // Nothing in the window from second 65 on; the next tick is at 66 s.
    assert_eq!(case.orders(), [(0, 1), (66_000, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_retention_holds_the_last_replica() {
    let case = Case::with_shop(&[
        ("window", "6s"),
        ("scale-to-zero-pod-retention-period", "10s"),
    ])
    .await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.until(40_000).await;

    // Active from 0 s, idle and inactive at 6 s, 10 s more.
    assert_eq!(case.orders(), [(0, 1), (16_000, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_at_zero_wakes_again() {
    let case = Case::with_shop(&[("window", "6s")]).await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.until(20_000).await;
    case.set_ready(0);
    case.until(20_300).await;
    case.report(1.0, 1.0);
    case.until(20_301).await;

    assert_eq!(case.orders(), [(0, 1), (6_000, 0), (20_300, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_panics_and_the_number_does_not_fall_for_a_window() {
    let case = Case::with_shop(&[
        ("window", "20s"),
        ("target", "10"),
        ("target-utilization-percentage", "100"),
    ])
    .await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.load(4, 1.0).await;
    case.load(2, 40.0).await;
    case.set_ready(4);
    assert!(case.state().is_panicking);
    let most = case.state().wanted;
    case.load(18, 1.0).await; // until 24 s
    assert_eq!(case.state().wanted, most);
    case.until(40_000).await;

    assert!(!case.state().is_panicking);
    assert!(case.state().wanted < most);
}

#[tokio::test(start_paused = true)]
async fn rps_is_taken_from_the_request_counts() {
    let case = Case::with_shop(&[
        ("metric", "rps"),
        ("target", "10"),
        ("target-utilization-percentage", "100"),
    ])
    .await;
    case.report(0.5, 25.0);
    case.until(1).await;

    // ⌈25 / 10⌉.
    assert_eq!(case.orders(), [(0, 3)]);
    assert_eq!(case.state().metric, Metric::Rps);
}

#[tokio::test(start_paused = true)]
async fn what_another_reporter_has_counted_is_subtracted() {
    let case = Case::with_shop(&[("target", "10"), ("target-utilization-percentage", "100")]).await;
    let stat = Stat {
        average_concurrent_requests: 50.0,
        average_proxied_concurrent_requests: 20.0,
        ..Stat::default()
    };
    case.embedded.send(vec![StatMessage {
        revision: shop(),
        stat,
    }]);
    case.until(1).await;

    assert_eq!(case.orders(), [(0, 3)]);
}

#[tokio::test(start_paused = true)]
async fn reports_of_several_reporters_add_up() {
    let case = Case::with_shop(&[("target", "10"), ("target-utilization-percentage", "100")]).await;
    case.report(20.0, 0.0);
    case.report(20.0, 0.0);
    case.until(1).await;

    assert_eq!(case.orders(), [(0, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_stat_of_an_unknown_revision_is_ignored() {
    let case = Case::start().await;
    case.report(1.0, 1.0);
    case.until(10_000).await;

    assert_eq!(case.orders(), []);
    assert!(case.embedded.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_gets_its_initial_scale_at_once() {
    let case = Case::with_shop(&[("initial-scale", "2")]).await;
    case.until(1).await;

    assert_eq!(case.orders(), [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_run_at_the_start_are_kept_for_a_stable_window() {
    let case = Case::start().await;
    case.set_ready(4);
    case.embedded
        .upsert(shop(), scaling(&[]), Reachability::Reachable);
    case.until(59_999).await;
    assert_eq!(case.orders(), []);
    case.until(64_001).await;

    // Panic with 4 ends after 60 s, at the tick of 62 s; active for longer than the window, idle: zero in one go is
    // not allowed, ⌊4 / 2⌋ = 2.
    assert_eq!(case.orders(), [(62_000, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_minimum_is_ordered_at_once() {
    let case = Case::with_shop(&[]).await;
    case.until(3_000).await;
    case.embedded.upsert(
        shop(),
        scaling(&[("min-scale", "2")]),
        Reachability::Reachable,
    );
    case.until(3_001).await;

    assert_eq!(case.orders(), [(3_000, 2)]);
}

#[tokio::test(start_paused = true)]
async fn changes_keep_what_was_reported() {
    let case = Case::with_shop(&[]).await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.load(10, 60.0).await;
    case.embedded.upsert(
        shop(),
        scaling(&[
            ("target", "10"),
            ("target-utilization-percentage", "100"),
            ("window", "30s"),
        ]),
        Reachability::Reachable,
    );
    sleep(Duration::from_secs(2)).await;

    // 10 seconds of 60, the first with the 1 on top: 601 / 10 = 60.1, ⌈60.1 / 10⌉ = 7.
    assert_eq!(case.numbers(), [1, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_revision_is_neither_shown_nor_scaled() {
    let case = Case::with_shop(&[]).await;
    case.report(1.0, 1.0);
    case.embedded.remove(&shop());
    case.report(1.0, 1.0);
    case.until(10_000).await;

    assert_eq!(case.orders(), []);
    assert!(case.embedded.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_order_is_repeated_while_another_number_is_ready() {
    let case = Case::with_shop(&[("min-scale", "2")]).await;
    case.until(1).await;
    case.set_ready(1);
    case.until(65_000).await;
    case.set_ready(2);
    case.until(200_000).await;

    assert_eq!(case.orders(), [(0, 2), (30_000, 2), (60_000, 2)]);
}

#[tokio::test(start_paused = true)]
async fn orders_are_not_repeated_while_the_number_is_right() {
    let case = Case::with_shop(&[("min-scale", "2")]).await;
    case.set_ready(2);
    case.until(600_000).await;

    assert_eq!(case.orders(), [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_longer_than_the_window_counts_as_silence_and_not_as_load() {
    let case = Case::with_shop(&[
        ("window", "6s"),
        ("target", "10"),
        ("target-utilization-percentage", "100"),
    ])
    .await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.load(4, 5.0).await;
    advance(Duration::from_secs(3_600)).await;
    // The first report after the pause: one request was inside all the time.
    case.report(1.0, 0.0);
    sleep(Duration::from_secs(1)).await;

    assert!(case.state().wanted <= 1, "{:?}", case.state());
    assert!(!case.state().is_panicking);
    // Ticks are not made up for: at most one of the pause and the next.
    assert!(case.numbers().len() <= 3, "{:?}", case.orders());
}

#[tokio::test(start_paused = true)]
async fn the_state_shows_averages_target_and_decision() {
    let case = Case::with_shop(&[]).await;
    case.report(1.0, 1.0);
    case.set_ready(1);
    case.load(10, 35.0).await;
    sleep(Duration::from_secs(1)).await;

    let state = case.state();
    // The tick of 10 s: seconds 0 to 9 hold 36, 35, …, so 351 / 10 and, over the last six of them less the one
    // without a report, 35.
    assert_eq!(state.desired, Some(1));
    assert_eq!((state.wanted, state.ready), (1, 1));
    assert!((state.stable - 35.1).abs() < 1e-9, "{state:?}");
    assert!((state.panic - 35.0).abs() < 1e-9, "{state:?}");
    assert!((state.target - 70.0).abs() < 1e-9, "{state:?}");
    // ⌊1 · 100 − 211 − 35⌋.
    assert_eq!(state.excess_burst_capacity, -146);
    assert_eq!(state.phase, Phase::Active);
}

#[tokio::test(start_paused = true)]
async fn the_embedded_autoscaler_is_always_connected() {
    assert!(Case::start().await.embedded.is_connected());
}
