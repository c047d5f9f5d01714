//! Hand-polled tests of every way a ticket and a permit can end, and of what the control side promises.

use std::net::SocketAddr;
use std::pin::Pin;

use tokio::time::{Instant, advance};
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::*;
use crate::revision::ContainerConcurrency;

const SECOND: Duration = Duration::from_secs(1);

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)))
}

fn id() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn spec(concurrency: u32) -> Arc<RevisionSpec> {
    Arc::new(RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        ..RevisionSpec::default()
    })
}

/// One Revision, one worker, and the worker's pump in hand.
struct Stage {
    throttler: Throttler,
    worker: std::rc::Rc<Worker>,
    pump: Spawn<Pin<Box<dyn Future<Output = ()>>>>,
}

fn stage_with(limits: QueueLimits, concurrency: u32) -> Stage {
    let throttler = Throttler::new(limits, 1);
    throttler.upsert(&id(), spec(concurrency), Parking::Allowed);
    let worker = std::rc::Rc::new(throttler.worker(0));
    let pumped = std::rc::Rc::clone(&worker);
    let pump: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { pumped.run().await });
    let mut pump = spawn(pump);
    assert_pending!(pump.poll());
    Stage {
        throttler,
        worker,
        pump,
    }
}

fn stage(concurrency: u32) -> Stage {
    stage_with(QueueLimits::default(), concurrency)
}

impl Stage {
    fn endpoints(&self, lasts: impl IntoIterator<Item = u8>) {
        self.throttler
            .set_endpoints(&id(), lasts.into_iter().map(endpoint).collect());
    }

    fn admit(&self) -> Admission {
        self.worker.admit(&id(), Ask::default())
    }

