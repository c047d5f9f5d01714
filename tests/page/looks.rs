//! Light and dark, on a desk and on a phone.

use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::{Gate, Parkway, QueueProxy, hello_service, service};
use serde_json::json;

use crate::browser::{AS_IT_IS, Browser, is_there};

const SCHEMES: [&str; 2] = ["light", "dark"];
/// Widths of a desk and of a phone.
const WIDTHS: [u32; 2] = [1280, 390];

/// Looks at the page as it is now in every way, and keeps pictures of it.
async fn can_be_read(browser: &Browser, what: &str) {
    for scheme in SCHEMES {
        for width in WIDTHS {
            browser.looks_through(width, scheme).await;
            let unreadable = browser.unreadable().await;
            assert_eq!(unreadable, json!([]), "{what}, {scheme}, {width} wide");
            let name = format!("{what}-{scheme}-{width}");
            browser.picture(&name, AS_IT_IS).await;
        }
    }
}

/// What is behind everything.
async fn paper(browser: &Browser) -> String {
    let script = "return getComputedStyle(document.body).backgroundColor";
    browser.run(script, &[]).await.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_page_can_be_read_in_light_and_dark_on_a_desk_and_on_a_phone() {
    if !is_there() {
        return;
    }
    let gate = Gate::closed();
    let long = "a-service-with-a-name-as-long-as-names-of-services-may-be";
    let manifests = format!(
        "{}---\n{}---\n{}---\n{}",
        hello_service("shop"),
        gate.holds(hello_service("bank")),
        service("broken", &["sh", "-c", "echo no such database >&2; exit 3"]),
        hello_service(long),
    );
    let parkway = Parkway::with(manifests).await;
    parkway.service("broken").get("/").await.expect(503);
    parkway.service("shop").get("/").await.expect(200);
    let (bank, again) = (parkway.service("bank"), parkway.service("bank"));
    let browser = Browser::start(&[]).await;
    let (one, other, ()) = tokio::join!(bank.get("/"), again.get("/"), async {
        parkway.parked(2).await;
        let tried = format!("http://{}/?url=shop.default.localhost/", parkway.admin());
        browser.open(&tried).await;
        browser.says("#link", "live").await;
        browser.shows(2, "#revisions circle.parked").await;
        // All that can be opened is open.
        let open = "document.querySelectorAll('details').forEach((one) => { one.open = true; })";
        browser.run(open, &[]).await;
        can_be_read(&browser, "run").await;
        browser.looks_through(1280, "light").await;
        let light = paper(&browser).await;
        browser.looks_through(1280, "dark").await;
        assert_ne!(paper(&browser).await, light);
        gate.open();
    });
    one.expect(200);
    other.expect(200);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    parkway.finish().await;
}

#[tokio::test]
async fn the_page_of_a_cluster_can_be_read_in_light_and_dark_on_a_desk_and_on_a_phone() {
    if !is_there() {
        return;
    }
    let (cluster, shop, bank) = (Cluster::start(), serving("shop"), serving("bank"));
    cluster.put(&shop);
    cluster.put(&bank);
    let parkway = cluster.parkway().await;
    let pod = QueueProxy::start("shop-1", 1).await;
    let (warm, cold) = (parkway.at(shop.host()), parkway.at(bank.host()));
    let (answer, ()) = tokio::join!(warm.get("/"), async {
        parkway.parked(1).await;
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    });
    answer.expect(200);
    let late = QueueProxy::start("bank-1", 1).await;
    let browser = Browser::start(&[]).await;
    let (answer, ()) = tokio::join!(cold.get("/"), async {
        parkway.parked(1).await;
        browser.open(&format!("http://{}/", parkway.admin())).await;
        browser.says("#link", "live").await;
        browser.shows(1, "#revisions circle.parked").await;
        can_be_read(&browser, "serve").await;
        cluster.pods(&bank, &[(late.address(), PodIs::Ready)]);
    });
    answer.expect(200);
    drop(browser);
    parkway.finish().await;
}

#[tokio::test]
async fn the_waiting_page_can_be_read_in_light_and_dark_on_a_desk_and_on_a_phone() {
    if !is_there() {
        return;
    }
    let gate = Gate::closed();
    let shop = hello_service("shop")
        .asks("waiting-page", "100ms")
        .asks("waiting-page-refresh", "60s");
    let parkway = Parkway::with(gate.holds(shop)).await;
    let shop = parkway.service("shop");
    let to_us = format!("--host-resolver-rules=MAP * {}", parkway.external());
    let browser = Browser::start(&[&to_us]).await;

    browser.open(&format!("http://{}/", shop.host())).await;
    browser.says("h1", "shop is starting").await;

    can_be_read(&browser, "waiting-page").await;
    drop(browser);
    gate.open();
    shop.get("/").await.expect(200);
    parkway.finish().await;
}
