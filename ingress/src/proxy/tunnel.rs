//! After a switch of protocols: bytes go both ways as they come, until both sides have ended or a timeout passes.
//!
//! The Revision's total timeout ends a tunnel; its idle timeout means no bytes either way for that long. Ten thousand of
//! them may be open and silent, so a tunnel keeps no buffer: what is read goes on from one that its worker's tunnels
//! share, and only what the other side does not take at once is kept, at most [`PIECE`] bytes in each direction. Until it
//! is taken, nothing more is read.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tracing::debug;

use super::forward::Tunnel;
use super::held::Holds;
use super::stream::Stream;

/// How much is read at once, in bytes.
pub const PIECE: usize = 16 * 1024;

thread_local! {
    /// Where the worker's tunnels read to.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// The client's end of a tunnel.
pub trait Client: AsyncRead + AsyncWrite + Unpin {
    /// Ready when the client has given the tunnel up, also after it has said that it sends no more.
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Relays bytes between a client and an endpoint until both have ended, or one is gone.
///
/// `early` is what the client sent behind its request head; it goes on only now, after the endpoint has agreed.
pub async fn relay(client: impl Client, early: Bytes, tunnel: Tunnel) {
    let Tunnel {
        upstream,
        mut holds,
    } = tunnel;
    let Some((endpoint, late)) = upstream.into_stream() else {
        debug!("somebody still writes to the endpoint's connection");
        return;
    };
    let mut relay = Relay {
        client,
        endpoint,
        up: Way::with(early),
        down: Way::with(late),
        last_byte: Instant::now(),
    };
    let end = poll_fn(|cx| relay.poll(cx, &mut holds)).await;
    let (up, down) = (relay.up.bytes, relay.down.bytes);
    holds
        .observation
        .sent(usize::try_from(down).unwrap_or(usize::MAX));
    match end {
        End::Whole => {
            debug!(up, down, "tunnel ended");
            holds.observation.ended();
        }
        End::Gone => debug!(up, down, "the client gave the tunnel up"),
        End::Late => {
            debug!(up, down, "tunnel timed out");
            holds.observation.timed_out();
        }
        End::Broken(error) => debug!(up, down, %error, "tunnel broke"),
    }
}

/// How a tunnel ended.
enum End {
    /// Both sides have said so.
    Whole,
    Gone,
    Late,
    Broken(io::Error),
}

struct Relay<C> {
    client: C,
    endpoint: Stream,
    up: Way,
    down: Way,
    last_byte: Instant,
}

impl<C: Client> Relay<C> {
    fn poll(&mut self, cx: &mut Context<'_>, holds: &mut Holds) -> Poll<End> {
        let before = (self.up.bytes, self.down.bytes);
        let up = self.up.poll(cx, &mut self.client, &mut self.endpoint);
        let down = self.down.poll(cx, &mut self.endpoint, &mut self.client);
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(End::Broken(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Whole),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        if self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(End::Gone);
        }
        if before != (self.up.bytes, self.down.bytes) {
            self.last_byte = Instant::now();
        }
        let (Some(deadlines), Some(alarm)) = (&holds.deadlines, &mut holds.alarm) else {
            return Poll::Pending;
        };
        match deadlines.while_streaming(self.last_byte) {
            Some(due) => alarm.poll_due(cx, due).map(|()| End::Late),
            None => Poll::Pending,
        }
    }
}

/// One direction of a tunnel.
struct Way {
    /// Read and not taken yet.
    rest: Bytes,
    /// How many bytes have been taken.
    bytes: u64,
    state: State,
    /// Something was written that may not have been handed to the system yet.
    lingers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more comes; the other side is to be told.
    Ending,
    Ended,
}

impl Way {
    fn with(rest: Bytes) -> Self {
        Self {
            rest,
            bytes: 0,
            state: State::Open,
            lingers: false,
        }
    }

    /// Passes on what there is; ready when nothing more comes and the other side has been told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.rest.is_empty() {
                let taken = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))?;
                self.took(taken)?;
                self.rest.advance(taken);
            }
            // Even empty, it may own memory.
            self.rest = Bytes::new();
            match self.state {
                State::Open => {
                    if self.poll_piece(cx, from, to)?.is_pending() {
                        ready!(self.poll_flushed(cx, to))?;
                        return Poll::Pending;
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads a piece and writes as much of it as is taken.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut room = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut room))?;
            let read = room.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(to).poll_write(cx, read)? {
                Poll::Ready(taken) => {
                    self.took(taken)?;
                    taken
                }
                Poll::Pending => 0,
            };
            if let Some(rest @ [_, ..]) = read.get(taken..) {
                self.rest = Bytes::copy_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn took(&mut self, taken: usize) -> io::Result<()> {
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes += taken as u64;
        self.lingers = true;
        Ok(())
    }

    /// Hands what was written to the system: TLS may keep a rest.
    fn poll_flushed(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.lingers {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.lingers = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
