//! Endpoints that do what a test tells them to.
//!
//! A script is an async function of one [`Connection`]; it sees bytes and nothing is done for it. Scripts for what most
//! tests need are here: [`Upstream::answering`] and [`Upstream::http2`].

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::raw::{Raw, fields};

/// An endpoint in this process. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    steps: Arc<Semaphore>,
    accepting: Option<JoinHandle<()>>,
    /// A port that is taken and refuses connections.
    _reserved: Option<Reserved>,
}

/// One connection to a scripted endpoint.
#[derive(Debug)]
pub struct Connection {
    /// Which one it is, counted from 0.
    pub number: usize,
    /// Its bytes.
    pub raw: Raw,
    steps: Arc<Semaphore>,
}

/// A request as a scripted endpoint reads it.
#[derive(Clone)]
pub struct Head {
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its fields.
    pub headers: HeaderMap,
}

impl Head {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.method, self.target, self.headers)
    }
}

/// Not where processes of `parkway run` listen: their ports are chosen before they take them, and an endpoint that took
/// such a port meanwhile would be taken for the process.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

impl Upstream {
    /// Runs `script` for each connection.
    pub async fn start<F, S>(script: S) -> Self
    where
        S: Fn(Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        Self::start_on(listener, script)
    }

    /// Runs `script` for each connection to this address, which something listened on before.
    pub async fn start_at<F, S>(address: SocketAddr, script: S) -> Self
    where
        S: Fn(Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(TcpListener::bind(address).await.unwrap(), script)
    }

    fn start_on<F, S>(listener: TcpListener, script: S) -> Self
    where
        S: Fn(Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let steps = Arc::new(Semaphore::new(0));
        let their_steps = Arc::clone(&steps);
        let accepting = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let steps = Arc::clone(&their_steps);
                let number = counter.fetch_add(1, Ordering::SeqCst);
                running.spawn(script(Connection {
                    number,
                    raw: Raw::of(stream),
                    steps,
                }));
            }
        });
        Self {
            address,
            connections,
            steps,
            accepting: Some(accepting),
            _reserved: None,
        }
    }

    /// Answers every request over HTTP/1.1 with a JSON description of what it got: `name`, `method`, `path`, `headers`
    /// (by name, each a list) and `body`.
    pub async fn answering(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |connection| describe_each(name.clone(), connection)).await
    }

    /// Runs `script` for each HTTP/2 request.
    pub async fn http2<F, S>(script: S) -> Self
    where
        S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let script = script.clone();
                running.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    let mut requests = JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        requests.spawn(script(request, respond));
                    }
                });
            }
        });
        Self {
            address,
            connections,
            steps: Arc::new(Semaphore::new(0)),
            accepting: Some(accepting),
            _reserved: None,
        }
    }

    /// A port that nobody else gets and that refuses every connection.
    pub fn refusing() -> Self {
        let reserved = Reserved::new();
        Self {
            address: reserved.address,
            connections: Arc::default(),
            steps: Arc::new(Semaphore::new(0)),
            accepting: None,
            _reserved: Some(reserved),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets one script that waits at a [`step`](Connection::step) go on.
    pub fn go_on(&self) {
        self.steps.add_permits(1);
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Connection {
    /// Reads a request's head; `None` when the connection has ended instead.
    pub async fn request(&mut self) -> Option<Head> {
        let head = self.raw.try_until("\r\n\r\n").await.ok()?;
        let mut lines = head.trim_end().split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Head {
            method,
            target,
            headers: fields(lines),
        })
    }

    /// Reads the body that belongs to a head.
    pub async fn body(&mut self, head: &Head) -> Bytes {
        if head.header("transfer-encoding").is_some() {
            return self.raw.chunks().await.0;
        }
        match head.header("content-length") {
            Some(length) => self.raw.exactly(length.parse().unwrap()).await,
            None => Bytes::new(),
        }
    }

    /// Reads a request's head and body; `None` when the connection has ended instead.
    pub async fn whole_request(&mut self) -> Option<(Head, Bytes)> {
        let head = self.request().await?;
        let body = self.body(&head).await;
        Some((head, body))
    }

    /// Answers 200 with this text.
    pub async fn answer(&mut self, text: &str) {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
        drop(self.raw.try_send(head + text).await);
    }

    /// Sends bytes; a peer that has gone is not missed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.raw.try_send(bytes).await);
    }

    /// Waits until the test says to [go on](Upstream::go_on).
    pub async fn step(&self) {
        self.steps.acquire().await.unwrap().forget();
    }

    /// Does nothing until the other side ends the connection.
    pub async fn stall(mut self) {
        self.raw.rest().await;
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.raw.reset();
    }
}

async fn describe_each(name: String, mut connection: Connection) {
    while let Some((head, body)) = connection.whole_request().await {
        let mut headers = serde_json::Map::new();
        for key in head.headers.keys() {
            let values = head.headers.get_all(key).iter();
            let values: Vec<_> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            headers.insert(key.to_string(), json!(values));
        }
        let description = json!({
            "name": name,
            "method": head.method,
            "path": head.target,
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        connection.answer(&description.to_string()).await;
    }
}

/// Bound and not listening: connections are refused, and nobody else gets the port.
#[derive(Debug)]
struct Reserved {
    address: SocketAddr,
    _socket: socket2::Socket,
}

impl Reserved {
    fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((HERE, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _socket: socket,
        }
    }
}
