//! The port of a Pod's queue-proxy that speaks TLS: HTTP/1.1 with upgrades, and HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::{Pod, QueueProxy};

/// The port by which Pods serve TLS.
///
/// Source: knative/networking `pkg/apis/networking/ports.go`.
pub const PORT: u16 = 8112;

/// What a Pod serves by TLS. Dropping it closes the port and breaks its connections.
#[derive(Debug)]
pub struct Secured {
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    pod: Arc<Pod>,
    config: Mutex<Arc<ServerConfig>>,
    connections: AtomicUsize,
    refused: AtomicUsize,
    seen: AtomicUsize,
}

impl QueueProxy {
    /// Serves by TLS too, from now on, at the port that Knative has for it.
    pub async fn secured(&self, config: Arc<ServerConfig>) -> Secured {
        let address = SocketAddr::new(self.address.ip(), PORT);
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            pod: Arc::clone(&self.pod),
            config: Mutex::new(config),
            connections: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Secured {
            shared,
            _serving: AbortOnDropHandle::new(serving),
        }
    }
}

impl Secured {
    /// Shows this to who connects from now on.
    pub fn shows(&self, config: Arc<ServerConfig>) {
        *self.shared.config.lock() = config;
    }

    /// Connections that became secure.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that did not: who connected wanted something else.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Requests and probes that came by TLS.
    pub fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    let config = Arc::clone(&shared.config.lock());
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        shared.refused.fetch_add(1, Ordering::SeqCst);
        return;
    };
    shared.connections.fetch_add(1, Ordering::SeqCst);
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => by_http2(stream, shared).await,
        _ => by_http1(stream, shared).await,
    }
}

async fn by_http1(stream: TlsStream<TcpStream>, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            shared.seen.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(match request.headers().contains_key(header::UPGRADE) {
                true => upgrade(&shared.pod, request),
                false => shared.pod.answer(request).await,
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    drop(connection.with_upgrades().await);
}

/// Switches to whatever was asked for; from then on every byte comes back.
fn upgrade(pod: &Pod, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    pod.counts.requests.fetch_add(1, Ordering::SeqCst);
    let protocol = request.headers()[header::UPGRADE].clone();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else {
            return;
        };
        let mut stream = TokioIo::new(upgraded);
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            if stream.write_all(&bytes[..count]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    });
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
    answer
}

async fn by_http2(stream: TlsStream<TcpStream>, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut answering = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let shared = Arc::clone(&shared);
        answering.spawn(async move {
            shared.seen.fetch_add(1, Ordering::SeqCst);
            let (mut head, mut incoming) = request.into_parts();
            let mut body = Vec::new();
            while let Some(Ok(piece)) = incoming.data().await {
                drop(incoming.flow_control().release_capacity(piece.len()));
                body.extend_from_slice(&piece);
            }
            if let Some(scheme) = head.uri.scheme_str().and_then(|it| it.parse().ok()) {
                head.headers.insert("saw-scheme", scheme);
            }
            let request = Request::from_parts(head, Full::new(Bytes::from(body)));
            let (head, body) = shared.pod.answer(request).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), false) {
                drop(stream.send_data(body, true));
            }
        });
    }
}
