//! What a route asks for by annotation: retries, timeouts, and who does not wake its Revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use parkway_tests::manifest::{Manifests, Service, with_endpoints};
use parkway_tests::upstream::Connection;
use parkway_tests::{Gate, Parkway, Upstream, eventually, hello_service, service};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n";

/// An endpoint that answers its first requests with these heads and the body `busy`, and then each with its own body.
async fn busy_at_first(heads: &'static [&'static str]) -> (Upstream, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some((_, body)) = connection.whole_request().await {
                match heads.get(counter.fetch_add(1, Ordering::SeqCst)) {
                    Some(head) => connection.send(format!("{head}\r\nbusy")).await,
                    None => connection.answer(&String::from_utf8_lossy(&body)).await,
                }
            }
        }
    })
    .await;
    (upstream, seen)
}

/// The Service `shop` with this endpoint, as far as `asking` says what its route asks for.
fn shop_at(upstream: &Upstream, asking: impl FnOnce(Service) -> Service) -> Manifests {
    with_endpoints(asking(service("shop", &[])), &[upstream.address()])
}

async fn retries(parkway: &Parkway, reason: &str) -> Option<f64> {
    parkway
        .metric("parkway_retries_total", &[("reason", reason)])
        .await
}

#[tokio::test]
async fn an_answer_is_not_retried_unless_the_route_asks() {
    let (upstream, seen) = busy_at_first(&[UNAVAILABLE]).await;
    let other = |shop: Service| shop.asks("retry-on", "500,502");
    for asking in [std::convert::identity, other] {
        seen.store(0, Ordering::SeqCst);
        let parkway = Parkway::with(shop_at(&upstream, asking)).await;
        let answer = parkway.service("shop").get("/").await.expect(503);
        assert_eq!(answer.text(), "busy");
        assert_eq!(seen.load(Ordering::SeqCst), 1);
        assert_eq!(retries(&parkway, "status").await, None);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn an_answer_that_the_route_does_not_want_is_retried_and_each_attempt_shows() {
    let (upstream, _) = busy_at_first(&[UNAVAILABLE; 2]).await;
    let shop = shop_at(&upstream, |shop| shop.asks("retry-on", "502,503"));
    let parkway = Parkway::builder()
        .manifest("main", shop)
        .switch("--access-log")
        .start()
        .await;
    let site = parkway.service("shop");

    let put = site.request(Method::PUT, "/", "hello, world");
    let answer = site.send(put).await.expect(200);

    assert_eq!(answer.text(), "hello, world", "the body is sent again");
    assert_eq!(retries(&parkway, "status").await, Some(2.0));
    let logged = eventually("the access log", async || parkway.logged("request").pop()).await;
    assert_eq!(logged["attempts"], 3);
    assert_eq!(logged["retries"], "status,status");
    parkway.finish().await;
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_attempts_are_used_up() {
    let (upstream, seen) = busy_at_first(&[UNAVAILABLE; 9]).await;
    let asking = |shop: Service| shop.asks("retry-on", "5xx").asks("retry-attempts", 4);
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let answer = parkway.service("shop").get("/").await.expect(503);
    assert_eq!(answer.text(), "busy");
    assert_eq!(seen.load(Ordering::SeqCst), 4);
    parkway.finish().await;
}

#[tokio::test]
async fn a_post_is_retried_only_when_the_route_calls_it_harmless() {
    let (upstream, seen) = busy_at_first(&[UNAVAILABLE]).await;
    let asking = |shop: Service| shop.asks("retry-on", "503");
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let site = parkway.service("shop");
    site.post("/", "order").await.expect(503);

    seen.store(0, Ordering::SeqCst);
    let bolder = shop_at(&upstream, |shop| asking(shop).asks("retry-methods", "POST"));
    parkway.edit("main", bolder);

    // The route takes over some time after the edit; until then the answer is busy each time.
    let answer = eventually("the new policy", async || {
        seen.store(0, Ordering::SeqCst);
        let answer = site.post("/", "order").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.text(), "order");
    parkway.finish().await;
}

#[tokio::test]
async fn a_body_that_was_not_kept_is_not_sent_again() {
    let (upstream, seen) = busy_at_first(&[UNAVAILABLE]).await;
    let asking = |shop: Service| shop.asks("retry-on", "503");
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let site = parkway.service("shop");
    let put = site.request(Method::PUT, "/", crate::pattern(256 * 1024));
    site.send(put).await.expect(503);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_asks_for_more_time_than_the_route_has_gets_its_way() {
    const LATER: &str =
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 120\r\ncontent-length: 4\r\n";
    let (upstream, seen) = busy_at_first(&[LATER]).await;
    let asking = |shop: Service| shop.asks("retry-on", "503");
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let answer = parkway.service("shop").get("/").await.expect(503);
    assert_eq!(answer.header("retry-after"), Some("120"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn a_slow_attempt_is_given_up_for_another_and_a_post_is_not() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        if connection.whole_request().await.is_none() {
            return;
        }
        if connection.number == 0 {
            return connection.stall().await;
        }
        connection.answer("at last").await;
    })
    .await;
    let asking = |shop: Service| shop.asks("timeout-try", "1500ms");
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let answer = parkway.service("shop").get("/").await.expect(200);
    assert_eq!(answer.text(), "at last");
    assert_eq!(retries(&parkway, "too_slow").await, Some(1.0));
    parkway.finish().await;

    let silent = Upstream::start(Connection::stall).await;
    let parkway = Parkway::with(shop_at(&silent, asking)).await;
    let answer = parkway.service("shop").post("/", "order").await.expect(504);
    let text = "the route's timeout has passed: timeout-try\n";
    assert_eq!(answer.text(), text);
    assert_eq!(silent.connections(), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn a_call_is_retried_by_the_codes_that_the_route_names() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let upstream = Upstream::http2(
        move |_: Request<_>, mut respond: h2::server::SendResponse<Bytes>| {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                let code = if number == 0 { "14" } else { "0" };
                let answer = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", code);
                respond
                    .send_response(answer.body(()).unwrap(), true)
                    .unwrap();
            }
        },
    )
    .await;
    let call = || {
        let call = Request::post("/shop.Shop/Buy").header("content-type", "application/grpc");
        call.body(Bytes::from_static(b"order")).unwrap()
    };
    for (codes, expected) in [("aborted", "14"), ("aborted,unavailable", "0")] {
        seen.store(0, Ordering::SeqCst);
        let shop = service("shop", &[]).h2c().asks("retry-on", codes);
        let parkway = Parkway::with(with_endpoints(shop, &[upstream.address()])).await;
        let http2 = parkway.service("shop").http2().await;
        let answer = http2.send(call()).await.expect(200);
        assert_eq!(answer.header("grpc-status"), Some(expected), "{codes}");
        drop(http2);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_request_parked_longer_than_its_route_allows_is_answered_503_by_that_name() {
    let gate = Gate::closed();
    let shop = hello_service("shop").h2c().asks("timeout-parked", "300ms");
    let parkway = Parkway::with(gate.holds(shop)).await;
    let site = parkway.service("shop");
    let http2 = site.http2().await;
    let call = Request::post("/shop.Shop/Buy").header("content-type", "application/grpc");
    let call = call.body(Bytes::from_static(b"order")).unwrap();

    let (over_http1, over_http2, called) =
        tokio::join!(site.get("/"), http2.get("/"), http2.send(call));

    let text = "the route's timeout has passed: timeout-parked";
    for answer in [over_http1.expect(503), over_http2.expect(503)] {
        assert_eq!(answer.text(), format!("{text}\n"));
    }
    let called = called.expect(200);
    assert_eq!(called.header("grpc-status"), Some("14"));
    assert_eq!(called.header("grpc-message"), Some(text));
    parkway.finish().await;
}

#[tokio::test]
async fn timeouts_of_a_route_have_their_names_and_take_the_revisions_place() {
    for (name, status, path) in [
        ("timeout-first-byte", 504, "/?sleep_ms=600000"),
        ("timeout-total", 504, "/?sleep_ms=600000"),
    ] {
        let parkway = Parkway::with(hello_service("shop").asks(name, "500ms")).await;
        let answer = parkway.service("shop").get(path).await.expect(status);
        let text = format!("the route's timeout has passed: {name}\n");
        assert_eq!(answer.text(), text);
        parkway.finish().await;
    }
    let shop = hello_service("shop").response_start(1);
    let parkway = Parkway::with(shop.asks("timeout-first-byte", "off")).await;
    let answer = parkway.service("shop").get("/?sleep_ms=1500").await;
    answer.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn an_idle_response_is_cut_by_its_routes_timeout() {
    let shop = hello_service("shop").asks("timeout-idle", "500ms");
    let parkway = Parkway::with(shop).await;
    let site = parkway.service("shop");
    let answer = site.get("/events?count=2&interval_ms=600000").await;
    assert_eq!(answer.text(), "data: 1\n\n");
    assert!(answer.broken.is_some(), "{answer:?}");
    parkway.finish().await;
}

/// A Service whose health checks and robots wake nobody.
fn light_sleeper() -> Service {
    hello_service("shop")
        .asks("no-wake-paths", "/healthz,/robots.txt")
        .asks("no-wake-agents", "Googlebot")
}

#[tokio::test]
async fn a_health_check_does_not_wake_a_revision_and_is_served_while_it_is_up() {
    let parkway = Parkway::with(light_sleeper()).await;
    let site = parkway.service("shop");
    let robot = || {
        let request = site.request(Method::GET, "/", "");
        let (mut head, body) = request.into_parts();
        let agent = "Mozilla/5.0 (compatible; googlebot/2.1)";
        head.headers.insert("user-agent", agent.parse().unwrap());
        Request::from_parts(head, body)
    };
    let http2 = site.http2().await;

    let asleep = "the Revision is scaled to zero, and this request does not wake it\n";
    assert_eq!(site.get("/healthz").await.expect(503).text(), asleep);
    assert_eq!(http2.get("/robots.txt").await.expect(503).text(), asleep);
    assert_eq!(site.send(robot()).await.expect(503).text(), asleep);
    let revision = parkway.state().await.revision("shop-00001");
    assert_eq!(revision.counter("coldStarts"), 0);
    assert_eq!(revision.processes(), 0);
    let refused = parkway.metric("parkway_refused_requests_total", &[("reason", "asleep")]);
    assert_eq!(refused.await, Some(3.0));

    site.get("/").await.expect(200);

    assert_eq!(site.get("/healthz").await.expect(200).text(), "ok\n");
    http2.get("/robots.txt").await.expect(200);
    site.send(robot()).await.expect(200);
    drop(http2);
    parkway.finish().await;
}

#[tokio::test]
async fn health_checks_do_not_keep_a_revision_up() {
    let parkway = Parkway::with(light_sleeper().window(6)).await;
    let site = parkway.service("shop");
    site.get("/").await.expect(200);
    site.get("/healthz").await.expect(200);
    eventually("a health check to find nobody up", async || {
        (site.get("/healthz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .ready_endpoints(),
        0
    );
    parkway.finish().await;
}
