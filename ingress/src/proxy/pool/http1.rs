//! Connections by HTTP/1 to one endpoint.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Provenance;
use super::waiters::Waiters;
use crate::proxy::http1::Socket;
use crate::proxy::stream::Stream;

/// Connections by HTTP/1 to one endpoint.
///
/// Whatever comes free is handed to the first in line: while somebody waits, no connection idles and none may be
/// opened, so a newcomer cannot overtake.
#[derive(Debug)]
pub(super) struct Http1Home {
    limit: usize,
    provenance: Provenance,
    /// Nothing idles here any more: its connections are what they should not be now.
    is_retired: Cell<bool>,
    /// Each counted in `open`.
    idle: RefCell<Vec<Idle>>,
    open: Cell<usize>,
    waiters: Waiters<Turn>,
}

#[derive(Debug)]
struct Idle {
    socket: Rc<Socket>,
    since: Instant,
}

/// What a request may do next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Use this connection.
    Use(Kept),
    /// Open another.
    Open(OpenGuard),
}

impl Http1Home {
    pub(super) fn new(limit: usize, provenance: Provenance) -> Self {
        Self {
            limit,
            provenance,
            is_retired: Cell::new(false),
            idle: RefCell::default(),
            open: Cell::new(0),
            waiters: Waiters::default(),
        }
    }

    /// As what its connections were made.
    pub(super) fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Closes what idles, and the rest when its requests have ended. Who is in line opens anew.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        // Nobody is in line while connections idle.
        self.open.set(self.open.get().saturating_sub(idle.len()));
    }

    /// Waits for a connection that is ready, or for the right to open one.
    ///
    /// # Cancel safety
    ///
    /// What was handed to a request that is dropped goes to the next in line.
    pub(super) async fn turn(self: &Rc<Self>) -> Turn {
        loop {
            if let Some(turn) = self.turn_at_once() {
                return turn;
            }
            match self.waiters.join().await {
                // It ended between being handed over and being looked at.
                Ok(Turn::Use(kept)) if !kept.is_ready() => {}
                Ok(turn) => return turn,
                // Nobody drops a waiter's sender without handing something over.
                Err(_dropped) => {}
            }
        }
    }

    /// As [`turn`](Self::turn), when nobody has to wait.
    fn turn_at_once(self: &Rc<Self>) -> Option<Turn> {
        if let Some(kept) = self.take_idle() {
            return Some(Turn::Use(kept));
        }
        (self.open.get() < self.limit).then(|| Turn::Open(OpenGuard::new(self)))
    }

    /// Closes what has idled for `limit`, or was closed by the endpoint.
    pub(super) fn sweep(&self, now: Instant, limit: Duration) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| idle.socket.is_quiet() && now.duration_since(idle.since) < limit);
        // Nobody is in line while connections idle.
        self.open
            .set(self.open.get().saturating_sub(before - idle.len()));
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// The connection used last that is ready for a request; closed ones are dropped on the way.
    fn take_idle(self: &Rc<Self>) -> Option<Kept> {
        loop {
            let socket = self.idle.borrow_mut().pop()?.socket;
            let kept = Kept {
                connection: Some((OpenGuard(Some(Rc::clone(self))), socket)),
            };
            if kept.is_ready() {
                return Some(kept);
            }
        }
    }

    /// Hands a connection to the first in line, else keeps it.
    fn put(self: Rc<Self>, socket: Rc<Socket>) {
        if self.is_retired.get() {
            drop(socket);
            self.ended();
            return;
        }
        if let Some(waiter) = self.waiters.next() {
            let kept = Kept {
                connection: Some((OpenGuard(Some(self)), socket)),
            };
            // Refused, it comes back here by its own drop.
            drop(waiter.send(Turn::Use(kept)));
            return;
        }
        self.idle.borrow_mut().push(Idle {
            socket,
            since: Instant::now(),
        });
    }

    /// A connection has ended: the first in line may open another.
    fn ended(self: &Rc<Self>) {
        self.open.set(self.open.get().saturating_sub(1));
        if let Some(waiter) = self.waiters.next() {
            // Refused, it comes back here by its own drop.
            drop(waiter.send(Turn::Open(OpenGuard::new(self))));
        }
    }
}

/// A connection that is ready, on its way to a request; dropped before it arrives, it goes to the next.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Option<(OpenGuard, Rc<Socket>)>,
}

impl Kept {
    fn is_ready(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(_, socket)| socket.is_quiet())
    }

    /// It arrived.
    pub(super) fn take(mut self) -> Option<Http1Lease> {
        let (open, socket) = self.connection.take()?;
        Some(Http1Lease {
            socket,
            unread: Bytes::new(),
            open: Some(open),
            is_reused: true,
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // One that has ended hands on the right to open another.
        if let Some((open, socket)) = self.connection.take()
            && socket.is_quiet()
        {
            open.keep(socket);
        }
    }
}

/// Counts one open connection from before it is opened until it has ended.
#[derive(Debug)]
pub(super) struct OpenGuard(Option<Rc<Http1Home>>);

impl OpenGuard {
    fn new(home: &Rc<Http1Home>) -> Self {
        home.open.set(home.open.get() + 1);
        Self(Some(Rc::clone(home)))
    }

    /// The connection stays open, for another request.
    fn keep(mut self, socket: Rc<Socket>) {
        if let Some(home) = self.0.take() {
            home.put(socket);
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            home.ended();
        }
    }
}

/// One connection by HTTP/1, for one request.
///
/// Dropped before [`finish`](Self::finish), the connection is closed: its response was not read to the end.
#[derive(Debug)]
pub struct Http1Lease {
    // Closed before it is counted out.
    socket: Rc<Socket>,
    unread: Bytes,
    /// `None`: it serves one request only.
    open: Option<OpenGuard>,
    is_reused: bool,
}

impl Http1Lease {
    /// A new connection.
    pub(super) fn new(stream: Stream, open: Option<OpenGuard>) -> Self {
        Self {
            socket: Rc::new(Socket::new(stream)),
            unread: Bytes::new(),
            open,
            is_reused: false,
        }
    }

    /// Whether the connection served a request before, so that the endpoint may be closing it at this moment.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Whether nothing has come and the endpoint has not closed it.
    pub fn is_quiet(&self) -> bool {
        self.unread.is_empty() && self.socket.is_quiet()
    }

    /// Where to read and write.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The same for who writes on while another reads.
    pub fn socket_shared(&self) -> Rc<Socket> {
        Rc::clone(&self.socket)
    }

    /// What has been read and not used.
    pub fn unread(&mut self) -> &mut Bytes {
        &mut self.unread
    }

    /// Reads more; ready with how much that was, none at the end.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, &mut self.unread)
    }

    /// The response was read to its end: the connection may serve another request.
    pub fn finish(self) {
        if let Some(open) = self.open {
            open.keep(self.socket);
        }
    }

    /// The socket and what has been read of it, when the connection is no longer HTTP/1. `None`: somebody still writes.
    pub fn into_stream(self) -> Option<(Stream, Bytes)> {
        let socket = Rc::into_inner(self.socket)?;
        Some((socket.into_inner(), self.unread))
    }
}
