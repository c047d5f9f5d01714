//! Messages pass through as they are, whatever the protocols.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use parkway_tests::http2::next_data;
use parkway_tests::manifest::Service;
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Gate, Parkway, Upstream, h2c_revision_with_endpoints, hello_service, revision_with_endpoints,
};

use crate::pattern;

/// 10 MiB.
const LARGE: u32 = 10 * 1024 * 1024;

#[tokio::test]
async fn every_pair_of_protocols_carries_heads_bodies_and_trailers() {
    for (service, seen) in [
        (hello_service("shop"), "HTTP/1.1"),
        (hello_service("shop").h2c(), "HTTP/2.0"),
    ] {
        let parkway = Parkway::with(service).await;
        let shop = parkway.service("shop");
        let (mut http1, http2) = (shop.http1().await, shop.http2().await);
        let with_trailers = |path: &str| {
            Request::get(path)
                .header("te", "trailers")
                .body(Bytes::new())
                .unwrap()
        };

        for (sent, version) in [
            (
                http1.send(with_trailers("/headers?trailers=1")).await,
                Version::HTTP_11,
            ),
            (
                http2.send(with_trailers("/headers?trailers=1")).await,
                Version::HTTP_2,
            ),
        ] {
            let answer = sent.expect(200);
            assert_eq!(answer.version, version);
            assert_eq!(answer.json()["version"], seen);
            assert_eq!(answer.json()["path"], "/headers?trailers=1");
            assert_eq!(answer.trailer("x-trailer"), Some("bye"));
        }
        let body = pattern(100_000);
        let put = || shop.request(Method::PUT, "/", body.clone());
        assert!(http1.send(put()).await.expect(200).body == body);
        assert!(http2.send(put()).await.expect(200).body == body);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn answers_without_content_have_none_and_keep_their_fields() {
    for service in both_protocols() {
        let parkway = Parkway::with(service).await;
        let shop = parkway.service("shop");
        let mut raw = shop.raw().await;
        raw.send(shop.head("HEAD /") + "\r\n" + &shop.head("GET /?status=204") + "\r\n")
            .await;
        raw.send(
            shop.head("GET /?status=304") + "\r\n" + &shop.head("HEAD /?bytes=5000000000") + "\r\n",
        )
        .await;
        raw.send(shop.head("GET /") + "\r\n").await;

        let head = raw.answer_to_head().await.expect(200);
        assert_eq!(head.header("content-length"), Some("23"));
        let no_content = raw.answer().await.expect(204);
        assert_eq!(no_content.header("content-length"), None);
        assert_eq!(no_content.header("transfer-encoding"), None);
        raw.answer().await.expect(304);
        assert_eq!(
            raw.answer_to_head()
                .await
                .expect(200)
                .header("content-length"),
            Some("5000000000")
        );
        assert_eq!(
            raw.answer().await.expect(200).text(),
            "Hello from shop-00001!\n"
        );

        let http2 = shop.http2().await;
        let head = http2
            .send(shop.request(Method::HEAD, "/", ""))
            .await
            .expect(200);
        assert_eq!(
            (head.header("content-length"), head.text().as_str()),
            (Some("23"), "")
        );
        assert_eq!(http2.get("/?status=204").await.expect(204).text(), "");
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_head_of_a_parked_request_is_answered_without_content() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").timeout(1))).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    raw.send(shop.head("HEAD /") + "\r\n").await;
    let answer = raw.answer_to_head().await.expect(504);
    assert_eq!(answer.header("content-length"), Some("25"));
    raw.send(shop.head("GET /no/more") + "Connection: close\r\n\r\n")
        .await;
    raw.answer().await.expect(504);
    assert!(raw.is_closed().await);
    parkway.finish().await;
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions_at_once() {
    for service in both_protocols() {
        let parkway = Parkway::with(service).await;
        let shop = parkway.service("shop");
        let body = pattern(LARGE);
        let http2 = shop.http2().await;
        let (over_http1, over_http2) =
            tokio::join!(shop.post("/", body.clone()), http2.post("/", body.clone()));
        assert!(over_http1.expect(200).body == body);
        assert!(over_http2.expect(200).body == body);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_endpoint_back_instead_of_filling_memory() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let before = resident_kib(parkway.pid());
    let mut lazy = Vec::new();
    for _ in 0..4 {
        let mut client = shop.raw().await;
        client
            .send(shop.head("GET /?bytes=1000000000") + "\r\n")
            .await;
        client.head().await;
        let http2 = shop.http2().await;
        let exchange = http2
            .begin(Request::get("/?bytes=1000000000").body(()).unwrap(), true)
            .await
            .unwrap();
        lazy.push((client, http2, exchange.head().await.unwrap()));
    }
    parkway.in_flight(8).await;

    // 8 GB would have come by; what waits in Parkway is bounded by windows and buffers.
    let grown = resident_kib(parkway.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop(lazy);
    parkway.finish().await;
}

#[tokio::test]
async fn both_sides_of_an_http2_stream_go_on_at_the_same_time() {
    let parkway = Parkway::with(hello_service("shop").h2c()).await;
    let http2 = parkway.service("shop").http2().await;
    let mut exchange = http2
        .begin(Request::post("/").body(()).unwrap(), false)
        .await
        .unwrap();
    exchange.write("ping 0", false).await.unwrap();
    let (mut up, response) = exchange.head().await.unwrap();
    let mut down = response.into_body();
    assert_eq!(next_data(&mut down).await.unwrap().unwrap(), "ping 0");
    for number in 1..=5 {
        let ping = format!("ping {number}");
        up.send_data(ping.clone().into(), number == 5).unwrap();
        assert_eq!(next_data(&mut down).await.unwrap().unwrap(), ping);
    }
    while let Some(rest) = next_data(&mut down).await {
        assert_eq!(rest.unwrap(), "");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn request_trailers_reach_an_h2c_endpoint() {
    let upstream = Upstream::http2(async |mut request, mut respond| {
        while next_data(request.body_mut()).await.is_some() {}
        let trailers = request
            .body_mut()
            .trailers()
            .await
            .unwrap()
            .unwrap_or_default();
        let sum = trailers.get("x-sum").cloned().unwrap();
        let answer = http::Response::builder()
            .header("x-sum", sum)
            .body(())
            .unwrap();
        respond.send_response(answer, true).unwrap();
    })
    .await;
    let parkway = Parkway::with(h2c_revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let http2 = shop.http2().await;

    let mut exchange = http2
        .begin(Request::post("/").body(()).unwrap(), false)
        .await
        .unwrap();
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    exchange.write("hello", false).await.unwrap();
    exchange.trailers(trailers).unwrap();
    let answer = exchange.answer().await.unwrap().expect(200);
    assert_eq!(answer.header("x-sum"), Some("1"));

    let mut raw = shop.raw().await;
    let fields = "Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    raw.send(shop.head("POST /") + fields + "5\r\nhello\r\n0\r\nx-sum: 2\r\n\r\n")
        .await;
    assert_eq!(raw.answer().await.expect(200).header("x-sum"), Some("2"));
    parkway.finish().await;
}

#[tokio::test]
async fn an_upgrade_to_a_cold_service_becomes_a_pipe_of_bytes() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    // Eager: its first bytes come with the request.
    raw.send(shop.head("GET /") + "Connection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
        .await;
    parkway.parked(1).await;
    gate.open();

    let head = raw.head().await.to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: echo"),
        "{head}"
    );
    raw.send("bird").await;
    assert_eq!(raw.exactly(10).await, "early bird");
    assert_eq!(
        parkway.state().await.in_flight(),
        1,
        "it counts while it lasts"
    );
    raw.half_close().await;
    assert!(raw.is_closed().await);
    parkway.finish().await;
}

#[tokio::test]
async fn an_upgraded_connection_may_carry_much_in_both_directions() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    raw.send(shop.head("GET /") + "Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    raw.head().await;
    for _ in 0..20 {
        let piece = pattern(48 * 1024);
        raw.send(&piece).await;
        assert!(raw.exactly(piece.len()).await == piece);
    }
    drop(raw);
    parkway.finish().await;
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some(_head) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        connection.send(head).await;
        for number in 0..3 {
            // Not before the client has said, by another connection, that it has the one before.
            connection.send(format!("9\r\ndata: {number}\n\n\r\n")).await;
            connection.step().await;
        }
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    raw.send(shop.head("GET /events") + "\r\n").await;
    for number in 0..3 {
        raw.until(&format!("data: {number}\n\n")).await;
        upstream.go_on();
    }
    raw.until("0\r\n\r\n").await;
    parkway.finish().await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_has_ended_is_passed_on_at_once() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some(_head) = connection.request().await else { return };
        connection.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nstop").await;
        connection.stall().await;
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");

    let mut raw = shop.raw().await;
    raw.send(shop.head("POST /") + "Content-Length: 100000000\r\n\r\nbegin")
        .await;
    assert_eq!(raw.answer().await.expect(413).text(), "stop");
    drop(raw);

    let http2 = shop.http2().await;
    let mut exchange = http2
        .begin(Request::post("/").body(()).unwrap(), false)
        .await
        .unwrap();
    exchange.write("begin", false).await.unwrap();
    assert_eq!(
        exchange.answer().await.unwrap().status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    parkway.finish().await;
}

#[tokio::test]
async fn informational_answers_before_the_final_one_do_not_disturb_it() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")
                .await;
            connection.answer("final").await;
        }
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    assert_eq!(shop.get("/").await.expect(200).text(), "final");
    assert_eq!(
        shop.http2().await.get("/").await.expect(200).text(),
        "final"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn answers_of_every_size_leave_their_connection_to_the_next_request() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        for size in [0, 1, 5_000, 20_000, 64 * 1024, 1_000_000].repeat(4) {
            let Some(_head) = connection.request().await else {
                return;
            };
            let framing = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
            connection.send(framing + &"x".repeat(size)).await;
            let Some(_head) = connection.request().await else {
                return;
            };
            let framing = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunks = format!("1\r\nx\r\n{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
            let chunks = if size == 0 { "0\r\n\r\n" } else { &chunks };
            connection.send(framing.to_owned() + chunks).await;
        }
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    // One client connection, so that one worker serves it.
    let mut client = shop.http1().await;

    for size in [0, 1, 5_000, 20_000, 64 * 1024, 1_000_000].repeat(4) {
        for size in [size, if size == 0 { 0 } else { size + 1 }] {
            let answer = client.send(shop.request(Method::GET, "/", "")).await;
            assert_eq!(answer.expect(200).body.len(), size);
        }
    }

    assert_eq!(upstream.connections(), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn a_hundred_requests_of_one_client_use_few_connections_to_its_endpoint() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::builder()
        .manifest(
            "main",
            revision_with_endpoints("shop", &[upstream.address()]),
        )
        .workers(1)
        .start()
        .await;
    let mut http1 = parkway.service("shop").http1().await;
    for _ in 0..100 {
        http1
            .send(Request::get("/").body(Bytes::new()).unwrap())
            .await
            .expect(200);
    }
    assert_eq!(upstream.connections(), 1);
    parkway.finish().await;
}

fn both_protocols() -> [Service; 2] {
    [hello_service("shop"), hello_service("shop").h2c()]
}

/// Memory a process has in use.
fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
