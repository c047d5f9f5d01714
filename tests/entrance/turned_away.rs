//! queue-proxy that has no room, and answers that are not quite what it says then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use parkway_ingress::routing::headers::HostMode;
use parkway_tests::http1::Http1;
use parkway_tests::http2::Http2;
use parkway_tests::upstream::Connection;
use parkway_tests::{Raw, Upstream, settled};
use tokio::time::Instant;

use crate::cluster::{Cluster, HOST, limited};

/// As Go's `http.Error` writes it in queue-proxy.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nDate: Sun, 22 Nov 2026 11:49:34 GMT\r\nContent-Length: 27\r\n\r\n\
    pending request queue full\n";

/// A queue-proxy that has no room the first `refusals` times, and counts who asks.
async fn full(refusals: usize) -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let count = Arc::clone(&count);
        async move {
            while let Some((head, body)) = connection.whole_request().await {
                if count.fetch_add(1, Ordering::SeqCst) < refusals {
                    let answer = if head.method == "HEAD" {
                        FULL.strip_suffix("pending request queue full\n").unwrap()
                    } else {
                        FULL
                    };
                    connection.send(answer).await;
                } else if head.method == "HEAD" {
                    connection
                        .send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
                        .await;
                } else {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    connection.answer(&format!("{} {text}", head.method)).await;
                }
            }
        }
    })
    .await;
    (upstream, asked)
}

fn request(method: &str, body: &'static str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri("/");
    request.body(Bytes::from_static(body.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_request_that_is_turned_away_waits_and_is_sent_again_whatever_its_method() {
    for method in ["GET", "POST", "PATCH", "BREW"] {
        let (upstream, asked) = full(3).await;
        let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
        let mut client = Http1::connect(cluster.external, HOST).await;
        let answer = client.send(request(method, "body")).await.expect(200);
        assert_eq!(answer.text(), format!("{method} body"));
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        assert_eq!(
            upstream.connections(),
            1,
            "its connection is as good as ever"
        );
        let state = cluster.state();
        assert!(state.endpoints.iter().all(|endpoint| !endpoint.is_suspect));
        let counts = cluster.counts.total();
        assert!(
            counts
                .values()
                .all(|it| it.by_status().keys().all(|status| *status == 200))
        );
        cluster.finish().await;
    }
}

#[tokio::test]
async fn head_is_told_by_the_fields_alone() {
    let (upstream, asked) = full(2).await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    client
        .send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .await;
    assert_eq!(client.answer_to_head().await.status, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    cluster.finish().await;
}

#[tokio::test]
async fn it_is_so_at_the_activators_ports_and_over_http2_too() {
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let upstream = Upstream::http2(move |request: Request<h2::RecvStream>, mut respond| {
        let is_full = count.fetch_add(1, Ordering::SeqCst) < 2;
        async move {
            let (status, text) = if is_full {
                (503, "pending request queue full\n")
            } else {
                (200, "done")
            };
            drop(request);
            let head = Response::builder()
                .status(status)
                .header("content-length", text.len())
                .body(());
            let mut body = respond.send_response(head.unwrap(), false).unwrap();
            body.send_data(text.into(), true).unwrap();
        }
    })
    .await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let host = "single-00001.fixtures.svc.cluster.local";
    let client = Http2::connect(cluster.activator, host).await;
    let answer = client.post("/", "body").await.expect(200);
    assert_eq!(answer.text(), "done");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    cluster.finish().await;
}

#[tokio::test]
async fn more_than_ten_times_is_not_too_often() {
    let (upstream, asked) = full(14).await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Http1::connect(cluster.external, HOST).await;
    let answer = client.send(request("POST", "body")).await.expect(200);
    assert_eq!(answer.text(), "POST body");
    assert_eq!(asked.load(Ordering::SeqCst), 15);
    cluster.finish().await;
}

#[tokio::test]
async fn at_the_revisions_deadline_it_is_504_and_until_then_nobody_spins() {
    let (upstream, asked) = full(usize::MAX).await;
    let cluster = Cluster::with(limited(1, 400), &[upstream.address()]).await;
    let begun = Instant::now();
    let clients = (0..3).map(async |_| {
        let mut client = Http1::connect(cluster.external, HOST).await;
        let answer = client.send(request("POST", "body")).await.expect(504);
        assert_eq!(answer.text(), "activator request timeout");
    });
    futures::future::join_all(clients).await;

    assert!(begun.elapsed() >= Duration::from_millis(400));
    // The slot is closed for 5, 10, 20, 40, 80 ms with each of the three, so there is no time for more than some.
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=18).contains(&asked), "{asked} times");
    cluster.finish().await;
}

#[tokio::test]
async fn those_that_are_turned_away_take_turns_with_those_that_wait() {
    let (upstream, asked) = full(6).await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let over_http1 = (0..4).map(async |number| {
        let mut client = Http1::connect(cluster.external, HOST).await;
        let method = ["GET", "POST"][number % 2];
        client.send(request(method, "")).await.expect(200)
    });
    let http2 = Http2::connect(cluster.external, HOST).await;
    let over_http2 = (0..4).map(async |_| http2.get("/").await.expect(200));

    futures::future::join(
        futures::future::join_all(over_http1),
        futures::future::join_all(over_http2),
    )
    .await;

    assert_eq!(asked.load(Ordering::SeqCst), 6 + 8);
    cluster.finish().await;
}

#[tokio::test]
async fn an_upgrade_that_is_turned_away_is_asked_for_again() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.request().await;
        if connection.number == 0 {
            connection.send(FULL).await;
            return;
        }
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        connection.send(head).await;
    })
    .await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}"))
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    drop(client);
    cluster.finish().await;
}

