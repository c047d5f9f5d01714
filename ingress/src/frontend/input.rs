//! A client's connection as the HTTP/1 engine sees it: bytes read before, then the socket; and what the connection task
//! must know to take the engine off again.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is known of an HTTP/1 connection from outside its engine.
///
/// The engine may be taken off when no request runs, all output is flushed and no head is half read. The engine flushes
/// only with an empty write buffer, and each of its turns ends with a flush, so `is_flushed` is exact between turns.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Requests from their head until both bodies are done.
    pub(super) in_flight: Cell<u32>,
    /// All output has been handed to the socket.
    pub(super) is_flushed: Cell<bool>,
    /// Bytes of a next head have been read.
    pub(super) is_partial: Cell<bool>,
}

impl Signals {
    /// Whether the connection waits for a request of which nothing has come.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && self.is_flushed.get() && !self.is_partial.get()
    }

    /// Whether a head has begun to arrive and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_flight.get() == 0 && self.is_partial.get()
    }
}

/// Marks a connection as busy until dropped.
#[derive(Debug)]
pub(super) struct Busy(Rc<Signals>);

impl Busy {
    pub(super) fn new(signals: &Rc<Signals>) -> Self {
        signals.in_flight.set(signals.in_flight.get() + 1);
        Self(Rc::clone(signals))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0
            .in_flight
            .set(self.0.in_flight.get().saturating_sub(1));
    }
}

/// Bytes read before, then the socket.
#[derive(Debug)]
pub(super) struct Input {
    before: Bytes,
    stream: TcpStream,
    signals: Rc<Signals>,
}

impl Input {
    pub(super) fn new(before: Bytes, stream: TcpStream, signals: Rc<Signals>) -> Self {
        signals.is_flushed.set(true);
        signals.is_partial.set(!before.is_empty());
        Self {
            before,
            stream,
            signals,
        }
    }

    /// The socket, and what of the earlier bytes has not been read.
    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.before)
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.before.has_remaining() {
            let length = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before.split_to(length));
            this.signals.is_partial.set(true);
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > filled {
            this.signals.is_partial.set(true);
        }
        read
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.signals.is_flushed.set(false);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.signals.is_flushed.set(false);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.signals.is_flushed.set(true);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
