//! Who is admitted where, in what order, within which bounds, and what is told about it.

use std::collections::VecDeque;
use std::task::Poll;

use tokio::time::{Instant, advance};
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::*;

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
fn nobody_need_be_asked_while_the_revision_is_warm_without_limit_and_queue() {
    let mut stage = stage(0);
    let warm = |stage: &Stage| stage.worker.admit_warm(&id());
    assert!(warm(&stage).is_none(), "the worker has not heard of it");
    let mut parked = stage.parked();
    assert!(warm(&stage).is_none(), "no endpoint is ready");
    stage.endpoints([1]);
    stage.pump();
    let first = assert_ready!(parked.poll()).unwrap();
    stage.worker.has_answered(&mut { first }, MOMENT);

    let permit = warm(&stage).unwrap();
    assert_eq!((permit.endpoint(), permit.waited()), (endpoint(1), false));
    assert_eq!(stage.state().in_flight, 1);
    stage.throttler.suspect(&id(), endpoint(1));
    assert!(warm(&stage).is_none(), "its only endpoint is set aside");
    stage.throttler.restore(&id(), endpoint(1));
    assert!(warm(&stage).is_some());
    stage.throttler.upsert(&id(), spec(7), Parking::Allowed);
    assert!(warm(&stage).is_none(), "there is a limit");
    stage.throttler.upsert(&id(), spec(0), Parking::Allowed);
    assert!(warm(&stage).is_some());

    stage.throttler.remove(&id());
    assert!(warm(&stage).is_none(), "it is gone");
    assert_eq!(stage.refused(), Refusal::UnknownRevision);
    drop(permit);
}

