//! The page in a browser.

use parkway_tests::{Gate, Parkway, eventually, hello_service, service};
use tokio::task::JoinSet;

use crate::browser::{Browser, DESK, PHONE, is_there};

#[tokio::test]
async fn a_cold_start_is_seen_while_it_happens() {
    if !is_there() {
        return;
    }
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let browser = Browser::start(&[]).await;
    browser.open(&format!("http://{}/", parkway.admin())).await;
    browser.says("#link", "live").await;
    browser.says("#revisions .chip", "at zero").await;

    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let shop = parkway.service("shop");
        clients.spawn(async move { shop.get("/").await });
    }
    browser.shows(3, "#revisions circle.parked").await;
    browser.says("#revisions .chip", "starting").await;
    browser.says("#starts .chip", "starting").await;
    browser
        .says("#starts details[open] .waterfall", "waiting")
        .await;
    browser.picture("starting-desk", DESK).await;

    gate.open();
    while let Some(answer) = clients.join_next().await {
        answer.unwrap().expect(200);
    }

    browser.shows(0, "#revisions circle.parked").await;
    browser.says("#revisions .chip", "ready").await;
    browser.says("#starts .chip", "ready").await;
    browser.says("#starts .waterfall", "readiness").await;
    browser.says("#starts .waterfall", "response").await;
    browser.shows(0, "#starts .waterfall rect.waiting").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.picture("started-desk", DESK).await;
    browser.picture("started-phone", PHONE).await;
    drop(browser);
    parkway.finish().await;
}

#[tokio::test]
async fn a_person_finds_a_revision_by_keys_alone_and_tries_a_request() {
    if !is_there() {
        return;
    }
    let words = "echo '<img src=x onerror=document.title=1>' >&2; exit 3";
    let manifests = format!(
        "{}---\n{}---\n{}",
        hello_service("shop"),
        hello_service("bank"),
        service("broken", &["sh", "-c", words])
    );
    let parkway = Parkway::with(manifests).await;
    parkway.service("broken").get("/").await.expect(503);
    let browser = Browser::start(&[]).await;
    browser.open(&format!("http://{}/", parkway.admin())).await;
    browser.says("#link", "live").await;
    browser.shows(3, "#revisions > tbody").await;
    browser.says("#health", "<img src=x").await;
    browser.shows(0, "#health img").await;
    assert_eq!(browser.run("return document.title", &[]).await, "Parkway");

    browser.press("/sho").await;
    browser.shows(1, "#revisions > tbody").await;
    browser.says("#revisions .name", "shop-00001").await;
    // Escape, as WebDriver writes it.
    browser.press("\u{e00c}").await;
    browser.shows(3, "#revisions > tbody").await;

    browser.tab_to("#revisions summary").await;
    // Enter, as WebDriver writes it.
    browser.press("\u{e007}").await;
    browser.says("#revisions tr.more", "Concurrency").await;

    browser.tab_to("#try [name=url]").await;
    browser.press("bank.default.localhost/\u{e007}").await;
    browser.says("#answer", "revision default/bank-00001").await;
    browser.says("#answer .chip", "served").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.picture("tried-desk", (1280, 1900)).await;
    drop(browser);
    parkway.finish().await;
}

#[tokio::test]
async fn without_scripts_the_page_is_tables_that_are_loaded_anew() {
    if !is_there() {
        return;
    }
    let parkway = Parkway::with(hello_service("shop")).await;
    let browser = Browser::start(&["--blink-settings=scriptEnabled=false"]).await;
    browser.open(&format!("http://{}/", parkway.admin())).await;
    let before = eventually("a document", async || browser.document().await.ok()).await;
    assert!(before.contains("shop-00001"), "{before}");
    assert!(before.contains("at zero"), "{before}");
    assert!(
        !before.contains("class=\"live\""),
        "a script has run: {before}"
    );

    parkway.service("shop").get("/").await.expect(200);

    eventually("a page with the start", async || {
        let after = browser.document().await.ok()?;
        let has = |text| after.contains(text);
        (has("1 request waited") && has("readiness") && has("add up to")).then_some(())
    })
    .await;
    drop(browser);
    parkway.finish().await;
}
