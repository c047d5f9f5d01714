//! The handshake of RFC 6455 at both ends; what follows is bytes.

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use parkway_tests::http2::{Exchange, Http2, next_data};
use parkway_tests::upstream::{Connection, Head};
use parkway_tests::{Raw, Site, eventually};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An endpoint's part of the handshake; `None` when the connection ended instead.
pub(crate) async fn accept(connection: &mut Connection) -> Option<Head> {
    let head = connection.request().await?;
    let key = head.header("sec-websocket-key").unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    connection.send(answer).await;
    Some(head)
}

/// An endpoint that sends back what comes, four bytes at a time.
pub(crate) async fn echo(mut connection: Connection) {
    if accept(&mut connection).await.is_none() {
        return;
    }
    while let Ok(bytes) = connection.raw.try_exactly(4).await {
        connection.send(bytes).await;
    }
}

/// The head of a client's handshake by HTTP/1.1.
pub(crate) fn handshake(site: &Site) -> String {
    site.head("GET /")
        + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        + KEY
        + "\r\n\r\n"
}

/// A WebSocket by HTTP/1.1.
pub(crate) async fn open(site: &Site) -> Raw {
    let mut raw = site.raw().await;
    raw.send(handshake(site)).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    raw
}

/// Asks for a stream to speak this protocol.
pub(crate) async fn connect(http2: &Http2, protocol: &'static str) -> Exchange {
    eventually("extended CONNECT to be announced", async || {
        http2.may_connect().then_some(())
    })
    .await;
    let request = Request::connect("/chat?room=1")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    http2.begin(request.body(()).unwrap(), false).await.unwrap()
}

/// A WebSocket by HTTP/2.
pub(crate) struct OnStream {
    pub(crate) sends: SendStream<Bytes>,
    pub(crate) receives: RecvStream,
}

impl OnStream {
    /// Opens one.
    pub(crate) async fn open(http2: &Http2) -> Self {
        Self::opened(connect(http2, "websocket").await).await.1
    }

    /// Waits for the answer.
    pub(crate) async fn opened(asked: Exchange) -> (Response<()>, Self) {
        let (sends, response) = asked.head().await.unwrap();
        assert_eq!(response.status(), 200);
        let (head, receives) = response.into_parts();
        (Response::from_parts(head, ()), Self { sends, receives })
    }

    pub(crate) fn send(&mut self, bytes: impl Into<Bytes>) {
        self.sends.send_data(bytes.into(), false).unwrap();
    }

    /// Ends the sending side.
    pub(crate) fn end(&mut self) {
        self.sends.send_data(Bytes::new(), true).unwrap();
    }

    /// Reads exactly this many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let piece = next_data(&mut self.receives).await;
            let piece = piece.unwrap_or_else(|| panic!("ended after {bytes:?}"));
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(bytes.len(), length);
        bytes
    }

    /// How the other side ends it: in order, or by a reset.
    pub(crate) async fn end_of_it(&mut self) -> Result<(), h2::Error> {
        match next_data(&mut self.receives).await {
            None => Ok(()),
            Some(Ok(data)) if data.is_empty() && self.receives.is_end_stream() => Ok(()),
            Some(Ok(data)) => panic!("{data:?} came instead of an end"),
            Some(Err(error)) => Err(error),
        }
    }
}
