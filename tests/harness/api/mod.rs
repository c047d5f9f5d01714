//! A double of the Kubernetes API server.
//!
//! It keeps objects of any registered kind and answers for them as a real one does, where Parkway and its tests can
//! tell the difference: versions and conflicts, the `status` subresource, generations, finalizers, watches with
//! bookmarks and initial events, lists in pages and at older versions, versions that are gone, merge patches and
//! server-side apply, Leases, TokenReviews, discovery. What it says in a watch or a refusal is what the recordings of
//! a real server say (Kubernetes 1.36); where they are silent it follows the sources that each part names.
//!
//! A test works on the objects directly ([`put`](ApiDouble::put), [`edit`](ApiDouble::edit),
//! [`delete`](ApiDouble::delete)), and makes the server's life hard: it cuts watches, refuses connections, answers
//! errors, comes late, loses or doubles events, falls silent with connections open.
//!
//! ```no_run
//! # use parkway_tests::api::{ApiDouble, Which};
//! # use serde_json::json;
//! # async fn example() {
//! let api = ApiDouble::start();
//! api.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}}));
//! api.refuse(Which::lists("configmaps"), 3, 500);
//! let url = api.url(); // for `kube::Config::new`
//! # drop(url);
//! # }
//! ```
//!
//! Without sockets it is a [`router`](ApiDouble::router), which `kube::Client::new` takes as it is: the way to test
//! time with a paused clock. The double's own time goes with tokio's clock, from 2026-11-22T12:00:00Z.
//!
//! # What it does not do
//!
//! - No TLS, no HTTP/2, no protobuf, no table format, no compression; YAML only where it is JSON too.
//! - No RBAC (a test can refuse with 403), no admission, no defaulting, no schema, no quota, no validation beyond
//!   names and versions, no `deletecollection`, no JSON patch; a namespace need not exist.
//! - One version of each kind. No subresource but `status`.
//! - A strategic merge patch is taken as a merge patch: lists are replaced.
//! - Server-side apply knows fields only from what managers applied, not from what they updated; a list is one field,
//!   keys of list items are not looked at; `managedFields` are not written.
//! - Nothing is collected: owners may go and leave their dependents. There are no controllers: a Deployment has no
//!   Pods, a Service no EndpointSlices, unless the test puts them there.
//! - A version from the future is refused for lists; a watch from one waits.
//! - Watches come from one memory of what happened, which is long and forgets at a test's word
//!   ([`compact`](ApiDouble::compact)); etcd and the watch cache forget apart from each other.
//!
//! For the recorded byte streams themselves, with the times at which they came, there is [`replay`].

mod answer;
mod call;
mod discovery;
mod fault;
mod kind;
mod listener;
mod merge;
mod refusal;
pub mod replay;
mod shared;
mod store;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;

use fault::{Effect, Mishap};
pub use fault::{Request, Which};
pub use kind::Kind;
use listener::Port;
use shared::{Bearer, Interruption, Shared};
use store::{Part, Patch, text};

/// A running double; it ends when it is dropped.
pub struct ApiDouble {
    shared: Arc<Shared>,
    port: Option<Mutex<Port>>,
    /// Numbers requests in memory, which are connections of their own.
    in_memory: Arc<AtomicU64>,
}

impl ApiDouble {
    /// A double on a port of its own.
    pub fn start() -> Self {
        let double = Self {
            port: Some(Mutex::new(Port::reserve())),
            ..Self::in_memory()
        };
        double.accept_connections();
        double
    }

    /// A double without sockets, for [`router`](Self::router).
    pub fn in_memory() -> Self {
        Self {
            shared: Arc::new(Shared::new()),
            port: None,
            in_memory: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Where it listens; a double in memory does not.
    pub fn address(&self) -> SocketAddr {
        self.port
            .as_ref()
            .expect("a double with a port")
            .lock()
            .address()
    }

    /// Where it listens, for a client's settings.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The double as a service, without sockets. Each request counts as a connection of its own.
    pub fn router(&self) -> Router {
        let (shared, numbers) = (Arc::clone(&self.shared), Arc::clone(&self.in_memory));
        Router::new().fallback(move |request: http::Request<Body>| {
            let shared = Arc::clone(&shared);
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap_or_default().to_bytes();
                answer::answer(&shared, number, head, body).await
            }
        })
    }

    /// Serves one more kind, or this one in place of the one of the same name.
    pub fn register(&self, kind: Kind) {
        self.shared.with(|state| {
            state
                .kinds
                .retain(|known| known.resource() != kind.resource());
            state.kinds.push(kind);
        });
    }

    // Objects.

    /// Puts an object there, new or in place of what is there; returns it as stored. What it has of uid, generation
    /// and status stays as written; a generation that is not written counts changes of the spec.
    pub fn put(&self, object: Value) -> Value {
        let now = self.shared.now();
        let stored = self.shared.with(|state| {
            let kind = kind_of(&state.kinds, &object);
            state.store.put(&kind, object, &now)
        });
        (*stored).clone()
    }

    /// Puts the object of a file there, or every object of a folder's `.json` files.
    pub fn put_files(&self, path: &Path) {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths
                .iter()
                .filter(|path| path.extension().is_some_and(|end| end == "json"))
            {
                self.put_files(path);
            }
            return;
        }
        let text = std::fs::read(path).unwrap();
        self.put(
            serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        );
    }

