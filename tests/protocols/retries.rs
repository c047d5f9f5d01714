//! Retries and timeouts of a route, end to end, each attempt visible. What a single answer does: `e2e/policies.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use parkway_tests::manifest::Service;
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, eventually, hello_service, service, with_endpoints};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n";

async fn shop(asking: impl FnOnce(Service) -> Service, endpoints: &[&Upstream]) -> Parkway {
    let endpoints: Vec<_> = endpoints.iter().map(|one| one.address()).collect();
    start(asking, &endpoints).await
}

async fn start(
    asking: impl FnOnce(Service) -> Service,
    endpoints: &[std::net::SocketAddr],
) -> Parkway {
    let manifest = with_endpoints(asking(service("shop", &[])), endpoints);
    Parkway::builder()
        .manifest("main", manifest)
        .workers(1)
        .switch("--access-log")
        .start()
        .await
}

async fn retries(parkway: &Parkway, reason: &str) -> f64 {
    let labels = [("reason", reason)];
    let counted = parkway.metric("parkway_retries_total", &labels).await;
    counted.unwrap_or(0.0)
}

/// The line of the request that has ended last.
async fn logged(parkway: &Parkway) -> Value {
    eventually("the access log", async || parkway.logged("request").pop()).await
}

/// A port that listens and takes no connection: its queue is full, and the system drops who knocks.
struct Full {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Full {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let (address, mut queued) = (listener.local_addr().unwrap(), Vec::new());
        let knock = async || {
            let knocking = TcpStream::connect(address);
            tokio::time::timeout(Duration::from_millis(300), knocking).await
        };
        while let Ok(taken) = knock().await {
            queued.push(taken.unwrap());
        }
        Self {
            listener,
            _queued: queued,
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_in_time_is_left_for_another() {
    let (full, upstream) = (Full::new().await, Upstream::answering("other").await);
    let endpoints = [full.listener.local_addr().unwrap(), upstream.address()];
    let parkway = start(|shop| shop.asks("timeout-connect", "100ms"), &endpoints).await;
    let site = parkway.service("shop");
    // Whichever is asked first. A POST: nobody has begun with it.
    eventually("the full endpoint to be asked first", async || {
        site.post("/", "order").await.expect(200);
        (retries(&parkway, "connect").await >= 1.0).then_some(())
    })
    .await;
    let retried = eventually("the access log of the second attempt", async || {
        let mut lines = parkway.logged("request").into_iter();
        lines.find(|line| line["attempts"] == 2)
    })
    .await;
    assert_eq!(retried["retries"], "connect");
    parkway.finish().await;
}

#[tokio::test]
async fn endpoints_that_take_no_connection_are_a_502_that_names_the_timeout() {
    let full = Full::new().await;
    let endpoints = [full.listener.local_addr().unwrap()];
    let parkway = start(|shop| shop.asks("timeout-connect", "20ms"), &endpoints).await;
    let answer = parkway.service("shop").get("/").await.expect(502);
    let text = "no connection within the route's timeout of connecting\n";
    assert_eq!(answer.text(), text);
    assert_eq!(logged(&parkway).await["attempts"], 10);
    assert_eq!(retries(&parkway, "connect").await, 9.0);
    parkway.finish().await;
}

/// Notes when requests come; the first is told to come again after this many seconds.
async fn asks_to_wait(seconds: u32) -> (Upstream, Arc<Mutex<Vec<Instant>>>) {
    let seen = Arc::<Mutex<Vec<Instant>>>::default();
    let times = Arc::clone(&seen);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let times = Arc::clone(&times);
        async move {
            while connection.whole_request().await.is_some() {
                let number = {
                    let mut times = times.lock();
                    times.push(Instant::now());
                    times.len()
                };
                match number {
                    1 => {
                        let after = format!("retry-after: {seconds}\r\n\r\nbusy");
                        connection.send(UNAVAILABLE.to_owned() + &after).await;
                    }
                    _ => connection.answer("now").await,
                }
            }
        }
    })
    .await;
    (upstream, seen)
}

#[tokio::test]
async fn an_attempt_comes_no_sooner_than_the_endpoint_asks() {
    let (upstream, seen) = asks_to_wait(1).await;
    let asking = |shop: Service| shop.asks("retry-on", "503").asks("retry-backoff-max", "5s");
    let parkway = shop(asking, &[&upstream]).await;
    let answer = parkway.service("shop").get("/").await.expect(200);
    assert_eq!(answer.text(), "now");
    let seen = seen.lock().clone();
    assert!(seen[1] - seen[0] >= Duration::from_secs(1), "{seen:?}");
    parkway.finish().await;
}

#[tokio::test]
async fn an_attempt_that_would_come_after_the_requests_time_is_not_waited_for() {
    let (upstream, seen) = asks_to_wait(4).await;
    let asking = |shop: Service| {
        let shop = shop
            .asks("retry-on", "503")
            .asks("retry-backoff-max", "60s");
        shop.asks("timeout-total", "3s")
    };
    let parkway = shop(asking, &[&upstream]).await;
    let answer = parkway.service("shop").get("/").await.expect(503);
    assert_eq!(answer.text(), "busy");
    assert_eq!(seen.lock().len(), 1);
    parkway.finish().await;
}

#[tokio::test]
async fn the_budget_bounds_what_a_broken_revision_is_asked_again() {
    const REQUESTS: usize = 400;
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let counter = Arc::clone(&counter);
        async move {
            while connection.whole_request().await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
                connection.send(format!("{UNAVAILABLE}\r\nbusy")).await;
            }
        }
    })
    .await;
    let asking = |shop: Service| {
        let shop = shop.asks("retry-on", "503").asks("retry-attempts", 10);
        shop.asks("retry-backoff", "1ms")
            .asks("retry-backoff-max", "1ms")
    };
    let parkway = shop(asking, &[&upstream]).await;
    let site = parkway.service("shop");
    let began = Instant::now();
    let mut client = site.http1().await;
    for _ in 0..REQUESTS {
        let answer = client.send(site.request(Method::GET, "/", "")).await;
        answer.expect(503);
    }
    let again = seen.load(Ordering::SeqCst) - REQUESTS;
    // 20 % of what came, and 10 a second, the ten seconds before the first request included.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let most = REQUESTS / 5 + 10 * (10 + seconds);
    assert!((100..=most).contains(&again), "{again} of at most {most}");
    assert_eq!(retries(&parkway, "status").await, again as f64);
    drop(client);
    parkway.finish().await;
}

