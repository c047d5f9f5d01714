//! `parkway install` and `parkway uninstall` against the double of the API server, in memory and on a paused clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "install/site.rs"]
mod site;

use std::time::Duration;

use parkway_ingress::install::former::CONFIG_MAP;
use parkway_ingress::provider::kubernetes::lease::LABEL;
use parkway_tests::api::Which;
use serde_json::{Value, json};
use site::{KOURIER, NS, PARKWAY, Site, activator, knative};
use tokio::time::{sleep, timeout};

/// Longer than any attempt that is answered takes.
const KILLED_AFTER: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn after_install_and_uninstall_nothing_is_different() {
    for roles in ["ingress,activator", "ingress", "activator"] {
        let site = Site::with_knative();
        site.settle().await;
        let before = site.written();

        let (_, done) = site.install(&["--roles", roles, "--replicas", "3"]).await;
        done.unwrap();
        assert_ne!(site.written(), before);
        let (said, done) = site.uninstall(&[]).await;
        done.unwrap();

        assert_eq!(site.written(), before, "{roles}");
        assert!(said.ends_with("what was there before is there again\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn installed_twice_changes_nothing_the_second_time() {
    let site = Site::with_knative();
    site.install(&[]).await.1.unwrap();
    site.settle().await;
    let version = site.api.version();

    let (said, done) = site.install(&[]).await;

    done.unwrap();
    assert_eq!(site.api.version(), version, "{said}");
    assert!(said.contains(": 0 new, 0 changed, "), "{said}");
}

#[tokio::test(start_paused = true)]
async fn uninstalled_twice_changes_nothing_the_second_time() {
    let site = Site::with_knative();
    site.install(&[]).await.1.unwrap();
    site.uninstall(&[]).await.1.unwrap();
    site.settle().await;
    let version = site.api.version();

    site.uninstall(&[]).await.1.unwrap();

    assert_eq!(site.api.version(), version);
}

#[tokio::test(start_paused = true)]
async fn an_install_that_was_killed_at_any_write_can_be_begun_again_or_undone() {
    let mut kills = 0;
    for writes in 0.. {
        let site = Site::with_knative();
        site.settle().await;
        let before = site.written();
        site.answer_writes(writes);
        let attempt = timeout(KILLED_AFTER, site.install(&[])).await;
        site.answer_writes(i64::MAX);
        if attempt.is_ok() {
            break;
        }
        kills += 1;

        if writes % 2 == 0 {
            site.install(&[]).await.1.unwrap();
            assert_eq!(site.class(), PARKWAY);
        }
        site.uninstall(&[]).await.1.unwrap();
        site.settle().await;

        assert_eq!(site.written(), before, "killed at write {writes}");
    }
    assert!(kills > 15, "{kills}");
}

#[tokio::test(start_paused = true)]
async fn an_uninstall_that_was_killed_at_any_write_can_be_begun_again() {
    let mut kills = 0;
    for writes in 0.. {
        let site = Site::with_knative();
        site.settle().await;
        let before = site.written();
        site.install(&[]).await.1.unwrap();
        site.answer_writes(writes);
        let attempt = timeout(KILLED_AFTER, site.uninstall(&[])).await;
        site.answer_writes(i64::MAX);
        if attempt.is_ok() {
            break;
        }
        kills += 1;

        site.uninstall(&[]).await.1.unwrap();
        site.settle().await;

        assert_eq!(site.written(), before, "killed at write {writes}");
    }
    assert!(kills > 15, "{kills}");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_stock_activator_stays_in_the_deployment_that_takes_its_place() {
    let site = Site::with_knative();
    site.install(&["--image", "registry.example/parkway:1"])
        .await
        .1
        .unwrap();

    let deployment = site.deployment("activator");
    let containers = deployment["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0]["image"], "registry.example/parkway:1");
    let text = deployment.to_string();
    for stale in ["GOGC", "profiling", "8008", "\"kept\""] {
        assert!(!text.contains(stale), "{stale}");
    }
    // What is scaled stays scaled, and so do the bounds that somebody chose.
    assert_eq!(deployment["spec"]["replicas"], 2);
    let scaling = site.api.get("horizontalpodautoscalers", NS, "activator");
    let scaling = &scaling.unwrap()["spec"];
    assert_eq!(
        (&scaling["minReplicas"], &scaling["maxReplicas"]),
        (&json!(2), &json!(21))
    );
}

#[tokio::test(start_paused = true)]
async fn as_many_pods_as_were_asked_for_are_the_fewest() {
    let site = Site::with_knative();
    site.install(&["--replicas", "5"]).await.1.unwrap();

    let scaling = site.api.get("horizontalpodautoscalers", NS, "activator");
    let scaling = &scaling.unwrap()["spec"];
    assert_eq!(
        (&scaling["minReplicas"], &scaling["maxReplicas"]),
        (&json!(5), &json!(24))
    );
    assert_eq!(site.deployment("activator")["spec"]["replicas"], 5);
}

#[tokio::test(start_paused = true)]
async fn an_activator_that_was_scaled_to_zero_is_replaced_by_one_pod_and_is_at_zero_again() {
    let site = Site::with_knative();
    let zero = json!({"spec": {"replicas": 0}});
    site.api.edit("deployments", NS, "activator", zero);

    site.install(&[]).await.1.unwrap();
    assert_eq!(site.deployment("activator")["spec"]["replicas"], 1);

    site.uninstall(&[]).await.1.unwrap();
    assert_eq!(site.deployment("activator")["spec"]["replicas"], 0);
}

#[tokio::test(start_paused = true)]
async fn the_class_changes_only_when_the_pods_are_ready() {
    let site = Site::with_knative();
    let (said, done) = site.install(&["--image", "missing:1"]).await;

    let failure = done.unwrap_err().to_string();
    assert!(
        failure.contains("the image missing:1 cannot be pulled: no such image"),
        "{failure}"
    );
    assert!(failure.contains("choose another with --image"), "{failure}");
    assert_eq!(site.class(), KOURIER, "{said}");

    site.install(&["--image", "found:1"]).await.1.unwrap();
    assert_eq!(site.class(), PARKWAY);
}

#[tokio::test(start_paused = true)]
async fn it_waits_until_the_routes_kingresses_are_served_by_parkway() {
    let site = Site::with_knative();
    site.settle().await;
    let (said, done) = site.install(&[]).await;

    done.unwrap();
    let followed = site.api.get("ingresses", "default", "hello").unwrap();
    let domain = &followed["status"]["privateLoadBalancer"]["ingress"][0]["domainInternal"];
    assert!(domain.as_str().unwrap().starts_with("parkway-internal."));
    assert!(said.contains("KIngresses: 1 of 1 Ready"), "{said}");
    // A Route that names its class is nobody else's concern.
    let own = site.api.get("ingresses", "default", "own").unwrap();
    assert_eq!(
        own["metadata"]["annotations"]["networking.knative.dev/ingress.class"],
        KOURIER
    );
}

#[tokio::test(start_paused = true)]
async fn a_kingress_that_does_not_become_ready_is_named() {
    let site = Site::with_knative();
    site.api.put(json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {
            "name": "stuck", "namespace": "shop", "generation": 2,
            "annotations": {"networking.knative.dev/ingress.class": PARKWAY},
        },
        "spec": {},
        "status": {
            "observedGeneration": 2,
            "conditions": [{"type": "Ready", "status": "Unknown", "message": "no such Revision"}],
            "privateLoadBalancer": {"ingress": [{"domainInternal": "parkway-internal.knative-serving.svc.cluster.local"}]},
        },
    }));

    let (said, done) = site.install(&["--timeout-seconds", "30"]).await;

    let failure = done.unwrap_err().to_string();
    assert!(
        failure.contains(
            "KIngresses: not after 30 s: 1 of 2 Ready: shop/stuck is not Ready (no such Revision)"
        ),
        "{failure}\n{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_kingress_that_was_not_ready_before_holds_nobody_up() {
    let site = Site::with_knative();
    site.api.put(json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {
            "name": "broken", "namespace": "shop",
            "annotations": {"networking.knative.dev/ingress.class": KOURIER},
            "ownerReferences": [{"kind": "Route", "name": "broken", "controller": true}],
        },
        "spec": {},
    }));
    site.settle().await;

    let (said, done) = site.install(&[]).await;
    done.unwrap();
    let line = "KIngresses: 1 of 1 Ready; not Ready before either: shop/broken\n";
    assert!(said.contains(line), "{said}");

    let (said, done) = site.uninstall(&[]).await;
    done.unwrap();
    let line = "KIngresses: 2 of 2 Ready; not Ready before either: shop/broken\n";
    assert!(said.contains(line), "{said}");
}

#[tokio::test(start_paused = true)]
async fn uninstall_goes_on_only_when_another_layer_serves_the_routes() {
    let site = Site::with_knative();
    let nobody = json!({"data": {"ingress-class": "nobody.ingress.networking.knative.dev"}});
    site.api.edit("configmaps", NS, "config-network", nobody);
    site.settle().await;
    site.install(&[]).await.1.unwrap();

    let failure = site.uninstall(&[]).await.1.unwrap_err().to_string();

    assert!(failure.contains("default/hello"), "{failure}");
    assert!(failure.contains("--no-wait"), "{failure}");
    assert!(site.api.get("services", NS, "parkway").is_some());

    site.uninstall(&["--no-wait"]).await.1.unwrap();
    assert!(site.api.get("services", NS, "parkway").is_none());
    assert!(site.api.get("configmaps", NS, CONFIG_MAP).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_class_that_was_changed_since_is_left_as_it_is() {
    let site = Site::with_knative();
    site.install(&[]).await.1.unwrap();
    let other = "istio.ingress.networking.knative.dev";
    let patch = json!({"data": {"ingress-class": other}});
    site.api.edit("configmaps", NS, "config-network", patch);

    site.uninstall(&["--no-wait"]).await.1.unwrap();

    assert_eq!(site.class(), other);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_class_has_none_again() {
    let site = Site::with_knative();
    let none = json!({"data": {"ingress-class": null}});
    site.api.edit("configmaps", NS, "config-network", none);
    site.install(&[]).await.1.unwrap();
    assert_eq!(site.class(), PARKWAY);

    site.uninstall(&["--no-wait"]).await.1.unwrap();

    assert_eq!(site.class(), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn fewer_roles_give_back_what_the_others_took() {
    let site = Site::with_knative();
    site.settle().await;
    let before = site.written();
    site.install(&[]).await.1.unwrap();

    site.install(&["--roles", "ingress"]).await.1.unwrap();
    let activator = site.deployment("activator");
    assert!(activator.to_string().contains("GOGC"));
    assert_eq!(site.class(), PARKWAY);
    assert!(site.api.get("deployments", NS, "parkway").is_some());

    site.install(&["--roles", "activator"]).await.1.unwrap();
    let activator = site.deployment("activator");
    assert!(!activator.to_string().contains("GOGC"));
    assert_eq!(site.class(), KOURIER);
    assert!(site.api.get("deployments", NS, "parkway").is_none());
    assert!(site.api.get("services", NS, "parkway").is_none());

    site.uninstall(&[]).await.1.unwrap();
    assert_eq!(site.written(), before);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_added_with_our_label_goes_with_uninstall_and_not_before() {
    let site = Site::with_knative();
    site.api.put(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "parkway-metrics", "namespace": NS,
            "labels": {"networking.knative.dev/ingress-provider": "parkway"},
        },
    }));
    site.install(&[]).await.1.unwrap();
    assert!(site.api.get("services", NS, "parkway-metrics").is_some());

    site.uninstall(&[]).await.1.unwrap();
    assert!(site.api.get("services", NS, "parkway-metrics").is_none());
}

#[tokio::test(start_paused = true)]
async fn uninstall_removes_the_leases_of_parkway_and_no_others() {
    let site = Site::with_knative();
    for name in ["parkway.ingress.status.00-of-01", "controller.00-of-01"] {
        site.api.put(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": NS},
        }));
    }
    // As config-leader-election may have it.
    let (label, value) = LABEL;
    site.api.put(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "renamed.00-of-01", "namespace": NS, "labels": {label: value}},
    }));
    site.install(&[]).await.1.unwrap();
    site.uninstall(&[]).await.1.unwrap();

    let left: Vec<_> = site.api.list("leases");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["metadata"]["name"], "controller.00-of-01");
}

