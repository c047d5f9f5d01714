//! The Revision's timeouts, parked or not.

use http::Request;
use parkway_tests::manifest::Service;
use parkway_tests::{Gate, Parkway, hello_service};

#[tokio::test]
async fn a_request_that_is_parked_until_its_timeout_is_answered_504() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").timeout(1))).await;
    let shop = parkway.service("shop");
    let http2 = shop.http2().await;

    let (over_http1, over_http2) = tokio::join!(shop.post("/", "hello"), http2.get("/"));

    for answer in [over_http1.expect(504), over_http2.expect(504)] {
        assert_eq!(answer.text(), "activator request timeout");
    }
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .counter("cancelled"),
        2
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_grpc_call_that_is_parked_until_its_own_timeout_gets_deadline_exceeded() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").h2c())).await;
    let http2 = parkway.service("shop").http2().await;
    let call = Request::post("/shop.Shop/Buy")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "500m");

    let answer = http2.send(call.body("x".into()).unwrap()).await.expect(200);

    assert_eq!(answer.header("grpc-status"), Some("4"));
    parkway.finish().await;
}

#[tokio::test]
async fn a_response_that_does_not_begin_in_time_is_answered_504() {
    let slow = hello_service("shop").response_start(1);
    let parkway = Parkway::with(slow).await;
    let answer = parkway
        .service("shop")
        .get("/?sleep_ms=600000")
        .await
        .expect(504);
    assert_eq!(answer.text(), "activator request timeout");
    parkway.finish().await;
}

#[tokio::test]
async fn a_response_that_falls_silent_is_cut_where_the_client_sees_it() {
    is_cut(hello_service("shop").idle(3)).await;
}

#[tokio::test]
async fn a_response_that_takes_too_long_in_all_is_cut_where_the_client_sees_it() {
    is_cut(hello_service("shop").timeout(3)).await;
}

#[tokio::test]
async fn a_response_that_keeps_coming_is_not_silent() {
    let parkway = Parkway::with(hello_service("shop").idle(4).min_scale(1)).await;
    is_up(&parkway).await;
    let answer = parkway
        .service("shop")
        .get("/events?count=6&interval_ms=1000")
        .await
        .expect(200);
    assert!(answer.text().ends_with("data: 6\n\n"), "{answer:?}");
    parkway.finish().await;
}

/// An endless response of this Service ends visibly incomplete, over HTTP/1 and HTTP/2.
async fn is_cut(service: Service) {
    let parkway = Parkway::with(service.min_scale(1)).await;
    is_up(&parkway).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let http2 = shop.http2().await;
    let path = "/events?count=2&interval_ms=600000";

    let (over_http1, over_http2) = tokio::join!(shop.get(path), http2.get(path));

    for answer in [over_http1, over_http2] {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.text(), "data: 1\n\n");
        assert!(answer.broken.is_some(), "{answer:?}");
    }
    parkway.finish().await;
}

/// Timeouts count from the arrival, the start of a process included: that is over before the first request.
async fn is_up(parkway: &Parkway) {
    let is_up = |state: &parkway_tests::State| state.revision("shop-00001").ready_endpoints() == 1;
    parkway.state_when("its process", is_up).await;
}