#[tokio::test]
async fn a_slow_attempt_gives_its_body_to_the_next_and_each_shows() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some((_, body)) = connection.whole_request().await else {
            return;
        };
        match connection.number {
            0 | 1 => connection.stall().await,
            _ => connection.answer(&String::from_utf8_lossy(&body)).await,
        }
    })
    .await;
    let asking = |shop: Service| shop.asks("timeout-try", "1500ms");
    let parkway = shop(asking, &[&upstream]).await;
    let site = parkway.service("shop");
    let put = site.request(Method::PUT, "/", "hello, world");
    let answer = site.send(put).await.expect(200);
    assert_eq!(answer.text(), "hello, world");
    let line = logged(&parkway).await;
    assert_eq!(
        (&line["attempts"], &line["retries"]),
        (&json!(3), &json!("too_slow,too_slow"))
    );
    assert_eq!(retries(&parkway, "too_slow").await, 2.0);
    parkway.finish().await;
}

#[tokio::test]
async fn time_for_the_first_byte_counts_over_all_attempts() {
    let silent = Upstream::start(Connection::stall).await;
    let asking = |shop: Service| {
        let shop = shop.asks("timeout-try", "1s").asks("retry-attempts", 10);
        shop.asks("timeout-first-byte", "3500ms")
    };
    let parkway = shop(asking, &[&silent]).await;
    let answer = parkway.service("shop").get("/").await.expect(504);
    let text = "the route's timeout has passed: timeout-first-byte\n";
    assert_eq!(answer.text(), text);
    let attempts = logged(&parkway).await["attempts"].as_u64().unwrap();
    assert!((2..=4).contains(&attempts), "{attempts}");
    parkway.finish().await;
}

#[tokio::test]
async fn the_total_time_cuts_a_response_that_is_still_coming() {
    let shop = hello_service("shop").min_scale(1);
    let parkway = Parkway::with(shop.asks("timeout-total", "2s")).await;
    // The time counts from the arrival, the start of a process included.
    let is_up = |state: &parkway_tests::State| state.revision("shop-00001").ready_endpoints() == 1;
    parkway.state_when("its process", is_up).await;
    let site = parkway.service("shop");
    let path = "/events?count=1000&interval_ms=100";
    let http2 = site.http2().await;
    for answer in [site.get(path).await, http2.get(path).await] {
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("data: 1\n\n"), "{answer:?}");
        assert!(answer.broken.is_some(), "{answer:?}");
    }
    drop(http2);
    parkway.finish().await;
}

/// A Pod that is too busy for its first requests. queue-proxy's own refusal reads otherwise.
#[tokio::test]
async fn in_kubernetes_an_answer_is_retried_only_when_its_route_asks() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let pod = Upstream::start(move |mut connection: Connection| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some((head, _)) = connection.whole_request().await {
                let is_probe =
                    head.header("k-network-probe").is_some() || { head.header("user-agent") }
                        .is_some_and(|it| it.contains("probe"));
                if is_probe {
                    connection.answer("queue").await;
                    continue;
                }
                match counter.fetch_add(1, Ordering::SeqCst) {
                    0 => connection.send(format!("{UNAVAILABLE}\r\nbusy")).await,
                    _ => connection.answer("at last").await,
                }
            }
        }
    })
    .await;
    let cluster = Cluster::start();
    let shop = serving("shop");
    cluster.put(&shop);
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let site = parkway.at(shop.host());
    let answer = site.get("/").await.expect(503);
    assert_eq!(
        (answer.text().as_str(), seen.load(Ordering::SeqCst)),
        ("busy", 1)
    );
    assert_eq!(retries(&parkway, "status").await, 0.0);

    let asks = json!({ "metadata": { "annotations": { "parkway.dev/retry-on": "503" } } });
    cluster.api.edit("ingresses", NAMESPACE, "shop", asks);

    eventually("the new policy", async || {
        seen.store(0, Ordering::SeqCst);
        let answer = site.get("/").await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(retries(&parkway, "status").await, 1.0);
    parkway.finish().await;
}
