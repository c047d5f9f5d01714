//! HTTP/2 connections, on the `h2` crate directly: all streams of a connection run in its own task.
//!
//! A stream is a small future. While its request is parked that is all there is: a packed head, a place in the queue and
//! the stream's handles; forwarding begins its own future only with a permit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use parkway_activator::throttler::Permit;
use tokio::time::Instant;
use tracing::debug;

use super::connection::Peer;
use super::exchange::{self, Begin};
use super::input::Signals;
use super::lent::Lent;
use super::lingering;
use super::respond::Asked;
use super::stall::Stall;
use super::stream::ClientStream;
use super::websocket;
use crate::config::Limits;
use crate::proxy::body::{BodyError, BusyGuard, Inbound, RequestBody};
use crate::proxy::failure::Failure;
use crate::proxy::forward::{Job, Outcome, Waiting};
use crate::proxy::held::Held;
use crate::proxy::send::{Outflow, pump};
use crate::proxy::sweep::Alarm;

/// Serves one HTTP/2 connection until it ends. `before` begins with the preface.
pub(super) async fn serve(peer: Rc<Peer>, stream: ClientStream, before: Bytes) {
    let limits = &peer.worker.limits;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_local_error_reset_streams(Some(limits.h2_stream_errors))
        .enable_connect_protocol()
        .max_send_buffer_size(limits.h2_send_buffer);
    let (input, lender) = Lent::new(before, stream);
    // On the heap, each for itself: what the handshake needs is gone when it is over.
    let handshake = Box::pin(builder.handshake::<_, Bytes>(input));
    let connection = match tokio::time::timeout(limits.header_read, handshake).await {
        Ok(Ok(connection)) => Box::new(connection),
        Ok(Err(error)) => return debug!(client = %peer.address, %error, "handshake failed"),
        Err(_elapsed) => return debug!(client = %peer.address, "handshake took too long"),
    };
    if drive(&peer, connection, lender.signals()).await == Last::Error
        && let Some(stream) = lender.back()
    {
        // What it still sends would take away from the client what it was told.
        Box::pin(lingering::close(stream, peer.worker.limits.lingering)).await;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// By an error: the client was told, and may not have heard yet.
    Error,
    /// In order, or because the client does not react.
    Other,
}

/// Accepts streams and runs them until the connection is closed, idles too long, is not read from, or has been drained.
async fn drive(
    peer: &Rc<Peer>,
    mut connection: Box<Connection<Lent, Bytes>>,
    signals: &Signals,
) -> Last {
    let limits = &peer.worker.limits;
    let mut streams: FuturesUnordered<Stream> = FuturesUnordered::new();
    let mut stall = Stall::new(peer);
    let mut resets = Resets::default();
    let mut is_draining = false;
    let mut last = Last::Other;
    let mut idle = Idle::new(peer);
    loop {
        let accepted = poll_fn(|cx| {
            if !is_draining && peer.drain.has_begun(cx) {
                is_draining = true;
                idle.is_over();
                connection.graceful_shutdown();
            }
            // Streams first: what they write, the connection flushes in the same turn.
            while let Poll::Ready(Some(end)) = streams.poll_next_unpin(cx) {
                if end == End::Reset && resets.are_too_many(limits) {
                    debug!(client = %peer.address, "too many streams are reset");
                    streams.clear();
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    last = Last::Error;
                }
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
            if !signals.is_flushed.get() && stall.poll(cx, signals, limits.stall).is_ready() {
                last = Last::Other;
                return Poll::Ready(None);
            }
            if streams.is_empty() {
                let limit = if is_draining { GOODBYE } else { limits.idle };
                if idle.poll(cx, limit).is_ready() {
                    if is_draining {
                        // The client has had the time to agree, and did not.
                        return Poll::Ready(None);
                    }
                    is_draining = true;
                    idle.is_over();
                    connection.graceful_shutdown();
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await;
        match accepted {
            Some(Ok((request, respond))) => {
                idle.is_over();
                resets.begun = resets.begun.saturating_add(1);
                streams.push(Stream::begin(Rc::clone(peer), request, respond));
            }
            Some(Err(error)) => {
                debug!(client = %peer.address, %error, "connection ended");
                return Last::Error;
            }
            None => return last,
        }
    }
}

/// Counts streams that the client resets before they are answered.
#[derive(Debug, Default)]
struct Resets {
    since: Option<Instant>,
    begun: u32,
    reset: u32,
}

impl Resets {
    /// Counts one more.
    fn are_too_many(&mut self, limits: &Limits) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) > Limits::RESET_WINDOW {
            *self = Self {
                since: Some(now),
                begun: 1,
                reset: 0,
            };
        }
        self.reset += 1;
        self.reset > limits.h2_resets && self.reset > self.begun / 2
    }
}

/// How long a client may take to agree to the end of a connection without streams.
const GOODBYE: Duration = Duration::from_secs(5);

/// Measures how long a connection has had no stream.
struct Idle {
    /// Since when there is no stream; `None` while there are some.
    since: Option<Instant>,
    alarm: Alarm,
}

impl Idle {
    fn new(peer: &Peer) -> Self {
        Self {
            since: None,
            alarm: peer.alarm(),
        }
    }

    /// A stream begins.
    fn is_over(&mut self) {
        if self.since.take().is_some() {
            self.alarm.clear();
        }
    }

    /// Ready when there has been no stream for the limit. Asked only while there is none.
    fn poll(&mut self, cx: &Context<'_>, limit: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.alarm.poll_due(cx, since + limit)
    }
}

/// One stream, from its head to its end.
pub(super) enum Stream {
    Parked(Box<Parked>),
    Running(LocalBoxFuture<'static, After>),
}

/// What comes after a request has run.
pub(super) enum After {
    Ended(End),
    /// No endpoint has answered, and it waits again.
    Parked(Box<Parked>),
    /// It goes on as a tunnel, and what forwarding took is free.
    Tunnel(LocalBoxFuture<'static, Self>),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With an answer, whole or not.
    Answered,
    /// Its client reset it before, or left.
    Reset,
}

impl Stream {
    fn begin(peer: Rc<Peer>, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (mut head, stream) = request.into_parts();
        let body = if stream.is_end_stream() {
            RequestBody::Empty
        } else {
            RequestBody::Http2 {
                ahead: VecDeque::new(),
                stream,
                connection: None,
            }
        };
        websocket::translate(&mut head);
        match exchange::begin(&peer, &mut head) {
            Begin::Answer(response) => Self::Running(Box::pin(async move {
                answer(respond, response, None).await;
                After::Ended(End::Answered)
            })),
            Begin::Forward(job, permit) => {
                Self::Running(Box::pin(run(peer, job, permit, head, body, respond)))
            }
            Begin::Parked(waiting) => Self::Parked(Parked::new(peer, *waiting, body, respond)),
        }
    }
}

impl Future for Stream {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let next = match &mut *self {
                Self::Parked(parked) => match ready!(parked.poll_end(cx)) {
                    ParkingEnd::Gone => return Poll::Ready(End::Reset),
                    ParkingEnd::Decided(decided) => parked.leave(decided),
                },
                Self::Running(running) => match ready!(running.as_mut().poll(cx)) {
                    After::Ended(end) => return Poll::Ready(end),
                    After::Parked(parked) => Some(Self::Parked(parked)),
                    After::Tunnel(tunnel) => Some(Self::Running(tunnel)),
                },
            };
            match next {
                Some(next) => *self = next,
                None => return Poll::Ready(End::Reset),
            }
        }
    }
}

/// A stream whose request waits for an endpoint.
pub(super) struct Parked {
    late: Alarm,
    ahead: Ahead,
    state: Option<ParkedState>,
}

struct ParkedState {
    peer: Rc<Peer>,
    waiting: Waiting,
    body: RequestBody,
    respond: SendResponse<Bytes>,
}

/// How a body is read ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// A newcomer that needs more than the queue may hold is turned away.
    Strictly,
    /// A request that is sent again is not: it is read no further.
    Modestly,
    /// As far as it may be.
    Enough,
}

enum ParkingEnd {
    /// The client reset the stream or left.
    Gone,
    /// The request goes on, or is turned away.
    Decided(Result<Permit, Failure>),
}

impl Parked {
    fn new(
        peer: Rc<Peer>,
        waiting: Waiting,
        body: RequestBody,
        respond: SendResponse<Bytes>,
    ) -> Box<Self> {
        Box::new(Self {
            late: peer.alarm(),
            ahead: Ahead::Strictly,
            state: Some(ParkedState {
                peer,
                waiting,
                body,
                respond,
            }),
        })
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<ParkingEnd> {
        let Some(state) = &mut self.state else {
            return Poll::Ready(ParkingEnd::Gone);
        };
        if let Poll::Ready(granted) = Pin::new(&mut state.waiting.ticket).poll(cx) {
            return Poll::Ready(ParkingEnd::Decided(granted.map_err(Failure::Refused)));
        }
        if state.respond.poll_reset(cx).is_ready() {
            return Poll::Ready(ParkingEnd::Gone);
        }
        if let Some(due) = state.waiting.due()
            && self.late.poll_due(cx, due).is_ready()
        {
            return Poll::Ready(ParkingEnd::Decided(Err(state.waiting.late())));
        }
        // The window is not given back, so a client can send no more than one window ahead.
        while self.ahead != Ahead::Enough
            && let Poll::Ready(Some(read)) = state.body.poll_ahead(cx)
        {
            let Ok(read) = read else {
                return Poll::Ready(ParkingEnd::Gone);
            };
            if let Err(bound) = state.waiting.ticket.grow(read) {
                if self.ahead == Ahead::Modestly {
                    self.ahead = Ahead::Enough;
                    break;
                }
                let refusal = state.waiting.ticket.refusal(bound);
                return Poll::Ready(ParkingEnd::Decided(Err(refusal.into())));
            }
        }
        Poll::Pending
    }

    /// Ends the parking: with a permit the request runs, else it is answered.
    fn leave(&mut self, decided: Result<Permit, Failure>) -> Option<Stream> {
        let ParkedState {
            peer,
            waiting,
            body,
            respond,
        } = self.state.take()?;
        let Waiting {
            mut job,
            ticket,
            head,
        } = waiting;
        drop(ticket);
        job.observation.goes_on();
        let head = head.unpack()?;
        Some(match decided {
            Ok(permit) => Stream::Running(Box::pin(run(peer, job, permit, head, body, respond))),
            Err(failure) => {
                peer.worker.demand.outlasts(&mut job, &failure);
                let response = Asked::of(&peer, &head).respond(&failure, job.observation);
                Stream::Running(Box::pin(async move {
                    answer(respond, response, None).await;
                    After::Ended(End::Answered)
                }))
            }
        })
    }
}

/// Forwards a request that has its permit. Gives it back when it has to be parked again.
async fn run(
    peer: Rc<Peer>,
    job: Job,
    permit: Permit,
    head: http::request::Parts,
    body: RequestBody,
    mut respond: SendResponse<Bytes>,
) -> After {
    let asked = Asked::of(&peer, &head);
    let line = Rc::new(Line::default());
    line.expects_continue
        .set(head.headers.contains_key(header::EXPECT));
    // On a stream that asks for a WebSocket comes no body: it waits until the endpoint has agreed.
    let (body, mut bytes) = match job.must_switch {
        false => (body.told_to(&line), None),
        true => (RequestBody::Empty, Some(body)),
    };
    let outcome = {
        let busy: BusyGuard = line.clone();
        let forwarder = &peer.worker.forwarder;
        let mut forward = std::pin::pin!(forwarder.forward(job, permit, head, body, Some(busy)));
        poll_fn(|cx| {
            let outcome = forward.as_mut().poll(cx);
            line.say_continue(&mut respond, cx);
            match outcome {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                // A client that resets its stream ends the request at the endpoint too.
                Poll::Pending => respond.poll_reset(cx).map(|_reset| None),
            }
        })
        .await
    };
    let Some(outcome) = outcome else {
        return After::Ended(End::Reset);
    };
    match outcome {
        Outcome::Answered(response) => answer(respond, response, Some((&peer, &line))).await,
        Outcome::Failed(failure, observation) => {
            answer(respond, asked.respond(&failure, observation), None).await;
        }
        Outcome::Parked(waiting, body) => {
            let body = bytes.take().unwrap_or(body);
            let mut parked = Parked::new(Rc::clone(&peer), *waiting, body, respond);
            parked.ahead = Ahead::Modestly;
            return After::Parked(parked);
        }
        Outcome::Switched(response, tunnel) => {
            let bytes = bytes.take().unwrap_or(RequestBody::Empty);
            return After::Tunnel(Box::pin(async move {
                websocket::serve(respond, response, bytes, *tunnel).await;
                After::Ended(End::Answered)
            }));
        }
    }
    After::Ended(End::Answered)
}

/// What the body of a request and its response tell the task of its stream.
#[derive(Debug, Default)]
struct Line {
    /// The client waits for `100 Continue`.
    expects_continue: Cell<bool>,
    /// Somebody wants the request's body.
    is_wanted: Cell<bool>,
    /// When the response may take no longer.
    due: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
}

impl Line {
    /// Passes `100 Continue` on once the endpoint has asked for the body.
    fn say_continue(&self, respond: &mut SendResponse<Bytes>, cx: &Context<'_>) {
        if !self.expects_continue.get() {
            return;
        }
        if !self.is_wanted.get() {
            self.task.replace(Some(cx.waker().clone()));
            return;
        }
        self.expects_continue.set(false);
        let mut goes_on = Response::new(());
        *goes_on.status_mut() = StatusCode::CONTINUE;
        // A client that is gone is noticed elsewhere.
        respond.send_informational(goes_on).unwrap_or_default();
    }
}

impl Inbound for Line {
    fn deliver(&self) {
        if !self.is_wanted.replace(true)
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
    }

    fn due(&self, due: Option<Instant>) {
        self.due.set(due);
    }
}

/// Sends a response and its body; cut when it is due, also while the client takes nothing of it.
async fn answer(
    mut respond: SendResponse<Bytes>,
    response: Response<Held>,
    line: Option<(&Peer, &Line)>,
) {
    let (head, body) = response.into_parts();
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response.headers_mut().remove(header::CONNECTION);
    let ends = body.is_end_stream();
    let mut stream = match respond.send_response(response, ends) {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "the client did not take the response");
            return;
        }
    };
    if ends {
        return;
    }
    let outflow = Outflow::default();
    let sent = {
        let mut sending = std::pin::pin!(pump(body, &mut stream, &outflow));
        let mut late = line.map(|(peer, line)| Late::new(peer, line));
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            match &mut late {
                Some(late) => late.poll(cx, &outflow).map(Err),
                None => Poll::Pending,
            }
        })
        .await
    };
    if let Err(error) = sent {
        debug!(%error, "response broke off");
        stream.send_reset(match error {
            BodyError::Stalled => Reason::ENHANCE_YOUR_CALM,
            _ => Reason::INTERNAL_ERROR,
        });
    }
}

