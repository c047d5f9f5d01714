//! HTTP/1 connections: hyper's engine, put on while there is something to do and taken off while there is not.
//!
//! ```text
//!            bytes                    no endpoint ready
//!  dormant ─────────▶ serving ────────────────────────────▶ parked
//!     ▲                │  ▲                                   │
//!     └── idle ────────┘  └── permit or answer: the head and ─┘
//!                             what was read since, replayed
//! ```
//!
//! *Serving*, the engine owns the socket. *Parked*, the engine is gone: nothing was written and no body byte was asked
//! for, so the head can be given to a new engine later. Meanwhile the socket is read ahead up to a bound, which is how a
//! departed client is noticed whatever it sent. *Dormant*, only the socket is left.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{self, Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::TokioIo;
use parkway_activator::throttler::Permit;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::debug;

use super::connection::{Patience, Peer};
use super::exchange::{self, Begin};
use super::input::{Busy, Input, Signals};
use super::lingering;
use super::respond::Asked;
use super::stall::Stall;
use super::stream::ClientStream;
use crate::proxy::body::{BusyGuard, Http1Body, RequestBody};
use crate::proxy::failure::Failure;
use crate::proxy::forward::{Job, Outcome, Tunnel, Waiting};
use crate::proxy::held::Held;
use crate::proxy::sweep::Alarm;
use crate::proxy::tunnel;
use crate::routing::headers;

/// Serves what comes by an HTTP/1 connection until there is nothing going on. `None`: the connection is done.
///
/// `before` is what was read to tell the protocol.
pub(super) async fn awake(
    peer: Rc<Peer>,
    stream: ClientStream,
    before: Bytes,
) -> Option<ClientStream> {
    let (mut stream, mut before, mut resume) = (stream, before, None);
    let mut room = Room::Usual;
    loop {
        let serving = serving(&peer, stream, before, resume.take(), room);
        let (input, ended) = Box::pin(serving).await;
        room = Room::Usual;
        let (socket, unread) = input;
        match ended {
            Ended::Closed => {
                socket.close();
                return None;
            }
            Ended::Unread => {
                drop(unread);
                Box::pin(lingering::close(socket, peer.worker.limits.lingering)).await;
                return None;
            }
            Ended::Broken => return None,
            Ended::HeadTooSlow => {
                Box::pin(answer_408(socket, peer.worker.limits.lingering)).await;
                return None;
            }
            Ended::Switched(tunnel) => {
                Box::pin(tunnel::relay(socket, unread, *tunnel)).await;
                return None;
            }
            // A pipelined head that is not complete yet was read together with the request before it.
            Ended::Idle if !unread.is_empty() => (stream, before) = (socket, unread),
            Ended::Idle => return Some(socket),
            Ended::Outgrown => (stream, before, room) = (socket, unread, Room::Wide),
            Ended::Parked(waiting) => {
                let replay = parked(&peer, waiting, socket, unread).await?;
                (stream, before, resume) = (replay.stream, replay.bytes, Some(replay.resume));
                room = Room::Wide;
            }
        }
    }
}

/// How a turn of the engine ended.
pub(super) enum Ended {
    /// The connection is done, and nothing is missing.
    Closed,
    /// Nothing is missing, but the client may still be sending what nobody reads.
    Unread,
    /// The connection is done with before its time.
    Broken,
    /// A head did not arrive completely in time.
    HeadTooSlow,
    /// Nothing is going on.
    Idle,
    /// A head has more fields than the engine takes.
    Outgrown,
    /// A request has to wait for an endpoint.
    Parked(Box<Waiting>),
    /// The endpoint switched protocols.
    Switched(Box<Tunnel>),
}

/// What a replayed request finds.
pub(super) enum Resume {
    /// Its permit.
    Admitted(Job, Permit),
    /// Its answer.
    Answer(Job, Failure),
}

