//! Bodies as they stream through: in from a client, out to an endpoint, back again, whatever the protocols.
//!
//! A request body is read once from the client ([`RequestBody`]) and may be sent more than once ([`Replay`]): what was
//! read is kept up to a bound until the response begins. A response body ([`ResponseBody`]) is what a connection to an
//! endpoint gives, or a local answer. Both pass frames on as they come; neither collects.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

pub use self::ahead::Ahead;
use super::http1::answer::{BrokenAnswer, Http1Answer};
use super::pace::Pace;
use crate::routing::headers;

/// Why a body could not be passed on to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The HTTP/1 engine's reason.
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    /// An endpoint's response by HTTP/1 broke off.
    #[error("{0}")]
    Answer(#[from] BrokenAnswer),
    /// The HTTP/2 engine's reason.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// An answer of our own could not be produced.
    #[error("{0}")]
    Local(#[source] axum::Error),
    /// The Revision's total or idle timeout passed after the response had begun.
    #[error("the request timed out after its response had begun")]
    TimedOut,
    /// The client has taken nothing of the response for too long.
    #[error("the client takes nothing of the response")]
    Stalled,
    /// A newer attempt to send the request took the body over.
    #[error("the request is being sent again")]
    Superseded,
    /// The client sends the request too slowly.
    #[error("the client sends the request too slowly")]
    TooSlow,
}

/// The body of a request as it comes from a client.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// From an HTTP/1 connection.
    Http1(Http1Body),
    /// From an HTTP/2 stream.
    Http2 {
        /// What was read while the request was parked; its window has not been given back yet.
        ahead: VecDeque<Bytes>,
        /// The rest.
        stream: h2::RecvStream,
        /// Is told when the body is wanted.
        connection: Option<BusyGuard>,
    },
}

/// Keeps an HTTP/1 connection marked as busy until dropped.
pub type BusyGuard = Rc<dyn Inbound>;

/// An HTTP/1 connection that carries a body.
pub trait Inbound: std::fmt::Debug {
    /// The body may be read: somebody wants it, or nobody ever will.
    fn deliver(&self);

    /// When the response that is being written may take no longer; `None` when it has ended or there is no such time.
    ///
    /// The response's own timer runs only while somebody polls its body, which nobody does while the client does not
    /// read.
    fn due(&self, due: Option<Instant>);
}

/// A body that an HTTP/1 connection withholds until it is asked for, so that until then the request can be replayed from
/// the connection's bytes.
#[derive(Debug)]
pub struct Http1Body {
    body: Incoming,
    /// Keeps the connection from being taken apart while the body is unread.
    connection: BusyGuard,
}

impl Http1Body {
    /// `body` as `connection` carries it.
    pub fn new(body: Incoming, connection: BusyGuard) -> Self {
        Self { body, connection }
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        self.connection.deliver();
    }
}

impl RequestBody {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(http1) => http1.body.is_end_stream(),
            Self::Http2 { ahead, stream, .. } => ahead.is_empty() && stream.is_end_stream(),
        }
    }

    /// The body, which tells `connection` when it is wanted; one from HTTP/1 has been given its connection already.
    #[must_use]
    pub fn told_to<C: Inbound + 'static>(mut self, connection: &Rc<C>) -> Self {
        if let Self::Http2 {
            connection: told, ..
        } = &mut self
        {
            let connection: BusyGuard = Rc::clone(connection) as BusyGuard;
            *told = Some(connection);
        }
        self
    }

    /// Reads a piece ahead while the request is parked, without giving its window back. Ready with its length, or with
    /// `None` when there is nothing more to read ahead.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<usize, BodyError>>> {
        let Self::Http2 { ahead, stream, .. } = self else {
            return Poll::Ready(None);
        };
        let read = ready!(stream.poll_data(cx));
        Poll::Ready(read.map(|data| {
            let data = data?;
            let length = data.len();
            ahead.push_back(data);
            Ok(length)
        }))
    }

    /// The next piece, with its window given back.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(http1) => {
                http1.connection.deliver();
                Pin::new(&mut http1.body)
                    .poll_frame(cx)
                    .map_err(BodyError::Http1)
            }
            Self::Http2 {
                ahead,
                stream,
                connection,
            } => {
                if let Some(connection) = connection {
                    connection.deliver();
                }
                match ahead.pop_front() {
                    Some(data) => Poll::Ready(Some(released(data, stream))),
                    None => poll_h2_frame(stream, cx),
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(http1) => http1.body.size_hint(),
            Self::Http2 { .. } if self.is_empty() => SizeHint::with_exact(0),
            Self::Http2 { .. } => SizeHint::default(),
        }
    }
}

