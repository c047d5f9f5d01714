//! Asks a Pod's queue-proxy whether it may have requests.
//!
//! Queue-proxy looks at its container every 50 ms, for up to 10 s, before it answers such a probe (knative/serving
//! `pkg/queue/readiness/probe.go`). So the answer is waited for ([`ANSWER_DEADLINE`]): it comes the moment there is one,
//! whatever the network's delay. Connecting is another matter: an address of a Pod may swallow what is sent there until
//! its network is set up, so attempts follow each other soon, and the earlier ones are waited for all the same
//! ([`connect`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use parkway_activator::backends::Outcome;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::http1::HeadBounds;
use super::http1::framing::{Framing, Piece};
use super::http1::head::{Head, parse};
use super::tls::{Alpn, InternalTls, Reason};

/// How long it may take to connect; then the probe has failed. Somebody that far away is of no use.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long queue-proxy may take to answer: the 10 s for which it holds a probe, and one for the way.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(11);

/// After so long without a connection another one is tried. Each further one is waited for longer by two fifths, up to
/// [`PATIENCE_MAX`]. As Knative dials: knative/pkg `network/transports.go`, `dialBackOffHelper`.
pub const FIRST_PATIENCE: Duration = Duration::from_millis(50);

/// The longest before another connection is tried.
pub const PATIENCE_MAX: Duration = Duration::from_millis(250);

/// Attempts to connect that are waited for at once; the oldest is given up for another. So a connection may take from
/// 0.35 s, the first ones, to a second.
pub const DIALS_AT_ONCE: usize = 4;

/// Bytes of an answer that are read; more is no answer of queue-proxy.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Fields of an answer; more is no answer of queue-proxy.
const ANSWER_FIELDS_MAX: usize = 64;

/// Bytes read at once: an answer of queue-proxy has some 120.
const READ: usize = 512;

/// What queue-proxy answers when its container is ready. Source: knative/serving `pkg/queue/constants.go`, `Name`.
const YES: &[u8] = b"queue";

/// Makes connections.
pub trait Dial: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin;

    /// Connects. May be dropped before it has ended.
    fn dial(&self, endpoint: Endpoint) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// What makes connections to secured endpoints secure. None: such an endpoint cannot be asked.
    fn tls(&self) -> Option<&InternalTls> {
        None
    }
}

/// Connects by TCP.
#[derive(Clone, Debug, Default)]
pub struct Tcp(InternalTls);

impl Tcp {
    /// Makes connections to secured endpoints secure by this.
    pub fn new(tls: InternalTls) -> Self {
        Self(tls)
    }
}

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, endpoint: Endpoint) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(endpoint.address()).await?;
        // A port of the ephemeral range can meet itself: TCP's simultaneous open (RFC 9293 section 3.5).
        if stream.local_addr()? == endpoint.address() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    fn tls(&self) -> Option<&InternalTls> {
        Some(&self.0)
    }
}

/// Asks the queue-proxy at `endpoint`, one of `revision`, over a connection of its own, which is closed afterwards.
///
/// A secured endpoint is asked by TLS, so that one that cannot be trusted gets no requests. (Knative's activator asks in
/// the clear.) Once connected, the handshake may take [`CONNECT_DEADLINE`] again.
///
/// `passthrough` is the host by which a mesh that passes on what names a Pod knows the Revision:
/// `<private service>.<namespace>`. Ends within [`CONNECT_DEADLINE`] and [`ANSWER_DEADLINE`].
///
/// # Cancel safety
///
/// Dropping it closes the connection, and queue-proxy forgets the question.
pub async fn ask(
    dial: &impl Dial,
    endpoint: Endpoint,
    revision: &RevisionId,
    passthrough: Option<&str>,
) -> Outcome {
    let stream = match connect(dial, endpoint).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let question = question(endpoint, passthrough);
    if !endpoint.is_secured() {
        return in_time(stream, &question).await;
    }
    let Some(tls) = dial.tls() else {
        return Outcome::Untrusted;
    };
    let deadline = Instant::now() + CONNECT_DEADLINE;
    // On the heap: what a handshake needs would make the future of every probe larger.
    let securing = Box::pin(tls.secure(stream, endpoint, revision, Alpn::Http1, deadline));
    match securing.await {
        Ok(stream) => Box::pin(in_time(stream, &question)).await,
        Err(error) => match error.reason() {
            Reason::TimedOut => Outcome::TimedOut,
            Reason::Broken => Outcome::Broken,
            _ => Outcome::Untrusted,
        },
    }
}

