//! A client's connection lent to an engine that keeps what it is given: it comes back when the engine is gone.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::input::{Input, Signals};
use super::stream::ClientStream;

/// What the engine has.
#[derive(Debug)]
pub(super) struct Lent(Rc<Shared>);

/// Who gets it back.
#[derive(Debug)]
pub(super) struct Lender(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    input: RefCell<Input>,
    signals: Rc<Signals>,
}

impl Lent {
    /// Lends a connection of which `before` has been read.
    pub(super) fn new(before: Bytes, stream: ClientStream) -> (Self, Lender) {
        let signals = Rc::<Signals>::default();
        let input = RefCell::new(Input::new(before, stream, Rc::clone(&signals)));
        let shared = Rc::new(Shared { input, signals });
        (Self(Rc::clone(&shared)), Lender(shared))
    }
}

impl Lender {
    /// What is known of it meanwhile.
    pub(super) fn signals(&self) -> &Signals {
        &self.0.signals
    }

    /// The connection, once the engine is gone; `None` before.
    pub(super) fn back(self) -> Option<ClientStream> {
        let input = Rc::into_inner(self.0)?.input.into_inner();
        Some(input.into_parts().0)
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.input.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.input.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.input.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.input.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.input.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.input.borrow_mut()).poll_shutdown(cx)
    }
}
