//! Connections by HTTP/2 to one endpoint.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::Instant;

use super::Provenance;
use super::waiters::Waiters;
use crate::config::Limits;

/// Connections by HTTP/2 to one endpoint.
///
/// Whatever comes free is handed to the first in line, so that a newcomer cannot overtake.
#[derive(Debug)]
pub(super) struct Http2Home {
    provenance: Provenance,
    streams: u32,
    limit: usize,
    connections: RefCell<Vec<Rc<Http2Connection>>>,
    is_opening: Cell<bool>,
    waiters: Waiters<Turn>,
}

/// What a request may do next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Use this place.
    Use(Http2Lease),
    /// Open another connection.
    Open(Opening),
    /// Look elsewhere: the connection that was waited for could not be opened.
    Failed(io::Error),
}

impl Http2Home {
    pub(super) fn new(limits: &Limits, provenance: Provenance) -> Self {
        Self {
            provenance,
            streams: limits.h2_streams,
            limit: limits.endpoint_h2_connections,
            connections: RefCell::default(),
            is_opening: Cell::new(false),
            waiters: Waiters::default(),
        }
    }

    /// As what its connections were made.
    pub(super) fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Takes no further requests: connections close with the last request that is on them. Who is in line opens anew.
    pub(super) fn retire(self: &Rc<Self>) {
        self.connections.borrow_mut().clear();
        self.serve();
    }

    /// Waits for a place, or for the right to open a connection.
    ///
    /// # Cancel safety
    ///
    /// What was handed to a request that is dropped goes to the next in line.
    pub(super) async fn turn(self: &Rc<Self>) -> Turn {
        loop {
            // An endpoint that raised its limit tells nobody: those in line go first.
            self.serve();
            if self.waiters.is_empty()
                && let Some(turn) = self.free()
            {
                return turn;
            }
            if let Ok(turn) = self.waiters.join().await {
                return turn;
            }
        }
    }

    /// Adds a connection that was opened, and takes the first place on it.
    pub(super) fn add(self: &Rc<Self>, sender: SendRequest<Bytes>, opening: Opening) -> Http2Lease {
        let connection = Rc::new(Http2Connection {
            sender,
            streams: Cell::new(0),
            is_closed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
        });
        self.connections.borrow_mut().push(Rc::clone(&connection));
        let lease = Http2Lease::new(self, &connection);
        drop(opening);
        lease
    }

    /// Forgets a connection that has ended or takes no more requests.
    pub(super) fn remove(self: &Rc<Self>, connection: &Http2Connection) {
        connection.is_closed.set(true);
        self.connections
            .borrow_mut()
            .retain(|other| !other.is_closed.get());
        self.serve();
    }

    /// A connection could not be opened: if there is no other, those in line need not find out for themselves, one after
    /// the other and each for as long.
    pub(super) fn fail(&self, error: &io::Error) {
        if !self.is_empty() {
            return;
        }
        while let Some(waiter) = self.waiters.next() {
            let same = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            // Who has left meanwhile has nothing to give back.
            drop(waiter.send(Turn::Failed(same)));
        }
    }

    /// Closes what has idled for `limit`.
    pub(super) fn sweep(&self, now: Instant, limit: Duration) {
        self.connections.borrow_mut().retain(|connection| {
            connection.streams.get() > 0 || now.duration_since(connection.last_used.get()) < limit
        });
    }

    /// Whether there is no connection.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }

    /// Hands what is free to those in line.
    fn serve(self: &Rc<Self>) {
        while !self.waiters.is_empty()
            && let Some(turn) = self.free()
            && let Some(waiter) = self.waiters.next()
        {
            // Refused, it comes back here by its own drop.
            drop(waiter.send(turn));
        }
    }

    /// A place on the connection with the fewest streams that has room, or the right to open one.
    fn free(self: &Rc<Self>) -> Option<Turn> {
        let connections = self.connections.borrow();
        let emptiest = connections
            .iter()
            .filter(|connection| connection.has_room(self.streams))
            .min_by_key(|connection| connection.streams.get());
        match emptiest {
            Some(connection) => Some(Turn::Use(Http2Lease::new(self, connection))),
            None if !self.is_opening.get() && connections.len() < self.limit => {
                Some(Turn::Open(Opening::new(self)))
            }
            None => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Http2Connection {
    sender: SendRequest<Bytes>,
    streams: Cell<u32>,
    is_closed: Cell<bool>,
    last_used: Cell<Instant>,
}

impl Http2Connection {
    fn has_room(&self, limit: u32) -> bool {
        let peers = u32::try_from(self.sender.current_max_send_streams()).unwrap_or(u32::MAX);
        !self.is_closed.get() && self.streams.get() < limit.min(peers.max(1))
    }
}

/// Marks that a connection is being opened, so that a burst opens one and waits for it.
#[derive(Debug)]
pub(super) struct Opening(Rc<Http2Home>);

impl Opening {
    fn new(home: &Rc<Http2Home>) -> Self {
        home.is_opening.set(true);
        Self(Rc::clone(home))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.is_opening.set(false);
        self.0.serve();
    }
}

/// One stream's place on a connection by HTTP/2.
#[derive(Debug)]
pub struct Http2Lease {
    home: Rc<Http2Home>,
    pub(super) connection: Rc<Http2Connection>,
}

impl Http2Lease {
    fn new(home: &Rc<Http2Home>, connection: &Rc<Http2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self {
            home: Rc::clone(home),
            connection: Rc::clone(connection),
        }
    }

    /// The connection.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// The connection refused a stream or is going away: no further request is put on it.
    pub fn retire(&self) {
        self.home.remove(&self.connection);
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.connection
            .streams
            .set(self.connection.streams.get().saturating_sub(1));
        self.connection.last_used.set(Instant::now());
        self.home.serve();
    }
}