#[tokio::test(start_paused = true)]
async fn without_the_former_activator_uninstall_takes_nothing_away() {
    let site = Site::with_knative();
    site.install(&[]).await.1.unwrap();
    site.api.delete("configmaps", NS, CONFIG_MAP);

    let failure = site
        .uninstall(&["--no-wait"])
        .await
        .1
        .unwrap_err()
        .to_string();

    assert!(
        failure.contains("what was there before is not known"),
        "{failure}"
    );
    assert!(failure.contains("serving-core.yaml"), "{failure}");
    assert!(site.api.get("services", NS, "parkway").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let site = Site::with_knative();
    site.settle().await;
    let version = site.api.version();

    let (said, done) = site.install(&["--dry-run"]).await;

    done.unwrap();
    assert_eq!(site.api.version(), version);
    for line in [
        "Deployment knative-serving/activator: changes ",
        "Service knative-serving/parkway: new",
        "PodDisruptionBudget knative-serving/activator-pdb: changes ",
        "ingress-class becomes parkway.ingress.networking.knative.dev (is kourier.ingress.networking.knative.dev)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }

    site.install(&[]).await.1.unwrap();
    site.settle().await;
    let version = site.api.version();
    let (said, done) = site.uninstall(&["--dry-run"]).await;
    done.unwrap();
    assert_eq!(site.api.version(), version);
    for line in [
        "Deployment knative-serving/activator: becomes what it was before",
        "Service knative-serving/parkway: goes",
        "ingress-class becomes kourier.ingress.networking.knative.dev",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_found_before_anything_is_changed() {
    let site = Site::with_knative();
    site.settle().await;
    let version = site.api.version();
    let roles = Which::any().verb("patch").plural("clusterroles");
    site.api.refuse(roles, 1, 403);

    let failure = site.install(&[]).await.1.unwrap_err().to_string();

    assert!(
        failure.starts_with("cannot apply ClusterRole parkway: "),
        "{failure}"
    );
    assert!(failure.contains("cluster-admin"), "{failure}");
    assert_eq!(site.api.version(), version);
}

#[tokio::test(start_paused = true)]
async fn what_has_our_name_and_is_somebody_elses_is_not_touched() {
    let site = Site::with_knative();
    site.settle().await;
    site.api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "parkway", "namespace": NS},
    }));
    let version = site.api.version();

    let failure = site.install(&[]).await.1.unwrap_err().to_string();

    assert!(
        failure
            .starts_with("Service knative-serving/parkway is there already, and is not Parkway's"),
        "{failure}"
    );
    assert_eq!(site.api.version(), version);
}

