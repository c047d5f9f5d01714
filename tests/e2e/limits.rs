//! What is refused, and how.

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::{Answer, Parkway, Raw, eventually, hello_service};

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431_over_both_protocols() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let of_bytes = |size: usize| format!("x-filling: {}\r\n", "x".repeat(size));
    told(&parkway, &shop.head("GET /"), &of_bytes(70 * 1024), 431).await;
    let fields: String = (0..200)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    told(&parkway, &shop.head("GET /"), &fields, 431).await;
    told(&parkway, &shop.head("GET /"), &of_bytes(60 * 1024), 200).await;

    let http2 = shop.http2().await;
    let mut many = shop.request(Method::GET, "/", "");
    for number in 0..200 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        many.headers_mut().insert(name, "y".parse().unwrap());
    }
    http2.send(many).await.expect(431);
    http2.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_target_that_is_too_long_is_answered_414() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let target = |length: usize| "/".repeat(length);
    told(
        &parkway,
        &shop.head(&format!("GET {}", target(20 * 1024))),
        "",
        414,
    )
    .await;
    told(
        &parkway,
        &shop.head(&format!("GET {}", target(15 * 1024))),
        "",
        200,
    )
    .await;
    shop.http2().await.get(&target(20 * 1024)).await.expect(414);
    parkway.finish().await;
}

#[tokio::test]
async fn a_request_whose_host_or_length_is_in_doubt_is_answered_400() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    for fields in [
        "Host: other.default.localhost\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Bad Name: x\r\n",
    ] {
        told(&parkway, &shop.head("POST /"), fields, 400).await;
    }
    told(&parkway, "GET / HTTP/1.1\r\n", "", 400).await;
    told(&parkway, "GET / HTTP/1.1\r\n", "Host: a b\r\n", 400).await;
    told(
        &parkway,
        "GET http://shop.default.localhost/ HTTP/1.1\r\n",
        "Host: other\r\n",
        400,
    )
    .await;
    told(&parkway, "NONSENSE\r\n", "", 400).await;
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .counter("grantedAtOnce"),
        0
    );
    parkway.finish().await;
}

/// The one test that takes half a minute: that is how long a client may take.
#[tokio::test]
async fn a_client_that_is_too_slow_is_closed_or_answered_408() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let mut silent = shop.raw().await;
    let mut in_preface = shop.raw().await;
    in_preface.send("PRI * HT").await;
    let mut in_head = shop.raw().await;
    in_head.send(shop.head("GET /")).await;
    let mut in_second_head = shop.raw().await;
    in_second_head.send(shop.head("GET /") + "\r\nGET").await;
    in_second_head.answer().await.expect(200);
    // Whose body comes late is not slow with its next head.
    let mut uploader = shop.raw().await;
    uploader
        .send(shop.head("POST /") + "Content-Length: 5\r\n\r\n")
        .await;
    parkway.in_flight(1).await;
    uploader.send("hello").await;
    uploader.answer().await.expect(200);

    let (silent, in_preface, in_head, in_second_head) = tokio::join!(
        silent.is_closed(),
        in_preface.is_closed(),
        in_head.answer(),
        in_second_head.answer()
    );

    assert!(silent && in_preface);
    in_head.expect(408);
    in_second_head.expect(408);
    uploader.send(shop.head("GET /") + "\r\n").await;
    uploader.answer().await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn connect_is_answered_405() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let connect =
        "CONNECT shop.default.localhost:80 HTTP/1.1\r\nHost: shop.default.localhost:80\r\n";
    told(&parkway, connect, "", 405).await;
    let connect = Request::connect("/").body(Bytes::new()).unwrap();
    parkway
        .service("shop")
        .http2()
        .await
        .send(connect)
        .await
        .expect(405);
    parkway.finish().await;
}

#[tokio::test]
async fn unknown_hosts_are_answered_404_and_known_ones_found_however_they_are_written() {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway
        .at("nobody.default.localhost")
        .get("/")
        .await
        .expect(404);
    parkway.at("[::1]:8080").get("/").await.expect(404);
    for host in [
        "SHOP.Default.localhost",
        "shop.default.localhost:8080",
        "shop.default.localhost.",
    ] {
        parkway.at(host).get("/").await.expect(200);
    }
    let mut absolute = Raw::connect(parkway.external()).await;
    absolute
        .send("GET http://shop.default.localhost/ HTTP/1.1\r\nHost: shop.default.localhost\r\n\r\n")
        .await;
    absolute.answer().await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn one_connection_too_many_is_answered_503_and_closed() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--connections", 3)
        .start()
        .await;
    let shop = parkway.service("shop");
    let mut open = Vec::new();
    for count in 1..=3 {
        open.push(shop.raw().await);
        parkway
            .state_when("the connection to be counted", |state| {
                state.connections() == count
            })
            .await;
    }

    let mut refused = shop.raw().await;
    let answer = refused.answer().await.expect(503);
    assert_eq!(answer.text(), "too many connections\n");
    assert!(answer.header("retry-after").is_some());
    assert!(refused.is_closed().await);

    open.pop();
    eventually("room for another connection", async || {
        let answer = shop.try_get("/").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    parkway.finish().await;
}

/// Sends a head (and what would be the beginning of a body) over a connection of its own, and proves what is answered.
async fn told(parkway: &Parkway, start: &str, fields: &str, status: u16) -> Answer {
    let mut raw = Raw::connect(parkway.external()).await;
    raw.send(format!("{start}{fields}\r\n")).await;
    let answer = raw.answer().await;
    let shown: String = fields.chars().take(60).collect();
    assert_eq!(
        answer.status.as_u16(),
        status,
        "{:?} {shown:?}: {answer:?}",
        start.get(..start.len().min(60))
    );
    answer
}
