//! WebSocket over HTTP/2: extended CONNECT (RFC 8441).

use bytes::Bytes;
use http::Request;
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, State, Upstream, eventually, hello_service, revision_with_endpoints, service,
    with_endpoints,
};

use crate::websocket::{OnStream, accept, connect, echo};

async fn shop_at(upstream: &Upstream) -> Parkway {
    Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await
}

#[tokio::test]
async fn both_entrances_announce_it_and_the_endpoint_sees_an_upgrade_of_http1() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let head = accept(&mut connection).await.unwrap();
        let said = |name| head.header(name).unwrap_or("nothing").to_owned();
        let seen = format!(
            "{} {} {} {} {} {}|",
            head.method,
            head.target,
            said("upgrade"),
            said("sec-websocket-version"),
            said("sec-websocket-protocol"),
            said("x-forwarded-proto"),
        );
        connection.send(seen).await;
        connection.stall().await;
    })
    .await;
    let parkway = shop_at(&upstream).await;
    let outside = parkway.service("shop").http2().await;
    let inside = parkway.at_local("shop.default.svc.cluster.local");
    let inside = inside.http2().await;
    for http2 in [outside, inside] {
        let asked = connect(&http2, "websocket").await;
        let (answer, mut socket) = OnStream::opened(asked).await;
        let expected = "GET /chat?room=1 websocket 13 chat http|";
        let seen = socket.exactly(expected.len()).await;
        assert_eq!(String::from_utf8(seen).unwrap(), expected);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
    }
    parkway.finish().await;
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_ends_for_itself() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        accept(&mut connection).await.unwrap();
        let heard = connection.raw.rest().await; // until the client has ended its side
        connection.send(heard).await;
        connection.send("bye").await;
    })
    .await;
    let parkway = shop_at(&upstream).await;
    let http2 = parkway.service("shop").http2().await;
    let mut socket = OnStream::open(&http2).await;
    let state = parkway.state().await;
    assert_eq!(state.in_flight(), 1, "it counts while it lasts");
    for text in ["one ", "two "] {
        socket.send(text);
    }
    socket.end();
    assert_eq!(socket.exactly(11).await, b"one two bye");
    socket.end_of_it().await.unwrap();
    let opened = [("http_response_status_code", "101")];
    eventually("the tunnel to be counted", async || {
        parkway.metric("parkway_requests_total", &opened).await
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn bytes_that_come_before_the_answer_wait_for_a_cold_start_and_none_is_lost() {
    const BYTES: u32 = 60_000; // within a stream's window
    let upstream = Upstream::start(async |mut connection: Connection| {
        accept(&mut connection).await.unwrap();
        let heard = connection.raw.rest().await;
        connection.send(heard).await;
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[])).await;
    let http2 = parkway.service("shop").http2().await;
    let mut asked = connect(&http2, "websocket").await;
    let early = crate::pattern(BYTES);
    for piece in early.chunks(10_000) {
        asked.push(Bytes::copy_from_slice(piece)).unwrap();
    }
    let has_all = |state: &State| state.0["parkedBytes"].as_u64() >= Some(BYTES.into());
    parkway.state_when("what came to be counted", has_all).await;

    let awake = revision_with_endpoints("shop", &[upstream.address()]);
    parkway.edit("main", awake);

    let (_, mut socket) = OnStream::opened(asked).await;
    socket.end();
    assert!(socket.exactly(early.len()).await == early);
    socket.end_of_it().await.unwrap();
    parkway.finish().await;
}

#[tokio::test]
async fn a_request_that_one_endpoint_refuses_opens_its_socket_at_another() {
    let (refusing, upstream) = (Upstream::refusing(), Upstream::start(echo).await);
    let endpoints = [refusing.address(), upstream.address()];
    let parkway = Parkway::with(revision_with_endpoints("shop", &endpoints)).await;
    let http2 = parkway.service("shop").http2().await;
    for _ in 0..4 {
        let mut asked = connect(&http2, "websocket").await;
        asked.push("earl").unwrap();
        let (_, mut socket) = OnStream::opened(asked).await;
        socket.send("late");
        assert_eq!(socket.exactly(8).await, b"earllate");
    }
    drop(http2);
    parkway.finish().await;
}

#[tokio::test]
async fn much_passes_in_both_directions_at_once() {
    let upstream = Upstream::start(echo).await;
    let parkway = shop_at(&upstream).await;
    let http2 = parkway.service("shop").http2().await;
    let mut asked = connect(&http2, "websocket").await;
    let much = crate::pattern(1_000_000);
    // What the window does not let go yet waits in the client.
    asked.push(much.clone()).unwrap();
    let (_, mut socket) = OnStream::opened(asked).await;
    assert!(socket.exactly(much.len()).await == much);
    drop((socket, http2));
    parkway.finish().await;
}

#[tokio::test]
async fn a_reset_of_either_side_is_a_reset_at_the_other() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        accept(&mut connection).await.unwrap();
        match connection.number {
            0 => connection.reset(),
            1 => connection.stall().await, // ends when Parkway ends the connection
            // Keeps its side open, also when the client has ended its own.
            _ => std::future::pending().await,
        }
    })
    .await;
    let parkway = shop_at(&upstream).await;
    let http2 = parkway.service("shop").http2().await;
    let mut broken = OnStream::open(&http2).await;
    let error = broken.end_of_it().await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));

    let mut given_up = OnStream::open(&http2).await;
    parkway.in_flight(1).await;
    given_up.sends.send_reset(h2::Reason::CANCEL);
    parkway.quiet().await;

    // Also after it has said that it sends no more, when nobody reads from it.
    let mut given_up = OnStream::open(&http2).await;
    given_up.end();
    parkway.in_flight(1).await;
    given_up.sends.send_reset(h2::Reason::CANCEL);
    parkway.quiet().await;
    parkway.finish().await;
}

