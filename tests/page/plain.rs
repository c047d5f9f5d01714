//! The page as it is sent, which is also how it is without scripts.

use std::fmt::Write as _;

use parkway_tests::{Gate, Parkway, hello_service, service};

async fn page(parkway: &Parkway, path: &str) -> String {
    let answer = parkway.admin_get(path).await.unwrap().expect(200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    answer.text()
}

#[tokio::test]
async fn the_page_has_revisions_routes_and_health_in_tables() {
    let parkway = Parkway::with(hello_service("shop")).await;

    let page = page(&parkway, "/").await;

    for expected in [
        "shop-00001",
        "at zero",
        "shop.default.localhost",
        "shop.default.svc.cluster.local",
        "generation 1 in effect",
        "inside this process",
        "all well",
        "No request has waited for a start yet.",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_start_under_way_and_who_waits_for_it_are_on_the_page() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let (first, second, ()) = tokio::join!(shop.get("/"), shop.get("/"), async {
        parkway.parked(2).await;
        let page = page(&parkway, "/").await;
        assert_eq!(page.matches("class=\"parked\"").count(), 2, "{page}");
        assert!(page.contains("starting"), "{page}");
        assert!(page.contains("2 requests waited"), "{page}");
        assert!(page.contains("still waiting"), "{page}");
        gate.open();
    });
    first.expect(200);
    second.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_workload_that_cannot_start_is_shown_with_its_reason_and_no_markup_of_its_own() {
    let says = "echo '<img src=x onerror=alert(1)>' >&2; exit 3";
    let parkway = Parkway::with(service("shop", &["sh", "-c", says])).await;
    parkway.service("shop").get("/").await.expect(503);

    let page = page(&parkway, "/").await;

    assert!(page.contains("fails to start"), "{page}");
    assert!(
        page.contains("&lt;img src=x onerror=alert(1)&gt;"),
        "its last words: {page}"
    );
    assert!(!page.contains("<img src=x"), "{page}");
    parkway.finish().await;
}

#[tokio::test]
async fn what_is_asked_comes_back_as_text() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let written = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    for place in ["q", "url", "method", "header", "starts=5&url"] {
        let path = format!("/?url=shop.default.localhost&{place}={written}");
        let answer = parkway.admin_get(&path).await.unwrap();
        assert!(
            !answer.text().contains("<script>alert"),
            "{place}: {answer:?}"
        );
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_mistake_in_an_edit_is_shown_with_its_place_and_remedy() {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway.edit(
        "main",
        hello_service("shop")
            .to_string()
            .replace("template:", "tmplate:"),
    );
    parkway
        .state_when("a configuration that was not taken", |state| {
            state.configuration()["rejected"] == true
        })
        .await;

    let page = page(&parkway, "/").await;

    assert!(page.contains("the last edit is not in effect"), "{page}");
    assert!(page.contains("main.yaml:"), "{page}");
    assert!(page.contains("tmplate"), "{page}");
    parkway.finish().await;
}

#[tokio::test]
async fn a_request_can_be_tried_without_sending_it() {
    let parkway = Parkway::with(hello_service("shop")).await;

    let served = page(&parkway, "/?url=shop.default.localhost/cart&method=POST").await;
    assert!(
        served.contains("POST shop.default.localhost/cart at the external entrance"),
        "{served}"
    );
    assert!(
        served.contains("100 % revision default/shop-00001"),
        "{served}"
    );
    assert!(
        !served.contains("http-equiv=\"refresh\""),
        "an answer stays to be read"
    );
    let inside = page(&parkway, "/?url=http://shop.default/&local=1").await;
    assert!(inside.contains("at the cluster-local entrance"), "{inside}");
    let unknown = page(&parkway, "/?url=nobody.example").await;
    assert!(unknown.contains("not served"), "{unknown}");
    let mistaken = page(&parkway, "/?url=shop.default.localhost&header=oops").await;
    assert!(mistaken.contains("expected `Name: value`"), "{mistaken}");

    assert_eq!(parkway.state().await.revision("shop-00001").processes(), 0);
    parkway.finish().await;
}

#[tokio::test]
async fn of_very_many_revisions_a_hundred_are_shown_and_the_filter_finds_the_others() {
    const SERVICES: usize = 400;
    let mut manifests = String::new();
    for number in 0..SERVICES {
        writeln!(
            manifests,
            "{}---",
            hello_service(&format!("shop-{number:03}"))
        )
        .unwrap();
    }
    let parkway = Parkway::with(manifests).await;

    let all = page(&parkway, "/").await;
    assert_eq!(all.matches("id=\"revision:").count(), 100);
    assert_eq!(all.matches("id=\"host:").count(), 50);
    assert!(all.contains("100 of 400 shown"), "{all}");

    let one = page(&parkway, "/?q=SHOP-399").await;
    assert_eq!(one.matches("id=\"revision:").count(), 1, "{one}");
    assert!(one.contains("1 of 400 Revisions."), "{one}");
    assert!(
        one.contains("id=\"host:shop-399.default.localhost\""),
        "{one}"
    );
    parkway.finish().await;
}
