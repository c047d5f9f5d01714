//! Connections to endpoints, one pool per worker.
//!
//! A connection lives on the worker that opened it and is used last in, first out. How many there may be to one
//! endpoint is bounded; a request that finds none waits for the next to come free, in order of arrival. A connection by
//! HTTP/2 is driven by a task; one by HTTP/1 is driven by its request, and looked at before it is used again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use parkway_activator::endpoint::Endpoint;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

pub use self::http1::Http1Lease;
use self::http1::{Http1Home, OpenGuard};
pub use self::http2::Http2Lease;
use self::http2::{Http2Home, Opening};
use super::send::SendError;
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
    http1: RefCell<HashMap<SocketAddr, Rc<Http1Home>>>,
    http2: RefCell<HashMap<SocketAddr, Rc<Http2Home>>>,
}

impl Pool {
    /// A pool for one of `workers` workers.
    pub fn new(limits: Arc<Limits>, workers: usize) -> Self {
        let per_endpoint = limits.endpoint_share(workers);
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
        let home = self.http1_home(endpoint);
        loop {
            match home.turn().await {
                http1::Turn::Use(kept) => {
                    if let Some(lease) = kept.take() {
                        return Ok(lease);
                    }
                }
                // On the heap: what connecting needs would make the future of every request larger.
                http1::Turn::Open(open) => {
                    return Box::pin(self.connect_http1(endpoint, Some(open))).await;
                }
            }
        }
    }

    fn http1_home(&self, endpoint: Endpoint) -> Rc<Http1Home> {
        let mut homes = self.http1.borrow_mut();
        let home = homes
            .entry(endpoint.address())
            .or_insert_with(|| Rc::new(Http1Home::new(self.per_endpoint)));
        Rc::clone(home)
    }

    async fn connect_http1(
        &self,
        endpoint: Endpoint,
        open: Option<OpenGuard>,
    ) -> Result<Http1Lease, SendError> {
        let stream = connect(endpoint, &self.limits).await?;
        Ok(Http1Lease::new(stream, open))
    }

    /// A new connection for a request that asks to switch protocols; it is never shared and not counted in the pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::http1`].
    pub async fn http1_for_upgrade(&self, endpoint: Endpoint) -> Result<Http1Lease, SendError> {
        self.connect_http1(endpoint, None).await
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
                .or_insert_with(|| Rc::new(Http2Home::new(&self.limits))),
        );
        match home.turn().await {
            http2::Turn::Use(lease) => Ok(lease),
            http2::Turn::Open(opening) => self.connect_http2(endpoint, &home, opening).await,
            http2::Turn::Failed(error) => Err(SendError::Connect(error)),
        }
    }

    async fn connect_http2(
        &self,
        endpoint: Endpoint,
        home: &Rc<Http2Home>,
        opening: Opening,
    ) -> Result<Http2Lease, SendError> {
        let stream = connect(endpoint, &self.limits).await.inspect_err(|error| {
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

    /// How many connections by HTTP/1 are open, to all endpoints.
    #[cfg(test)]
    fn open_http1(&self) -> usize {
        self.http1.borrow().values().map(|home| home.open()).sum()
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