#[tokio::test]
async fn an_endpoints_refusal_is_passed_on_and_a_success_that_is_none_is_a_502() {
    const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
    const IGNORED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npage";
    const ANOTHER: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: bm90IHRoYXQ=\r\n\r\n";
    for (said, status, text) in [
        (REFUSED, 403, "no"),
        (
            IGNORED,
            502,
            "the endpoint sent an invalid response: it did not switch protocols\n",
        ),
        (
            ANOTHER,
            502,
            "the endpoint sent an invalid response: its Sec-WebSocket-Accept is not that of the key\n",
        ),
    ] {
        let upstream = Upstream::start(move |mut connection: Connection| async move {
            while connection.request().await.is_some() {
                connection.send(said).await;
            }
        })
        .await;
        let parkway = shop_at(&upstream).await;
        let http2 = parkway.service("shop").http2().await;
        let asked = connect(&http2, "websocket").await;
        let answer = asked.answer().await.unwrap().expect(status);
        assert_eq!(answer.text(), text);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_plain_connect_is_405_and_another_protocol_501() {
    let upstream = Upstream::answering("shop").await;
    let parkway = shop_at(&upstream).await;
    let http2 = parkway.service("shop").http2().await;
    let other = connect(&http2, "connect-udp").await;
    let other = other.answer().await.unwrap().expect(501);
    assert_eq!(
        other.text(),
        "no protocol but websocket is served on a stream\n"
    );

    let plain = Request::connect("/").body(()).unwrap();
    let plain = http2.begin(plain, false).await.unwrap();
    let plain = plain.answer().await.unwrap().expect(405);
    assert_eq!(plain.text(), "CONNECT is not served here\n");
    assert_eq!(http2.get("/").await.status, 200, "the connection goes on");
    assert_eq!(upstream.connections(), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn a_socket_for_nobody_is_answered_like_any_request() {
    let parkway = Parkway::with(hello_service("shop").h2c().timeout(1).never_listening()).await;
    let http2 = parkway.service("nowhere").http2().await;
    let asked = connect(&http2, "websocket").await;
    asked.answer().await.unwrap().expect(404);
    let http2 = parkway.service("shop").http2().await;
    let asked = connect(&http2, "websocket").await;
    asked.answer().await.unwrap().expect(504);
    parkway.finish().await;
}

#[tokio::test]
async fn a_revision_that_speaks_http2_is_asked_by_http1_for_a_socket() {
    let upstream = Upstream::start(echo).await;
    let shop = with_endpoints(service("shop", &[]).h2c(), &[upstream.address()]);
    let parkway = Parkway::with(shop).await;
    let http2 = parkway.service("shop").http2().await;
    let mut socket = OnStream::open(&http2).await;
    socket.send("ping");
    assert_eq!(socket.exactly(4).await, b"ping");
    drop((socket, http2));
    parkway.finish().await;
}
