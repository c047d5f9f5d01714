//! One watch: what is written into its response, event by event.
//!
//! Sources: kubernetes/apiserver `pkg/storage/cacher/cache_watcher.go` (which events a selector lets pass, when
//! bookmarks come), `pkg/endpoints/handlers/watch.go` (how it ends).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::pending;
use futures::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::call::{Call, Selector};
use super::fault::Mishap;
use super::refusal::Refusal;
use super::shared::{Interruption, Shared};
use super::store::{Change, text};

/// The last bookmark comes this long before a watch's own end.
const LAST_BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// A watch that was accepted.
pub(super) struct Watch {
    shared: Arc<Shared>,
    call: Call,
    selector: Selector,
    /// What has been looked at.
    seen: u64,
    pending: VecDeque<Bytes>,
    bookmark: Option<Instant>,
    end: Option<Instant>,
    changed: watch::Receiver<u64>,
    interrupted: watch::Receiver<Interruption>,
    silenced: watch::Receiver<u64>,
    /// The connection's number: see `Shared::silence`.
    connection: u64,
    is_over: bool,
}

impl Watch {
    /// Begins a watch; a version that is gone is told by its first event, as the recordings show.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        call: Call,
        selector: Selector,
        connection: u64,
    ) -> Self {
        let now = Instant::now();
        let timeout = call
            .options
            .number("timeoutSeconds")
            .map(Duration::from_secs);
        let (changed, interrupted, silenced) = shared.signals();
        let bookmark_every = shared.bookmark_every();
        let wants_bookmarks = call.options.is_set("allowWatchBookmarks");
        let end = timeout.map(|timeout| now + timeout);
        let mut watch = Self {
            shared: Arc::clone(shared),
            selector,
            seen: 0,
            pending: VecDeque::new(),
            bookmark: wants_bookmarks
                .then(|| next_bookmark(now, bookmark_every, end))
                .flatten(),
            end,
            changed,
            interrupted,
            silenced,
            connection,
            is_over: false,
            call,
        };
        watch.start();
        watch
    }

    /// A watch that only says that its version is gone.
    pub(super) fn gone(shared: &Arc<Shared>, call: Call, connection: u64) -> Self {
        let mut watch = Self::begin(shared, call, Selector::default(), connection);
        watch.pending.clear();
        let asked = watch.call.options.number("resourceVersion").unwrap_or(0);
        watch.expire(asked);
        watch
    }

    /// As the body of a response.
    pub(super) fn into_body(self) -> Body {
        Body::from_stream(self.into_stream())
    }

    fn start(&mut self) {
        let asked = self.call.options.number("resourceVersion").unwrap_or(0);
        let wants_state = asked == 0 || self.call.options.is_set("sendInitialEvents");
        let (revision, horizon) = self.shared.versions();
        if !wants_state {
            self.seen = asked;
            if asked < horizon {
                self.expire(asked);
            }
            return;
        }
        let objects = self.shared.list(&self.call);
        for object in objects {
            if self.selector.matches(&object) {
                self.push("ADDED", &object);
            }
        }
        self.seen = revision;
        if self.call.options.is_set("sendInitialEvents")
            && self.call.options.is_set("allowWatchBookmarks")
        {
            self.push_bookmark(true);
        }
    }

    fn expire(&mut self, asked: u64) {
        let (_, horizon) = self.shared.versions();
        let status = Refusal::version_too_old(asked, horizon).status();
        self.push("ERROR", &status);
        self.is_over = true;
    }

    fn push(&mut self, event: &str, object: &Value) {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        self.pending.push_back(Bytes::from(line));
    }

    fn push_bookmark(&mut self, ends_initial_events: bool) {
        let mut metadata = json!({"resourceVersion": self.seen.to_string()});
        if ends_initial_events {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "apiVersion": self.call.kind.api_version(),
            "kind": self.call.kind.kind,
            "metadata": metadata,
        });
        self.push("BOOKMARK", &object);
    }

    /// Takes over what happened since.
    fn collect(&mut self) {
        let changes = self.shared.since(self.seen, &self.call);
        for (change, mishap) in changes.iter() {
            if let Some((event, object)) = self.event_of(change) {
                match mishap {
                    Some(Mishap::Lost) => {}
                    Some(Mishap::Doubled) => {
                        self.push(event, &object);
                        self.push(event, &object);
                    }
                    None => self.push(event, &object),
                }
            }
        }
        self.seen = self.seen.max(changes.upto);
    }

    /// What a change is to this watch: one that leaves the selection is a deletion, with the object as it was last
    /// selected and the change's version.
    fn event_of(&self, change: &Change) -> Option<(&'static str, Value)> {
        let passes = |object: &Option<Arc<Value>>| {
            object.as_deref().is_some_and(|object| {
                let namespace = self.call.namespace.as_deref();
                let is_inside = namespace
                    .is_none_or(|namespace| text(object, "/metadata/namespace") == namespace);
                is_inside && self.selector.matches(object)
            })
        };
        match (passes(&change.before), passes(&change.after)) {
            (false, false) => None,
            (true, false) => {
                let mut object = change.before.as_deref().cloned()?;
                object["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                Some(("DELETED", object))
            }
            (before, true) => {
                let event = if before { "MODIFIED" } else { "ADDED" };
                Some((event, change.after.as_deref().cloned()?))
            }
        }
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self, async |mut watch| {
            let piece = watch.next().await?;
            Some((piece, watch))
        })
    }

    /// The next piece of the body; none when the watch is over.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if *self.silenced.borrow_and_update() > self.connection {
                let never: Infallible = pending().await;
                match never {}
            }
            if let Some(piece) = self.pending.pop_front() {
                return Some(Ok(piece));
            }
            if self.is_over {
                return None;
            }
            if self.interrupted.has_changed().unwrap_or(false) {
                let interruption = self.interrupted.borrow_and_update().clone();
                if interruption.concerns(&self.call) {
                    self.is_over = true;
                    match interruption.is_gone {
                        true => self.expire(self.seen),
                        false => return Some(Err(io::ErrorKind::ConnectionReset.into())),
                    }
                    continue;
                }
            }
            self.collect();
            if self.pending.is_empty() {
                self.rest().await;
            }
        }
    }

    /// Waits until there may be something to say.
    async fn rest(&mut self) {
        let far = Instant::now() + Duration::from_secs(3600 * 24);
        let (bookmark, end) = (self.bookmark.unwrap_or(far), self.end.unwrap_or(far));
        tokio::select! {
            _ = self.changed.changed() => {}
            _ = self.interrupted.changed() => self.interrupted.mark_changed(),
            _ = self.silenced.changed() => {}
            () = sleep_until(bookmark) => {
                self.push_bookmark(false);
                self.bookmark = next_bookmark(Instant::now(), self.shared.bookmark_every(), self.end);
            }
            () = sleep_until(end) => self.is_over = true,
        }
    }
}

/// About every minute, and shortly before the end.
fn next_bookmark(now: Instant, every: Duration, end: Option<Instant>) -> Option<Instant> {
    let regular = now + every;
    let last = end.map(|end| end - LAST_BOOKMARK_BEFORE_END);
    let next = last.map_or(regular, |last| regular.min(last));
    (next > now).then_some(next)
}
