//! `parkway explain` tells where a request would go, and is right about it.

use std::process::Output;

use parkway_tests::manifest::Manifests;
use parkway_tests::{Gate, Parkway, Upstream, endpoint_slice, hello_service, service};
use serde_json::Value;

const SHOP: &str = "http://shop.default.localhost/";

#[tokio::test]
async fn it_shows_the_shares_of_a_split() {
    let parkway = Parkway::with(split()).await;
    let said = served(&parkway.explain(&["GET", SHOP]));
    assert!(said.contains("80 % revision default/shop-00001"), "{said}");
    assert!(said.contains("20 % revision default/shop-00002"), "{said}");
    parkway.finish().await;
}

#[tokio::test]
async fn it_foretells_where_the_next_request_goes() {
    let (one, two) = (
        Upstream::answering("one").await,
        Upstream::answering("two").await,
    );
    let endpoints = split()
        .and(endpoint_slice("shop-00001", &[one.address()]))
        .and(endpoint_slice("shop-00002", &[two.address()]));
    let parkway = Parkway::builder()
        .manifest("main", endpoints)
        .workers(1)
        .start()
        .await;
    for _ in 0..30 {
        let said = served(&parkway.explain(&["GET", SHOP, "--next"]));
        let name = parkway.service("shop").get("/").await.expect(200).json()["name"].take();
        let foretold = match name.as_str() {
            Some("one") => "next on worker 0: default/shop-00001",
            _ => "next on worker 0: default/shop-00002",
        };
        assert!(said.contains(foretold), "{name} answered, {said}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn it_shows_what_the_route_asks_for() {
    let shop = hello_service("shop").asks("retry-on", "503,unavailable");
    let shop = shop.asks("timeout-idle", "5m").asks("timeout-total", "off");
    let parkway = Parkway::with(shop.and(hello_service("plain"))).await;
    let said = served(&parkway.explain(&["GET", SHOP]));
    for term in [
        "asks for retry-on: 503,unavailable",
        "asks for retry-attempts: 3",
        "asks for timeout-idle: 300s",
        "asks for timeout-total: off",
    ] {
        assert!(said.contains(term), "{term} is not in {said}");
    }
    let plain = "http://plain.default.localhost/";
    let said = served(&parkway.explain(&["GET", plain]));
    assert!(!said.contains("asks for"), "{said}");
    parkway.finish().await;
}

#[tokio::test]
async fn it_says_that_a_request_would_wait_and_why() {
    let gate = Gate::closed();
    let parkway =
        Parkway::with(gate.holds(hello_service("shop").concurrency(1).max_scale(1))).await;
    let shop = parkway.service("shop");

    let at_zero = served(&parkway.explain(&["GET", SHOP]));
    assert!(
        at_zero.contains("would wait: no endpoint is ready"),
        "{at_zero}"
    );
    assert!(at_zero.contains("0 parked before it"), "{at_zero}");
    let mut first = shop.raw().await;
    first
        .send(shop.head("GET /events?count=2&interval_ms=3600000") + "\r\n")
        .await;
    parkway.parked(1).await;
    let parked = served(&parkway.explain(&["GET", SHOP]));
    assert!(parked.contains("1 parked before it"), "{parked}");
    gate.open();
    first.head().await;
    let taken = served(&parkway.explain(&["GET", SHOP]));
    assert!(
        taken.contains("would wait: all 1 slots of 1 endpoints are taken"),
        "{taken}"
    );
    drop(first);
    parkway.quiet().await;
    let free = served(&parkway.explain(&["GET", SHOP]));
    assert!(
        free.contains("would go at once: 1 endpoint ready"),
        "{free}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn it_says_why_a_revision_cannot_start() {
    let parkway = Parkway::with(service("shop", &["sh", "-c", "exit 3"])).await;
    parkway.service("shop").get("/").await.expect(503);
    let said = served(&parkway.explain(&["GET", SHOP]));
    assert!(said.contains("the last start failed"), "{said}");
    assert!(said.contains('3'), "its status: {said}");
    parkway.finish().await;
}

#[tokio::test]
async fn it_says_that_nobody_serves_a_host() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let said = refused(&parkway.explain(&["GET", "http://nowhere.example/"]));
    assert!(
        said.contains("404") && said.contains("no rule serves this host"),
        "{said}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn it_tells_the_two_entrances_apart() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let url = "http://shop.default.svc.cluster.local/";

    let outside = refused(&parkway.explain(&["GET", url]));
    assert!(outside.contains("cluster-local entrance only"), "{outside}");

    let inside = served(&parkway.explain(&["GET", url, "--local"]));
    assert!(
        inside.contains("100 % revision default/shop-00001"),
        "{inside}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn it_takes_headers_into_account() {
    let by_header = "apiVersion: networking.internal.knative.dev/v1alpha1\nkind: Ingress\n\
        metadata: {name: beta, namespace: default}\nspec:\n  rules:\n    - hosts: [beta.example]\n      \
        visibility: ExternalIP\n      http:\n        paths:\n          \
        - headers: {x-beta: {exact: \"yes\"}}\n            \
        splits: [{serviceName: shop-00002, serviceNamespace: default, servicePort: 80, percent: 100}]\n          \
        - splits: [{serviceName: shop-00001, serviceNamespace: default, servicePort: 80, percent: 100}]\n";
    let parkway = Parkway::with(split().and(by_header)).await;
    let url = "http://beta.example/";

    let without = served(&parkway.explain(&["GET", url]));
    assert!(
        without.contains("100 % revision default/shop-00001"),
        "{without}"
    );
    let with = served(&parkway.explain(&["GET", url, "-H", "X-Beta: yes"]));
    assert!(with.contains("100 % revision default/shop-00002"), "{with}");
    let mistaken = parkway.explain(&["GET", url, "-H", "X-Beta"]);
    assert_eq!(mistaken.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&mistaken.stderr).contains("Name: value"),
        "{mistaken:?}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn it_speaks_json_to_programs() {
    let parkway = Parkway::with(split()).await;
    let said = served(&parkway.explain(&["GET", SHOP, "--json", "--next"]));
    let said: Value = serde_json::from_str(&said).unwrap();
    let shares = &said["explanation"]["passes"][0]["shares"];
    assert_eq!(shares[0]["target"], "default/shop-00001", "{said:#}");
    assert_eq!(shares[0]["percent"], 80);
    assert_eq!(shares[1]["percent"], 20);
    assert_eq!(
        said["next"].as_array().unwrap().len(),
        2,
        "two workers: {said:#}"
    );
    assert!(!said["waits"].as_array().unwrap().is_empty());
    parkway.finish().await;
}

#[tokio::test]
async fn it_says_so_when_no_parkway_answers() {
    let refusing = Upstream::refusing();
    let nobody = refusing.address().to_string();
    let asked = parkway_tests::command(&["explain", "GET", SHOP, "--admin", &nobody]);
    let ended = { asked }.output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        said.contains(&format!("no Parkway answers at {nobody}")),
        "{said}"
    );
}

/// An old and a new version of a Service, 80 to 20.
fn split() -> Manifests {
    let old = hello_service("shop-00001").as_revision_of("shop");
    let new = hello_service("shop").revision("shop-00002");
    new.traffic("shop-00001", 80)
        .traffic("shop-00002", 20)
        .and(old)
}

#[track_caller]
fn served(ended: &Output) -> String {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    String::from_utf8(ended.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(ended: &Output) -> String {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    String::from_utf8(ended.stdout.clone()).unwrap()
}
