use std::rc::Rc;

use parkway_activator::throttler::{Admission, Ask, Permit, QueueLimits, Ticket, Worker};
use tokio::time::sleep;

use super::*;
use network::{HOLD, Host, Network, cluster_ip, pod};

mod network;
mod real;
mod shares;
mod suspects;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn id() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn spec(concurrency: u32) -> Arc<RevisionSpec> {
    Arc::new(RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        ..RevisionSpec::default()
    })
}

fn pods(ready: &[u8], not_ready: &[u8]) -> Pods {
    Pods {
        ready: ready.iter().copied().map(pod).collect(),
        not_ready: not_ready.iter().copied().map(pod).collect(),
        trusts_early: true,
        service: Some(cluster_ip()),
    }
}

/// One Revision, its queue with one worker, and the task that asks.
struct Stage {
    network: Network,
    throttler: Throttler,
    worker: Rc<Worker>,
    endpoints: ClusterEndpoints,
    spec: Arc<RevisionSpec>,
}

impl Stage {
    fn new(network: Network, concurrency: u32) -> Self {
        Self::with(network, concurrency, ProbeLimits::default())
    }

    fn with(network: Network, concurrency: u32, limits: ProbeLimits) -> Self {
        let throttler = Throttler::new(QueueLimits::default(), 1);
        let spec = spec(concurrency);
        throttler.upsert(&id(), Arc::clone(&spec), Parking::Allowed);
        let (endpoints, asking) = ClusterEndpoints::new(throttler.clone(), network.clone(), limits);
        tokio::spawn(asking);
        Self {
            worker: Rc::new(throttler.worker(0)),
            network,
            throttler,
            endpoints,
            spec,
        }
    }

    fn set(&self, pods: Pods) {
        self.set_of(&id(), pods);
    }

    fn set_of(&self, id: &RevisionId, pods: Pods) {
        let private_service = format!("{}-private", id.name()).into();
        self.endpoints.set(id, &self.spec, &private_service, pods);
    }

