//! Requests behind a request that has not been answered yet.

use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, revision_with_endpoints};

/// An endpoint that answers each request with its target when it is told to, half before and half after.
async fn halves() -> Upstream {
    Upstream::start(async |mut connection: Connection| {
        while let Some(head) = connection.request().await {
            connection.step().await;
            let (first, second) = head.target.split_at(head.target.len() / 2);
            let length = head.target.len();
            connection
                .send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{first}"
                ))
                .await;
            connection.step().await;
            connection.send(second).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_head_of_many_fields_behind_another_request_is_answered_after_it() {
    let upstream = halves().await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let fields = "x: 1\r\n".repeat(110);
    let mut raw = shop.raw().await;

    raw.send(shop.head("GET /first") + "\r\n" + &shop.head("GET /second") + &fields + "\r\n")
        .await;
    upstream.go_on();
    raw.until("\r\n\r\n/fi").await;
    upstream.go_on();
    raw.until("rst").await;
    upstream.go_on();
    upstream.go_on();

    assert_eq!(raw.answer().await.expect(200).text(), "/second");
    parkway.finish().await;
}

#[tokio::test]
async fn a_head_behind_chunks_is_looked_at_as_any_other() {
    let upstream = halves().await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    for doubtful in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 0\r\n\r\n",
        "x: 1\n\r\n",
    ] {
        let mut raw = shop.raw().await;
        raw.send(
            shop.head("POST /first")
                + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                + &shop.head("POST /second")
                + doubtful,
        )
        .await;
        upstream.go_on();
        raw.until("\r\n\r\n/fi").await;
        upstream.go_on();
        raw.until("rst").await;

        raw.answer().await.expect(400);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn an_answer_by_http_1_0_is_passed_on_as_one_by_http_1_1() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        if connection.request().await.is_some() {
            connection.send("HTTP/1.0 200 OK\r\n\r\nold").await;
        }
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;

    for _ in 0..2 {
        raw.send(shop.head("GET /") + "\r\n").await;
        let head = raw.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        raw.until("3\r\nold\r\n0\r\n\r\n").await;
    }
    parkway.finish().await;
}
