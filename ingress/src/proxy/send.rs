//! One attempt: one request to one endpoint, by HTTP/1 or HTTP/2, up to its response head.
//!
//! The engines behind this seam can be exchanged: what goes in is a head and a body that can be replayed, what comes
//! out is a response head, its body, and the connection that carries it. A failure says what is known of how far the
//! request got, for `routing::retry` to decide on.

use std::cell::Cell;
use std::error::Error as StdError;
use std::future::{Future as _, poll_fn};
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri, Version, header};
use http_body::Body;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::body::{
    AttemptBody, BodyError, ContinueGate, ContinueSignal, Left, Replay, ResponseBody,
};
use super::http1::{Exchange, HeadBounds, INFORMATIONAL, MOST_FIELDS, Outgoing, Reply};
use super::observe::Observation;
use super::pool::{Http1Lease, Http2Lease, Pool};
use crate::config::Limits;
use crate::routing::retry::{Progress, Reason};
use crate::routing::websocket;

/// Why an attempt brought no response head.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No connection could be had within the time that the route gives. It says nothing about the endpoint.
    #[error("no connection within the route's timeout of connecting")]
    ConnectTooSlow,
    /// The endpoint has not begun with the request: the engine gave it back, the stream was refused, or the connection
    /// is going away and the stream is above the last one it serves (RFC 9113 section 6.8).
    #[error("the endpoint did not take the request: {0}")]
    NotStarted(#[source] Box<dyn StdError>),
    /// queue-proxy had no room for the request, and said so instead of passing it on.
    #[error("the endpoint has no room")]
    TurnedAway,
    /// Bytes were written to a connection kept from an earlier request, and it ended before a response head.
    #[error("the endpoint ended the connection before it answered: {0}")]
    MaybeStartedOnKept(#[source] Box<dyn StdError>),
    /// Bytes were written and the connection ended before a response head.
    #[error("the endpoint ended the connection before it answered: {0}")]
    MaybeStarted(#[source] Box<dyn StdError>),
    /// The route's timeout of an attempt passed without a response head.
    #[error("no response within the route's timeout of an attempt")]
    TooSlow,
    /// The endpoint answered, and the route wants the request sent again after this pause.
    #[error("the route does not want this answer: {}", .reason.label())]
    Unwanted {
        /// How long to wait before the next attempt.
        pause: Duration,
        /// Why.
        reason: Reason,
    },
    /// What came back is no response we can pass on.
    #[error("the endpoint sent an invalid response: {0}")]
    Invalid(#[source] Box<dyn StdError>),
    /// The client's body broke off.
    #[error("the client did not send the whole request")]
    Client,
}

impl SendError {
    /// How far the request may have got.
    pub fn progress(&self) -> Progress {
        match self {
            Self::Connect(_) | Self::ConnectTooSlow | Self::NotStarted(_) => Progress::NotStarted,
            Self::TurnedAway => Progress::TurnedAway,
            Self::MaybeStartedOnKept(_) => Progress::MaybeStartedOnKept,
            Self::MaybeStarted(_) => Progress::MaybeStarted,
            Self::TooSlow => Progress::TooSlow,
            Self::Unwanted { .. } | Self::Invalid(_) | Self::Client => Progress::ResponseBegun,
        }
    }

    /// What another attempt is counted by.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connect(_) | Self::ConnectTooSlow => Reason::Connect,
            Self::NotStarted(_) => Reason::NotTaken,
            Self::TurnedAway => Reason::TurnedAway,
            Self::MaybeStartedOnKept(_) => Reason::KeptLost,
            Self::MaybeStarted(_) | Self::Invalid(_) | Self::Client => Reason::Lost,
            Self::TooSlow => Reason::TooSlow,
            Self::Unwanted { reason, .. } => *reason,
        }
    }

    /// Whether the endpoint should be set aside until it accepts connections again.
    pub fn is_refusal(&self) -> bool {
        match self {
            // Out of ports or files on our side is not the endpoint's doing.
            Self::Connect(error) => !is_our_shortage(error),
            _ => false,
        }
    }
}

/// Whether connecting failed because files or ports have run out here.
pub(super) fn is_our_shortage(error: &io::Error) -> bool {
    /// `errno` values of a full file table (Linux `errno-base.h`).
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// A response head, its body, and what carries the body until its end.
#[derive(Debug)]
pub struct Answered {
    /// Status, version and fields.
    pub head: http::response::Parts,
    /// What follows.
    pub body: ResponseBody,
    /// Carries the body, if not itself.
    pub carrier: Option<Carrier>,
    /// The endpoint switched protocols: the connection's bytes are the request's from now on.
    pub upgraded: Option<Http1Lease>,
}

/// The stream a response by HTTP/2 comes by.
#[derive(Debug)]
pub struct Carrier {
    /// The place among the streams; freed when dropped.
    pub lease: Http2Lease,
    /// Sends what the client still sends; stopped when dropped.
    pub pump: Option<PumpTask>,
}

/// What one attempt needs to know.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// Where to.
    pub endpoint: Endpoint,
    /// Whose endpoint it is.
    pub revision: &'a RevisionId,
    /// What the endpoint speaks.
    pub protocol: Protocol,
    /// The head, edited by the rules it passed and for this endpoint.
    pub head: &'a Parts,
    /// The body; `None` when there is none.
    pub body: Option<&'a Replay>,
    /// The client asks to switch protocols.
    pub is_upgrade: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// How long the route gives connecting, if it says so, in milliseconds: so small that it costs the others no room.
    pub connect_ms: Option<NonZeroU32>,
    /// Where to write down when there was a connection, if anybody wants to know.
    pub connected: Option<&'a Cell<Option<Instant>>>,
    /// Nothing but a WebSocket is a success: the client's stream has been told of no other.
    pub must_switch: bool,
    /// What counts informational responses.
    pub observation: &'a Observation,
}

impl Attempt<'_> {
    /// How long the route gives connecting, if it says so.
    fn connect(&self) -> Option<Duration> {
        let limit = self.connect_ms?;
        Some(Duration::from_millis(limit.get().into()))
    }

    /// There is a connection, and nothing has been sent yet.
    fn has_connected(&self) {
        if let Some(connected) = self.connected {
            connected.set(Some(Instant::now()));
        }
    }
}

