//! Connections to endpoints, one pool per worker.
//!
//! A connection lives on the worker that opened it and is used last in, first out. How many there may be to one
//! endpoint is bounded; a request that finds none waits for the next to come free, in order of arrival. Connections
//! are driven by a task each, so that one the endpoint closes is noticed while it idles.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parkway_activator::endpoint::Endpoint;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::body::AttemptBody;
use super::send::SendError;
use crate::config::Limits;

/// What an HTTP/1 endpoint is sent.
pub type UpstreamBody = http_body_util::Either<http_body_util::Empty<Bytes>, AttemptBody>;

/// All connections of one worker to endpoints.
#[derive(Debug)]
pub struct Pool {
    limits: Arc<Limits>,
    /// This worker's share of [`Limits::endpoint_connections`].
    per_endpoint: usize,
    http1: RefCell<HashMap<SocketAddr, Rc<Http1Home>>>,
    http2: RefCell<HashMap<SocketAddr, Rc<Http2Home>>>,
}

impl Pool {
    /// A pool for one of `workers` workers.
    pub fn new(limits: Arc<Limits>, workers: usize) -> Self {
        let per_endpoint = (limits.endpoint_connections / workers.max(1)).max(1);
        Self {
            limits,
            per_endpoint,
            http1: RefCell::default(),
            http2: RefCell::default(),
        }
    }

    /// A connection by HTTP/1 that is ready for a request.
    ///
    /// # Errors
    ///
    /// When connecting fails or takes longer than [`Limits::connect`].
    pub async fn http1(&self, endpoint: Endpoint) -> Result<Http1Lease, SendError> {
        let home = Rc::clone(
            self.http1
                .borrow_mut()
                .entry(endpoint.address())
                .or_default(),
        );
        loop {
            if let Some(sender) = home.take_idle() {
                return Ok(Http1Lease::new(home, sender, true));
            }
            if home.open.get() < self.per_endpoint {
                break;
            }
            home.waiters.wait().await;
        }
        // On the heap: what connecting needs would make the future of every request larger.
        Box::pin(self.connect_http1(endpoint, home)).await
    }