    fn granted(&self) -> Permit {
        match self.admit() {
            Admission::Granted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn parked(&self) -> Spawn<Ticket> {
        self.parked_with(Ask::default())
    }

    fn parked_with(&self, ask: Ask) -> Spawn<Ticket> {
        match self.worker.admit(&id(), ask) {
            Admission::Parked(ticket) => {
                let mut ticket = spawn(ticket);
                assert_pending!(ticket.poll());
                ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self) -> Refusal {
        self.refused_with(Ask::default())
    }

    fn refused_with(&self, ask: Ask) -> Refusal {
        match self.worker.admit(&id(), ask) {
            Admission::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the worker deliver, as often as it wants.
    fn pump(&mut self) {
        loop {
            assert_pending!(self.pump.poll());
            if !self.pump.is_woken() {
                return;
            }
        }
    }

    fn state(&self) -> RevisionState {
        self.throttler.revision_state(&id()).unwrap()
    }

    /// Nothing is parked, held or in flight.
    #[track_caller]
    fn assert_empty(&self) {
        let state = self.state();
        assert_eq!(
            (state.parked, state.parked_bytes, state.in_flight),
            (0, 0, 0)
        );
        assert_eq!(
            (self.throttler.parked(), self.throttler.parked_bytes()),
            (0, 0)
        );
        let counters = state.counters;
        assert_eq!(state.parked_seconds.count(), counters.parked_total);
    }
}

#[test]
fn parked_request_goes_when_the_first_endpoint_is_ready() {
    let mut stage = stage(1);
    let mut ticket = stage.parked();

    stage.endpoints([1]);
    assert!(!ticket.is_woken(), "its worker wakes it");
    stage.pump();

    assert!(ticket.is_woken());
    let permit = assert_ready!(ticket.poll()).unwrap();
    assert_eq!(permit.endpoint(), endpoint(1));
    assert_eq!(permit.revision(), &id());
    assert!(permit.waited());
    drop(permit);
    drop(ticket);
    stage.assert_empty();
}

#[test]
fn request_that_finds_a_free_slot_does_not_wait() {
    let stage = stage(1);
    stage.endpoints([1]);

    let permit = stage.granted();

    assert!(!permit.waited());
    assert_eq!(stage.state().endpoints[0].slots_in_use, 1);
    drop(permit);
    stage.assert_empty();
    assert_eq!(stage.state().counters.granted_at_once, 1);
}

#[test]
fn end_of_a_request_lets_the_next_one_go() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let first = stage.granted();
    let mut second = stage.parked();

    drop(first);
    stage.pump();

    drop(assert_ready!(second.poll()).unwrap());
    stage.assert_empty();
}

#[test]
fn permit_dropped_on_another_thread_frees_its_slot_too() {
    for concurrency in [0, 1] {
        let stage = stage(concurrency);
        stage.endpoints([1]);
        let permit = stage.granted();
        assert_eq!(stage.state().in_flight, 1);

        std::thread::spawn(move || drop(permit)).join().unwrap();

        stage.assert_empty();
    }
}

#[test]
fn departed_client_frees_exactly_its_place_and_bytes() {
    let stage = stage(1);
    let leaver = stage.parked_with(Ask {
        bytes: 100,
        ..Ask::default()
    });
    let _stayer = stage.parked_with(Ask {
        bytes: 30,
        ..Ask::default()
    });

    drop(leaver);

    assert_eq!((stage.state().parked, stage.state().parked_bytes), (1, 30));
    assert_eq!(
        (stage.throttler.parked(), stage.throttler.parked_bytes()),
        (1, 30)
    );
    assert_eq!(stage.state().counters.cancelled, 1);
}

#[test]
fn permit_of_a_departed_client_goes_to_the_next_one_parked() {
    let mut stage = stage(1);
    let leaver = stage.parked();
    let mut stayer = stage.parked();

    stage.endpoints([1]); // granted to the leaver; its letter is on the way
    drop(leaver);
    stage.pump();

    assert!(stayer.is_woken());
    drop(assert_ready!(stayer.poll()).unwrap());
    stage.assert_empty();
}

#[test]
fn permit_delivered_but_never_looked_at_goes_to_the_next_one_parked() {
    let mut stage = stage(1);
    let leaver = stage.parked();
    let mut stayer = stage.parked();

    stage.endpoints([1]);
    stage.pump();
    assert!(leaver.is_woken());
    drop(leaver);
    stage.pump();

    drop(assert_ready!(stayer.poll()).unwrap());
    stage.assert_empty();
}

#[test]
fn deleted_revision_ends_what_is_parked_and_leaves_what_runs() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let running = stage.granted();
    let mut parked = stage.parked();

    stage.throttler.remove(&id());
    stage.pump();

    assert_eq!(
        assert_ready!(parked.poll()).unwrap_err(),
        Refusal::RevisionGone
    );
    assert_eq!(stage.refused(), Refusal::UnknownRevision);
    assert!(stage.throttler.state().is_empty());
    assert_eq!(running.endpoint(), endpoint(1));
    drop(running);
    assert_eq!(
        (stage.throttler.parked(), stage.throttler.parked_bytes()),
        (0, 0)
    );
}

#[test]
fn revision_that_comes_back_finds_its_old_requests_in_their_slots() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let running = stage.granted();
    stage.throttler.remove(&id());
    assert_eq!(stage.refused(), Refusal::UnknownRevision);

    stage.throttler.upsert(&id(), spec(1), Parking::Allowed);
    stage.endpoints([1]);

    let mut parked = stage.parked();
    drop(running);
    stage.pump();
    drop(assert_ready!(parked.poll()).unwrap());
    stage.assert_empty();
}

#[test]
fn endpoint_that_leaves_does_not_end_its_requests() {
    let stage = stage(1);
    stage.endpoints([1]);
    let running = stage.granted();

    stage.endpoints([]);

    let seen = stage.state().endpoints[0];
    assert_eq!((seen.in_flight, seen.is_ready), (1, false));
    drop(running);
    assert!(stage.state().endpoints.is_empty());
    stage.assert_empty();
}

#[test]
fn failed_start_ends_all_parked_at_once_and_refuses_newcomers_for_a_while() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stage = stage(1);
        let mut tickets = [stage.parked(), stage.parked()];

        stage
            .throttler
            .start_failed(&id(), "exit status 1".into(), 10 * SECOND);
        stage.pump();

        let failed = |seconds| Refusal::StartFailed {
            reason: "exit status 1".into(),
            retry_after: seconds * SECOND,
        };
        for ticket in &mut tickets {
            assert_eq!(assert_ready!(ticket.poll()).unwrap_err(), failed(10));
        }
        advance(Duration::from_millis(3_500)).await;
        assert_eq!(stage.refused(), failed(7));
        assert_eq!(stage.state().failure.as_deref(), Some("exit status 1"));

        advance(7 * SECOND).await;
        let mut ticket = stage.parked();
        stage.endpoints([1]);
        assert_eq!(stage.state().failure, None);
        stage.pump();
        drop(assert_ready!(ticket.poll()).unwrap());
        stage.assert_empty();
        assert_eq!(stage.state().counters.refused.start_failed, 3);
    });
}

