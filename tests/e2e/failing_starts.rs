//! A workload that cannot start: those who wait are told at once, and told why.

use parkway_tests::{Answer, Parkway, hello_service, service};

#[tokio::test]
async fn a_command_that_ends_is_told_with_its_status_and_its_last_words() {
    let crashing = hello_service("shop").env("START_EXIT_CODE", 3);
    let answer = cannot_start(crashing).await;
    assert!(answer.text().contains("status 3"), "{answer:?}");
    assert!(
        answer.text().contains("START_EXIT_CODE is set"),
        "its stderr is quoted: {answer:?}"
    );
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_told_by_name() {
    let answer = cannot_start(service("shop", &["no-such-command-anywhere"])).await;
    assert!(
        answer
            .text()
            .contains("command \"no-such-command-anywhere\" not found"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_command_that_never_listens_is_told_so_after_its_progress_deadline() {
    let answer = cannot_start(hello_service("shop").never_listening().progress_deadline(1)).await;
    assert!(
        answer.text().contains("did not listen on $PORT"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_grpc_call_to_a_workload_that_cannot_start_is_unavailable() {
    let parkway = Parkway::with(service("shop", &["no-such-command-anywhere"])).await;
    let http2 = parkway.service("shop").http2().await;
    let call = http::Request::post("/shop.Shop/Buy").header("content-type", "application/grpc");
    let answer = http2.send(call.body("x".into()).unwrap()).await.expect(200);
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert!(
        answer.header("grpc-message").unwrap().contains("not found"),
        "{answer:?}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_service_that_could_not_start_serves_when_its_manifest_is_mended() {
    let parkway = Parkway::with(service("shop", &["no-such-command-anywhere"])).await;
    let shop = parkway.service("shop");
    assert_eq!(shop.get("/").await.status, 503);

    parkway.edit("main", hello_service("shop"));

    parkway_tests::settled("the mended Service to serve", async || {
        match shop.get("/").await {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    parkway.finish().await;
}

/// What three clients of a Service that cannot start are told, which is the same.
async fn cannot_start(service: parkway_tests::manifest::Service) -> Answer {
    let parkway = Parkway::with(service).await;
    let shop = parkway.service("shop");
    let http2 = shop.http2().await;
    let (first, second, third) =
        tokio::join!(shop.get("/"), shop.post("/", "hello"), http2.get("/"));
    for answer in [&first, &second, &third] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(
            answer.text().starts_with("the Revision cannot start: "),
            "{answer:?}"
        );
    }
    let state = parkway.state_when("the failure to be known", |state| {
        state.revision("shop-00001").0["failure"].is_string()
    });
    state.await;
    parkway.finish().await;
    first
}
