use std::net::SocketAddr;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::*;
use crate::revision::RevisionSpec;
use crate::throttler::{Parking, QueueLimits};

const SECOND: Duration = Duration::from_secs(1);

fn id() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn endpoints(count: u8) -> Vec<Endpoint> {
    let endpoint = |last| Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)));
    (0..count).map(endpoint).collect()
}

fn throttler_with_suspects(endpoints: &[Endpoint]) -> Throttler {
    let throttler = Throttler::new(QueueLimits::default(), 0);
    throttler.upsert(&id(), Arc::new(RevisionSpec::default()), Parking::Allowed);
    throttler.set_endpoints(&id(), endpoints.to_vec());
    for endpoint in endpoints {
        throttler.suspect(&id(), *endpoint);
    }
    throttler
}

/// Answers from a moment on; before it, refuses at once or hangs.
struct Scripted {
    recovers: Instant,
    hangs: bool,
    asked: Arc<Mutex<Vec<Instant>>>,
    under_way: Arc<Mutex<(usize, usize)>>,
}

impl Scripted {
    fn recovering_at(recovers: Instant) -> Self {
        Self {
            recovers,
            hangs: false,
            asked: Arc::default(),
            under_way: Arc::default(),
        }
    }
}

impl Probe for Scripted {
    async fn probe(&self, _revision: &RevisionId, _endpoint: Endpoint) -> bool {
        self.asked.lock().push(Instant::now());
        {
            let mut under_way = self.under_way.lock();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        if Instant::now() < self.recovers && self.hangs {
            sleep(SECOND / 5).await;
        }
        self.under_way.lock().0 -= 1;
        Instant::now() >= self.recovers
    }
}

/// Waits until none of the endpoints is suspect.
async fn all_restored(throttler: &Throttler, endpoints: &[Endpoint]) {
    while endpoints
        .iter()
        .any(|endpoint| throttler.is_suspect(&id(), *endpoint))
    {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn pauses_grow_from_a_millisecond_to_their_cap() {
    for (mut cadence, cap) in [
        (Cadence::new_endpoint(), NEW_ENDPOINT_PAUSE_MAX),
        (Cadence::suspect(), SUSPECT_PAUSE_MAX),
        (Cadence::not_listening(), NEW_ENDPOINT_PAUSE_MAX),
    ] {
        let pauses: Vec<_> = (0..300).map(|_| cadence.next_pause()).collect();

        assert_eq!(pauses[0], Duration::from_millis(1));
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&cap));
    }
}

#[test]
fn a_new_endpoint_is_found_soon_after_it_is_ready() {
    for ready_ms in [1, 10, 50, 200, 1_000, 30_000] {
        let ready = Duration::from_millis(ready_ms);
        for (mut cadence, fraction) in
            [(Cadence::new_endpoint(), 4), (Cadence::not_listening(), 64)]
        {
            let mut now = Duration::ZERO;
            while now < ready {
                now += cadence.next_pause();
            }

            let late = now - ready;
            let allowed = ready / fraction + Duration::from_millis(1);
            assert!(
                late <= allowed.min(NEW_ENDPOINT_PAUSE_MAX),
                "{ready:?} found {late:?} late"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn suspect_is_back_within_a_second_of_recovering() {
    for down in [Duration::ZERO, SECOND / 10, 3 * SECOND, 60 * SECOND] {
        let endpoints = endpoints(1);
        let throttler = throttler_with_suspects(&endpoints);
        let recovers = Instant::now() + down;
        let probe = Scripted::recovering_at(recovers);

        tokio::select! {
            () = restore_suspects(throttler.clone(), probe) => unreachable!("never ends"),
            () = all_restored(&throttler, &endpoints) => {}
        }

        assert!(
            recovers.elapsed() < SECOND / 2,
            "{:?} late",
            recovers.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn endpoint_suspected_again_is_probed_again() {
    let endpoints = endpoints(1);
    let throttler = throttler_with_suspects(&endpoints);
    let probe = Scripted::recovering_at(Instant::now());
    let asked = Arc::clone(&probe.asked);
    let thrice = async {
        all_restored(&throttler, &endpoints).await;
        for _ in 0..2 {
            throttler.suspect(&id(), endpoints[0]);
            all_restored(&throttler, &endpoints).await;
        }
    };

    tokio::select! {
        () = restore_suspects(throttler.clone(), probe) => unreachable!("never ends"),
        () = thrice => {}
    }

    assert_eq!(asked.lock().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn suspect_that_leaves_is_no_longer_probed() {
    let endpoints = endpoints(1);
    let throttler = throttler_with_suspects(&endpoints);
    let probe = Scripted::recovering_at(Instant::now() + 600 * SECOND);
    let asked = Arc::clone(&probe.asked);
    let leaves = Instant::now() + 2 * SECOND;
    let story = async {
        sleep_until(leaves).await;
        throttler.set_endpoints(&id(), Vec::new());
        sleep(60 * SECOND).await;
    };

    tokio::select! {
        () = restore_suspects(throttler.clone(), probe) => unreachable!("never ends"),
        () = story => {}
    }

    let last = *asked.lock().last().unwrap();
    assert!(last > leaves - SECOND && last <= leaves + SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn probes_under_way_are_bounded_and_all_suspects_get_their_turn() {
    let endpoints = endpoints(200);
    let throttler = throttler_with_suspects(&endpoints);
    let mut probe = Scripted::recovering_at(Instant::now() + 3 * SECOND);
    probe.hangs = true;
    let under_way = Arc::clone(&probe.under_way);

    tokio::select! {
        () = restore_suspects(throttler.clone(), probe) => unreachable!("never ends"),
        () = all_restored(&throttler, &endpoints) => {}
    }

    assert_eq!(under_way.lock().1, SUSPECT_PROBES_MAX);
}

#[tokio::test(start_paused = true)]
async fn probe_that_never_ends_does_not_keep_an_endpoint_away() {
    struct HangsOnce(Mutex<bool>);
    impl Probe for HangsOnce {
        async fn probe(&self, _revision: &RevisionId, _endpoint: Endpoint) -> bool {
            let is_first = std::mem::replace(&mut *self.0.lock(), false);
            if is_first {
                std::future::pending::<()>().await;
            }
            true
        }
    }
    let endpoints = endpoints(1);
    let throttler = throttler_with_suspects(&endpoints);
    let started = Instant::now();

    tokio::select! {
        () = restore_suspects(throttler.clone(), HangsOnce(Mutex::new(true))) => unreachable!("never ends"),
        () = all_restored(&throttler, &endpoints) => {}
    }

    assert!(started.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_probe_may_say_how_long_it_takes_and_how_many_there_are_at_once() {
    struct Patient(Scripted);
    impl Probe for Patient {
        async fn probe(&self, revision: &RevisionId, endpoint: Endpoint) -> bool {
            self.0.probe(revision, endpoint).await;
            sleep(2 * SECOND).await;
            true
        }
        fn deadline(&self) -> Duration {
            3 * SECOND
        }
        fn at_once(&self) -> usize {
            150
        }
    }
    let endpoints = endpoints(200);
    let throttler = throttler_with_suspects(&endpoints);
    let mut scripted = Scripted::recovering_at(Instant::now() + SECOND / 2);
    scripted.hangs = true;
    let under_way = Arc::clone(&scripted.under_way);

    tokio::select! {
        () = restore_suspects(throttler.clone(), Patient(scripted)) => unreachable!("never ends"),
        () = all_restored(&throttler, &endpoints) => {}
    }

    assert_eq!(under_way.lock().1, 150);
}
