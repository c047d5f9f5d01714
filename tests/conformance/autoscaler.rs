//! What goes over the wire to an autoscaler elsewhere, bit by bit, from the real binary.
//!
//! Compared with what Knative's activator said in a real cluster. Every recorded payload is decoded and encoded again
//! by the tests of `parkway-autoscaler-client`; here it is Parkway's own that are looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use parkway_autoscaler_client::stat::StatMessage;
use parkway_autoscaler_client::wire;
use parkway_tests::{Parkway, Upstream, eventually, hello_service};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::websocket::{BINARY, CLOSE, Frame, PING, PONG, WebSocket, read_head};

const RECORDING: &str = include_str!("../../autoscaler-client/tests/fixtures/frames.jsonl");

/// An autoscaler that writes down what it gets and answers pings.
#[derive(Debug)]
struct Autoscaler {
    address: SocketAddr,
    heard: Arc<Heard>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    handshakes: Mutex<Vec<String>>,
    frames: Mutex<Vec<(Instant, Frame)>>,
    closes: Notify,
}

impl Autoscaler {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Heard::default());
        let serving = tokio::spawn(accept(listener, Arc::clone(&heard)));
        Self {
            address,
            heard,
            serving,
        }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Ends the connection as an autoscaler that restarts does.
    fn close(&self) {
        self.heard.closes.notify_one();
    }

    fn handshakes(&self) -> Vec<String> {
        self.heard.handshakes.lock().clone()
    }

    fn frames(&self, opcode: u8) -> Vec<(Instant, Frame)> {
        let frames = self.heard.frames.lock();
        frames
            .iter()
            .filter(|(_, frame)| frame.opcode() == opcode)
            .cloned()
            .collect()
    }

    /// What was said about a Revision so far: when, its concurrency, its requests.
    fn reports(&self, revision: &str) -> Vec<(Instant, f64, f64)> {
        let mut reports = Vec::new();
        for (at, frame) in self.frames(BINARY) {
            for StatMessage {
                revision: about,
                stat,
            } in wire::decode(&frame.payload).unwrap()
            {
                if about.name() == revision {
                    reports.push((at, stat.average_concurrent_requests, stat.request_count));
                }
            }
        }
        reports
    }

    /// Waits until nothing more is said about a Revision; what was said by then.
    ///
    /// A zero alone does not show it: what the first report announced is subtracted from the second.
    async fn silence(&self, revision: &str) -> Vec<(Instant, f64, f64)> {
        eventually("silence", async || {
            let reports = self.reports(revision);
            let last = reports.last()?;
            (last.0.elapsed() > Duration::from_millis(2500)).then_some(reports)
        })
        .await
    }

    async fn pings(&self, count: usize) -> Vec<(Instant, Frame)> {
        eventually(format!("{count} pings"), async || {
            let pings = self.frames(PING);
            (pings.len() >= count).then_some(pings)
        })
        .await
    }
}

impl Drop for Autoscaler {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, heard: Arc<Heard>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, Arc::clone(&heard)));
    }
}

async fn converse(mut stream: TcpStream, heard: Arc<Heard>) {
    let head = read_head(&mut stream).await;
    let key = field(&head, "sec-websocket-key").expect("a key");
    let accept = derive_accept_key(key.as_bytes());
    heard.handshakes.lock().push(head);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut socket = WebSocket(stream);
    loop {
        let frame = tokio::select! {
            frame = socket.read() => frame,
            () = heard.closes.notified() => {
                socket.write(CLOSE, &1012_u16.to_be_bytes()).await;
                return;
            }
        };
        let Some(frame) = frame else { return };
        if frame.opcode() == PING {
            socket.write(PONG, &frame.payload).await;
        }
        heard.frames.lock().push((Instant::now(), frame));
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned());
    values.next()
}

/// A Parkway that reports to `autoscaler`, connected.
async fn reporting_to(autoscaler: &Autoscaler, services: &[&str]) -> Parkway {
    let mut builder = Parkway::builder().flag("--autoscaler", autoscaler.url());
    for service in services {
        builder = builder.manifest(service, hello_service(service));
    }
    let parkway = builder.start().await;
    let is_connected =
        |state: &parkway_tests::State| state.0["autoscaler"]["connections"][0]["connected"] == true;
    parkway
        .state_when("a connection to the autoscaler", is_connected)
        .await;
    parkway
}