/// What service and connection task share besides the signals.
#[derive(Default)]
struct Desk {
    resume: RefCell<Option<Box<Resume>>>,
    waiting: RefCell<Option<Box<Waiting>>>,
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// Runs the engine on the socket until it ends or is taken off. Gives the socket back with what was read of it and not
/// used.
pub(super) async fn serving(
    peer: &Rc<Peer>,
    stream: ClientStream,
    before: Bytes,
    resume: Option<Box<Resume>>,
    room: Room,
) -> ((ClientStream, Bytes), Ended) {
    let limits = &peer.worker.limits;
    // A replayed head has our own fields besides the client's, which were counted when it came.
    let most_fields = limits.header_fields + OUR_FIELDS;
    let (fields, lines_bound) = match room {
        Room::Usual if most_fields > INLINE_FIELDS => (INLINE_FIELDS, Some(INLINE_FIELDS + 2)),
        Room::Usual | Room::Wide => (most_fields, None),
    };
    let signals = Signals::http1(lines_bound);
    let desk = Rc::new(Desk {
        resume: RefCell::new(resume),
        ..Desk::default()
    });
    let service = Service {
        peer: Rc::clone(peer),
        signals: Rc::clone(&signals),
        desk: Rc::clone(&desk),
    };
    let input = TokioIo::new(Input::new(before, stream, Rc::clone(&signals)));
    let mut engine = Box::new(
        Builder::new()
            .header_read_timeout(None)
            .max_headers(fields)
            .max_header_size(limits.header_bytes + OUR_BYTES)
            // What is read ahead of a slow endpoint, and what waits for a slow client: each for itself.
            .max_buf_size(limits.header_bytes + OUR_BYTES)
            .serve_connection(input, service),
    );
    let ended = drive(peer, &mut engine, &signals, &desk).await;
    let parts = (*engine).into_parts();
    let (socket, rest) = parts.io.into_inner().into_parts();
    let unread = if rest.is_empty() {
        // Even empty, the engine's buffer owns its memory: leave it behind.
        if parts.read_buf.is_empty() {
            Bytes::new()
        } else {
            parts.read_buf
        }
    } else {
        [parts.read_buf, rest].concat().into()
    };
    let ended = match ended {
        Ended::Closed if !unread.is_empty() || !signals.is_between_requests() => Ended::Unread,
        ended => ended,
    };
    ((socket, unread), ended)
}

/// How many fields an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many that it needs no memory for them.
    Usual,
    /// As many as are allowed.
    Wide,
}

/// Up to so many fields hyper sets no memory aside for each head. The request line and the empty line come on top.
const INLINE_FIELDS: usize = 100;

/// Fields that rules and we may add to a head, and their bytes.
const OUR_FIELDS: usize = 64;
const OUR_BYTES: usize = 16 * 1024;

/// Polls the engine until there is a reason to stop.
async fn drive(
    peer: &Peer,
    engine: &mut Connection<TokioIo<Input>, Service>,
    signals: &Signals,
    desk: &Desk,
) -> Ended {
    let mut watch = Watch::new(peer);
    let mut stall = Stall::new(peer);
    poll_fn(|cx| {
        let is_draining = peer.drain.has_begun(cx);
        match engine.poll_without_shutdown(cx) {
            Poll::Ready(result) => {
                let ended = match result {
                    Ok(()) => Ended::Closed,
                    Err(error) => {
                        debug!(client = %peer.address, %error, "connection ended");
                        // The engine has answered that by itself.
                        if error.is_parse() {
                            Ended::Unread
                        } else {
                            Ended::Broken
                        }
                    }
                };
                return Poll::Ready(desk.tunnel.take().map_or(ended, Ended::Switched));
            }
            Poll::Pending => {}
        }
        // Only while a request runs: an engine that has not read its replayed head yet would take itself for idle and
        // close.
        if is_draining && signals.in_flight.get() > 0 {
            Pin::new(&mut *engine).graceful_shutdown();
        }
        // An earlier response may still be on its way out: the engine stays until it is.
        if signals.is_flushed.get()
            && let Some(waiting) = desk.waiting.take()
        {
            return Poll::Ready(Ended::Parked(waiting));
        }
        // Not before the requests in front of it have been answered.
        let is_free = signals.in_flight.get() == 0 && signals.is_flushed.get();
        if is_free && signals.has_outgrown() {
            return Poll::Ready(Ended::Outgrown);
        }
        let limits = &peer.worker.limits;
        if signals.is_idle() {
            if is_draining {
                // A request may be in the socket already: the last look at it is the bare socket's.
                return Poll::Ready(Ended::Idle);
            }
            return watch.poll(cx, limits.linger).map(|()| Ended::Idle);
        }
        if signals.is_in_head() {
            return watch
                .poll(cx, limits.header_read)
                .map(|()| Ended::HeadTooSlow);
        }
        watch.reset();
        if !signals.is_flushed.get() {
            return stall
                .poll(cx, signals, limits.stall)
                .map(|()| Ended::Broken);
        }
        Poll::Pending
    })
    .await
}

