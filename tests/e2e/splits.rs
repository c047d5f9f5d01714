//! Shares of the traffic, tags, and what `parkway explain` says about them.

use std::collections::BTreeMap;

use parkway_tests::manifest::Manifests;
use parkway_tests::{Gate, Parkway, hello_service};

#[tokio::test]
async fn of_a_hundred_requests_exactly_as_many_go_to_each_revision_as_its_share_says() {
    let parkway = Parkway::builder()
        .manifest("main", old_and_new())
        .workers(1)
        .start()
        .await;
    let shop = parkway.service("shop");
    let mut http1 = shop.http1().await;
    let http2 = shop.http2().await;
    for _ in 0..2 {
        let mut counts = BTreeMap::new();
        for _ in 0..50 {
            let first = http1
                .send(shop.request(http::Method::GET, "/", ""))
                .await
                .expect(200)
                .text();
            let second = http2.get("/").await.expect(200).text();
            *counts.entry(first).or_insert(0) += 1;
            *counts.entry(second).or_insert(0) += 1;
        }
        let told = |revision: &str| counts.get(&format!("Hello from {revision}!\n")).copied();
        assert_eq!(
            (told("shop-00001"), told("shop-00002")),
            (Some(80), Some(20))
        );
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_tag_has_a_host_of_its_own_that_leads_to_its_revision_only() {
    let parkway = Parkway::with(old_and_new()).await;
    let next = parkway.service("next-shop");
    for _ in 0..5 {
        assert_eq!(
            next.get("/").await.expect(200).text(),
            "Hello from shop-00002!\n"
        );
    }
    parkway.finish().await;
}

#[tokio::test]
async fn explain_tells_the_shares_and_what_comes_next_and_it_does() {
    let parkway = Parkway::builder()
        .manifest("main", old_and_new())
        .workers(1)
        .start()
        .await;
    let shop = parkway.service("shop");
    for _ in 0..10 {
        let output = parkway.explain(&["GET", "http://shop.default.localhost/", "--next"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("80") && text.contains("20") && text.contains("default/shop-00001"),
            "{text}"
        );
        let (_, next) = text.split_once("next on worker 0: default/").unwrap();
        let next = next.lines().next().unwrap();
        assert_eq!(
            shop.get("/").await.expect(200).text(),
            format!("Hello from {next}!\n")
        );
    }
    parkway.finish().await;
}

#[tokio::test]
async fn explain_tells_whether_a_request_would_wait_and_for_what() {
    let gate = Gate::closed();
    let parkway =
        Parkway::with(gate.holds(hello_service("shop").concurrency(1).max_scale(1))).await;
    let explained = || {
        let output = parkway.explain(&["GET", "http://shop.default.localhost/"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let at_zero = explained();
    assert!(
        at_zero.contains("would wait: no endpoint is ready (at zero or starting), 0 parked"),
        "{at_zero}"
    );

    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.get("/?sleep_ms=1"), async {
        parkway.parked(1).await;
        let starting = explained();
        assert!(
            starting.contains("would wait") && starting.contains("1 parked"),
            "{starting}"
        );
        gate.open();
    });
    answer.expect(200);

    let warm = explained();
    assert!(
        warm.contains("would go at once: 1 endpoints ready"),
        "{warm}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn explain_tells_why_a_request_is_not_served() {
    let parkway = Parkway::with(hello_service("inner").cluster_local()).await;
    let explained = |arguments: &[&str]| {
        let output = parkway.explain(arguments);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, text) = explained(&["GET", "http://nobody.default.localhost/"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("answered with 404"), "{text}");

    let inner = "http://inner.default.svc.cluster.local/";
    let (code, text) = explained(&["GET", inner]);
    assert_eq!(code, Some(1));
    assert!(text.contains("cluster-local"), "{text}");
    let (code, text) = explained(&["GET", inner, "--local"]);
    assert_eq!(code, Some(0), "{text}");
    parkway.finish().await;
}

fn old_and_new() -> Manifests {
    let new = hello_service("shop")
        .revision("shop-00002")
        .traffic("shop-00001", 80)
        .traffic("shop-00002", 20);
    hello_service("shop-00001")
        .as_revision_of("shop")
        .and(new.tag("shop-00002", "next"))
}