async fn in_time(stream: impl AsyncRead + AsyncWrite + Unpin, question: &str) -> Outcome {
    let exchange = exchange(stream, question.as_bytes());
    let answer = timeout(ANSWER_DEADLINE, exchange).await;
    answer.unwrap_or(Outcome::TimedOut)
}

/// Connects, whether a connection takes long or what is sent is lost: see [`FIRST_PATIENCE`] and [`DIALS_AT_ONCE`].
///
/// # Errors
///
/// As soon as one attempt fails, or after [`CONNECT_DEADLINE`]: never [`Outcome::Ready`] or [`Outcome::NotReady`].
pub async fn connect<D: Dial>(dial: &D, endpoint: Endpoint) -> Result<D::Stream, Outcome> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let mut patience = FIRST_PATIENCE;
    let mut attempts = VecDeque::with_capacity(DIALS_AT_ONCE);
    while Instant::now() < deadline {
        if attempts.len() == DIALS_AT_ONCE {
            attempts.pop_front();
        }
        attempts.push_back(Box::pin(dial.dial(endpoint)));
        let first = poll_fn(|cx| {
            let ended = attempts
                .iter_mut()
                .map(|attempt| attempt.as_mut().poll(cx))
                .find(Poll::is_ready);
            ended.unwrap_or(Poll::Pending)
        });
        let until = deadline.min(Instant::now() + patience);
        if let Ok(ended) = timeout_at(until, first).await {
            return ended.map_err(|error| outcome_of(&error));
        }
        patience = (patience * 7 / 5).min(PATIENCE_MAX);
    }
    Err(Outcome::TimedOut)
}

fn outcome_of(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Outcome::Broken,
        io::ErrorKind::TimedOut => Outcome::TimedOut,
        _ => Outcome::Unreachable,
    }
}

/// The question, byte for byte as Knative's activator asks it: queue-proxy knows it by its `User-Agent`, and takes
/// anything else for a user's request.
///
/// Source: knative/serving `pkg/activator/net/revision_backends.go`, `probe`.
fn question(endpoint: Endpoint, passthrough: Option<&str>) -> String {
    let (host, line) = match passthrough {
        Some(host) => (host.to_owned(), "K-Passthrough-Lb: true\r\n"),
        None => (endpoint.to_string(), ""),
    };
    format!(
        "GET /healthz HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Knative-Activator-Probe\r\n\
         K-Network-Probe: queue\r\n{line}\r\n"
    )
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, question: &[u8]) -> Outcome {
    if stream.write_all(question).await.is_err() || stream.flush().await.is_err() {
        return Outcome::Broken;
    }
    let mut received = Vec::with_capacity(READ);
    loop {
        let is_closed = match stream.read_buf(&mut received).await {
            Ok(count) => count == 0,
            Err(_broken) => return Outcome::Broken,
        };
        if let Some(outcome) = judge(&received, is_closed) {
            return outcome;
        }
        if is_closed || received.len() >= ANSWER_BYTES_MAX {
            return Outcome::Broken;
        }
    }
}

/// What has been received means this; `None`: it is not complete.
fn judge(received: &[u8], is_closed: bool) -> Option<Outcome> {
    const BOUNDS: HeadBounds = HeadBounds {
        bytes: ANSWER_BYTES_MAX,
        fields: ANSWER_FIELDS_MAX,
    };
    let mut unread = Bytes::copy_from_slice(received);
    loop {
        let Ok(head) = parse(&mut unread, &Method::GET, BOUNDS) else {
            return Some(Outcome::Broken);
        };
        let Head { parts, framing, .. } = head?;
        match parts.status {
            StatusCode::OK => return judge_body(framing, unread, is_closed),
            status if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => {}
            status => return Some(Outcome::NotReady(status.as_u16())),
        }
    }
}

fn judge_body(mut framing: Framing, mut unread: Bytes, is_closed: bool) -> Option<Outcome> {
    const ANOTHER_BODY: Outcome = Outcome::NotReady(StatusCode::OK.as_u16());
    let mut body = Vec::with_capacity(YES.len());
    let has_ended = loop {
        match framing.next(&mut unread) {
            Ok(Piece::Data(data)) => body.extend_from_slice(&data),
            Ok(Piece::End | Piece::Trailers(_)) => break true,
            Ok(Piece::More) => break is_closed && matches!(framing, Framing::UntilClose),
            Err(_malformed) => return Some(Outcome::Broken),
        }
    };
    if !YES.starts_with(&body) {
        return Some(ANOTHER_BODY);
    }
    match (has_ended, body == YES) {
        (true, true) => Some(Outcome::Ready),
        (true, false) => Some(ANOTHER_BODY),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests;
