//! A client's connection from accept to the protocol it speaks.
//!
//! HTTP/2 by prior knowledge begins with a fixed preface (RFC 9113 section 3.4); everything else is HTTP/1. The first
//! byte has a deadline, and so has the rest of the preface.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::debug;

use super::drain::Listener;
use super::http1::Wake;
use super::stream::ClientStream;
use super::tls::{self, Agreed, Certificates, Greeted, Security};
use super::worker::Worker;
use super::{http1, http2};
use crate::proxy::sweep::Alarm;
use crate::routing::headers::{Arrival, EntranceKind, Entry, Scheme};

/// Whose connection it is and where it came in.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) worker: Rc<Worker>,
    pub(super) address: SocketAddr,
    /// By the entrance, never by a header.
    pub(super) kind: EntranceKind,
    /// What its requests are given on their way.
    pub(super) entry: Entry,
    /// Over TLS, what its requests may ask for.
    pub(super) security: Option<Box<Security>>,
    /// Hears of the drain. Only the connection's own task asks.
    pub(super) drain: Listener,
}

impl Peer {
    pub(super) fn new(
        worker: Rc<Worker>,
        address: SocketAddr,
        kind: EntranceKind,
        security: Option<Box<Security>>,
    ) -> Self {
        let arrival = Arrival {
            entrance: kind,
            peer: address.ip(),
            scheme: match security {
                Some(_) => Scheme::Https,
                None => Scheme::Http,
            },
            trusted_hops: worker.policy.trusted_hops,
        };
        Self {
            drain: Listener::new(&worker.drain),
            worker,
            address,
            kind,
            entry: Entry::new(arrival),
            security,
        }
    }

    /// An alarm of the connection's worker, not set.
    pub(super) fn alarm(&self) -> Alarm {
        self.worker.forwarder.sweep.alarm()
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection until it ends, from what [`beginning`] made of it.
///
/// All but being dormant is on the heap, so that what is left of a dormant connection is small.
pub(super) async fn serve(beginning: LocalBoxFuture<'static, Option<Begun>>, open: OpenConnection) {
    let Some(Begun { peer, mut done }) = beginning.await else {
        return;
    };
    while let Some(stream) = done {
        done = match http1::dormant(&peer, &stream).await {
            Wake::Readable => Box::pin(http1::awake(Rc::clone(&peer), stream, Bytes::new())).await,
            Wake::Close => {
                stream.close();
                None
            }
        };
    }
    drop(open);
}

/// A connection that has begun.
pub(super) struct Begun {
    peer: Rc<Peer>,
    /// What is left of it: one of HTTP/1, dormant. `None`: nothing.
    done: Option<ClientStream>,
}

/// Serves what comes first by a connection; with an `opening`, one that begins with more than its requests. `None`: it
/// did not come to requests.
pub(super) fn beginning(
    opening: Option<Rc<Opening>>,
    peer: Rc<Peer>,
    stream: TcpStream,
) -> LocalBoxFuture<'static, Option<Begun>> {
    match opening {
        None => Box::pin(async move {
            let stream = ClientStream::Plain(stream);
            let done = begin(Rc::clone(&peer), stream, Bytes::new()).await;
            Some(Begun { peer, done })
        }),
        Some(opening) => Box::pin(open_up(opening, peer, stream)),
    }
}

/// What the connections of an entrance begin with.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// Whose certificates they are secured with.
    pub(super) certificates: Certificates,
}

/// Does what comes before the requests, and serves what comes first. `None`: it did not come to requests.
async fn open_up(opening: Rc<Opening>, peer: Rc<Peer>, stream: TcpStream) -> Option<Begun> {
    let Greeted {
        stream,
        security,
        protocol,
    } = tls::handshake(&peer, &opening.certificates, stream, Bytes::new()).await?;
    let (worker, address, kind) = (Rc::clone(&peer.worker), peer.address, peer.kind);
    let peer = Rc::new(Peer::new(worker, address, kind, Some(Box::new(security))));
    let stream = ClientStream::Tls(stream);
    let done = match protocol {
        Agreed::Open => Box::pin(begin(Rc::clone(&peer), stream, Bytes::new())).await,
        Agreed::Http2 => {
            Box::pin(http2::serve(Rc::clone(&peer), stream, Bytes::new())).await;
            None
        }
    };
    Some(Begun { peer, done })
}

