//! The leader's side: what is in effect at every ready replica.
//!
//! While we lead, one task per ready replica asks for news and is answered when there are some; our own log is read
//! directly. What is known of a replica goes with it, and all of it with the leadership.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::super::Replica;
use super::super::applied::{AppliedLog, News};
use super::super::lease::Leadership;
use super::auth::TokenFile;
use super::{HOLD, PATH};

/// A ready replica that has not answered for this long is named to whoever waits for it.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);
/// How long connecting to a replica may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than [`HOLD`] an answer may take.
const GRACE: Duration = Duration::from_secs(3);
/// How long to wait after the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The largest answer that is read: everything about some 200,000 KIngresses.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How often it is looked for replicas that have fallen silent.
const LOOK_FOR_SILENCE: Duration = Duration::from_secs(1);

/// What the leader is told about asking.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our own Pod: its log is read directly.
    pub own_pod: String,
    /// The port of the replicas' [`serve_peers`](super::serve_peers).
    pub port: u16,
    /// Our token; none where replicas are [open](super::auth::PeerAuth::Open).
    pub token: Option<TokenFile>,
    /// [`SILENT_AFTER`].
    pub silent_after: Duration,
}

/// What is known of the replicas; cheap to clone.
#[derive(Clone)]
pub struct Confirmations(Arc<Shared>);

struct Shared {
    settings: Settings,
    table: Mutex<Table>,
    /// The replicas have changed.
    replicas_changed: Notify,
    /// There is something to take with [`Confirmations::take_changed`].
    news: Notify,
}

#[derive(Default)]
struct Table {
    replicas: BTreeMap<Replica, Known>,
    epochs: u64,
    changed: HashSet<Box<str>>,
    /// More has changed than `changed` says: replicas came or went or fell silent.
    all_changed: bool,
}

/// What is known of one replica.
struct Known {
    /// Tells this from what was known of the same replica before: who followed it then knows of things this does not.
    epoch: u64,
    generations: HashMap<Box<str>, i64>,
    /// When it last answered, or became known.
    heard: Instant,
    is_silent: bool,
}

/// Whether a generation is in effect everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// At every ready replica.
    ByAll,
    /// There is no ready replica, or none is known yet.
    NoReplicas,
    /// Some do not have it, or did not say so.
    Waits {
        /// Those that answer.
        behind: Vec<Box<str>>,
        /// Those that have not answered for [`SILENT_AFTER`].
        silent: Vec<Box<str>>,
    },
}

/// What may be different since the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// What is known of the KIngresses with these uids.
    Some(HashSet<Box<str>>),
    /// Anything.
    All,
}

