//! One watch of one kind: what the API server says, as changes of a table.
//!
//! [`kube::runtime::watcher`] lists, watches, and lists again when its place in the history is gone (410); what it is
//! left to us is to turn a new list into one change (so that what was deleted meanwhile goes, and nothing else does), to
//! wait between failures, and to say how the watch is.
//!
//! Every [`RELIST`] the list is asked for again even though nothing failed: an event that was lost on the way, which
//! nobody would notice, is made good then.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a watch lasts until it is asked for again, in seconds. A connection that has died without a word is noticed
/// 5 s later.
pub const WATCH_SECONDS: u32 = 60;
/// How often everything is listed anew.
pub const RELIST: Duration = Duration::from_secs(30 * 60);

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

    /// The name of this object.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
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
pub(super) struct Watch<K, T, N> {
    /// The kind, as people call it.
    pub(super) kind: &'static str,
    pub(super) api: Api<K>,
    /// Labels that objects must have; empty: any.
    pub(super) labels: String,
    /// What is kept of an object; nothing: it is no concern of ours.
    pub(super) keep: Box<dyn Fn(K) -> Option<T> + Send + Sync>,
    pub(super) wrap: fn(Change<T>) -> N,
    pub(super) news: mpsc::Sender<N>,
    pub(super) health: WatchHealth,
}

impl<K, T, N> Watch<K, T, N>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Tells all changes until nobody listens any more.
    pub(super) async fn run(self) {
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !self.labels.is_empty() {
            config = config.labels(&self.labels);
        }
        self.health.change(self.kind, |_| ());
        loop {
            let events = watcher(self.api.clone(), config.clone()).default_backoff();
            let until = Instant::now() + RELIST;
            if self.follow(events, until).await.is_err() {
                return; // the provider is gone
            }
        }
    }

    async fn follow(
        &self,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>,
        until: Instant,
    ) -> Result<(), mpsc::error::SendError<N>> {
        let mut events = std::pin::pin!(events);
        let mut listed = None;
        while let Ok(event) = tokio::time::timeout_at(until, events.next()).await {
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    self.failed(&error);
                    continue;
                }
                None => return Ok(()),
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
            self.works();
            self.news.send((self.wrap)(change)).await?;
        }
        Ok(())
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
        let has_recovered = self.health.change(self.kind, |state| {
            state.events += 1;
            state.failing.take().is_some()
        });
        if has_recovered {
            info!(kind = self.kind, "the watch works again");
        }
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