/// Sends one request to one endpoint.
///
/// # Errors
///
/// When no response head comes back; [`SendError::progress`] says how far the request may have got.
///
/// # Cancel safety
///
/// Dropping the future ends the attempt: the connection is closed, or the stream reset.
pub async fn send(
    pool: &Pool,
    limits: &Limits,
    attempt: Attempt<'_>,
) -> Result<Answered, SendError> {
    let answered = match attempt.protocol {
        // Rare: on the heap, so that every other request's future is smaller.
        _ if attempt.is_upgrade => Box::pin(send_for_upgrade(pool, limits, &attempt)).await,
        Protocol::Http1 => send_http1(pool, limits, &attempt).await,
        Protocol::H2c => send_http2(pool, limits, &attempt).await,
    };
    match attempt.body {
        Some(body) if answered.is_err() && body.client_failed() => Err(SendError::Client),
        _ => answered,
    }
}

async fn send_http1(
    pool: &Pool,
    limits: &Limits,
    attempt: &Attempt<'_>,
) -> Result<Answered, SendError> {
    let mut lease = match attempt.connect() {
        None => pool.http1(attempt.endpoint, attempt.revision).await?,
        Some(limit) => connected(limit, pool.http1(attempt.endpoint, attempt.revision)).await?,
    };
    if lease.is_reused() && !is_replayable(attempt) {
        // A close that has arrived but was not looked at yet would cost this request: let the reactor look first.
        tokio::task::yield_now().await;
        while lease.is_reused() && !lease.is_quiet() {
            drop(lease);
            lease = pool.http1(attempt.endpoint, attempt.revision).await?;
        }
    }
    attempt.has_connected();
    match exchange(lease, limits, attempt).await? {
        (head, Reply::Answer(body)) => Ok(Answered {
            head,
            body: ResponseBody::Http1(body),
            carrier: None,
            upgraded: None,
        }),
        (_, Reply::Switched(_)) => Err(SendError::Invalid(
            "it switched protocols, which nobody asked for".into(),
        )),
    }
}

