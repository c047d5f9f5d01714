use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// A workload on a port of its own; dropping `stop` is its SIGTERM.
struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let hello = Hello::new("Hello test!\n".into(), "shop-1".into(), Instant::now());
    let serving = tokio::spawn(serve(listener, hello, async { drop(stopped.await) }));
    Served {
        address,
        stop,
        serving,
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request and reads until the connection is closed.
    async fn ask(&self, head: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!(
            "{}\r\nhost: x\r\nconnection: close\r\n\r\n",
            head.replace('\n', "\r\n")
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask(&format!("GET {path} HTTP/1.1")).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        seen.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_plain_request_is_greeted() {
    let answer = served().await.ask("GET / HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 12\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nHello test!\n"), "{answer}");
}

#[tokio::test]
async fn headers_come_back_with_all_their_values() {
    let served = served().await;
    let answer = served
        .ask("DELETE /headers?a=1 HTTP/1.1\nx-two: 1\nX-Two: 2")
        .await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let seen: Value = serde_json::from_str(body).unwrap();
    assert_eq!(seen["method"], "DELETE");
    assert_eq!(seen["path"], "/headers?a=1");
    assert_eq!(seen["version"], "HTTP/1.1");
    assert_eq!(seen["revision"], "shop-1");
    assert_eq!(seen["headers"]["x-two"], serde_json::json!(["1", "2"]));
}

#[tokio::test]
async fn a_post_is_echoed_while_it_arrives() {
    let served = served().await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    for piece in ["first", "again"] {
        stream
            .write_all(format!("5\r\n{piece}\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(
            read_until(&mut stream, piece).await.trim_start(),
            format!("5\r\n{piece}")
        );
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "0\r\n\r\n").await, "\r\n0\r\n\r\n");
}

#[tokio::test]
async fn status_and_bytes_are_as_asked_for() {
    let answer = served()
        .await
        .ask("GET /?status=418&bytes=40000 HTTP/1.1")
        .await;
    assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 40_000);
}

#[tokio::test]
async fn a_head_request_gets_the_length_and_no_body() {
    let answer = served().await.ask("HEAD /?bytes=7 HTTP/1.1").await;
    assert!(answer.contains("content-length: 7\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_switch_that_does_not_fit_is_refused() {
    for switch in ["sleep_ms=soon", "status=99", "status=101", "bytes=-1"] {
        let answer = served()
            .await
            .ask(&format!("GET /?{switch} HTTP/1.1"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{switch}: {answer}");
    }
}

#[tokio::test]
async fn trailers_come_when_asked_for_and_only_then() {
    let served = served().await;
    let asked = served.ask("GET /?trailers=1 HTTP/1.1\nte: trailers").await;
    assert!(asked.contains("trailer: x-trailer\r\n"), "{asked}");
    assert!(asked.ends_with("0\r\nx-trailer: bye\r\n\r\n"), "{asked}");
    let unasked = served.ask("GET /?trailers=1 HTTP/1.1").await;
    assert!(!unasked.contains("x-trailer"), "{unasked}");
}

#[tokio::test]
async fn events_come_one_by_one() {
    let answer = served()
        .await
        .ask("GET /events?count=3&interval_ms=1 HTTP/1.1")
        .await;
    assert!(
        answer.contains("content-type: text/event-stream\r\n"),
        "{answer}"
    );
    for number in 1..=3 {
        assert!(answer.contains(&format!("data: {number}\n\n")), "{answer}");
    }
    assert!(!answer.contains("data: 4"), "{answer}");
}

#[tokio::test]
async fn an_upgraded_connection_echoes_until_it_is_closed_and_counts_as_long() {
    let served = served().await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let head = read_until(&mut stream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: echo\r\n"),
        "{head}"
    );
    for text in ["ping", "\0\u{7f}"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, text).await, text);
    }
    assert_eq!(served.json("/stats").await["now"], 1);
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn the_highest_number_at_once_is_kept_and_too_many_are_violations() {
    let served = served().await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /?bytes=1&body_sleep_ms=600000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut slow, "\r\n\r\n").await;

    let answer = served.ask("GET /?max_concurrency=1 HTTP/1.1").await;

    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    let stats = served.json("/stats").await;
    let numbers = ["requests", "now", "highest", "violations"].map(|name| stats[name].as_u64());
    assert_eq!(numbers, [2, 1, 2, 1].map(Some));
}

#[tokio::test]
async fn stopped_it_finishes_what_it_has_begun_and_takes_nothing_new() {
    let Served {
        address,
        stop,
        serving,
    } = served().await;
    let mut running = TcpStream::connect(address).await.unwrap();
    running
        .write_all(b"GET /?bytes=1&body_sleep_ms=100 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut running, "\r\n\r\n").await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut idle, "\r\n\r\nok\n").await;

    drop(stop);

    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(rest(&mut running).await, "x");
    serving.await.unwrap();
}

async fn h2c(address: SocketAddr) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_by_prior_knowledge_gets_the_same_answers_with_trailers() {
    let served = served().await;
    let mut sender = h2c(served.address).await;
    let request = http::Request::get("http://x/?bytes=200000&trailers=1")
        .body(())
        .unwrap();

    let (answer, _) = sender.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        length += data.as_ref().unwrap().len();
        body.flow_control()
            .release_capacity(data.unwrap().len())
            .unwrap();
    }

    assert_eq!(length, 200_000);
    assert_eq!(body.trailers().await.unwrap().unwrap()["x-trailer"], "bye");
}

#[tokio::test]
async fn a_reset_http2_request_counts_no_more() {
    let served = served().await;
    let mut sender = h2c(served.address).await;
    let request = http::Request::get("http://x/?bytes=1&body_sleep_ms=600000")
        .body(())
        .unwrap();
    let (answer, mut stream) = sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(served.json("/stats").await["now"], 1);

    stream.send_reset(h2::Reason::CANCEL);

    let gone = async { while served.json("/stats").await["now"] != 0 {} };
    timeout(Duration::from_secs(10), gone).await.unwrap();
}
