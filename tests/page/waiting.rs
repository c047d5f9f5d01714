//! The waiting page, in a browser.

use http::Method;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use parkway_tests::{Gate, Parkway, QueueProxy, eventually, hello_service};
use serde_json::json;

use crate::browser::{Browser, DESK, is_there};

#[tokio::test]
async fn somebody_who_opens_a_sleeping_service_sees_how_its_start_goes_and_then_the_service() {
    if !is_there() {
        return;
    }
    let gate = Gate::closed();
    let shop = hello_service("shop")
        .asks("waiting-page", "200ms")
        .asks("waiting-page-refresh", "1s");
    let parkway = Parkway::with(gate.holds(shop)).await;
    let shop = parkway.service("shop");
    let to_us = format!("--host-resolver-rules=MAP * {}", parkway.external());
    let browser = Browser::start(&[&to_us]).await;

    browser.open(&format!("http://{}/", shop.host())).await;

    browser.says("h1", "shop is starting").await;
    browser.shows(1, "progress").await;
    browser.says("[role=status]", "not known yet").await;
    browser.picture("waiting", DESK).await;
    let pages = async || {
        let pages = parkway.metric(
            "parkway_waiting_pages_total",
            &[("kn_revision_name", "shop-00001")],
        );
        pages.await.unwrap_or_default()
    };
    eventually("the page to load itself anew", async || {
        (pages().await >= 2.0).then_some(())
    })
    .await;

    gate.open();

    browser.says("body", "shop").await;
    browser.shows(0, "progress").await;
    drop(browser);
    parkway.finish().await;
}

#[tokio::test]
async fn in_a_cluster_a_browser_is_shown_the_page_and_an_api_client_is_held() {
    let (cluster, shop, bank) = (Cluster::start(), serving("shop"), serving("bank"));
    cluster.put(&shop);
    cluster.put(&bank);
    let asks = json!({"metadata": {"annotations": {
        "parkway.dev/waiting-page": "100ms",
        "parkway.dev/waiting-page-refresh": "7s",
    }}});
    cluster.api.edit("ingresses", NAMESPACE, shop.name(), asks);
    let parkway = cluster.parkway().await;
    let get = |host: String, accepts: &'static str| {
        let site = parkway.at(host);
        let mut request = site.request(Method::GET, "/", "");
        let accepts = http::HeaderValue::from_static(accepts);
        request.headers_mut().insert("accept", accepts);
        tokio::spawn(async move { site.send(request).await })
    };
    let held = get(shop.host(), "application/json");
    // Nobody has asked for a page there.
    let without = get(bank.host(), "text/html");
    parkway.parked(2).await;

    let page = get(shop.host(), "text/html").await.unwrap().expect(503);

    assert_eq!(page.header("refresh"), Some("7"));
    assert_eq!(page.header("retry-after"), Some("7"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let text = page.text();
    assert!(text.contains("shop is starting"), "{text}");
    assert!(!held.is_finished() && !without.is_finished());
    let (one, other) = (
        QueueProxy::start("shop-1", 1).await,
        QueueProxy::start("bank-1", 1).await,
    );
    cluster.pods(&shop, &[(one.address(), PodIs::Ready)]);
    cluster.pods(&bank, &[(other.address(), PodIs::Ready)]);
    held.await.unwrap().expect(200);
    without.await.unwrap().expect(200);
    parkway.finish().await;
}
