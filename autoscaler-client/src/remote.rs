//! A [`StatSink`] over WebSocket: Knative's autoscaler, wherever it runs.
//!
//! Behaves as the activator does: knative/pkg `websocket/connection.go` dials and keeps alive, knative/serving
//! `pkg/autoscaler/statserver/server.go` answers. We dial, without `Origin` and without subprotocol; we send binary
//! frames and empty pings; the autoscaler sends pongs, and a close frame (1012) when it restarts. What is sent while
//! there is no connection is dropped: the next second brings newer numbers.
//!
//! ```text
//!  dial ── refused, or no handshake within 3 s ──▶ back off ──▶ dial
//!   │ ▲
//!   ▼ └── closed, broken, or 10 s without a pong: at once ───────┐
//!  connected: one binary frame per list, a ping every 3.33 s ────┘
//! ```
//!
//! With several addresses there is one connection to each, and a list goes over the first that stands: every
//! autoscaler takes everything and passes on what it does not own. Sending each Revision to the owner of its bucket
//! is a matter of `RemoteSink::connection_for` alone.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tracing::{debug, info, warn};

use crate::sink::StatSink;
use crate::stat::StatMessage;
use crate::wire;

#[cfg(test)]
mod tests;

/// How many lists may wait for one connection: a minute of reports and a few first requests. Only a peer that has
/// stopped reading lets them wait; when full, the newest list is dropped and counted.
pub const WAITING_LISTS: usize = 64;

/// The most that an incoming message may hold, in bytes. Autoscalers send none; a longer one breaks the connection.
pub const MAX_INCOMING_BYTES: usize = 64 * 1024;

/// How long the last lists and the close frame may take when the sink is dropped.
const FAREWELL: Duration = Duration::from_secs(1);

/// The constants of the protocol, for tests to shorten.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long connecting and the handshake may take together. Default 3 s.
    pub handshake: Duration,
    /// How often an empty ping is sent. Default a third of `pong_wait`.
    pub ping_interval: Duration,
    /// How long a connection may be without a pong before it counts as dead. Default 10 s.
    pub pong_wait: Duration,
    /// A connection that was shorter is a failed attempt: without this, a peer that takes connections only to close
    /// them would be dialled in a tight loop. Default 100 ms.
    pub settled: Duration,
    /// How long to wait after failed attempts. Default 100 ms × 1.3, up to half as much on top, 20 attempts.
    pub backoff: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        let pong_wait = Duration::from_secs(10);
        Self {
            handshake: Duration::from_secs(3),
            ping_interval: pong_wait / 3,
            pong_wait,
            settled: Duration::from_millis(100),
            backoff: Backoff::default(),
        }
    }
}

/// Waits that grow from attempt to attempt, in rounds.
///
/// Source: `connectionBackoff`, knative/pkg `websocket/connection.go`, and `ExponentialBackoff` in
/// kubernetes/apimachinery `pkg/util/wait/backoff.go`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait of a round. Default 100 ms.
    pub first: Duration,
    /// What each wait is to the one before. Default 1.3.
    pub factor: f64,
    /// The most that chance adds, as a share of the wait. Default 0.5.
    pub jitter: f64,
    /// Attempts of a round; there is no wait after the last, the next round begins with it. Default 20.
    pub steps: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            factor: 1.3,
            jitter: 0.5,
            steps: 20,
        }
    }
}

impl Backoff {
    /// The wait after attempt number `attempt` (from 0, over all rounds) has failed; `draw` is from [0, 1).
    pub fn wait(&self, attempt: u32, draw: f64) -> Duration {
        let steps = self.steps.max(1);
        let step = attempt % steps;
        if step == steps - 1 {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let wait =
            self.first.as_secs_f64() * self.factor.powi(exponent) * (1.0 + self.jitter * draw);
        Duration::try_from_secs_f64(wait).unwrap_or(self.first)
    }
}

/// Stat messages to autoscalers over WebSocket.
///
/// Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct RemoteSink {
    /// With the last clone the channels close, which ends the driver.
    connections: Arc<[Connection]>,
}

/// What has become of the connections, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// The autoscaler's address, as it was given.
    pub address: String,
    /// Whether the connection stands.
    pub is_connected: bool,
    /// Failed attempts and lost connections so far.
    pub errors: u64,
    /// Lists dropped so far, because there was no connection or the peer did not read.
    pub dropped: u64,
}

