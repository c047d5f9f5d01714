//! Shares of the traffic, and tags.

use std::collections::BTreeMap;

use parkway_tests::manifest::Manifests;
use parkway_tests::{Parkway, hello_service};

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

fn old_and_new() -> Manifests {
    let new = hello_service("shop")
        .revision("shop-00002")
        .traffic("shop-00001", 80)
        .traffic("shop-00002", 20);
    hello_service("shop-00001")
        .as_revision_of("shop")
        .and(new.tag("shop-00002", "next"))
}