/// Measures how long a state lasts.
struct Watch {
    since: Option<(Instant, Duration)>,
    alarm: Alarm,
}

impl Watch {
    fn new(peer: &Peer) -> Self {
        Self {
            since: None,
            alarm: peer.alarm(),
        }
    }

    fn reset(&mut self) {
        if self.since.take().is_some() {
            self.alarm.clear();
        }
    }

    /// Ready when the state that may last `limit` has lasted that long.
    fn poll(&mut self, cx: &Context<'_>, limit: Duration) -> Poll<()> {
        let since = match self.since {
            Some((since, same)) if same == limit => since,
            _ => Instant::now(),
        };
        self.since = Some((since, limit));
        self.alarm.poll_due(cx, since + limit)
    }
}

/// Hands each request of a connection on.
struct Service {
    peer: Rc<Peer>,
    signals: Rc<Signals>,
    desk: Rc<Desk>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Held>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Response<Held>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.signals.is_partial.set(false);
        let busy: BusyGuard = Rc::new(Busy::new(&self.signals));
        let (mut head, body) = request.into_parts();
        if let Some(doubt) = self.signals.doubt() {
            head.extensions.insert(doubt);
        }
        let body = if body.is_end_stream() {
            RequestBody::Empty
        } else {
            self.signals.expect_body(body.size_hint().exact());
            RequestBody::Http1(Http1Body::new(body, Rc::clone(&busy)))
        };
        let resumed = self.desk.resume.take();
        let begun = match resumed.map(|resumed| *resumed) {
            Some(Resume::Admitted(job, permit)) => {
                // What frames the message on this connection came with the replay; it is not passed on.
                headers::remove_from_request(&mut head.headers, head.version);
                Begin::Forward(job, permit)
            }
            Some(Resume::Answer(job, failure)) => {
                let asked = Asked::of(&self.peer, &head);
                Begin::Answer(asked.respond(&failure, job.observation))
            }
            None => exchange::begin(&self.peer, &mut head),
        };
        match begun {
            Begin::Answer(response) => Box::pin(future::ready(Ok(response))),
            Begin::Parked(waiting) => {
                self.desk.waiting.replace(Some(waiting));
                // The connection task takes the engine off after this turn, and this future with it. Until then the
                // body is kept: the engine reads a body that was dropped and throws it away.
                Box::pin(async move {
                    let _kept = body;
                    pending().await
                })
            }
            Begin::Forward(job, permit) => {
                let (peer, desk) = (Rc::clone(&self.peer), Rc::clone(&self.desk));
                Box::pin(async move {
                    let asked = Asked::of(&peer, &head);
                    let forwarder = &peer.worker.forwarder;
                    match forwarder.forward(job, permit, head, body, Some(busy)).await {
                        Outcome::Answered(response) => Ok(response),
                        Outcome::Switched(response, tunnel) => {
                            desk.tunnel.replace(Some(tunnel));
                            Ok(response)
                        }
                        Outcome::Failed(failure, observation) => {
                            Ok(asked.respond(&failure, observation))
                        }
                        // The body stays in the engine until the connection task takes that off: it is replayed from
                        // the socket's bytes.
                        Outcome::Parked(waiting, body) => {
                            let _kept = body;
                            desk.waiting.replace(Some(waiting));
                            pending().await
                        }
                    }
                })
            }
        }
    }
}

pub(super) enum Wake {
    Readable,
    Close,
}

/// Waits on the bare socket for the next request.
pub(super) async fn dormant(peer: &Peer, stream: &ClientStream) -> Wake {
    let mut patience = Patience::new(peer, peer.worker.limits.idle);
    poll_fn(|cx| {
        // Looked at first: a request that is there is served.
        if let Poll::Ready(is_readable) = stream.poll_readable(cx) {
            return Poll::Ready(if is_readable {
                Wake::Readable
            } else {
                Wake::Close
            });
        }
        patience.poll_over(peer, cx).map(|()| Wake::Close)
    })
    .await
}

/// A parked request that goes on: its bytes for a new engine, and what it finds there.
pub(super) struct Replay {
    stream: ClientStream,
    bytes: Bytes,
    resume: Box<Resume>,
}

