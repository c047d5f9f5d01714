//! Endpoints that say more than they were asked, too early, or without end; and clients that leave while one answers.

use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, revision_with_endpoints};

async fn in_front_of(endpoint: &Upstream) -> Parkway {
    Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_not_the_answer_to_the_next_request() {
    for behind in ["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged", "x"] {
        let endpoint = Upstream::start(move |mut connection: Connection| async move {
            while connection.request().await.is_some() {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue";
                connection.send(format!("{answer}{behind}")).await;
            }
        })
        .await;
        let parkway = in_front_of(&endpoint).await;

        for _ in 0..50 {
            let answer = parkway.service("shop").get("/").await.expect(200);
            assert_eq!(answer.text(), "true");
        }
        parkway.finish().await;
    }
}

#[tokio::test]
async fn informational_answers_without_end_are_a_502() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000))
                .await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    parkway.service("shop").get("/").await.expect(502);
    parkway.finish().await;
}

#[tokio::test]
async fn a_head_without_end_is_a_502() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        if connection.request().await.is_some() {
            connection.send("HTTP/1.1 200 OK\r\n").await;
            let line = format!("x: {}\r\n", "1".repeat(1000));
            while connection.raw.try_send(&line).await.is_ok() {}
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    parkway.service("shop").get("/").await.expect(502);
    parkway.finish().await;
}

/// The endpoint answers at once and waits for the rest of the request, which will not come.
#[tokio::test]
async fn the_endpoint_hears_of_a_client_that_leaves_in_the_middle_of_an_exchange() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        if connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                .await;
            connection.stall().await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;
    let shop = parkway.service("shop");

    for framing in [
        "Content-Length: 1000\r\n\r\nonly the beginning",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    ] {
        let mut client = shop.raw().await;
        client.send(shop.head("POST /") + framing).await;
        client.until("first\r\n").await;
        drop(client);
        parkway.quiet().await;
    }
    parkway.finish().await;
}

/// A conversation over one exchange: each side goes on only when the other has.
#[tokio::test]
async fn both_sides_of_an_http1_exchange_go_on_at_the_same_time() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            for _ in 0..3 {
                connection.raw.until("ping\r\n").await;
                connection.send("4\r\npong\r\n").await;
            }
            connection.raw.until("0\r\n\r\n").await;
            connection.send("0\r\n\r\n").await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;

    for _ in 0..3 {
        client
            .send(shop.head("POST /") + "Transfer-Encoding: chunked\r\n\r\n")
            .await;
        client.until("\r\n\r\n").await;
        for _ in 0..3 {
            client.send("4\r\nping\r\n").await;
            client.until("pong\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
    }

    assert_eq!(endpoint.connections(), 1, "each exchange ended well");
    parkway.finish().await;
}
