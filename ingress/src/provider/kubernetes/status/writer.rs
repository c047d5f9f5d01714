//! The one who writes: looks at what is marked, a bounded number of writes at once.
//!
//! Failures that are about everything (nobody answers, 401, 403, 429, 5xx) pause everything, and a single write tries
//! whether it is over; failures about one KIngress only put that one off.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kube::api::PostParams;
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::super::kept::CLASS_ANNOTATION;
use super::super::lease::Leadership;
use super::super::objects::KIngress;
use super::super::peers::confirm::{Changed, Confirmations};
use super::super::random;
use super::board::{Job, Plan};
use super::{IngressStatus, Key, Shared};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a write that met a newer object is tried again at once.
const CONFLICTS_IN_A_ROW: u32 = 5;
/// How many KIngresses are looked at before others on this thread get a turn.
const LOOKS_AT_ONCE: usize = 256;
/// The first pause when the API server fails; twice as long after each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that an API server is left alone that asks for it (`Retry-After`).
const LONGEST_ASKED: Duration = Duration::from_secs(30);

pub(super) struct Writer {
    shared: Arc<Shared>,
    client: Client,
    confirmations: Confirmations,
    /// When to look at what again.
    due: BTreeSet<(Instant, Key)>,
    /// Failures in a row that were about everything, and until when nothing is sent for that.
    trouble: u32,
    paused_until: Option<Instant>,
}

/// How a write ended.
enum Ended {
    /// The API has this now.
    Has(Box<str>, Box<IngressStatus>),
    /// The object is gone, another, or of a newer generation: the watch will tell.
    Outdated(&'static str),
    /// It was overtaken again and again.
    Overtaken,
    Failed(Failed),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer within {REQUEST_TIMEOUT:?}")]
    Silent,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Failed {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether other requests would fail as well.
    fn is_about_everything(&self) -> bool {
        match self.code() {
            Some(code) => matches!(code, 401 | 403 | 429 | 500..),
            None => true,
        }
    }

    /// How long the API server wants to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        let Self::Api(kube::Error::Api(status)) = self else {
            return None;
        };
        let details = status.details.as_ref()?;
        Some(Duration::from_secs(details.retry_after_seconds.into()))
    }
}