/// A piece of an HTTP/2 body that goes on: its window is given back.
fn released(data: Bytes, stream: &mut h2::RecvStream) -> Result<Frame<Bytes>, BodyError> {
    stream.flow_control().release_capacity(data.len())?;
    Ok(Frame::data(data))
}

/// Takes the next frame of an HTTP/2 stream and gives its window back.
fn poll_h2_frame(
    body: &mut h2::RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    if let Some(data) = ready!(body.poll_data(cx)) {
        return Poll::Ready(Some(
            data.map_err(BodyError::Http2)
                .and_then(|data| released(data, body)),
        ));
    }
    match ready!(body.poll_trailers(cx)) {
        Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
        Ok(None) => Poll::Ready(None),
        Err(error) => Poll::Ready(Some(Err(BodyError::Http2(error)))),
    }
}

/// A request body that can be sent again while all that was read of it fits the replay bound.
///
/// Cloning gives another handle of the same body.
#[derive(Clone, Debug)]
pub struct Replay(Rc<RefCell<Source>>);

#[derive(Debug)]
struct Source {
    body: RequestBody,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    kept_bytes: usize,
    bound: usize,
    attempt: u32,
    is_touched: bool,
    is_ended: bool,
    /// Something read is no longer kept: the body cannot be sent from its start again.
    is_gone: bool,
    client_failed: bool,
    /// How long the client may be waited for, if that is bounded.
    pace: Option<Pace>,
    is_too_slow: bool,
    /// Who reads at this moment and has found nothing.
    reader: Option<Waker>,
}

/// Pieces of a body that are kept at most: each costs some memory of its own, however short it is.
const PIECES: usize = 1_024;

/// What is left of a request body for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There is no body.
    Empty,
    /// Nothing was read yet, or all that was read is kept.
    Whole,
    /// A part that was read is not kept.
    Gone,
}

impl Replay {
    /// Wraps `body`, of which at most `bound` bytes are kept.
    pub fn new(body: RequestBody, bound: usize) -> Self {
        Self(Rc::new(RefCell::new(Source {
            body,
            kept: Vec::new(),
            trailers: None,
            kept_bytes: 0,
            bound,
            attempt: 0,
            is_touched: false,
            is_ended: false,
            is_gone: false,
            client_failed: false,
            pace: None,
            is_too_slow: false,
            reader: None,
        })))
    }

    /// The same from a client that may be waited for no longer than this, until the response begins.
    #[must_use]
    pub fn paced(self, pace: Option<Pace>) -> Self {
        self.0.borrow_mut().pace = pace;
        self
    }

    /// The body for the next attempt, from its start. Earlier attempts get [`BodyError::Superseded`].
    pub fn attempt(&self, gate: Option<ContinueGate>) -> AttemptBody {
        let mut source = self.0.borrow_mut();
        source.attempt += 1;
        AttemptBody {
            source: Rc::clone(&self.0),
            attempt: source.attempt,
            next: 0,
            trailers_sent: false,
            gate,
        }
    }

    /// What is left for another attempt.
    pub fn left(&self) -> Left {
        let source = self.0.borrow();
        if source.is_gone {
            Left::Gone
        } else if !source.is_touched && source.body.is_empty() {
            Left::Empty
        } else {
            Left::Whole
        }
    }