#[test]
fn failed_start_of_a_further_endpoint_ends_nobody() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let running = stage.granted();
    let mut parked = stage.parked();

    stage
        .throttler
        .start_failed(&id(), "out of memory".into(), SECOND);
    stage.pump();

    assert_pending!(parked.poll());
    drop(running);
}

#[test]
fn drain_refuses_newcomers_and_keeps_what_is_parked() {
    let mut stage = stage(1);
    let mut parked = stage.parked();

    stage.throttler.drain();

    assert_eq!(stage.refused(), Refusal::Draining);
    let again = Ask {
        first_in_line: true,
        ..Ask::default()
    };
    let mut again = stage.parked_with(again);
    stage.endpoints([1]);
    stage.pump();
    drop(assert_ready!(again.poll()).unwrap());
    stage.pump();
    drop(assert_ready!(parked.poll()).unwrap());
    drop(stage.granted());
    stage.assert_empty();
}

#[test]
fn worker_that_goes_ends_its_tickets_and_gives_permits_on_their_way_to_others() {
    let throttler = Throttler::new(QueueLimits::default(), 2);
    throttler.upsert(&id(), spec(1), Parking::Allowed);
    let going = throttler.worker(0);
    let staying = throttler.worker(1);
    let park = |worker: &Worker| match worker.admit(&id(), Ask::default()) {
        Admission::Parked(ticket) => spawn(ticket),
        other => panic!("{other:?}"),
    };
    let mut with_letter = park(&going);
    let mut in_queue = park(&going);
    let mut other = park(&staying);
    assert_pending!(in_queue.poll());
    throttler.set_endpoints(&id(), vec![endpoint(1)]);

    drop(going);

    assert!(in_queue.is_woken());
    assert_eq!(
        assert_ready!(with_letter.poll()).unwrap_err(),
        Refusal::Draining
    );
    assert_eq!(
        assert_ready!(in_queue.poll()).unwrap_err(),
        Refusal::Draining
    );
    let mut run = spawn(staying.run());
    assert_pending!(run.poll());
    drop(assert_ready!(other.poll()).unwrap());
    assert_eq!(throttler.parked(), 0);
    assert_eq!(throttler.state()[0].in_flight, 0);
}

#[test]
fn warm_revision_without_a_limit_counts_in_flight_by_endpoint() {
    let stage = stage(0);
    stage.endpoints([1, 2]);

    let permits: Vec<_> = (0..10).map(|_| stage.granted()).collect();

    let in_flight: Vec<_> = stage
        .state()
        .endpoints
        .iter()
        .map(|endpoint| endpoint.in_flight)
        .collect();
    assert_eq!(in_flight, [5, 5], "two random choices of two are exact");
    assert_eq!(stage.state().endpoints[0].slots_in_use, 0);
    drop(permits);
    stage.assert_empty();
    assert_eq!(stage.state().counters.granted_at_once, 10);
}

#[test]
fn without_a_limit_a_newcomer_does_not_overtake_the_parked() {
    let limits = QueueLimits {
        release_window: NonZeroU32::new(1).unwrap(),
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 0);
    let mut first = stage.parked();
    let mut second = stage.parked();
    stage.endpoints([1]);
    let mut newcomer = stage.parked();

    stage.pump();
    let permit = assert_ready!(first.poll()).unwrap();
    assert_pending!(second.poll());
    drop(permit);
    stage.pump();
    let permit = assert_ready!(second.poll()).unwrap();
    assert_pending!(newcomer.poll());
    drop(permit);
    stage.pump();
    let _last = assert_ready!(newcomer.poll()).unwrap();

    assert!(!stage.granted().waited(), "nothing is parked: open again");
}

#[test]
fn worker_delivers_a_batch_a_turn_in_order_and_is_woken_once() {
    let limits = QueueLimits {
        release_batch: 4,
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 0);
    let tickets: Vec<_> = (0..10).map(|_| stage.parked()).collect();

    stage.endpoints([1]);

    let woken = |tickets: &[Spawn<Ticket>]| {
        tickets
            .iter()
            .take_while(|ticket| ticket.is_woken())
            .count()
    };
    assert_pending!(stage.pump.poll());
    assert_eq!(woken(&tickets), 4);
    assert_pending!(stage.pump.poll());
    assert_eq!(woken(&tickets), 8);
    assert_pending!(stage.pump.poll());
    assert_eq!(woken(&tickets), 10);
    assert_eq!(
        stage.throttler.traffic(),
        Traffic {
            letters: 10,
            wakes: 1
        }
    );
}

