//! The cluster's state against recorded objects: what follows from them, and from what happens to them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{ContainerConcurrency, Protocol, RevisionId};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cluster::{Changes, Cluster, News, Outcome};
use super::kept::{KeptIngress, KeptRevision, KeptService, KeptSlice, SeenIngress};
use super::watch::{Change, Key};
use crate::routing::rules::Target;

const NAMESPACE: &str = "fixtures";
const CLASS: &str = "kourier.ingress.networking.knative.dev";

fn recorded(kind: &str) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/main");
    let text = std::fs::read(root.join(format!("{kind}.json"))).unwrap();
    let mut list: Value = serde_json::from_slice(&text).unwrap();
    match list["items"].take() {
        Value::Array(items) => items,
        other => panic!("{kind}: not a list: {other}"),
    }
}

fn object<T: DeserializeOwned>(kind: &str, name: &str, change: impl Fn(&mut Value)) -> T {
    let objects = recorded(kind);
    let mut objects = objects.into_iter();
    let mut object = objects
        .find(|object| object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("{kind} {name} is not recorded"));
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn all<T: DeserializeOwned, K>(kind: &str, keep: impl Fn(T) -> Option<K>) -> Vec<K> {
    let objects = recorded(kind).into_iter();
    objects
        .filter_map(|object| keep(serde_json::from_value(object).unwrap()))
        .collect()
}

fn ingress(name: &str, change: impl Fn(&mut Value)) -> SeenIngress {
    SeenIngress::of(object("ingress", name, change), CLASS)
}

fn revision(name: &str, change: impl Fn(&mut Value)) -> KeptRevision {
    KeptRevision::of(&object("revision", name, change))
}

fn slice(name: &str, change: impl Fn(&mut Value)) -> KeptSlice {
    KeptSlice::of(&object("endpointslice", name, change), |_| false).expect("a slice")
}

/// The recorded cluster, every kind listed.
fn recorded_cluster() -> (Cluster, Changes) {
    let mut cluster = Cluster::new(Key::new("knative-serving", "parkway"), "knative-serving");
    cluster.learn(News::Ingress(Change::All(all("ingress", |object| {
        Some(SeenIngress::of(object, CLASS))
    }))));
    cluster.learn(News::Revision(Change::All(all("revision", |object| {
        Some(KeptRevision::of(&object))
    }))));
    cluster.learn(News::Service(Change::All(all("service", KeptService::of))));
    cluster.learn(News::Slice(Change::All(all("endpointslice", |object| {
        KeptSlice::of(&object, |_| false)
    }))));
    assert!(cluster.changes().is_none(), "not every kind is listed yet");
    cluster.learn(News::Config(Change::All(Vec::new())));
    assert!(cluster.changes().is_none(), "Secrets are not listed yet");
    let named = cluster.secret_scopes().expect("some are named");
    assert_eq!(named, BTreeSet::from([NAMESPACE.into()]));
    cluster.learn(News::Secret(NAMESPACE.into(), Change::All(Vec::new())));
    let changes = cluster.changes().expect("every kind is listed");
    (cluster, changes)
}

fn outcome<'c>(changes: &'c Changes, name: &str) -> &'c Outcome {
    let mut ingresses = changes.ingresses.iter();
    let found = ingresses.find(|change| &*change.key.name == name);
    &found
        .unwrap_or_else(|| panic!("nothing is said of {name}"))
        .outcome
}

fn key(name: &str) -> Key {
    Key::new("fixtures", name)
}

fn id(name: &str) -> RevisionId {
    RevisionId::new("fixtures", name)
}

