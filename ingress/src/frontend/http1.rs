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
use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::TokioIo;
use parkway_activator::throttler::Permit;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use super::connection::{Peer, drained};
use super::exchange::{self, Begin};
use super::input::{Busy, Input, Signals};
use super::respond::Asked;
use crate::proxy::body::{BusyGuard, Http1Body, RequestBody};
use crate::proxy::failure::Failure;
use crate::proxy::forward::{Job, Outcome, Tunnel, Waiting};
use crate::proxy::held::Held;
use crate::proxy::tunnel;
use crate::routing::headers;

/// Serves one HTTP/1 connection until it ends. `before` is what was read to tell the protocol.
pub(super) async fn serve(peer: Rc<Peer>, stream: TcpStream, before: Bytes) {
    let (mut stream, mut before, mut resume) = (stream, before, None);
    loop {
        let (input, ended) = serving(&peer, stream, before, resume.take()).await;
        let (socket, unread) = input;
        match ended {
            Ended::Closed => return,
            Ended::HeadTooSlow => return answer_408(socket).await,
            Ended::Switched(tunnel) => return tunnel::relay(socket, unread, *tunnel).await,
            // A pipelined head that is not complete yet was read together with the request before it.
            Ended::Idle if !unread.is_empty() => (stream, before) = (socket, unread),
            Ended::Idle => match dormant(&peer, &socket).await {
                Wake::Readable => (stream, before) = (socket, Bytes::new()),
                Wake::Close => return,
            },
            Ended::Parked(waiting) => match parked(&peer, *waiting, socket, unread).await {
                Some(replay) => {
                    (stream, before, resume) = (replay.stream, replay.bytes, Some(replay.resume));
                }
                None => return,
            },
        }
    }
}

/// How a turn of the engine ended.
enum Ended {
    /// The connection is done.
    Closed,
    /// A head did not arrive completely in time.
    HeadTooSlow,
    /// Nothing is going on.
    Idle,
    /// A request has to wait for an endpoint.
    Parked(Box<Waiting>),
    /// The endpoint switched protocols.
    Switched(Box<Tunnel>),
}

/// What a replayed request finds.
enum Resume {
    /// Its permit.
    Admitted(Job, Permit),
    /// Its answer.
    Answer(Job, Failure),
}

/// What service and connection task share besides the signals.
#[derive(Default)]
struct Desk {
    resume: RefCell<Option<Resume>>,
    waiting: RefCell<Option<Box<Waiting>>>,
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// Runs the engine on the socket until it ends or is taken off. Gives the socket back with what was read of it and not
/// used.
async fn serving(
    peer: &Rc<Peer>,
    stream: TcpStream,
    before: Bytes,
    resume: Option<Resume>,
) -> ((TcpStream, Bytes), Ended) {
    let signals = Signals::http1();
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
    let limits = &peer.worker.limits;
    let mut engine = Box::new(
        Builder::new()
            .header_read_timeout(None)
            // A replayed head has our own fields besides the client's, which were counted when it came.
            .max_headers(limits.header_fields + OUR_FIELDS)
            .max_header_size(limits.header_bytes + OUR_BYTES)
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
    ((socket, unread), ended)
}

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
    let mut watch = Watch::default();
    let mut stall = Stall::default();
    let mut draining = std::pin::pin!(peer.worker.drain.cancelled());
    let mut is_draining = false;
    poll_fn(|cx| {
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
        }
        match engine.poll_without_shutdown(cx) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    debug!(client = %peer.address, %error, "connection ended");
                }
                return Poll::Ready(match desk.tunnel.take() {
                    Some(tunnel) => Ended::Switched(tunnel),
                    None => Ended::Closed,
                });
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
            return stall.poll(cx, signals, limits.idle).map(|()| Ended::Closed);
        }
        Poll::Pending
    })
    .await
}

/// Measures how long a client has not read what there is for it.
///
/// Nobody asks the response for more meanwhile, so its own deadline would not be noticed: it is looked at here. Without
/// one, a client that reads nothing for as long as a connection may idle is given up.
#[derive(Default)]
struct Stall {
    since: Option<Instant>,
    writes: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
        signals: &Signals,
        limit: Duration,
    ) -> Poll<()> {
        let now = Instant::now();
        if self.since.is_none() || self.writes != signals.writes.get() {
            self.since = Some(now);
            self.writes = signals.writes.get();
        }
        let idle = self.since.unwrap_or(now) + limit;
        let due = signals.due.get().map_or(idle, |due| due.min(idle));
        if due <= now {
            return Poll::Ready(());
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        timer.as_mut().reset(due);
        timer.as_mut().poll(cx)
    }
}

/// Measures how long a state lasts, with one timer per connection that is not touched while requests run.
#[derive(Default)]
struct Watch {
    since: Option<(Instant, Duration)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    fn reset(&mut self) {
        self.since = None;
    }

