use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::revision::ContainerConcurrency;

mod mesh;
mod shares;
mod simulation;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const AUTO: Mesh = Mesh {
    mode: MeshMode::Auto,
    passthrough: false,
};

fn pod(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)))
}

fn cluster_ip() -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 96, 0, 1], 80)))
}

/// Pods by their last number, of a Revision whose queue-proxy knows everything.
fn pods(ready: &[u8], not_ready: &[u8]) -> Pods {
    Pods {
        ready: ready.iter().copied().map(pod).collect(),
        not_ready: not_ready.iter().copied().map(pod).collect(),
        trusts_early: true,
        service: Some(cluster_ip()),
    }
}

fn untrusting(pods: Pods) -> Pods {
    Pods {
        trusts_early: false,
        ..pods
    }
}

/// One Revision, and somebody who keeps to the orders.
struct Stage {
    backends: Backends,
    now: Instant,
    /// Whom to ask, and when.
    asking: BTreeMap<Target, Instant>,
}

impl Stage {
    fn new(mesh: Mesh) -> Self {
        Self {
            backends: Backends::new(mesh),
            now: Instant::now(),
            asking: BTreeMap::new(),
        }
    }

    fn auto() -> Self {
        Self::new(AUTO)
    }

    fn with(mesh: Mesh, pods: Pods) -> Self {
        let mut stage = Self::new(mesh);
        stage.set(pods);
        stage
    }

    fn set(&mut self, pods: Pods) -> bool {
        let now = self.now;
        self.step(|backends, orders| backends.set_pods(pods, now, orders))
    }

    fn set_mesh(&mut self, mesh: Mesh) -> bool {
        let now = self.now;
        self.step(|backends, orders| backends.set_mesh(mesh, now, orders))
    }

    fn answer(&mut self, target: Target, outcome: Outcome) -> bool {
        self.answer_with(target, outcome, Duration::ZERO)
    }

    fn answer_with(&mut self, target: Target, outcome: Outcome, least_pause: Duration) -> bool {
        let now = self.now;
        self.asking.remove(&target); // that order is carried out
        self.step(|backends, orders| backends.answered(target, outcome, now, least_pause, orders))
    }

    fn says(&mut self, last: u8, outcome: Outcome) -> bool {
        self.answer(Target::Pod(pod(last)), outcome)
    }

    fn service_says(&mut self, outcome: Outcome) -> bool {
        self.answer(Target::Service(cluster_ip()), outcome)
    }

    /// One step; keeps to its orders, and checks that it tells the truth about what has changed.
    fn step(&mut self, act: impl FnOnce(&mut Backends, &mut Vec<Order>) -> bool) -> bool {
        let before = self.backends.usable();
        let mut orders = Vec::new();
        let changed = act(&mut self.backends, &mut orders);
        assert_eq!(changed, before != self.backends.usable());
        for order in orders {
            match order {
                Order::Ask { target, at } => drop(self.asking.insert(target, at)),
                Order::Stop(target) => drop(self.asking.remove(&target)),
            }
        }
        let state = self.backends.state();
        let pods = state
            .pods
            .iter()
            .map(|pod| (Target::Pod as fn(_) -> _, pod.asked));
        let service = state
            .service
            .map(|asked| (Target::Service as fn(_) -> _, asked));
        let asking = pods
            .chain(service)
            .filter(|(_, asked)| asked.phase == Phase::Asking)
            .map(|(target, asked)| target(asked.endpoint));
        let mut asking: Vec<_> = asking.collect();
        asking.sort_unstable();
        assert!(
            self.asking.keys().copied().eq(asking),
            "orders say the same as the state"
        );
        changed
    }

    fn pass(&mut self, lasts: impl IntoIterator<Item = u8>) {
        for last in lasts {
            self.says(last, Outcome::Ready);
        }
    }

    fn usable(&self) -> Vec<Endpoint> {
        match self.backends.usable() {
            Usable::Pods(pods) => pods,
            Usable::ClusterIp { endpoint, .. } => vec![endpoint],
        }
    }

    /// The last numbers of the Pods that are asked.
    fn asked(&self) -> Vec<u8> {
        let last = |target: &Target| match target {
            Target::Pod(endpoint) => match endpoint.address().ip() {
                std::net::IpAddr::V4(ip) => Some(ip.octets()[3]),
                std::net::IpAddr::V6(_) => None,
            },
            Target::Service(_) => None,
        };
        self.asking.keys().filter_map(last).collect()
    }

    fn asks_service(&self) -> bool {
        self.asking.contains_key(&Target::Service(cluster_ip()))
    }

