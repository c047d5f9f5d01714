//! Which part of a Revision is ours.

use std::collections::BTreeSet;

use super::*;

fn limited(limit: u32) -> ContainerConcurrency {
    ContainerConcurrency::from(limit)
}

fn replica(index: usize, count: usize) -> Replicas {
    Replicas {
        index: Some(index),
        count,
    }
}

fn usable(count: u8) -> Usable {
    let mut all: Vec<_> = (1..=count).map(pod).collect();
    all.sort_by(|one, other| by_address_text(*one, *other));
    Usable::Pods(all)
}

#[test]
fn every_pod_is_somebodys_and_none_is_two_replicas_unless_there_are_too_few() {
    for (count, sizes) in [
        (1, [1, 1, 1]),
        (2, [1, 1, 1]),
        (7, [3, 2, 2]),
        (12, [4, 4, 4]),
    ] {
        let shares: Vec<_> = (0..3)
            .map(|index| usable(count).share(limited(1), replica(index, 3)).endpoints)
            .collect();

        let lengths: Vec<_> = shares.iter().map(Vec::len).collect();
        assert_eq!(lengths, sizes);
        let covered: BTreeSet<_> = shares.concat().into_iter().collect();
        assert_eq!(covered.len(), usize::from(count), "every Pod is used");
        if count >= 3 {
            assert_eq!(shares.concat().len(), usize::from(count), "and by one");
        }
    }
}

#[test]
fn shares_go_by_the_order_of_addresses_as_text() {
    let Usable::Pods(all) = usable(12) else {
        unreachable!("Pods")
    };
    // A colon sorts behind digits.
    assert_eq!(all[..4], [pod(10), pod(11), pod(12), pod(1)]);

    let share = usable(12).share(limited(1), replica(0, 3));
    assert_eq!(share.endpoints, all[..4]);
}

#[test]
fn without_a_limit_or_a_place_everything_is_ours() {
    let all = usable(7).share(ContainerConcurrency::Unlimited, replica(0, 3));
    assert_eq!(all.endpoints.len(), 7);
    assert_eq!(all.slots, ContainerConcurrency::Unlimited);

    let all = usable(7).share(limited(5), Replicas::default());
    assert_eq!(all.endpoints.len(), 7);
    assert_eq!(all.slots, limited(5));
}

#[test]
fn behind_a_cluster_ip_all_slots_are_shared_out() {
    let behind = |ready| Usable::ClusterIp {
        endpoint: cluster_ip(),
        ready,
    };
    for (limit, ready, replicas, slots) in [
        (10, 3, Replicas::default(), 30),
        (10, 3, replica(1, 3), 10),
        (10, 3, replica(1, 4), 7),
        (1, 2, replica(0, 3), 1),
        (u32::MAX, PODS_MAX, Replicas::default(), 2_147_483_647),
        (5, 2, replica(0, 0), 10),
    ] {
        let share = behind(ready).share(limited(limit), replicas);
        assert_eq!(
            (share.endpoints, share.slots),
            (vec![cluster_ip()], limited(slots))
        );
    }
    let share = behind(2).share(ContainerConcurrency::Unlimited, replica(0, 3));
    assert_eq!(share.slots, ContainerConcurrency::Unlimited);
}

#[test]
fn who_is_not_among_the_replicas_keeps_its_last_place() {
    let nowhere = |count| Replicas { index: None, count };

    let mut ours = Replicas::default();
    for (news, expected) in [
        (nowhere(2), None),
        (replica(1, 2), Some((1, 2))),
        (nowhere(5), Some((1, 2))),
        (replica(0, 3), Some((0, 3))),
        (nowhere(0), Some((0, 3))),
    ] {
        ours = ours.updated(news);
        assert_eq!(ours.index.map(|index| (index, ours.count)), expected);
    }
}
