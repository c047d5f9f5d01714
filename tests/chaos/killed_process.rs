//! Processes of a workload are killed in the middle of requests.

use bytes::Bytes;
use http::Request;
use parkway_tests::manifest::Service;
use parkway_tests::{Parkway, hello_service, kill_nine};

use crate::load::Load;

/// How many processes the workload has.
const PROCESSES: u32 = 3;
/// How many of them are killed, one after the other.
const KILLS: usize = 5;

fn shop() -> Service {
    hello_service("shop")
        .min_scale(PROCESSES)
        .max_scale(PROCESSES)
        .concurrency(20)
}

async fn with_processes(shop: Service) -> Parkway {
    let parkway = Parkway::with(shop).await;
    restored(&parkway).await;
    parkway
}

/// Waits until there are as many ready processes as there should be, and no more.
async fn restored(parkway: &Parkway) {
    let wanted = usize::try_from(PROCESSES).unwrap();
    let all = |state: &parkway_tests::State| {
        let shop = state.revision("shop-00001");
        shop.processes() == wanted && shop.ready_endpoints() == wanted
    };
    parkway.state_when("all processes", all).await;
}

/// Kills one process after the other, each under load and with all others back.
async fn kill_under(load: &Load, parkway: &Parkway) {
    for turn in 0..KILLS {
        load.more(60).await;
        let pids = parkway.state().await.revision("shop-00001").pids();
        let victim = pids[turn % pids.len()];
        kill_nine(victim);
        let is_gone =
            |state: &parkway_tests::State| !state.revision("shop-00001").pids().contains(&victim);
        parkway
            .state_when("the killed process to be noticed", is_gone)
            .await;
        restored(parkway).await;
    }
    load.more(60).await;
}

async fn assert_nothing_fails(parkway: Parkway) {
    let load = Load::echo(&parkway.service("shop"), "/?sleep_ms=20", 32);

    kill_under(&load, &parkway).await;

    // A process may die between the head of an answer and its body.
    load.stop().await.assert_succeeded_unless_begun(300, KILLS);
    restored(&parkway).await;
    parkway.finish().await;
}

#[tokio::test]
async fn no_request_that_may_be_repeated_fails_when_processes_are_killed() {
    assert_nothing_fails(with_processes(shop()).await).await;
}

#[tokio::test]
async fn no_request_that_may_be_repeated_fails_when_processes_with_http2_are_killed() {
    assert_nothing_fails(with_processes(shop().h2c()).await).await;
}

#[tokio::test]
async fn request_that_must_not_be_repeated_is_answered_with_200_or_502_when_processes_are_killed() {
    let parkway = with_processes(shop()).await;
    let make = |number| {
        Request::post("/?sleep_ms=20")
            .body(Bytes::from(format!("order {number}")))
            .unwrap()
    };
    let load = Load::start(&parkway.service("shop"), 16, make);

    kill_under(&load, &parkway).await;

    let tally = load.stop().await;
    let unexpected: Vec<_> = tally
        .statuses
        .keys()
        .filter(|status| !matches!(status, 200 | 502))
        .collect();
    assert!(unexpected.is_empty(), "{:?}", tally.statuses);
    let failed = tally.statuses.get(&502).copied().unwrap_or(0);
    assert_eq!(
        tally.failures.len(),
        failed,
        "a request without an answer: {:?}",
        tally.failures
    );
    assert!(
        failed <= KILLS * 16,
        "no more than were under way: {failed}"
    );
    assert!(tally.succeeded() > 200, "{:?}", tally.statuses);
    restored(&parkway).await;
    parkway.finish().await;
}
