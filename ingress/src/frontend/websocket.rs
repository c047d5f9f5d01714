//! WebSockets on HTTP/2 streams (RFC 8441).
//!
//! A stream that begins with an extended `CONNECT` is a request like any other until its endpoint has switched protocols
//! by HTTP/1.1: routed, counted, parked and sent again by the same rules. What the client sends before that waits in the
//! stream's window. Then its DATA frames are the endpoint's bytes; `END_STREAM` stands for the end of a TCP connection's
//! sending side, and `RST_STREAM` with `CANCEL` for its reset (RFC 8441 section 5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tracing::debug;

use crate::proxy::body::RequestBody;
use crate::proxy::forward::Tunnel;
use crate::proxy::held::Held;
use crate::proxy::tunnel::{self, Client};
use crate::routing::websocket::{OtherProtocol, WEBSOCKET, to_success, to_upgrade};

/// Makes the head of an extended `CONNECT` one that can be sent by HTTP/1.1; others stay as they are.
pub(super) fn translate(head: &mut Parts) {
    let Some(protocol) = head.extensions.remove::<Protocol>() else {
        return;
    };
    match HeaderValue::try_from(generate_key()) {
        Ok(key) if protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) => to_upgrade(head, key),
        _ => {
            head.extensions.insert(OtherProtocol);
        }
    }
}

/// Tells the client that its WebSocket is open and relays its bytes; `bytes` is what it sends.
pub(super) async fn serve(
    mut respond: SendResponse<Bytes>,
    switched: Response<Held>,
    bytes: RequestBody,
    tunnel: Tunnel,
) {
    let (mut head, _nothing) = switched.into_parts();
    to_success(&mut head.status, &mut head.headers);
    let mut success = Response::new(());
    (*success.status_mut(), *success.headers_mut()) = (head.status, head.headers);
    match respond.send_response(success, false) {
        Ok(stream) => {
            let client = StreamEnd {
                bytes,
                unread: Bytes::new(),
                stream,
            };
            tunnel::relay(client, Bytes::new(), tunnel).await;
        }
        Err(error) => debug!(%error, "the client did not take the response"),
    }
}

/// The client's end of a WebSocket on a stream. Dropped before both sides have ended, it resets the stream.
struct StreamEnd {
    bytes: RequestBody,
    /// What of the last DATA frame was not read yet.
    unread: Bytes,
    stream: SendStream<Bytes>,
}

impl Client for StreamEnd {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_reason| ())
    }
}

impl AsyncRead for StreamEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.bytes.poll_frame(cx)) {
                // Trailers have no place in a WebSocket: they are its end.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread = data,
                    Err(_trailers) => return Poll::Ready(Ok(())),
                },
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error.to_string()))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        if self.unread.is_empty() {
            // Even empty, it owns its frame's memory.
            self.unread = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.reserve_capacity(buf.len());
        // Room is reported when it grows; what there is already may do.
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = self.stream.capacity().min(buf.len());
        let piece = Bytes::copy_from_slice(buf.get(..length).unwrap_or(buf));
        let sent = self.stream.send_data(piece, false);
        Poll::Ready(sent.map(|()| length).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection's own task writes
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.stream.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
