//! Connections to endpoints, one pool per worker.
//!
//! A connection lives on the worker that opened it and is used last in, first out. How many there may be to one
//! endpoint is bounded; a request that finds none waits for the next to come free, in order of arrival. A connection by
//! HTTP/2 is driven by a task; one by HTTP/1 is driven by its request, and looked at before it is used again.
//!
//! Connections to a secured endpoint were verified for one namespace and under one trust (`Provenance`). When a request
//! wants another, they retire: what idles is closed, what runs goes on to its end, what is new is made anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

pub use self::http1::Http1Lease;
use self::http1::{Http1Home, OpenGuard};
pub use self::http2::Http2Lease;
use self::http2::{Http2Home, Opening};
use super::send::SendError;
use super::stream::Stream;
use super::tls::{Alpn, InternalTls};
use crate::config::Limits;

mod http1;
mod http2;
#[cfg(test)]
mod tests;
mod waiters;

/// All connections of one worker to endpoints.
#[derive(Debug)]
pub struct Pool {
    limits: Arc<Limits>,
    /// [`Limits::endpoint_share`].
    per_endpoint: usize,
    tls: InternalTls,
    http1: RefCell<HashMap<Endpoint, Rc<Http1Home>>>,
    http2: RefCell<HashMap<Endpoint, Rc<Http2Home>>>,
}

/// As what connections to an endpoint were made, if that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Provenance {
    /// In the clear: they are all the same.
    Plain,
    /// By TLS.
    Verified {
        /// The trust of that moment.
        generation: u64,
        /// Whose Pod it showed to be.
        namespace: Box<str>,
    },
}

impl Provenance {
    fn of(endpoint: Endpoint, revision: &RevisionId, tls: &InternalTls) -> Self {
        match endpoint.is_secured() {
            false => Self::Plain,
            true => Self::Verified {
                generation: tls.generation(),
                namespace: revision.namespace().into(),
            },
        }
    }

    /// Whether connections made as this are what a request for `revision` wants now.
    fn suits(&self, revision: &RevisionId, tls: &InternalTls) -> bool {
        match self {
            Self::Plain => true,
            Self::Verified {
                generation,
                namespace,
            } => *generation == tls.generation() && **namespace == *revision.namespace(),
        }
    }
}

impl Pool {
    /// A pool for one of `workers` workers.
    pub fn new(limits: Arc<Limits>, workers: usize) -> Self {
        let per_endpoint = limits.endpoint_share(workers);
        Self {
            limits,
            per_endpoint,
            tls: InternalTls::default(),
            http1: RefCell::default(),
            http2: RefCell::default(),
        }
    }

    /// Connects to secured endpoints by this.
    #[must_use]
    pub fn with_tls(self, tls: InternalTls) -> Self {
        Self { tls, ..self }
    }

    /// A connection by HTTP/1 to an endpoint of `revision` that is ready for a request.
    ///
    /// # Errors
    ///
    /// When connecting fails or takes longer than [`Limits::connect`].
    pub async fn http1(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
    ) -> Result<Http1Lease, SendError> {
        let home = self.http1_home(endpoint, revision);
        loop {
            match home.turn().await {
                http1::Turn::Use(kept) => {
                    if let Some(lease) = kept.take() {
                        return Ok(lease);
                    }
                }
                // On the heap: what connecting needs would make the future of every request larger.
                http1::Turn::Open(open) => {
                    return Box::pin(self.connect_http1(endpoint, revision, Some(open))).await;
                }
            }
        }
    }

    fn http1_home(&self, endpoint: Endpoint, revision: &RevisionId) -> Rc<Http1Home> {
        let mut homes = self.http1.borrow_mut();
        let new = || {
            let provenance = Provenance::of(endpoint, revision, &self.tls);
            Rc::new(Http1Home::new(self.per_endpoint, provenance))
        };
        let home = homes.entry(endpoint).or_insert_with(new);
        if !home.provenance().suits(revision, &self.tls) {
            std::mem::replace(home, new()).retire();
        }
        Rc::clone(home)
    }

