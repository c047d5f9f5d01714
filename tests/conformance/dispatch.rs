//! Rows `dispatch/*`: by path, by share, by both, by rule.

use std::collections::BTreeMap;

use futures::future::join_all;
use http::Request;
use parkway_tests::Site;
use serde_json::Value;

use crate::images::Image;
use crate::source::Source;
use crate::suite::{Row, Suite, from_both_sources};

/// How many requests the suite counts.
const REQUESTS: usize = 1000;
/// How many clients send them.
const CLIENTS: usize = 8;

/// Which values of a header reach the backends, and how often.
async fn count(site: &Site, path: &str, header: &str) -> BTreeMap<String, usize> {
    let clients = (0..CLIENTS).map(|_| async {
        let mut client = site.http1().await;
        let mut values = Vec::new();
        for _ in 0..REQUESTS / CLIENTS {
            let answer = client
                .send(Request::get(path).body(Default::default()).unwrap())
                .await
                .expect(200)
                .json();
            values.push(
                answer["request"]["headers"][header]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        values
    });
    let mut counts = BTreeMap::new();
    for value in join_all(clients).await.into_iter().flatten() {
        *counts.entry(value).or_insert(0) += 1;
    }
    counts
}

/// Each split gets its share within ten percentage points, as the suite asks, and one of none gets nothing.
pub(crate) async fn assert_shares(site: &Site, splits: &[Value]) {
    let counts = count(site, "/", "foo-bar-baz").await;
    assert_eq!(counts.values().sum::<usize>(), REQUESTS);
    for split in splits {
        let percent = split
            .get("percent")
            .map_or(0, |percent| percent.as_u64().unwrap());
        let got = counts
            .get(split["serviceName"].as_str().unwrap())
            .copied()
            .unwrap_or(0);
        let wanted = usize::try_from(percent).unwrap() * REQUESTS / 100;
        let tolerance = if percent == 0 { 0 } else { REQUESTS / 10 };
        assert!(
            got.abs_diff(wanted) <= tolerance,
            "{got} of {REQUESTS} for {split}"
        );
    }
}

/// Every path of the row is served by its own backend, and any other path by the one without.
pub(crate) async fn assert_paths(site: &Site, row: &Row) {
    let marker = |path: &Value| {
        path["splits"][0]["appendHeaders"]["Which-Backend"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let of_prefix = |prefix: &str| {
        let path = row
            .paths()
            .into_iter()
            .find(|path| path["path"].as_str().unwrap_or_default() == prefix);
        marker(&path.unwrap())
    };
    for (asked, prefix) in [
        ("/foo", "/foo"),
        ("/bar", "/bar"),
        ("/baz", "/baz"),
        ("", ""),
        ("/asdf", ""),
    ] {
        for below in ["", "/", "/deeper?and=more"] {
            let path = if asked.is_empty() {
                "/".to_owned()
            } else {
                format!("{asked}{below}")
            };
            let answer = site.get(&path).await.expect(200).json();
            let which = &answer["request"]["headers"]["which-backend"];
            assert_eq!(*which, of_prefix(prefix), "for {path}");
            assert_eq!(answer["host"]["name"], *which);
        }
    }
}

async fn each_path_goes_to_its_backend_and_others_to_the_default(source: Source) {
    let suite = Suite::start(source, &["dispatch-path"], Image::Runtime).await;

    let row = suite.row("dispatch-path");
    assert_paths(&suite.outside(row.host()), row).await;

    suite.finish().await;
}

async fn ten_splits_get_their_shares_and_those_of_none_get_nothing(source: Source) {
    let suite = Suite::start(source, &["dispatch-percentage"], Image::Runtime).await;

    let row = suite.row("dispatch-percentage");
    let splits = row.splits();
    let without = splits
        .iter()
        .filter(|split| split.get("percent").is_none())
        .count();
    assert_eq!((splits.len(), without), (10, 3), "what the row is about");
    assert_shares(&suite.outside(row.host()), &splits).await;

    suite.finish().await;
}

async fn shares_of_one_path_are_its_own(source: Source) {
    let suite = Suite::start(source, &["dispatch-path-and-percentage"], Image::Runtime).await;

    let row = suite.row("dispatch-path-and-percentage");
    let counts = count(&suite.outside(row.host()), "/foo", "which-backend").await;

    let of_foo = &row.paths()[0]["splits"];
    assert_eq!(counts.len(), 2, "{counts:?}");
    for split in of_foo.as_array().unwrap() {
        let got = counts[split["serviceName"].as_str().unwrap()];
        assert!(
            got.abs_diff(REQUESTS / 2) <= 150,
            "{got} of {REQUESTS} for {split}"
        );
    }
    suite.finish().await;
}

async fn rules_of_one_kingress_do_not_mix(source: Source) {
    let suite = Suite::start(source, &["dispatch-rule"], Image::Runtime).await;

    let row = suite.row("dispatch-rule");
    let hosts = row.hosts();
    assert_eq!(hosts.len(), 2);
    for (host, path) in hosts.iter().zip(row.paths()) {
        let answer = suite.outside(host).get("/").await.expect(200).json();
        assert_eq!(
            answer["request"]["headers"]["foo-bar-baz"],
            path["appendHeaders"]["Foo-Bar-Baz"]
        );
        assert_eq!(answer["host"]["name"], path["splits"][0]["serviceName"]);
    }
    suite.finish().await;
}

from_both_sources!(
    each_path_goes_to_its_backend_and_others_to_the_default,
    ten_splits_get_their_shares_and_those_of_none_get_nothing,
    shares_of_one_path_are_its_own,
    rules_of_one_kingress_do_not_mix,
);