#[tokio::test(start_paused = true)]
async fn without_knative_it_says_how_to_get_it() {
    let site = Site::empty();
    let failure = site.install(&[]).await.1.unwrap_err().to_string();
    assert!(failure.contains("no ConfigMap config-network"), "{failure}");
    assert!(failure.contains("--knative FILE"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_knatives_operator_is_not_fought_over() {
    let site = Site::with_knative();
    let owner = json!([{"kind": "KnativeServing", "name": "knative-serving"}]);
    let owned = json!({"metadata": {"ownerReferences": owner}});
    site.api.edit("deployments", NS, "activator", owned);

    let failure = site.install(&[]).await.1.unwrap_err().to_string();
    assert!(
        failure.contains("belongs to Knative's operator"),
        "{failure}"
    );

    site.install(&["--roles", "ingress"]).await.1.unwrap();
}

#[tokio::test(start_paused = true)]
async fn somebody_quicker_only_costs_another_attempt() {
    let site = Site::with_knative();
    site.settle().await;
    let spec = site.deployment("activator")["spec"].clone();
    let puts = || Which::any().verb("update").plural("deployments");
    let conflicts = || {
        let asked = site.api.requests().into_iter();
        asked.filter(|request| request.status == 409).count()
    };
    site.api.overtake(puts(), 3);
    site.install(&[]).await.1.unwrap();
    assert_eq!(conflicts(), 3);
    assert_ne!(site.deployment("activator")["spec"], spec);
    site.api.overtake(puts(), 3);
    site.uninstall(&[]).await.1.unwrap();
    assert_eq!(conflicts(), 6);
    assert_eq!(site.deployment("activator")["spec"], spec);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_in_trouble_is_waited_for() {
    let site = Site::with_knative();
    let trouble = async {
        while site.class() != PARKWAY {
            sleep(Duration::from_millis(10)).await;
        }
        site.api.refuse(Which::lists("ingresses"), 5, 503);
    };

    let ((said, done), ()) = tokio::join!(site.install(&[]), trouble);

    done.unwrap();
    assert!(
        said.contains("cannot list objects of kind Ingress"),
        "{said}"
    );
}

fn release() -> Vec<Value> {
    let mut objects = knative();
    objects.retain(|object| object["kind"] != "Route" && object["kind"] != "Ingress");
    objects.push(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "revisions.serving.knative.dev"}, "spec": {},
    }));
    objects.push(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "controller", "namespace": NS},
        "spec": {"template": {"metadata": {"labels": {"app": "controller"}}}},
    }));
    objects
}

