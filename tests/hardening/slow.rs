//! Clients that are slow, and clients that are many: what they hold is bounded, and they are told.

use std::time::Duration;

use http::{Method, Request};
use parkway_tests::frames::{Frames, begun, code, data, get, kind, many, request, reset, whole};
use parkway_tests::manifest::Manifests;
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Raw, Upstream, eventually, revision_with_endpoints};

const HOST: &str = "shop.default.localhost";

/// With a second's patience for bodies.
async fn impatient(manifest: Manifests) -> Parkway {
    let builder = Parkway::builder().manifest("main", manifest);
    builder.flag("--body-patience-seconds", 1).start().await
}

async fn answering() -> (Upstream, Parkway) {
    let upstream = Upstream::answering("shop").await;
    let parkway = impatient(revision_with_endpoints("shop", &[upstream.address()])).await;
    (upstream, parkway)
}

#[tokio::test]
async fn a_client_that_stops_sending_a_body_is_answered_408_and_holds_nothing_any_more() {
    let (_upstream, parkway) = answering().await;
    let shop = parkway.service("shop");

    let mut http1 = shop.raw().await;
    let head = shop.head("POST /");
    http1
        .send([&head, "Content-Length: 1000\r\n\r\nhello"].concat())
        .await;
    let answer = http1.answer().await.expect(408);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(http1.is_closed().await);

    let mut http2 = Frames::connect(parkway.external(), &[]).await;
    let post = request("POST", HOST, "/", &[]);
    let first = [begun(1, &post), data(1, b"hello", false)].concat();
    http2.send(first).await;
    assert_eq!(http2.status(1).await, Some(408));
    // Others of the same connection are served.
    http2.send(whole(3, &get(HOST, "/"))).await;
    assert_eq!(http2.status(3).await, Some(200));
    drop(http2);
    parkway.finish().await;
}

#[tokio::test]
async fn a_client_that_sends_a_body_byte_by_byte_is_answered_408() {
    let (_upstream, parkway) = answering().await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    let head = shop.head("POST /");
    client
        .send([&head, "Transfer-Encoding: chunked\r\n\r\n"].concat())
        .await;
    let mut every = tokio::time::interval(Duration::from_millis(20));
    let answer = eventually("an answer", async || {
        every.tick().await;
        drop(client.try_send("1\r\nx\r\n").await);
        let arrived = client.arrived();
        (!arrived.is_empty()).then_some(arrived)
    });
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    parkway.finish().await;
}

/// Shows that patience has passed for what began before.
async fn outlives_patience(parkway: &Parkway) {
    let shop = parkway.service("shop");
    let mut silent = shop.raw().await;
    let head = shop.head("POST /");
    silent
        .send([&head, "Content-Length: 5\r\n\r\n"].concat())
        .await;
    silent.answer().await.expect(408);
}

#[tokio::test]
async fn a_call_of_grpc_may_be_silent_for_long() {
    let (_upstream, parkway) = answering().await;
    let mut http2 = Frames::connect(parkway.external(), &[]).await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    http2
        .send(begun(1, &request("POST", HOST, "/", &grpc)))
        .await;
    parkway.in_flight(1).await;

    outlives_patience(&parkway).await;

    http2.send(data(1, b"hello", true)).await;
    assert_eq!(http2.status(1).await, Some(200));
    drop(http2);
    parkway.finish().await;
}

#[tokio::test]
async fn once_the_endpoint_answers_both_may_send_when_they_want() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while let Some(head) = connection.request().await {
            if head.header("content-length").is_some() {
                connection.body(&head).await;
                return;
            }
            // A byte that was asked for, so that the body is being read.
            connection.raw.until("first\r\n").await;
            connection
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoon\r\n")
                .await;
            connection.raw.until("last\r\n").await;
            connection.send("5\r\nthen.\r\n0\r\n\r\n").await;
            connection.raw.until("0\r\n\r\n").await;
        }
    });
    let upstream = upstream.await;
    let parkway = impatient(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    let head = shop.head("POST /");
    client
        .send([&head, "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"].concat())
        .await;
    client.until("soon\r\n").await;

    outlives_patience(&parkway).await;

    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    client.until("then.\r\n0\r\n\r\n").await;
    drop(client);
    parkway.finish().await;
}

