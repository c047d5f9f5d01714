//! WebSockets on HTTP/2 streams by TLS: to a client of ours, and to Chromium.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::ext::Protocol;
use http::Request;
use parking_lot::Mutex;
use parkway_tests::http2::{Http2, next_data};
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::upstream::{Connection, Head};
use parkway_tests::{Upstream, eventually};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::cluster::{Cluster, HOST, spec};

async fn switch(connection: &mut Connection, head: &Head) {
    let key = head.header("sec-websocket-key").unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
    connection
        .send(format!("{switch}Sec-WebSocket-Accept: {accept}\r\n\r\n"))
        .await;
}

#[tokio::test]
async fn an_extended_connect_by_tls_becomes_a_web_socket() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let head = connection.request().await.unwrap();
        assert_eq!(head.header("x-forwarded-proto"), Some("https"));
        switch(&mut connection, &head).await;
        while let Ok(bytes) = connection.raw.try_exactly(4).await {
            connection.send(bytes).await;
        }
    })
    .await;
    let authority = Authority::new("all");
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    cluster.certify(&[&authority.issue(&[HOST])]);
    let client = TlsClient::trusting(&authority).protocols(&["h2"]);
    let http2 = Http2::connect(client.tunnel(cluster.secure, HOST).await, HOST).await;
    eventually("extended CONNECT to be announced", async || {
        http2.may_connect().then_some(())
    })
    .await;
    let asked = Request::connect("/").extension(Protocol::from_static("websocket"));
    let asked = http2.begin(asked.body(()).unwrap(), false).await.unwrap();
    let (mut sends, response) = asked.head().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut receives = response.into_body();
    for text in ["ping", "pong"] {
        sends.send_data(text.into(), false).unwrap();
        assert_eq!(next_data(&mut receives).await.unwrap().unwrap(), text);
    }
    sends.send_data(Bytes::new(), true).unwrap();
    while let Some(rest) = next_data(&mut receives).await {
        assert_eq!(rest.unwrap(), "");
    }
    drop((sends, receives, http2));
    cluster.finish().await;
}

/// Tells by a request what it has heard by a WebSocket, and how that was closed.
const PAGE: &str = r#"<!doctype html><link rel="icon" href="data:,"><script>
const socket = new WebSocket(`wss://${location.host}/socket`, ["chat"]);
let heard = [];
socket.onopen = () => socket.send("hello");
socket.onmessage = (message) => heard.push(message.data);
socket.onerror = () => heard.push("error");
socket.onclose = (close) => {
  heard.push(socket.protocol, close.code, close.reason);
  fetch("/heard/" + heard.join("-"));
};
</script>"#;

/// The page's endpoint. To a message of a WebSocket it says two, then goodbye.
async fn serve(
    mut connection: Connection,
    heard: Arc<Mutex<Vec<String>>>,
    sockets: Arc<AtomicUsize>,
) {
    while let Some(head) = connection.request().await {
        if head.header("upgrade").is_none() {
            if let Some(said) = head.target.strip_prefix("/heard/") {
                heard.lock().push(said.to_owned());
            }
            let length = PAGE.len();
            let fields = format!("content-type: text/html\r\ncontent-length: {length}\r\n\r\n");
            connection
                .send(format!("HTTP/1.1 200 OK\r\n{fields}{PAGE}"))
                .await;
            continue;
        }
        sockets.fetch_add(1, Ordering::SeqCst);
        let key = head.header("sec-websocket-key").unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Protocol: chat\r\n";
        connection
            .send(format!("{switch}Sec-WebSocket-Accept: {accept}\r\n\r\n"))
            .await;
        // A masked text of five bytes.
        connection.raw.exactly(2 + 4 + 5).await;
        connection
            .send(b"\x81\x03one\x81\x03two\x88\x05\x0f\xa1bye")
            .await;
        // The close frame comes back.
        connection.raw.exactly(2 + 4 + 2).await;
        return;
    }
}

/// Ends with the test.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn chromium_opens_its_web_socket_on_a_stream_of_http2() {
    let (heard, sockets) = (Arc::default(), Arc::default());
    let (tell, count) = (Arc::clone(&heard), Arc::clone(&sockets));
    let upstream =
        Upstream::start(move |connection| serve(connection, Arc::clone(&tell), Arc::clone(&count)))
            .await;
    let authority = Authority::new("all");
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    cluster.certify(&[&authority.issue(&[HOST])]);
    let profile = tempfile::tempdir().unwrap();
    let log = profile.path().join("net-log.json");
    let started = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--disable-background-networking", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--ignore-certificate-errors"])
        .arg(format!("--log-net-log={}", log.display()))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!(
            "--host-resolver-rules=MAP {HOST} {}",
            cluster.secure
        ))
        .arg(format!("https://{HOST}/"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(browser) = started else {
        assert!(
            env::var_os("REQUIRE_CHROMIUM").is_none(),
            "chromium is absent, and REQUIRE_CHROMIUM is set"
        );
        eprintln!("ABSENT: chromium; this test proves nothing (apt-get install chromium)");
        return cluster.finish().await;
    };
    let browser = Browser(browser);

    let said = eventually("the page to tell what it has heard", async || {
        heard.lock().first().cloned()
    })
    .await;

    assert_eq!(said, "one-two-chat-4001-bye");
    assert_eq!(sockets.load(Ordering::SeqCst), 1);
    // Its own word for it: by HTTP/1 it would have asked with GET.
    eventually("the browser to log an extended CONNECT", async || {
        let log = fs::read_to_string(&log).ok()?;
        let is_asked = log.contains(":method: CONNECT") && log.contains(":protocol: websocket");
        is_asked.then_some(())
    })
    .await;
    drop(browser);
    cluster.finish().await;
}
