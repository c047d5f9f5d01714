//! What a start's record says of it.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A start, and the moment it began.
fn start() -> (Arc<ColdStart>, Instant) {
    let began = Instant::now();
    let start = ColdStarts::default().begin(RevisionId::new("default", "shop-00001"), began);
    (start, began)
}

fn tell(start: &ColdStart, began: Instant, seen: impl IntoIterator<Item = (Milestone, u32)>) {
    for (milestone, ms) in seen {
        start.saw(Seen::new(milestone, began + MILLISECOND * ms));
    }
}

/// Phases as words and lengths in milliseconds.
fn phases(state: &ColdStartState) -> Vec<(&'static str, u128)> {
    let phases = state.phases.iter();
    phases
        .map(|phase| (phase.name.as_str(), phase.duration().as_millis()))
        .collect()
}

/// One follows the other from the arrival on, and together they are the whole.
#[track_caller]
fn assert_add_up(state: &ColdStartState) {
    let mut at = state.arrived;
    for phase in &state.phases {
        assert_eq!(phase.from, at, "{state:?}");
        at = phase.to;
    }
    let sum: Duration = state.phases.iter().map(Phase::duration).sum();
    assert_eq!(sum, state.total);
}

#[test]
fn phases_of_a_local_process_add_up_to_the_whole() {
    let (start, began) = start();
    let seen = [
        (Milestone::Parked, 1),
        (Milestone::Signalled, 2),
        (Milestone::Scaled, 4),
        (Milestone::Spawned, 7),
        (Milestone::Probed, 8),
        (Milestone::Released, 41),
        (Milestone::Connected, 43),
        (Milestone::FirstByte, 53),
        (Milestone::Finished, 63),
    ];
    tell(&start, began, seen);
    start.is_ready(began + 40 * MILLISECOND);

    let state = start.state(began + 9_000 * MILLISECOND);

    let expected = [
        ("parking", 1),
        ("signal", 1),
        ("decision", 2),
        ("spawn", 3),
        ("first-probe", 1),
        ("readiness", 32),
        ("release", 1),
        ("connect", 2),
        ("first-byte", 10),
        ("response", 10),
    ];
    assert_eq!(phases(&state), expected);
    assert_eq!(state.total, 63 * MILLISECOND);
    assert_add_up(&state);
}

#[test]
fn phases_of_a_pod_add_up_to_the_whole_in_whatever_order_its_news_came() {
    let (start, began) = start();
    let seen = [
        (Milestone::Addressed, 300),
        (Milestone::Started, 900),
        (Milestone::Parked, 1),
        (Milestone::Scheduled, 120),
        (Milestone::Created, 100),
        (Milestone::Signalled, 2),
        (Milestone::Pulled, 700),
        (Milestone::Probed, 910),
    ];
    tell(&start, began, seen);
    start.is_ready(began + 1_000 * MILLISECOND);

    let state = start.state(began + 1_000 * MILLISECOND);

    let expected = [
        ("parking", 1),
        ("signal", 1),
        ("pod-creation", 98),
        ("scheduling", 20),
        ("sandbox", 180),
        ("image-pull", 400),
        ("container-start", 200),
        ("first-probe", 10),
        ("readiness", 90),
    ];
    assert_eq!(phases(&state), expected);
    assert_add_up(&state);
}

#[test]
fn time_that_nobody_saw_is_a_gap() {
    let (start, began) = start();
    let seen = [(Milestone::Parked, 1), (Milestone::Signalled, 2)];
    tell(&start, began, seen);
    start.is_ready(began + 2_000 * MILLISECOND);

    let state = start.state(began);

    let expected = [("parking", 1), ("signal", 1), ("gap", 1_998)];
    assert_eq!(phases(&state), expected);
    let gap = state.phases[2];
    assert_eq!(
        (gap.after, gap.until),
        (Milestone::Signalled, Some(Milestone::Ready))
    );
    assert_add_up(&state);
}

