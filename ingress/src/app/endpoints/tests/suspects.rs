//! Endpoints that refused a connection, in a cluster.

use parkway_activator::prober::{Probe as _, restore_suspects};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_suspect_is_back_when_its_queue_proxy_says_yes_however_long_it_holds_the_probe() {
    let stage = Stage::new(Network::far(150 * MS), 1);
    stage.network.ready(pod(1));
    stage.set(pods(&[1], &[]));
    stage.until_known(&[pod(1)]).await;
    tokio::spawn(restore_suspects(
        stage.throttler.clone(),
        stage.endpoints.suspect_probe(stage.network.clone()),
    ));

    let ready = Instant::now() + 5 * SECOND;
    let host = Host::QueueProxy {
        listens: Instant::now() + 2 * SECOND,
        ready,
    };
    stage.network.put(pod(1), host);
    stage.throttler.suspect(&id(), pod(1));
    drop(stage.gone(stage.park()).await);

    assert_eq!(ready.elapsed(), 150 * MS);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_an_ordinary_service_is_only_connected_to() {
    let stage = Stage::new(Network::default(), 1);
    stage
        .network
        .put(pod(1), Host::Says("SSH-2.0-OpenSSH_9.9\r\n"));
    let probe = stage.endpoints.suspect_probe(stage.network.clone());
    let service = RevisionId::of_service("default", "shop", 80);

    assert!(probe.probe(&service, pod(1)).await);
    assert!(!probe.probe(&id(), pod(1)).await);
    assert_eq!(stage.network.log(pod(1)).asked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn suspects_are_asked_by_the_name_of_the_private_service_too() {
    let stage = Stage::new(Network::default(), 1);
    stage.endpoints.set_mesh(MeshMode::Auto, true);
    stage.network.ready(pod(1));
    stage.set(pods(&[1], &[]));
    let probe = stage.endpoints.suspect_probe(stage.network.clone());

    assert!(probe.probe(&id(), pod(1)).await);

    let asked = stage.network.log(pod(1)).asked;
    assert!(
        asked[0].contains("\r\nK-Passthrough-Lb: true\r\n"),
        "{asked:?}"
    );
}