/// A connection within the time that the route gives; waiting for another request's to come free counts.
///
/// On the heap: rare.
async fn connected<T>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    match Box::pin(tokio::time::timeout(limit, connecting)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(SendError::ConnectTooSlow),
    }
}

async fn send_for_upgrade(
    pool: &Pool,
    limits: &Limits,
    attempt: &Attempt<'_>,
) -> Result<Answered, SendError> {
    let lease = match attempt.connect() {
        None => {
            pool.http1_for_upgrade(attempt.endpoint, attempt.revision)
                .await?
        }
        Some(limit) => {
            connected(
                limit,
                pool.http1_for_upgrade(attempt.endpoint, attempt.revision),
            )
            .await?
        }
    };
    attempt.has_connected();
    let (head, reply) = exchange(lease, limits, attempt).await?;
    if attempt.must_switch {
        let has_switched = matches!(reply, Reply::Switched(_));
        websocket::check_answer(&attempt.head.headers, &head, has_switched)
            .map_err(|wrong| SendError::Invalid(wrong.into()))?;
    }
    let (body, upgraded) = match reply {
        Reply::Answer(body) => (ResponseBody::Http1(body), None),
        Reply::Switched(lease) => (ResponseBody::Empty, Some(lease)),
    };
    Ok(Answered {
        head,
        body,
        carrier: None,
        upgraded,
    })
}

/// Sends the request on a connection by HTTP/1 and waits for the response head.
async fn exchange(
    lease: Http1Lease,
    limits: &Limits,
    attempt: &Attempt<'_>,
) -> Result<(http::response::Parts, Reply), SendError> {
    let (gate, signal) = gate(attempt, limits);
    let outgoing = Outgoing {
        head: attempt.head,
        body: attempt.body.map(|body| body.attempt(gate)),
    };
    let bounds = HeadBounds {
        bytes: limits.header_bytes,
        fields: limits.response_fields.min(MOST_FIELDS),
    };
    let mut exchange = Exchange::new(lease, outgoing, bounds);
    let mut seen = |status| informational(status, attempt, signal.as_deref());
    poll_fn(|cx| exchange.poll_response(cx, &mut seen)).await
}

/// Whether the request may be sent again although the endpoint may have begun with it.
fn is_replayable(attempt: &Attempt<'_>) -> bool {
    let idempotent = attempt.head.method.is_idempotent();
    idempotent && attempt.body.is_none_or(|body| body.left() != Left::Gone)
}

fn gate(
    attempt: &Attempt<'_>,
    limits: &Limits,
) -> (Option<ContinueGate>, Option<Arc<ContinueSignal>>) {
    if attempt.expects_continue && attempt.body.is_some() {
        let (gate, signal) = ContinueGate::new(Instant::now() + limits.expect_continue);
        (Some(gate), Some(signal))
    } else {
        (None, None)
    }
}

