//! A connection to an endpoint, secured or not.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::tls::TlsStream;

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// As TCP brings it.
    Plain(TcpStream),
    /// By TLS. On the heap: it is much larger, and most connections are not.
    Secured(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether nothing has come and the other side has not closed, as far as the reactor has heard.
    ///
    /// What has come on a secured connection is lost after that: a connection that is not quiet cannot be used.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut room = [0];
        let mut room = ReadBuf::new(&mut room);
        let cx = &mut Context::from_waker(Waker::noop());
        // Not charged to the task: one that has used its share up would be told that nothing has come.
        match self {
            // A read that filled its buffer leaves the reactor in the belief that there is more: then the system is
            // asked.
            Self::Plain(stream) => {
                let asking = pin!(unconstrained(poll_fn(|cx| stream.poll_peek(cx, &mut room))));
                asking.poll(cx).is_pending()
            }
            // What comes may be for TLS alone, a ticket or new keys: that disturbs nobody.
            Self::Secured(stream) => {
                let stream = stream.as_mut();
                let reading = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut room));
                pin!(unconstrained(reading)).poll(cx).is_pending()
            }
        }
    }

    /// Whether all that was written has been handed to the system.
    pub(super) fn poll_handed_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secured(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secured(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Secured(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