    async fn connect_http1(
        &self,
        endpoint: Endpoint,
        home: Rc<Http1Home>,
    ) -> Result<Http1Lease, SendError> {
        let open = OpenGuard::new(Rc::clone(&home));
        let stream = connect(endpoint, &self.limits).await?;
        let (sender, connection) = self
            .http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(SendError::handshake)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%endpoint, %error, "connection to endpoint ended");
            }
            drop(open);
        });
        Ok(Http1Lease::new(home, sender, false))
    }

    /// A new connection for a request that asks to switch protocols; it is never shared and not counted in the pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::http1`].
    pub async fn http1_for_upgrade(
        &self,
        endpoint: Endpoint,
    ) -> Result<http1::SendRequest<UpstreamBody>, SendError> {
        let stream = connect(endpoint, &self.limits).await?;
        let (sender, connection) = self
            .http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(SendError::handshake)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%endpoint, %error, "connection to endpoint ended");
            }
        });
        Ok(sender)
    }

    fn http1_builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder.max_headers(self.limits.response_fields);
        builder.max_header_size(self.limits.header_bytes);
        builder
    }

    /// A place on a connection by HTTP/2.
    ///
    /// # Errors
    ///
    /// When connecting fails or takes longer than [`Limits::connect`].
    pub async fn http2(&self, endpoint: Endpoint) -> Result<Http2Lease, SendError> {
        let home = Rc::clone(
            self.http2
                .borrow_mut()
                .entry(endpoint.address())
                .or_default(),
        );
        loop {
            if let Some(lease) = home.place(self.limits.h2_streams) {
                return Ok(lease);
            }
            if !home.is_opening.get()
                && home.connections.borrow().len() < self.limits.endpoint_h2_connections
            {
                break;
            }
            home.waiters.wait().await;
        }
        let opening = Opening::new(&home);
        let stream = connect(endpoint, &self.limits).await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(self.limits.h2_stream_window)
            .initial_connection_window_size(self.limits.h2_connection_window())
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(2 * 1024 * 1024)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| SendError::NotStarted(error.into()))?;
        let shared = Rc::new(Http2Connection {
            sender,
            streams: Cell::new(0),
            is_closed: Cell::new(false),
            last_used: Cell::new(Instant::now()),
        });
        home.connections.borrow_mut().push(Rc::clone(&shared));
        drop(opening);
        let lease = Http2Lease::new(Rc::clone(&home), Rc::clone(&shared));
        // The task owns neither: the connection closes with its last user, and an unused endpoint is forgotten.
        let (shared, home) = (Rc::downgrade(&shared), Rc::downgrade(&home));
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%endpoint, %error, "connection to endpoint ended");
            }
            if let Some(shared) = shared.upgrade() {
                shared.is_closed.set(true);
            }
            if let Some(home) = home.upgrade() {
                home.connections
                    .borrow_mut()
                    .retain(|other| !other.is_closed.get());
                home.waiters.wake_all();
            }
        });
        Ok(lease)
    }

    /// Closes what has idled longer than [`Limits::upstream_idle`], and forgets endpoints without connections.
    ///
    /// Called by the worker's sweep every few seconds.
    pub fn sweep(&self, now: Instant) {
        let limit = self.limits.upstream_idle;
        self.http1.borrow_mut().retain(|_, home| {
            home.idle
                .borrow_mut()
                .retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
            home.open.get() > 0 || Rc::strong_count(home) > 1
        });
        self.http2.borrow_mut().retain(|_, home| {
            home.connections.borrow_mut().retain(|connection| {
                connection.streams.get() > 0
                    || now.duration_since(connection.last_used.get()) < limit
            });
            !home.connections.borrow().is_empty() || Rc::strong_count(home) > 1
        });
    }

    /// How many connections by HTTP/1 are open, to all endpoints.
    pub fn open_http1(&self) -> usize {
        self.http1
            .borrow()
            .values()
            .map(|home| home.open.get())
            .sum()
    }
}

async fn connect(endpoint: Endpoint, limits: &Limits) -> Result<TcpStream, SendError> {
    let connecting = TcpStream::connect(endpoint.address());
    let stream = match tokio::time::timeout(limits.connect, connecting).await {
        Ok(connected) => connected.map_err(SendError::Connect)?,
        Err(_elapsed) => return Err(SendError::Connect(io::ErrorKind::TimedOut.into())),
    };
    stream.set_nodelay(true).map_err(SendError::Connect)?;
    Ok(stream)
}

/// Connections by HTTP/1 to one endpoint.
#[derive(Debug, Default)]
struct Http1Home {
    idle: RefCell<Vec<Idle>>,
    open: Cell<usize>,
    waiters: Waiters,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<UpstreamBody>,
    since: Instant,
}

impl Http1Home {
    /// The connection used last that is ready for a request; closed ones are dropped on the way.
    fn take_idle(&self) -> Option<http1::SendRequest<UpstreamBody>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.sender.is_ready() {
                return Some(candidate.sender);
            }
        }
        None
    }

    fn put_idle(&self, sender: http1::SendRequest<UpstreamBody>) {
        self.idle.borrow_mut().push(Idle {
            sender,
            since: Instant::now(),
        });
        self.waiters.wake_one();
    }
}

/// Counts one open connection from before it is opened until it has ended.
#[derive(Debug)]
struct OpenGuard(Rc<Http1Home>);

impl OpenGuard {
    fn new(home: Rc<Http1Home>) -> Self {
        home.open.set(home.open.get() + 1);
        Self(home)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.waiters.wake_one();
    }
}

/// One connection by HTTP/1, for one request.
///
/// Dropped before [`finish`](Self::finish), the connection is closed: its response was not read to the end.
#[derive(Debug)]
pub struct Http1Lease {
    home: Rc<Http1Home>,
    sender: http1::SendRequest<UpstreamBody>,
    is_reused: bool,
}

