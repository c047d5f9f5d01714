//! What admission and accounting cost per request: `cargo bench -p parkway-activator`.
//!
//! Prints nanoseconds and asserts nothing. The last table runs the same warm Revision from one thread and from two: a
//! request of one worker must not write what another worker's request reads, so both should cost the same. Two threads
//! may share a core, so beside it stand two threads that share nothing at all; compare with these.
//!
//! Where time is too noisy, `tests/load/bench-instructions.sh` prints the instructions of each row: it runs this program
//! under callgrind with `--row NAME --times N` for two N, without a clock, and divides the difference. `--list` prints the
//! names of the rows that can be counted so.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::{black_box, spin_loop};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::queue::{Place, QueueBounds, RevisionQueue, Room};
use parkway_activator::revision::{ContainerConcurrency, RevisionId, RevisionSpec};
use parkway_activator::stats::Stats;
use parkway_activator::throttler::{
    Admission, Ask, Parking, QueueLimits, Throttler, Ticket, Worker,
};
use tokio::time::Instant;
use tokio_test::task::spawn;

/// Requests between two looks at the clock.
const REQUESTS: u32 = 2_000;
/// The best of so many rounds is printed: whatever else the machine does only adds.
const ROUNDS: usize = 750;
/// Parked requests of the large queue.
const CROWD: usize = 10_000;
const WORKERS: usize = 2;

/// What can be timed, and counted.
const ROWS: [(&str, Row); 9] = [
    ("queue: reserve + release, limit 100", reserve_and_release),
    ("queue: park + cancel, 100 parked", park_in_queue),
    ("queue: park + release to it", grant_in_queue),
    ("admit + drop, no limit", |pace| admit_and_drop(pace, 0)),
    ("admit + drop, limit 100", |pace| admit_and_drop(pace, 100)),
    ("park + cancel", park_and_cancel),
    ("park + grant + drop", park_and_grant),
    ("set_endpoints, nothing changes, 10,000 parked", churn),
    ("stats enter + drop", enter_and_drop),
];

type Row = fn(Pace) -> f64;

/// How often something is done.
#[derive(Clone, Copy)]
enum Pace {
    /// Often, with a look at the clock: the result is nanoseconds.
    Timed,
    /// So many times, for somebody who counts instructions.
    Counted(usize),
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--list", ..] => ROWS.iter().for_each(|(name, _)| println!("{name}")),
        ["--row", wanted, "--times", times, ..] => {
            let times = times.parse().expect("--times takes a number");
            let row = ROWS.iter().find(|(name, _)| *name == wanted);
            let (_, run) = row.expect("--row takes a name from --list");
            run(Pace::Counted(times));
        }
        _ => time_all(),
    }
}

fn time_all() {
    println!("{:<52} {:>9}", "", "ns each");
    for (name, run) in ROWS {
        row(name, run(Pace::Timed));
    }
    row("set_endpoints, 10,000 go: each of them", release_crowd());
    println!();
    println!(
        "{:<38} {:>6} {:>6} {:>6} {:>14} {:>6}",
        "same warm Revision, from threads", "1", "2", "ratio", "2, all apart", "ratio"
    );
    scaling("admit + drop", Work::Admit);
    scaling("stats enter + drop", Work::Enter);
    scaling("both", Work::Both);
}

fn row(name: &str, nanoseconds: f64) {
    println!("{name:<52} {nanoseconds:>9.1}");
}

fn id() -> RevisionId {
    RevisionId::new("bench", "shop-00001")
}

fn endpoints(count: u8) -> Vec<Endpoint> {
    let address = |last| SocketAddr::from(([10, 0, 0, last], 8012));
    (1..=count).map(|last| address(last).into()).collect()
}

fn throttler(concurrency: u32) -> Throttler {
    let throttler = Throttler::new(QueueLimits::default(), WORKERS);
    let spec = RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        ..RevisionSpec::default()
    };
    throttler.upsert(&id(), Arc::new(spec), Parking::Allowed);
    throttler
}

/// As the front end takes a request in.
fn newcomer(worker: &Worker, id: &RevisionId) -> Admission {
    match worker.admit_warm(id) {
        Some(permit) => Admission::Granted(permit),
        None => worker.admit(id, Ask::default()),
    }
}

fn parked(worker: &Worker, id: &RevisionId) -> Ticket {
    match worker.admit(id, Ask::default()) {
        Admission::Parked(ticket) => ticket,
        other => unreachable!("there is no room: {other:?}"),
    }
}