    /// How long until this Pod is asked.
    fn pause(&self, last: u8) -> Duration {
        self.asking[&Target::Pod(pod(last))].saturating_duration_since(self.now)
    }
}

#[test]
fn pod_is_asked_from_the_moment_it_has_an_address_and_used_when_it_says_yes() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1]));
    assert_eq!((stage.asked(), stage.pause(1)), (vec![1], Duration::ZERO));
    assert_eq!(stage.usable(), []);

    assert!(stage.says(1, Outcome::Ready));

    assert_eq!(stage.usable(), [pod(1)]);
    assert_eq!(stage.asked(), []);
}

#[test]
fn where_queue_proxy_does_not_know_everything_kubernetes_must_agree() {
    let mut stage = Stage::with(AUTO, untrusting(pods(&[], &[1])));
    stage.pass([1]);
    assert_eq!(stage.usable(), []);

    stage.set(untrusting(pods(&[1], &[])));

    assert_eq!(stage.usable(), [pod(1)], "it has passed already");
    assert_eq!(stage.asked(), []);
}

#[test]
fn pod_that_kubernetes_calls_ready_must_pass_too() {
    let mut stage = Stage::with(AUTO, pods(&[1, 2], &[]));
    assert_eq!(stage.usable(), []);
    assert_eq!(stage.asked(), [1, 2]);

    stage.pass([2]);

    assert_eq!(stage.usable(), [pod(2)]);
}

#[test]
fn pod_that_has_passed_is_not_asked_again_while_it_stays() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1]));
    stage.pass([1]);

    for next in [
        pods(&[1], &[]),
        pods(&[1], &[2]),
        pods(&[1, 2], &[3]),
        untrusting(pods(&[1, 2], &[])),
    ] {
        stage.set(next);
        assert!(!stage.asked().contains(&1));
        assert_eq!(stage.usable(), [pod(1)]);
    }
}

#[test]
fn pod_that_turns_not_ready_is_not_used_until_it_passes_again() {
    let mut stage = Stage::with(AUTO, pods(&[1, 2], &[]));
    stage.pass([1, 2]);

    assert!(stage.set(pods(&[2], &[1])));
    assert_eq!(stage.usable(), [pod(2)]);
    assert_eq!(stage.asked(), [1]);

    assert!(stage.says(1, Outcome::Ready));
    assert_eq!(stage.usable(), [pod(1), pod(2)]);
}

#[test]
fn pod_that_turns_not_ready_and_back_must_have_passed_in_between() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.pass([1]);
    stage.set(pods(&[], &[1]));

    stage.set(pods(&[1], &[]));

    assert_eq!(stage.usable(), []);
    assert_eq!(stage.asked(), [1]);
}

#[test]
fn a_whole_set_that_flaps_leaves_nothing_to_use_and_comes_back() {
    let mut stage = Stage::with(AUTO, pods(&[1, 2, 3], &[]));
    stage.pass([1, 2, 3]);

    stage.set(pods(&[], &[1, 2, 3]));
    assert_eq!(stage.backends.usable(), Usable::Pods(Vec::new()));
    assert_eq!(stage.asked(), [1, 2, 3]);

    stage.pass([1, 2, 3]);
    assert_eq!(stage.usable(), [pod(1), pod(2), pod(3)]);
}

#[test]
fn pod_that_leaves_is_forgotten() {
    let mut stage = Stage::with(AUTO, pods(&[1, 2], &[3]));
    stage.pass([1]);

    stage.set(pods(&[2], &[]));
    assert_eq!(stage.asked(), [2]);
    assert_eq!(stage.usable(), []);

    stage.set(pods(&[1, 2], &[3]));
    assert_eq!(stage.asked(), [1, 2, 3], "who comes back must pass again");
}

#[test]
fn an_answer_of_somebody_who_is_not_asked_is_left_aside() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.pass([1]);

    for outcome in [Outcome::Ready, Outcome::Refused, Outcome::NotReady(503)] {
        assert!(!stage.says(1, outcome), "has passed");
        assert!(!stage.says(9, outcome), "was never here");
        assert!(!stage.service_says(outcome), "need not be asked");
    }

    assert_eq!(stage.usable(), [pod(1)]);
    assert!(stage.asking.is_empty());
}

#[test]
fn saying_the_same_again_changes_nothing() {
    let mut stage = Stage::with(AUTO, pods(&[2, 1], &[3]));
    stage.pass([1]);
    stage.says(3, Outcome::Refused);
    let asking = stage.asking.clone();

    for same in [pods(&[2, 1], &[3]), pods(&[1, 2, 2], &[3, 1])] {
        assert!(!stage.set(same));
    }

    assert_eq!(stage.asking, asking);
}