#[tokio::test]
async fn first_request_is_reported_at_once_then_the_rest_then_one_zero_and_silence() {
    let autoscaler = Autoscaler::start().await;
    let parkway = reporting_to(&autoscaler, &["shop"]).await;

    let site = parkway.service("shop");
    let long = tokio::spawn(async move { site.get("/?sleep_ms=4500").await });
    let first = eventually("the first report", async || {
        autoscaler.reports("shop-00001").first().copied()
    })
    .await;
    assert_eq!((first.1, first.2), (1.0, 1.0));
    assert!(!long.is_finished(), "the first report came with the answer");
    long.await.unwrap().expect(200);
    let reports = autoscaler.silence("shop-00001").await;

    let said: Vec<_> = reports
        .iter()
        .map(|(_, concurrency, requests)| (*concurrency, *requests))
        .collect();
    let [_first, between @ .., last] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*last, (0.0, 0.0));
    assert!(
        between.iter().all(|(_, requests)| *requests == 0.0),
        "announced, so not counted again: {said:?}"
    );
    assert!(
        between
            .iter()
            .all(|(concurrency, _)| (0.0..=1.0).contains(concurrency)),
        "{said:?}"
    );
    let busy = between
        .iter()
        .filter(|(concurrency, _)| *concurrency > 0.0)
        .count();
    assert!(
        busy >= 2,
        "a request of 4.5 s is inside for two reports at least: {said:?}"
    );
    let lasted = reports[reports.len() - 1].0 - reports[1].0;
    let most = usize::try_from(lasted.as_secs()).unwrap() + 3;
    assert!(
        reports.len() - 1 <= most,
        "more than one report a second: {reports:?}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn frames_are_binary_final_masked_and_tell_their_length_in_as_few_bytes_as_can_be() {
    let services = ["shop", "cart", "till"];
    let autoscaler = Autoscaler::start().await;
    let parkway = reporting_to(&autoscaler, &services).await;

    let requests = services.map(|service| {
        let site = parkway.service(service);
        async move { site.get("/?sleep_ms=2500").await.expect(200) }
    });
    join_all(requests).await;
    for service in services {
        autoscaler.silence(&format!("{service}-00001")).await;
    }

    let frames = autoscaler.frames(BINARY);
    for (_, frame) in &frames {
        assert_eq!(
            frame.head[0],
            0x80 | BINARY,
            "final, nothing reserved, binary"
        );
        assert!(frame.is_final() && frame.is_masked());
        let expected = if frame.payload.len() < 126 { 0 } else { 2 };
        assert_eq!(
            frame.extended_length_bytes(),
            expected,
            "for {} bytes",
            frame.payload.len()
        );
        let messages = wire::decode(&frame.payload).unwrap();
        assert_eq!(wire::encode(&messages), frame.payload);
    }
    assert!(
        frames.iter().any(|(_, frame)| frame.payload.len() > 125),
        "three Revisions in one list"
    );
    assert!(
        frames.iter().any(|(_, frame)| frame.payload.len() < 126),
        "one Revision alone"
    );
    let masks = frames
        .iter()
        .map(|(_, frame)| &frame.head[frame.head.len() - 4..]);
    assert_eq!(
        masks.collect::<std::collections::BTreeSet<_>>().len(),
        frames.len(),
        "each mask is drawn anew"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn pings_are_empty_and_come_as_often_as_recorded() {
    let autoscaler = Autoscaler::start().await;
    let parkway = reporting_to(&autoscaler, &["shop"]).await;

    let pings = autoscaler.pings(3).await;

    let recorded = recorded_ping_interval();
    let slack = Duration::from_millis(1500);
    for pair in pings.windows(2) {
        let interval = pair[1].0 - pair[0].0;
        assert!(
            interval.abs_diff(recorded) < slack,
            "{interval:?} instead of {recorded:?}"
        );
    }
    for (_, ping) in &pings {
        assert_eq!(ping.head[..2], [0x80 | PING, 0x80], "final, masked, empty");
    }
    assert!(
        autoscaler.frames(BINARY).is_empty(),
        "nothing to say, nothing said"
    );
    parkway.finish().await;
}

fn recorded_ping_interval() -> Duration {
    let frames = RECORDING
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let times: Vec<f64> = frames
        .filter(|frame| frame["opcode"] == "ping")
        .map(|frame| frame["seconds_since_connect"].as_f64().unwrap())
        .collect();
    let span = times[times.len() - 1] - times[0];
    Duration::from_secs_f64(span / f64::from(u32::try_from(times.len() - 1).unwrap()))
}

#[tokio::test]
async fn handshake_asks_for_a_plain_web_socket_without_origin_and_protocol() {
    let autoscaler = Autoscaler::start().await;
    let parkway = reporting_to(&autoscaler, &["shop"]).await;

    let handshakes = autoscaler.handshakes();
    assert_eq!(handshakes.len(), 1, "one connection is enough");
    let head = &handshakes[0];
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "host"), Some(autoscaler.address.to_string()));
    assert_eq!(field(head, "sec-websocket-version").as_deref(), Some("13"));
    for unwanted in [
        "origin",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
    ] {
        assert_eq!(field(head, unwanted), None, "{unwanted}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn connection_that_the_autoscaler_closes_is_made_again_and_reported_over() {
    let autoscaler = Autoscaler::start().await;
    let parkway = reporting_to(&autoscaler, &["shop"]).await;
    parkway.service("shop").get("/").await.expect(200);
    let before = autoscaler.silence("shop-00001").await.len();

    autoscaler.close();
    eventually("another handshake", async || {
        (autoscaler.handshakes().len() == 2).then_some(())
    })
    .await;
    let is_connected =
        |state: &parkway_tests::State| state.0["autoscaler"]["connections"][0]["connected"] == true;
    parkway.state_when("a connection again", is_connected).await;
    parkway.service("shop").get("/").await.expect(200);

    let first = eventually("a report", async || {
        autoscaler.reports("shop-00001").get(before).copied()
    })
    .await;
    assert_eq!((first.1, first.2), (1.0, 1.0));
    parkway.finish().await;
}

#[tokio::test]
async fn requests_do_not_wait_for_an_autoscaler_that_refuses() {
    let nobody = Upstream::refusing();
    assert_served(&format!("ws://{}", nobody.address())).await;
}

#[tokio::test]
async fn requests_do_not_wait_for_an_autoscaler_that_never_answers() {
    let silent = Upstream::start(|connection| connection.stall()).await;
    assert_served(&format!("ws://{}", silent.address())).await;
}

async fn assert_served(autoscaler: &str) {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--autoscaler", autoscaler)
        .start()
        .await;

    for _ in 0..20 {
        parkway.service("shop").get("/").await.expect(200);
    }

    assert_eq!(
        parkway.state().await.0["autoscaler"]["connections"][0]["connected"],
        false
    );
    parkway.finish().await;
}