#[test]
fn recorded_routes_lead_to_revisions_with_what_they_promise() {
    let (_, changes) = recorded_cluster();
    let mut ingresses = changes.ingresses.iter();
    let split = ingresses
        .find(|change| &*change.key.name == "split")
        .unwrap();
    assert_eq!(split.outcome, Outcome::Programmed);
    let rules = split.rules.as_ref().unwrap();
    let shares: Vec<_> = rules.rules[0].paths[0]
        .splits
        .iter()
        .map(|(percent, backend)| match &backend.target {
            Target::Revision { id, spec } => (percent, id.name().to_owned(), spec.service.clone()),
            other => panic!("not a Revision: {other:?}"),
        })
        .collect();
    assert_eq!(
        shares,
        [
            (80, "split-v1".to_owned(), "split".into()),
            (20, "split-v2".to_owned(), "split".into())
        ]
    );

    let of = |name: &str| {
        let mut revisions = changes.revisions.iter();
        let found = revisions.find(|(other, _)| *other == id(name));
        found.unwrap().1.clone().unwrap()
    };
    let single = of("single-00001");
    assert_eq!(single.spec.concurrency, ContainerConcurrency::from(10));
    assert_eq!(single.spec.timeouts.total.as_secs(), 60);
    assert!(single.trusts_early && single.failure.is_none());
    assert_eq!(of("grpc-00001").spec.protocol, Protocol::H2c);
    let ready: Vec<_> = of("proxymode-00001").ready;
    let at = |text: &str| Endpoint::new(text.parse::<SocketAddr>().unwrap());
    assert_eq!(ready, [at("10.244.0.21:8012"), at("10.244.0.26:8012")]);
}

#[test]
fn why_pods_cannot_start_is_known_from_the_revision() {
    let (_, changes) = recorded_cluster();
    let mut revisions = changes.revisions.into_iter();
    let (_, broken) = revisions
        .find(|(other, _)| *other == id("broken-00001"))
        .unwrap();
    let failure = broken.unwrap().failure.unwrap();
    assert!(
        failure.starts_with("ImagePullBackOff: Back-off pulling image"),
        "{failure}"
    );
}

#[test]
fn objects_of_other_classes_are_not_kept() {
    let other = |annotations: Value| {
        let object = object("ingress", "split", |object| {
            object["metadata"]["annotations"] = annotations.clone();
        });
        KeptIngress::of(object, CLASS).is_none()
    };
    let class = "networking.knative.dev/ingress.class";
    assert!(other(Value::Null));
    assert!(other(serde_json::json!({})));
    assert!(other(serde_json::json!({ class: "" })));
    assert!(other(serde_json::json!({ class: "incorrect" })));
    assert!(other(serde_json::json!({ class: format!("{CLASS}.") })));
}

#[test]
fn nothing_follows_from_the_same_again() {
    let (mut cluster, _) = recorded_cluster();
    let kept = all("ingress", |object| Some(SeenIngress::of(object, CLASS)));
    cluster.learn(News::Ingress(Change::All(kept)));
    cluster.learn(News::Revision(Change::Set(revision(
        "single-00001",
        |_| {},
    ))));
    cluster.learn(News::Slice(Change::All(all("endpointslice", |object| {
        KeptSlice::of(&object, |_| false)
    }))));
    let changes = cluster.changes().unwrap();
    assert!(changes.ingresses.is_empty() && changes.gone.is_empty());
    assert!(changes.revisions.is_empty() && changes.services.is_empty());
}

#[test]
fn what_a_new_list_lacks_is_gone() {
    let (mut cluster, _) = recorded_cluster();
    let kept = all("ingress", |object| Some(SeenIngress::of(object, CLASS)));
    let without_split = kept.into_iter().filter(|seen| *seen.key() != key("split"));
    cluster.learn(News::Ingress(Change::All(without_split.collect())));
    let revisions = all("revision", |object| Some(KeptRevision::of(&object)));
    let without = revisions
        .into_iter()
        .filter(|kept| kept.id != id("single-00001"));
    cluster.learn(News::Revision(Change::All(without.collect())));

    let changes = cluster.changes().unwrap();
    assert_eq!(changes.gone, [key("split")]);
    let gone: Vec<_> = { changes.revisions.iter() }
        .filter(|(_, change)| change.is_none())
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(gone, [id("single-00001")]);
    // Its KIngress is still there, and what it refers to is not.
    assert!(matches!(
        outcome(&changes, "single"),
        Outcome::Waiting { .. }
    ));
}

