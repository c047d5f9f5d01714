//! The page of a Parkway that serves a cluster.

use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::{QueueProxy, eventually};

use crate::browser::{Browser, DESK, is_there};

#[tokio::test]
async fn a_cold_start_in_a_cluster_and_the_health_of_its_watches_are_on_the_page() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let page = async || parkway.admin_get("/").await.unwrap().expect(200).text();
    let before = page().await;
    for expected in [
        "shop-00001",
        "at zero",
        "No request has waited for a start yet.",
    ] {
        assert!(before.contains(expected), "{expected}: {before}");
    }
    assert!(before.contains(&shop.host()), "{before}");

    let site = parkway.at(shop.host());
    let pod = QueueProxy::start("shop-1", 1).await;
    let (answer, ()) = tokio::join!(site.get("/"), async {
        parkway.parked(1).await;
        // What is seen is kept for a moment.
        eventually("the start on the page", async || {
            page().await.contains("starting").then_some(())
        })
        .await;
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    });
    answer.expect(200);

    let after = eventually("its end on the page", async || {
        let after = page().await;
        after.contains("response").then_some(after)
    })
    .await;
    for expected in ["1 request waited", "add up to", "autoscaler"] {
        assert!(after.contains(expected), "{expected}: {after}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_browser_sees_a_cold_start_of_a_cluster_while_it_happens() {
    if !is_there() {
        return;
    }
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let browser = Browser::start(&[]).await;
    browser.open(&format!("http://{}/", parkway.admin())).await;
    browser.says("#link", "live").await;
    browser.says("#revisions .chip", "at zero").await;

    let site = parkway.at(shop.host());
    let pod = QueueProxy::start("shop-1", 1).await;
    let (answer, ()) = tokio::join!(site.get("/"), async {
        browser.shows(1, "#revisions circle.parked").await;
        browser.says("#starts .chip", "starting").await;
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    });
    answer.expect(200);

    browser.says("#starts .chip", "ready").await;
    browser.shows(0, "#revisions circle.parked").await;
    browser.says("#starts .waterfall", "response").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.picture("cluster-desk", DESK).await;
    drop(browser);
    parkway.finish().await;
}
