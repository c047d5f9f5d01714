//! Parkway itself is killed and started again.

use parkway_tests::{Parkway, hello_service, kill_nine};

#[tokio::test]
async fn a_parkway_started_again_ends_the_processes_that_a_killed_one_left() {
    let parkway = Parkway::with(hello_service("shop").min_scale(2)).await;
    parkway
        .state_when("two processes", |state| {
            state.revision("shop-00001").ready_endpoints() == 2
        })
        .await;

    let killed = parkway.kill().await;
    let left = killed.left_processes();
    assert_eq!(left.len(), 2, "SIGKILL leaves them");
    let again = killed.builder().start().await;

    let mut ended = again
        .logged("ended a process that a killed Parkway left")
        .len();
    assert_eq!(ended, 2);
    let running = again.left_processes();
    assert!(
        left.iter().all(|pid| !running.contains(pid)),
        "{left:?} in {running:?}"
    );
    again.service("shop").get("/").await.expect(200);
    ended = again
        .logged("ended a process that a killed Parkway left")
        .len();
    assert_eq!(ended, 2);
    again.finish().await;
}

#[tokio::test]
async fn a_process_killed_while_it_serves_costs_no_request_that_can_be_sent_again() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let killed = parkway.state().await.revision("shop-00001").pids()[0];
    let (got, put, ()) = tokio::join!(
        shop.get("/headers?sleep_ms=2500"),
        shop.send(shop.request(http::Method::PUT, "/?sleep_ms=2500", "hello")),
        async {
            parkway.in_flight(2).await;
            kill_nine(killed);
        }
    );
    assert_ne!(got.expect(200).json()["pid"], killed);
    assert_eq!(put.expect(200).text(), "hello");
    parkway.finish().await;
}

#[tokio::test]
async fn processes_killed_one_after_the_other_cost_no_request_that_can_be_sent_again() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let mut killed = Vec::new();
    let (got, ()) = tokio::join!(shop.get("/headers?sleep_ms=3000"), async {
        for _ in 0..3 {
            // At a ready process: what is still counted at the one that was killed does not count.
            let state = parkway.state_when("the request at another process", |state| {
                let shop = state.revision("shop-00001");
                let is_there = |it: &serde_json::Value| it["ready"] == true && it["inFlight"] == 1;
                shop.pids().iter().any(|pid| !killed.contains(pid))
                    && shop.0["endpoints"].as_array().unwrap().iter().any(is_there)
            });
            let pids = state.await.revision("shop-00001").pids();
            let pid = pids.into_iter().find(|pid| !killed.contains(pid)).unwrap();
            kill_nine(pid);
            killed.push(pid);
        }
    });
    let served = got.expect(200).json()["pid"].clone();
    assert!(killed.iter().all(|pid| served != *pid));
    parkway.finish().await;
}

#[tokio::test]
async fn a_post_that_may_have_begun_is_not_sent_again() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    shop.post("/exit?code=1", "hello").await.expect(502);
    shop.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_seen_to_by_the_client() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let answer = shop.get("/exit?after_bytes=5").await;
    assert_eq!(answer.text(), "xxxxx");
    assert!(answer.broken.is_some(), "{answer:?}");
    let answer = shop.http2().await.get("/exit?after_bytes=5").await;
    assert_eq!(answer.text(), "xxxxx");
    assert!(answer.broken.is_some(), "{answer:?}");
    parkway.finish().await;
}