#[tokio::test]
async fn another_endpoint_with_room_is_asked_first() {
    let (no_room, refused) = full(usize::MAX).await;
    let (room, served) = full(0).await;
    let endpoints = [no_room.address(), room.address()];
    let cluster = Cluster::with(limited(1, 60_000), &endpoints).await;
    let mut client = Http1::connect(cluster.external, HOST).await;
    for _ in 0..4 {
        client.send(request("POST", "body")).await.expect(200);
    }
    assert_eq!(served.load(Ordering::SeqCst), 4);
    // Each request is sent there once at most.
    assert!(refused.load(Ordering::SeqCst) <= 4);
    cluster.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_pauses_leaves_nothing_behind() {
    let (upstream, asked) = full(usize::MAX).await;
    let cluster = Cluster::with(limited(1, 600_000), &[upstream.address()]).await;
    let mut over_http1 = Raw::connect(cluster.external).await;
    over_http1
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .await;
    let over_http2 = Http2::connect(cluster.external, HOST).await;
    let begun = over_http2
        .begin(Request::get("/").body(()).unwrap(), true)
        .await
        .unwrap();
    settled("both to be turned away", async || {
        match asked.load(Ordering::SeqCst) {
            asked if asked >= 4 => Ok(()),
            asked => Err(asked),
        }
    })
    .await;

    drop((over_http1, begun, over_http2));

    cluster.finish().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_sent_again_gets_queue_proxys_answer() {
    // Reads all of it and keeps none, like one that has to know that it has no room only then.
    let (upstream, asked) = full(usize::MAX).await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Http1::connect(cluster.external, HOST).await;
    let body = Bytes::from(vec![b'x'; 1024 * 1024]);
    let answer = client
        .send(Request::post("/").body(body).unwrap())
        .await
        .expect(503);
    assert_eq!(answer.text(), "pending request queue full\n");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    cluster.finish().await;
}

#[tokio::test]
async fn an_upload_under_way_is_taken_up_by_the_next_attempt_to_the_last_byte() {
    const REFUSALS: usize = 5;
    // Turned away before the body has come; the endpoints that did so would go on reading it.
    let turned = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&turned);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let count = Arc::clone(&count);
        async move {
            let number = connection.number;
            while let Some(head) = connection.request().await {
                if number < REFUSALS {
                    connection.send(FULL).await;
                    connection.stall().await; // until the request is taken back from here
                    count.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                let body = connection.body(&head).await;
                let ends = (body.first(), body.last());
                connection.answer(&format!("{} {ends:?}", body.len())).await;
            }
        }
    })
    .await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    // More than is kept for another attempt, once it has been read.
    let rest = vec![b'z'; 200 * 1024];
    let length = 5 + rest.len();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    client.send(head + "abcde").await;
    let heard = async || match turned.load(Ordering::SeqCst) {
        REFUSALS.. => Ok(()),
        fewer => Err(fewer),
    };
    settled("the last refusal to be heard", heard).await;
    // While it pauses, most likely.
    client.send(rest).await;

    let answer = client.answer().await.expect(200);

    let ends = (Some(b'a'), Some(b'z'));
    assert_eq!(answer.text(), format!("{length} {ends:?}"));
    cluster.finish().await;
}

/// A 503 of a workload, and how the client reads it.
async fn passes(response: &'static str, host_mode: HostMode) {
    let upstream = Upstream::start(move |mut connection: Connection| async move {
        while connection.request().await.is_some() {
            connection.send(response).await;
        }
    })
    .await;
    let cluster = Cluster::start(limited(1, 60_000), &[upstream.address()], host_mode).await;
    let mut body = response
        .split_inclusive("\r\n\r\n")
        .skip(1)
        .collect::<String>();
    if response.contains("chunked") {
        body = "pending request queue full\n".to_owned();
    }
    let mut client = Raw::connect(cluster.external).await;
    // Twice, so that the first has left nothing on either connection.
    for _ in 0..2 {
        client
            .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
            .await;
        let answer = client.answer().await.expect(503);
        assert_eq!(answer.text(), body, "{response}");
    }
    assert_eq!(upstream.connections(), 1);
    cluster.finish().await;
}

#[tokio::test]
async fn a_workloads_own_503_passes_also_one_that_begins_alike() {
    for response in [
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 27\r\n\r\npending request queue full!",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 27\r\n\r\nPending request queue full\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 28\r\n\r\npending request queue full\n\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 26\r\n\r\npending request queue full",
        "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n\
         1b\r\npending request queue full\n\r\n0\r\n\r\n",
    ] {
        passes(response, HostMode::QueueProxy).await;
    }
}

#[tokio::test]
async fn where_no_queue_proxy_stands_in_front_its_words_are_the_workloads() {
    passes(FULL, HostMode::Process).await;
}

#[tokio::test]
async fn an_answer_that_begins_alike_is_held_back_no_longer_than_it_does() {
    // The second half never comes: what has come is passed on all the same, as soon as it is no longer alike.
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.request().await;
        connection
            .send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 27\r\n\r\npending")
            .await;
        connection.step().await;
        connection.send(" rest").await;
        connection.stall().await;
    })
    .await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .await;
    upstream.go_on();

    let head = client.head().await;

    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(&client.exactly(12).await[..], b"pending rest");
    drop(client);
    cluster.finish().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_while_it_is_alike_is_seen_to_break_off() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.request().await;
        connection
            .send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 27\r\n\r\npending")
            .await;
    })
    .await;
    let cluster = Cluster::with(limited(1, 60_000), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .await;

    let answer = client.answer().await;

    assert_eq!((answer.status.as_u16(), &*answer.text()), (503, "pending"));
    assert!(answer.broken.is_some());
    cluster.finish().await;
}
