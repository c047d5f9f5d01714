//! The remote sink against a server that speaks WebSocket by hand, over real sockets.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::future::Future;
use std::time::Duration;

use parkway_activator::revision::RevisionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use parkway_autoscaler_client::remote::{Backoff, RemoteSink, Timing};
use parkway_autoscaler_client::sink::StatSink;
use parkway_autoscaler_client::stat::StatMessage;
use parkway_autoscaler_client::wire;

/// Longer than anything here should take; shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(20);

/// A wait that no test survives.
const NEVER: Duration = Duration::from_secs(3600);

/// Constants with which nothing happens by time alone; each test shortens the one that it is about.
fn still() -> Timing {
    Timing {
        handshake: NEVER,
        ping_interval: NEVER,
        pong_wait: NEVER,
        settled: Duration::ZERO,
        backoff: Backoff {
            first: NEVER,
            ..Backoff::default()
        },
    }
}

fn hasty(timing: Timing) -> Timing {
    let backoff = Backoff {
        first: Duration::from_millis(1),
        factor: 1.0,
        ..Backoff::default()
    };
    Timing { backoff, ..timing }
}

struct Autoscaler(TcpListener);

impl Autoscaler {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    async fn accept(&self) -> TcpStream {
        soon(self.0.accept()).await.unwrap().0
    }

    /// Accepts a connection and its handshake.
    async fn welcome(&self) -> Peer {
        let mut stream = self.accept().await;
        let request = request(&mut stream).await;
        let key = header(&request, "sec-websocket-key").unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        Peer { stream, request }
    }
}

/// The server's end of a connection after the handshake.
struct Peer {
    stream: TcpStream,
    request: String,
}

impl Peer {
    /// The first byte of the next frame, and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        soon(async {
            let first = self.stream.read_u8().await.unwrap();
            let second = self.stream.read_u8().await.unwrap();
            assert!(second & 0x80 != 0, "a client masks its frames");
            let length = match second & 0x7f {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                short => usize::from(short),
            };
            let mut mask = [0; 4];
            self.stream.read_exact(&mut mask).await.unwrap();
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.unwrap();
            let unmasked = payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key);
            (first, unmasked.collect())
        })
        .await
    }

    async fn list(&mut self) -> Vec<StatMessage> {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x82);
        wire::decode(&payload).unwrap()
    }

    /// Waits for a close frame.
    async fn until_closed(&mut self) {
        assert_eq!(self.frame().await.0, 0x88);
    }

    async fn restart(&mut self) {
        self.stream
            .write_all(b"\x88\x0c\x03\xf4Restarting")
            .await
            .unwrap();
    }

    /// Waits until the client has gone.
    async fn until_left(mut self) {
        let mut rest = Vec::new();
        // A reset counts as gone, too.
        let _ended = soon(self.stream.read_to_end(&mut rest)).await;
    }
}

async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let fields = request.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .next()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("takes too long")
}

async fn eventually(claim: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !claim() {
        assert!(Instant::now() < deadline, "never came true");
        sleep(Duration::from_millis(1)).await;
    }
}

fn start(addresses: &[&Autoscaler], timing: Timing) -> (RemoteSink, JoinHandle<()>) {
    let addresses = addresses
        .iter()
        .map(|autoscaler| autoscaler.address())
        .collect();
    let (sink, driver) = RemoteSink::with_timing(addresses, timing);
    (sink, tokio::spawn(driver))
}

fn poke(name: &str) -> Vec<StatMessage> {
    vec![StatMessage::first_request(
        RevisionId::new("default", name),
        &"pod".into(),
    )]
}

#[tokio::test]
async fn the_handshake_is_the_recorded_one_but_for_the_user_agent() {
    let autoscaler = Autoscaler::start().await;
    let (_sink, _driver) = start(&[&autoscaler], still());

    let peer = autoscaler.welcome().await;

    assert!(
        peer.request.starts_with("GET / HTTP/1.1\r\n"),
        "{}",
        peer.request
    );
    assert_eq!(header(&peer.request, "host"), Some(&*autoscaler.address()));
    assert_eq!(header(&peer.request, "connection"), Some("Upgrade"));
    assert_eq!(header(&peer.request, "upgrade"), Some("websocket"));
    assert_eq!(header(&peer.request, "sec-websocket-version"), Some("13"));
    assert!(header(&peer.request, "sec-websocket-key").is_some());
    for absent in [
        "origin",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "authorization",
    ] {
        assert_eq!(header(&peer.request, absent), None);
    }
}