#[test]
fn service_without_endpoints_refuses_at_once() {
    let stage = stage(1);
    stage.throttler.upsert(&id(), spec(1), Parking::Never);

    assert_eq!(stage.refused(), Refusal::NoEndpoint);

    stage.endpoints([1]);
    let _permits = [stage.granted(), stage.granted()];
    stage.endpoints([]);
    assert_eq!(stage.refused(), Refusal::NoEndpoint);
    assert_eq!(stage.state().counters.refused.no_endpoint, 2);
}

#[test]
fn what_a_revision_parked_is_ended_when_it_turns_out_to_be_a_service() {
    let mut stage = stage(1);
    let mut ticket = stage.parked();

    stage.throttler.upsert(&id(), spec(1), Parking::Never);
    stage.pump();

    assert_eq!(
        assert_ready!(ticket.poll()).unwrap_err(),
        Refusal::NoEndpoint
    );
    stage.assert_empty();
}

#[test]
fn service_whose_endpoints_are_all_suspect_uses_them_anyway() {
    let stage = stage(0);
    stage.throttler.upsert(&id(), spec(0), Parking::Never);
    stage.endpoints([1, 2]);
    stage.throttler.suspect(&id(), endpoint(1));
    for _ in 0..8 {
        assert_eq!(stage.granted().endpoint(), endpoint(2));
    }

    stage.throttler.suspect(&id(), endpoint(2));

    drop(stage.granted());
}

#[test]
fn suspect_endpoint_is_left_out_until_restored() {
    for concurrency in [0, 1] {
        let mut stage = stage(concurrency);
        stage.endpoints([1]);
        drop(stage.granted());
        stage.throttler.suspect(&id(), endpoint(1));
        assert!(stage.throttler.is_suspect(&id(), endpoint(1)));
        let mut ticket = stage.parked();

        stage.throttler.restore(&id(), endpoint(1));
        stage.pump();

        drop(assert_ready!(ticket.poll()).unwrap());
        assert!(!stage.throttler.is_suspect(&id(), endpoint(1)));
        stage.assert_empty();
    }
}

#[test]
fn suspects_are_told_once_and_only_while_they_are_suspect() {
    let stage = stage(1);
    stage.endpoints([1, 2, 3]);
    let mut suspects = spawn(stage.throttler.suspects());
    assert_pending!(suspects.poll());
    for last in [1, 2, 3, 3, 4] {
        stage.throttler.suspect(&id(), endpoint(last));
    }
    assert!(suspects.is_woken());
    drop(suspects); // cancelled: nothing is lost
    stage.throttler.restore(&id(), endpoint(1));
    stage.endpoints([1, 3]);

    assert_eq!(
        assert_ready!(spawn(stage.throttler.suspects()).poll()),
        [(id(), endpoint(3))]
    );
    assert_pending!(spawn(stage.throttler.suspects()).poll());

    stage.throttler.suspect(&id(), endpoint(1));
    stage.throttler.remove(&id());
    assert_pending!(spawn(stage.throttler.suspects()).poll());
}

#[test]
fn a_retry_avoids_the_endpoint_it_came_from() {
    for concurrency in [0, 5] {
        let stage = stage(concurrency);
        stage.endpoints([1, 2, 3]);
        for avoided in [1, 2, 3].repeat(5) {
            let ask = Ask {
                avoid: Some(endpoint(avoided)),
                ..Ask::default()
            };
            let Admission::Granted(permit) = stage.worker.admit(&id(), ask) else {
                panic!()
            };
            assert_ne!(permit.endpoint(), endpoint(avoided));
        }
        stage.endpoints([1]);
        let ask = Ask {
            avoid: Some(endpoint(1)),
            ..Ask::default()
        };
        let Admission::Granted(permit) = stage.worker.admit(&id(), ask) else {
            panic!()
        };
        assert_eq!(permit.endpoint(), endpoint(1), "there is no other");
    }
}

#[test]
fn raised_limit_lets_parked_requests_go() {
    let mut stage = stage(1);
    stage.endpoints([1]);
    let _running = stage.granted();
    let mut parked = stage.parked();

    stage.throttler.upsert(&id(), spec(2), Parking::Allowed);
    stage.pump();

    drop(assert_ready!(parked.poll()).unwrap());
}