async fn send_http2(
    pool: &Pool,
    limits: &Limits,
    attempt: &Attempt<'_>,
) -> Result<Answered, SendError> {
    let lease = match attempt.connect() {
        None => pool.http2(attempt.endpoint, attempt.revision).await?,
        Some(limit) => connected(limit, pool.http2(attempt.endpoint, attempt.revision)).await?,
    };
    attempt.has_connected();
    let mut sender = lease.sender().ready().await.map_err(|error| {
        lease.retire();
        SendError::NotStarted(error.into())
    })?;
    let request = http2_request(attempt)?;
    let (mut response, stream) = match sender.send_request(request, attempt.body.is_none()) {
        Ok(sent) => sent,
        // A head that cannot be sent by HTTP/2 is not the connection's doing, and would fail on any other.
        Err(error) if is_about_the_request(&error) => return Err(SendError::Invalid(error.into())),
        Err(error) => {
            lease.retire();
            return Err(SendError::NotStarted(error.into()));
        }
    };
    let (gate, signal) = gate(attempt, limits);
    let pump = match attempt.body {
        Some(body) => PumpTask::begin(body.attempt(gate), stream).await,
        None => None,
    };
    let response = final_response(&mut response, attempt, signal.as_deref())
        .await
        .map_err(|error| http2_failure(error, &lease))?
        .ok_or_else(|| SendError::Invalid("its informational responses lead to no other".into()))?;
    let (head, body) = response.into_parts();
    if head.headers.len() > limits.response_fields {
        return Err(SendError::Invalid("its head has too many fields".into()));
    }
    Ok(Answered {
        head,
        body: ResponseBody::Http2(body),
        carrier: Some(Carrier { lease, pump }),
        upgraded: None,
    })
}

/// Waits for the response that is not informational; `None` when there are too many that are, or one that may not be
/// (RFC 9113 section 8.6).
///
async fn final_response(
    response: &mut h2::client::ResponseFuture,
    attempt: &Attempt<'_>,
    gate: Option<&ContinueSignal>,
) -> Result<Option<http::Response<h2::RecvStream>>, h2::Error> {
    let mut count = 0;
    poll_fn(|cx| {
        while let Some(seen) = ready!(response.poll_informational(cx)).transpose()? {
            count += 1;
            if seen.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(None));
            }
            informational(seen.status(), attempt, gate);
            if count > INFORMATIONAL {
                return Poll::Ready(Ok(None));
            }
        }
        Pin::new(&mut *response).poll(cx).map_ok(Some)
    })
    .await
}

/// `100 Continue` opens the gate of the request's body; the others have nobody to go to, for the engine that answers
/// clients by HTTP/1 cannot send them, and are counted.
fn informational(status: StatusCode, attempt: &Attempt<'_>, gate: Option<&ContinueSignal>) {
    if status != StatusCode::CONTINUE {
        attempt.observation.informational();
    } else if let Some(gate) = gate {
        gate.open();
    }
}

fn is_about_the_request(error: &h2::Error) -> bool {
    !error.is_io() && !error.is_go_away() && !error.is_reset() && error.reason().is_none()
}

/// Refused streams and streams above a GOAWAY's last were not begun with (RFC 9113 sections 6.8 and 8.7).
fn http2_failure(error: h2::Error, lease: &Http2Lease) -> SendError {
    if error.is_go_away() && error.is_remote() {
        lease.retire();
        return SendError::NotStarted(error.into());
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => {
            SendError::NotStarted(error.into())
        }
        Some(_) if error.is_reset() && error.is_remote() => SendError::MaybeStarted(error.into()),
        Some(_) => SendError::Invalid(error.into()),
        None => {
            lease.retire();
            SendError::MaybeStarted(error.into())
        }
    }
}

