//! The waiting page: who is shown it, what becomes of their place, and that the Revision stays wanted.

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::manifest::Service;
use parkway_tests::{Answer, Gate, Parkway, Site, hello_service};

const NAVIGATION: [(&str, &str); 2] = [
    ("sec-fetch-mode", "navigate"),
    ("accept", "text/html,*/*;q=0.8"),
];

fn request(site: &Site, method: Method, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = site.request(method, "/", Bytes::new());
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

async fn browse(site: &Site) -> Answer {
    site.send(request(site, Method::GET, &NAVIGATION)).await
}

fn patient(service: Service) -> Service {
    service
        .asks("waiting-page", "100ms")
        .asks("waiting-page-refresh", "1s")
}

/// How many requests of the Revision are counted for the autoscaler.
async fn counted(parkway: &Parkway, count: u64) {
    parkway
        .state_when(&format!("{count} counted"), |state| {
            state.revision("shop-00001").0["counted"] == count
        })
        .await;
}

#[tokio::test]
async fn a_browser_is_shown_a_page_while_an_api_client_is_held_and_both_get_the_answer() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(patient(hello_service("shop")))).await;
    let shop = parkway.service("shop");
    let held = tokio::spawn({
        let shop = shop.clone();
        async move { shop.get("/").await }
    });
    parkway.parked(1).await;

    let page = browse(&shop).await.expect(503);

    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("refresh"), Some("1"));
    assert_eq!(page.header("retry-after"), Some("1"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("x-robots-tag"), Some("noindex"));
    assert!(page.header("content-security-policy").is_some());
    let text = page.text();
    assert!(text.contains("shop is starting"), "{text}");
    assert!(
        text.contains("How long it takes is not known yet."),
        "{text}"
    );
    assert!(!held.is_finished(), "an API client is kept waiting");
    parkway.parked(1).await;
    let labels = [("kn_revision_name", "shop-00001")];
    let pages = parkway.metric("parkway_waiting_pages_total", &labels).await;
    assert_eq!(pages, Some(1.0));

    gate.open();
    held.await.unwrap().expect(200);
    let answer = browse(&shop).await.expect(200);
    assert_eq!(answer.header("refresh"), None);
    parkway.finish().await;
}

#[tokio::test]
async fn the_revision_stays_wanted_as_long_as_the_page_loads_itself_anew_and_a_little_longer() {
    let gate = Gate::closed();
    let shop = patient(hello_service("shop")).window(6);
    let parkway = Parkway::with(gate.holds(shop)).await;
    let shop = parkway.service("shop");
    for _ in 0..3 {
        browse(&shop).await.expect(503);
        // It waits no more, and counts all the same; once, however often it comes.
        parkway.parked(0).await;
        counted(&parkway, 1).await;
    }
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .counter("coldStarts"),
        1
    );

    // The browser is closed.
    counted(&parkway, 0).await;

    gate.open();
    browse(&shop).await;
    parkway.finish().await;
}

#[tokio::test]
async fn over_http2_it_is_the_same_and_a_second_start_has_an_estimate() {
    let parkway = Parkway::with(
        patient(hello_service("shop"))
            .window(6)
            .start_delay_ms(1_500),
    )
    .await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let zero = parkway
        .state_when("zero", |state| {
            let shop = state.revision("shop-00001");
            shop.processes() == 0 && shop.ready_endpoints() == 0
        })
        .await;

    let http2 = shop.http2().await;
    let page = http2
        .send(request(&shop, Method::GET, &NAVIGATION))
        .await
        .expect(503);

    let text = page.text();
    let usual = &zero.revision("shop-00001").0["usualStartSeconds"];
    let usual = usual.as_f64().unwrap();
    assert!(usual >= 1.5, "{usual}");
    let told = format!("That usually takes {:.0} seconds", usual.ceil());
    assert!(text.contains(&told), "{told}: {text}");
    assert_eq!(page.header("refresh"), Some("1"));
    drop(http2);
    shop.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_page_of_ones_own_is_filled_in_and_what_cannot_be_meant_is_refused() {
    let gate = Gate::closed();
    let page = "<h1>{{service}}</h1><p>{{percent}}%</p>";
    let shop = patient(hello_service("shop")).asks("waiting-page-template", page);
    let parkway = Parkway::with(gate.holds(shop)).await;
    let shop = parkway.service("shop");
    let answer = browse(&shop).await.expect(503);
    let text = answer.text();
    assert!(text.starts_with("<h1>shop</h1><p>"), "{text}");
    assert_eq!(
        answer.header("content-security-policy"),
        None,
        "what it is made of is its owner's"
    );
    assert_eq!(
        answer.header("refresh"),
        Some("1"),
        "it need not load itself anew"
    );
    gate.open();
    shop.get("/").await.expect(200);
    parkway.finish().await;

    let wrong = patient(hello_service("shop")).asks("waiting-page-template", "{{cookie}}");
    let refused = Parkway::builder().manifest("main", wrong).run_to_end();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("nothing is known as {{cookie}}"), "{said}");
}

#[tokio::test]
async fn who_is_no_browser_that_navigates_and_whoever_asks_without_the_annotation_is_held() {
    let gate = Gate::closed();
    let bank = hello_service("bank");
    let manifests = format!(
        "{}---\n{}",
        gate.holds(patient(hello_service("shop"))),
        gate.holds(bank)
    );
    let parkway = Parkway::with(manifests).await;
    let (shop, bank) = (parkway.service("shop"), parkway.service("bank"));
    let html = ("accept", "text/html");
    let mut held = tokio::task::JoinSet::new();
    let requests = [
        (
            &shop,
            Method::POST,
            vec![("sec-fetch-mode", "navigate"), html],
        ),
        (&shop, Method::GET, vec![("sec-fetch-mode", "cors"), html]),
        (&shop, Method::GET, vec![("accept", "application/json")]),
        (&bank, Method::GET, NAVIGATION.to_vec()),
    ];
    let count = requests.len() as u64;
    for (site, method, headers) in requests {
        let (site, request) = (site.clone(), request(site, method, &headers));
        held.spawn(async move { site.send(request).await });
    }
    parkway.parked(count).await;
    // One that is shown a page meanwhile proves that the others have been held for longer.
    browse(&shop).await.expect(503);
    assert_eq!(parkway.state().await.parked(), count);

    gate.open();
    while let Some(answer) = held.join_next().await {
        answer.unwrap().expect(200);
    }
    parkway.finish().await;
}