    /// Whether reading from the client failed: the request is the client's loss, not the endpoint's.
    pub fn client_failed(&self) -> bool {
        self.0.borrow().client_failed
    }

    /// Whether that was because it sends too slowly.
    pub fn is_too_slow(&self) -> bool {
        self.0.borrow().is_too_slow
    }

    /// The body as it came, if nothing was read from the client yet. Attempts get nothing more.
    pub fn take_untouched(&self) -> Option<RequestBody> {
        let mut source = self.0.borrow_mut();
        if source.is_touched {
            return None;
        }
        source.attempt += 1;
        source.is_ended = true;
        Some(std::mem::replace(&mut source.body, RequestBody::Empty))
    }

    /// Ends all attempts there are, before the next one begins: whoever still sends the body gets
    /// [`BodyError::Superseded`].
    pub fn supersede(&self) {
        let reader = {
            let mut source = self.0.borrow_mut();
            source.attempt += 1;
            source.reader.take()
        };
        // Outside the borrow: it may run code of others.
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether nothing was read from the client yet.
    pub fn is_untouched(&self) -> bool {
        !self.0.borrow().is_touched
    }

    /// How many bytes of it were read from the client.
    pub fn read_bytes(&self) -> usize {
        self.0.borrow().kept_bytes
    }

    /// Whether all of it was read from the client.
    pub fn is_ended(&self) -> bool {
        let source = self.0.borrow();
        source.is_ended || source.body.is_empty()
    }

    /// Ends the body where it is: whoever sends it gets [`BodyError::Superseded`], and what the client still sends is
    /// nobody's any more.
    pub fn abandon(&self) {
        let (reader, body) = {
            let mut source = self.0.borrow_mut();
            source.attempt += 1;
            source.is_ended = true;
            source.is_gone = true;
            source.kept.clear();
            let body = std::mem::replace(&mut source.body, RequestBody::Empty);
            (source.reader.take(), body)
        };
        // Outside the borrow: both may run code of others.
        drop(body);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The response has begun: nothing needs to be kept any more.
    pub fn forget(&self) {
        let mut source = self.0.borrow_mut();
        source.is_gone = true;
        source.pace = None;
    }
}

/// The body of one attempt: first what earlier attempts read, then what still comes from the client.
#[derive(Debug)]
pub struct AttemptBody {
    source: Rc<RefCell<Source>>,
    attempt: u32,
    next: usize,
    trailers_sent: bool,
    gate: Option<ContinueGate>,
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(gate.poll_open(cx));
            this.gate = None;
        }
        let mut source = this.source.borrow_mut();
        if source.attempt != this.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = source.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.is_ended {
            return Poll::Ready(source.trailers_once(&mut this.trailers_sent));
        }
        source.is_touched = true;
        let Poll::Ready(read) = source.body.poll_frame(cx) else {
            if source.poll_too_slow(cx).is_ready() {
                return Poll::Ready(Some(Err(BodyError::TooSlow)));
            }
            source.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let (Some(pace), Some(Ok(frame))) = (&mut source.pace, &read) {
            pace.took(frame.data_ref().map_or(0, Bytes::len));
        }
        match read {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(source.keep(
                frame,
                &mut this.next,
                &mut this.trailers_sent,
            )))),
            Some(Err(error)) => {
                source.client_failed = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                source.is_ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        let all_sent = self.next >= source.kept.len();
        let no_trailers = self.trailers_sent || source.trailers.is_none();
        all_sent && no_trailers && (source.is_ended || source.body.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let kept: usize = source
            .kept
            .get(self.next..)
            .unwrap_or_default()
            .iter()
            .map(Bytes::len)
            .sum();
        let kept = u64::try_from(kept).unwrap_or(u64::MAX);
        let coming = if source.is_ended {
            SizeHint::with_exact(0)
        } else {
            source.body.size_hint()
        };
        match coming.exact() {
            Some(coming) => SizeHint::with_exact(coming + kept),
            None => SizeHint::default(),
        }
    }
}

impl Source {
    /// Ready when the client has been waited for too long, which is its failure.
    fn poll_too_slow(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(pace) = &mut self.pace else {
            return Poll::Pending;
        };
        ready!(pace.poll_over(cx));
        self.client_failed = true;
        self.is_too_slow = true;
        Poll::Ready(())
    }

    /// Notes a frame for a later attempt, as far as the bound allows.
    fn keep(
        &mut self,
        frame: Frame<Bytes>,
        next: &mut usize,
        trailers_sent: &mut bool,
    ) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => {
                self.kept_bytes += data.len();
                let is_too_much = self.kept_bytes > self.bound || self.kept.len() >= PIECES;
                if self.is_gone || is_too_much {
                    self.is_gone = true;
                    self.kept.clear();
                    *next = 0;
                } else {
                    self.kept.push(data.clone());
                    *next += 1;
                }
                Frame::data(data)
            }
            Err(frame) => {
                self.is_ended = true;
                *trailers_sent = true;
                let mut trailers = frame.into_trailers().unwrap_or_default();
                headers::keep_harmless(&mut trailers);
                self.trailers = Some(trailers.clone());
                Frame::trailers(trailers)
            }
        }
    }

