//! One watch of one kind: what the API server says, as changes of a table.
//!
//! [`kube::runtime::watcher()`] lists, watches, and lists again when a watch says that its place in the history is gone
//! (410). What is left to us is to turn a new list into one change (so that what was deleted meanwhile goes, and nothing
//! else does), to wait between failures, to list anew when a watch is not even begun at our place, and to say how the
//! watch is.
//!
//! A pause after failures is never longer than [`LONGEST_PAUSE`], unless the API server asks for one: however long it
//! was away, what it says is known soon after it is back. (client-go and kube wait up to a minute.)
//!
//! [`kube::runtime::watcher()`] does not say that a watch has begun again, only what that tells; where nothing changes, that
//! is nothing. So a watch that failed works again when it tells something, or when it has not failed for as long as an
//! answer could take at most.
//!
//! Every [`RELIST`] the list is asked for again even though nothing failed: an event that was lost on the way, which
//! nobody would notice, is made good then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::client::{CONNECT_TIMEOUT, READ_TIMEOUT};
use super::random;

/// How long a watch lasts until it is asked for again, in seconds. A connection that has died without a word is noticed
/// 5 s later.
pub const WATCH_SECONDS: u32 = 60;
/// How often everything is listed anew.
pub const RELIST: Duration = Duration::from_secs(30 * 60);
/// How long to wait after a failure; twice as long after each further one. Up to half of it is added by chance, so that
/// not all ask at once.
pub const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// The longest such pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Failures count as further ones until the watch has told something, or there was none for so long.
const FORGIVE_AFTER: Duration = Duration::from_secs(30);
/// A watch that was asked for so long ago and has not failed since has begun.
const BEGUN_AFTER: Duration = CONNECT_TIMEOUT
    .saturating_add(READ_TIMEOUT)
    .saturating_add(Duration::from_secs(5));
/// The longest that an API server is left alone that asks for it (`Retry-After`).
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of another object, mostly of the same namespace.
    #[must_use]
    pub fn beside(&self, namespace: &str, name: &str) -> Self {
        match *self.namespace == *namespace {
            true => Self::new(Arc::clone(&self.namespace), name),
            false => Self::new(namespace, name),
        }
    }

    /// The name of this object.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self::new(
            shared(meta.namespace.as_deref().unwrap_or_default()),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// The text of a namespace, shared with the object before if that was in the same one: lists go by namespaces.
fn shared(namespace: &str) -> Arc<str> {
    thread_local! { static LAST: RefCell<Arc<str>> = RefCell::new(Arc::default()) }
    LAST.with_borrow_mut(|last| {
        if **last != *namespace {
            *last = namespace.into();
        }
        Arc::clone(last)
    })
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What has changed about the objects of a kind.
#[derive(Debug)]
pub enum Change<T> {
    /// These are all there are.
    All(Vec<T>),
    /// This one is new or different.
    Set(T),
    /// This one is gone, or is no concern of ours any more.
    Gone(Key),
}

/// How the watches are, for people; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct WatchHealth(Arc<Mutex<BTreeMap<&'static str, WatchState>>>);

/// How one watch is.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchState {
    /// Everything there was has been seen once.
    pub is_synced: bool,
    /// How often everything was listed.
    pub lists: u64,
    /// Changes since the start.
    pub events: u64,
    /// Failures since the start.
    pub errors: u64,
    /// The failure that lasts; none while all is well.
    pub failing: Option<String>,
}

impl WatchHealth {
    /// All watches by kind.
    pub fn state(&self) -> BTreeMap<&'static str, WatchState> {
        self.0.lock().clone()
    }

    fn change<T>(&self, kind: &'static str, change: impl FnOnce(&mut WatchState) -> T) -> T {
        change(self.0.lock().entry(kind).or_default())
    }
}