impl Http1Lease {
    fn new(home: Rc<Http1Home>, sender: http1::SendRequest<UpstreamBody>, is_reused: bool) -> Self {
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
    pub fn sender(&mut self) -> &mut http1::SendRequest<UpstreamBody> {
        &mut self.sender
    }

    /// The response was read to its end: the connection may serve another request.
    pub fn finish(self) {
        let Self {
            home, mut sender, ..
        } = self;
        if sender.is_ready() {
            home.put_idle(sender);
        } else if !sender.is_closed() {
            // The engine has not noticed the end yet, or still sends the request; it will within its next turn or never.
            tokio::task::spawn_local(async move {
                let ready =
                    tokio::time::timeout(SETTLE, std::future::poll_fn(|cx| sender.poll_ready(cx)))
                        .await;
                if matches!(ready, Ok(Ok(()))) {
                    home.put_idle(sender);
                }
            });
        }
    }
}

/// How long a connection may take to become ready again after a response; then it is closed.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(1);

/// Connections by HTTP/2 to one endpoint.
#[derive(Debug, Default)]
struct Http2Home {
    connections: RefCell<Vec<Rc<Http2Connection>>>,
    is_opening: Cell<bool>,
    waiters: Waiters,
}

impl Http2Home {
    /// A place on the connection with the fewest streams that has room.
    fn place(self: &Rc<Self>, limit: u32) -> Option<Http2Lease> {
        let connections = self.connections.borrow();
        let emptiest = connections
            .iter()
            .filter(|connection| connection.has_room(limit))
            .min_by_key(|connection| connection.streams.get())?;
        Some(Http2Lease::new(Rc::clone(self), Rc::clone(emptiest)))
    }
}

#[derive(Debug)]
struct Http2Connection {
    sender: h2::client::SendRequest<Bytes>,
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
struct Opening<'a>(&'a Http2Home);

impl<'a> Opening<'a> {
    fn new(home: &'a Http2Home) -> Self {
        home.is_opening.set(true);
        Self(home)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.is_opening.set(false);
        self.0.waiters.wake_all();
    }
}

/// One stream's place on a connection by HTTP/2.
#[derive(Debug)]
pub struct Http2Lease {
    home: Rc<Http2Home>,
    connection: Rc<Http2Connection>,
}

impl Http2Lease {
    fn new(home: Rc<Http2Home>, connection: Rc<Http2Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { home, connection }
    }

    /// The connection.
    pub fn sender(&self) -> h2::client::SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// The connection refused a stream or is going away: no further request is put on it.
    pub fn retire(&self) {
        self.connection.is_closed.set(true);
        self.home
            .connections
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, &self.connection));
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.connection
            .streams
            .set(self.connection.streams.get().saturating_sub(1));
        self.connection.last_used.set(Instant::now());
        self.home.waiters.wake_one();
    }
}

/// Requests that wait for a connection, in order of arrival.
#[derive(Debug, Default)]
struct Waiters(RefCell<VecDeque<oneshot::Sender<()>>>);

impl Waiters {
    async fn wait(&self) {
        let (wake, woken) = oneshot::channel();
        self.0.borrow_mut().push_back(wake);
        let mut turn = Turn {
            waiters: self,
            woken: Some(woken),
        };
        if let Some(woken) = &mut turn.woken {
            // An error means the pool was dropped; the caller looks again and sees for itself.
            woken.await.unwrap_or_default();
        }
        turn.woken = None;
    }

    fn wake_one(&self) {
        loop {
            let next = self.0.borrow_mut().pop_front();
            let Some(waiter) = next else { return };
            // One that gave up is passed over.
            if waiter.send(()).is_ok() {
                return;
            }
        }
    }

    fn wake_all(&self) {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        for waiter in all {
            // One that gave up needs no waking.
            waiter.send(()).unwrap_or_default();
        }
    }
}

/// A waiter's turn; given up after it was called, it goes to the next.
struct Turn<'a> {
    waiters: &'a Waiters,
    woken: Option<oneshot::Receiver<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(Ok(())) = self.woken.as_mut().map(oneshot::Receiver::try_recv) {
            self.waiters.wake_one();
        }
    }
}

#[cfg(test)]
mod tests;
