//! What is recorded of starts.

use tokio::time::{Instant, advance};
use tokio_test::assert_ready;

use super::*;
use crate::cold_start::{ColdStartState, Milestone, Outcome, Seen};

impl Stage {
    /// What is recorded, the latest first.
    fn starts(&self) -> Vec<ColdStartState> {
        let recent = self.throttler.cold_starts().recent();
        recent
            .iter()
            .map(|start| start.state(Instant::now()))
            .collect()
    }

    fn saw(&self, milestone: Milestone) {
        self.throttler
            .saw(&id(), Seen::new(milestone, Instant::now()));
    }
}

fn at(state: &ColdStartState, milestone: Milestone) -> Option<Instant> {
    let seen = state.seen.iter().find(|seen| seen.milestone == milestone);
    seen.map(|seen| seen.at)
}

#[tokio::test(start_paused = true)]
async fn a_start_for_which_a_thousand_wait_is_recorded_once() {
    let mut stage = stage(0);
    let arrived = Instant::now();
    advance(SECOND).await;
    let first = stage.parked_with(Ask {
        arrived: Some(arrived),
        ..Ask::default()
    });
    advance(SECOND).await;
    stage.saw(Milestone::Signalled);
    let mut others: Vec<_> = (1..1_000).map(|_| stage.parked()).collect();
    advance(SECOND).await;
    stage.endpoints([1]);
    stage.pump();

    let starts = stage.starts();
    let [start] = starts.as_slice() else {
        panic!("{starts:?}");
    };
    assert_eq!((start.waited, start.most_parked), (1_000, 1_000));
    assert_eq!(start.outcome, Outcome::Ready);
    assert_eq!(at(start, Milestone::Arrived), Some(arrived));
    assert_eq!(at(start, Milestone::Parked), Some(arrived + SECOND));
    assert_eq!(at(start, Milestone::Signalled), Some(arrived + 2 * SECOND));
    assert_eq!(at(start, Milestone::Ready), Some(arrived + 3 * SECOND));
    assert_eq!(at(start, Milestone::Released), Some(arrived + 3 * SECOND));
    assert_eq!(start.released, 64, "the release window");
    let place = others[10].enter(|_, ticket| ticket.place());
    assert_eq!((place.position, place.depth), (12, 12));
    let waited_for = others[998].enter(|_, ticket| ticket.start().map(|start| start.number()));
    assert_eq!(waited_for, Some(start.number));

    let permits: Vec<_> = others
        .iter_mut()
        .map_while(|other| match other.poll() {
            std::task::Poll::Ready(permit) => Some(permit.unwrap()),
            std::task::Poll::Pending => None,
        })
        .collect();
    advance(SECOND).await;
    drop((first, permits));
    let start = stage.starts().remove(0);
    assert!(start.released > 64, "{start:?}");
    assert_eq!(start.last_released, Some(arrived + 4 * SECOND));
    assert_eq!(stage.throttler.cold_starts().under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn those_who_park_at_a_ready_endpoint_wait_for_no_start() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let holder = stage.granted();
    let mut parked = stage.parked();
    assert!(parked.enter(|_, ticket| ticket.start().is_none()));
    drop(holder);
    stage.pump();

    drop(assert_ready!(parked.poll()));
    assert_eq!(stage.starts().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_says_why_and_the_next_is_another() {
    let stage = stage(0);
    let parked = stage.parked();
    advance(SECOND).await;
    stage
        .throttler
        .start_failed(&id(), "exit status 1".into(), SECOND);
    advance(2 * SECOND).await;
    let again = stage.parked();

    let starts = stage.starts();
    assert_eq!(starts[1].outcome, Outcome::Failed("exit status 1".into()));
    assert_eq!(starts[1].total, SECOND);
    assert_eq!(starts[0].outcome, Outcome::Starting);
    assert_eq!(stage.throttler.cold_starts().under_way(), 1);
    stage.throttler.remove(&id());
    assert_eq!(stage.starts()[0].outcome, Outcome::Abandoned);
    drop((parked, again));
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_did_before_anybody_waited_belongs_to_the_start_that_follows() {
    let stage = stage(0);
    stage.saw(Milestone::Spawned);
    advance(SECOND).await;
    stage.saw(Milestone::Spawned); // it was started again
    let spawned = Instant::now();
    advance(SECOND).await;
    let parked = stage.parked();
    stage.endpoints([1]);

    let start = stage.starts().remove(0);
    assert_eq!(at(&start, Milestone::Spawned), Some(spawned));
    drop(parked);

    stage.saw(Milestone::Spawned); // one more replica
    stage.endpoints([]);
    let parked = stage.parked();
    let start = stage.starts().remove(0);
    assert_eq!(
        at(&start, Milestone::Spawned),
        None,
        "it was another start's"
    );
    drop(parked);
}
