//! Rows `visibility`, `visibility/split`, `visibility/path` and `host-rewrite`: what is only for the inside.

use crate::dispatch::{assert_paths, assert_shares};
use crate::images::Image;
use crate::suite::Suite;

/// As in the suite, the inside is reached by proxies that anyone may ask from outside.
#[tokio::test]
async fn cluster_local_rule_is_404_outside_and_served_inside_for_each_of_its_names() {
    let suite = Suite::start(&["visibility"], Image::Runtime).await;

    let names = suite.row("visibility").hosts();
    assert_eq!(names.len(), 3);
    for name in &names {
        suite.outside(name).get("/").await.expect(404);
        suite.inside(name).get("/").await.expect(200);
    }
    suite.finish().await;
}

#[tokio::test]
async fn workload_calls_a_cluster_local_name_through_the_inner_entrance() {
    let mut suite = Suite::start(&["visibility"], Image::Runtime).await;

    let names = suite.row("visibility").hosts();
    let rows = [
        "visibility-proxy-fqdn",
        "visibility-proxy-short",
        "visibility-proxy-shortest",
    ];
    for (row, target) in rows.iter().zip(names) {
        let image = Image::HttpProxy {
            gateway: suite.parkway.local(),
            target: target.clone(),
        };
        suite.add(&[row], image).await;
        let answer = suite
            .outside(suite.row(row).host())
            .get("/")
            .await
            .expect(200)
            .json();
        assert_eq!(answer["request"]["host"], target);
    }
    suite.finish().await;
}

#[tokio::test]
async fn shares_of_a_cluster_local_rule_are_kept() {
    let suite = Suite::start(&["visibility-split"], Image::Runtime).await;

    let row = suite.row("visibility-split");
    suite.outside(row.host()).get("/").await.expect(404);
    assert_shares(&suite.inside(row.host()), &row.splits()).await;

    suite.finish().await;
}

#[tokio::test]
async fn paths_of_a_cluster_local_rule_are_404_outside_and_told_apart_inside() {
    let suite = Suite::start(&["visibility-path"], Image::Runtime).await;

    let row = suite.row("visibility-path");
    for path in ["/", "/foo", "/bar", "/baz", "/asdf"] {
        suite.outside(row.host()).get(path).await.expect(404);
    }
    assert_paths(&suite.inside(row.host()), row).await;

    suite.finish().await;
}

#[tokio::test]
async fn rewritten_host_leads_by_an_external_name_through_the_inner_entrance() {
    let mut suite = Suite::start(&["host-rewrite-local"], Image::Runtime).await;
    suite.add_with_inner_entrance("host-rewrite").await;

    let row = suite.row("host-rewrite");
    let rewritten = row.paths()[0]["rewriteHost"].clone();
    assert_eq!(row.hosts().len(), 2);
    for host in row.hosts() {
        let answer = suite.outside(&host).get("/").await.expect(200).json();
        assert_eq!(answer["request"]["host"], rewritten, "for {host}");
    }
    // The rule it leads to stays invisible from outside.
    suite
        .outside(rewritten.as_str().unwrap())
        .get("/")
        .await
        .expect(404);
    suite.finish().await;
}
