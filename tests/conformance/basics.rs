//! Rows `basics`, `basics/http2`, `hosts/multiple` and `retry`, `timeout`: one backend behind one rule.

use futures::future::join_all;

use crate::images::Image;
use crate::source::Source;
use crate::suite::{Suite, from_both_sources};

async fn request_to_the_host_of_a_rule_reaches_its_backend(source: Source) {
    let suite = Suite::start(source, &["basics"], Image::Runtime).await;

    let row = suite.row("basics");
    let answer = suite.outside(row.host()).get("/").await.expect(200).json();

    assert_eq!(answer["host"]["name"], row.services()[0]);
    assert_eq!(answer["request"]["host"], row.host());
    assert_eq!(answer["request"]["protoMajor"], 1);
    suite.finish().await;
}

async fn backend_with_an_h2c_port_is_spoken_to_by_http2_for_a_client_by_http1(source: Source) {
    let suite = Suite::start(source, &["basics-http2"], Image::Runtime).await;

    let answer = suite
        .outside(suite.row("basics-http2").host())
        .get("/")
        .await
        .expect(200)
        .json();

    assert_eq!(answer["request"]["protoMajor"], 2);
    suite.finish().await;
}

async fn every_host_of_a_rule_is_served(source: Source) {
    let suite = Suite::start(source, &["hosts-multiple"], Image::Runtime).await;

    let hosts = suite.row("hosts-multiple").hosts();
    assert_eq!(hosts.len(), 4);
    for host in &hosts {
        let answer = suite.outside(host).get("/").await.expect(200).json();
        assert_eq!(answer["request"]["host"], *host);
    }
    suite.finish().await;
}

async fn a_503_of_the_backend_is_passed_on_and_the_request_not_sent_again(source: Source) {
    let suite = Suite::start(source, &["retry"], Image::Retry).await;

    let site = suite.outside(suite.row("retry").host());
    site.get("/").await.expect(503);
    let second = site.get("/").await.expect(200);

    assert_eq!(
        second.text(),
        "Retry 1",
        "the second request of the client is the second of the backend"
    );
    suite.finish().await;
}

/// As long the suite waits, and no timeout of ours may be shorter.
const WAIT_MS: u32 = 10_000;

async fn answer_may_take_its_time_before_its_head_and_before_its_body(source: Source) {
    let suite = Suite::start(source, &["timeout"], Image::Timeout).await;

    let site = suite.outside(suite.row("timeout").host());
    let answers = [(0, 0), (WAIT_MS, 0), (0, WAIT_MS)].map(async |(before_head, before_body)| {
        let path = format!("/?initialTimeout={before_head}&timeout={before_body}");
        let answer = site.get(&path).await.expect(200);
        assert_eq!(
            answer.text(),
            format!("Slept for {before_body} milliseconds")
        );
    });
    join_all(answers).await;
    suite.finish().await;
}

from_both_sources!(
    request_to_the_host_of_a_rule_reaches_its_backend,
    backend_with_an_h2c_port_is_spoken_to_by_http2_for_a_client_by_http1,
    every_host_of_a_rule_is_served,
    a_503_of_the_backend_is_passed_on_and_the_request_not_sent_again,
    answer_may_take_its_time_before_its_head_and_before_its_body,
);