impl RemoteSink {
    /// Addresses are `ws://host:port`, or `host:port` for short.
    ///
    /// Nothing happens before the returned future is polled: it keeps the connections, and ends after the last clone
    /// of the sink is dropped, what waited is sent and the connections are closed (within a second).
    pub fn new(addresses: Vec<String>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::with_timing(addresses, Timing::default())
    }

    /// The same with other constants.
    pub fn with_timing(
        addresses: Vec<String>,
        timing: Timing,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (connections, drivers): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .map(|address| {
                let (waiting, lists) = mpsc::channel(WAITING_LISTS);
                let status = Arc::new(Status::default());
                let driver = Driver {
                    url: url(&address),
                    timing,
                    lists,
                    status: Arc::clone(&status),
                };
                (
                    Connection {
                        address,
                        status,
                        waiting,
                    },
                    driver,
                )
            })
            .unzip();
        let sink = Self {
            connections: connections.into(),
        };
        let driver = async move {
            join_all(drivers.into_iter().map(Driver::run)).await;
        };
        (sink, driver)
    }

    /// How the connections are, in the order of the addresses.
    pub fn connections(&self) -> Vec<ConnectionState> {
        self.connections.iter().map(Connection::state).collect()
    }

    /// The connection that takes the next list: the first that stands, or else the first.
    fn connection_for(&self, _messages: &[StatMessage]) -> Option<&Connection> {
        let standing = self
            .connections
            .iter()
            .find(|connection| connection.status.is_connected());
        standing.or(self.connections.first())
    }
}

impl StatSink for RemoteSink {
    fn send(&self, messages: Vec<StatMessage>) {
        if let Some(connection) = self.connection_for(&messages) {
            connection.send(messages);
        }
    }

    fn is_connected(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.status.is_connected())
    }
}

/// Our end of one connection.
#[derive(Debug)]
struct Connection {
    address: String,
    status: Arc<Status>,
    waiting: mpsc::Sender<Vec<StatMessage>>,
}

impl Connection {
    fn send(&self, messages: Vec<StatMessage>) {
        if !self.status.is_connected() || self.waiting.try_send(messages).is_err() {
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> ConnectionState {
        ConnectionState {
            address: self.address.clone(),
            is_connected: self.status.is_connected(),
            errors: self.status.errors.load(Ordering::Relaxed),
            dropped: self.status.dropped.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Default)]
struct Status {
    connected: AtomicBool,
    errors: AtomicU64,
    dropped: AtomicU64,
}

impl Status {
    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }
}

/// Says "connected" for as long as it lives.
struct Connected<'a>(&'a Status);

impl<'a> Connected<'a> {
    fn new(status: &'a Status) -> Self {
        status.connected.store(true, Ordering::Release);
        Self(status)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.store(false, Ordering::Release);
    }
}

/// Why a conversation ended.
#[derive(Debug)]
enum End {
    /// Nobody can send any more.
    SinkDropped,
    /// The peer closed, with this code.
    Closed(Option<u16>),
    /// No pong in time.
    Silent,
    Broken(WsError),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SinkDropped => f.write_str("nobody reports any more"),
            Self::Closed(Some(code)) => write!(f, "closed by the peer with code {code}"),
            Self::Closed(None) => f.write_str("closed by the peer"),
            Self::Silent => f.write_str("no pong in time"),
            Self::Broken(error) => fmt::Display::fmt(error, f),
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Keeps one connection.
struct Driver {
    url: String,
    timing: Timing,
    lists: mpsc::Receiver<Vec<StatMessage>>,
    status: Arc<Status>,
}

impl Driver {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let Some(socket) = self.connect(&mut attempt).await else {
                return;
            };
            let connected_at = Instant::now();
            match self.converse(socket).await {
                End::SinkDropped => return,
                end => self.note_loss(&end),
            }
            // A connection that held is replaced at once; one that was taken and dropped is a failed attempt.
            if connected_at.elapsed() < self.timing.settled {
                self.back_off(&mut attempt).await;
            } else {
                attempt = 0;
            }
        }
    }

