//! What the page says of those whom Parkway depends on when they are not well.

use parkway_tests::api::Which;
use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::{Collector, Parkway, QueueProxy, eventually, hello_service};

async fn page(parkway: &Parkway) -> String {
    parkway.admin_get("/").await.unwrap().expect(200).text()
}

/// Waits until the page says all of this.
async fn says(parkway: &Parkway, what: &str, expected: &[&str]) -> String {
    eventually(format!("{what} on the page"), async || {
        let page = page(parkway).await;
        let says = |text: &&str| page.contains(*text);
        expected.iter().all(says).then_some(page)
    })
    .await
}

#[tokio::test]
async fn the_link_to_the_autoscaler_and_watches_have_their_last_error_and_its_remedy() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let nobody =
        |builder: parkway_tests::parkway::Builder| builder.flag("--autoscaler", "ws://127.0.0.1:1");
    let parkway = cluster.parkway_with(nobody).await;
    let before = says(
        &parkway,
        "the autoscaler's link",
        &[
            "Autoscaler ws://127.0.0.1:1",
            "not connected",
            "Connection refused",
            "Check that the autoscaler runs",
            "Watch of Service",
        ],
    )
    .await;
    assert!(!before.contains("failing"), "{before}");

    cluster
        .api
        .refuse(Which::any().plural("services"), u32::MAX, 403);
    cluster.api.cut_watches();

    let failing = ["failing", "403", "ClusterRole lacks a rule"];
    says(&parkway, "a watch that fails", &failing).await;
    cluster.api.heal();
    // What is told shows that it works.
    cluster.pods(&shop, &[]);
    let another = serving("another");
    cluster.put(&another);
    eventually("it to be in step again", async || {
        (!page(&parkway).await.contains("failing")).then_some(())
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_of_until_it_is_back() {
    // An address that nobody else takes meanwhile.
    let collector = Collector::http_at(([127, 0, 82, 3], 0).into()).await;
    let parkway = Parkway::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", 50)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let address = collector.address();
    let before = page(&parkway).await;
    assert!(before.contains("0 spans sent"), "{before}");
    assert!(before.contains("all well"), "{before}");
    drop(collector);

    parkway.service("shop").get("/").await.expect(200);

    let lost = ["spans are lost", "lost so far", "names it and its protocol"];
    says(&parkway, "what is lost", &lost).await;
    let state = parkway.state().await;
    assert!(state.0["traces"]["failing"].is_string(), "{state:?}");
    let collector = Collector::http_at(address).await;
    eventually("it to be well again", async || {
        parkway.service("shop").get("/").await.expect(200);
        page(&parkway).await.contains("all well").then_some(())
    })
    .await;
    drop(collector);
    parkway.finish().await;
}

#[tokio::test]
async fn without_traces_nothing_is_said_of_them() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let pod = QueueProxy::start("shop-1", 1).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    parkway.at(shop.host()).get("/").await.expect(200);

    assert!(!page(&parkway).await.contains("Traces"));
    assert!(parkway.state().await.0["traces"].is_null());
    parkway.finish().await;
}
