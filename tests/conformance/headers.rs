//! Rows `headers/pre-split`, `headers/post-split`, `headers/probe` and `headers/tags`.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;

use crate::images::Image;
use crate::source::Source;
use crate::suite::{Suite, from_both_sources};

/// The hash of the recorded KIngress of the row `headers/probe`, computed without Parkway: SHA-256 over
/// `{"rules":[{"hosts":["ingress-conformance-headers-probe-bohpvkna.example.com"],"visibility":"ExternalIP","http":{`
/// `"paths":[{"splits":[{"serviceNamespace":"serving-tests","serviceName":"ingress-conformance-headers-probe-bohpvkna",`
/// `"servicePort":57,"percent":100}]}]}}],"httpOption":"Enabled"}`, its namespace and its name.
const HASH: &str = "aa23a027baa32610f9a47fd3518f6caa612e9b52b2d4c6f35a3d7549611722c6";

fn get(path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(Bytes::new()).unwrap()
}

async fn header_of_a_path_overwrites_what_the_client_sent(source: Source) {
    let suite = Suite::start(source, &["headers-pre-split"], Image::Runtime).await;

    let row = suite.row("headers-pre-split");
    let wanted = &row.paths()[0]["appendHeaders"]["Foo-Bar-Baz"];
    let site = suite.outside(row.host());
    for sent in [
        vec![],
        vec![("Foo-Bar-Baz", "bogus")],
        vec![("Foo-Bar-Baz", "bogus"), ("foo-bar-baz", "more")],
    ] {
        let answer = site.send(get("/", &sent)).await.expect(200).json();
        assert_eq!(answer["request"]["headers"]["foo-bar-baz"], *wanted);
    }
    suite.finish().await;
}

async fn each_split_sets_its_own_header_and_all_splits_are_seen(source: Source) {
    let suite = Suite::start(source, &["headers-post-split"], Image::Runtime).await;

    let row = suite.row("headers-post-split");
    let mut client = suite.outside(row.host()).http1().await;
    let mut seen = BTreeMap::new();
    for _ in 0..100 {
        let answer = client
            .send(get("/", &[("Foo-Bar-Baz", "bogus")]))
            .await
            .expect(200)
            .json();
        let value = answer["request"]["headers"]["foo-bar-baz"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            answer["host"]["name"], value,
            "the header of a split came to the backend of another"
        );
        *seen.entry(value).or_insert(0) += 1;
    }

    let expected: BTreeMap<_, _> = row
        .services()
        .into_iter()
        .map(|service| (service, 25))
        .collect();
    assert_eq!(seen, expected);
    suite.finish().await;
}

async fn probe_gets_the_hash_of_the_kingress_or_the_value_it_carries(source: Source) {
    let suite = Suite::start(source, &["headers-probe"], Image::Runtime).await;

    let site = suite.outside(suite.row("headers-probe").host());
    for (sent, echoed) in [
        ("override", HASH),
        ("the-hash", "the-hash"),
        ("Override", "Override"),
    ] {
        let probe = [("K-Network-Probe", "probe"), ("K-Network-Hash", sent)];
        let answer = site.send(get("/healthz", &probe)).await.expect(200);
        assert_eq!(answer.header("k-network-hash"), Some(echoed));
    }
    suite.finish().await;
}

async fn tag_header_chooses_the_path_that_asks_for_its_value(source: Source) {
    let suite = Suite::start(source, &["headers-tags"], Image::Runtime).await;

    let site = suite.outside(suite.row("headers-tags").host());
    let tag = "Knative-Serving-Tag";
    for (sent, backend) in [
        (vec![(tag, "the-tag")], "tag"),
        (vec![], "no-tag"),
        (vec![(tag, "")], "no-tag"),
        (vec![(tag, "not-the-tag")], "no-tag"),
    ] {
        let answer = site.send(get("/", &sent)).await.expect(200).json();
        assert_eq!(
            answer["request"]["headers"]["which-backend"], backend,
            "for {sent:?}"
        );
    }
    suite.finish().await;
}

from_both_sources!(
    header_of_a_path_overwrites_what_the_client_sent,
    each_split_sets_its_own_header_and_all_splits_are_seen,
    probe_gets_the_hash_of_the_kingress_or_the_value_it_carries,
    tag_header_chooses_the_path_that_asks_for_its_value,
);
