//! gRPC calls, one by one: how they are spread, and what is said of those that fail here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use parkway_tests::http2::{Exchange, Http2};
use parkway_tests::{
    Gate, Parkway, Upstream, h2c_revision_with_endpoints, hello_service, patiently,
};
use tokio::sync::Semaphore;

/// A server that counts its calls, and answers each when it may.
async fn server(may_answer: &Arc<Semaphore>) -> (Upstream, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let (counter, may_answer) = (Arc::clone(&calls), Arc::clone(may_answer));
    let upstream = Upstream::http2(
        move |_: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            counter.fetch_add(1, Ordering::SeqCst);
            let may_answer = Arc::clone(&may_answer);
            async move {
                may_answer.acquire().await.unwrap().forget();
                let head = Response::builder().header("content-type", "application/grpc");
                let head = head.body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                let status = HeaderMap::from_iter([(
                    "grpc-status".parse().unwrap(),
                    HeaderValue::from_static("0"),
                )]);
                stream.send_trailers(status).unwrap();
            }
        },
    )
    .await;
    (upstream, calls)
}

async fn begin(http2: &Http2) -> Exchange {
    let call = Request::post("/shop.Shop/Buy").header("content-type", "application/grpc");
    http2.begin(call.body(()).unwrap(), true).await.unwrap()
}

#[tokio::test]
async fn calls_of_one_connection_are_spread_over_endpoints_one_by_one() {
    let may_answer = Arc::new(Semaphore::new(0));
    let (one, of_one) = server(&may_answer).await;
    let (two, of_two) = server(&may_answer).await;
    let endpoints = [one.address(), two.address()];
    let parkway = Parkway::with(h2c_revision_with_endpoints("shop", &endpoints)).await;
    let http2 = parkway.service("shop").http2().await;

    // All at once: none is answered before the last has come.
    let mut begun = Vec::new();
    for _ in 0..20 {
        begun.push(begin(&http2).await);
    }
    parkway.in_flight(20).await;
    parkway_tests::eventually("all calls to arrive", async || {
        let arrived = of_one.load(Ordering::SeqCst) + of_two.load(Ordering::SeqCst);
        (arrived == 20).then_some(())
    })
    .await;
    let shares = [&of_one, &of_two].map(|calls| calls.load(Ordering::SeqCst));
    assert!(
        shares.iter().all(|share| (7..=13).contains(share)),
        "{shares:?}"
    );
    may_answer.add_permits(1_000);
    for call in begun {
        let answer = call.answer().await.unwrap().expect(200);
        assert_eq!(answer.trailer("grpc-status"), Some("0"));
    }

    // One after the other.
    for _ in 0..20 {
        let call = begin(&http2).await;
        call.answer().await.unwrap().expect(200);
    }
    let more = [&of_one, &of_two].map(|calls| calls.load(Ordering::SeqCst));
    assert_eq!(more.iter().sum::<usize>(), 40);
    assert!(
        more[0] > shares[0] && more[1] > shares[1],
        "{shares:?} {more:?}"
    );
    drop(http2);
    parkway.finish().await;
}

#[tokio::test]
async fn a_calls_own_timeout_counts_while_it_is_parked_and_its_failure_has_a_message() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").h2c())).await;
    for site in [
        parkway.service("shop"),
        parkway.at_local("shop.default.svc.cluster.local"),
    ] {
        let http2 = site.http2().await;
        let call = Request::post("/shop.Shop/Buy")
            .header("content-type", "application/grpc+proto")
            .header("grpc-timeout", "300m");
        let answer = patiently("an answer", http2.send(call.body("x".into()).unwrap()));
        let answer = answer.await.expect(200);
        assert_eq!(answer.header("grpc-status"), Some("4"));
        assert_eq!(
            answer.header("grpc-message"),
            Some("activator request timeout")
        );
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_call_that_its_endpoint_breaks_off_is_unavailable_with_a_reason() {
    let upstream = Upstream::http2(
        |_: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        },
    )
    .await;
    let shop = h2c_revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(shop).await;
    let http2 = parkway.service("shop").http2().await;
    let answer = begin(&http2).await.answer().await.unwrap().expect(200);
    assert_eq!(answer.header("grpc-status"), Some("14"));
    let message = answer.header("grpc-message").unwrap();
    assert!(message.contains("the endpoint ended"), "{message}");
    parkway.finish().await;
}