/// The head as HTTP/2 has it: the authority as pseudo-header, no `Host` (RFC 9113 section 8.3.1).
fn http2_request(attempt: &Attempt<'_>) -> Result<Request<()>, SendError> {
    let head = attempt.head;
    let mut headers = attempt.head.headers.clone();
    let host = headers.remove(header::HOST);
    let authority = host
        .as_ref()
        .map_or(b"localhost".as_slice(), HeaderValue::as_bytes);
    let path = match head.uri.path_and_query() {
        None => PathAndQuery::from_static("/"),
        // `http://shop?item=1` has an empty path, which is `/` here (RFC 9113 section 8.3.1): so it is displayed.
        Some(query) if query.as_str().starts_with('?') => PathAndQuery::try_from(query.to_string())
            .map_err(|error| SendError::Invalid(error.into()))?,
        Some(path) => path.clone(),
    };
    let scheme = match attempt.endpoint.is_secured() {
        true => Scheme::HTTPS,
        false => Scheme::HTTP,
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|error| SendError::Invalid(error.into()))?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Sends a request body on a stream, as far as the endpoint's window lets it; stopped when dropped.
#[derive(Debug)]
pub struct PumpTask(JoinHandle<()>);

impl PumpTask {
    /// Sends what is there; a task sends the rest, if there is any.
    async fn begin(body: AttemptBody, mut stream: h2::SendStream<Bytes>) -> Option<Self> {
        let mut pumping = Box::pin(async move {
            if let Err(_error) = pump(body, &mut stream, &Outflow::default()).await {
                stream.send_reset(h2::Reason::CANCEL);
            }
        });
        // Most bodies have come with their head, and are sent with it.
        let begun = poll_fn(|cx| Poll::Ready(pumping.as_mut().poll(cx))).await;
        begun
            .is_pending()
            .then(|| Self(tokio::task::spawn_local(pumping)))
    }
}

impl Drop for PumpTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What of a body goes out by a stream.
#[derive(Debug, Default)]
pub struct Outflow {
    pieces: Cell<u64>,
    is_blocked: Cell<bool>,
}

impl Outflow {
    /// How many pieces have gone, if there is one that cannot go because the other side opens no window for it.
    pub fn blocked_at(&self) -> Option<u64> {
        self.is_blocked.get().then(|| self.pieces.get())
    }
}

/// Writes `body` to `stream` with back-pressure; trailers end it.
///
/// # Errors
///
/// When the body breaks off or the stream was reset.
pub async fn pump<B>(
    body: B,
    stream: &mut h2::SendStream<Bytes>,
    outflow: &Outflow,
) -> Result<(), BodyError>
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    let mut body = std::pin::pin!(body);
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                return Poll::Ready(frame);
            }
            // A reset ends the wait for a body that may never go on.
            stream.poll_reset(cx).map(|reset| {
                Some(Err(match reset {
                    Ok(reason) => BodyError::Http2(reason.into()),
                    Err(error) => BodyError::Http2(error),
                }))
            })
        })
        .await;
        let Some(frame) = frame.transpose()? else {
            stream.send_data(Bytes::new(), true)?;
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(data, is_last, stream, outflow).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    stream.send_trailers(trailers)?;
                    return Ok(());
                }
            }
        }
    }
}

/// The last piece of a body is handed over without asking for room when it has at most so many bytes.
const SMALL: usize = 4 * 1024;

async fn send_data(
    mut data: Bytes,
    is_last: bool,
    stream: &mut h2::SendStream<Bytes>,
    outflow: &Outflow,
) -> Result<(), BodyError> {
    if data.is_empty() && !is_last {
        return Ok(());
    }
    if is_last && data.len() <= SMALL {
        // The engine keeps it until the window lets it go.
        stream.send_data(data, true)?;
        return Ok(());
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Some(reset.and_then(|reason| Err(h2::Error::from(reason)))));
            }
            let room = stream.poll_capacity(cx);
            outflow.is_blocked.set(room.is_pending());
            room
        })
        .await;
        outflow.pieces.set(outflow.pieces.get() + 1);
        let room = match room {
            Some(room) => room?,
            None => return Err(BodyError::Http2(h2::Reason::STREAM_CLOSED.into())),
        };
        let piece = data.split_to(room.min(data.len()));
        let ends = is_last && data.is_empty();
        stream.send_data(piece, ends)?;
        if ends {
            return Ok(());
        }
    }
    if is_last {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}