    /// Ready when the state that may last `limit` has lasted that long.
    fn poll(&mut self, cx: &mut std::task::Context<'_>, limit: Duration) -> Poll<()> {
        let since = match self.since {
            Some((since, same)) if same == limit => since,
            _ => Instant::now(),
        };
        self.since = Some((since, limit));
        let due = since + limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        // A timer set for earlier fires once too often; that is cheaper than setting it for every request.
        if timer.deadline() > due || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        loop {
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= due => return Poll::Ready(()),
                Poll::Ready(()) => timer.as_mut().reset(due),
            }
        }
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
        let begun = match resumed {
            Some(Resume::Admitted(job, permit)) => {
                // What frames the message on this connection came with the replay; it is not passed on.
                headers::remove_from_request(&mut head.headers, head.version);
                Begin::Forward(job, permit)
            }
            Some(Resume::Answer(job, failure)) => {
                Begin::Answer(Asked::of(&head).respond(&failure, job.observation))
            }
            None => exchange::begin(&self.peer, &mut head),
        };
        match begun {
            Begin::Answer(response) => Box::pin(ready(Ok(response))),
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
                    let asked = Asked::of(&head);
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

enum Wake {
    Readable,
    Close,
}

/// Waits on the bare socket for the next request.
async fn dormant(peer: &Peer, stream: &TcpStream) -> Wake {
    // Looked at rather than told: the reactor's word may be older than what the engine has read since.
    let mut first = [0; 1];
    tokio::select! {
        biased; // a request that is there is served
        seen = stream.peek(&mut first) => match seen {
            Ok(0) | Err(_) => Wake::Close,
            Ok(_) => Wake::Readable,
        },
        () = tokio::time::sleep(peer.worker.limits.idle) => Wake::Close,
        () = drained(&peer.worker.drain) => Wake::Close,
    }
}

/// A parked request that goes on: its bytes for a new engine, and what it finds there.
struct Replay {
    stream: TcpStream,
    bytes: Bytes,
    resume: Resume,
}

/// Waits without an engine until the request is admitted or turned away. `None`: the client left.
async fn parked(peer: &Peer, waiting: Waiting, stream: TcpStream, unread: Bytes) -> Option<Replay> {
    let Waiting {
        mut job,
        mut ticket,
        head,
    } = waiting;
    let since = Instant::now();
    let due = job.due().unwrap_or_else(|| since + FAR);
    let mut ahead = ReadAhead {
        bytes: BytesMut::from(&unread[..]),
        bound: peer.worker.limits.read_ahead,
        is_full: false,
    };
    drop(unread);
    if ticket.grow(ahead.bytes.len()).is_err() {
        ahead.is_full = true;
    }
    let mut stream = stream;
    let mut late = std::pin::pin!(tokio::time::sleep_until(due));
    let decided = loop {
        tokio::select! {
            biased; // a permit that is there wins over a client that left: the replay will notice
            granted = &mut ticket => break granted.map_err(Failure::Refused),
            () = &mut late => break Err(Failure::TimedOut),
            more = ahead.read(&mut stream) => match more {
                Ok(More::Bytes(read)) => ahead.is_full = ticket.grow(read).is_err(),
                Ok(More::Gone) | Err(_) => return None,
            },
        }
    };
    job.observation.parked(since.elapsed());
    let job_framing = job.framing;
    let resume = match decided {
        Ok(permit) => Resume::Admitted(job, permit),
        Err(failure) => Resume::Answer(job, failure),
    };
    let mut wire = Vec::with_capacity(head.len() + ahead.bytes.len() + 64);
    head.write_http1(&mut wire, job_framing.fields());
    wire.extend_from_slice(&ahead.bytes);
    let stream = if ahead.is_full {
        register_anew(stream).ok()?
    } else {
        stream
    };
    Some(Replay {
        stream,
        bytes: wire.into(),
        resume,
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
    /// # Cancel safety
    ///
    /// Nothing is lost when dropped: bytes read are in the buffer before the future is ready.
    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<More> {
        if self.is_full || self.bytes.len() >= self.bound {
            self.is_full = true;
            closed(stream).await?;
            return Ok(More::Gone);
        }
        // No memory is set aside before there is something to read.
        stream.readable().await?;
        self.bytes.reserve(READ_AHEAD_STEP);
        let mut room =
            (&mut *stream).take(u64::try_from(self.bound - self.bytes.len()).unwrap_or(u64::MAX));
        match room.read_buf(&mut self.bytes).await? {
            0 => Ok(More::Gone),
            read => Ok(More::Bytes(read)),
        }
    }
}

const READ_AHEAD_STEP: usize = 2 * 1024;

/// Waits until the client has ended its sending side, without reading what it sent.
///
/// Clears the socket's readiness on the way, so that the next event is a new one: use [`register_anew`] before reading
/// from the socket again.
async fn closed(stream: &TcpStream) -> io::Result<()> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        if ready.is_read_closed() {
            return Ok(());
        }
        let cleared: io::Result<()> =
            stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
        if let Err(error) = cleared
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
    }
}

/// Registers the socket with the reactor again, which reports what is there to read as news.
fn register_anew(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// How long a client may take to take the reason for its connection's end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says why the connection is closed, as far as the client listens.
async fn answer_408(mut stream: TcpStream) {
    let answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // A client that does not even read this is not waited for.
    match tokio::time::timeout(LAST_WORDS, stream.write_all(answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "the client did not take the 408"),
        Err(_elapsed) => debug!("the client did not take the 408"),
    }
}
