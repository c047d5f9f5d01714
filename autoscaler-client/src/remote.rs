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
//! autoscaler takes everything and passes on what it does not own. Where the owners of the autoscaler's buckets are known
//! ([`RemoteSink::set_owners`]), there is one connection to each owner besides, and what is said of a Revision goes to
//! the owner of its bucket, which saves the detour; while the connection to an owner does not stand, the others do.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Sink, SinkExt, Stream, StreamExt};
use parking_lot::{Mutex, RwLock};
use parkway_activator::subset::choose_subset;
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// To the addresses that were given.
    connections: Box<[Arc<Connection>]>,
    /// To the owners of the autoscaler's buckets, by bucket. Owners of several buckets have one connection.
    owners: RwLock<Owners>,
    timing: Timing,
    new_drivers: mpsc::Sender<Driver>,
}

/// Who owns which bucket.
#[derive(Debug, Default)]
struct Owners {
    /// All buckets there are, owned or not: which one a Revision falls to depends on all of them.
    buckets: Vec<String>,
    connections: BTreeMap<String, Arc<Connection>>,
}

/// How many buckets the autoscaler may have at most: `buckets` of config-leader-election (knative/pkg
/// `leaderelection/config.go`). Owners of further ones are left aside; what is said of their Revisions goes over the other
/// connections.
pub const MAX_BUCKETS: usize = 10;

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
    /// Why the last attempt failed or the last connection was lost.
    pub last_error: Option<Arc<str>>,
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
            .map(|address| Connection::new(address, timing))
            .unzip();
        let (new_drivers, mut more) = mpsc::channel(MAX_BUCKETS);
        let shared = Shared {
            connections: connections.into(),
            owners: RwLock::default(),
            timing,
            new_drivers,
        };
        let sink = Self {
            shared: Arc::new(shared),
        };
        let driver = async move {
            let mut running: FuturesUnordered<_> = drivers.into_iter().map(Driver::run).collect();
            let mut is_open = true;
            // Ends with the last connection, after nobody can ask for another one.
            while is_open || !running.is_empty() {
                tokio::select! {
                    driver = more.recv(), if is_open => match driver {
                        Some(driver) => running.push(driver.run()),
                        None => is_open = false,
                    },
                    Some(()) = running.next() => {}
                }
            }
        };
        (sink, driver)
    }

    /// Says who owns which of the autoscaler's buckets: `host:port` by the bucket's name, all of them.
    ///
    /// A bucket that is missing has no owner that is known. A connection to one that owns nothing any more is closed
    /// when it has sent what waits. At most [`MAX_BUCKETS`].
    pub fn set_owners(&self, owners: BTreeMap<String, String>) {
        let mut known = self.shared.owners.write();
        let mut by_address: HashMap<String, Arc<Connection>> = { known.connections.values() }
            .map(|connection| (connection.address.clone(), Arc::clone(connection)))
            .collect();
        let mut next = Owners {
            buckets: owners
                .keys()
                .next()
                .map_or_else(Vec::new, |one| siblings(one)),
            connections: BTreeMap::new(),
        };
        for (bucket, address) in owners.into_iter().take(MAX_BUCKETS) {
            let connection = match by_address.get(&address) {
                Some(connection) => Arc::clone(connection),
                None => {
                    let (connection, driver) = Connection::new(address.clone(), self.shared.timing);
                    if self.shared.new_drivers.try_send(driver).is_err() {
                        warn!(
                            bucket,
                            address, "too many autoscalers at once: this one is told over another"
                        );
                        continue;
                    }
                    by_address.insert(address, Arc::clone(&connection));
                    connection
                }
            };
            next.connections.insert(bucket, connection);
        }
        let before = std::mem::replace(&mut *known, next);
        drop(known);
        drop(before); // the last holder of a connection closes it
    }

    /// How the connections are: those to the given addresses in their order, then those to the owners of buckets.
    pub fn connections(&self) -> Vec<ConnectionState> {
        let given = self.shared.connections.iter();
        let mut states: Vec<_> = given.map(|connection| connection.state()).collect();
        for connection in self.shared.owners.read().connections.values() {
            if states
                .iter()
                .all(|state| state.address != connection.address)
            {
                states.push(connection.state());
            }
        }
        states
    }

    /// Whether what is said of every Revision is heard: by the owner of its bucket, or by one of the given addresses.
    pub fn reaches_all(&self) -> bool {
        let is_connected = |connection: &Arc<Connection>| connection.status.is_connected();
        if self.shared.connections.iter().any(is_connected) {
            return true;
        }
        let owners = self.shared.owners.read();
        let has_owner = |bucket: &String| owners.connections.get(bucket).is_some_and(is_connected);
        !owners.buckets.is_empty() && owners.buckets.iter().all(has_owner)
    }

    /// The connection that takes what is said of any Revision: the first that stands, or else the first.
    fn any(&self) -> Option<&Arc<Connection>> {
        let connections = &self.shared.connections;
        let standing = connections
            .iter()
            .find(|connection| connection.status.is_connected());
        standing.or(connections.first())
    }
}

