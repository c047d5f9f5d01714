//! What flows while something else flows: full-duplex, slow streams, trailers.

use bytes::Bytes;
use http::{Request, Version};
use parkway_tests::http2::next_data;
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, Upstream, h2c_revision_with_endpoints, hello_service, revision_with_endpoints,
};

/// An endpoint of HTTP/1 that answers at once and sends each chunk of the request back as it comes.
async fn duplex(mut connection: Connection) {
    if connection.request().await.is_none() {
        return;
    }
    connection
        .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    loop {
        let Ok(size) = connection.raw.try_until("\r\n").await else {
            return;
        };
        let length = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let Ok(chunk) = connection.raw.try_exactly(length + 2).await else {
            return;
        };
        connection.send(size).await;
        connection.send(chunk).await;
        if length == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn an_http1_response_begins_while_its_request_goes_on_and_both_go_on() {
    let upstream = Upstream::start(duplex).await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let mut raw = site.raw().await;
    let fields = "Transfer-Encoding: chunked\r\n\r\n";
    raw.send(site.head("POST /") + fields).await;
    let head = raw.head().await; // before a byte of the body
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for number in 0..20 {
        raw.send(format!("2\r\n{number:02}\r\n")).await;
        assert_eq!(
            raw.until(&format!("{number:02}\r\n")).await,
            format!("2\r\n{number:02}\r\n")
        );
    }
    raw.send("0\r\n\r\n").await;
    raw.until("0\r\n\r\n").await;
    // And the connection serves the next one.
    raw.send(site.head("POST /") + fields).await;
    raw.head().await;
    drop(raw);
    parkway.finish().await;
}

#[tokio::test]
async fn both_directions_flow_at_once_between_any_two_versions() {
    let http1 = Upstream::start(duplex).await;
    for (manifest, what) in [
        (
            revision_with_endpoints("shop", &[http1.address()]).to_string(),
            "to HTTP/1",
        ),
        (hello_service("shop").h2c().to_string(), "to HTTP/2"),
    ] {
        let parkway = Parkway::with(manifest).await;
        let site = parkway.service("shop");

        let http2 = site.http2().await;
        let mut exchange = http2
            .begin(Request::post("/").body(()).unwrap(), false)
            .await
            .unwrap();
        exchange.write("ping 0", false).await.unwrap();
        let (mut up, response) = exchange.head().await.unwrap();
        assert_eq!(response.status(), 200, "{what}");
        let mut down = response.into_body();
        assert_eq!(next_data(&mut down).await.unwrap().unwrap(), "ping 0");
        for number in 1..=5 {
            let ping = format!("ping {number}");
            up.send_data(ping.clone().into(), number == 5).unwrap();
            assert_eq!(next_data(&mut down).await.unwrap().unwrap(), ping, "{what}");
        }
        drop((up, down, http2));

        let mut raw = site.raw().await;
        raw.send(site.head("POST /") + "Transfer-Encoding: chunked\r\n\r\n2\r\na0\r\n")
            .await;
        raw.head().await;
        raw.until("a0\r\n").await;
        for number in 1..=5 {
            raw.send(format!("2\r\na{number}\r\n")).await;
            raw.until(&format!("a{number}\r\n")).await;
        }
        raw.send("0\r\n\r\n").await;
        raw.until("0\r\n\r\n").await;
        drop(raw);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_slow_stream_of_http2_arrives_piece_by_piece_by_both_versions() {
    let parkway = Parkway::with(hello_service("shop").h2c()).await;
    let site = parkway.service("shop");
    // The next event comes in an hour: what is read now was not held back.
    let path = "/events?count=2&interval_ms=3600000";
    let mut raw = site.raw().await;
    raw.send(site.head(&format!("GET {path}")) + "\r\n").await;
    raw.until("data: 1\n\n").await;
    let http2 = site.http2().await;
    let exchange = http2.begin(Request::get(path).body(()).unwrap(), true);
    let (_, response) = exchange.await.unwrap().head().await.unwrap();
    let mut body = response.into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
    drop((raw, body, http2));
    parkway.finish().await;
}

/// Answers with these trailers, of which only the first is announced, and says in the body which the request had.
async fn with_trailers(mut connection: Connection) {
    while let Some(head) = connection.request().await {
        let mut seen = String::new();
        if head.header("transfer-encoding").is_some() {
            let trailers = connection.raw.chunks().await.1.unwrap();
            let mut names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
            names.sort_unstable();
            seen = names.join(",");
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{seen}!\r\n0\r\n\
             x-sum: 1\r\nx-unannounced: 1\r\n\r\n",
            seen.len() + 1
        );
        connection.send(answer).await;
    }
}

/// The table of `deploy/docs/protocols.md`.
#[tokio::test]
async fn trailers_pass_as_documented() {
    let upstream = Upstream::start(with_trailers).await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let mut raw = site.raw().await;
    let chunks = "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-one: 1\r\nx-two: 2\r\n\r\n";

    // From HTTP/1 to HTTP/1, what is announced; to a client only if it says that it takes them.
    let fields = "TE: trailers\r\nTrailer: x-one\r\n";
    raw.send(site.head("POST /") + fields + chunks).await;
    let answer = raw.answer().await.expect(200);
    assert_eq!(answer.text(), "x-one!");
    assert_eq!(answer.trailer("x-sum"), Some("1"));
    assert_eq!(answer.trailer("x-unannounced"), None);
    raw.send(site.head("POST /") + chunks).await;
    let answer = raw.answer().await.expect(200);
    assert_eq!(answer.text(), "!");
    assert!(answer.trailers.is_none(), "{answer:?}");

    // To HTTP/2, all.
    let http2 = site.http2().await;
    let mut exchange = http2
        .begin(
            Request::post("/")
                .header("trailer", "x-one")
                .body(())
                .unwrap(),
            false,
        )
        .await
        .unwrap();
    exchange
        .write(Bytes::from_static(b"x"), false)
        .await
        .unwrap();
    let fields = ["x-one", "x-two"].map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
    exchange.trailers(fields.into_iter().collect()).unwrap();
    let answer = exchange.answer().await.unwrap().expect(200);
    assert_eq!(
        (answer.version, answer.text().as_str()),
        (Version::HTTP_2, "x-one!")
    );
    assert_eq!(answer.trailer("x-sum"), Some("1"));
    assert_eq!(answer.trailer("x-unannounced"), Some("1"));
    drop((raw, http2));
    parkway.finish().await;
}

#[tokio::test]
async fn trailers_pass_between_ends_that_speak_http2_announced_or_not() {
    let upstream = Upstream::http2(async |mut request: Request<h2::RecvStream>, mut respond| {
        while next_data(request.body_mut()).await.is_some() {}
        let trailers = request.body_mut().trailers().await.unwrap();
        let head = http::Response::new(());
        let mut stream: h2::SendStream<Bytes> = respond.send_response(head, false).unwrap();
        stream.send_trailers(trailers.unwrap()).unwrap();
    })
    .await;
    let manifest = h2c_revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let http2 = parkway.service("shop").http2().await;
    let mut exchange = http2
        .begin(Request::post("/").body(()).unwrap(), false)
        .await
        .unwrap();
    exchange.write("x", false).await.unwrap();
    let fields = ["x-one", "x-two"].map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
    exchange.trailers(fields.into_iter().collect()).unwrap();
    let answer = exchange.answer().await.unwrap().expect(200);
    assert_eq!(answer.trailer("x-one"), Some("1"));
    assert_eq!(answer.trailer("x-two"), Some("1"));
    drop(http2);
    parkway.finish().await;
}
