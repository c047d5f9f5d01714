//! `parkway check --live` against the double of the API server, in memory and on a paused clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use clap::Parser;
use kube::Client;
use parkway_ingress::check::live::{LOOK_FOR, Report, look};
use parkway_ingress::cli::{Cli, Command, Live};
use parkway_tests::api::{ApiDouble, Which};
use serde_json::{Value, json};
use tokio::time::Instant;

const CLASS: &str = "parkway.ingress.networking.knative.dev";

fn settings(flags: &[&str]) -> Live {
    let mut line = vec!["parkway", "check", "--live"];
    line.extend(flags);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Check(check) => check.live,
        other => panic!("{other:?}"),
    }
}

async fn check(api: &ApiDouble, flags: &[&str]) -> anyhow::Result<Report> {
    let client = Client::new(api.router(), "default");
    look(&client, &settings(flags)).await
}

fn ingress(namespace: &str, name: &str, class: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {
            "name": name, "namespace": namespace, "generation": 1,
            "annotations": {"networking.knative.dev/ingress.class": class},
        },
        "spec": {"httpOption": "Enabled", "rules": rules},
    })
}

/// A rule of this host, with these Services or Revisions and their shares.
fn rule(host: &str, namespace: &str, targets: &[(&str, u8)]) -> Value {
    let splits: Vec<_> = targets
        .iter()
        .map(|(name, percent)| {
            json!({
                "serviceName": name, "serviceNamespace": namespace, "servicePort": 80, "percent": percent,
                "appendHeaders": {"Knative-Serving-Revision": name, "Knative-Serving-Namespace": namespace},
            })
        })
        .collect();
    json!([{"hosts": [host], "visibility": "ExternalIP", "http": {"paths": [{"splits": splits}]}}])
}

fn revision(api: &ApiDouble, name: &str, conditions: &Value) {
    api.put(json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"image": "x"}]},
        "status": {"conditions": conditions},
    }));
}

/// A Service with two Revisions, one of them with two Pods.
fn hello(api: &ApiDouble) {
    let targets = [("hello-00002", 80), ("hello-00001", 20)];
    let rules = rule("hello.example.com", "default", &targets);
    api.put(ingress("default", "hello", CLASS, &rules));
    revision(api, "hello-00001", &json!([]));
    revision(api, "hello-00002", &json!([]));
    api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "hello-00002-private-1", "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": "hello-00002-private",
                "serving.knative.dev/revision": "hello-00002",
                "networking.internal.knative.dev/serviceType": "Private",
            },
        },
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
        ],
        "ports": [{"name": "http", "port": 8012, "protocol": "TCP"}],
    }));
}

#[tokio::test(start_paused = true)]
async fn it_says_where_requests_would_go_and_whether_they_would_wait() {
    let api = ApiDouble::in_memory();
    hello(&api);

    let report = check(&api, &[]).await.unwrap();

    assert_eq!(
        report.text,
        "default/hello: served\n  \
           external  hello.example.com\n    \
             /  80% default/hello-00002 (2 ready), 20% default/hello-00001 (at zero: requests wait)\n"
    );
    assert!(!report.has_mistakes);
}

#[tokio::test(start_paused = true)]
async fn what_would_not_be_served_is_said_and_counts_as_a_mistake() {
    let api = ApiDouble::in_memory();
    hello(&api);
    let taken = rule("hello.example.com", "default", &[("hello-00001", 100)]);
    let mut later = ingress("default", "later", CLASS, &taken);
    later["metadata"]["creationTimestamp"] = json!("2027-01-01T00:00:00Z");
    api.put(later);
    let reason = json!([{
        "type": "ContainerHealthy", "status": "False", "reason": "ExitCode1", "message": "it exits with 1",
    }, {
        "type": "Ready", "status": "False", "reason": "ExitCode1", "message": "it exits with 1",
    }]);
    revision(&api, "hello-00001", &reason);

    let report = check(&api, &[]).await.unwrap();

    assert!(report.has_mistakes);
    let conflict =
        "host \"hello.example.com\" of default/later: already served for default/hello\n";
    assert!(report.text.contains(conflict), "{}", report.text);
    let failure = "Revision default/hello-00001 cannot start: ";
    assert!(report.text.contains(failure), "{}", report.text);
}

#[tokio::test(start_paused = true)]
async fn only_the_namespace_that_was_asked_for_is_told_of() {
    let api = ApiDouble::in_memory();
    hello(&api);
    let rules = rule("shop.example.com", "shop", &[("gone", 100)]);
    api.put(ingress("shop", "shop", CLASS, &rules));

    let report = check(&api, &["--namespace", "default"]).await.unwrap();
    assert!(!report.text.contains("shop"), "{}", report.text);

    let report = check(&api, &["--namespace", "shop"]).await.unwrap();
    assert!(!report.text.contains("default/"), "{}", report.text);
    assert!(report.text.starts_with("shop/shop: "), "{}", report.text);
    assert!(report.has_mistakes, "{}", report.text);
}

#[tokio::test(start_paused = true)]
async fn another_layers_class_says_what_parkway_would_do_in_its_place() {
    let api = ApiDouble::in_memory();
    let kourier = "kourier.ingress.networking.knative.dev";
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": "knative-serving"},
        "data": {"ingress-class": kourier},
    }));
    revision(&api, "hello-00001", &json!([]));
    let rules = rule("hello.example.com", "default", &[("hello-00001", 100)]);
    api.put(ingress("default", "hello", kourier, &rules));

    let report = check(&api, &[]).await.unwrap();
    assert_eq!(
        report.text,
        format!("nothing of class {CLASS}; the cluster's class is {kourier}\n")
    );

    let report = check(&api, &["--ingress-class", kourier]).await.unwrap();
    assert!(
        report.text.starts_with("default/hello: served\n"),
        "{}",
        report.text
    );
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_tell_is_given_up_with_what_is_missing() {
    let api = ApiDouble::in_memory();
    api.refuse(Which::any().plural("revisions"), u32::MAX, 403);
    let begun = Instant::now();

    let error = check(&api, &[]).await.unwrap_err().to_string();

    assert!(begun.elapsed() >= LOOK_FOR);
    assert!(error.contains("Revision: "), "{error}");
    assert!(error.contains("orbidden"), "{error}");
    assert!(!error.contains("Service: "), "{error}");
}
