//! Several replicas, and meshes: what the queue is told.

use std::collections::BTreeSet;

use super::*;

fn replica(index: usize, count: usize) -> Replicas {
    Replicas {
        index: Some(index),
        count,
    }
}

fn all(count: u8) -> Vec<u8> {
    (1..=count).collect()
}

#[tokio::test(start_paused = true)]
async fn three_replicas_cover_every_pod_and_share_none_unless_there_are_too_few() {
    for (count, sizes) in [(1, [1, 1, 1]), (2, [1, 1, 1]), (7, [3, 2, 2])] {
        let network = Network::default();
        (1..=count).for_each(|last| network.ready(pod(last)));
        let mut covered = BTreeSet::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let stage = Stage::new(network.clone(), 1);
            stage.endpoints.set_replicas(replica(index, 3));
            stage.set(pods(&all(count), &[]));
            sleep(SECOND).await;

            let ours = stage.known();
            assert_eq!(ours.len(), size, "replica {index} of 3, {count} Pods");
            covered.extend(ours);
        }
        assert_eq!(covered.len(), usize::from(count));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_replicas_changes_shares_at_once() {
    let stage = Stage::new(Network::default(), 1);
    (1..=6).for_each(|last| stage.network.ready(pod(last)));
    stage.set(pods(&all(6), &[]));
    stage
        .until_known(&all(6).into_iter().map(pod).collect::<Vec<_>>())
        .await;

    stage.endpoints.set_replicas(replica(1, 3));
    assert_eq!(stage.known(), [pod(3), pod(4)]);

    stage.endpoints.set_replicas(replica(0, 2));
    assert_eq!(stage.known(), [pod(1), pod(2), pod(3)]);

    stage.endpoints.set_replicas(Replicas {
        index: None,
        count: 1,
    });
    assert_eq!(
        stage.known(),
        [pod(1), pod(2), pod(3)],
        "our last place counts"
    );
    assert_eq!(stage.network.dialled(), 6, "nobody is asked again");
}

#[tokio::test(start_paused = true)]
async fn a_revision_may_have_replicas_of_its_own_known_before_it_is() {
    let stage = Stage::new(Network::default(), 1);
    (1..=4).for_each(|last| stage.network.ready(pod(last)));
    stage.endpoints.set_revision_replicas(&id(), replica(1, 2));
    assert!(stage.endpoints.state().revisions.is_empty());
    stage.set(pods(&all(4), &[]));
    stage.until_known(&[pod(3), pod(4)]).await;

    stage.endpoints.set_replicas(replica(0, 4));
    assert_eq!(
        stage.known(),
        [pod(3), pod(4)],
        "those of all do not matter"
    );

    stage.endpoints.set_revision_replicas(&id(), replica(0, 2));
    assert_eq!(stage.known(), [pod(1), pod(2)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_every_replica_uses_all_pods() {
    let stage = Stage::new(Network::default(), 0);
    (1..=4).for_each(|last| stage.network.ready(pod(last)));
    stage.endpoints.set_replicas(replica(2, 3));
    stage.set(pods(&all(4), &[]));

    stage
        .until_known(&all(4).into_iter().map(pod).collect::<Vec<_>>())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_in_use_outlives_the_share_its_pod_was_in() {
    let stage = Stage::new(Network::default(), 1);
    (1..=2).for_each(|last| stage.network.ready(pod(last)));
    stage.set(pods(&[1, 2], &[]));
    stage.until_known(&[pod(1), pod(2)]).await;
    let Admission::Granted(first) = stage.worker.admit(&id(), Ask::default()) else {
        panic!("there is room");
    };
    assert_eq!(first.endpoint(), pod(1));

    stage.endpoints.set_replicas(replica(1, 2));
    stage.endpoints.set_replicas(replica(0, 2));
    let parked = stage.park();
    drop(first);

    assert_eq!(
        stage.gone(parked).await.endpoint(),
        pod(1),
        "its slot was not used twice"
    );
}

#[tokio::test(start_paused = true)]
async fn in_a_mesh_the_cluster_ip_takes_all_slots_of_the_pods_behind_it() {
    let stage = Stage::new(Network::default(), 10);
    for last in 1..=3 {
        stage.network.put(pod(last), Host::Breaks);
    }
    stage.network.ready(cluster_ip());
    stage.set(pods(&[1, 2, 3], &[]));
    stage.until_known(&[cluster_ip()]).await;
    assert_eq!(stage.slots(), 30);

    stage.endpoints.set_replicas(replica(0, 2));
    assert_eq!(stage.slots(), 15);
    stage.set(pods(&[1, 2], &[]));
    assert_eq!(stage.slots(), 10);
    stage.set(pods(&[1, 2, 3], &[4]));
    assert_eq!(stage.slots(), 15);

    stage
        .throttler
        .upsert(&id(), Arc::clone(&stage.spec), Parking::Allowed);
    stage.set(pods(&[1, 2, 3], &[4]));
    assert_eq!(stage.slots(), 15, "also after the Revision was told anew");

    let before = stage.network.dialled();
    stage.set(pods(&[], &[]));
    assert_eq!(stage.known(), []);
    stage.set(pods(&[1], &[]));
    stage.until_known(&[cluster_ip()]).await;
    assert_eq!(stage.slots(), 5);
    assert_eq!(
        stage.network.dialled(),
        before + 1,
        "Pods are not asked any more"
    );

    stage.endpoints.set_mesh(MeshMode::Disabled, false);
    assert_eq!((stage.known(), stage.slots()), (vec![pod(1)], 10));
}

#[tokio::test(start_paused = true)]
async fn in_a_mesh_that_passes_on_pods_are_asked_by_the_name_of_the_private_service() {
    let stage = Stage::new(Network::default(), 1);
    stage.endpoints.set_mesh(MeshMode::Auto, true);
    stage.network.ready(pod(1));
    stage.set(pods(&[1], &[]));
    stage.until_known(&[pod(1)]).await;

    let asked = stage.network.log(pod(1)).asked;
    assert!(
        asked[0].contains("\r\nHost: shop-00001-private.default\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("\r\nK-Passthrough-Lb: true\r\n"),
        "{asked:?}"
    );

    stage.endpoints.set_mesh(MeshMode::Auto, false);
    assert_eq!(stage.known(), []);
    stage.until_known(&[pod(1)]).await;
    let asked = stage.network.log(pod(1)).asked;
    assert!(
        asked[1].contains("\r\nHost: 10.0.0.1:8012\r\n"),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn somebody_else_at_a_pods_address_is_not_used() {
    let stage = Stage::new(Network::default(), 1);
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    stage.network.put(pod(1), Host::Says(other));
    stage.network.ready(cluster_ip());
    stage.set(pods(&[1], &[]));
    sleep(60 * SECOND).await;

    assert_eq!(stage.known(), []);
    assert_eq!(
        stage.network.log(cluster_ip()).dialled,
        0,
        "no mesh: it answers"
    );
}
