//! After `101 Switching Protocols`: bytes go both ways as they come, until either side ends or a timeout passes.
//!
//! The Revision's total timeout ends a tunnel; its idle timeout means no bytes either way for that long.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tracing::debug;

use super::forward::{Tunnel, within};

/// Relays bytes between a client's connection and an endpoint's until one side ends.
///
/// `early` is what the client sent behind its request head; it goes on only now, after the endpoint has agreed.
pub async fn relay(client: impl AsyncRead + AsyncWrite + Unpin, early: Bytes, tunnel: Tunnel) {
    let Tunnel {
        upstream,
        mut holds,
    } = tunnel;
    let Some((upstream, late)) = upstream.into_stream() else {
        debug!("somebody still writes to the endpoint's connection");
        return;
    };
    let last_byte = Rc::new(Cell::new(Instant::now()));
    let mut client = Watched {
        stream: client,
        last_byte: Rc::clone(&last_byte),
    };
    let mut endpoint = Watched {
        stream: upstream,
        last_byte: Rc::clone(&last_byte),
    };
    let copying = async {
        client.write_all(&late).await?;
        endpoint.write_all(&early).await?;
        endpoint.flush().await?; // TLS may keep a rest
        tokio::io::copy_bidirectional(&mut client, &mut endpoint).await
    };
    let mut copying = std::pin::pin!(copying);
    loop {
        let due = holds
            .deadlines
            .as_ref()
            .and_then(|deadlines| deadlines.while_streaming(last_byte.get()));
        match within(due, &mut copying).await {
            Ok(Ok((up, down))) => {
                debug!(up, down, "tunnel ended");
                holds
                    .observation
                    .sent(usize::try_from(down).unwrap_or(usize::MAX));
                holds.observation.ended();
                return;
            }
            Ok(Err(error)) => {
                debug!(%error, "tunnel broke");
                return;
            }
            Err(_elapsed) => {
                let is_due = |due: Instant| due <= Instant::now();
                let next = holds
                    .deadlines
                    .as_ref()
                    .and_then(|deadlines| deadlines.while_streaming(last_byte.get()));
                if next.is_some_and(is_due) {
                    holds.observation.timed_out();
                    return;
                }
            }
        }
    }
}

/// A connection that notes when a byte last passed.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    last_byte: Rc<Cell<Instant>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.last_byte.set(Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
