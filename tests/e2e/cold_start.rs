//! From zero and back.

use std::sync::Arc;

use parkway_tests::{Gate, Parkway, Site, hello_service};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_request_at_zero_is_parked_until_its_workload_is_started_and_then_answered() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    assert_eq!(parkway.state().await.revision("shop-00001").processes(), 0);

    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.get("/"), async {
        parkway.parked(1).await;
        gate.open();
    });

    assert_eq!(answer.expect(200).text(), "Hello from shop-00001!\n");
    let revision = parkway.state().await.revision("shop-00001");
    assert_eq!(revision.counter("coldStarts"), 1);
    assert_eq!(revision.counter("released"), 1);
    assert!(
        revision.0["parkedSeconds"]["sum"].as_f64().unwrap() > 0.0,
        "{revision:?}"
    );
    let labels = [("kn_revision_name", "shop-00001")];
    assert_eq!(
        parkway.metric("parkway_cold_starts_total", &labels).await,
        Some(1.0)
    );
    assert_eq!(
        parkway
            .metric("parkway_parked_seconds_count", &labels)
            .await,
        Some(1.0)
    );
    assert_eq!(
        parkway.metric("parkway_parked_requests", &labels).await,
        Some(0.0)
    );
    parkway.finish().await;
}

#[tokio::test]
async fn an_idle_service_goes_to_zero_after_its_window_and_starts_again_with_the_next_request() {
    let parkway = Parkway::with(hello_service("shop").window(6)).await;
    let shop = parkway.service("shop");
    let first = shop.get("/headers").await.expect(200).json()["pid"].clone();
    parkway
        .state_when("one process", |state| {
            state.revision("shop-00001").processes() == 1
        })
        .await;

    parkway
        .state_when("zero processes", |state| {
            state.revision("shop-00001").processes() == 0
        })
        .await;
    assert_eq!(parkway.left_processes(), [0; 0]);
    let second = shop.get("/headers").await.expect(200).json()["pid"].clone();

    assert_ne!(first, second);
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .counter("coldStarts"),
        2
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_thousand_clients_of_one_cold_service_are_all_answered_by_one_process() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop").max_scale(1))).await;

    let clients = thousand_clients(&parkway.service("shop"), "/");
    parkway.parked(1_000).await;
    gate.open();

    all_answered(clients).await;
    let revision = parkway.state().await.revision("shop-00001");
    assert_eq!(revision.processes(), 1);
    assert_eq!(revision.counter("coldStarts"), 1);
    assert_eq!(revision.counter("released"), 1_000);
    parkway.finish().await;
}

#[tokio::test]
async fn a_thousand_clients_of_a_cold_service_with_a_limit_never_exceed_it() {
    let gate = Gate::closed();
    let parkway =
        Parkway::with(gate.holds(hello_service("shop").concurrency(10).max_scale(2))).await;

    let clients = thousand_clients(&parkway.service("shop"), "/?max_concurrency=10&sleep_ms=2");
    parkway.parked(1_000).await;
    gate.open();

    all_answered(clients).await;
    let revision = parkway.state().await.revision("shop-00001");
    assert!((1..=2).contains(&revision.processes()), "{revision:?}");
    parkway.finish().await;
}

fn thousand_clients(site: &Site, path: &'static str) -> JoinSet<Result<u16, String>> {
    let site = Arc::new(site.clone());
    let mut clients = JoinSet::new();
    for _ in 0..1_000 {
        let site = Arc::clone(&site);
        clients.spawn(async move {
            let answer = site.try_get(path).await?;
            answer.broken.map_or(Ok(answer.status.as_u16()), Err)
        });
    }
    clients
}

async fn all_answered(clients: JoinSet<Result<u16, String>>) {
    let answers = clients.join_all().await;
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| **answer != Ok(200))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        answers.len()
    );
}