impl StatSink for RemoteSink {
    fn send(&self, messages: Vec<StatMessage>) {
        let owners = self.shared.owners.read();
        let mut of_owner: BTreeMap<&str, Vec<StatMessage>> = BTreeMap::new();
        let mut of_others = Vec::new();
        for message in messages {
            let owner = owners.of(&message);
            match owner.filter(|owner| owner.status.is_connected()) {
                Some(owner) => of_owner.entry(&owner.address).or_default().push(message),
                None => of_others.push(message),
            }
        }
        for (address, messages) in of_owner {
            let mut connections = owners.connections.values();
            if let Some(owner) = connections.find(|connection| connection.address == address) {
                owner.send(messages);
            }
        }
        if !of_others.is_empty()
            && let Some(connection) = self.any()
        {
            connection.send(of_others);
        }
    }

    fn is_connected(&self) -> bool {
        let is_connected = |connection: &Arc<Connection>| connection.status.is_connected();
        self.shared.connections.iter().any(is_connected)
            || self
                .shared
                .owners
                .read()
                .connections
                .values()
                .any(is_connected)
    }
}

impl Owners {
    /// The connection to the owner of the bucket that a Revision falls to, if there is one.
    ///
    /// Source: `BucketSet.Owner`, knative/pkg `hash/bucketer.go`: the subset of one, by `namespace/name`.
    fn of(&self, message: &StatMessage) -> Option<&Arc<Connection>> {
        let buckets = self.buckets.iter().map(String::as_str);
        let chosen = choose_subset(buckets, 1, &message.revision.to_string());
        self.connections.get(chosen.into_iter().next()?)
    }
}

/// All buckets of the set that one belongs to, by its name: `autoscaler-bucket-00-of-03`.
///
/// Source: `bucketName`, knative/serving `pkg/autoscaler/bucket/bucket.go`.
fn siblings(bucket: &str) -> Vec<String> {
    let parsed = bucket.rsplit_once("-of-").and_then(|(numbered, total)| {
        let (prefix, _) = numbered.rsplit_once('-')?;
        Some((prefix, total.parse::<usize>().ok()?))
    });
    let Some((prefix, total)) = parsed.filter(|(_, total)| *total <= MAX_BUCKETS) else {
        return vec![bucket.to_owned()];
    };
    (0..total)
        .map(|number| format!("{prefix}-{number:02}-of-{total:02}"))
        .collect()
}

/// Our end of one connection.
#[derive(Debug)]
struct Connection {
    address: String,
    status: Arc<Status>,
    waiting: mpsc::Sender<Vec<StatMessage>>,
}

impl Connection {
    fn new(address: String, timing: Timing) -> (Arc<Self>, Driver) {
        let (waiting, lists) = mpsc::channel(WAITING_LISTS);
        let status = Arc::new(Status::default());
        let driver = Driver {
            url: url(&address),
            timing,
            lists,
            status: Arc::clone(&status),
        };
        let connection = Self {
            address,
            status,
            waiting,
        };
        (Arc::new(connection), driver)
    }

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
            last_error: self.status.last_error.lock().clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Status {
    connected: AtomicBool,
    errors: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<Arc<str>>>,
}

impl Status {
    fn fails(&self, why: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(why.into());
    }

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
#[derive(Debug)]
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
            let why = match timeout(self.timing.handshake, dial(&self.url)).await {
                Ok(Ok(socket)) => return Some(socket),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "the handshake was not answered".to_owned(),
            };
            debug!(url = self.url, attempt, why, "autoscaler not reachable");
            if *attempt == 0 {
                warn!(
                    url = self.url,
                    "autoscaler not reachable, stats are dropped"
                );
            }
            self.status.fails(&why);
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
        self.status.fails(&end.to_string());
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
