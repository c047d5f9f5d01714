//! A client that leaves while its request is parked gives its place back at once, whatever it has sent.

use http::{Request, StatusCode};
use parkway_tests::http2::next_data;
use parkway_tests::{Gate, Parkway, Raw, Site, hello_service};

#[tokio::test]
async fn a_parked_get_whose_client_closes_is_forgotten() {
    place_is_freed(
        async |shop| sent(&shop, shop.head("GET /") + "\r\n").await,
        closes,
    )
    .await;
}

#[tokio::test]
async fn a_parked_get_whose_client_resets_the_connection_is_forgotten() {
    place_is_freed(
        async |shop| sent(&shop, shop.head("GET /") + "\r\n").await,
        async |client: Raw| client.reset(),
    )
    .await;
}

#[tokio::test]
async fn a_parked_get_whose_client_closes_its_sending_side_is_forgotten() {
    let half_closes = async |mut client: Raw| {
        client.half_close().await;
        assert!(client.is_closed().await, "nothing is answered");
    };
    place_is_freed(
        async |shop| sent(&shop, shop.head("GET /") + "\r\n").await,
        half_closes,
    )
    .await;
}

#[tokio::test]
async fn a_parked_post_with_its_small_body_whose_client_closes_is_forgotten() {
    let arrive = async |shop: Site| {
        sent(
            &shop,
            shop.head("POST /") + "Content-Length: 5\r\n\r\nhello",
        )
        .await
    };
    place_is_freed(arrive, closes).await;
}

#[tokio::test]
async fn a_parked_post_with_more_than_is_read_ahead_whose_client_closes_is_forgotten() {
    let arrive = async |shop: Site| {
        let head = shop.head("POST /") + "Content-Length: 1048576\r\n\r\n";
        sent(&shop, head + &"x".repeat(200 * 1024)).await
    };
    place_is_freed(arrive, closes).await;
}

#[tokio::test]
async fn a_parked_post_that_waits_for_100_continue_whose_client_closes_is_forgotten() {
    let arrive = async |shop: Site| {
        let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        sent(&shop, shop.head("POST /") + fields).await
    };
    place_is_freed(arrive, closes).await;
}

#[tokio::test]
async fn a_parked_get_with_the_next_request_behind_it_whose_client_closes_is_forgotten() {
    let arrive = async |shop: Site| {
        let two = (shop.head("GET /") + "\r\n").repeat(2);
        sent(&shop, two).await
    };
    place_is_freed(arrive, closes).await;
}

#[tokio::test]
async fn a_parked_chunked_post_that_is_not_complete_whose_client_closes_is_forgotten() {
    let arrive = async |shop: Site| {
        let chunk = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        sent(&shop, shop.head("POST /") + chunk).await
    };
    place_is_freed(arrive, closes).await;
}

#[tokio::test]
async fn a_parked_stream_that_is_reset_is_forgotten() {
    let arrive = async |shop: Site| {
        let http2 = shop.http2().await;
        let exchange = http2
            .begin(Request::get("/").body(()).unwrap(), true)
            .await
            .unwrap();
        (http2, exchange)
    };
    place_is_freed(arrive, async |(http2, exchange)| {
        exchange.reset();
        // The connection stays, and serves what needs no workload.
        let other = http2
            .send(Request::connect("/").body(bytes::Bytes::new()).unwrap())
            .await;
        assert_eq!(other.status, StatusCode::METHOD_NOT_ALLOWED);
    })
    .await;
}

#[tokio::test]
async fn a_parked_stream_with_an_unfinished_body_that_is_reset_is_forgotten() {
    let arrive = async |shop: Site| {
        let http2 = shop.http2().await;
        let mut exchange = http2
            .begin(Request::post("/").body(()).unwrap(), false)
            .await
            .unwrap();
        exchange.write("hello", false).await.unwrap();
        (http2, exchange)
    };
    place_is_freed(arrive, async |(_http2, exchange)| exchange.reset()).await;
}

#[tokio::test]
async fn all_parked_streams_of_a_connection_that_closes_are_forgotten() {
    let arrive = async |shop: Site| {
        let http2 = shop.http2().await;
        let exchange = http2
            .begin(Request::post("/").body(()).unwrap(), false)
            .await
            .unwrap();
        (http2, exchange)
    };
    place_is_freed(arrive, async |(http2, exchange)| {
        drop(http2);
        assert!(exchange.answer().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_answer_streams_ends_its_request() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let path = "/events?count=2&interval_ms=600000";
    let mut over_http1 = sent(&shop, shop.head(&format!("GET {path}")) + "\r\n").await;
    over_http1.until("data: 1").await;
    let http2 = shop.http2().await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let exchange = http2
            .begin(Request::get(path).body(()).unwrap(), true)
            .await
            .unwrap();
        let (stream, response) = exchange.head().await.unwrap();
        let mut body = response.into_body();
        next_data(&mut body).await.unwrap().unwrap();
        bodies.push((stream, body));
    }
    assert_eq!(parkway.state().await.in_flight(), 3);

    drop(over_http1);
    parkway.in_flight(2).await;
    let (mut stream, _body) = bodies.pop().unwrap();
    stream.send_reset(h2::Reason::CANCEL);
    parkway.in_flight(1).await;
    drop(http2);
    parkway.in_flight(0).await;

    let workload = shop.get("/stats").await.expect(200).json();
    assert_eq!(workload["requests"], 3);
    parkway
        .state_when("one process, ready for more", |state| {
            state.revision("shop-00001").ready_endpoints() == 1
        })
        .await;
    parkway.finish().await;
}

/// Parks a request, lets its client leave, and proves that its place is free while the workload has not even started.
async fn place_is_freed<C>(arrive: impl AsyncFnOnce(Site) -> C, leave: impl AsyncFnOnce(C)) {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let client = arrive(parkway.service("shop")).await;
    parkway.parked(1).await;

    leave(client).await;

    parkway.quiet().await;
    let revision = parkway.state().await.revision("shop-00001");
    assert_eq!(revision.ready_endpoints(), 0);
    assert_eq!(revision.counter("cancelled"), 1);
    assert_eq!(revision.counter("released"), 0);
    parkway.finish().await;
}

async fn sent(site: &Site, bytes: String) -> Raw {
    let mut client = site.raw().await;
    client.send(bytes).await;
    client
}

async fn closes(client: Raw) {
    drop(client);
}
