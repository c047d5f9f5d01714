use std::net::{Ipv4Addr, SocketAddr};

use super::*;

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 8012)))
}

fn endpoints(lasts: impl IntoIterator<Item = u8>) -> Vec<Endpoint> {
    lasts.into_iter().map(endpoint).collect()
}

fn bounds() -> QueueBounds {
    QueueBounds {
        depth: 10_000,
        bytes: 1_000_000,
        client_share: None,
        release_window: NonZeroU32::new(4).unwrap(),
        widest_window: NonZeroU32::new(16).unwrap(),
    }
}

fn queue(concurrency: u32) -> RevisionQueue<u32> {
    RevisionQueue::new(bounds(), concurrency.into())
}

fn bounded(bounds: QueueBounds) -> RevisionQueue<u32> {
    RevisionQueue::new(bounds, ContainerConcurrency::from(1))
}

/// Parks requests with these numbers.
fn park(queue: &mut RevisionQueue<u32>, numbers: impl IntoIterator<Item = u32>) -> Vec<TicketId> {
    let place = Place::default();
    numbers
        .into_iter()
        .map(|number| queue.park(place, number).unwrap())
        .collect()
}

fn waiters(grants: &[Grant<u32>]) -> Vec<u32> {
    grants.iter().map(|grant| grant.waiter).collect()
}

fn places(grants: &[Grant<u32>]) -> Vec<Endpoint> {
    grants.iter().map(|grant| grant.endpoint).collect()
}

#[test]
fn parked_requests_leave_in_arrival_order() {
    let mut queue = queue(2);
    park(&mut queue, 0..5);

    let grants = queue.set_endpoints(endpoints([1, 2]));

    assert_eq!(waiters(&grants), [0, 1, 2, 3]);
    assert_eq!(waiters(&queue.release(endpoint(2))), [4]);
}

#[test]
fn a_slot_freed_goes_to_the_next_and_then_to_nobody() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1]));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
    assert_eq!(queue.reserve(None), Room::Full);
    park(&mut queue, [7]);

    assert_eq!(waiters(&queue.release(endpoint(1))), [7]);
    assert!(queue.release(endpoint(1)).is_empty());
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
}

#[test]
fn low_concurrency_fills_the_first_endpoint_first() {
    let mut queue = queue(2);
    queue.set_endpoints(endpoints([3, 1, 2]));

    let taken: Vec<_> = std::iter::from_fn(|| match queue.reserve(None) {
        Room::Slot(endpoint) => Some(endpoint),
        Room::Open | Room::Full => None,
    })
    .collect();

    assert_eq!(taken, endpoints([1, 1, 2, 2, 3, 3]));
    queue.release(endpoint(2));
    queue.release(endpoint(1));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(2)));
}

#[test]
fn higher_concurrency_goes_round_and_skips_full_endpoints() {
    let mut queue = queue(4);
    queue.set_endpoints(endpoints([1, 2]));
    let slot = |queue: &mut RevisionQueue<u32>| match queue.reserve(None) {
        Room::Slot(endpoint) => endpoint,
        room => panic!("{room:?}"),
    };

    let taken: Vec<_> = (0..8).map(|_| slot(&mut queue)).collect();
    assert_eq!(taken, endpoints([1, 2, 1, 2, 1, 2, 1, 2]));

    queue.release(endpoint(2));
    queue.release(endpoint(2));
    assert_eq!(slot(&mut queue), endpoint(2));
    assert_eq!(slot(&mut queue), endpoint(2));
    assert_eq!(queue.reserve(None), Room::Full);
}

#[test]
fn a_retry_goes_elsewhere_if_it_can() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1, 2]));

    assert_eq!(queue.reserve(Some(endpoint(1))), Room::Slot(endpoint(2)));
    assert_eq!(queue.reserve(Some(endpoint(1))), Room::Slot(endpoint(1)));
    assert_eq!(queue.reserve(Some(endpoint(1))), Room::Full);
}