/// Why a replica told nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    NoConnection,
    #[error("no answer within {:?}", HOLD + GRACE)]
    NoAnswer,
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("cannot ask: {0}")]
    Request(#[from] axum::http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {MAX_ANSWER} bytes, or broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

impl Confirmations {
    /// Nothing is known yet. The returned future asks, while `leadership` is ours, and has to be run.
    pub fn new(
        settings: Settings,
        own: AppliedLog,
        leadership: Leadership,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let confirmations = Self(Arc::new(Shared {
            settings,
            table: Mutex::default(),
            replicas_changed: Notify::new(),
            news: Notify::new(),
        }));
        let run = confirmations.clone().run(own, leadership);
        (confirmations, run)
    }

    /// The replicas that are ready now, ours among them if it is.
    pub fn set_replicas(&self, replicas: impl IntoIterator<Item = Replica>) {
        let now = Instant::now();
        {
            let mut table = self.0.table.lock();
            let mut before = std::mem::take(&mut table.replicas);
            for replica in replicas {
                let known = before.remove(&replica);
                let known = known.unwrap_or_else(|| table.unheard(now));
                table.replicas.insert(replica, known);
            }
            table.all_changed = true;
        }
        self.0.replicas_changed.notify_one();
        self.0.news.notify_one();
    }

    /// Whether this generation is in effect everywhere.
    pub fn of(&self, uid: &str, generation: i64) -> Confirmation {
        let table = self.0.table.lock();
        if table.replicas.is_empty() {
            return Confirmation::NoReplicas;
        }
        let (mut behind, mut silent) = (Vec::new(), Vec::new());
        for (replica, known) in &table.replicas {
            if known
                .generations
                .get(uid)
                .is_some_and(|has| *has >= generation)
            {
                continue;
            }
            let names = if known.is_silent {
                &mut silent
            } else {
                &mut behind
            };
            names.push(name(replica));
        }
        if behind.is_empty() && silent.is_empty() {
            return Confirmation::ByAll;
        }
        Confirmation::Waits { behind, silent }
    }

    /// Waits until there is something to [take](Self::take_changed).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped. One waits at a time.
    pub async fn changed(&self) {
        self.0.news.notified().await;
    }

    /// How many replicas are ready, and how many of them are silent.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.0.table.lock();
        let is_silent = |known: &&Known| known.is_silent;
        let silent = table.replicas.values().filter(is_silent).count();
        (table.replicas.len(), silent)
    }

    /// What may be different since the last call.
    pub fn take_changed(&self) -> Changed {
        let mut table = self.0.table.lock();
        let changed = std::mem::take(&mut table.changed);
        if std::mem::take(&mut table.all_changed) {
            return Changed::All;
        }
        Changed::Some(changed)
    }

    /// For tests: nobody asks, [`tell`](Self::tell) says what replicas have.
    #[cfg(test)]
    pub(in super::super) fn by_hand(replicas: &[Replica]) -> Self {
        let settings = Settings {
            own_pod: String::new(),
            port: 0,
            token: None,
            silent_after: SILENT_AFTER,
        };
        let (confirmations, _run) = Self::new(settings, AppliedLog::new(), Leadership::always());
        confirmations.set_replicas(replicas.iter().cloned());
        confirmations
    }

    /// For tests: a replica answers that these generations are in effect there.
    #[cfg(test)]
    pub(in super::super) fn tell(&self, replica: &Replica, applied: &[(&str, i64)]) {
        let epoch = self.0.table.lock().replicas[replica].epoch;
        let news = News {
            applied: applied
                .iter()
                .map(|(uid, generation)| ((*uid).to_owned(), *generation))
                .collect(),
            ..News::default()
        };
        self.learn(replica, epoch, news);
    }

    /// For tests: a second has passed.
    #[cfg(test)]
    pub(in super::super) fn look(&self) {
        self.look_for_silence();
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    async fn run(self, own: AppliedLog, mut leadership: Leadership) {
        loop {
            leadership.becomes(true).await;
            {
                let asking = pin!(self.ask_all(&own));
                tokio::select! {
                    () = leadership.becomes(false) => {}
                    never = asking => match never {},
                }
            }
            self.forget();
        }
    }

    /// What was heard is no longer followed, so it no longer counts.
    fn forget(&self) {
        let now = Instant::now();
        let mut table = self.0.table.lock();
        let replicas = std::mem::take(&mut table.replicas);
        for replica in replicas.into_keys() {
            let known = table.unheard(now);
            table.replicas.insert(replica, known);
        }
        table.all_changed = true;
    }

    /// Keeps one task for each replica.
    async fn ask_all(&self, own: &AppliedLog) -> Infallible {
        self.forget(); // whoever was silent before we asked has not been asked
        let mut asking = JoinSet::new();
        let mut tasks: BTreeMap<(Replica, u64), AbortHandle> = BTreeMap::new();
        let mut tick = interval(LOOK_FOR_SILENCE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = self.wanted();
            tasks.retain(|known, task| {
                let stays = wanted.contains(known);
                if !stays {
                    task.abort();
                }
                stays
            });
            for (replica, epoch) in wanted {
                tasks.entry((replica.clone(), epoch)).or_insert_with(|| {
                    let asker = Asker {
                        confirmations: self.clone(),
                        replica,
                        epoch,
                        heard: Heard::default(),
                    };
                    asking.spawn(asker.run(own.clone()))
                });
            }
            tokio::select! {
                () = self.0.replicas_changed.notified() => {}
                Some(_aborted) = asking.join_next() => {}
                _ = tick.tick() => self.look_for_silence(),
            }
        }
    }

    fn wanted(&self) -> BTreeSet<(Replica, u64)> {
        let table = self.0.table.lock();
        let replicas = table.replicas.iter();
        replicas
            .map(|(replica, known)| (replica.clone(), known.epoch))
            .collect()
    }

    fn look_for_silence(&self) {
        let now = Instant::now();
        let silent_after = self.0.settings.silent_after;
        let mut has_news = false;
        {
            let mut table = self.0.table.lock();
            for (replica, known) in &mut table.replicas {
                if !known.is_silent && now.duration_since(known.heard) >= silent_after {
                    warn!(replica = %name(replica), after = ?silent_after, "a ready replica does not answer");
                    known.is_silent = true;
                    has_news = true;
                }
            }
            table.all_changed |= has_news;
        }
        if has_news {
            self.0.news.notify_one();
        }
    }

    /// Takes in what a replica told, if it still counts.
    fn learn(&self, replica: &Replica, epoch: u64, news: News) {
        let has_news = {
            let mut table = self.0.table.lock();
            let table = &mut *table;
            let known = table.replicas.get_mut(replica);
            let Some(known) = known.filter(|known| known.epoch == epoch) else {
                return;
            };
            known.heard = Instant::now();
            if std::mem::take(&mut known.is_silent) {
                info!(replica = %name(replica), "a replica answers again");
                table.all_changed = true;
            }
            if news.is_all {
                table.all_changed |= !known.generations.is_empty();
                known.generations.clear();
            }
            for uid in news.removed {
                known.generations.remove(uid.as_str());
                table.changed.insert(uid.into());
            }
            for (uid, generation) in news.applied {
                let uid = Box::from(uid);
                table.changed.insert(Box::clone(&uid));
                known.generations.insert(uid, generation);
            }
            table.all_changed || !table.changed.is_empty()
        };
        if has_news {
            self.0.news.notify_one();
        }
    }
}

impl fmt::Debug for Confirmations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmations")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Table {
    fn unheard(&mut self, now: Instant) -> Known {
        self.epochs += 1;
        Known {
            epoch: self.epochs,
            generations: HashMap::new(),
            heard: now,
            is_silent: false,
        }
    }
}

