//! A parked request reaches the workload as it was sent.

use http::{HeaderMap, Request};
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Gate, Parkway, Raw, Site, Upstream, h2c_revision_with_endpoints, hello_service,
    revision_with_endpoints,
};

use crate::pattern;

#[tokio::test]
async fn a_parked_body_larger_than_what_is_read_ahead_arrives_intact() {
    let body = pattern(1024 * 1024);
    let sent = body.clone();
    let answer = after_parking(async |shop: Site| shop.post("/", sent).await).await;
    assert!(answer.expect(200).body == body);
}

#[tokio::test]
async fn a_parked_chunked_body_arrives_intact_also_when_it_ends_later() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    client
        .send(shop.head("POST /") + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await;
    parkway.parked(1).await;

    client.send("6;x=y\r\n, worl\r\n").await;
    gate.open();
    parkway.in_flight(1).await;
    client.send("1\r\nd\r\n0\r\n\r\n").await;

    assert_eq!(client.answer().await.expect(200).text(), "hello, world");
    parkway.finish().await;
}

#[tokio::test]
async fn a_parked_request_gets_100_continue_only_from_its_endpoint() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let head = connection.request().await.unwrap();
        assert_eq!(head.header("expect"), Some("100-continue"));
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = connection.body(&head).await;
        connection.answer(&String::from_utf8_lossy(&body)).await;
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[])).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    client
        .send(shop.head("POST /") + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    parkway.parked(1).await;
    assert_eq!(client.arrived(), "", "nothing is said while parked");

    parkway.edit(
        "main",
        revision_with_endpoints("shop", &[upstream.address()]),
    );

    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(client.answer().await.expect(200).text(), "hello");
    parkway.finish().await;
}

#[tokio::test]
async fn a_parked_http2_body_and_its_trailers_arrive_intact() {
    let upstream = Upstream::http2(async |mut request, mut respond| {
        let mut body = Vec::new();
        while let Some(Ok(data)) = parkway_tests::http2::next_data(request.body_mut()).await {
            body.extend_from_slice(&data);
        }
        let trailers = request.body_mut().trailers().await.unwrap().unwrap();
        let mut stream = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        stream.send_data(body.into(), false).unwrap();
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let shop_at = |endpoints: &[_]| h2c_revision_with_endpoints("shop", endpoints);
    let parkway = Parkway::with(shop_at(&[])).await;
    let http2 = parkway.service("shop").http2().await;
    let mut exchange = http2
        .begin(Request::post("/").body(()).unwrap(), false)
        .await
        .unwrap();
    exchange.write("hello, ", false).await.unwrap();
    parkway.parked(1).await;

    exchange.write("world", false).await.unwrap();
    exchange
        .trailers(HeaderMap::from_iter([(
            "x-sum".parse().unwrap(),
            "12".parse().unwrap(),
        )]))
        .unwrap();
    parkway.edit("main", shop_at(&[upstream.address()]));

    let answer = exchange.answer().await.unwrap().expect(200);
    assert_eq!(answer.text(), "hello, world");
    assert_eq!(answer.trailer("x-sum"), Some("12"));
    parkway.finish().await;
}

#[tokio::test]
async fn requests_behind_a_parked_one_are_answered_in_order() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    let post =
        |body: &str| shop.head("POST /") + &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    client
        .send(
            post("first")
                + &post("second")
                + &shop.head("GET /?status=404")
                + "\r\n"
                + &post("fourth"),
        )
        .await;
    parkway.parked(1).await;

    gate.open();

    assert_eq!(client.answer().await.expect(200).text(), "first");
    assert_eq!(client.answer().await.expect(200).text(), "second");
    client.answer().await.expect(404);
    assert_eq!(client.answer().await.expect(200).text(), "fourth");
    parkway.finish().await;
}

#[tokio::test]
async fn a_parked_request_with_connection_close_closes_after_its_answer() {
    let answer = after_parking(async |shop: Site| {
        let mut client = shop.raw().await;
        client
            .send(shop.head("GET /") + "Connection: close\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert!(client.is_closed().await);
        answer
    })
    .await;
    assert_eq!(answer.expect(200).header("connection"), Some("close"));
}

#[tokio::test]
async fn a_parked_http_1_0_request_is_answered_without_chunks_and_closed() {
    let answer = after_parking(async |shop: Site| {
        let mut client: Raw = shop.raw().await;
        client
            .send(format!(
                "GET /events?count=2&interval_ms=1 HTTP/1.0\r\nHost: {}\r\n\r\n",
                shop.host()
            ))
            .await;
        client.answer().await
    })
    .await;
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.expect(200).text(), "data: 1\n\ndata: 2\n\n");
}

#[tokio::test]
async fn a_connection_goes_on_after_a_parked_request() {
    let answer = after_parking(async |shop: Site| {
        let mut http1 = shop.http1().await;
        let get = || shop.request(http::Method::GET, "/headers", "");
        http1.send(get()).await.expect(200);
        http1.send(get()).await
    })
    .await;
    answer.expect(200);
}

/// Sends to a cold Service, which starts as soon as the request is parked.
async fn after_parking(
    send: impl AsyncFnOnce(Site) -> parkway_tests::Answer,
) -> parkway_tests::Answer {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let (answer, ()) = tokio::join!(send(parkway.service("shop")), async {
        parkway.parked(1).await;
        gate.open();
    });
    parkway.finish().await;
    answer
}
