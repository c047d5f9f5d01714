//! Rows `visibility`, `visibility/split`, `visibility/path` and `host-rewrite`: what is only for the inside.

use crate::dispatch::{assert_paths, assert_shares};
use crate::images::Image;
use crate::source::Source;
use crate::suite::{Suite, from_both_sources};

/// As in the suite, the inside is reached by proxies that anyone may ask from outside.
async fn cluster_local_rule_is_404_outside_and_served_inside_for_each_of_its_names(source: Source) {
    let suite = Suite::start(source, &["visibility"], Image::Runtime).await;

    let names = suite.row("visibility").hosts();
    assert_eq!(names.len(), 3);
    for name in &names {
        suite.outside(name).get("/").await.expect(404);
        suite.inside(name).get("/").await.expect(200);
    }
    suite.finish().await;
}

async fn workload_calls_a_cluster_local_name_through_the_inner_entrance(source: Source) {
    let mut suite = Suite::start(source, &["visibility"], Image::Runtime).await;

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

async fn shares_of_a_cluster_local_rule_are_kept(source: Source) {
    let suite = Suite::start(source, &["visibility-split"], Image::Runtime).await;

    let row = suite.row("visibility-split");
    suite.outside(row.host()).get("/").await.expect(404);
    assert_shares(&suite.inside(row.host()), &row.splits()).await;

    suite.finish().await;
}

async fn paths_of_a_cluster_local_rule_are_404_outside_and_told_apart_inside(source: Source) {
    let suite = Suite::start(source, &["visibility-path"], Image::Runtime).await;

    let row = suite.row("visibility-path");
    for path in ["/", "/foo", "/bar", "/baz", "/asdf"] {
        suite.outside(row.host()).get(path).await.expect(404);
    }
    assert_paths(&suite.inside(row.host()), row).await;

    suite.finish().await;
}

async fn rewritten_host_leads_by_an_external_name_through_the_inner_entrance(source: Source) {
    let mut suite = Suite::start(source, &["host-rewrite-local"], Image::Runtime).await;
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

from_both_sources!(
    cluster_local_rule_is_404_outside_and_served_inside_for_each_of_its_names,
    workload_calls_a_cluster_local_name_through_the_inner_entrance,
    shares_of_a_cluster_local_rule_are_kept,
    paths_of_a_cluster_local_rule_are_404_outside_and_told_apart_inside,
    rewritten_host_leads_by_an_external_name_through_the_inner_entrance,
);