#[test]
fn who_does_not_listen_yet_is_asked_very_often_and_who_says_no_less() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1, 2]));
    let mut waited = [Duration::ZERO; 2];
    for _ in 0..40 {
        stage.says(1, Outcome::Refused);
        stage.says(2, Outcome::NotReady(503));
        waited[0] += stage.pause(1);
        waited[1] += stage.pause(2);
    }

    assert!(stage.pause(1) < 2 * MS && waited[0] < 60 * MS);
    assert_eq!(stage.pause(2), 250 * MS);
    assert!(waited[1] > SECOND);
}

#[test]
fn who_was_held_for_long_is_asked_again_at_once() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1]));
    for _ in 0..40 {
        stage.says(1, Outcome::NotReady(503));
    }

    stage.now = stage.asking[&Target::Pod(pod(1))] + 10 * SECOND;
    stage.says(1, Outcome::NotReady(503));

    assert_eq!(stage.pause(1), MS);
}

#[test]
fn pauses_are_never_shorter_than_told() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1]));
    for (least, expected) in [(7 * MS, 7 * MS), (Duration::ZERO, MS + MS / 64)] {
        stage.answer_with(Target::Pod(pod(1)), Outcome::Refused, least);
        assert_eq!(stage.pause(1), expected);
    }
}

#[test]
fn news_of_a_pod_end_its_pause() {
    let (ready, not_ready) = (pods(&[1], &[]), pods(&[], &[1]));
    for (before, after) in [(&ready, &not_ready), (&not_ready, &ready)] {
        let mut stage = Stage::with(AUTO, before.clone());
        for _ in 0..40 {
            stage.says(1, Outcome::NotReady(503));
        }
        assert!(stage.pause(1) > 100 * MS);

        stage.set(after.clone());

        assert_eq!(stage.pause(1), Duration::ZERO);
    }
}

#[test]
fn a_stale_probe_is_replaced_when_kubernetes_calls_its_pod_ready_and_a_young_one_is_not() {
    for (age, is_replaced) in [(STALE_PROBE / 2, false), (STALE_PROBE, true)] {
        let mut stage = Stage::with(AUTO, pods(&[], &[1]));
        let began = stage.now;

        stage.now += age;
        stage.set(pods(&[1], &[]));

        let at = stage.asking[&Target::Pod(pod(1))];
        assert_eq!(at, if is_replaced { stage.now } else { began });
    }
}

#[test]
fn removing_the_revision_stops_all_probes() {
    let mut stage = Stage::with(AUTO, pods(&[1, 2], &[3]));
    stage.pass([1]);
    let mut orders = Vec::new();

    stage.backends.stop(&mut orders);

    let stops = [2, 3].map(|last| Order::Stop(Target::Pod(pod(last))));
    assert_eq!(orders, stops);
}

#[test]
fn more_pods_than_there_may_be_are_left_out_those_that_are_not_ready_first() {
    let many = |count: usize, net: u8| -> Vec<_> {
        let address = |number: usize| {
            let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
            Endpoint::new(SocketAddr::from(([10, net, high, low], 8012)))
        };
        (0..count).map(address).collect()
    };
    let mut stage = Stage::auto();

    stage.set(Pods {
        ready: many(PODS_MAX - 10, 2),
        not_ready: many(30, 1),
        trusts_early: true,
        service: None,
    });

    let state = stage.backends.state();
    assert_eq!((state.pods.len(), state.left_out), (PODS_MAX, 20));
    assert_eq!(state.pods.iter().filter(|pod| !pod.is_ready).count(), 10);
    assert!(state.pods.is_sorted_by(|one, other| {
        by_address_text(one.asked.endpoint, other.asked.endpoint).is_lt()
    }));
}

#[test]
fn the_order_is_that_of_addresses_as_text() {
    let texts = [
        "10.0.0.10:8012",
        "10.0.0.2:80",
        "10.0.0.2:8012",
        "9.0.0.1:8012",
        "[2001:db8::1]:8012",
        "[::ffff:1.2.3.4]:8012",
        "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535",
    ];
    let endpoints: Vec<_> = texts
        .iter()
        .map(|text| Endpoint::new(text.parse::<SocketAddr>().unwrap()))
        .collect();

    for (one, a) in endpoints.iter().zip(texts) {
        for (other, b) in endpoints.iter().zip(texts) {
            assert_eq!(by_address_text(*one, *other), a.cmp(b), "{a} {b}");
        }
    }
}