#[test]
fn what_was_seen_before_the_arrival_explains_what_follows_and_takes_no_time() {
    let began = Instant::now() + 500 * MILLISECOND;
    let start = ColdStarts::default().begin(RevisionId::new("default", "shop"), began);
    start.saw(Seen::new(Milestone::Spawned, began - 300 * MILLISECOND));
    start.saw(Seen::new(Milestone::Probed, began - 299 * MILLISECOND));
    tell(&start, began, [(Milestone::Parked, 1)]);
    start.is_ready(began + 50 * MILLISECOND);

    let state = start.state(began);

    assert_eq!(phases(&state), [("parking", 1), ("readiness", 49)]);
    assert_eq!(state.seen[0].milestone, Milestone::Spawned);
    assert_add_up(&state);
}

#[test]
fn news_that_come_after_the_replica_was_ready_are_kept_and_end_no_phase() {
    let (start, began) = start();
    let seen = [
        (Milestone::Parked, 0),
        (Milestone::Probed, 5),
        (Milestone::Scheduled, 1),
        (Milestone::Released, 10),
    ];
    tell(&start, began, seen);
    start.is_ready(began + 10 * MILLISECOND);
    tell(
        &start,
        began,
        [(Milestone::Started, 30), (Milestone::Connected, 40)],
    );

    let state = start.state(began);

    let words: Vec<_> = phases(&state).into_iter().map(|(word, _)| word).collect();
    assert!(!words.contains(&"container-start"), "{words:?}");
    assert_eq!(words.last(), Some(&"connect"));
    assert!(
        state
            .seen
            .iter()
            .any(|seen| seen.milestone == Milestone::Started)
    );
    assert_eq!(state.total, 40 * MILLISECOND);
    assert_add_up(&state);
}

#[test]
fn a_start_under_way_lasts_until_now_and_a_failed_one_until_it_failed() {
    let (start, began) = start();
    tell(&start, began, [(Milestone::Parked, 1)]);

    let state = start.state(began + 20 * MILLISECOND);
    assert_eq!(phases(&state), [("parking", 1), ("waiting", 19)]);
    assert_eq!(state.outcome, Outcome::Starting);

    start.fails(
        Outcome::Failed("no such program".into()),
        began + 30 * MILLISECOND,
    );
    let state = start.state(began + 900 * MILLISECOND);
    assert_eq!(phases(&state), [("parking", 1), ("waiting", 29)]);
    assert_eq!(state.outcome.failure(), Some("no such program"));
    assert_add_up(&state);
}

#[test]
fn only_the_first_time_counts() {
    let (start, began) = start();
    tell(
        &start,
        began,
        [(Milestone::FirstByte, 5), (Milestone::FirstByte, 3)],
    );

    let state = start.state(began);

    let first_byte = &state.seen[1];
    assert_eq!(first_byte.at, began + 5 * MILLISECOND);
    assert_eq!(state.seen.len(), 2);
}

#[test]
fn the_oldest_starts_are_forgotten_and_those_under_way_are_counted() {
    let log = ColdStarts::default();
    let kept = log.begin(RevisionId::new("default", "first"), Instant::now());
    for _ in 0..REMEMBERED {
        let start = log.begin(RevisionId::new("default", "rev"), Instant::now());
        start.is_ready(Instant::now());
    }

    let recent = log.recent();

    let numbers: Vec<_> = recent.iter().map(|start| start.number()).collect();
    let expected: Vec<_> = (2..=257).rev().collect();
    assert_eq!(numbers, expected, "the latest first");
    assert_eq!(log.under_way(), 1, "forgotten, but not ended");
    drop(kept);
    assert_eq!(log.under_way(), 0);
}

#[tokio::test]
async fn who_follows_hears_of_each_start_once() {
    let log = ColdStarts::default();
    let mut following = tokio_test::task::spawn(log.begun(0));
    tokio_test::assert_pending!(following.poll());

    log.begin(RevisionId::new("default", "one"), Instant::now());
    log.begin(RevisionId::new("default", "two"), Instant::now());
    log.announce();

    assert!(following.is_woken());
    let begun = tokio_test::assert_ready!(following.poll());
    let numbers: Vec<_> = begun.iter().map(|start| start.number()).collect();
    assert_eq!(numbers, [1, 2]);
    tokio_test::assert_pending!(tokio_test::task::spawn(log.begun(2)).poll());
}

#[test]
fn text_of_others_is_cut() {
    let seen = Seen::new(Milestone::Created, Instant::now()).with_detail(&"ä".repeat(5_000));
    assert_eq!(
        seen.detail.map(|detail| detail.chars().count()),
        Some(TEXT_MAX)
    );
}