#[tokio::test(start_paused = true)]
async fn knative_and_parkway_come_up_from_nothing_definitions_first() {
    let site = Site::empty();
    let mut release = release();
    release.sort_by_key(|object| object["kind"] != "CustomResourceDefinition");

    let (said, done) = site.install_after(&release, &[]).await;

    done.unwrap();
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("{line}\n{said}"));
    let order = [
        at("definitions of Knative's kinds: established"),
        at("Deployment knative-serving/controller: 1 of 1 Pods ready"),
        at("Knative's webhooks: they answer"),
        at("Deployment knative-serving/activator: "),
        at("config-network: ingress-class parkway."),
    ];
    assert!(order.is_sorted(), "{said}");

    site.uninstall(&["--no-wait"]).await.1.unwrap();
    assert!(site.deployment("activator").to_string().contains("GOGC"));
}

#[tokio::test(start_paused = true)]
async fn a_newer_knative_leaves_parkway_in_place_and_its_own_activator_for_later() {
    let site = Site::with_knative();
    site.install(&[]).await.1.unwrap();
    let mut release = activator();
    release[0]["spec"]["template"]["spec"]["containers"][0]["image"] = json!("activator:newer");

    let (_, done) = site.install_after(&release, &[]).await;
    done.unwrap();
    let text = site.deployment("activator").to_string();
    assert!(text.contains("parkway:") && !text.contains("newer"));

    site.uninstall(&[]).await.1.unwrap();
    let text = site.deployment("activator").to_string();
    assert!(text.contains("activator:newer"), "{text}");
}