/// A KIngress in an answer: what is needed of it.
#[derive(Deserialize)]
struct Answered {
    metadata: Metadata,
    #[serde(default)]
    status: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    uid: String,
    generation: i64,
    resource_version: Box<str>,
    annotations: std::collections::BTreeMap<String, String>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, client: Client, confirmations: Confirmations) -> Self {
        Self {
            shared,
            client,
            confirmations,
            due: BTreeSet::new(),
            trouble: 0,
            paused_until: None,
        }
    }

    pub(super) async fn run(mut self, mut leadership: Leadership) {
        loop {
            leadership.becomes(true).await;
            tokio::select! {
                // What is on its way when the leadership ends is given up; the version it names keeps it from doing harm.
                () = leadership.becomes(false) => {}
                never = self.lead() => match never {},
            }
        }
    }

    async fn lead(&mut self) -> Infallible {
        self.due.clear();
        (self.trouble, self.paused_until) = (0, None);
        self.shared.board.lock().begin(Instant::now());
        let mut writing: FuturesUnordered<BoxFuture<'static, (Job, Ended)>> =
            FuturesUnordered::new();
        let mut keys: HashSet<Key> = HashSet::new();
        loop {
            let is_done = self.start(&mut writing, &mut keys);
            if !is_done {
                yield_now().await;
                continue;
            }
            let next = self.next_time();
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = self.confirmations.changed() => self.take_confirmations(),
                Some((job, ended)) = writing.next(), if !writing.is_empty() => {
                    keys.remove(&job.key);
                    self.finish(&job, ended);
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Looks at what is marked and begins to write what has to be written. Whether that is all for now.
    fn start(
        &mut self,
        writing: &mut FuturesUnordered<BoxFuture<'static, (Job, Ended)>>,
        keys: &mut HashSet<Key>,
    ) -> bool {
        let now = Instant::now();
        let mut board = self.shared.board.lock();
        while let Some((time, key)) = self.due.first().cloned()
            && time <= now
        {
            self.due.remove(&(time, key.clone()));
            board.mark(&key);
        }
        if self.paused_until.is_some_and(|until| now < until) {
            return true;
        }
        let at_once = match self.trouble {
            0 => self.shared.settings.writes_at_once.max(1),
            _ => 1, // is it over?
        };
        for _ in 0..LOOKS_AT_ONCE {
            if writing.len() >= at_once {
                return true;
            }
            let Some(key) = board.next_marked() else {
                return true;
            };
            if keys.contains(&key) {
                continue; // marked again when its write has ended
            }
            match board.plan(&key, now, &self.confirmations, &self.shared.settings) {
                Plan::Wait(None) => {}
                Plan::Wait(Some(time)) => {
                    self.due.insert((time, key));
                }
                Plan::Write(job) => {
                    keys.insert(key);
                    let write = write(Arc::clone(&self.shared), self.client.clone(), *job);
                    writing.push(Box::pin(write));
                }
            }
        }
        false
    }

    fn next_time(&self) -> Instant {
        let now = Instant::now();
        let far = now + Duration::from_secs(3600);
        let due = self.due.first().map_or(far, |(time, _)| *time);
        match self.paused_until {
            Some(until) if until > now => until,
            _ => due,
        }
    }

    fn take_confirmations(&self) {
        let changed = self.confirmations.take_changed();
        let mut board = self.shared.board.lock();
        match changed {
            Changed::All => board.mark_unsettled(),
            Changed::Some(uids) => {
                for uid in uids {
                    board.mark_uid(&uid);
                }
            }
        }
    }

    fn finish(&mut self, job: &Job, ended: Ended) {
        let now = Instant::now();
        if !matches!(&ended, Ended::Failed(error) if error.is_about_everything()) {
            if self.trouble > 0 {
                info!(failures = self.trouble, "statuses are written again");
            }
            (self.trouble, self.paused_until) = (0, None);
        }
        let mut board = self.shared.board.lock();
        match ended {
            Ended::Has(resource_version, status) => board.written(job, resource_version, *status),
            Ended::Outdated(why) => board.failed(job, why, now),
            Ended::Overtaken => {
                let why = "its object changes faster than its status can be written";
                board.failed(job, why, now);
            }
            Ended::Failed(error) if error.is_about_everything() => {
                board.mark(&job.key);
                drop(board);
                self.pause(job, &error, now);
            }
            Ended::Failed(error) => {
                warn!(ingress = %job.key, %error, "a status cannot be written");
                board.failed(job, &format!("its status cannot be written: {error}"), now);
            }
        }
    }

    /// Sends nothing for a while. Those that were on their way when the first one failed fail with it, and count once.
    fn pause(&mut self, job: &Job, error: &Failed, now: Instant) {
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        if self.trouble == 0 {
            warn!(ingress = %job.key, %error, "statuses cannot be written now");
        }
        self.trouble = self.trouble.saturating_add(1);
        let pause = FIRST_PAUSE * 2_u32.pow(self.trouble.min(16) - 1);
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_ASKED);
        let pause = pause.min(LONGEST_PAUSE).max(asked);
        self.paused_until = Some(now + pause.mul_f64(1.0 + 0.2 * random::fraction()));
    }
}

/// Writes one status, also over newer versions of the object as long as it is about the same generation.
async fn write(shared: Arc<Shared>, client: Client, mut job: Job) -> (Job, Ended) {
    for _ in 0..CONFLICTS_IN_A_ROW {
        match put(&shared, &client, &job).await {
            Ok(answered) => {
                shared.writes.fetch_add(1, Ordering::Relaxed);
                debug!(ingress = %job.key, generation = job.generation, "status written");
                let status = Box::new(IngressStatus::read(answered.status));
                return (job, Ended::Has(answered.metadata.resource_version, status));
            }
            Err(error) if error.code() == Some(404) => return (job, Ended::Outdated("it is gone")),
            Err(error) if error.code() != Some(409) => {
                shared.errors.fetch_add(1, Ordering::Relaxed);
                return (job, Ended::Failed(error));
            }
            Err(_conflict) => {
                shared.conflicts.fetch_add(1, Ordering::Relaxed);
            }
        }
        let newer = match get(&client, &job.key).await {
            Ok(newer) => newer,
            Err(error) if error.code() == Some(404) => return (job, Ended::Outdated("it is gone")),
            Err(error) => {
                shared.errors.fetch_add(1, Ordering::Relaxed);
                return (job, Ended::Failed(error));
            }
        };
        if let Some(why) = differs(&newer.metadata, &job, &shared.settings.ingress_class) {
            return (job, Ended::Outdated(why));
        }
        job.resource_version = newer.metadata.resource_version;
        job.status = IngressStatus::read(newer.status);
        if wanted(&shared, &job) == job.status {
            let (resource_version, status) = (job.resource_version.clone(), job.status.clone());
            return (job, Ended::Has(resource_version, Box::new(status)));
        }
    }
    (job, Ended::Overtaken)
}

/// Why a newer object is not the one that was judged.
fn differs(newer: &Metadata, job: &Job, ingress_class: &str) -> Option<&'static str> {
    if newer.uid != *job.uid {
        return Some("it is another of the same name");
    }
    if newer.annotations.get(CLASS_ANNOTATION).map(String::as_str) != Some(ingress_class) {
        return Some("it is not ours any more");
    }
    (newer.generation != job.generation).then_some("it has a newer generation")
}

fn wanted(shared: &Shared, job: &Job) -> IngressStatus {
    let settings = &shared.settings;
    job.status.after(
        job.generation,
        &job.verdict,
        &settings.entrances,
        (settings.clock)(),
    )
}

/// Replaces the status of the version that the job is about.
///
/// Of the object only its names go along: for a status, the API server takes the rest from what it has (kubernetes/
/// apiextensions-apiserver `pkg/registry/customresource/status_strategy.go`, `PrepareForUpdate`), and so we need not
/// keep it. The uid keeps it from being written to another of the same name.
async fn put(shared: &Shared, client: &Client, job: &Job) -> Result<Answered, Failed> {
    let body = json!({
        "apiVersion": KIngress::api_version(&()),
        "kind": KIngress::kind(&()),
        "metadata": {
            "name": &*job.key.name,
            "namespace": &*job.key.namespace,
            "uid": &*job.uid,
            "resourceVersion": job.resource_version,
        },
        "status": wanted(shared, job),
    });
    let request = path(&job.key).replace_subresource(
        "status",
        &job.key.name,
        &PostParams::default(),
        body.to_string().into_bytes(),
    );
    send(client, request).await
}

async fn get(client: &Client, key: &Key) -> Result<Answered, Failed> {
    send(
        client,
        path(key).get(&key.name, &kube::api::GetParams::default()),
    )
    .await
}

fn path(key: &Key) -> kube::core::Request {
    kube::core::Request::new(KIngress::url_path(&(), Some(&key.namespace)))
}

async fn send(
    client: &Client,
    request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<Answered, Failed> {
    let request = request.map_err(kube::Error::BuildRequest)?;
    match timeout(REQUEST_TIMEOUT, client.request(request)).await {
        Ok(answered) => Ok(answered?),
        Err(_elapsed) => Err(Failed::Silent),
    }
}
