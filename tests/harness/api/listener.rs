//! The double's port: opened, closed and opened again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::answer::answer;
use super::shared::Shared;

/// A port that stays the double's own while nobody listens on it.
pub(super) struct Port {
    address: SocketAddr,
    /// Bound, never listening: a connection is refused, and no other test gets the port.
    _reserved: Socket,
    serving: Option<AbortOnDropHandle<()>>,
    connections: Arc<AtomicU64>,
}

impl Port {
    pub(super) fn reserve() -> Self {
        let reserved = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _reserved: reserved,
            serving: None,
            connections: Arc::new(AtomicU64::new(1)),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number that the next connection gets.
    pub(super) fn next_connection(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Listens; nothing happens when it does already.
    pub(super) fn open(&mut self, shared: &Arc<Shared>) {
        if self.serving.is_some() {
            return;
        }
        let socket = socket(self.address);
        socket.listen(1024).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let serving = accept(listener, Arc::clone(shared), Arc::clone(&self.connections));
        self.serving = Some(AbortOnDropHandle::new(tokio::spawn(serving)));
    }

    /// Stops listening and breaks every connection.
    pub(super) fn close(&mut self) {
        self.serving = None;
    }
}

fn socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: Arc<AtomicU64>) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let number = connections.fetch_add(1, Ordering::Relaxed);
                    serving.spawn(serve(stream, number, Arc::clone(&shared)));
                }
            }
            Some(_ended) = serving.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, number: u64, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(answer(&shared, number, head, body).await)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    drop(serving.await);
}
