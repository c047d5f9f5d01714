//! Rows `basics`, `basics/http2`, `hosts/multiple` and `retry`, `timeout`: one backend behind one rule.

use crate::images::Image;
use crate::suite::Suite;

#[tokio::test]
async fn request_to_the_host_of_a_rule_reaches_its_backend() {
    let suite = Suite::start(&["basics"], Image::Runtime).await;

    let row = suite.row("basics");
    let answer = suite.outside(row.host()).get("/").await.expect(200).json();

    assert_eq!(answer["host"]["name"], row.services()[0]);
    assert_eq!(answer["request"]["host"], row.host());
    assert_eq!(answer["request"]["protoMajor"], 1);
    suite.finish().await;
}

#[tokio::test]
async fn backend_with_an_h2c_port_is_spoken_to_by_http2_for_a_client_by_http1() {
    let suite = Suite::start(&["basics-http2"], Image::Runtime).await;

    let answer = suite
        .outside(suite.row("basics-http2").host())
        .get("/")
        .await
        .expect(200)
        .json();

    assert_eq!(answer["request"]["protoMajor"], 2);
    suite.finish().await;
}

#[tokio::test]
async fn every_host_of_a_rule_is_served() {
    let suite = Suite::start(&["hosts-multiple"], Image::Runtime).await;

    let hosts = suite.row("hosts-multiple").hosts();
    assert_eq!(hosts.len(), 4);
    for host in &hosts {
        let answer = suite.outside(host).get("/").await.expect(200).json();
        assert_eq!(answer["request"]["host"], *host);
    }
    suite.finish().await;
}

#[tokio::test]
async fn a_503_of_the_backend_is_passed_on_and_the_request_not_sent_again() {
    let suite = Suite::start(&["retry"], Image::Retry).await;

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

/// The suite waits for ten seconds; what is shown here is that both waits are passed on as they are.
#[tokio::test]
async fn answer_may_take_its_time_before_its_head_and_before_its_body() {
    let suite = Suite::start(&["timeout"], Image::Timeout).await;

    let site = suite.outside(suite.row("timeout").host());
    for (before_head, before_body) in [(0, 0), (700, 0), (0, 700)] {
        let path = format!("/?initialTimeout={before_head}&timeout={before_body}");
        let answer = site.get(&path).await.expect(200);
        assert_eq!(
            answer.text(),
            format!("Slept for {before_body} milliseconds")
        );
    }
    suite.finish().await;
}
