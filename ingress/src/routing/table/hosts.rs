//! Hosts and their routes, in parts that snapshots share until they change.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use http::HeaderMap;

use super::super::rules::{IngressRules, PathRule, Visibility};
use super::super::split::PathKey;
use super::Match;

/// Into how many parts the hosts are divided.
///
/// A change copies the parts of its hosts, and the list of all: with 40,000 hosts, 80 of them and 512 pointers.
const PARTS: usize = 512;

/// A map from hosts to routes whose clones share what neither has changed since.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    parts: Box<[Arc<HashTable<Served>>]>,
    hasher: RandomState,
}

/// A host and its routes.
#[derive(Clone, Debug)]
struct Served {
    host: Arc<str>,
    routes: Arc<[Route]>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            parts: vec![Arc::default(); PARTS].into(),
            hasher: RandomState::new(),
        }
    }
}

impl Hosts {
    pub(super) fn get(&self, host: &str) -> Option<&Arc<[Route]>> {
        let hash = self.hasher.hash_one(host);
        let found = self.parts[part_of(hash)].find(hash, |served| *served.host == *host);
        found.map(|served| &served.routes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[Route]>)> {
        let all = self.parts.iter().flat_map(|part| part.iter());
        all.map(|served| (&served.host, &served.routes))
    }

    pub(super) fn insert(&mut self, host: &Arc<str>, routes: Arc<[Route]>) {
        let hash = self.hasher.hash_one(&**host);
        let part = Arc::make_mut(&mut self.parts[part_of(hash)]);
        let served = Served {
            host: Arc::clone(host),
            routes,
        };
        match part.find_mut(hash, |known| known.host == *host) {
            Some(known) => *known = served,
            None => {
                part.insert_unique(hash, served, |other| self.hasher.hash_one(&*other.host));
            }
        }
    }

    pub(super) fn remove(&mut self, host: &str) {
        let hash = self.hasher.hash_one(host);
        let part = &mut self.parts[part_of(hash)];
        let is_it = |served: &Served| *served.host == *host;
        if part.find(hash, is_it).is_none() {
            return; // nothing to copy for
        }
        if let Ok(found) = Arc::make_mut(part).find_entry(hash, is_it) {
            found.remove();
        }
    }
}

#[cfg(test)]
impl Hosts {
    pub(super) fn parts_not_shared_with(&self, other: &Self) -> usize {
        let parts = self.parts.iter().zip(&other.parts);
        parts
            .filter(|(one, other)| !Arc::ptr_eq(one, other))
            .count()
    }
}

/// The part of a hash, by bits that the table within the part does not look at first.
fn part_of(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or_default() % PARTS
}

/// One path, compiled.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) path: Arc<PathRule>,
    pub(super) key: PathKey,
    pub(super) ingress: Arc<IngressRules>,
    /// Position of the rule in the object.
    pub(super) rule: u32,
    /// Position of the path in the rule.
    pub(super) position: u32,
    /// Served at both entrances; otherwise at the cluster-local one only.
    pub(super) is_external: bool,
}

impl Route {
    pub(super) fn is_for(&self, entrance: Visibility) -> bool {
        self.is_external || entrance == Visibility::ClusterLocal
    }

    pub(super) fn covers(&self, path: &str, headers: &HeaderMap) -> bool {
        let rule = &*self.path;
        path.starts_with(&rule.prefix)
            && rule.headers.iter().all(|(name, wanted)| {
                let mut values = headers.get_all(name).iter();
                // Two values are not this value: whoever reads them next may take the other one.
                values.next() == Some(wanted) && values.next().is_none()
            })
    }

    pub(super) fn as_match(&self) -> Match<'_> {
        Match {
            ingress: &self.ingress.name,
            hash: &self.ingress.hash,
            rule: self.rule as usize,
            position: self.position as usize,
            path: &self.path,
            key: self.key,
            policy: self.ingress.policy.as_ref(),
        }
    }
}
