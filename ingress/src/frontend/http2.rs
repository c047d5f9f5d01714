//! HTTP/2 connections, on the `h2` crate directly: all streams of a connection run in its own task.
//!
//! A stream is a small future. While its request is parked that is all there is: a packed head, a place in the queue and
//! the stream's handles; forwarding begins its own future only with a permit.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
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
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use super::connection::Peer;
use super::exchange::{self, Begin};
use super::input::Input;
use super::respond::Asked;
use crate::proxy::body::RequestBody;
use crate::proxy::failure::Failure;
use crate::proxy::forward::{Job, Outcome, Waiting};
use crate::proxy::held::Held;
use crate::proxy::send::pump;

/// Serves one HTTP/2 connection until it ends. `before` begins with the preface.
pub(super) async fn serve(peer: Rc<Peer>, stream: TcpStream, before: Bytes) {
    let limits = &peer.worker.limits;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_SEND_BUFFER);
    let input = Input::new(before, stream, Rc::default());
    match tokio::time::timeout(limits.header_read, builder.handshake::<_, Bytes>(input)).await {
        Ok(Ok(connection)) => drive(&peer, connection).await,
        Ok(Err(error)) => debug!(client = %peer.address, %error, "handshake failed"),
        Err(_elapsed) => debug!(client = %peer.address, "handshake took too long"),
    }
}

/// Response bytes of one stream that may wait in memory beyond the client's window.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Accepts streams and runs them until the connection is closed, idles too long, or has been drained.
async fn drive(peer: &Rc<Peer>, mut connection: Connection<Input, Bytes>) {
    let mut streams: FuturesUnordered<Stream> = FuturesUnordered::new();
    let mut draining = std::pin::pin!(peer.worker.drain.cancelled());
    let mut is_draining = false;
    let mut idle = Idle::new(peer);
    loop {
        let accepted = poll_fn(|cx| {
            if !is_draining && draining.as_mut().poll(cx).is_ready() {
                is_draining = true;
                connection.graceful_shutdown();
            }
            // Streams first: what they write, the connection flushes in the same turn.
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {}
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
            if streams.is_empty() && !is_draining && idle.poll(cx).is_ready() {
                is_draining = true;
                connection.graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        match accepted {
            Some(Ok((request, respond))) => {
                idle.is_over();
                streams.push(Stream::begin(Rc::clone(peer), request, respond));
            }
            Some(Err(error)) => {
                debug!(client = %peer.address, %error, "connection ended");
                return;
            }
            None => return,
        }
    }
}

/// Measures how long a connection has had no stream; its timer is not touched while there are some.
struct Idle {
    limit: Duration,
    /// Since when there is no stream; `None` while there are some.
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(peer: &Peer) -> Self {
        let limit = peer.worker.limits.idle;
        Self {
            limit,
            since: None,
            timer: Box::pin(tokio::time::sleep(limit)),
        }
    }

    /// A stream begins.
    fn is_over(&mut self) {
        self.since = None;
    }

    /// Ready when there has been no stream for the limit. Asked only while there is none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.limit;
        loop {
            match self.timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= due => return Poll::Ready(()),
                Poll::Ready(()) => self.timer.as_mut().reset(due),
            }
        }
    }
}

/// One stream, from its head to its end.
enum Stream {
    Parked(Box<Parked>),
    Running(LocalBoxFuture<'static, Option<Box<Parked>>>),
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
            }
        };
        match exchange::begin(&peer, &mut head) {
            Begin::Answer(response) => Self::Running(Box::pin(async move {
                answer(respond, response).await;
                None
            })),
            Begin::Forward(job, permit) => {
                Self::Running(Box::pin(run(peer, job, permit, head, body, respond)))
            }
            Begin::Parked(waiting) => Self::Parked(Parked::new(peer, *waiting, body, respond)),
        }
    }
}

impl Future for Stream {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut *self {
                Self::Parked(parked) => match parked.poll_end(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(ParkingEnd::Gone) => return Poll::Ready(()),
                    Poll::Ready(ParkingEnd::Decided(decided)) => parked.leave(decided),
                },
                Self::Running(running) => match running.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(parked)) => Some(Self::Parked(parked)),
                },
            };
            match next {
                Some(next) => *self = next,
                None => return Poll::Ready(()),
            }
        }
    }
}

/// A stream whose request waits for an endpoint.
struct Parked {
    since: Instant,
    late: Pin<Box<Sleep>>,
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
        let since = Instant::now();
        let due = waiting.job.due().unwrap_or(since);
        Box::new(Self {
            since,
            late: Box::pin(tokio::time::sleep_until(due)),
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
        if self.late.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ParkingEnd::Decided(Err(Failure::TimedOut)));
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
        job.observation.parked(self.since.elapsed());
        let head = head.unpack()?;
        Some(match decided {
            Ok(permit) => Stream::Running(Box::pin(run(peer, job, permit, head, body, respond))),
            Err(failure) => {
                let response = Asked::of(&head).respond(&failure, job.observation);
                Stream::Running(Box::pin(async move {
                    answer(respond, response).await;
                    None
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
) -> Option<Box<Parked>> {
    let asked = Asked::of(&head);
    if head.headers.contains_key(header::EXPECT) {
        let mut goes_on = Response::new(());
        *goes_on.status_mut() = StatusCode::CONTINUE;
        // A client that is gone is noticed below.
        respond.send_informational(goes_on).unwrap_or_default();
    }
    let outcome = {
        let mut forward =
            std::pin::pin!(peer.worker.forwarder.forward(job, permit, head, body, None));
        poll_fn(|cx| match forward.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            // A client that resets its stream ends the request at the endpoint too.
            Poll::Pending => respond.poll_reset(cx).map(|_reset| None),
        })
        .await?
    };
    match outcome {
        Outcome::Answered(response) => answer(respond, response).await,
        Outcome::Failed(failure, observation) => {
            answer(respond, asked.respond(&failure, observation)).await;
        }
        Outcome::Parked(waiting, body) => {
            let mut parked = Parked::new(Rc::clone(&peer), *waiting, body, respond);
            parked.ahead = Ahead::Modestly;
            return Some(parked);
        }
        Outcome::Switched(..) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
    None
}

/// Sends a response and its body.
async fn answer(mut respond: SendResponse<Bytes>, response: Response<Held>) {
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
    if let Err(error) = pump(body, &mut stream).await {
        debug!(%error, "response broke off");
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
}