#[test]
fn without_a_limit_the_queue_is_open_while_nothing_is_parked() {
    let mut queue = queue(0);
    assert_eq!(queue.reserve(None), Room::Full);
    let tickets = park(&mut queue, [0]);
    queue.cancel(tickets[0]);

    queue.set_endpoints(endpoints([1]));

    assert_eq!(queue.reserve(None), Room::Open);
}

#[test]
fn without_a_limit_a_window_bounds_what_is_released_at_once() {
    let mut queue = queue(0);
    park(&mut queue, 0..20);

    let first = queue.set_endpoints(endpoints([1, 2]));
    assert_eq!(waiters(&first), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(places(&first), endpoints([1, 2, 1, 2, 1, 2, 1, 2]));
    assert_eq!(
        queue.reserve(None),
        Room::Full,
        "a newcomer does not overtake"
    );

    let next = queue.release(endpoint(2));
    assert_eq!((waiters(&next), places(&next)), (vec![8], endpoints([2])));
}

#[test]
fn an_endpoint_that_left_while_busy_comes_back_with_its_slots_in_use() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1]));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
    queue.set_endpoints(Vec::new());
    park(&mut queue, [7]);

    assert!(queue.set_endpoints(endpoints([1])).is_empty());

    assert_eq!(waiters(&queue.release(endpoint(1))), [7]);
}

#[test]
fn the_end_of_a_request_on_an_endpoint_that_left_frees_nothing() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1]));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
    queue.set_endpoints(Vec::new());
    park(&mut queue, [7]);

    assert!(queue.release(endpoint(1)).is_empty());
    assert!(queue.endpoints().is_empty());
    assert_eq!(waiters(&queue.set_endpoints(endpoints([1]))), [7]);
}

#[test]
fn suspect_endpoint_is_not_chosen_until_restored() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1, 2]));
    queue.suspect(endpoint(1));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(2)));
    assert_eq!(queue.reserve(None), Room::Full);
    park(&mut queue, [7]);

    let grants = queue.restore(endpoint(1));

    assert_eq!(
        (waiters(&grants), places(&grants)),
        (vec![7], endpoints([1]))
    );
}

#[test]
fn suspect_endpoint_that_leaves_and_returns_is_trusted_again() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1]));
    queue.suspect(endpoint(1));
    queue.set_endpoints(endpoints([1]));
    assert!(queue.is_suspect(endpoint(1)), "it stayed");

    queue.set_endpoints(Vec::new());
    queue.set_endpoints(endpoints([1]));

    assert!(!queue.is_suspect(endpoint(1)));
}

#[test]
fn as_a_last_resort_suspects_are_used_only_when_there_are_no_others() {
    let mut queue = queue(0);
    queue.configure(ContainerConcurrency::Unlimited, true);
    queue.set_endpoints(endpoints([1, 2]));

    queue.suspect(endpoint(1));
    assert_eq!(queue.eligible().collect::<Vec<_>>(), endpoints([2]));
    queue.suspect(endpoint(2));
    assert_eq!(queue.eligible().collect::<Vec<_>>(), endpoints([1, 2]));
}

#[test]
fn a_request_sent_again_goes_before_newcomers_and_behind_its_like() {
    let mut queue = queue(1);
    park(&mut queue, [0, 1]);
    let again = Place {
        first_in_line: true,
        ..Place::default()
    };
    queue.park(again, 10).unwrap();
    queue.park(again, 11).unwrap();

    assert_eq!(queue.end_all(), [10, 11, 0, 1]);
}

#[test]
fn a_higher_limit_lets_the_next_go_and_a_lower_one_waits() {
    let mut queue = queue(1);
    queue.set_endpoints(endpoints([1]));
    assert_eq!(queue.reserve(None), Room::Slot(endpoint(1)));
    park(&mut queue, 0..4);

    assert_eq!(waiters(&queue.configure(3.into(), false)), [0, 1]);
    assert!(queue.configure(1.into(), false).is_empty());
    assert!(queue.release(endpoint(1)).is_empty());
    assert!(queue.release(endpoint(1)).is_empty());
    assert_eq!(waiters(&queue.release(endpoint(1))), [2]);
}

