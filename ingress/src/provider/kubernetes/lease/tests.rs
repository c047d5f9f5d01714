//! Elections against the double of the API server, in memory and on a paused clock.

use parkway_tests::api::{ApiDouble, Which};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::config::{LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD};
use super::*;

const NAME: &str = "parkway.ingress.status.00-of-01";
const STEP: Duration = Duration::from_millis(100);

/// A candidate that runs.
struct Running {
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn named(api: &ApiDouble, identity: &str) -> Self {
        Self::with_clock(api, identity, Timestamp::now)
    }

    fn with_clock(api: &ApiDouble, identity: &str, clock: fn() -> Timestamp) -> Self {
        let settings = Settings {
            namespace: "knative-serving".to_owned(),
            name: NAME.to_owned(),
            identity: identity.to_owned(),
            config: ElectionConfig::default(),
            clock,
        };
        let stop = CancellationToken::new();
        let client = Client::new(api.router(), "default");
        let (leadership, run) = elect(client, settings, stop.clone());
        Self {
            leadership,
            stop,
            task: tokio::spawn(run),
        }
    }

    fn leads(&self) -> bool {
        self.leadership.is_leader()
    }

    /// How long until it leads, or leads no more.
    async fn time_until_it(&mut self, leads: bool) -> Duration {
        let begun = Instant::now();
        self.leadership.becomes(leads).await;
        begun.elapsed()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Ends it as `kill -9` would.
    async fn vanish(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn lease(api: &ApiDouble) -> Value {
    api.get("leases", "knative-serving", NAME).expect("a lease")["spec"].take()
}

fn renewals() -> Which {
    Which::any().verb("update").plural("leases")
}

#[tokio::test(start_paused = true)]
async fn the_first_leads_and_writes_a_lease_as_knatives_are() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    let written = lease(&api);
    assert_eq!(written["holderIdentity"], "one");
    assert_eq!(written["leaseDurationSeconds"], 60);
    assert_eq!(written["leaseTransitions"], 0);
    assert_eq!(written["acquireTime"], written["renewTime"]);
    assert_eq!(one.leadership.holder().as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_renews_each_retry_period_and_stays() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    let acquired = lease(&api)["acquireTime"].take();
    sleep(RETRY_PERIOD * 30 + STEP).await;
    assert!(one.leads());
    assert_eq!(api.count(&renewals()), 30);
    assert_eq!(lease(&api)["acquireTime"], acquired);
    assert_eq!(lease(&api)["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_up_is_taken_over_at_the_next_look() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    let mut two = Running::named(&api, "two");
    sleep(LEASE_DURATION * 3).await;
    assert!(!two.leads());
    assert_eq!(two.leadership.holder().as_deref(), Some("one"));

    one.stop().await;
    assert_eq!(lease(&api)["holderIdentity"], "");
    assert!(two.time_until_it(true).await <= LOOK_EVERY.mul_f64(1.0 + JITTER));
    assert_eq!(lease(&api)["holderIdentity"], "two");
    assert_eq!(lease(&api)["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_one_that_vanished_is_respected_for_its_duration() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    one.vanish().await;
    let mut two = Running::named(&api, "two");
    let waited = two.time_until_it(true).await;
    assert!(waited >= LEASE_DURATION, "{waited:?}");
    assert!(waited <= LEASE_DURATION + LOOK_EVERY * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_at_the_deadline_before_another_starts() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    let mut two = Running::named(&api, "two");
    sleep(LOOK_EVERY * 3).await; // the other has seen whose it is
    api.ignore(renewals(), u32::MAX);

    let renewed = RETRY_PERIOD; // the last time, counted from the start: before its first renewal
    let begun = Instant::now();
    let stopped = one.time_until_it(false).await;
    assert!(stopped <= RENEW_DEADLINE, "{stopped:?}");
    assert!(!two.leads());
    api.heal();
    one.vanish().await;
    two.leadership.becomes(true).await;
    let gap = begun.elapsed() - stopped;
    assert!(gap >= LEASE_DURATION - RENEW_DEADLINE - renewed, "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_api_is_back_in_time_never_stops() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    for _ in 0..10 {
        api.refuse(Which::any().plural("leases"), u32::MAX, 503);
        for _ in 0..250 {
            sleep(STEP).await;
            assert!(one.leads());
        }
        api.heal();
        sleep(RETRY_PERIOD).await;
    }
    assert_eq!(lease(&api)["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_by_a_day_change_nothing() {
    let api = ApiDouble::in_memory();
    let ahead = || Timestamp::now() + Duration::from_secs(86_400);
    let behind = || Timestamp::now() - Duration::from_secs(86_400);
    let mut one = Running::with_clock(&api, "one", behind);
    one.leadership.becomes(true).await;
    let mut two = Running::with_clock(&api, "two", ahead);
    for _ in 0..3000 {
        assert!(one.leads() && !two.leads());
        sleep(STEP).await;
    }
    one.stop().await;
    two.leadership.becomes(true).await;
    // Seen from a clock that is behind, its renewals lie in the future; it is not respected for longer for that.
    two.vanish().await;
    let mut three = Running::with_clock(&api, "three", behind);
    let waited = three.time_until_it(true).await;
    assert!(waited <= LEASE_DURATION + LOOK_EVERY * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_deletes_or_takes_is_noticed() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    api.delete("leases", "knative-serving", NAME);
    sleep(RETRY_PERIOD * 2).await;
    assert!(one.leads());
    assert_eq!(lease(&api)["holderIdentity"], "one");

    let taken = serde_json::json!({"spec": {"holderIdentity": "by force"}});
    api.edit("leases", "knative-serving", NAME, taken);
    assert!(one.time_until_it(false).await <= RETRY_PERIOD);
    assert_eq!(one.leadership.holder().as_deref(), Some("by force"));
}

#[tokio::test(start_paused = true)]
async fn stopping_one_that_does_not_lead_leaves_the_lease_alone() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    let two = Running::named(&api, "two");
    sleep(LOOK_EVERY * 2).await;
    two.stop().await;
    assert!(one.leads());
    assert_eq!(lease(&api)["holderIdentity"], "one");
}

#[tokio::test(start_paused = true)]
async fn giving_up_ends_even_when_nobody_answers() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    api.ignore(Which::any().plural("leases"), u32::MAX);
    let begun = Instant::now();
    one.stop().await;
    assert_eq!(begun.elapsed(), RELEASE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn giving_up_goes_through_when_the_lease_changes_meanwhile() {
    let api = ApiDouble::in_memory();
    let mut one = Running::named(&api, "one");
    one.leadership.becomes(true).await;
    api.overtake(renewals(), 1);
    one.stop().await;
    assert_eq!(lease(&api)["holderIdentity"], "");
}

#[tokio::test(start_paused = true)]
async fn without_others_one_leads_always() {
    let mut always = Leadership::always();
    always.becomes(true).await;
    advance(Duration::from_secs(86_400 * 365)).await;
    assert!(always.is_leader());
}

/// Three candidates, an API server that fails at random, leaders that vanish: never two lead at once, and somebody does
/// most of the time.
#[tokio::test(start_paused = true)]
async fn never_two_lead_at_once_whatever_fails() {
    let seed = 0x5eed;
    let mut draw = seed;
    // Knuth, "The Art of Computer Programming" 3.3.4: an MMIX generator is chance enough here.
    let mut next = move |below: u64| {
        draw = u64::wrapping_mul(draw, 6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (draw >> 33) % below
    };
    let api = ApiDouble::in_memory();
    let mut count = 3;
    let mut running: Vec<Running> = (0..count)
        .map(|n| Running::named(&api, &format!("c{n}")))
        .collect();
    let (mut led, mut steps, mut changes) = (0, 0, 0);
    for _ in 0..400 {
        match next(10) {
            0 => api.refuse(
                Which::any().plural("leases"),
                u32::try_from(next(40)).unwrap(),
                500,
            ),
            1 => api.ignore(renewals(), u32::try_from(next(20)).unwrap()),
            2 => api.delay(
                Which::any().plural("leases"),
                u32::try_from(next(20)).unwrap(),
                Duration::from_millis(next(15_000)),
            ),
            3 => api.overtake(renewals(), u32::try_from(next(8)).unwrap()),
            4 => {
                let which = usize::try_from(next(3)).unwrap();
                let leaver = running.swap_remove(which);
                if next(2) == 0 {
                    leaver.vanish().await;
                } else {
                    tokio::spawn(leaver.stop());
                }
                count += 1;
                running.push(Running::named(&api, &format!("c{count}")));
                changes += 1;
            }
            _ => api.heal(),
        }
        for _ in 0..next(200) {
            sleep(STEP).await;
            let leaders: Vec<_> = running.iter().filter(|one| one.leads()).collect();
            assert!(leaders.len() < 2, "seed {seed:#x}: two lead");
            led += leaders.len();
            steps += 1;
        }
    }
    assert!(changes > 10);
    assert!(led * 2 > steps, "somebody led in {led} of {steps} steps");
}