#[test]
fn rules_stay_in_effect_while_a_new_generation_names_what_is_not_there() {
    let (mut cluster, _) = recorded_cluster();
    let to = |revision: &'static str| {
        ingress("single", move |object| {
            object["metadata"]["generation"] = 2.into();
            object["metadata"]["resourceVersion"] = "9000".into();
            for rule in object["spec"]["rules"].as_array_mut().unwrap() {
                let split = &mut rule["http"]["paths"][0]["splits"][0];
                split["serviceName"] = revision.into();
                split["appendHeaders"]["Knative-Serving-Revision"] = revision.into();
            }
        })
    };
    cluster.learn(News::Ingress(Change::Set(to("single-00002"))));
    let changes = cluster.changes().unwrap();
    let [single] = changes.ingresses.as_slice() else {
        panic!("one KIngress has changed: {:?}", changes.ingresses)
    };
    assert!(
        matches!(&single.outcome, Outcome::Waiting { message, .. } if message.contains("single-00002"))
    );
    assert!(single.rules.is_none(), "the rules before stay");

    let new = revision("single-00001", |object| {
        object["metadata"]["name"] = "single-00002".into();
    });
    cluster.learn(News::Revision(Change::Set(new)));
    let changes = cluster.changes().unwrap();
    assert_eq!(*outcome(&changes, "single"), Outcome::Programmed);
    assert!(changes.ingresses[0].rules.is_some());
    assert_eq!(changes.ingresses[0].generation, 2);
}

#[test]
fn a_terminating_pod_gets_nothing_new_and_one_that_is_not_ready_is_told_apart() {
    let (mut cluster, _) = recorded_cluster();
    let name = recorded("endpointslice")
        .iter()
        .filter_map(|slice| slice["metadata"]["name"].as_str())
        .find(|name| name.starts_with("proxymode-00001-private"))
        .unwrap()
        .to_owned();
    let changed = slice(&name, |object| {
        object["endpoints"][0]["conditions"] =
            serde_json::json!({"ready": false, "serving": true, "terminating": true});
        object["endpoints"][1]["conditions"] =
            serde_json::json!({"ready": false, "serving": false, "terminating": false});
    });
    cluster.learn(News::Slice(Change::Set(changed)));
    let changes = cluster.changes().unwrap();
    let [(_, Some(revision))] = changes.revisions.as_slice() else {
        panic!("one Revision has changed: {:?}", changes.revisions)
    };
    assert!(revision.ready.is_empty());
    let not_ready = Endpoint::new("10.244.0.26:8012".parse().unwrap());
    assert_eq!(revision.not_ready, [not_ready]);
}