/// How far a log has been followed.
#[derive(Debug, Default)]
struct Heard {
    instance: String,
    next: u64,
    answers: u64,
}

/// Asks one replica.
struct Asker {
    confirmations: Confirmations,
    replica: Replica,
    epoch: u64,
    heard: Heard,
}

impl Asker {
    async fn run(mut self, own: AppliedLog) {
        if *self.replica.pod == *self.settings().own_pod {
            return self.read(&own).await;
        }
        let mut failures = 0;
        loop {
            let before = self.heard.answers;
            let Err(error) = self.follow().await;
            failures = if self.heard.answers > before {
                1
            } else {
                failures + 1
            };
            if failures == 2 {
                info!(replica = %name(&self.replica), %error, "cannot ask a replica");
            }
            debug!(replica = %name(&self.replica), %error, failures, "asking a replica failed");
            let pause = FIRST_PAUSE * 2_u32.pow(failures.min(8) - 1);
            sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    fn settings(&self) -> &Settings {
        &self.confirmations.0.settings
    }

    /// Follows our own log.
    async fn read(&mut self, own: &AppliedLog) {
        loop {
            self.take(own.since(&self.heard.instance, self.heard.next));
            // Saying so now and then keeps it from counting as silent.
            drop(timeout(HOLD, own.has_news(&self.heard.instance, self.heard.next)).await);
        }
    }

    /// Asks over one connection until it fails.
    async fn follow(&mut self) -> Result<Infallible, Failed> {
        let address = SocketAddr::new(self.replica.address, self.settings().port);
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_elapsed| Failed::NoConnection)??;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let asking = async {
            loop {
                let asked = self.question(&mut sender, address);
                let answered = timeout(HOLD + GRACE, asked).await;
                let news = answered.map_err(|_elapsed| Failed::NoAnswer)??;
                self.take(news);
            }
        };
        let connection = async {
            connection.await?;
            Err(Failed::Closed)
        };
        tokio::select! {
            failed = asking => failed,
            ended = connection => ended,
        }
    }

    async fn question(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        address: SocketAddr,
    ) -> Result<News, Failed> {
        let line = format!(
            "{PATH}?after={}&instance={}",
            self.heard.next, self.heard.instance
        );
        let mut request = Request::get(line).header(HOST, address.to_string());
        if let Some(file) = &self.settings().token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", file.read()?));
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Empty::new())?).await?;
        if response.status() != StatusCode::OK {
            return Err(Failed::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(Failed::Body)?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }

    fn take(&mut self, news: News) {
        self.heard.instance.clone_from(&news.instance);
        self.heard.next = news.next;
        self.heard.answers += 1;
        self.confirmations.learn(&self.replica, self.epoch, news);
    }
}

/// What people call a replica: its Pod, or its address where that is not known.
fn name(replica: &Replica) -> Box<str> {
    if replica.pod.is_empty() {
        replica.address.to_string().into()
    } else {
        replica.pod.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_late_from_who_followed_a_replica_before_does_not_count() {
        let replica = Replica {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            pod: "a".into(),
        };
        let confirmations = Confirmations::by_hand(std::slice::from_ref(&replica));
        let epoch = confirmations.wanted().first().unwrap().1;
        confirmations.set_replicas([]);
        confirmations.set_replicas([replica.clone()]);
        let late = News {
            applied: vec![("x".to_owned(), 1)],
            ..News::default()
        };
        confirmations.learn(&replica, epoch, late.clone());
        assert_ne!(confirmations.of("x", 1), Confirmation::ByAll);
        let epoch = confirmations.wanted().first().unwrap().1;
        confirmations.learn(&replica, epoch, late);
        assert_eq!(confirmations.of("x", 1), Confirmation::ByAll);
    }
}