/// Waits without an engine until the request is admitted or turned away. `None`: the client left.
pub(super) async fn parked(
    peer: &Peer,
    mut waiting: Box<Waiting>,
    mut stream: ClientStream,
    unread: Bytes,
) -> Option<Replay> {
    let mut ahead = ReadAhead {
        bytes: BytesMut::from(&unread[..]),
        bound: peer.worker.limits.read_ahead,
        is_full: false,
    };
    drop(unread);
    if waiting.ticket.grow(ahead.bytes.len()).is_err() {
        ahead.is_full = true;
    }
    let decided = {
        let due = waiting.due().unwrap_or_else(|| Instant::now() + FAR);
        let Waiting { job, ticket, .. } = &mut *waiting;
        let mut alarm = peer.alarm();
        poll_fn(|cx| {
            // A permit that is there wins over a client that left: the replay will notice.
            if let Poll::Ready(granted) = Pin::new(&mut *ticket).poll(cx) {
                return Poll::Ready(Some(granted.map_err(Failure::Refused)));
            }
            if alarm.poll_due(cx, due).is_ready() {
                let since = ticket.parked_since();
                return Poll::Ready(Some(Err(job.late(Some(since)))));
            }
            while let Poll::Ready(more) = ahead.poll_read(&mut stream, cx) {
                match more {
                    Ok(More::Bytes(read)) => ahead.is_full = ticket.grow(read).is_err(),
                    Ok(More::Gone) | Err(_) => return Poll::Ready(None),
                }
            }
            Poll::Pending
        })
        .await?
    };
    if let Err(failure) = &decided {
        peer.worker.demand.outlasts(&mut waiting.job, failure);
    }
    replay(*waiting, decided, stream, &ahead)
}

/// What a request that was parked goes on with. `None`: its socket is gone.
fn replay(
    waiting: Waiting,
    decided: Result<Permit, Failure>,
    stream: ClientStream,
    ahead: &ReadAhead,
) -> Option<Replay> {
    let Waiting {
        mut job,
        ticket,
        head,
    } = waiting;
    drop(ticket);
    job.observation.goes_on();
    let mut wire = Vec::new();
    head.write_http1(&mut wire, job.framing.fields());
    wire.extend_from_slice(&ahead.bytes);
    let resume = match decided {
        Ok(permit) => Resume::Admitted(job, permit),
        Err(failure) => Resume::Answer(job, failure),
    };
    let stream = if ahead.is_full {
        stream.registered_anew().ok()?
    } else {
        stream
    };
    Some(Replay {
        stream,
        bytes: wire.into(),
        resume: Box::new(resume),
    })
}

/// Stands for no deadline: an ordinary Service's request does not park, so nobody waits that long.
const FAR: Duration = Duration::from_secs(86_400);

/// Reads what a parked client sends, up to a bound; beyond it only watches for the end.
struct ReadAhead {
    bytes: BytesMut,
    bound: usize,
    is_full: bool,
}

enum More {
    Bytes(usize),
    Gone,
}

impl ReadAhead {
    fn poll_read(
        &mut self,
        stream: &mut ClientStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<More>> {
        let room = self.bound.saturating_sub(self.bytes.len());
        if self.is_full || room == 0 {
            self.is_full = true;
            return stream.poll_closed(cx).map_ok(|()| More::Gone);
        }
        let mut step = [0; READ_AHEAD_STEP];
        let (step, _) = step.split_at_mut(room.min(READ_AHEAD_STEP));
        let read = ready!(stream.poll_read_some(cx, step))?;
        if read == 0 {
            return Poll::Ready(Ok(More::Gone));
        }
        let (read, _) = step.split_at(read);
        self.bytes.extend_from_slice(read);
        Poll::Ready(Ok(More::Bytes(read.len())))
    }
}

const READ_AHEAD_STEP: usize = 2 * 1024;

/// How long a client may take to take the reason for its connection's end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says why the connection is closed, as far as the client listens.
async fn answer_408(mut stream: ClientStream, lingering: Duration) {
    let answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // A client that does not even read this is not waited for.
    match tokio::time::timeout(LAST_WORDS, stream.write_all(answer)).await {
        Ok(Ok(())) => lingering::close(stream, lingering).await,
        Ok(Err(error)) => debug!(%error, "the client did not take the 408"),
        Err(_elapsed) => debug!("the client did not take the 408"),
    }
}
