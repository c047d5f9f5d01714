//! Meshes, which let nobody reach single Pods, and the ClusterIP as the way round.

use super::*;

const ENABLED: Mesh = Mesh {
    mode: MeshMode::Enabled,
    passthrough: false,
};
const DISABLED: Mesh = Mesh {
    mode: MeshMode::Disabled,
    passthrough: false,
};

/// What a Pod behind a mesh may seem to answer.
const SUSPECT: [Outcome; 6] = [
    Outcome::NotReady(502),
    Outcome::NotReady(503),
    Outcome::Refused,
    Outcome::Unreachable,
    Outcome::TimedOut,
    Outcome::Broken,
];

#[test]
fn cluster_ip_is_used_once_all_ready_pods_were_asked_in_vain_and_it_has_passed() {
    for outcome in SUSPECT {
        let mut stage = Stage::with(AUTO, pods(&[1, 2], &[3]));
        stage.says(1, outcome);
        assert!(!stage.asks_service(), "the other one may answer yet");
        stage.says(2, outcome);
        assert!(stage.asks_service());
        assert_eq!(stage.usable(), []);

        assert!(stage.service_says(Outcome::Ready));

        let expected = Usable::ClusterIp {
            endpoint: cluster_ip(),
            ready: 2,
        };
        assert_eq!(stage.backends.usable(), expected);
        assert!(stage.asking.is_empty(), "Pods are never asked again");
    }
}

#[test]
fn cluster_ip_that_does_not_pass_is_asked_again_while_pods_are_too() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.says(1, Outcome::Broken);

    stage.service_says(Outcome::NotReady(503));

    assert!(stage.asks_service());
    assert_eq!(stage.asked(), [1]);
    assert_eq!(stage.usable(), []);
}

#[test]
fn pod_that_passes_meanwhile_spares_the_cluster_ip() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.says(1, Outcome::NotReady(503));
    assert!(stage.asks_service());

    stage.pass([1]);

    assert!(!stage.asks_service());
    assert_eq!(stage.usable(), [pod(1)]);
    assert!(!stage.service_says(Outcome::Ready), "too late");
    assert_eq!(stage.usable(), [pod(1)]);
}

#[test]
fn what_a_pod_answered_before_it_was_ready_speaks_for_no_mesh() {
    let mut stage = Stage::with(AUTO, pods(&[], &[1]));
    for outcome in SUSPECT {
        stage.says(1, outcome);
        assert!(!stage.asks_service(), "nobody is behind the ClusterIP yet");
    }

    stage.set(pods(&[1], &[]));
    assert!(!stage.asks_service());

    stage.says(1, Outcome::NotReady(503));
    assert!(stage.asks_service());
}

#[test]
fn any_other_answer_proves_that_pods_can_be_reached() {
    for outcome in [Outcome::NotReady(400), Outcome::NotReady(200)] {
        let mut stage = Stage::with(AUTO, pods(&[1, 2], &[]));
        stage.says(1, outcome);
        stage.says(2, Outcome::NotReady(503));

        assert!(!stage.asks_service());
    }
    let mut stage = Stage::with(AUTO, untrusting(pods(&[1], &[2])));
    stage.says(2, Outcome::Ready); // but may not be used yet
    stage.says(1, Outcome::Broken);
    assert!(!stage.asks_service());
}

#[test]
fn what_was_found_out_about_a_mesh_stays_also_when_the_revision_was_at_zero() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.says(1, Outcome::Broken);
    stage.service_says(Outcome::Ready);

    assert!(stage.set(pods(&[], &[1])));
    assert_eq!(stage.usable(), [], "nobody is behind the ClusterIP");
    assert!(stage.set(pods(&[2, 3], &[1])));
    assert_eq!(stage.usable(), [cluster_ip()], "it has passed already");

    stage.set(pods(&[], &[]));
    assert!(stage.asking.is_empty());
    stage.set(pods(&[], &[4]));
    assert!(stage.asking.is_empty());
    stage.set(pods(&[4], &[]));
    assert_eq!(stage.usable(), [], "after zero it must pass again");
    assert_eq!((stage.asked(), stage.asks_service()), (vec![], true));

    stage.service_says(Outcome::Ready);
    assert_eq!(stage.usable(), [cluster_ip()]);
}