/// What to watch, and what becomes of it.
pub struct Watch<K, T, N> {
    /// The kind, as people call it.
    pub kind: &'static str,
    /// Where to ask.
    pub api: Api<K>,
    /// Labels that objects must have; empty: any.
    pub labels: String,
    /// Fields that objects must have, as a selector; empty: any.
    pub fields: String,
    /// What is kept of an object; nothing: it is no concern of ours.
    pub keep: Box<dyn Fn(K) -> Option<T> + Send + Sync>,
    /// What a change is to whoever hears of it.
    pub wrap: Box<dyn Fn(Change<T>) -> N + Send + Sync>,
    /// Who hears of changes. While that is full, the watch waits.
    pub news: mpsc::Sender<N>,
    /// Where the watch says how it is.
    pub health: WatchHealth,
}

impl<K, T, N> Debug for Watch<K, T, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why everything is listed anew.
enum Relist {
    /// It is time.
    Due,
    /// A watch cannot begin at the version that was seen last.
    Lost,
}

impl<K, T, N> Watch<K, T, N>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Tells all changes until nobody listens any more.
    pub async fn run(self) {
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !self.labels.is_empty() {
            config = config.labels(&self.labels);
        }
        if !self.fields.is_empty() {
            config = config.fields(&self.fields);
        }
        self.health.change(self.kind, |_| ());
        let mut pauses = Pauses::default();
        loop {
            let events = watcher(self.api.clone(), config.clone());
            let until = Instant::now() + RELIST;
            match self.follow(events, until, &mut pauses).await {
                Ok(Relist::Due) => {}
                Ok(Relist::Lost) => {
                    info!(
                        kind = self.kind,
                        "the version that was seen last cannot be watched from: listing anew"
                    );
                }
                Err(_provider_is_gone) => return,
            }
        }
    }

    async fn follow(
        &self,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>,
        until: Instant,
        pauses: &mut Pauses,
    ) -> Result<Relist, mpsc::error::SendError<N>> {
        let mut events = std::pin::pin!(events);
        let mut listed = None;
        // After a failure: when it will have begun again.
        let mut has_begun: Option<Instant> = None;
        loop {
            let wakes = has_begun.map_or(until, |begun| begun.min(until));
            let event = match tokio::time::timeout_at(wakes, events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => {
                    self.failed(&error);
                    pauses.failed(&error).await;
                    if is_lost(&error) {
                        return Ok(Relist::Lost);
                    }
                    has_begun = Some(Instant::now() + BEGUN_AFTER);
                    continue;
                }
                Ok(None) => return Ok(Relist::Due),
                Err(_elapsed) if wakes < until => {
                    has_begun = None;
                    self.works();
                    continue;
                }
                Err(_elapsed) => return Ok(Relist::Due),
            };
            let change = match event {
                watcher::Event::Init => {
                    listed = Some(Vec::new());
                    continue;
                }
                watcher::Event::InitApply(object) => {
                    if let (Some(listed), Some(kept)) = (&mut listed, (self.keep)(object)) {
                        listed.push(kept);
                    }
                    continue;
                }
                watcher::Event::InitDone => match listed.take() {
                    Some(all) => {
                        self.listed();
                        Change::All(all)
                    }
                    None => continue,
                },
                watcher::Event::Apply(object) => {
                    let key = Key::of(&object);
                    match (self.keep)(object) {
                        Some(kept) => Change::Set(kept),
                        None => Change::Gone(key),
                    }
                }
                watcher::Event::Delete(object) => Change::Gone(Key::of(&object)),
            };
            has_begun = None;
            self.health.change(self.kind, |state| state.events += 1);
            self.works();
            if !matches!(change, Change::All(_)) {
                pauses.failures = 0; // it gets on; a list alone may be all that works
            }
            self.news.send((self.wrap)(change)).await?;
        }
    }

    fn failed(&self, error: &watcher::Error) {
        let message = with_causes(error);
        let is_new = self.health.change(self.kind, |state| {
            state.errors += 1;
            state.failing.replace(message.clone()).is_none()
        });
        if is_new {
            warn!(kind = self.kind, error = %message, "a watch fails; what was seen last stays in effect");
        }
    }

    fn listed(&self) {
        self.health.change(self.kind, |state| {
            state.lists += 1;
            state.is_synced = true;
        });
    }

    fn works(&self) {
        let has_recovered = self
            .health
            .change(self.kind, |state| state.failing.take().is_some());
        if has_recovered {
            info!(kind = self.kind, "the watch works again");
        }
    }
}

