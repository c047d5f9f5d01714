//! What Serving made of Services in a real cluster: each KIngress, Revision and EndpointSlice, and the Services.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use parkway_tests::{Answer, Site};
use serde_json::Value;

use crate::images::Image;
use crate::recording::serving;
use crate::source::Source;
use crate::suite::{Cluster, Suite, at, from_both_sources, leading_to};

/// What Kourier sent with its probes for the KIngress `single` in the recorded cluster.
const HASH_OF_SINGLE: &str = "26d77e9b298e25146da04d3517a9a80b83de9fa91af619b10f968dd1fb242adf";

/// EndpointSlices by Revision: the private one, whose endpoints are its Pods, and the public one, which named an
/// activator of the cluster when it was recorded and would lead nowhere.
const SLICES: [(&str, &str, &str); 6] = [
    (
        "single-00001",
        "single-00001-private-x8lmk",
        "single-00001-6x897",
    ),
    ("split-v1", "split-v1-private-4ttpk", "split-v1-cl466"),
    ("split-v2", "split-v2-private-r9gj4", "split-v2-jqbl7"),
    (
        "tagheader-v1",
        "tagheader-v1-private-2fq5t",
        "tagheader-v1-4bjp8",
    ),
    (
        "tagheader-v2",
        "tagheader-v2-private-mxr62",
        "tagheader-v2-n4dt4",
    ),
    (
        "local-00001",
        "local-00001-private-8dlnm",
        "local-00001-stkrp",
    ),
];

/// Adds a Revision's slices with a ready Pod.
///
/// Most Revisions were at zero when they were recorded, so the Pod and its ports are those of `single`, which was not.
async fn ready(source: Source, cluster: &mut Cluster, revision: &str) {
    let (_, private, public) = SLICES.iter().find(|(of, _, _)| *of == revision).unwrap();
    let image = match source {
        Source::Files => Image::Runtime,
        Source::ApiServer => Image::RuntimeBehindQueueProxy,
    };
    let endpoint = cluster.backend(revision, image).await;
    let with_pods = serving("main/endpointslice/single-00001-private-x8lmk");
    let mut slice = serving(&format!("main/endpointslice/{private}"));
    slice["endpoints"] = with_pods["endpoints"].clone();
    slice["ports"] = with_pods["ports"].clone();
    cluster.put(at(slice, endpoint));
    cluster.put(serving(&format!("main/endpointslice/{public}")));
}

/// The KIngress and Revisions of a Service, with ready Pods.
async fn by_kingress(source: Source, ingress: &str, revisions: &[&str]) -> Suite {
    let mut cluster = Cluster::default();
    cluster.put(serving(ingress));
    for revision in revisions {
        cluster.put(serving(&format!("main/revision/{revision}")));
        ready(source, &mut cluster, revision).await;
    }
    Suite::of(source, cluster).await
}

