//! Timeouts at the activator's ports.
//!
//! A response that has begun is cut where the client sees it. That is a deliberate deviation: Knative's own activator
//! appends its text to the body and ends the response as if it were complete (knative/serving
//! `pkg/http/handler/timeout.go`).

use http::Request;
use parkway_tests::http2::Http2;
use parkway_tests::upstream::Connection;
use parkway_tests::{Raw, Upstream};

use crate::cluster::{Cluster, limited};

const NAME: &str = "single-00001.fixtures.svc.cluster.local";

#[tokio::test]
async fn what_is_parked_or_not_answered_in_time_is_told_so_in_the_activators_words() {
    let upstream = Upstream::start(Connection::stall).await;
    for endpoints in [&[][..], &[upstream.address()]] {
        let cluster = Cluster::with(limited(10, 300), endpoints).await;
        let mut client = Raw::connect(cluster.activator).await;
        client
            .send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"))
            .await;
        let answer = client.answer().await.expect(504);
        assert_eq!(answer.text(), "activator request timeout");
        cluster.finish().await;
    }
}

#[tokio::test]
async fn a_response_that_has_begun_is_cut_without_its_last_chunk_over_http1() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.request().await;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
        connection.send(head).await;
        connection.stall().await;
    })
    .await;
    let cluster = Cluster::with(limited(10, 2_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.activator).await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"))
        .await;
    client.head().await;

    // Not a byte more, and no end.
    assert_eq!(&client.rest().await[..], b"5\r\nbegun\r\n");
    cluster.finish().await;
}

#[tokio::test]
async fn a_response_that_has_begun_is_reset_over_http2() {
    let upstream = Upstream::http2(async |_, mut respond| {
        let mut body = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        body.send_data("begun".into(), false).unwrap();
        std::future::poll_fn(|cx| body.poll_reset(cx)).await.ok();
    })
    .await;
    let cluster = Cluster::with(limited(10, 2_000), &[upstream.address()]).await;
    let client = Http2::connect(cluster.activator, NAME).await;

    let answer = client
        .send(Request::get("/").body("".into()).unwrap())
        .await;

    assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "begun"));
    let broken = answer.broken.unwrap();
    assert!(broken.contains("stream error received"), "{broken}");
    cluster.finish().await;
}
