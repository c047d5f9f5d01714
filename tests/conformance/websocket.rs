//! WebSocket by hand: every bit of a frame can be looked at (RFC 6455).

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parkway_tests::{Site, patiently};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::images::Body;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The nonce of the RFC's example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// All bytes before the payload.
    pub(crate) head: Vec<u8>,
    /// The payload without its mask.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.head[0] & 0x0f
    }

    pub(crate) fn is_final(&self) -> bool {
        self.head[0] & 0x80 != 0
    }

    pub(crate) fn is_masked(&self) -> bool {
        self.head[1] & 0x80 != 0
    }

    /// How many bytes tell the length, besides the seven bits that are always there.
    pub(crate) fn extended_length_bytes(&self) -> usize {
        self.head.len() - 2 - if self.is_masked() { 4 } else { 0 }
    }
}

/// One end of a connection after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S>(pub(crate) S);

impl WebSocket<TcpStream> {
    /// A client's connection to `site`, upgraded.
    pub(crate) async fn connect(site: &Site) -> Self {
        let mut stream = TcpStream::connect(site.address()).await.unwrap();
        let request = site.head("GET /")
            + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            + KEY
            + "\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = patiently("the answer to an upgrade", read_head(&mut stream))
            .await
            .to_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        let accept = format!(
            "\r\nsec-websocket-accept: {}\r\n",
            derive_accept_key(KEY.as_bytes()).to_lowercase()
        );
        assert!(head.contains(&accept), "{head}");
        Self(stream)
    }
}

/// Reads a head, byte by byte so that nothing behind it is touched.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The next frame; nothing when the connection ended.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut head = vec![0; 2];
        self.0.read_exact(&mut head).await.ok()?;
        let extended = match head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if head[1] & 0x80 == 0 { 0 } else { 4 };
        let mut more = vec![0; extended + mask];
        self.0.read_exact(&mut more).await.ok()?;
        let length = match &more[..extended] {
            [] => usize::from(head[1] & 0x7f),
            bytes => bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        if let [a, b, c, d] = more[extended..] {
            let mask = [a, b, c, d];
            payload
                .iter_mut()
                .zip(mask.iter().cycle())
                .for_each(|(byte, mask)| *byte ^= mask);
        }
        head.extend_from_slice(&more);
        Some(Frame { head, payload })
    }

    /// Sends a short frame, masked as a client must.
    pub(crate) async fn write_masked(&mut self, opcode: u8, payload: &[u8]) {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let masked = payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask);
        let mut frame = vec![0x80 | opcode, 0x80 | short(payload)];
        frame.extend(MASK);
        frame.extend(masked);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Sends a short frame as a server does; whoever it is for may have left.
    pub(crate) async fn write(&mut self, opcode: u8, payload: &[u8]) {
        let frame = [&[0x80 | opcode, short(payload)], payload].concat();
        drop(self.0.write_all(&frame).await);
    }
}

fn short(payload: &[u8]) -> u8 {
    u8::try_from(payload.len())
        .ok()
        .filter(|length| *length < 126)
        .unwrap()
}

/// What the image `wsserver` does: each message comes back with a space and the suffix.
pub(crate) fn echo(mut request: Request<Incoming>, suffix: &str) -> Response<Body> {
    let key = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    let mut answer = Response::new(Empty::new().boxed_unsync());
    let Some(accept) = key else {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    };
    let suffix = suffix.to_owned();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut socket = WebSocket(TokioIo::new(upgraded.await.unwrap()));
        while let Some(frame) = socket.read().await {
            if frame.opcode() == CLOSE {
                socket.write(CLOSE, &frame.payload).await;
                return;
            }
            let said = [&frame.payload, format!(" {suffix}").as_bytes()].concat();
            socket.write(frame.opcode(), &said).await;
        }
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(
        SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).unwrap(),
    );
    answer
}