    async fn connect_http1(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
        open: Option<OpenGuard>,
    ) -> Result<Http1Lease, SendError> {
        let stream = self.connect(endpoint, revision, Alpn::Http1).await?;
        Ok(Http1Lease::new(stream, open))
    }

    /// A new connection for a request that asks to switch protocols; it is never shared and not counted in the pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::http1`].
    pub async fn http1_for_upgrade(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
    ) -> Result<Http1Lease, SendError> {
        self.connect_http1(endpoint, revision, None).await
    }

    /// A place on a connection by HTTP/2.
    ///
    /// # Errors
    ///
    /// When connecting fails or takes longer than [`Limits::connect`].
    pub async fn http2(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
    ) -> Result<Http2Lease, SendError> {
        let home = self.http2_home(endpoint, revision);
        match home.turn().await {
            http2::Turn::Use(lease) => Ok(lease),
            http2::Turn::Open(opening) => {
                self.connect_http2(endpoint, revision, &home, opening).await
            }
            http2::Turn::Failed(error) => Err(SendError::Connect(error)),
        }
    }

    fn http2_home(&self, endpoint: Endpoint, revision: &RevisionId) -> Rc<Http2Home> {
        let mut homes = self.http2.borrow_mut();
        let new = || {
            let provenance = Provenance::of(endpoint, revision, &self.tls);
            Rc::new(Http2Home::new(&self.limits, provenance))
        };
        let home = homes.entry(endpoint).or_insert_with(new);
        if !home.provenance().suits(revision, &self.tls) {
            std::mem::replace(home, new()).retire();
        }
        Rc::clone(home)
    }

    async fn connect_http2(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
        home: &Rc<Http2Home>,
        opening: Opening,
    ) -> Result<Http2Lease, SendError> {
        let connecting = self.connect(endpoint, revision, Alpn::Http2);
        let stream = connecting.await.inspect_err(|error| {
            if let SendError::Connect(error) = error {
                home.fail(error);
            }
        })?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(self.limits.h2_stream_window)
            .initial_connection_window_size(self.limits.h2_connection_window())
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(2 * 1024 * 1024)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| SendError::NotStarted(error.into()))?;
        let lease = home.add(sender, opening);
        // The task owns neither: the connection closes with its last user, and an unused endpoint is forgotten.
        let (shared, home) = (Rc::downgrade(&lease.connection), Rc::downgrade(home));
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%endpoint, %error, "connection to endpoint ended");
            }
            if let (Some(shared), Some(home)) = (shared.upgrade(), home.upgrade()) {
                home.remove(&shared);
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
            home.sweep(now, limit);
            home.open() > 0 || Rc::strong_count(home) > 1
        });
        self.http2.borrow_mut().retain(|_, home| {
            home.sweep(now, limit);
            !home.is_empty() || Rc::strong_count(home) > 1
        });
    }

    /// Connects, and makes it secure where the endpoint wants that; both within [`Limits::connect`].
    async fn connect(
        &self,
        endpoint: Endpoint,
        revision: &RevisionId,
        alpn: Alpn,
    ) -> Result<Stream, SendError> {
        let deadline = Instant::now() + self.limits.connect;
        let stream = connect(endpoint, deadline).await?;
        if !endpoint.is_secured() {
            return Ok(Stream::Plain(stream));
        }
        // On the heap: a handshake would make the future of every request larger.
        let securing = Box::pin(self.tls.secure(stream, endpoint, revision, alpn, deadline));
        match securing.await {
            Ok(stream) => Ok(Stream::Secured(Box::new(stream))),
            Err(error) => Err(SendError::Connect(error.into())),
        }
    }

    /// How many connections by HTTP/1 are open, to all endpoints.
    #[cfg(test)]
    fn open_http1(&self) -> usize {
        self.http1.borrow().values().map(|home| home.open()).sum()
    }
}

async fn connect(endpoint: Endpoint, deadline: Instant) -> Result<TcpStream, SendError> {
    let connecting = TcpStream::connect(endpoint.address());
    let stream = match tokio::time::timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(SendError::Connect)?,
        Err(_elapsed) => return Err(SendError::Connect(io::ErrorKind::TimedOut.into())),
    };
    stream.set_nodelay(true).map_err(SendError::Connect)?;
    Ok(stream)
}
