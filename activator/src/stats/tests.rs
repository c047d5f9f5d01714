use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, assert_ready, task};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn shop() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn report_of(id: RevisionId, concurrency: f64, requests: f64) -> Report {
    Report {
        revision: id,
        concurrency,
        requests,
    }
}

/// The only report of this moment.
fn single(stats: &Stats) -> Report {
    let mut reports = stats.report(Instant::now());
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports.remove(0)
}

/// A Revision whose first request is over and reported, on two workers.
async fn warm() -> (Stats, Arc<RevisionStats>) {
    let stats = Stats::new(2);
    let revision = stats.revision(&shop());
    let first = revision.enter(0, Instant::now());
    assert_eq!(stats.poked().await, [shop()]);
    advance(SECOND).await;
    stats.report(Instant::now());
    drop(first);
    (stats, revision)
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_the_time_weighted_mean_over_all_workers() {
    let (stats, revision) = warm().await;

    // 2 requests for 250 ms, then 1 for 500 ms, then none: (2·0.25 + 1·0.5) / 1 = 1.
    let one = revision.enter(0, Instant::now());
    let other = revision.enter(1, Instant::now());
    advance(Duration::from_millis(250)).await;
    drop(one);
    advance(Duration::from_millis(500)).await;
    drop(other);
    advance(Duration::from_millis(250)).await;

    assert_eq!(single(&stats), report_of(shop(), 1.0, 2.0));
}

#[tokio::test(start_paused = true)]
async fn requests_inside_are_kept_from_one_period_to_the_next() {
    let (stats, revision) = warm().await;
    let held = revision.enter(1, Instant::now());
    advance(SECOND).await;
    assert_eq!(single(&stats), report_of(shop(), 1.0, 1.0));

    advance(SECOND).await;
    assert_eq!(single(&stats), report_of(shop(), 1.0, 0.0));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn the_request_that_was_announced_is_left_out_of_the_first_report() {
    let stats = Stats::new(1);
    let revision = stats.revision(&shop());
    let first = revision.enter(0, Instant::now());
    let second = revision.enter(0, Instant::now());
    let third = revision.enter(0, Instant::now());
    assert_eq!(stats.poked().await, [shop()]);
    advance(SECOND).await;

    assert_eq!(single(&stats), report_of(shop(), 2.0, 2.0));
    advance(SECOND).await;
    assert_eq!(single(&stats), report_of(shop(), 3.0, 0.0));
    drop((first, second, third));
}

#[tokio::test(start_paused = true)]
async fn the_first_report_is_never_negative() {
    let stats = Stats::new(1);
    let request = stats.revision(&shop()).enter(0, Instant::now());
    assert_eq!(stats.poked().await, [shop()]);
    advance(Duration::from_millis(100)).await;
    drop(request);
    advance(Duration::from_millis(900)).await;

    assert_eq!(single(&stats), report_of(shop(), 0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_revision_reports_zeros_once_and_then_nothing() {
    let (stats, _revision) = warm().await;
    advance(SECOND).await;
    assert_eq!(single(&stats), report_of(shop(), 0.0, 0.0));

    advance(SECOND).await;
    assert_eq!(stats.report(Instant::now()), []);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_after_idleness_pokes_again_and_its_period_starts_with_it() {
    let (stats, revision) = warm().await;
    advance(SECOND).await;
    stats.report(Instant::now());
    advance(10 * SECOND).await;

    let first = revision.enter(1, Instant::now());
    let second = revision.enter(0, Instant::now());
    assert_eq!(stats.poked().await, [shop()]);
    advance(SECOND / 2).await;

    // Two inside for the half second since the first came is a mean of 2, not of 2 · 0.5 / 10.5.
    assert_eq!(single(&stats), report_of(shop(), 1.0, 1.0));
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn only_the_first_request_after_idleness_pokes() {
    let (stats, revision) = warm().await;

    drop(revision.enter(1, Instant::now()));

    assert_pending!(task::spawn(stats.poked()).poll());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_duration_is_reported_and_leaves_the_revision_idle() {
    let (stats, revision) = warm().await;
    advance(SECOND).await;
    drop(revision.enter(0, Instant::now()));

    assert_eq!(single(&stats), report_of(shop(), 0.0, 1.0));
    advance(SECOND).await;
    assert_eq!(stats.report(Instant::now()), []);
}

#[tokio::test(start_paused = true)]
async fn a_revision_with_a_request_inside_does_not_go_idle_in_a_period_without_length() {
    let (stats, revision) = warm().await;
    let held = revision.enter(0, Instant::now());

    assert_eq!(single(&stats), report_of(shop(), 0.0, 1.0));
    advance(SECOND).await;
    assert_eq!(single(&stats), report_of(shop(), 1.0, 0.0));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_between_the_report_and_going_idle_keeps_the_revision_active() {
    let (stats, revision) = warm().await;
    // What `report` does with a quiet period, and a request on the other worker in between.
    for shard in &revision.shards {
        assert!(shard.0.lock().take(Instant::now()).integral == 0);
    }
    let held = revision.enter(1, Instant::now());
    revision.go_idle();
    advance(SECOND).await;

    assert_eq!(single(&stats), report_of(shop(), 1.0, 1.0));
    assert_pending!(task::spawn(stats.poked()).poll());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_that_left_before_going_idle_is_reported_too() {
    let (stats, revision) = warm().await;
    for shard in &revision.shards {
        assert!(shard.0.lock().take(Instant::now()).integral == 0);
    }
    drop(revision.enter(1, Instant::now()));
    revision.go_idle();

    assert_eq!(single(&stats), report_of(shop(), 0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn revisions_without_requests_are_silent() {
    let stats = Stats::new(2);
    stats.revision(&shop());
    advance(SECOND).await;

    assert_eq!(stats.report(Instant::now()), []);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reporter_is_woken_by_a_poke() {
    let stats = Stats::new(1);
    let mut poked = task::spawn(stats.poked());
    assert_pending!(poked.poll());

    let held = stats.revision(&shop()).enter(0, Instant::now());

    assert!(poked.is_woken());
    assert_eq!(assert_ready!(poked.poll()), [shop()]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_poke_survives_a_dropped_wait() {
    let stats = Stats::new(1);
    let mut poked = task::spawn(stats.poked());
    assert_pending!(poked.poll());
    let held = stats.revision(&shop()).enter(0, Instant::now());
    drop(poked);

    assert_eq!(timeout(SECOND, stats.poked()).await, Ok(vec![shop()]));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_the_request_whose_poke_nobody_fetched() {
    let stats = Stats::new(1);
    let held = stats.revision(&shop()).enter(0, Instant::now());
    advance(SECOND).await;

    assert_eq!(single(&stats), report_of(shop(), 1.0, 1.0));
    assert_pending!(task::spawn(stats.poked()).poll());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_removed_revision_is_silent_although_requests_are_inside() {
    let (stats, revision) = warm().await;
    let held = revision.enter(0, Instant::now());
    stats.remove(&shop());
    advance(SECOND).await;

    assert_eq!(stats.report(Instant::now()), []);
    assert!(revision.is_removed());
    drop(held);
    assert_eq!(stats.gauges(), []);
}

#[tokio::test(start_paused = true)]
async fn a_cached_account_of_a_removed_revision_does_not_poke() {
    let stats = Stats::new(1);
    let cached = stats.revision(&shop());
    stats.remove(&shop());

    drop(cached.enter(0, Instant::now()));

    assert_pending!(task::spawn(stats.poked()).poll());
}

#[tokio::test(start_paused = true)]
async fn a_poke_of_a_removed_revision_is_withdrawn() {
    let stats = Stats::new(1);
    let held = stats.revision(&shop()).enter(0, Instant::now());
    stats.remove(&shop());

    assert_pending!(task::spawn(stats.poked()).poll());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_removed_account_is_freed_with_its_last_holder() {
    let stats = Stats::new(1);
    let cached = stats.revision(&shop());
    let held = cached.enter(0, Instant::now());
    stats.remove(&shop());
    let weak = Arc::downgrade(&cached);
    let shard = Arc::downgrade(&held.shard);

    drop(cached);
    assert!(weak.upgrade().is_none());
    drop(held);
    assert!(shard.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_same_name_after_removal_is_a_new_account() {
    let (stats, old) = warm().await;
    let held = old.enter(0, Instant::now());
    stats.remove(&shop());
    let new = stats.revision(&shop());

    assert!(!new.is_removed());
    assert_eq!(stats.gauges(), [(shop(), 0, 0.0)]);
    drop(held);
    assert_eq!(stats.gauges(), [(shop(), 0, 0.0)]);
}

#[tokio::test(start_paused = true)]
async fn gauges_show_who_is_inside_and_what_was_reported() {
    let (stats, revision) = warm().await;
    let held = [
        revision.enter(0, Instant::now()),
        revision.enter(1, Instant::now()),
    ];
    advance(SECOND).await;
    stats.report(Instant::now());
    let late = revision.enter(1, Instant::now());

    assert_eq!(stats.gauges(), [(shop(), 3, 2.0)]);
    drop((held, late));
    assert_eq!(stats.gauges(), [(shop(), 0, 2.0)]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_number_beyond_those_announced_is_counted_too() {
    let (stats, revision) = warm().await;
    let held = revision.enter(1_000_001, Instant::now());

    assert_eq!(stats.gauges(), [(shop(), 1, 0.0)]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_clock_read_before_the_report_adds_nothing_twice() {
    let (stats, revision) = warm().await;
    let held = revision.enter(0, Instant::now());
    let early = Instant::now();
    advance(SECOND).await;
    stats.report(Instant::now());

    let late = revision.enter(0, early);
    advance(SECOND).await;

    assert_eq!(single(&stats), report_of(shop(), 2.0, 1.0));
    drop((held, late));
}

#[test]
fn shards_of_two_workers_share_no_cache_line() {
    assert_eq!(
        (size_of::<Shard>(), align_of::<Shard>()),
        (64, 64),
        "and one line before it for the counts"
    );
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Enter { worker: usize },
    Leave { which: usize },
    Wait { ms: u64 },
    Report,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_usize..4).prop_map(|worker| Step::Enter { worker }),
        (0_usize..8).prop_map(|which| Step::Leave { which }),
        (0_u64..1_500).prop_map(|ms| Step::Wait { ms }),
        Just(Step::Report),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Reports and pokes together say exactly how many requests came and how long they were inside, except for the
    /// part of a second that a poke claims too much for a request shorter than its period.
    #[test]
    fn every_request_is_told_exactly_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let stats = Stats::new(4);
            let revision = stats.revision(&shop());
            let mut inside = Vec::new();
            let (mut arrivals, mut told) = (0_u32, 0.0);
            for step in steps {
                match step {
                    Step::Enter { worker } => {
                        inside.push(revision.enter(worker, Instant::now()));
                        arrivals += 1;
                    }
                    Step::Leave { which } if which < inside.len() => drop(inside.swap_remove(which)),
                    Step::Leave { .. } => {}
                    Step::Wait { ms } => advance(Duration::from_millis(ms)).await,
                    Step::Report => told += tell(&stats).await,
                }
                assert_eq!(stats.gauges(), [(shop(), inside.len() as u64, stats.gauges()[0].2)]);
            }
            drop(inside);
            for _ in 0..3 {
                told += tell(&stats).await;
                advance(SECOND).await;
            }
            assert_eq!(told, f64::from(arrivals));
            assert_eq!(stats.report(Instant::now()), []);
        });
    }
}

/// Requests told by the pokes that wait and by one report.
async fn tell(stats: &Stats) -> f64 {
    let poked = timeout(Duration::ZERO, stats.poked())
        .await
        .map_or(0, |ids| ids.len());
    let reported: f64 = stats
        .report(Instant::now())
        .iter()
        .map(|report| report.requests)
        .sum();
    as_float(poked as u128) + reported
}

/// Real threads enter and leave while a reporter ends periods as fast as it can, so that the Revision goes idle and
/// wakes all the time. No arrival may fall between the two, and no time inside may be lost.
#[test]
fn no_arrival_and_no_time_is_lost_between_threads() {
    const WORKERS: usize = 4;
    const REQUESTS: u64 = 20_000;
    let stats = Stats::new(WORKERS);
    let revision = stats.revision(&shop());
    let inside_ns = AtomicU64::new(0);
    let (mut told, mut idle_periods) = (0.0, 0_u32);

    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (revision, inside_ns) = (&revision, &inside_ns);
                scope.spawn(move || {
                    for n in 0..REQUESTS {
                        let entered = Instant::now();
                        let request = revision.enter(worker, entered);
                        for _ in 0..(n % 64) {
                            std::hint::spin_loop();
                        }
                        let leaving = Instant::now();
                        drop(request);
                        let ns = u64::try_from((leaving - entered).as_nanos()).unwrap();
                        inside_ns.fetch_add(ns, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let mut finished = false;
        loop {
            let now = Instant::now();
            let pokes = mem::take(&mut *stats.shared.pokes.waiting.lock()).len();
            let reports = stats.report(now);
            idle_periods += u32::from(reports.is_empty());
            told +=
                as_float(pokes as u128) + reports.iter().map(|report| report.requests).sum::<f64>();
            if finished && reports.is_empty() {
                break;
            }
            finished = workers
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished);
        }
    });

    assert_eq!(stats.gauges(), [(shop(), 0, 0.0)]);
    let arrivals = as_float(u128::from(REQUESTS) * WORKERS as u128);
    assert_eq!(told, arrivals);
    assert!(inside_ns.into_inner() > 0 && idle_periods > 0);
}

/// The integral of concurrency over time, summed over all periods, is the time all requests spent inside.
#[test]
fn the_integral_over_all_periods_is_the_time_spent_inside() {
    const WORKERS: usize = 4;
    let stats = Stats::new(WORKERS);
    let revision = stats.revision(&shop());
    let (mut integral, mut inside_least, mut inside_most) = (0_u128, 0_u128, 0_u128);

    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let revision = &revision;
                scope.spawn(move || {
                    let (mut least, mut most) = (0, 0);
                    for n in 0..5_000_u64 {
                        let before = Instant::now();
                        let request = revision.enter(worker, Instant::now());
                        let entered = Instant::now();
                        for _ in 0..(n % 512) {
                            std::hint::spin_loop();
                        }
                        let leaving = Instant::now();
                        drop(request);
                        least += leaving.saturating_duration_since(entered).as_nanos();
                        most += before.elapsed().as_nanos();
                    }
                    (least, most)
                })
            })
            .collect();
        while !workers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            integral += taken(&revision);
        }
        for worker in workers {
            let (least, most) = worker.join().unwrap();
            inside_least += least;
            inside_most += most;
        }
    });
    integral += taken(&revision);

    assert!(
        inside_least <= integral,
        "{inside_least} ≤ {integral} ≤ {inside_most}"
    );
    assert!(
        integral <= inside_most,
        "{inside_least} ≤ {integral} ≤ {inside_most}"
    );
}

fn taken(revision: &RevisionStats) -> u128 {
    let shards = revision.shards.iter();
    shards
        .map(|shard| shard.0.lock().take(Instant::now()).integral)
        .sum()
}