/// Tells the protocol and serves what comes first. `None`: the connection is done; else it is one of HTTP/1, dormant.
/// What has been read already is in `before`.
async fn begin(peer: Rc<Peer>, mut stream: ClientStream, before: Bytes) -> Option<ClientStream> {
    let mut start = BytesMut::from(before);
    let sniffed = {
        let mut patience = Patience::new(&peer, peer.worker.limits.first_byte);
        poll_fn(|cx| {
            // A request that is there is served, so it is looked for first.
            if let Poll::Ready(sniffed) = poll_sniff(&mut stream, &mut start, cx) {
                return Poll::Ready(sniffed);
            }
            let over = patience.poll_over(&peer, cx);
            over.map(|()| Ok(Sniffed::Nothing))
        })
        .await
    };
    match sniffed {
        Ok(Sniffed::Http1) => Box::pin(http1::awake(peer, stream, start.freeze())).await,
        Ok(Sniffed::Http2) => {
            Box::pin(http2::serve(peer, stream, start.freeze())).await;
            None
        }
        Ok(Sniffed::Nothing) => {
            stream.close();
            None
        }
        Err(_) => None,
    }
}

/// How long a connection without a request stays open.
#[derive(Debug)]
pub(super) struct Patience {
    alarm: Alarm,
    due: Instant,
    is_draining: bool,
}

impl Patience {
    /// As long as `limit` from now.
    pub(super) fn new(peer: &Peer, limit: Duration) -> Self {
        Self {
            alarm: peer.alarm(),
            due: Instant::now() + limit,
            is_draining: false,
        }
    }

    /// Ready when the limit has passed, or when the drain has begun and requests that were sent before it have been
    /// noticed.
    pub(super) fn poll_over(&mut self, peer: &Peer, cx: &Context<'_>) -> Poll<()> {
        if !self.is_draining && peer.drain.has_begun(cx) {
            self.is_draining = true;
            self.due = self.due.min(Instant::now() + LAST_MOMENT);
        }
        self.alarm.poll_due(cx, self.due)
    }
}

/// How long a connection without a request stays open when the drain begins. What its client has sent may be in the
/// socket, or on its way, without the reactor having told.
const LAST_MOMENT: Duration = Duration::from_millis(100);

enum Sniffed {
    Http1,
    Http2,
    Nothing,
}

/// Reads until the preface is told from anything else.
fn poll_sniff(
    stream: &mut ClientStream,
    start: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<Sniffed>> {
    loop {
        if let Some(sniffed) = tell(start) {
            return Poll::Ready(Ok(sniffed));
        }
        // No memory is set aside before there is something to read.
        let mut room = [0; FIRST_READ];
        let mut read = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok(Sniffed::Nothing));
        }
        start.extend_from_slice(read.filled());
    }
}

/// What the first bytes say, if they are enough.
fn tell(start: &[u8]) -> Option<Sniffed> {
    let known = start.len().min(PREFACE.len());
    if start.get(..known) != PREFACE.get(..known) {
        return Some(Sniffed::Http1);
    }
    (known == PREFACE.len()).then_some(Sniffed::Http2)
}

/// Room for a usual request head, so that most connections read once before the engine does.
const FIRST_READ: usize = 1024;

/// Counts one open connection; its drop counts it out.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<AtomicUsize>);

impl OpenConnection {
    /// Counts one more, unless `bound` are open.
    pub(super) fn within(open: &Arc<AtomicUsize>, bound: usize) -> Option<Self> {
        let counted = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < bound).then_some(count + 1)
        });
        counted.ok().map(|_| Self(Arc::clone(open)))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells a client that there are too many connections.
pub(super) async fn turn_away(mut stream: TcpStream, _one_of_a_few: OwnedSemaphorePermit) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n\
        connection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
    // An answer that comes before its request is none to many a client.
    let mut first = [0; 1];
    if tokio::time::timeout(GENTLY, stream.peek(&mut first))
        .await
        .is_err()
    {
        debug!("a client that is turned away has asked for nothing yet");
    }
    if let Err(error) = stream.write_all(answer).await {
        debug!(%error, "the client did not take the 503");
        return;
    }
    close_gently(stream).await;
}

/// Ends a connection whose client may still be sending, so that it reads the answer: bytes that nobody reads make the
/// system reset the connection, and many a client then has nothing but the reset.
async fn close_gently(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut unwanted = [0; 4 * 1024];
    let reading =
        async { while matches!(stream.read(&mut unwanted).await, Ok(read) if read > 0) {} };
    // Whoever has not read the answer by then has had the time to.
    tokio::time::timeout(GENTLY, reading)
        .await
        .unwrap_or_default();
}

/// How long a client may take to notice that its connection is being closed.
const GENTLY: Duration = Duration::from_secs(1);

/// How many clients each worker turns away at the same time; beyond, connections are closed without a word.
pub(super) const TURNED_AWAY: usize = 64;
