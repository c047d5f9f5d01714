//! Clients that do not read, do not go on, or go on differently than they said; and answers in doubtful form.

use http::Request;
use parkway_tests::upstream::Connection;
use parkway_tests::{Gate, Parkway, Upstream, eventually, hello_service, revision_with_endpoints};

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_loses_its_slot_when_its_time_is_over() {
    let shop = hello_service("shop").concurrency(1).min_scale(1);
    let parkway = Parkway::with(shop.max_scale(1).timeout(3)).await;
    // The time counts from the arrival, the start of a process included.
    let is_up = |state: &parkway_tests::State| state.revision("shop-00001").ready_endpoints() == 1;
    parkway.state_when("its process", is_up).await;
    let shop = parkway.service("shop");

    let mut over_http1 = shop.raw().await;
    over_http1
        .send(shop.head("GET /?bytes=60000000") + "\r\n")
        .await;
    over_http1.head().await;
    parkway.in_flight(1).await;
    parkway.in_flight(0).await;
    shop.get("/").await.expect(200);

    let http2 = shop.http2().await;
    let request = Request::get("/?bytes=60000000").body(()).unwrap();
    let unread = http2.begin(request, true).await.unwrap().head().await;
    parkway.in_flight(0).await;
    shop.get("/").await.expect(200);
    drop((unread, over_http1));
    parkway.finish().await;
}

#[tokio::test]
async fn an_upload_that_was_answered_and_goes_no_further_ends() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some(_head) = connection.request().await else {
            return;
        };
        connection
            .send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            .await;
        connection.stall().await;
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");

    let mut raw = shop.raw().await;
    raw.send(shop.head("POST /") + "Content-Length: 1000\r\n\r\nx")
        .await;
    raw.answer().await.expect(401);

    eventually("the connection to be closed", async || {
        raw.is_closed().await.then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_refused_expectation_does_not_swallow_the_next_request() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some(_head) = connection.request().await else {
            return;
        };
        connection
            .send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            .await;
        let more = connection.raw.rest().await;
        assert!(more.is_empty(), "{more:?}");
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");

    let mut raw = shop.raw().await;
    raw.send(shop.head("POST /") + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let refused = raw.answer().await.expect(401);

    assert_eq!(refused.header("connection"), Some("close"));
    drop(raw.try_send(shop.head("GET /") + "\r\n").await);
    assert!(raw.rest().await.is_empty(), "nothing else is answered");
    parkway.finish().await;
}

#[tokio::test]
async fn a_body_of_a_get_arrives_whether_its_length_is_known_or_not() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;

    raw.send(shop.head("GET /") + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    let chunked = raw.answer().await.expect(200).json();
    raw.send(shop.head("GET /") + "Content-Length: 5\r\n\r\nhello")
        .await;
    let measured = raw.answer().await.expect(200).json();

    assert_eq!([&chunked["body"], &measured["body"]], ["hello", "hello"]);
    parkway.finish().await;
}

#[tokio::test]
async fn a_parked_chunked_body_reaches_an_h2c_workload() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").h2c())).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    raw.send(
        shop.head("POST /")
            + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    parkway.parked(1).await;

    gate.open();

    assert_eq!(raw.answer().await.expect(200).text(), "hello");
    parkway.finish().await;
}

#[tokio::test]
async fn a_head_that_is_just_allowed_is_allowed_when_it_was_parked_too() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[])).await;
    let shop = parkway.service("shop");
    let fields: String = (0..127)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    let mut raw = shop.raw().await;
    raw.send(shop.head("GET /") + &fields + "\r\n").await;
    parkway.parked(1).await;

    parkway.edit(
        "main",
        revision_with_endpoints("shop", &[upstream.address()]),
    );

    raw.answer().await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_cut_an_answer() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection
                .send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                .await;
        }
    })
    .await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let answer = parkway.service("shop").get("/").await.expect(200);
    assert_eq!(answer.text(), "hello");
    parkway.finish().await;
}