#[test]
fn an_ordinary_service_without_endpoints_holds_a_new_generation_back_and_is_dropped_with_its_last_user()
 {
    let (mut cluster, _) = recorded_cluster();
    let service = |name: &str| {
        let object = serde_json::json!({
            "metadata": {"namespace": "fixtures", "name": name},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.1.2", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        KeptService::of(serde_json::from_value(object).unwrap()).unwrap()
    };
    let slice = |ready: bool| {
        let object = serde_json::json!({
            "metadata": {"namespace": "fixtures", "name": "plain-x", "labels": {"kubernetes.io/service-name": "plain"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.9.9"], "conditions": {"ready": ready}}],
            "ports": [{"name": "http", "port": 8080}],
        });
        KeptSlice::of(&serde_json::from_value(object).unwrap(), |_| false).unwrap()
    };
    let plain = ingress("single", |object| {
        object["metadata"]["generation"] = 2.into();
        for rule in object["spec"]["rules"].as_array_mut().unwrap() {
            let split = &mut rule["http"]["paths"][0]["splits"][0];
            split["serviceName"] = "plain".into();
            split["appendHeaders"] = serde_json::json!({});
        }
    });
    cluster.learn(News::Service(Change::Set(service("plain"))));
    cluster.learn(News::Slice(Change::Set(slice(false))));
    cluster.learn(News::Ingress(Change::Set(plain)));
    let changes = cluster.changes().unwrap();
    assert!(matches!(
        outcome(&changes, "single"),
        Outcome::Waiting { .. }
    ));
    assert!(changes.services.is_empty());

    cluster.learn(News::Slice(Change::Set(slice(true))));
    let changes = cluster.changes().unwrap();
    assert_eq!(*outcome(&changes, "single"), Outcome::Programmed);
    let of_service = RevisionId::of_service("fixtures", "plain", 80);
    let [(service_id, Some(service))] = changes.services.as_slice() else {
        panic!("one Service is led to: {:?}", changes.services)
    };
    assert_eq!(*service_id, of_service);
    let endpoint = Endpoint::new("10.244.9.9:8080".parse().unwrap());
    assert_eq!(service.endpoints, [endpoint]);

    cluster.learn(News::Slice(Change::Set(slice(false))));
    let changes = cluster.changes().unwrap();
    let [(_, Some(service))] = changes.services.as_slice() else {
        panic!("its endpoints have changed: {:?}", changes.services)
    };
    assert!(service.endpoints.is_empty());
    assert!(changes.ingresses.is_empty(), "what is in effect stays so");

    cluster.learn(News::Ingress(Change::Gone(key("single"))));
    let changes = cluster.changes().unwrap();
    assert_eq!(changes.services, [(of_service, None)]);
}

#[test]
fn the_ready_pods_of_the_gateway_are_the_replicas() {
    let mut cluster = recorded_cluster().0;
    let slice = |ready: [bool; 3]| {
        let endpoint = |(index, ready): (usize, bool)| {
            serde_json::json!({
                "addresses": [format!("10.244.0.{}", 9 - index)],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": format!("parkway-{index}")},
            })
        };
        let object = serde_json::json!({
            "metadata": {"namespace": "knative-serving", "name": "parkway-x", "labels": {"kubernetes.io/service-name": "parkway"}},
            "addressType": "IPv4",
            "endpoints": ready.into_iter().enumerate().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http2", "port": 8080}],
        });
        KeptSlice::of(&serde_json::from_value(object).unwrap(), |service| {
            &*service.name == "parkway"
        })
        .unwrap()
    };
    cluster.learn(News::Slice(Change::Set(slice([true, false, true]))));
    let replicas = cluster.changes().unwrap().replicas.unwrap();
    let replicas: Vec<_> = { replicas.iter() }
        .map(|replica| (replica.address.to_string(), &*replica.pod))
        .collect();
    assert_eq!(
        replicas,
        [
            ("10.244.0.7".to_owned(), "parkway-2"),
            ("10.244.0.9".to_owned(), "parkway-0")
        ]
    );
    cluster.learn(News::Slice(Change::Set(slice([true, false, true]))));
    assert_eq!(cluster.changes().unwrap().replicas, None);
}

#[test]
fn the_owner_of_a_bucket_is_the_endpoint_of_the_service_of_its_name() {
    let mut cluster = recorded_cluster().0;
    let slice = |namespace: &str, bucket: &str, address: &str| {
        let object = serde_json::json!({
            "metadata": {"namespace": namespace, "name": bucket, "labels": {"kubernetes.io/service-name": bucket}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        KeptSlice::of(&serde_json::from_value(object).unwrap(), |_| false).unwrap()
    };
    let bucket = "autoscaler-bucket-00-of-01";
    cluster.learn(News::Slice(Change::Set(slice(
        "fixtures",
        bucket,
        "10.244.0.66",
    ))));
    cluster.learn(News::Slice(Change::Set(slice(
        "knative-serving",
        bucket,
        "10.244.0.11",
    ))));
    let owners = cluster.changes().unwrap().bucket_owners.unwrap();
    assert_eq!(
        owners.into_iter().collect::<Vec<_>>(),
        [(bucket.to_owned(), "10.244.0.11:8080".to_owned())]
    );
    cluster.learn(News::Slice(Change::Gone(Key::new(
        "knative-serving",
        bucket,
    ))));
    assert!(cluster.changes().unwrap().bucket_owners.unwrap().is_empty());
}

#[test]
fn kingress_that_is_given_another_class_keeps_its_rules_until_its_new_layer_serves_it() {
    let class = "networking.knative.dev/ingress.class";
    let given = |change: fn(&mut Value)| {
        let given = ingress("single", |object| {
            object["metadata"]["annotations"][class] = "another".into();
            change(object);
        });
        News::Ingress(Change::Set(given))
    };
    let elsewhere = |object: &mut Value| {
        let entrance = serde_json::json!({"ingress": [{"domainInternal": "other.other.svc"}]});
        object["status"]["privateLoadBalancer"] = entrance;
    };
    let (mut cluster, _) = recorded_cluster();

    cluster.learn(given(|_| {}));
    let changes = cluster.changes().unwrap();
    assert_eq!(changes.given_away, [key("single")]);
    assert_eq!(changes.gone, []);
    assert!(changes.ingresses.is_empty(), "nothing is said of it");
    // What its rules lead to goes on changing, and it is still none of ours.
    cluster.learn(News::Revision(Change::Set(revision(
        "single-00001",
        |object| {
            object["spec"]["containerConcurrency"] = 7.into();
        },
    ))));
    let changes = cluster.changes().unwrap();
    assert_eq!(changes.revisions.len(), 1);
    let of_single = |change: &super::IngressChange| change.key == key("single");
    assert!(!changes.ingresses.iter().any(of_single));
    assert!(cluster.known(&key("single")).is_none());
    // Not yet: a layer that is not ready leaves its entrances as they are.
    cluster.learn(given(|object| {
        object["status"]["conditions"] = serde_json::json!([]);
    }));
    assert_eq!(cluster.changes().unwrap().gone, []);

    assert_eq!(
        cluster.given_away().collect::<Vec<_>>(),
        [(&key("single"), false)]
    );

    // Served elsewhere, its rules are still there for those whom names lead here.
    cluster.learn(given(elsewhere));
    assert_eq!(cluster.changes().unwrap().gone, []);
    assert_eq!(
        cluster.given_away().collect::<Vec<_>>(),
        [(&key("single"), true)]
    );
    cluster.let_go(&key("single"));
    assert_eq!(cluster.changes().unwrap().gone, [key("single")]);

    // Ours again, and given to one who serves it already.
    cluster.learn(News::Ingress(Change::Set(ingress("single", |_| {}))));
    let changes = cluster.changes().unwrap();
    assert!(changes.ingresses.iter().all(|it| it.rules.is_some()));
    cluster.learn(given(elsewhere));
    let changes = cluster.changes().unwrap();
    assert_eq!(
        (changes.gone, changes.given_away),
        (vec![], vec![key("single")])
    );
    assert!(cluster.given_away().all(|(_, is_served)| is_served));
}

#[test]
fn kingress_that_comes_back_while_it_is_given_away_is_ours_as_if_nothing_had_been() {
    let class = "networking.knative.dev/ingress.class";
    let (mut cluster, _) = recorded_cluster();
    let given = || {
        ingress("single", |object| {
            object["metadata"]["annotations"][class] = "x".into();
        })
    };
    cluster.learn(News::Ingress(Change::Set(given())));
    cluster.changes().unwrap();
    assert_eq!(cluster.given_away().count(), 1);

    cluster.learn(News::Ingress(Change::Set(ingress("single", |object| {
        object["metadata"]["resourceVersion"] = "999999".into();
    }))));
    let changes = cluster.changes().unwrap();
    assert_eq!(cluster.given_away().count(), 0);
    assert_eq!(changes.ingresses.len(), 1);
    assert_eq!(changes.ingresses[0].rules, None, "they are in effect");

    cluster.learn(News::Ingress(Change::Set(given())));
    cluster.changes().unwrap();
    cluster.let_go(&key("single"));
    assert_eq!(cluster.changes().unwrap().gone, [key("single")]);
}
