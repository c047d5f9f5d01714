//! Connections by HTTP/1 to one endpoint.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::UpstreamBody;
use super::waiters::Waiters;

type Sender = SendRequest<UpstreamBody>;

/// Connections by HTTP/1 to one endpoint.
///
/// Whatever comes free is handed to the first in line: while somebody waits, no connection idles and none may be
/// opened, so a newcomer cannot overtake.
#[derive(Debug)]
pub(super) struct Http1Home {
    limit: usize,
    idle: RefCell<Vec<Idle>>,
    open: Cell<usize>,
    waiters: Waiters<Turn>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
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
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            idle: RefCell::default(),
            open: Cell::new(0),
            waiters: Waiters::default(),
        }
    }

    /// Waits for a connection that is ready, or for the right to open one.
    ///
    /// # Cancel safety
    ///
    /// What was handed to a request that is dropped goes to the next in line.
    pub(super) async fn turn(self: &Rc<Self>) -> Turn {
        loop {
            if let Some(sender) = self.take_idle() {
                return Turn::Use(Kept::new(self, sender));
            }
            if self.open.get() < self.limit {
                return Turn::Open(OpenGuard::new(self));
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

    /// Closes what has idled for `limit`.
    pub(super) fn sweep(&self, now: Instant, limit: Duration) {
        self.idle
            .borrow_mut()
            .retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// The connection used last that is ready for a request; closed ones are dropped on the way.
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.sender.is_ready() {
                return Some(candidate.sender);
            }
        }
        None
    }

    /// Hands a connection to the first in line, else keeps it.
    fn put(self: &Rc<Self>, sender: Sender) {
        if let Some(waiter) = self.waiters.next() {
            // Refused, it comes back here by its own drop.
            drop(waiter.send(Turn::Use(Kept::new(self, sender))));
            return;
        }
        self.idle.borrow_mut().push(Idle {
            sender,
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
    home: Rc<Http1Home>,
    sender: Option<Sender>,
}

impl Kept {
    fn new(home: &Rc<Http1Home>, sender: Sender) -> Self {
        Self {
            home: Rc::clone(home),
            sender: Some(sender),
        }
    }

    fn is_ready(&self) -> bool {
        self.sender.as_ref().is_some_and(Sender::is_ready)
    }

    /// It arrived.
    pub(super) fn take(mut self) -> Option<Sender> {
        self.sender.take()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // One that has ended hands on the right to open another when its task ends.
        if let Some(sender) = self.sender.take()
            && sender.is_ready()
        {
            self.home.put(sender);
        }
    }
}

/// Counts one open connection from before it is opened until it has ended.
#[derive(Debug)]
pub(super) struct OpenGuard(Rc<Http1Home>);

impl OpenGuard {
    fn new(home: &Rc<Http1Home>) -> Self {
        home.open.set(home.open.get() + 1);
        Self(Rc::clone(home))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// One connection by HTTP/1, for one request.
///
/// Dropped before [`finish`](Self::finish), the connection is closed: its response was not read to the end.
#[derive(Debug)]
pub struct Http1Lease {
    home: Rc<Http1Home>,
    sender: Sender,
    is_reused: bool,
}

impl Http1Lease {
    pub(super) fn new(home: Rc<Http1Home>, sender: Sender, is_reused: bool) -> Self {
        Self {
            home,
            sender,
            is_reused,
        }
    }

    /// Whether the connection served a request before, so that the endpoint may be closing it at this moment.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// The connection.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// The response was read to its end: the connection may serve another request.
    pub fn finish(self) {
        let Self {
            home, mut sender, ..
        } = self;
        if sender.is_ready() {
            home.put(sender);
        } else if !sender.is_closed() {
            // The engine has not noticed the end yet, or still sends the request; it will within its next turn or never.
            tokio::task::spawn_local(async move {
                let ready =
                    tokio::time::timeout(SETTLE, std::future::poll_fn(|cx| sender.poll_ready(cx)))
                        .await;
                if matches!(ready, Ok(Ok(()))) {
                    home.put(sender);
                }
            });
        }
    }
}

/// How long a connection may take to become ready again after a response; then it is closed.
const SETTLE: Duration = Duration::from_secs(1);