    fn park(&self) -> Ticket {
        match self.worker.admit(&id(), Ask::default()) {
            Admission::Parked(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a parked request to go.
    async fn gone(&self, ticket: Ticket) -> Permit {
        tokio::select! {
            () = self.worker.run() => unreachable!("never ends"),
            permit = ticket => permit.unwrap(),
        }
    }

    /// The endpoints the queue knows of.
    fn known(&self) -> Vec<Endpoint> {
        let state = self.throttler.revision_state(&id()).unwrap();
        let ready = state.endpoints.iter().filter(|it| it.is_ready);
        ready.map(|it| it.endpoint).collect()
    }

    fn slots(&self) -> u32 {
        let state = self.throttler.revision_state(&id()).unwrap();
        state.spec.concurrency.as_number()
    }

    /// Waits until the queue knows of these, and says how long that took.
    async fn until_known(&self, expected: &[Endpoint]) -> Duration {
        let started = Instant::now();
        while self.known() != expected {
            assert!(
                started.elapsed() < 100 * SECOND,
                "{:?}",
                self.endpoints.state()
            );
            sleep(MS).await;
        }
        started.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_request_goes_the_moment_a_held_probe_is_answered_whatever_the_delay() {
    for delay in [Duration::ZERO, 10 * MS, 150 * MS] {
        for starts_in in [SECOND, 4 * SECOND, 9 * SECOND] {
            let stage = Stage::new(Network::far(delay), 1);
            let (listens, ready) = (Instant::now(), Instant::now() + starts_in);
            stage
                .network
                .put(pod(1), Host::QueueProxy { listens, ready });
            let ticket = stage.park();

            stage.set(pods(&[], &[1]));
            let permit = stage.gone(ticket).await;

            assert_eq!(permit.endpoint(), pod(1));
            assert_eq!(
                ready.elapsed(),
                delay,
                "as long as the answer is on its way"
            );
            assert_eq!(stage.network.log(pod(1)).asked.len(), 1, "one probe");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_slowly_is_asked_again_each_time_it_was_held_in_vain() {
    let stage = Stage::new(Network::far(150 * MS), 1);
    let (listens, ready) = (Instant::now(), Instant::now() + 35 * SECOND);
    stage
        .network
        .put(pod(1), Host::QueueProxy { listens, ready });
    let ticket = stage.park();

    stage.set(pods(&[], &[1]));
    drop(stage.gone(ticket).await);

    assert_eq!(ready.elapsed(), 150 * MS);
    assert_eq!(
        stage.network.log(pod(1)).asked.len(),
        4,
        "each held for {HOLD:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_listens_later_is_found_at_once() {
    for listens_in in [20 * MS, 160 * MS, 2 * SECOND, 30 * SECOND] {
        let stage = Stage::new(Network::default(), 1);
        let listens = Instant::now() + listens_in;
        let host = Host::QueueProxy {
            listens,
            ready: listens,
        };
        stage.network.put(pod(1), host);
        let ticket = stage.park();

        stage.set(pods(&[], &[1]));
        drop(stage.gone(ticket).await);

        let late = listens.elapsed();
        let allowed = (listens_in / 32 + 2 * MS).min(51 * MS);
        assert!(late <= allowed, "{listens_in:?}: {late:?} late");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_says_no_at_once_is_asked_again_and_again() {
    let stage = Stage::new(Network::default(), 1);
    let ready = Instant::now() + 20 * SECOND;
    stage.network.put(pod(1), Host::Impatient(ready));
    let ticket = stage.park();

    stage.set(pods(&[], &[1]));
    drop(stage.gone(ticket).await);

    assert!(ready.elapsed() <= 251 * MS);
    let asked = stage.network.log(pod(1)).asked.len();
    assert!(asked < 150, "asked {asked} times in 20 s");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_keeps_nobody_waiting() {
    let stage = Stage::new(Network::default(), 0);
    stage.network.put(pod(1), Host::BlackHole);
    stage.network.ready(pod(2));
    let started = Instant::now();
    let ticket = stage.park();

    stage.set(pods(&[1, 2], &[]));
    let permit = stage.gone(ticket).await;

    assert_eq!(
        (permit.endpoint(), started.elapsed()),
        (pod(2), Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn a_whole_set_that_flaps_parks_requests_and_answers_none_with_an_error() {
    let stage = Stage::new(Network::default(), 1);
    (1..=3).for_each(|last| stage.network.ready(pod(last)));
    stage.set(pods(&[1, 2, 3], &[]));
    stage.until_known(&[pod(1), pod(2), pod(3)]).await;

    let down = Instant::now();
    let host = Host::QueueProxy {
        listens: down,
        ready: down + 5 * SECOND,
    };
    (1..=3).for_each(|last| stage.network.put(pod(last), host));
    stage.set(pods(&[], &[1, 2, 3]));
    assert_eq!(stage.known(), []);
    let permit = stage.gone(stage.park()).await;

    assert_eq!(down.elapsed(), 5 * SECOND);
    drop(permit);
    stage.until_known(&[pod(1), pod(2), pod(3)]).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_than_allowed_are_under_way_and_everybody_has_a_turn() {
    let stage = Stage::with(Network::default(), 0, ProbeLimits { at_once: 10 });
    let slow = Host::QueueProxy {
        listens: Instant::now(),
        ready: Instant::now() + SECOND,
    };
    (1..=100).for_each(|last| stage.network.put(pod(last), slow));
    let all: Vec<_> = (1..=100).collect();

    stage.set(pods(&all, &[]));
    sleep(SECOND / 2).await;
    assert_eq!(
        (
            stage.endpoints.state().probes,
            stage.endpoints.state().asking
        ),
        (10, 100)
    );
    stage
        .until_known(&all.iter().copied().map(pod).collect::<Vec<_>>())
        .await;

    assert_eq!(stage.network.most_under_way(), 10);
    assert_eq!(stage.network.dialled(), 100);
    assert_eq!(
        (
            stage.endpoints.state().probes,
            stage.endpoints.state().asking
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn many_that_do_not_listen_yet_share_a_pace() {
    let stage = Stage::new(Network::default(), 0);
    let later = Instant::now() + 600 * SECOND;
    let host = Host::QueueProxy {
        listens: later,
        ready: later,
    };
    (1..=200).for_each(|last| stage.network.put(pod(last), host));

    stage.set(pods(&[], &(1..=200).collect::<Vec<_>>()));
    sleep(10 * SECOND).await;

    let dialled = stage.network.dialled();
    assert!((30_000..=50_200).contains(&dialled), "{dialled} in 10 s");
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_asked_nothing_happens() {
    let stage = Stage::new(Network::default(), 0);
    (1..=3).for_each(|last| stage.network.ready(pod(last)));
    stage.set(pods(&[1, 2], &[3]));
    stage.until_known(&[pod(1), pod(2), pod(3)]).await;

    for _ in 0..10 {
        stage.set(pods(&[1, 2], &[3]));
        sleep(60 * SECOND).await;
    }

    assert_eq!(stage.network.dialled(), 3);
    assert_eq!(stage.endpoints.state().asking, 0);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_gone_is_not_asked_about_any_more() {
    let stage = Stage::new(Network::default(), 0);
    let never = Host::QueueProxy {
        listens: Instant::now(),
        ready: Instant::now() + 3_600 * SECOND,
    };
    stage.network.put(pod(1), never);
    stage.network.put(pod(2), Host::BlackHole);
    stage.set(pods(&[1], &[2]));
    sleep(SECOND).await;
    assert_eq!(stage.endpoints.state().probes, 2);

    stage.endpoints.remove(&id());
    sleep(MS).await;
    let dialled = stage.network.dialled();
    sleep(60 * SECOND).await;

    let state = stage.endpoints.state();
    assert_eq!(
        (state.revisions.len(), state.probes, state.asking),
        (0, 0, 0)
    );
    assert_eq!(stage.network.dialled(), dialled);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_comes_back_is_asked_about_anew() {
    let stage = Stage::new(Network::default(), 0);
    stage.network.ready(pod(1));
    stage.set(pods(&[1], &[]));
    stage.until_known(&[pod(1)]).await;

    stage.endpoints.remove(&id());
    stage.throttler.remove(&id());
    stage
        .throttler
        .upsert(&id(), Arc::clone(&stage.spec), Parking::Allowed);
    stage.set(pods(&[1], &[]));
    assert_eq!(stage.known(), []);
    stage.until_known(&[pod(1)]).await;

    assert_eq!(stage.network.dialled(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_on_its_way_when_its_pod_turns_not_ready_is_forgotten_with_its_probe() {
    let stage = Stage::new(Network::far(150 * MS), 0);
    stage.network.ready(pod(1));
    stage.set(pods(&[1], &[]));
    sleep(590 * MS).await; // there, question, back: its answer would be here in 10 ms

    stage.set(pods(&[], &[]));
    stage.set(pods(&[1], &[]));

    let took = stage.until_known(&[pod(1)]).await;
    assert!(took >= 600 * MS, "{took:?}");
    assert_eq!(
        stage.network.dialled(),
        2 * 4,
        "each probe dials until it is through"
    );
}

#[tokio::test(start_paused = true)]
async fn the_admin_sees_each_pod_with_its_last_answer() {
    use parkway_activator::backends::Phase;
    let stage = Stage::new(Network::default(), 1);
    stage.network.ready(pod(1));
    stage
        .network
        .put(pod(2), Host::Impatient(Instant::now() + 60 * SECOND));
    let refuses = Host::QueueProxy {
        listens: Instant::now() + 60 * SECOND,
        ready: Instant::now() + 60 * SECOND,
    };
    stage.network.put(pod(3), refuses);
    let started = Instant::now();
    stage.set(pods(&[1, 2], &[3]));
    sleep(5 * SECOND).await;

    let state = stage.endpoints.state();

    let revision = &state.revisions[0];
    assert_eq!(
        (&revision.id, &revision.share.endpoints),
        (&id(), &vec![pod(1)])
    );
    let seen = revision.backends.pods.iter().map(|pod| {
        let asked = pod.asked;
        assert_eq!(asked.since, started);
        (pod.is_ready, pod.is_usable, asked.phase, asked.last)
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            (true, true, Phase::Passed, Some(Outcome::Ready)),
            (true, false, Phase::Asking, Some(Outcome::NotReady(503))),
            (false, false, Phase::Asking, Some(Outcome::Refused)),
        ]
    );
    assert_eq!(state.asking, 2);
}
