//! Real threads on the public API: what the simulation, on one thread, cannot see.
//!
//! Workers run clients that arrive, wait, hang up, hold and let go, some of them on foreign threads; a control thread
//! moves endpoints meanwhile. Clients count for themselves how many run at each endpoint.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{ContainerConcurrency, RevisionId, RevisionSpec};
use parkway_activator::throttler::{
    Admission, Ask, Parking, Permit, QueueLimits, Refusal, Throttler, Worker,
};
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout;

const WORKERS: usize = 3;
const CLIENTS: u64 = 8;
const REQUESTS: u64 = 2_000;
/// How many requests are parked before there is an endpoint.
const PARKED_FIRST: usize = 4;
const ENDPOINTS: u8 = 4;

/// Nothing here takes long; whoever waits this long waits for ever.
const FOR_EVER: Duration = Duration::from_secs(60);

fn id() -> RevisionId {
    RevisionId::new("stress", "rev")
}

fn endpoint(index: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, index], 8012)))
}

#[derive(Default)]
struct Counts {
    running: [AtomicU32; ENDPOINTS as usize],
    served: AtomicU64,
    hung_up: AtomicU64,
    refused: AtomicU64,
    done: AtomicBool,
}

impl Counts {
    fn at(&self, permit: &Permit) -> &AtomicU32 {
        let SocketAddr::V4(address) = permit.endpoint().address() else {
            panic!("only IPv4 here")
        };
        &self.running[usize::from(address.ip().octets()[3])]
    }
}

#[test]
fn limit_holds_and_nothing_remains_with_workers_on_their_own_threads() {
    stress(2);
}

#[test]
fn nothing_remains_without_a_limit_with_workers_on_their_own_threads() {
    stress(0);
}

fn stress(concurrency: u32) {
    let limits = QueueLimits {
        depth: 16,
        release_window: NonZeroU32::new(2).unwrap(),
        release_batch: 4,
        ..QueueLimits::default()
    };
    let throttler = Throttler::new(limits, WORKERS);
    let spec = RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        ..RevisionSpec::default()
    };
    throttler.upsert(&id(), Arc::new(spec), Parking::Allowed);
    let counts = Counts::default();

    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|index| {
                let (throttler, counts) = (&throttler, &counts);
                scope.spawn(move || work(throttler, index, counts, concurrency))
            })
            .collect();
        let control = scope.spawn(|| move_endpoints(&throttler, &counts));
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        counts.done.store(true, Ordering::Relaxed);
        control.join().unwrap();
        assert!(ends.iter().all(Result::is_ok));
    });

    let all =
        counts.served.into_inner() + counts.hung_up.into_inner() + counts.refused.into_inner();
    assert_eq!(all, WORKERS as u64 * CLIENTS * REQUESTS);
    assert_eq!((throttler.parked(), throttler.parked_bytes()), (0, 0));
    let state = &throttler.state()[0];
    assert_eq!((state.parked, state.in_flight), (0, 0));
    let traffic = throttler.traffic();
    assert!(traffic.letters > 0 && traffic.wakes <= traffic.letters);
}

fn work(throttler: &Throttler, index: usize, counts: &Counts, concurrency: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let worker = Rc::new(throttler.worker(index));
    let tasks = LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        let pump = async { worker.run().await };
        let clients = (0..CLIENTS).map(|client| {
            let seed = index as u64 * CLIENTS + client + 1;
            call(Rc::clone(&worker), seed, counts, concurrency)
        });
        tokio::select! {
            () = pump => unreachable!("never ends"),
            ended = timeout(FOR_EVER, futures::future::join_all(clients)) => {
                ended.expect("every request ends");
            }
        }
    }));
}

async fn call(worker: Rc<Worker>, seed: u64, counts: &Counts, concurrency: u32) {
    let mut state = seed;
    for _ in 0..REQUESTS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let dice = state >> 33;
        let ask = Ask {
            bytes: 10,
            first_in_line: dice.is_multiple_of(11),
            ..Ask::default()
        };
        let is_newcomer = !ask.first_in_line;
        let warm = is_newcomer.then(|| worker.admit_warm(&id())).flatten();
        let admission = warm.map_or_else(|| worker.admit(&id(), ask), Admission::Granted);
        let permit = match admission {
            Admission::Granted(permit) => Some(permit),
            Admission::Parked(ticket) if dice.is_multiple_of(5) => {
                yield_now().await;
                drop(ticket);
                counts.hung_up.fetch_add(1, Ordering::Relaxed);
                None
            }
            Admission::Parked(ticket) => Some(ticket.await.unwrap()),
            Admission::Refused(refusal) => {
                assert!(matches!(refusal, Refusal::QueueFull { .. }), "{refusal}");
                counts.refused.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
                None
            }
        };
        if let Some(permit) = permit {
            serve(permit, dice, counts, concurrency).await;
        }
    }
}

async fn serve(permit: Permit, dice: u64, counts: &Counts, concurrency: u32) {
    let running = counts.at(&permit);
    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
    assert!(concurrency == 0 || now <= concurrency, "{now} at once");
    for _ in 0..dice % 4 {
        yield_now().await;
    }
    running.fetch_sub(1, Ordering::SeqCst);
    counts.served.fetch_add(1, Ordering::Relaxed);
    if dice.is_multiple_of(7) {
        std::thread::scope(|scope| scope.spawn(move || drop(permit)).join()).unwrap();
    }
}

/// Endpoints come, go and are suspected; every so often all are well, so that all requests end.
fn move_endpoints(throttler: &Throttler, counts: &Counts) {
    // Workers are woken for what was parked before there was an endpoint; later nobody may have to wait.
    while throttler.parked() < PARKED_FIRST && !counts.done.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let mut round = 0_u8;
    while !counts.done.load(Ordering::Relaxed) {
        round = round.wrapping_add(1);
        let chosen =
            (0..ENDPOINTS).filter(|index| round.is_multiple_of(4) || (round >> index) & 1 == 1);
        throttler.set_endpoints(&id(), chosen.map(endpoint).collect());
        let index = round % ENDPOINTS;
        throttler.suspect(&id(), endpoint(index));
        std::thread::yield_now();
        throttler.restore(&id(), endpoint(index));
        assert_eq!(throttler.state().len(), 1);
        std::thread::yield_now();
    }
}