    /// Changes an object by a merge patch, as a client would; what it says of `status` changes that too.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a patch is written where it is used"
    )]
    pub fn edit(&self, plural: &str, namespace: &str, name: &str, patch: Value) -> Value {
        let now = self.shared.now();
        self.shared.with(|state| {
            let kind = by_plural(&state.kinds, plural);
            let namespace = kind.is_namespaced.then_some(namespace);
            let parts = match kind.has_status && patch.get("status").is_some() {
                true => &[Part::Main, Part::Status][..],
                false => &[Part::Main],
            };
            let mut patched = Value::Null;
            for part in parts {
                let patch = Patch::Merge(patch.clone());
                let result = state
                    .store
                    .patch(&kind, namespace, name, patch, *part, &now);
                let (object, _) = result.unwrap_or_else(|refusal| panic!("{refusal:?}"));
                patched = (*object).clone();
            }
            patched
        })
    }

    /// Deletes an object; one with finalizers is only marked.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let now = self.shared.now();
        self.shared.with(|state| {
            let kind = by_plural(&state.kinds, plural);
            let namespace = kind.is_namespaced.then_some(namespace);
            let deleted = state
                .store
                .delete(&kind, namespace, name, &Value::Null, &now);
            deleted.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        });
    }

    /// An object as it is.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.with(|state| {
            let kind = by_plural(&state.kinds, plural);
            let namespace = kind.is_namespaced.then_some(namespace);
            let found = state.store.get(&kind, namespace, name);
            found.map(|object| (*object).clone())
        })
    }

    /// All objects of a kind.
    pub fn list(&self, plural: &str) -> Vec<Value> {
        self.shared.with(|state| {
            let kind = by_plural(&state.kinds, plural);
            let objects = state.store.list(&kind, None);
            objects
                .into_iter()
                .map(|(_, object)| (*object).clone())
                .collect()
        })
    }

    /// How many objects of a kind are so: cheaper than to look at them all.
    pub fn how_many(&self, plural: &str, is_so: impl Fn(&Value) -> bool) -> usize {
        let objects = self.shared.with(|state| {
            let kind = by_plural(&state.kinds, plural);
            state.store.list(&kind, None)
        });
        objects.iter().filter(|(_, object)| is_so(object)).count()
    }

    /// The number of the last change.
    pub fn version(&self) -> u64 {
        self.shared.versions().0
    }

    /// Waits until something has changed after the change of this number; returns the number of the last change.
    pub async fn changed_since(&self, version: u64) -> u64 {
        let (mut changed, ..) = self.shared.signals();
        loop {
            let now = self.version();
            if now > version {
                return now;
            }
            // The sender is ours, so it is there.
            drop(changed.changed().await);
        }
    }

    // Who may ask, and what was asked.

    /// From now on requests need one of the tokens that were admitted; others get 401.
    pub fn admit(&self, token: &str) {
        self.shared.with(|state| {
            state
                .admitted
                .get_or_insert_default()
                .insert(token.to_owned());
        });
    }

    /// A token expires: requests that carry it get 401.
    pub fn expire(&self, token: &str) {
        self.shared.with(|state| {
            state.admitted.get_or_insert_default().remove(token);
        });
    }

    /// A TokenReview of this token says that it is this user's (`system:serviceaccount:NAMESPACE:NAME`), for these
    /// audiences.
    pub fn issue(&self, token: &str, user: &str, audiences: &[&str]) {
        let bearer = Bearer {
            user: user.to_owned(),
            audiences: audiences.iter().map(ToString::to_string).collect(),
        };
        self.shared
            .with(|state| state.bearers.insert(token.to_owned(), bearer));
    }

    /// A TokenReview of this token says that it is nobody's.
    pub fn revoke(&self, token: &str) {
        self.shared.with(|state| state.bearers.remove(token));
    }

    /// What was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.with(|state| state.log.clone())
    }

    /// How many such requests were asked so far.
    pub fn count(&self, which: &Which) -> usize {
        self.shared.with(|state| {
            state
                .log
                .iter()
                .filter(|request| which.includes(request))
                .count()
        })
    }

    // What befalls it.

    /// Answers the next `times` such requests with an error: 410 for a list's version that is gone, 429, 500, 503,
    /// 504, 401, 403 and so on.
    pub fn refuse(&self, which: Which, times: u32, code: u16) {
        self.fault(which, times, Effect::Refused(code));
    }

    /// The next `times` such watches are told by their first event that their version is gone.
    pub fn gone(&self, which: Which, times: u32) {
        self.fault(which, times, Effect::Gone);
    }

    /// Answers the next `times` such requests this much later.
    pub fn delay(&self, which: Which, times: u32, delay: Duration) {
        self.fault(which, times, Effect::Late(delay));
    }

    /// Never answers the next `times` such requests.
    pub fn ignore(&self, which: Which, times: u32) {
        self.fault(which, times, Effect::Unanswered);
    }

    /// The next `times` such requests find that somebody else has just changed their object.
    pub fn overtake(&self, which: Which, times: u32) {
        self.fault(which, times, Effect::Overtaken);
    }

    /// Forgets all faults that were to come.
    pub fn heal(&self) {
        self.shared.with(|state| state.faults.clear());
    }

    /// The next events for watches of these resources are not sent, though later bookmarks count them.
    pub fn lose_events(&self, plural: &str, count: u32) {
        self.shared.add_mishaps(plural, count, Mishap::Lost);
    }

    /// The next events for watches of these resources are sent twice.
    pub fn double_events(&self, plural: &str, count: u32) {
        self.shared.add_mishaps(plural, count, Mishap::Doubled);
    }

    /// Breaks all running watches off in the middle.
    pub fn cut_watches(&self) {
        self.shared.interrupt(Interruption::default());
    }

    /// Ends the running watches of these resources with the ERROR event of a version that is gone.
    pub fn expire_watches(&self, plural: &str) {
        self.shared.interrupt(Interruption {
            plural: Some(plural.to_owned()),
            is_gone: true,
        });
    }

    /// Forgets every version but the present one.
    pub fn compact(&self) {
        self.shared.with(|state| state.store.compact());
    }

    /// How often a watch that wants bookmarks gets one; a minute unless told.
    pub fn bookmark_every(&self, every: Duration) {
        self.shared.set_bookmark_every(every);
    }

    /// Breaks every connection and refuses new ones.
    pub fn refuse_connections(&self) {
        self.port
            .as_ref()
            .expect("a double with a port")
            .lock()
            .close();
    }

    /// Listens again, on the same port.
    pub fn accept_connections(&self) {
        let port = self.port.as_ref().expect("a double with a port");
        port.lock().open(&self.shared);
    }

    /// The connections that are open now stay open and never say anything again; new ones are as before.
    pub fn fall_silent(&self) {
        let next = match &self.port {
            Some(port) => port.lock().next_connection(),
            None => self.in_memory.load(Ordering::Relaxed),
        };
        self.shared.silence(next);
    }

    fn fault(&self, which: Which, times: u32, effect: Effect) {
        self.shared
            .with(|state| state.add_fault(which, times, effect));
    }
}

impl fmt::Debug for ApiDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiDouble").finish_non_exhaustive()
    }
}

fn kind_of(kinds: &[Kind], object: &Value) -> Kind {
    let (api_version, name) = (text(object, "/apiVersion"), text(object, "/kind"));
    let found = kinds
        .iter()
        .find(|kind| kind.api_version() == api_version && kind.kind == name);
    found
        .unwrap_or_else(|| panic!("{api_version} {name} is not registered"))
        .clone()
}

/// By the name in paths; the first registered one when several groups have it, or `PLURAL.GROUP`.
fn by_plural(kinds: &[Kind], plural: &str) -> Kind {
    let found = kinds
        .iter()
        .find(|kind| kind.plural == plural || kind.resource() == plural);
    found
        .unwrap_or_else(|| panic!("{plural} is not registered"))
        .clone()
}