/// How long an answer took, where it does not matter.
const MOMENT: Duration = Duration::from_millis(1);

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
fn without_a_limit_a_request_on_its_way_makes_room_for_the_next() {
    let limits = QueueLimits {
        release_window: NonZeroU32::new(1).unwrap(),
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 0);
    let mut first = stage.parked();
    let mut second = stage.parked();
    stage.endpoints([1]);
    stage.pump();
    let mut permit = assert_ready!(first.poll()).unwrap();
    assert_pending!(second.poll());

    stage.worker.has_answered(&mut permit, MOMENT);
    stage.worker.has_answered(&mut permit, MOMENT);

    stage.pump();
    let next = assert_ready!(second.poll()).unwrap();
    let endpoint = stage.state().endpoints[0];
    assert_eq!((endpoint.in_flight, endpoint.slots_in_use), (2, 1));
    assert!(permit.waited());
    assert_eq!(stage.state().counters.granted_at_once, 0);
    drop((permit, next));
    stage.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_slow_request_makes_room_once_nobody_has_been_answered_for_a_while() {
    let limits = QueueLimits {
        release_window: NonZeroU32::new(2).unwrap(),
        ..QueueLimits::default()
    };
    let patience = limits.release_patience;
    let mut stage = stage_with(limits, 0);
    let mut parked: VecDeque<_> = (0..9).map(|_| stage.parked()).collect();
    stage.endpoints([1]);
    let mut first = released(&mut stage, &mut parked);
    assert_eq!(first.len(), 2);
    advance(patience / 2).await;
    stage.worker.has_answered(&mut first[1], patience / 2);
    let mut next = released(&mut stage, &mut parked);
    assert_eq!(next.len(), 2, "its own slot, and one because it was quick");
    advance(patience / 2).await;

    let again = stage.worker.takes_its_time(&mut first[0]);

    let soon = Instant::now() + patience / 2;
    assert_eq!(
        again,
        Some(soon),
        "another was answered: not stuck, but busy"
    );
    assert_eq!(released(&mut stage, &mut parked).len(), 0);
    advance(patience / 2).await;
    assert_eq!(stage.worker.takes_its_time(&mut first[0]), None);
    next.extend(released(&mut stage, &mut parked));
    assert_eq!(next.len(), 4);
    for permit in &mut next {
        assert_eq!(stage.worker.takes_its_time(permit), None);
    }
    let last = released(&mut stage, &mut parked);
    assert_eq!(last.len(), 3, "all that are left");
    drop((first, next, last));
    stage.assert_empty();
}

/// The permits of those that need not wait any longer.
fn released(stage: &mut Stage, parked: &mut VecDeque<Spawn<Ticket>>) -> Vec<Permit> {
    stage.pump();
    let mut permits = Vec::new();
    while let Some(first) = parked.front_mut()
        && let Poll::Ready(permit) = first.poll()
    {
        permits.push(permit.unwrap());
        parked.pop_front();
    }
    permits
}

#[test]
fn with_a_limit_a_request_on_its_way_keeps_its_slot() {
    let mut stage = stage(1);
    let mut first = stage.parked();
    let mut second = stage.parked();
    stage.endpoints([1]);
    stage.pump();
    let mut permit = assert_ready!(first.poll()).unwrap();

    stage.worker.has_answered(&mut permit, MOMENT);

    stage.pump();
    assert_pending!(second.poll());
    drop(permit);
    stage.pump();
    let _last = assert_ready!(second.poll()).unwrap();
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
fn a_request_that_was_admitted_once_is_never_refused_for_a_full_queue() {
    let limits = QueueLimits::default();
    let full = [
        QueueLimits {
            depth: 1,
            ..limits.clone()
        },
        QueueLimits {
            bytes: 10,
            ..limits.clone()
        },
        QueueLimits {
            total_bytes: 10,
            ..limits.clone()
        },
        QueueLimits {
            depth: 10,
            client_share: NonZeroU8::new(10),
            ..limits
        },
    ];
    for limits in full {
        let mut stage = stage_with(limits, 1);
        stage.endpoints([1]);
        let ask = Ask {
            bytes: 10,
            client: Some(1),
            ..Ask::default()
        };
        let Admission::Granted(killed) = stage.worker.admit(&id(), ask) else {
            panic!()
        };
        let mut newcomer = stage.parked_with(ask);
        assert!(matches!(stage.refused_with(ask), Refusal::QueueFull { .. }));

        stage.endpoints([]); // killed, and its request is sent again
        drop(killed);
        let again = Ask {
            avoid: Some(endpoint(1)),
            first_in_line: true,
            ..ask
        };
        let mut again = stage.parked_with(again);

        assert_eq!(
            (stage.throttler.parked(), stage.throttler.parked_bytes()),
            (2, 20)
        );
        assert!(again.grow(1_000_000_000).is_err(), "growing is bound");
        assert_eq!(again.grow(0), Ok(()), "this is no growing");
        assert!(matches!(stage.refused_with(ask), Refusal::QueueFull { .. }));
        stage.endpoints([2]);
        stage.pump();
        drop(assert_ready!(again.poll()).unwrap());
        stage.pump();
        drop(assert_ready!(newcomer.poll()).unwrap());
        stage.assert_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_request_that_grew_too_much_says_when_to_come_again() {
    let limits = QueueLimits {
        bytes: 10,
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 1);
    let refusal = |ticket: &mut Spawn<Ticket>| {
        let bound = ticket.grow(11).unwrap_err();
        ticket.refusal(bound)
    };
    let full = |seconds| Refusal::QueueFull {
        retry_after: seconds * SECOND,
        bound: Bound::Bytes,
    };
    let mut ticket = stage.parked();
    assert_eq!(refusal(&mut ticket), full(5), "nothing is known yet");
    advance(2 * SECOND).await;
    assert_eq!(refusal(&mut ticket), full(3), "part of it has passed");

    stage.endpoints([1]);
    assert_eq!(
        ticket.refusal(Bound::Depth),
        Refusal::QueueFull {
            retry_after: SECOND,
            bound: Bound::Depth
        },
        "an endpoint is ready"
    );
    stage.pump();
    let _running = assert_ready!(ticket.poll()).unwrap();
    assert_eq!(ticket.refusal(Bound::Bytes), full(1));
    let mut next = stage.parked();
    assert_eq!(refusal(&mut next), full(1));
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

#[test]
fn a_request_that_wakes_nobody_is_refused_at_zero_and_parked_where_endpoints_are_busy() {
    let stage = stage(1);
    let ask = Ask {
        only_if_up: true,
        ..Ask::default()
    };
    let refused = stage.worker.admit(&id(), ask);
    assert!(
        matches!(refused, Admission::Refused(Refusal::Asleep)),
        "{refused:?}"
    );
    let state = stage.throttler.state();
    assert_eq!(state[0].counters.refused.asleep, 1);
    assert_eq!(state[0].counters.cold_starts, 0);

    stage.endpoints([1]);
    let Admission::Granted(_running) = stage.worker.admit(&id(), ask) else {
        panic!()
    };
    assert!(matches!(
        stage.worker.admit(&id(), ask),
        Admission::Parked(_)
    ));
}