#[test]
fn depth_is_a_bound() {
    let mut queue = bounded(QueueBounds {
        depth: 2,
        ..bounds()
    });
    let tickets = park(&mut queue, [0, 1]);

    assert_eq!(queue.park(Place::default(), 2), Err(Bound::Depth));

    queue.cancel(tickets[0]);
    park(&mut queue, [2]);
    assert_eq!(queue.end_all(), [1, 2]);
}

#[test]
fn bytes_are_a_bound_for_parking_and_for_growing() {
    let mut queue = bounded(QueueBounds {
        bytes: 100,
        ..bounds()
    });
    let place = |bytes| Place {
        bytes,
        ..Place::default()
    };
    let ticket = queue.park(place(60), 0).unwrap();
    assert_eq!(queue.park(place(41), 1), Err(Bound::Bytes));
    assert_eq!(queue.park(place(usize::MAX), 1), Err(Bound::Bytes));

    assert_eq!(queue.grow(ticket, 40), Ok(()));
    assert_eq!(queue.grow(ticket, 1), Err(Bound::Bytes));
    assert_eq!(queue.parked_bytes(), 100);

    queue.cancel(ticket);
    assert_eq!(queue.parked_bytes(), 0);
    assert_eq!(
        queue.grow(ticket, 1_000),
        Ok(()),
        "it holds nothing any more"
    );
    assert_eq!(queue.parked_bytes(), 0);
}

#[test]
fn a_client_may_hold_its_share_of_places_and_of_bytes() {
    let mut queue = bounded(QueueBounds {
        depth: 10,
        bytes: 100,
        client_share: NonZeroU8::new(20),
        ..bounds()
    });
    let place = |client, bytes| Place {
        bytes,
        client: Some(client),
        first_in_line: false,
    };
    let ticket = queue.park(place(1, 10), 0).unwrap();
    queue.park(place(1, 10), 1).unwrap();
    assert_eq!(
        queue.park(place(1, 0), 2),
        Err(Bound::ClientShare),
        "places"
    );
    assert_eq!(
        queue.park(place(2, 21), 2),
        Err(Bound::ClientShare),
        "bytes"
    );
    assert_eq!(queue.grow(ticket, 1), Err(Bound::ClientShare), "grown");
    queue.park(place(2, 20), 2).unwrap();
    queue.park(Place::default(), 3).unwrap();

    queue.cancel(ticket);
    queue.park(place(1, 10), 4).unwrap();

    queue.end_all();
    assert!(queue.clients.is_empty());
}

#[test]
fn a_request_sent_again_is_parked_however_full_the_queue_is() {
    let mut queue = bounded(QueueBounds {
        depth: 2,
        bytes: 100,
        client_share: NonZeroU8::new(50),
        ..bounds()
    });
    let place = |bytes, first_in_line| Place {
        bytes,
        client: Some(1),
        first_in_line,
    };
    queue.park(place(50, false), 0).unwrap();
    assert_eq!(queue.park(place(1, false), 1), Err(Bound::ClientShare));

    let again = queue.park(place(60, true), 10).unwrap();
    queue.park(place(60, true), 11).unwrap();

    assert_eq!((queue.parked(), queue.parked_bytes()), (3, 170));
    assert_eq!(queue.grow(again, 1), Err(Bound::Bytes), "growing is bound");
    assert_eq!(queue.grow(again, 0), Ok(()), "this is no growing");
    assert!(queue.cancel(again).is_some());
    assert_eq!((queue.parked(), queue.parked_bytes()), (2, 110));
    assert_eq!(queue.end_all(), [11, 0]);
    assert_eq!(queue.parked_bytes(), 0);
    assert!(queue.clients.is_empty());
}