#[test]
fn bytes_of_all_revisions_are_bounded_together() {
    let limits = QueueLimits {
        total_bytes: 100,
        ..QueueLimits::default()
    };
    let stage = stage_with(limits, 1);
    let other = RevisionId::new("default", "cart-00001");
    stage.throttler.upsert(&other, spec(0), Parking::Allowed);
    let ask = |bytes| Ask {
        bytes,
        ..Ask::default()
    };
    let mut ticket = stage.parked_with(ask(60));
    let bound = |admission| match admission {
        Admission::Refused(Refusal::QueueFull { bound, .. }) => bound,
        other => panic!("{other:?}"),
    };

    assert_eq!(
        bound(stage.worker.admit(&other, ask(41))),
        Bound::TotalBytes
    );
    assert_eq!(ticket.grow(41), Err(Bound::TotalBytes));
    assert_eq!(ticket.grow(40), Ok(()));
    assert_eq!(stage.throttler.parked_bytes(), 100);

    drop(ticket);
    drop(stage.worker.admit(&other, ask(100)));
    assert_eq!(stage.throttler.parked_bytes(), 0);
}

#[test]
fn what_a_queue_refuses_it_does_not_hold() {
    let limits = QueueLimits {
        depth: 1,
        bytes: 50,
        client_share: NonZeroU8::new(50),
        ..QueueLimits::default()
    };
    let stage = stage_with(limits, 1);
    let ask = |bytes, client| Ask {
        bytes,
        client,
        ..Ask::default()
    };
    let bound = |refusal| match refusal {
        Refusal::QueueFull { bound, .. } => bound,
        other => panic!("{other:?}"),
    };
    assert_eq!(bound(stage.refused_with(ask(51, None))), Bound::Bytes);
    assert_eq!(
        bound(stage.refused_with(ask(26, Some(1)))),
        Bound::ClientShare
    );
    assert_eq!(stage.throttler.parked_bytes(), 0);

    let mut ticket = stage.parked_with(ask(25, Some(1)));
    assert_eq!(bound(stage.refused_with(ask(10, None))), Bound::Depth);
    assert_eq!(ticket.grow(1), Err(Bound::ClientShare));
    assert_eq!(stage.throttler.parked_bytes(), 25);

    let refused = stage.state().counters.refused;
    assert_eq!(
        (refused.bytes, refused.client_share, refused.depth),
        (1, 1, 1)
    );
    assert_eq!(refused.total(), 3);
}

#[test]
fn ticket_that_has_its_permit_grows_no_more() {
    let mut stage = stage(1);
    let mut ticket = stage.parked();
    stage.endpoints([1]);

    assert_eq!(
        ticket.grow(usize::MAX / 4),
        Err(Bound::TotalBytes),
        "no more than all may hold"
    );
    assert_eq!(ticket.grow(1_000), Ok(()));
    assert_eq!(stage.throttler.parked_bytes(), 0);

    stage.pump();
    drop(assert_ready!(ticket.poll()).unwrap());
    assert_eq!(ticket.grow(1_000), Ok(()));
    stage.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn retry_after_follows_from_observed_starts() {
    let limits = QueueLimits {
        depth: 1,
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 1);
    let retry_after = |stage: &Stage| match stage.refused() {
        Refusal::QueueFull { retry_after, .. } => retry_after,
        other => panic!("{other:?}"),
    };
    let mut ticket = stage.parked();
    assert_eq!(retry_after(&stage), 5 * SECOND, "nothing is known yet");
    advance(8 * SECOND).await;
    stage.endpoints([1]);
    stage.pump();
    let running = assert_ready!(ticket.poll()).unwrap();
    let _parked = stage.parked();
    assert_eq!(retry_after(&stage), SECOND, "an endpoint is ready");
    drop(_parked);
    drop(running);

    stage.endpoints([]);
    let _parked = stage.parked();
    advance(2 * SECOND).await;

    assert_eq!(retry_after(&stage), 6 * SECOND);
    let state = stage.state();
    assert_eq!(state.counters.cold_starts, 2);
    assert_eq!(state.cold_start_seconds.sum(), 8 * SECOND);
    assert_eq!(state.starting_since, Some(Instant::now() - 2 * SECOND));
}

#[test]
fn unknown_revision_is_refused() {
    let stage = stage(1);
    let unknown = RevisionId::new("default", "nobody");

    let admission = stage.worker.admit(&unknown, Ask::default());

    assert!(matches!(
        admission,
        Admission::Refused(Refusal::UnknownRevision)
    ));
}

#[test]
fn throttler_and_permit_cross_threads_and_tickets_move() {
    fn crosses<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    fn moves<T: Unpin>() {}
    crosses::<Permit>();
    shared::<Throttler>();
    moves::<Ticket>();
}