    fn trailers_once(&self, sent: &mut bool) -> Option<Result<Frame<Bytes>, BodyError>> {
        if std::mem::replace(sent, true) {
            return None;
        }
        self.trailers
            .clone()
            .map(|trailers| Ok(Frame::trailers(trailers)))
    }
}

/// Holds a request body back until the endpoint said `100 Continue`, or a bounded time passed.
///
/// hyper's client does not wait by itself. Source of the wait: Go's `http.Transport.ExpectContinueTimeout`, which the
/// activator sets to 1 s (knative/pkg `network/transports.go`).
#[derive(Debug)]
pub struct ContinueGate {
    signal: Arc<ContinueSignal>,
    at_latest: Pin<Box<Sleep>>,
}

/// Opens a [`ContinueGate`]; may be called from where an engine reports informational responses.
#[derive(Debug, Default)]
pub struct ContinueSignal {
    is_open: AtomicBool,
    waker: AtomicWaker,
}

impl ContinueSignal {
    /// Lets the body go.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl ContinueGate {
    /// A gate that opens by itself at `at_latest`.
    pub fn new(at_latest: Instant) -> (Self, Arc<ContinueSignal>) {
        let signal = Arc::new(ContinueSignal::default());
        let gate = Self {
            signal: Arc::clone(&signal),
            at_latest: Box::pin(tokio::time::sleep_until(at_latest)),
        };
        (gate, signal)
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.signal.waker.register(cx.waker());
        if self.signal.is_open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.at_latest.as_mut().poll(cx)
    }
}

/// The body of a response as it comes from an endpoint or from ourselves.
#[derive(Debug)]
pub enum ResponseBody {
    /// No body.
    Empty,
    /// An answer of our own.
    Local(axum::body::Body),
    /// From an HTTP/1 endpoint.
    Http1(Http1Answer),
    /// From an HTTP/2 endpoint.
    Http2(h2::RecvStream),
    /// From an endpoint, and begun to be read.
    Ahead(Box<Ahead>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Local(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Local),
            Self::Http1(body) => body.poll_frame(cx).map_err(BodyError::Answer),
            Self::Http2(body) => poll_h2_frame(body, cx),
            Self::Ahead(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Ahead(body) => body.is_end_stream(),
            Self::Local(body) => body.is_end_stream(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Local(body) => body.size_hint(),
            Self::Http1(body) => body.size_hint(),
            Self::Ahead(body) => body.size_hint(),
            Self::Http2(body) if body.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(_) => SizeHint::default(),
        }
    }
}

mod ahead;
#[cfg(test)]
mod tests;