#[tokio::test]
async fn one_connection_too_many_of_a_client_is_answered_429_and_others_are_served() {
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::builder()
        .manifest("main", manifest)
        .flag("--client-connections", 2)
        .start()
        .await;
    let shop = parkway.service("shop");
    let get = || Request::get("/").body("".into()).unwrap();
    let (mut first, mut second) = (shop.http1().await, shop.http1().await);
    first.send(get()).await.expect(200);
    second.send(get()).await.expect(200);

    let mut refused = shop.raw().await;
    let answer = refused.answer().await.expect(429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.text(), "too many connections from this address\n");
    assert!(refused.is_closed().await);
    let refused = [("reason", "client_connections")];
    let counted = parkway.metric("parkway_connections_refused_total", &refused);
    assert_eq!(counted.await, Some(1.0));

    let mut other = Raw::connect_from("127.0.0.2", parkway.external()).await;
    other.send(shop.head("GET /") + "\r\n").await;
    other.answer().await.expect(200);
    // Inside, a client may be an ingress that speaks for many.
    let inside = parkway.at_local("shop.default.svc.cluster.local");
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut one = inside.http1().await;
        one.send(get()).await.expect(200);
        kept.push(one);
    }
    drop((first, kept));
    let is_one_left = |state: &parkway_tests::State| state.connections() == 2;
    parkway
        .state_when("places that are free again", is_one_left)
        .await;
    shop.send(shop.request(Method::GET, "/", ""))
        .await
        .expect(200);
    drop((second, other));
    parkway.finish().await;
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_reads_its_answer_and_an_orderly_end() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let large = "Content-Length: 10000000\r\n";
    let cases = [
        (
            400,
            shop.head("POST /") + large + "Content-Length: 1\r\n\r\n",
        ),
        (400, shop.head("POST /") + large + "Bad Name: 1\r\n\r\n"),
        (
            414,
            shop.head(&format!("POST /{}", "x".repeat(20_000))) + large + "\r\n",
        ),
        (
            431,
            shop.head("POST /") + large + &"x: 1\r\n".repeat(200) + "\r\n",
        ),
        (
            400,
            shop.head("POST /") + "Transfer-Encoding: chunked\r\n\r\nnone\r\n",
        ),
        (
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{large}\r\n"),
        ),
    ];
    for (status, head) in cases {
        let mut client = shop.raw().await;
        // More than the kernel keeps on both sides: it has to be read for the client to go on.
        client.send(head.as_bytes()).await;
        client.send(&vec![b'x'; 8_000_000]).await;
        let answer = client.answer().await.expect(status);
        assert_eq!(answer.header("connection"), Some("close"), "{head:.60}");
        client.half_close().await;
        assert!(client.is_closed_in_order().await, "{head:.60}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_http2_client_that_goes_on_after_a_mistake_reads_why_it_was_ended_and_an_orderly_end() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let block = get(HOST, "/");
    let many_resets = many((0..20_000).map(|number| {
        let id = 2 * number + 1;
        [whole(id, &block), reset(id, code::CANCEL)].concat()
    }));
    let mistakes = [
        (code::PROTOCOL_ERROR, whole(2, &block)),
        (code::ENHANCE_YOUR_CALM, many_resets.to_vec()),
    ];
    for (why, mistake) in mistakes {
        let mut client = Frames::connect(parkway.external(), &[]).await;
        // More than the kernel keeps on both sides: it has to be read for the client to go on.
        client.send(mistake).await;
        client.send(&vec![0; 8_000_000]).await;
        loop {
            let frame = client.next().await.expect("to be told");
            if let Some(code) = frame.goaway_code() {
                assert_eq!(code, why);
                break;
            }
        }
        client.half_close().await;
        assert!(client.into_raw().is_closed_in_order().await, "{why}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn what_is_pipelined_behind_the_last_request_does_not_cost_the_client_its_answer() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    let last = shop.head("GET /last") + "Connection: close\r\n\r\n";
    let more = shop.head("GET /more") + "\r\n";
    client.send([last, more.repeat(100)].concat()).await;
    client.answer().await.expect(200);
    assert!(client.is_closed_in_order().await);
    parkway.finish().await;
}

#[tokio::test]
async fn a_http2_connection_that_sends_no_whole_head_is_closed() {
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::builder()
        .manifest("main", manifest)
        .flag("--idle-seconds", 1)
        .start()
        .await;
    let mut client = Frames::connect(parkway.external(), &[]).await;
    // The beginning of a head whose rest never comes: to HTTP/2 that is a connection without a stream.
    let head = whole(1, &get(HOST, "/"));
    client.send(&head[..head.len() - 1]).await;
    assert!(client.next_of(kind::GOAWAY).await.is_some());
    drop(client);
    parkway
        .state_when("no connection", |state| state.connections() == 0)
        .await;
    parkway.finish().await;
}
