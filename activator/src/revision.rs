//! The vocabulary everyone shares: which Revision is meant and what it promises.
//!
//! Types here are checked where they are made, so that using them cannot fail. They know neither HTTP nor
//! Kubernetes; both providers produce them and everything after the providers consumes them.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// One Revision: its namespace and its name.
///
/// Cheap to clone. Case matters, as in `knative/serving pkg/activator/handler/context_handler.go`.
///
/// An ordinary Kubernetes Service that a split names is balanced by the same queues; its identity is
/// [`RevisionId::of_service`], which no Revision can have, because a colon is not allowed in a name.
///
/// Its hash is made once, here: each request looks its Revision up in several tables ([`RevisionMap`]).
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct RevisionId {
    namespace: Arc<str>,
    name: Arc<str>,
    /// Last, so that the order is that of the names.
    hash: u64,
}

impl RevisionId {
    /// Names a Revision.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        let (namespace, name) = (namespace.into(), name.into());
        Self {
            hash: KEY.hash_one((&namespace, &name)),
            namespace,
            name,
        }
    }

    /// Names the endpoints of one port of an ordinary Service, as `service:port`.
    pub fn of_service(namespace: &str, service: &str, port: impl fmt::Display) -> Self {
        Self::new(namespace, format!("{service}:{port}"))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this names an ordinary Service rather than a Revision.
    pub fn is_service(&self) -> bool {
        self.name.contains(':')
    }
}

/// Drawn when the process starts, so that nobody can choose names whose hashes collide.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl PartialEq for RevisionId {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        self.hash == other.hash
            && is_same(&self.name, &other.name)
            && is_same(&self.namespace, &other.namespace)
    }
}

impl Hash for RevisionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A table by Revision that takes the hash which the [`RevisionId`] brings along.
pub type RevisionMap<V> = HashMap<RevisionId, V, BuildHasherDefault<Hashed>>;

/// The hasher of a [`RevisionMap`]: what is put in is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// Not for keys whose hash is not one number: slow, and right all the same.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many requests one endpoint serves at once: the API's `containerConcurrency`.
///
/// Source: `RevisionSpec.ContainerConcurrency`, knative/serving `pkg/apis/serving/v1/revision_types.go`: 0 means
/// unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerConcurrency {
    /// The API's `0`: no limit.
    #[default]
    Unlimited,
    /// A hard limit per endpoint.
    Limited(NonZeroU32),
}

impl From<u32> for ContainerConcurrency {
    fn from(value: u32) -> Self {
        NonZeroU32::new(value).map_or(Self::Unlimited, Self::Limited)
    }
}

impl ContainerConcurrency {
    /// The API's number: 0 for unlimited.
    pub fn as_number(self) -> u32 {
        match self {
            Self::Unlimited => 0,
            Self::Limited(limit) => limit.get(),
        }
    }
}

/// What an endpoint of the Revision speaks.
///
/// Source: `ProtocolType`, knative/networking `pkg/apis/networking/generic_types.go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 by prior knowledge.
    H2c,
}

/// How long a request of the Revision may take, counted from its arrival; time spent parked counts.
///
/// Source: knative/serving `pkg/http/handler/timeout.go` and `config-defaults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `timeoutSeconds`: until the response has ended. Default 300 s.
    pub total: Duration,
    /// `responseStartTimeoutSeconds`: until the response head. Off unless set.
    pub response_start: Option<Duration>,
    /// `idleTimeoutSeconds`: between two pieces of the response; before the first, counted from arrival. Off unless set.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(300),
            response_start: None,
            idle: None,
        }
    }
}

/// What a Revision promises, as far as queues, routing and accounting need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionSpec {
    /// Hard limit per endpoint.
    pub concurrency: ContainerConcurrency,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// Deadlines of its requests.
    pub timeouts: Timeouts,
    /// The Knative Service it belongs to, for metrics and logs; empty when there is none.
    pub service: Arc<str>,
    /// The Configuration it belongs to, for metrics and logs; empty when there is none.
    pub configuration: Arc<str>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_revision_is_found_by_its_names_whoever_wrote_them() {
        let mut known = RevisionMap::default();
        known.insert(RevisionId::new("shop", "cart-00001"), 1);

        assert_eq!(
            known.get(&RevisionId::new("shop", "cart-00001".to_owned())),
            Some(&1)
        );
        for (namespace, name) in [
            ("shop", "cart-00002"),
            ("shopcart", "-00001"),
            ("cart-00001", "shop"),
        ] {
            assert_eq!(known.get(&RevisionId::new(namespace, name)), None);
        }
    }

    #[test]
    fn revisions_are_ordered_by_namespace_then_name() {
        let names = [("a", "z"), ("b", "a"), ("b", "b"), ("ba", "a")];
        let sorted: BTreeSet<_> = names
            .iter()
            .rev()
            .map(|(namespace, name)| RevisionId::new(*namespace, *name))
            .collect();

        let sorted: Vec<_> = sorted
            .iter()
            .map(|id| (id.namespace(), id.name()))
            .collect();
        assert_eq!(sorted, names);
    }
}