    /// Dials until it succeeds; nothing when nobody can send any more.
    async fn connect(&mut self, attempt: &mut u32) -> Option<Socket> {
        while !self.lists.is_closed() {
            match timeout(self.timing.handshake, dial(&self.url)).await {
                Ok(Ok(socket)) => return Some(socket),
                Ok(Err(error)) => {
                    debug!(url = self.url, attempt, %error, "autoscaler not reachable");
                }
                Err(_elapsed) => debug!(
                    url = self.url,
                    attempt, "autoscaler did not answer the handshake"
                ),
            }
            if *attempt == 0 {
                warn!(
                    url = self.url,
                    "autoscaler not reachable, stats are dropped"
                );
            }
            self.status.errors.fetch_add(1, Ordering::Relaxed);
            self.back_off(attempt).await;
        }
        None
    }

    /// Waits for the next attempt, or until nobody can send any more.
    async fn back_off(&mut self, attempt: &mut u32) {
        let wait = self.timing.backoff.wait(*attempt, draw());
        *attempt = attempt.wrapping_add(1);
        let abandoned = async { while self.lists.recv().await.is_some() {} };
        if timeout(wait, abandoned).await.is_ok() {
            debug!(url = self.url, "nobody reports any more");
        }
    }

    /// Sends lists and pings until the connection or the sink ends.
    async fn converse<S>(&mut self, socket: WebSocketStream<S>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // What came in just before the last connection ended is old by now.
        while self.lists.try_recv().is_ok() {
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
        info!(url = self.url, "connected to autoscaler");
        let _connected = Connected::new(&self.status);
        let (to_peer, from_peer) = socket.split();
        // Both are kept across the wait for either: reading goes on while a write is stuck.
        let write = pin!(write(to_peer, &mut self.lists, self.timing.ping_interval));
        let read = pin!(read(from_peer, self.timing.pong_wait));
        tokio::select! {
            end = read => end,
            end = write => end,
        }
    }

    fn note_loss(&self, end: &End) {
        self.status.errors.fetch_add(1, Ordering::Relaxed);
        warn!(url = self.url, reason = %end, "connection to autoscaler lost");
    }
}

async fn dial(url: &str) -> Result<Socket, WsError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_INCOMING_BYTES))
        .max_frame_size(Some(MAX_INCOMING_BYTES));
    // First requests are small and urgent.
    let disable_nagle = true;
    let (socket, _response) = connect_async_with_config(url, Some(config), disable_nagle).await?;
    Ok(socket)
}

/// Sends each list as one binary frame, and pings in between; ends when the sink is dropped or the socket breaks.
async fn write<W>(
    mut to_peer: W,
    lists: &mut mpsc::Receiver<Vec<StatMessage>>,
    ping_interval: Duration,
) -> End
where
    W: Sink<Message, Error = WsError> + Unpin,
{
    let mut pings = interval_at(Instant::now() + ping_interval, ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            list = lists.recv() => match list {
                Some(messages) => Message::binary(wire::encode(&messages)),
                None => break,
            },
            _ = pings.tick() => Message::Ping(Vec::new().into()),
        };
        if let Err(error) = to_peer.send(message).await {
            return End::Broken(error);
        }
    }
    if !matches!(timeout(FAREWELL, to_peer.close()).await, Ok(Ok(()))) {
        debug!("autoscaler did not take the close frame");
    }
    End::SinkDropped
}

/// Reads pongs until the peer closes, breaks, or sends none for `pong_wait`.
async fn read<R>(mut from_peer: R, pong_wait: Duration) -> End
where
    R: Stream<Item = Result<Message, WsError>> + Unpin,
{
    let mut deadline = Instant::now() + pong_wait;
    loop {
        match timeout_at(deadline, from_peer.next()).await {
            Err(_elapsed) => return End::Silent,
            Ok(None) => return End::Closed(None),
            Ok(Some(Err(error))) => return End::Broken(error),
            Ok(Some(Ok(Message::Close(frame)))) => {
                return End::Closed(frame.map(|frame| frame.code.into()));
            }
            Ok(Some(Ok(Message::Pong(_)))) => deadline = Instant::now() + pong_wait,
            // Pings are answered below us; an autoscaler has nothing else to say.
            Ok(Some(Ok(
                Message::Ping(_) | Message::Text(_) | Message::Binary(_) | Message::Frame(_),
            ))) => {}
        }
    }
}

fn url(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("ws://{address}")
    }
}

/// A number from [0, 1).
fn draw() -> f64 {
    let random = RandomState::new().hash_one(()) >> 32;
    f64::from(u32::try_from(random).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
