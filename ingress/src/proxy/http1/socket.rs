//! A socket to an endpoint that reads and writes without keeping a buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};
use tracing::debug;

use crate::proxy::stream::Stream;

thread_local! {
    /// Where the worker's sockets read heads and small bodies to.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// A head and a small body in one read.
const SCRATCH_BYTES: usize = 16 * 1024;

/// How much of a large body is read at once. The allocator keeps pieces up to this size per thread.
const PIECE: usize = 32 * 1024;

/// A socket that may be written to by one and read from by another of the same worker.
#[derive(Debug)]
pub struct Socket(RefCell<Stream>);

impl Socket {
    /// Takes a connected socket.
    pub fn new(stream: Stream) -> Self {
        Self(RefCell::new(stream))
    }

    /// The socket itself.
    pub fn into_inner(self) -> Stream {
        self.0.into_inner()
    }

    /// Whether nothing has come and the endpoint has not closed, as far as the reactor has heard.
    pub fn is_quiet(&self) -> bool {
        self.0.borrow_mut().is_quiet()
    }

    /// Reads what is there and puts it behind `unread`; ready with how much that was, none at the end.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn poll_read(&self, cx: &mut Context<'_>, unread: &mut Bytes) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut room = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut room))?;
            let read = room.filled();
            *unread = if unread.is_empty() {
                Bytes::copy_from_slice(read)
            } else {
                [&**unread, read].concat().into()
            };
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Reads a piece of a body of which `left` bytes are known to come, without copying it.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn poll_read_piece(
        &self,
        cx: &mut Context<'_>,
        left: u64,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<Bytes>> {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        // A little may have been read last time, and most of the memory is here still.
        if buffer.capacity() < wanted.min(PIECE / 4) {
            buffer.reserve(wanted);
        }
        let mut stream = self.0.borrow_mut();
        let reading = pin!(stream.read_buf(buffer));
        ready!(reading.poll(cx))?;
        Poll::Ready(Ok(buffer.split().freeze()))
    }

    /// Writes as much of `slices` as goes.
    ///
    /// # Errors
    ///
    /// The socket's; also when it takes nothing.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        let stream = Pin::new(&mut *stream);
        // Most requests are one piece, which costs the system less than a list of pieces.
        let polled = match slices {
            [only, rest @ ..] if rest.iter().all(|slice| slice.is_empty()) => {
                stream.poll_write(cx, only)
            }
            _ => stream.poll_write_vectored(cx, slices),
        };
        match ready!(polled)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }

    /// Ready when all that was written has been handed to the system: TLS may keep a rest.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn poll_handed_over(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_handed_over(cx)
    }

    /// Says that nothing more will be written.
    pub async fn shutdown(&self) {
        let shut = poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)).await;
        if let Err(error) = shut {
            debug!(%error, "the connection has ended already");
        }
    }
}