#[tokio::test]
async fn lists_arrive_in_order() {
    let autoscaler = Autoscaler::start().await;
    let (sink, _driver) = start(&[&autoscaler], still());
    let mut peer = autoscaler.welcome().await;
    eventually(|| sink.is_connected()).await;

    for name in ["a", "b", "c"] {
        sink.send(poke(name));
    }

    for name in ["a", "b", "c"] {
        assert_eq!(peer.list().await, poke(name));
    }
    let connection = &sink.connections()[0];
    assert_eq!((connection.errors, connection.dropped), (0, 0));
}

#[tokio::test]
async fn pings_go_out_while_nothing_else_does() {
    let autoscaler = Autoscaler::start().await;
    let timing = Timing {
        ping_interval: Duration::from_millis(5),
        ..still()
    };
    let (_sink, _driver) = start(&[&autoscaler], timing);
    let mut peer = autoscaler.welcome().await;

    for _ in 0..3 {
        assert_eq!(peer.frame().await, (0x89, vec![]));
    }
}

#[tokio::test]
async fn a_restarting_autoscaler_is_dialled_again_at_once() {
    let autoscaler = Autoscaler::start().await;
    let (sink, _driver) = start(&[&autoscaler], still()); // any back-off would take an hour
    let mut old = autoscaler.welcome().await;
    old.restart().await;

    let mut new = autoscaler.welcome().await;
    old.until_left().await;
    eventually(|| sink.is_connected()).await;
    sink.send(poke("a"));

    assert_eq!(new.list().await, poke("a"));
    assert_eq!(sink.connections()[0].errors, 1);
}

#[tokio::test]
async fn a_broken_connection_is_dialled_again_at_once() {
    let autoscaler = Autoscaler::start().await;
    let (_sink, _driver) = start(&[&autoscaler], still());
    drop(autoscaler.welcome().await);

    autoscaler.welcome().await;
}

#[tokio::test]
async fn a_connection_without_pongs_is_replaced() {
    let autoscaler = Autoscaler::start().await;
    let timing = Timing {
        pong_wait: Duration::from_millis(20),
        ..still()
    };
    let (_sink, _driver) = start(&[&autoscaler], timing);

    let silent = autoscaler.welcome().await;
    autoscaler.welcome().await;
    silent.until_left().await;
}

#[tokio::test]
async fn a_connection_that_is_closed_as_soon_as_taken_counts_as_a_failed_attempt() {
    let autoscaler = Autoscaler::start().await;
    let timing = Timing {
        settled: NEVER,
        ..still()
    };
    let (sink, _driver) = start(&[&autoscaler], timing);
    autoscaler.welcome().await.restart().await;
    eventually(|| sink.connections()[0].errors == 1).await;

    // The back-off of an hour has begun.
    assert!(
        timeout(Duration::from_millis(50), autoscaler.0.accept())
            .await
            .is_err()
    );
    assert!(!sink.is_connected());
}