/// How long to wait after failures.
#[derive(Debug, Default)]
struct Pauses {
    /// In a row, and when the last one was.
    failures: u32,
    last: Option<Instant>,
}

impl Pauses {
    async fn failed(&mut self, error: &watcher::Error) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last > FORGIVE_AFTER) {
            self.failures = 0;
        }
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        let pause = doubled.min(LONGEST_PAUSE);
        let pause = pause.mul_f64(1.0 + random::fraction() / 2.0);
        tokio::time::sleep(pause.max(asked_pause(error))).await;
    }
}

/// How long the API server wants to be left alone.
fn asked_pause(error: &watcher::Error) -> Duration {
    let status = status_of(error);
    let details = status.and_then(|status| status.details.as_ref());
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(seconds.into()).min(LONGEST_ASKED)
}

/// Whether a watch was refused because of the version it was to begin at: it is gone, or has never been (a server that
/// was restored from a backup). `watcher` would ask for the same one again and again.
///
/// Source: kubernetes/apimachinery `pkg/api/errors/errors.go`, `IsResourceExpired`, `IsGone`, `NewTooLargeResourceVersionError`.
fn is_lost(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(_) = error else {
        return false;
    };
    status_of(error).is_some_and(|status| {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let mut causes = causes.map(|cause| cause.reason.as_str());
        status.code == 410 || causes.any(|cause| cause == "ResourceVersionTooLarge")
    })
}

/// What the API server said, if it said anything.
fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// An error with what it was caused by: the client's own words seldom say what is wrong.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !message.contains(&said) {
            message.push_str(": ");
            message.push_str(&said);
        }
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use futures::Stream;
    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    type Events = watcher::Result<watcher::Event<ConfigMap>>;

    /// A watch that follows this, and how it is; the clock is paused, and nothing is asked.
    fn following(events: impl Stream<Item = Events> + Send + 'static) -> WatchHealth {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let (news, mut heard) = mpsc::channel(1);
        let health = WatchHealth::default();
        let watch: Watch<ConfigMap, Key, Change<Key>> = Watch {
            kind: "kind",
            api: Api::all(super::super::client::of(config).unwrap()),
            labels: String::new(),
            fields: String::new(),
            keep: Box::new(|object| Some(Key::of(&object))),
            wrap: Box::new(|change| change),
            news,
            health: health.clone(),
        };
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        tokio::spawn(async move {
            let until = Instant::now() + RELIST;
            let followed = watch.follow(events, until, &mut Pauses::default()).await;
            drop(followed);
        });
        health
    }

    async fn is_failing_after(health: &WatchHealth, seconds: u64) -> bool {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        health.state()["kind"].failing.is_some()
    }

    fn failure() -> Events {
        Err(watcher::Error::NoResourceVersion)
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_has_begun_again_works_even_if_it_has_nothing_to_tell() {
        let health = following(stream::iter([failure()]).chain(stream::pending()));

        assert!(is_failing_after(&health, 60).await, "it may not have begun");
        assert!(!is_failing_after(&health, 60).await);
        assert_eq!(health.state()["kind"].events, 0, "it has told nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_waits_for_an_answer_in_vain_again_and_again_never_works() {
        let in_vain = stream::unfold((), |()| async {
            tokio::time::sleep(CONNECT_TIMEOUT + READ_TIMEOUT).await;
            Some((failure(), ()))
        });
        let health = following(in_vain);

        assert!(is_failing_after(&health, 100).await);
        for _ in 0..100 {
            assert!(is_failing_after(&health, 10).await);
        }
    }
}