/// Nanoseconds for each of `count`, the best of several rounds.
fn best(count: usize, mut round: impl FnMut() -> Duration) -> f64 {
    let rounds = (0..ROUNDS).map(|_| round());
    per_request(rounds.min().unwrap_or_default(), count)
}

fn per_request(elapsed: Duration, count: usize) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    elapsed.as_secs_f64() * 1e9 / f64::from(count)
}

/// Times `REQUESTS` calls, several times; or calls as often as it is told.
fn each(pace: Pace, request: impl FnMut()) -> f64 {
    each_of(pace, REQUESTS, request)
}

fn each_of(pace: Pace, calls: u32, mut request: impl FnMut()) -> f64 {
    match pace {
        Pace::Timed => best(calls as usize, || timed(calls, &mut request)),
        Pace::Counted(times) => {
            (0..times).for_each(|_| request());
            f64::NAN
        }
    }
}

fn timed(calls: u32, request: &mut impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..calls {
        request();
    }
    started.elapsed()
}

/// A bare queue with a limit: no lock, no shell.
fn queue(concurrency: u32) -> RevisionQueue<usize> {
    let limits = QueueLimits::default();
    let bounds = QueueBounds {
        depth: limits.depth,
        bytes: limits.bytes,
        client_share: limits.client_share,
        release_window: limits.release_window,
        widest_window: limits.widest_window,
    };
    let mut queue = RevisionQueue::new(bounds, ContainerConcurrency::from(concurrency));
    queue.set_endpoints(endpoints(4));
    queue
}

fn reserve_and_release(pace: Pace) -> f64 {
    let mut queue = queue(100);
    each(pace, || {
        if let Room::Slot(endpoint) = queue.reserve(None) {
            black_box(queue.release(endpoint));
        }
    })
}

/// A queue all of whose slots are taken; at the first endpoint, one of them.
fn full_queue() -> (RevisionQueue<usize>, Endpoint) {
    let mut queue = queue(1);
    let mut taken = None;
    while let Room::Slot(endpoint) = queue.reserve(None) {
        taken = Some(endpoint);
    }
    (queue, taken.expect("it has four slots"))
}

fn park_in_queue(pace: Pace) -> f64 {
    let (mut queue, _) = full_queue();
    for waiter in 0..100 {
        queue.park(Place::default(), waiter).expect("there is room");
    }
    each(pace, || {
        let ticket = queue.park(Place::default(), 0).expect("there is room");
        black_box(queue.cancel(ticket));
    })
}

fn grant_in_queue(pace: Pace) -> f64 {
    let (mut queue, mut taken) = full_queue();
    each(pace, || {
        queue.park(Place::default(), 0).expect("there is room");
        let granted = queue.release(taken);
        taken = granted.first().expect("one was parked").endpoint;
    })
}

fn admit_and_drop(pace: Pace, concurrency: u32) -> f64 {
    let throttler = throttler(concurrency);
    let worker = throttler.worker(0);
    throttler.set_endpoints(&id(), endpoints(4));
    let id = id();
    each(pace, || drop(black_box(newcomer(&worker, &id))))
}

fn park_and_cancel(pace: Pace) -> f64 {
    let throttler = throttler(1);
    let worker = throttler.worker(0);
    let id = id();
    let _crowd: Vec<_> = (0..100).map(|_| parked(&worker, &id)).collect();
    each(pace, || drop(black_box(parked(&worker, &id))))
}

/// A slot that goes from one request to the next parked, through the mailbox.
fn park_and_grant(pace: Pace) -> f64 {
    let throttler = throttler(1);
    let worker = throttler.worker(0);
    throttler.set_endpoints(&id(), endpoints(1));
    let id = id();
    let mut pump = spawn(worker.run());
    let Admission::Granted(first) = worker.admit(&id, Ask::default()) else {
        unreachable!("there is room")
    };
    let mut permit = Some(first);
    each(pace, || {
        let mut ticket = spawn(parked(&worker, &id));
        drop(permit.take());
        assert!(pump.poll().is_pending(), "it never ends");
        permit = match ticket.poll() {
            std::task::Poll::Ready(Ok(permit)) => Some(permit),
            other => unreachable!("it has been granted: {other:?}"),
        };
    })
}

