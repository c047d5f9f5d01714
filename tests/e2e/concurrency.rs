//! `containerConcurrency` is a hard limit of each process.

use std::collections::BTreeSet;
use std::sync::Arc;

use parkway_tests::{Answer, Parkway, hello_service};
use tokio::task::JoinSet;

/// The workload itself answers 500 when it sees more than one request at once.
const ONE_AT_ONCE: &str = "/headers?max_concurrency=1&sleep_ms=3";

#[tokio::test]
async fn a_process_with_concurrency_one_never_sees_two_requests_whatever_the_clients_speak() {
    let service = hello_service("shop")
        .concurrency(1)
        .min_scale(3)
        .max_scale(3);
    let parkway = Parkway::with(service).await;
    parkway
        .state_when("three processes", |state| {
            state.revision("shop-00001").ready_endpoints() == 3
        })
        .await;
    let shop = parkway.service("shop");

    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let mut http1 = shop.http1().await;
        let requests = vec![shop.request(http::Method::GET, ONE_AT_ONCE, ""); 15];
        clients.spawn(async move {
            let mut answers = Vec::new();
            for request in requests {
                answers.push(http1.send(request).await);
            }
            answers
        });
    }
    for _ in 0..2 {
        let http2 = Arc::new(shop.http2().await);
        for _ in 0..6 {
            let http2 = Arc::clone(&http2);
            clients.spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..8 {
                    answers.push(http2.get(ONE_AT_ONCE).await);
                }
                answers
            });
        }
    }
    let answers: Vec<Answer> = clients.join_all().await.concat();

    assert_eq!(answers.len(), 6 * 15 + 12 * 8);
    let pids: BTreeSet<_> = answers
        .into_iter()
        .map(|answer| answer.expect(200).json()["pid"].as_i64())
        .collect();
    assert_eq!(pids.len(), 3, "all processes serve");
    parkway.finish().await;
}

#[tokio::test]
async fn a_slot_is_taken_until_the_answer_has_been_sent_to_its_end() {
    let parkway = Parkway::with(hello_service("shop").concurrency(1).max_scale(1)).await;
    let shop = parkway.service("shop");
    let mut streaming = shop.raw().await;
    streaming
        .send(shop.head("GET /events?count=2&interval_ms=600000") + "\r\n")
        .await;
    streaming.until("data: 1\n\n").await;

    let (answer, ()) = tokio::join!(shop.get("/"), async {
        parkway.parked(1).await;
        drop(streaming);
    });

    answer.expect(200);
    parkway.finish().await;
}