/// Measures whether a response takes too long, also while its client takes nothing of it.
struct Late<'a> {
    line: &'a Line,
    limit: Duration,
    /// How many pieces had gone when the client began to take nothing.
    since: Option<(u64, Instant)>,
    alarm: Alarm,
}

impl<'a> Late<'a> {
    fn new(peer: &Peer, line: &'a Line) -> Self {
        Self {
            line,
            limit: peer.worker.limits.stall,
            since: None,
            alarm: peer.alarm(),
        }
    }

    /// Ready with what is wrong.
    fn poll(&mut self, cx: &Context<'_>, outflow: &Outflow) -> Poll<BodyError> {
        let stalled = outflow.blocked_at().map(|pieces| {
            let since = self.since.filter(|(before, _)| *before == pieces);
            let since = since.unwrap_or_else(|| (pieces, Instant::now()));
            self.since = Some(since);
            since.1 + self.limit
        });
        let (due, error) = match (stalled, self.line.due.get()) {
            (Some(stalled), None) => (stalled, BodyError::Stalled),
            (Some(stalled), Some(due)) if stalled < due => (stalled, BodyError::Stalled),
            (_, Some(due)) => (due, BodyError::TimedOut),
            (None, None) => return Poll::Pending,
        };
        self.alarm.poll_due(cx, due).map(|()| error)
    }
}
