//! The waiting page, in a browser.

use parkway_tests::{Gate, Parkway, hello_service};

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
    parkway_tests::eventually("the page to load itself anew", async || {
        (pages().await >= 2.0).then_some(())
    })
    .await;

    gate.open();

    browser.says("body", "shop").await;
    browser.shows(0, "progress").await;
    drop(browser);
    parkway.finish().await;
}