#[test]
fn what_was_sent_again_leaves_less_room_for_newcomers() {
    let again = Place {
        bytes: 60,
        client: Some(1),
        first_in_line: true,
    };
    let newcomer = |bytes, client| Place {
        bytes,
        client: Some(client),
        first_in_line: false,
    };
    let mut queue = bounded(QueueBounds {
        depth: 2,
        bytes: 100,
        client_share: NonZeroU8::new(60),
        ..bounds()
    });
    let first = queue.park(again, 0).unwrap();

    assert_eq!(queue.park(newcomer(41, 2), 1), Err(Bound::Bytes));
    assert_eq!(queue.park(newcomer(1, 1), 1), Err(Bound::ClientShare));
    queue.park(newcomer(1, 2), 1).unwrap();
    assert_eq!(queue.park(newcomer(1, 3), 2), Err(Bound::Depth));

    queue.cancel(first);
    queue.park(newcomer(1, 3), 2).unwrap();
}

#[test]
fn more_bytes_than_can_be_counted_are_refused_even_when_sent_again() {
    let mut queue = queue(1);
    let again = Place {
        bytes: usize::MAX - 1,
        client: None,
        first_in_line: true,
    };
    queue.park(again, 0).unwrap();

    assert_eq!(queue.park(again, 1), Err(Bound::Bytes));

    assert_eq!(queue.end_all(), [0]);
    assert_eq!(queue.parked_bytes(), 0);
}

#[test]
fn the_smallest_share_is_one_place() {
    let mut queue = bounded(QueueBounds {
        depth: 10,
        client_share: NonZeroU8::new(1),
        ..bounds()
    });
    let place = Place {
        client: Some(1),
        ..Place::default()
    };

    assert!(queue.park(place, 0).is_ok());
    assert_eq!(queue.park(place, 1), Err(Bound::ClientShare));
}

#[test]
fn ten_thousand_parked_leave_from_the_middle_and_go_in_order() {
    let mut queue = queue(1);
    let tickets = park(&mut queue, 0..10_000);
    for ticket in tickets.iter().skip(1).step_by(2) {
        assert!(queue.cancel(*ticket).is_some());
        assert_eq!(queue.cancel(*ticket), None);
    }

    let mut order = waiters(&queue.set_endpoints(endpoints([1])));
    while queue.parked() > 0 {
        order.extend(waiters(&queue.release(endpoint(1))));
    }

    assert_eq!(order, (0..10_000).step_by(2).collect::<Vec<_>>());
}

#[test]
fn without_a_limit_answers_as_fast_as_the_fastest_widen_the_window() {
    let mut queue = queue(0);
    park(&mut queue, 0..100);
    let (quick, as_quick, slow) = (ms(10), ms(21), ms(22));

    let first = queue.set_endpoints(endpoints([1]));

    assert_eq!(first.len(), 4);
    assert_eq!(queue.release_answered(endpoint(1), quick).len(), 2);
    assert_eq!(queue.release_answered(endpoint(1), as_quick).len(), 2);
    assert_eq!(queue.release_answered(endpoint(1), slow).len(), 1);
    assert_eq!(queue.release(endpoint(1)).len(), 1);
    assert_eq!(queue.endpoints()[0].slots, 6);
}

#[test]
fn without_a_limit_slow_requests_widen_the_window_up_to_its_widest() {
    let mut queue = queue(0);
    park(&mut queue, 0..100);
    queue.set_endpoints(endpoints([1, 2]));

    let released: usize = (0..20).map(|_| queue.release_slow(endpoint(1)).len()).sum();

    assert_eq!(released, 12 + 20, "twelve slots more, and twenty used anew");
    let slots: Vec<_> = queue.endpoints().iter().map(|view| view.slots).collect();
    assert_eq!(slots, [16, 4]);
}

#[test]
fn with_a_limit_how_fast_answers_are_changes_nothing() {
    let mut queue = queue(2);
    park(&mut queue, 0..5);
    queue.set_endpoints(endpoints([1]));

    assert_eq!(queue.release_answered(endpoint(1), ms(1)).len(), 1);
    assert_eq!(queue.endpoints()[0].slots, 2);
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
