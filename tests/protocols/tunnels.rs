//! What an upgraded connection is allowed, and what it costs.

use std::time::Duration;

use parkway_tests::manifest::Service;
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, Raw, Upstream, anonymous_kib, eventually, revision_with_endpoints, service,
    with_endpoints,
};
use rustix::process::{Resource, getrlimit};

use crate::websocket::{OnStream, accept, echo, handshake, open};

/// A close frame with the code 1000 (RFC 6455 section 5.5.1).
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

fn shop_at(upstream: &Upstream, asking: impl FnOnce(Service) -> Service) -> String {
    with_endpoints(asking(service("shop", &[])), &[upstream.address()]).to_string()
}

#[tokio::test]
async fn a_tunnel_that_is_silent_both_ways_is_cut_and_one_that_is_not_goes_on() {
    let upstream = Upstream::start(echo).await;
    let shop = shop_at(&upstream, |shop| shop.asks("timeout-idle", "3s"));
    let parkway = Parkway::with(shop).await;
    let site = parkway.service("shop");
    let http2 = site.http2().await;
    let (mut silent, mut lively) = (open(&site).await, open(&site).await);
    let (mut silent2, mut lively2) = (OnStream::open(&http2).await, OnStream::open(&http2).await);
    // For longer than the timeout, never silent that long.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        lively.send("ping").await;
        lively2.send("ping");
        assert_eq!(lively.exactly(4).await, "ping");
        assert_eq!(lively2.exactly(4).await, b"ping");
    }
    assert!(silent.is_closed().await);
    assert!(silent2.end_of_it().await.is_err());
    lively.send("pong").await;
    assert_eq!(lively.exactly(4).await, "pong");
    drop((lively, lively2, silent2, http2));
    parkway.finish().await;
}

#[tokio::test]
async fn bytes_of_either_side_alone_keep_a_tunnel_up() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        accept(&mut connection).await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            connection.send("tick").await;
        }
        connection.raw.until("over").await;
    })
    .await;
    let shop = shop_at(&upstream, |shop| shop.asks("timeout-idle", "3s"));
    let parkway = Parkway::with(shop).await;
    let mut listener = open(&parkway.service("shop")).await;
    assert_eq!(listener.exactly(32).await, "tick".repeat(8));
    listener.send("over").await;
    assert!(listener.is_closed().await);
    parkway.finish().await;
}

#[tokio::test]
async fn the_total_timeout_ends_a_tunnel_however_lively() {
    let upstream = Upstream::start(echo).await;
    let shop = shop_at(&upstream, |shop| shop.asks("timeout-total", "2s"));
    let parkway = Parkway::with(shop).await;
    let mut socket = open(&parkway.service("shop")).await;
    eventually("the tunnel to be cut", async || {
        drop(socket.try_send("ping").await);
        socket.try_exactly(4).await.err()
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_tunnel_outlives_the_timeouts_that_a_response_has_to_begin() {
    let upstream = Upstream::start(echo).await;
    let asking = |shop: Service| {
        let shop = shop.asks("timeout-first-byte", "1500ms");
        shop.asks("timeout-try", "1500ms")
            .asks("timeout-idle", "off")
    };
    let parkway = Parkway::with(shop_at(&upstream, asking)).await;
    let mut socket = open(&parkway.service("shop")).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    socket.send("ping").await;
    assert_eq!(socket.exactly(4).await, "ping");
    drop(socket);
    parkway.finish().await;
}

#[tokio::test]
async fn the_endpoints_close_frame_passes_before_its_end() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        accept(&mut connection).await.unwrap();
        connection.send(CLOSE).await;
    })
    .await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let http2 = site.http2().await;
    let (mut one, mut two) = (open(&site).await, OnStream::open(&http2).await);
    assert_eq!(one.exactly(CLOSE.len()).await, CLOSE);
    assert!(one.is_closed().await);
    assert_eq!(two.exactly(CLOSE.len()).await, CLOSE);
    two.end_of_it().await.unwrap();
    drop((one, two, http2));
    parkway.finish().await;
}