#[tokio::test]
async fn a_refused_upgrade_is_an_error_and_is_tried_again() {
    let autoscaler = Autoscaler::start().await;
    let (sink, _driver) = start(&[&autoscaler], hasty(still()));
    for _ in 0..25 {
        // What a pod that does not own the bucket answers.
        let mut stream = autoscaler.accept().await;
        request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    }
    autoscaler.welcome().await;

    eventually(|| sink.connections()[0].errors >= 25).await;
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_is_given_up() {
    let autoscaler = Autoscaler::start().await;
    let timing = Timing {
        handshake: Duration::from_millis(20),
        ..hasty(still())
    };
    let (_sink, _driver) = start(&[&autoscaler], timing);

    let mute = autoscaler.accept().await;
    let again = autoscaler.accept().await;
    drop((mute, again));
}

#[tokio::test]
async fn what_is_sent_without_a_connection_is_dropped_and_counted() {
    let autoscaler = Autoscaler::start().await;
    let (sink, _driver) = start(&[&autoscaler], still());
    assert!(!sink.is_connected());
    sink.send(poke("early"));
    assert_eq!(sink.connections()[0].dropped, 1);

    let mut peer = autoscaler.welcome().await;
    eventually(|| sink.is_connected()).await;
    sink.send(poke("late"));

    assert_eq!(peer.list().await, poke("late"));
}

#[tokio::test]
async fn lists_go_to_the_first_autoscaler_that_is_connected() {
    let (first, second) = (Autoscaler::start().await, Autoscaler::start().await);
    let (sink, _driver) = start(&[&first, &second], still());
    let mut to_first = first.welcome().await;
    let mut to_second = second.welcome().await;
    eventually(|| {
        sink.connections()
            .iter()
            .all(|connection| connection.is_connected)
    })
    .await;
    sink.send(poke("a"));
    assert_eq!(to_first.list().await, poke("a"));

    drop(first);
    drop(to_first);
    eventually(|| !sink.connections()[0].is_connected).await;
    assert!(sink.is_connected());
    sink.send(poke("b"));

    assert_eq!(to_second.list().await, poke("b"));
}

#[tokio::test]
async fn dropping_the_sink_sends_what_waits_says_goodbye_and_ends_the_driver() {
    let autoscaler = Autoscaler::start().await;
    let (sink, driver) = start(&[&autoscaler], still());
    let mut peer = autoscaler.welcome().await;
    eventually(|| sink.is_connected()).await;

    sink.send(poke("last"));
    drop(sink);

    assert_eq!(peer.list().await, poke("last"));
    assert_eq!(peer.frame().await.0, 0x88);
    soon(driver).await.unwrap();
}

#[tokio::test]
async fn dropping_the_sink_ends_a_driver_that_waits_for_its_next_attempt() {
    let autoscaler = Autoscaler::start().await;
    let (sink, driver) = start(&[&autoscaler], still());
    drop(autoscaler.accept().await);
    eventually(|| sink.connections()[0].errors == 1).await;

    drop(sink);

    soon(driver).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_none_is_an_error_and_not_a_panic() {
    let (sink, driver) =
        RemoteSink::with_timing(vec!["ws://no host/".into(), String::new()], hasty(still()));
    let driver = tokio::spawn(driver);
    eventually(|| {
        sink.connections()
            .iter()
            .all(|connection| connection.errors >= 2)
    })
    .await;

    drop(sink);
    soon(driver).await.unwrap();
}

#[tokio::test]
async fn each_revision_is_reported_to_the_owner_of_its_bucket_and_to_the_others_while_the_owner_is_away()
 {
    let (service, owner) = (Autoscaler::start().await, Autoscaler::start().await);
    let (sink, driver) = RemoteSink::with_timing(vec![service.address()], hasty(still()));
    let driver = tokio::spawn(driver);
    let mut at_service = service.welcome().await;

    // Knative's own vectors: of three buckets default/hello-00001 falls to 00, ns1/a-00001 to 02.
    let bucket = |number: u8| format!("autoscaler-bucket-{number:02}-of-03");
    let elsewhere = Autoscaler::start().await;
    let owners = [
        (bucket(0), owner.address()),
        (bucket(1), elsewhere.address()),
        (bucket(2), elsewhere.address()),
    ];
    sink.set_owners(owners.into());
    let mut at_owner = owner.welcome().await;
    let mut at_elsewhere = elsewhere.welcome().await;
    eventually(|| {
        sink.connections()
            .iter()
            .all(|connection| connection.is_connected)
    })
    .await;
    assert_eq!(
        sink.connections().len(),
        3,
        "one connection to each, however many buckets it owns"
    );

    let about = |namespace: &str, name: &str| {
        StatMessage::first_request(RevisionId::new(namespace, name), &"parkway-0".into())
    };
    let (hello, a) = (about("default", "hello-00001"), about("ns1", "a-00001"));
    sink.send(vec![hello.clone(), a.clone()]);
    assert_eq!(at_owner.list().await, std::slice::from_ref(&hello));
    assert_eq!(at_elsewhere.list().await, std::slice::from_ref(&a));

    // One bucket passes to nobody: its Revisions are reported over the Service, the others' as before.
    sink.set_owners(
        [
            (bucket(1), elsewhere.address()),
            (bucket(2), elsewhere.address()),
        ]
        .into(),
    );
    at_owner.until_closed().await;
    sink.send(vec![hello.clone(), a.clone()]);
    assert_eq!(at_elsewhere.list().await, [a]);
    assert_eq!(at_service.list().await, [hello]);

    drop(sink);
    soon(driver).await.unwrap();
}