fn get(headers: &[(&str, &str)]) -> Request<Bytes> {
    let request = headers
        .iter()
        .fold(Request::get("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(Bytes::new()).unwrap()
}

fn revision(answer: &Answer) -> String {
    answer.json()["host"]["name"].as_str().unwrap().to_owned()
}

/// Which Revisions answer a hundred requests of one connection.
async fn hundred(site: &Site) -> BTreeMap<String, usize> {
    let mut client = site.http1().await;
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        let answer = client.send(get(&[])).await.expect(200);
        *counts.entry(revision(&answer)).or_insert(0) += 1;
    }
    counts
}

async fn assert_split(suite: &Suite) {
    let shares = BTreeMap::from([("split-v1".to_owned(), 80), ("split-v2".to_owned(), 20)]);
    assert_eq!(
        hundred(&suite.outside("split.fixtures.example.com")).await,
        shares
    );
    for name in [
        "split.fixtures.svc.cluster.local",
        "split.fixtures.svc",
        "split.fixtures",
    ] {
        assert_eq!(hundred(&suite.inside(name)).await, shares, "for {name}");
        suite.outside(name).get("/").await.expect(404);
    }
    for (tag, of_tag) in [
        ("stable", "split-v1"),
        ("candidate", "split-v2"),
        ("latest", "split-v2"),
    ] {
        let answer = suite
            .outside(&format!("{tag}-split.fixtures.example.com"))
            .get("/")
            .await
            .expect(200);
        assert_eq!(revision(&answer), of_tag, "for the tag {tag}");
        let answer = suite
            .inside(&format!("{tag}-split.fixtures.svc.cluster.local"))
            .get("/")
            .await
            .expect(200);
        assert_eq!(revision(&answer), of_tag, "for the tag {tag}");
    }
}

async fn split_by_its_kingress_is_80_to_20_and_has_its_tags(source: Source) {
    let suite = by_kingress(source, "main/ingress/split", &["split-v1", "split-v2"]).await;
    assert_split(&suite).await;
    suite.finish().await;
}

/// Services of Serving are read from files only: in a cluster its controller makes KIngresses of them.
#[tokio::test]
async fn split_by_its_service_is_80_to_20_and_has_its_tags() {
    let mut cluster = Cluster::default();
    cluster.put(serving("main/ksvc/split"));
    cluster.put(serving("main/revision/split-v1"));
    for revision in ["split-v1", "split-v2"] {
        ready(Source::Files, &mut cluster, revision).await;
    }
    let suite = Suite::of(Source::Files, cluster).await;
    assert_split(&suite).await;
    suite.finish().await;
}

async fn revision_gets_the_host_of_the_client_and_nothing_that_names_the_revision(source: Source) {
    let suite = by_kingress(source, "main/ingress/single", &["single-00001"]).await;

    let answer = suite
        .outside("single.fixtures.example.com")
        .get("/")
        .await
        .expect(200)
        .json();

    let request = &answer["request"];
    assert_eq!(request["host"], "single.fixtures.example.com");
    assert_eq!(request["headers"]["k-proxy-request"], "activator");
    for gone in [
        "knative-serving-revision",
        "knative-serving-namespace",
        "k-original-host",
        "k-network-hash",
    ] {
        assert_eq!(request["headers"].get(gone), None, "{gone}");
    }
    assert_eq!(request["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(request["headers"]["x-forwarded-proto"], "http");
    suite.finish().await;
}

async fn tag_header_leads_to_the_tagged_revision_and_any_other_value_to_the_default(
    source: Source,
) {
    let suite = by_kingress(
        source,
        "tag-header/ingress/tagheader",
        &["tagheader-v1", "tagheader-v2"],
    )
    .await;

    for (entrance, host) in [
        (
            suite.outside("tagheader.fixtures.example.com"),
            "beta-tagheader.fixtures.example.com",
        ),
        (
            suite.inside("tagheader.fixtures.svc.cluster.local"),
            "beta-tagheader.fixtures.svc.cluster.local",
        ),
    ] {
        let tag = "Knative-Serving-Tag";
        for (sent, expected) in [
            (vec![(tag, "beta")], "tagheader-v2"),
            (vec![], "tagheader-v1"),
            (vec![(tag, "gamma")], "tagheader-v1"),
            (vec![(tag, "Beta")], "tagheader-v1"),
        ] {
            let answer = entrance.send(get(&sent)).await.expect(200);
            assert_eq!(revision(&answer), expected, "for {sent:?}");
            let is_default = answer.json()["request"]["headers"]
                .get("knative-serving-default-route")
                .cloned();
            let marked = (expected == "tagheader-v1").then(|| Value::from("true"));
            assert_eq!(is_default, marked, "for {sent:?}");
        }
        let answer = Site::new(entrance.address(), host)
            .get("/")
            .await
            .expect(200);
        assert_eq!(revision(&answer), "tagheader-v2");
        assert_eq!(
            answer.json()["request"]["headers"]["knative-serving-tag"],
            "beta"
        );
    }
    suite.finish().await;
}

async fn cluster_local_service_is_404_outside_and_served_inside(source: Source) {
    let suite = by_kingress(source, "main/ingress/local", &["local-00001"]).await;

    for name in [
        "local.fixtures.svc.cluster.local",
        "local.fixtures.svc",
        "local.fixtures",
    ] {
        suite.outside(name).get("/").await.expect(404);
        suite.inside(name).get("/").await.expect(200);
    }
    suite.finish().await;
}

async fn domain_mapping_passes_twice_and_the_revision_sees_the_mapped_name(source: Source) {
    let mut suite = by_kingress(source, "main/ingress/single", &["single-00001"]).await;
    let inner = suite.parkway.local();
    let mut mapping = serving("main/ingress/shop.example.org");
    mapping["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["servicePort"] =
        inner.port().into();
    suite
        .cluster
        .put(leading_to(serving("main/service/single"), inner));
    suite.cluster.put(mapping);
    suite.apply().await;
    suite.endpoints_known().await;

    let forged = get(&[("K-Original-Host", "forged.example.org")]);
    for request in [get(&[]), forged] {
        let answer = suite
            .outside("shop.example.org")
            .send(request)
            .await
            .expect(200);
        assert_eq!(revision(&answer), "single-00001");
        assert_eq!(answer.json()["request"]["host"], "shop.example.org");
    }
    suite
        .inside("single.fixtures.svc.cluster.local")
        .get("/")
        .await
        .expect(200);
    suite.finish().await;
}

/// With the Pods gone, as recorded a little earlier.
async fn request_for_a_revision_at_zero_is_parked_until_its_slice_has_a_pod(source: Source) {
    let mut cluster = Cluster::default();
    match source {
        Source::Files => cluster.put(serving("main/ksvc/single")),
        Source::ApiServer => {
            cluster.put(serving("main/ingress/single"));
            cluster.put(serving("main/revision/single-00001"));
        }
    }
    cluster.put(serving("zero/endpointslice/single-00001-private-x8lmk"));
    cluster.put(serving("zero/endpointslice/single-00001-6x897"));
    let mut suite = Suite::of(source, cluster).await;
    let site = suite.outside("single.fixtures.example.com");

    let cold = tokio::spawn(async move { site.get("/").await });
    suite.parkway.parked(1).await;
    ready(source, &mut suite.cluster, "single-00001").await;
    suite.apply().await;

    assert_eq!(revision(&cold.await.unwrap().expect(200)), "single-00001");
    suite.finish().await;
}

async fn probe_of_a_revision_at_zero_gets_the_recorded_hash_and_wakes_nothing(source: Source) {
    let mut cluster = Cluster::default();
    cluster.put(serving("main/ingress/single"));
    cluster.put(serving("main/revision/single-00001"));
    cluster.put(serving("zero/endpointslice/single-00001-private-x8lmk"));
    cluster.put(serving("zero/endpointslice/single-00001-6x897"));
    let suite = Suite::of(source, cluster).await;

    let probe = [
        ("K-Network-Probe", "probe"),
        ("K-Network-Hash", "override"),
        ("User-Agent", "Knative-Ingress-Probe"),
    ];
    for site in [
        suite.outside("single.fixtures.example.com"),
        suite.inside("single.fixtures.svc.cluster.local"),
    ] {
        let answer = site.send(get(&probe)).await.expect(200);
        assert_eq!(answer.header("k-network-hash"), Some(HASH_OF_SINGLE));
        let answer = site
            .send(get(&[("K-Network-Probe", "activator")]))
            .await
            .expect(200);
        assert_eq!(answer.text(), "activator");
    }
    assert_eq!(
        suite
            .parkway
            .state()
            .await
            .revision("single-00001")
            .counter("parked"),
        0
    );
    suite.finish().await;
}

from_both_sources!(
    split_by_its_kingress_is_80_to_20_and_has_its_tags,
    revision_gets_the_host_of_the_client_and_nothing_that_names_the_revision,
    tag_header_leads_to_the_tagged_revision_and_any_other_value_to_the_default,
    cluster_local_service_is_404_outside_and_served_inside,
    domain_mapping_passes_twice_and_the_revision_sees_the_mapped_name,
    request_for_a_revision_at_zero_is_parked_until_its_slice_has_a_pod,
    probe_of_a_revision_at_zero_gets_the_recorded_hash_and_wakes_nothing,
);