#[tokio::test]
async fn bytes_behind_an_upgrade_reach_the_endpoint_only_after_its_101() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.raw.until("\r\n\r\n").await;
        connection.step().await;
        // All that came until now was the head.
        assert_eq!(connection.raw.arrived(), "");
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        connection.send(switch).await;
        let early = connection.raw.exactly(5).await;
        connection.send(early).await;
        connection.stall().await;
    })
    .await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let mut raw = site.raw().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n\r\nearly";
    raw.send(site.head("GET /") + upgrade).await;
    parkway.in_flight(1).await;
    upstream.go_on();
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(raw.exactly(5).await, "early");
    drop(raw);
    parkway.finish().await;
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_that_end() {
    let upstream = Upstream::start(echo).await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let mut parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let http2 = site.http2().await;
    let (mut one, mut two) = (open(&site).await, OnStream::open(&http2).await);
    parkway.terminate();
    parkway
        .says("stopping: parked and running requests may end")
        .await;
    eventually("new connections to be refused", async || {
        tokio::net::TcpStream::connect(site.address()).await.err()
    })
    .await;
    one.send("ping").await;
    two.send("ping");
    assert_eq!(one.exactly(4).await, "ping");
    assert_eq!(two.exactly(4).await, b"ping");
    assert!(parkway.left_processes().is_empty());
    one.half_close().await;
    two.end();
    assert!(one.is_closed().await);
    two.end_of_it().await.unwrap();
    assert_eq!(parkway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_no_longer_than_its_bound() {
    let upstream = Upstream::start(echo).await;
    let mut parkway = Parkway::builder()
        .manifest("main", shop_at(&upstream, |shop| shop))
        .flag("--drain-seconds", 1)
        .start()
        .await;
    let site = parkway.service("shop");
    let http2 = site.http2().await;
    let (mut one, mut two) = (open(&site).await, OnStream::open(&http2).await);
    parkway.terminate();
    assert!(one.is_closed().await);
    assert!(two.end_of_it().await.is_err());
    assert_eq!(parkway.ended().await.code(), Some(0));
    let cut = parkway.logged("drain deadline passed: the rest is cut off");
    assert!(!cut.is_empty());
}

/// Half of them by HTTP/1 and half by HTTP/2; each is used once before it falls silent.
#[tokio::test]
async fn ten_thousand_idle_sockets_take_little_memory() {
    /// In KiB, measured in an unoptimized build.
    const EACH: u64 = 8;
    let upstream = Upstream::start(echo).await;
    let shop = shop_at(&upstream, |shop| shop.asks("timeout-total", "off"));
    let parkway = Parkway::with(shop).await;
    let site = parkway.service("shop");
    drop(open(&site).await);
    // Three ends of each are in this process or in Parkway, which may open as many files.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let half = usize::try_from((files.saturating_sub(500) / 3).min(5_000)).unwrap();

    let before = anonymous_kib(parkway.pid());
    let mut by_http1: Vec<Raw> = Vec::new();
    for _ in 0..half {
        by_http1.push(open(&site).await);
    }
    for socket in &mut by_http1 {
        socket.send("ping").await;
        assert_eq!(socket.exactly(4).await, "ping");
    }
    let between = settled_kib(&parkway).await;
    let mut by_http2 = Vec::new();
    for _ in 0..half.div_ceil(200) {
        let http2 = site.http2().await;
        let mut sockets = Vec::new();
        for _ in 0..200 {
            sockets.push(OnStream::open(&http2).await);
        }
        for socket in &mut sockets {
            socket.send("ping");
            assert_eq!(socket.exactly(4).await, b"ping");
        }
        by_http2.push((http2, sockets));
    }
    let after = settled_kib(&parkway).await;

    let count = half as u64;
    let (http1, http2) = (
        between.saturating_sub(before) as f64 / count as f64,
        after.saturating_sub(between) as f64 / count as f64,
    );
    println!(
        "{half} idle tunnels by HTTP/1: {http1:.2} KiB each; {half} by HTTP/2: {http2:.2} KiB each"
    );
    assert!(http1 < EACH as f64, "{http1} KiB each by HTTP/1");
    assert!(http2 < EACH as f64, "{http2} KiB each by HTTP/2");
    let mut last = by_http1.pop().unwrap();
    last.send("pong").await;
    assert_eq!(last.exactly(4).await, "pong");
    drop((last, by_http1, by_http2));
    parkway.finish().await;
}

/// Memory when it has not shrunk for a while: what is free goes back to the system.
async fn settled_kib(parkway: &Parkway) -> u64 {
    let mut least = u64::MAX;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = anonymous_kib(parkway.pid());
        if now + 64 >= least {
            return least.min(now);
        }
        least = now;
    }
}

#[tokio::test]
async fn a_client_that_asks_and_leaves_at_once_leaves_no_tunnel() {
    let upstream = Upstream::start(echo).await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    for _ in 0..20 {
        let mut raw = site.raw().await;
        raw.send(handshake(&site)).await;
        raw.reset();
    }
    parkway.finish().await;
}
