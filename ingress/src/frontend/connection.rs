//! A client's connection from accept to the protocol it speaks.
//!
//! HTTP/2 by prior knowledge begins with a fixed preface (RFC 9113 section 3.4); everything else is HTTP/1. The first
//! byte has a deadline, and so has the rest of the preface.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::debug;

use super::drain::Listener;
use super::http1::Wake;
use super::lingering;
use super::places::{ClientPlace, Place, Unwelcome};
use super::proxy_protocol::{self, TrustedProxies};
use super::stream::ClientStream;
use super::tls::{self, Agreed, Certificates, Greeted, Security};
use super::worker::Worker;
use super::{http1, http2};
use crate::proxy::sweep::Alarm;
use crate::routing::headers::{Arrival, EntranceKind, Entry, Scheme};
use crate::routing::rules::Visibility;

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
pub(super) async fn serve(beginning: LocalBoxFuture<'static, Option<Begun>>, open: Places) {
    let Some(Begun {
        peer,
        mut done,
        client,
    }) = beginning.await
    else {
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
    drop((open, client));
}

/// What a connection takes of what there is, until it ends.
pub(super) type Places = (Place, Option<Box<ClientPlace>>);

/// A connection that has begun.
pub(super) struct Begun {
    peer: Rc<Peer>,
    /// What is left of it: one of HTTP/1, dormant. `None`: nothing.
    done: Option<ClientStream>,
    /// Its client's place, if that became known later than the connection.
    client: Option<Box<ClientPlace>>,
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
            Some(Begun {
                peer,
                done,
                client: None,
            })
        }),
        Some(opening) => Box::pin(open_up(opening, peer, stream)),
    }
}

/// What the connections of an entrance begin with.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// Who says whose connections they are. `None`: who connects is who asks.
    pub(super) proxies: Option<TrustedProxies>,
    /// Whose certificates they are secured with. `None`: they are plain text.
    pub(super) certificates: Option<Certificates>,
}

impl Opening {
    /// What is to be done there, if anything is.
    pub(super) fn of(
        proxies: Option<TrustedProxies>,
        certificates: Option<Certificates>,
    ) -> Option<Self> {
        (proxies.is_some() || certificates.is_some()).then_some(Self {
            proxies,
            certificates,
        })
    }
}

/// Does what comes before the requests, and serves what comes first. `None`: it did not come to requests.
async fn open_up(opening: Rc<Opening>, peer: Rc<Peer>, stream: TcpStream) -> Option<Begun> {
    let Introduced {
        peer,
        client,
        stream,
        before,
    } = match &opening.proxies {
        None => Introduced {
            peer,
            client: None,
            stream,
            before: Bytes::new(),
        },
        Some(proxies) => {
            let is_plain = opening.certificates.is_none();
            Box::pin(introduced(proxies, peer, stream, is_plain)).await?
        }
    };
    let Some(certificates) = &opening.certificates else {
        let stream = ClientStream::Plain(stream);
        let done = Box::pin(begin(Rc::clone(&peer), stream, before)).await;
        return Some(Begun { peer, done, client });
    };
    let Greeted {
        stream,
        security,
        protocol,
    } = tls::handshake(&peer, certificates, stream, before).await?;
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
    Some(Begun { peer, done, client })
}

/// A connection of which a proxy has said whose it is.
struct Introduced {
    peer: Rc<Peer>,
    client: Option<Box<ClientPlace>>,
    stream: TcpStream,
    /// What was read behind that.
    before: Bytes,
}

/// Hears from a proxy whose connection this is. `None`: it is closed, and counted.
async fn introduced(
    proxies: &TrustedProxies,
    proxy: Rc<Peer>,
    mut stream: TcpStream,
    is_plain: bool,
) -> Option<Introduced> {
    let worker = &proxy.worker;
    let (address, before) = match proxy_protocol::read(proxies, &proxy, &mut stream).await {
        Ok(said) => said,
        Err(why) => {
            worker.places.count(why, proxy.address.ip());
            return None;
        }
    };
    let client = match place_of(worker, address, proxy.kind) {
        Ok(client) => client,
        Err(why) => {
            worker.places.count(why, address.ip());
            if is_plain && let Some(permit) = worker.may_turn_away() {
                turn_away(stream, why, permit).await;
            }
            return None;
        }
    };
    let peer = Rc::new(Peer::new(Rc::clone(worker), address, proxy.kind, None));
    Some(Introduced {
        peer,
        client,
        stream,
        before,
    })
}

/// A place of this client, where its connections are counted: outside, if it may have fewer than there may be in all.
pub(super) fn place_of(
    worker: &Worker,
    address: SocketAddr,
    kind: EntranceKind,
) -> Result<Option<Box<ClientPlace>>, Unwelcome> {
    let bound = worker.limits.client_connections;
    let is_outside = kind == EntranceKind::Gateway(Visibility::ExternalIp);
    if !is_outside || bound >= worker.limits.connections {
        return Ok(None);
    }
    let place = worker.places.take_of_client(address.ip(), bound)?;
    Ok(Some(Box::new(place)))
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

/// Tells a client that there are too many connections.
pub(super) async fn turn_away(
    mut stream: TcpStream,
    why: Unwelcome,
    _one_of_a_few: OwnedSemaphorePermit,
) {
    let answer: &[u8] = match why {
        Unwelcome::ClientConnections => {
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n\
            connection: close\r\ncontent-length: 39\r\n\r\ntoo many connections from this address\n"
        }
        _ => {
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n\
            connection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n"
        }
    };
    // An answer that comes before its request is none to many a client.
    let mut first = [0; 1];
    if tokio::time::timeout(GENTLY, stream.peek(&mut first))
        .await
        .is_err()
    {
        debug!("a client that is turned away has asked for nothing yet");
    }
    if let Err(error) = stream.write_all(answer).await {
        debug!(%error, "the client did not take the answer");
        return;
    }
    lingering::close(ClientStream::Plain(stream), GENTLY).await;
}

/// How long a client that is turned away may take to ask, and to notice that its connection is being closed.
const GENTLY: Duration = Duration::from_secs(1);

/// How many clients each worker turns away at the same time; beyond, connections are closed without a word.
pub(super) const TURNED_AWAY: usize = 64;