#[test]
fn service_with_another_address_must_pass_again() {
    let mut stage = Stage::with(ENABLED, pods(&[1], &[]));
    stage.service_says(Outcome::Ready);
    let other = Endpoint::new(SocketAddr::from(([10, 96, 0, 2], 80)));

    let moved = Pods {
        service: Some(other),
        ..pods(&[1], &[])
    };
    stage.set(moved.clone());
    assert_eq!(stage.usable(), []);
    stage.answer(Target::Service(other), Outcome::Ready);
    assert_eq!(stage.usable(), [other]);

    let gone = Pods {
        service: None,
        ..moved
    };
    stage.set(gone);
    assert_eq!(stage.usable(), []);
}

#[test]
fn when_a_mesh_is_configured_only_the_cluster_ip_is_used() {
    let mut stage = Stage::with(ENABLED, pods(&[], &[1]));
    assert!(stage.asking.is_empty(), "nobody is behind it yet");

    stage.set(pods(&[1], &[2]));
    assert_eq!((stage.asked(), stage.asks_service()), (vec![], true));
    stage.service_says(Outcome::Ready);

    assert_eq!(stage.usable(), [cluster_ip()]);
    assert!(stage.asking.is_empty());
}

#[test]
fn when_there_is_no_mesh_for_certain_kubernetes_is_trusted_and_the_cluster_ip_never_used() {
    let mut stage = Stage::with(DISABLED, pods(&[1], &[2]));
    assert_eq!(stage.usable(), [pod(1)], "unasked");
    assert_eq!(stage.asked(), [2], "asked early all the same");

    for outcome in SUSPECT {
        stage.says(2, outcome);
        assert!(!stage.asks_service());
    }
    stage.set(pods(&[1, 2], &[]));
    assert_eq!(stage.usable(), [pod(1), pod(2)]);
    assert!(stage.asking.is_empty());

    stage.set(pods(&[2], &[1]));
    assert_eq!(stage.usable(), [pod(2)]);
    assert_eq!(stage.asked(), [1]);

    stage.set(untrusting(pods(&[2], &[1])));
    assert!(stage.asking.is_empty(), "its answer would not count");
}

#[test]
fn with_passthrough_pods_are_used_in_every_mode() {
    for mode in [MeshMode::Auto, MeshMode::Enabled, MeshMode::Disabled] {
        let mesh = Mesh {
            mode,
            passthrough: true,
        };
        let mut stage = Stage::with(mesh, pods(&[1], &[2]));
        for outcome in SUSPECT {
            stage.says(1, outcome);
            stage.says(2, outcome);
            assert!(!stage.asks_service());
        }
        stage.pass([1, 2]);
        assert_eq!(stage.usable(), [pod(1), pod(2)]);
    }
}

#[test]
fn another_configuration_makes_what_was_found_out_void() {
    let mut stage = Stage::with(AUTO, pods(&[1], &[]));
    stage.says(1, Outcome::Broken);
    stage.service_says(Outcome::Ready);

    assert!(stage.set_mesh(DISABLED));
    assert_eq!(stage.usable(), [pod(1)]);

    assert!(stage.set_mesh(AUTO), "trusted is not asked");
    assert_eq!((stage.usable(), stage.asked()), (vec![], vec![1]));
    stage.pass([1]);

    let passthrough = Mesh {
        passthrough: true,
        ..AUTO
    };
    assert!(stage.set_mesh(passthrough), "asked in another way");
    assert_eq!((stage.usable(), stage.asked()), (vec![], vec![1]));

    stage.set_mesh(ENABLED);
    assert_eq!((stage.asked(), stage.asks_service()), (vec![], true));
    stage.service_says(Outcome::Ready);
    assert!(stage.set_mesh(AUTO));
    assert!(!stage.set_mesh(AUTO));
    assert_eq!((stage.asked(), stage.asks_service()), (vec![1], false));
}
