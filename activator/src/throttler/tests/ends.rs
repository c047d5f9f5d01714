//! One test for every way a ticket and a permit can end.

use tokio::time::advance;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready};

use super::*;

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
fn revision_that_comes_back_after_it_was_forgotten_is_known_at_once() {
    let stage = stage(1);
    let other = RevisionId::new("default", "cart-00001");
    let _parked = stage.parked(); // the worker remembers the Revision
    stage.throttler.remove(&id());
    stage.throttler.upsert(&other, spec(1), Parking::Allowed);
    stage.throttler.remove(&other); // lets go of what is deleted and idle

    stage.throttler.upsert(&id(), spec(1), Parking::Allowed);
    stage.endpoints([1]);

    drop(stage.granted());
}

#[test]
fn start_that_failed_for_good_does_not_overflow_the_clock() {
    let stage = stage(1);

    stage
        .throttler
        .start_failed(&id(), "no such image".into(), Duration::MAX);

    let refusal = stage.refused();
    assert_eq!(
        refusal,
        Refusal::StartFailed {
            reason: "no such image".into(),
            retry_after: 300 * SECOND
        }
    );
}

#[test]
fn worker_that_stops_running_and_starts_again_loses_no_letter() {
    let limits = QueueLimits {
        release_batch: 1,
        ..QueueLimits::default()
    };
    let mut stage = stage_with(limits, 0);
    let mut tickets: Vec<_> = (0..3).map(|_| stage.parked()).collect();
    stage.endpoints([1]);
    assert_pending!(stage.pump.poll()); // delivers one, and would go on
    assert!(stage.pump.is_woken());

    let worker = std::rc::Rc::clone(&stage.worker);
    stage.pump = spawn(Box::pin(async move { worker.run().await }));
    stage.pump();
    for ticket in &mut tickets {
        drop(assert_ready!(ticket.poll()).unwrap());
    }

    stage.endpoints([]);
    let mut late = stage.parked();
    let worker = std::rc::Rc::clone(&stage.worker);
    stage.pump = spawn(Box::pin(async move { worker.run().await })); // the old one slept
    stage.endpoints([1]);
    stage.pump();
    drop(assert_ready!(late.poll()).unwrap());
    stage.assert_empty();
}

#[test]
fn limit_that_comes_and_goes_with_requests_in_flight_leaves_nothing_behind() {
    let mut stage = stage(0);
    stage.endpoints([1]);
    let unlimited = [stage.granted(), stage.granted()];
    stage.throttler.upsert(&id(), spec(1), Parking::Allowed);
    let limited = stage.granted();
    let mut waiting = stage.parked();
    let [first, second] = unlimited;
    drop(first);
    stage.pump();
    assert_pending!(waiting.poll(), "it held no slot");

    stage.throttler.upsert(&id(), spec(0), Parking::Allowed);
    stage.pump();
    let released = assert_ready!(waiting.poll()).unwrap();
    let again_unlimited = stage.granted();
    stage.throttler.upsert(&id(), spec(1), Parking::Allowed);
    let mut last = stage.parked();
    assert_eq!(stage.state().endpoints[0].slots_in_use, 2);
    drop(limited);
    stage.pump();
    assert_pending!(last.poll(), "one slot is still in use");
    drop(released);
    stage.pump();

    drop(assert_ready!(last.poll()).unwrap());
    drop((second, again_unlimited));
    stage.assert_empty();
}