fn churn(pace: Pace) -> f64 {
    let throttler = throttler(1);
    let worker = throttler.worker(0);
    let id = id();
    throttler.set_endpoints(&id, endpoints(4));
    let _running: Vec<_> = (0..4).map(|_| worker.admit(&id, Ask::default())).collect();
    let _crowd: Vec<_> = (4..CROWD).map(|_| parked(&worker, &id)).collect();
    each_of(pace, 100, || throttler.set_endpoints(&id, endpoints(4)))
}

fn release_crowd() -> f64 {
    let slots = u32::try_from(CROWD).unwrap_or(u32::MAX);
    let rounds = (0..10).map(|_| {
        let throttler = throttler(slots);
        let worker = throttler.worker(0);
        let id = id();
        let crowd: Vec<_> = (0..CROWD).map(|_| parked(&worker, &id)).collect();
        let started = Instant::now();
        throttler.set_endpoints(&id, endpoints(4));
        let elapsed = started.elapsed();
        drop(crowd);
        elapsed
    });
    per_request(rounds.min().unwrap_or_default(), CROWD)
}

fn enter_and_drop(pace: Pace) -> f64 {
    let stats = Stats::new(WORKERS).revision(&id());
    let _awake = stats.enter(0, Instant::now());
    each(pace, || drop(black_box(stats.enter(0, Instant::now()))))
}

/// What the threads do at the same time.
#[derive(Clone, Copy)]
enum Work {
    Admit,
    Enter,
    Both,
}

fn scaling(name: &str, work: Work) {
    let [one, two, three, four] = [(); 4].map(|()| warm());
    let alone = threads(&[(0, &one)], work);
    let together = threads(&[(0, &two), (1, &two)], work);
    let apart = threads(&[(0, &three), (1, &four)], work);
    println!(
        "{name:<38} {alone:>6.1} {together:>6.1} {:>6.2} {apart:>14.1} {:>6.2}",
        together / alone,
        apart / alone
    );
}

/// A warm Revision without a limit.
struct Warm {
    throttler: Throttler,
    stats: Stats,
}

fn warm() -> Warm {
    let throttler = throttler(0);
    throttler.set_endpoints(&id(), endpoints(4));
    let stats = Stats::new(WORKERS);
    Warm { throttler, stats }
}

/// Nanoseconds per request and thread, in the best round.
///
/// A round lasts from the first thread's start to the last one's end, so threads that did not run at the same time
/// cannot look as if they had.
fn threads(seats: &[(usize, &Warm)], work: Work) -> f64 {
    let line = StartingLine::default();
    let times: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = seats
            .iter()
            .map(|(index, warm)| {
                let line = &line;
                scope.spawn(move || rounds(warm, *index, work, line, seats.len()))
            })
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join());
        ends.map(|end| end.unwrap_or_default()).collect()
    });
    let elapsed = |round: usize| {
        let times = || times.iter().filter_map(|times| times.get(round));
        let started = times().map(|(started, _)| *started).min()?;
        let ended = times().map(|(_, ended)| *ended).max()?;
        Some(ended.duration_since(started))
    };
    let best = (0..ROUNDS).filter_map(elapsed).min();
    per_request(best.unwrap_or_default(), REQUESTS as usize)
}

/// One worker's thread: when each round began and ended.
fn rounds(
    warm: &Warm,
    index: usize,
    work: Work,
    line: &StartingLine,
    threads: usize,
) -> Vec<(Instant, Instant)> {
    let worker = warm.throttler.worker(index);
    let id = id();
    let account = warm.stats.revision(&id);
    let _awake = account.enter(index, Instant::now());
    let mut request = || match work {
        Work::Admit => drop(black_box(newcomer(&worker, &id))),
        Work::Enter => drop(black_box(account.enter(index, Instant::now()))),
        Work::Both => {
            let in_flight = account.enter(index, Instant::now());
            drop(black_box(newcomer(&worker, &id)));
            drop(black_box(in_flight));
        }
    };
    let round = |number| {
        line.wait(threads * (number + 1));
        let started = Instant::now();
        timed(REQUESTS, &mut request);
        (started, Instant::now())
    };
    (0..ROUNDS).map(round).collect()
}

/// Where threads wait for each other without sleeping: waking one would take longer than a round.
#[derive(Default)]
struct StartingLine(AtomicUsize);

impl StartingLine {
    fn wait(&self, until: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) < until {
            spin_loop();
        }
    }
}
