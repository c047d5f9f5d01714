//! Who claims which host: the side of the table that is written to.
//!
//! A host belongs to the oldest KIngress that lists it, at both entrances; the others lose that host, keep the rest of
//! their hosts, and each loss is a [`Conflict`]. Names below the cluster domain are also known by their short forms
//! (knative/networking `pkg/ingress/ingress.go`, `ExpandedHosts`), unless some object lists such a form itself; of several
//! names with one short form the one of the oldest object has it.
//!
//! What a change may affect is known beforehand: the hosts that the object lists now or listed before, and their short
//! forms. Only these are looked at again, and nothing but the claims decides about each; so the order in which
//! changes come does not matter.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::super::host::{Host, InvalidHost};
use super::super::rules::{IngressName, IngressRules, PathRule, Rule, Visibility};
use super::super::split::PathKey;
use super::hosts::Route;
use super::{RouteSnapshot, Tables};

/// How old a KIngress is. Of several that claim a host the oldest has it; those of one age go by namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// `metadata.creationTimestamp`, in seconds since 1970.
    Created(i64),
    /// Nobody has noted a time: younger than all that have one, in the order in which they were written.
    Written(usize),
}

/// The routes that change, one KIngress at a time; readers get a [`RouteSnapshot`].
#[derive(Debug)]
pub struct RouteTable {
    cluster_domain: Box<str>,
    objects: Slab<Known>,
    by_name: HashTable<usize>,
    /// An entry for each host that an object lists.
    claims: HashTable<Claim>,
    /// Hosts that go by age: more than one object would have them.
    disputed: BTreeSet<Arc<str>>,
    /// Objects that list what is no host.
    with_invalid_hosts: BTreeSet<usize>,
    hasher: RandomState,
    tables: Tables,
    /// The last snapshot, while nothing has changed.
    latest: Option<RouteSnapshot>,
}

#[derive(Debug)]
struct Known {
    age: Age,
    rules: Arc<IngressRules>,
}

#[derive(Debug)]
struct Claim {
    host: Arc<str>,
    object: usize,
}

/// What claims are made of: the normalised hosts of an object, each with the rules that list it; sorted, each pair once.
type Listing = [(Arc<str>, u32)];

/// What stands for all hosts where a host could stand: no host is empty.
const ALL_HOSTS: &str = "";

impl RouteTable {
    /// An empty table, for a cluster with this DNS domain.
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.into(),
            objects: Slab::new(),
            by_name: HashTable::new(),
            claims: HashTable::new(),
            disputed: BTreeSet::new(),
            with_invalid_hosts: BTreeSet::new(),
            hasher: RandomState::new(),
            tables: Tables::default(),
            latest: None,
        }
    }

    /// Takes up a KIngress that is new or has changed. What is the same costs next to nothing.
    pub fn set(&mut self, age: Age, rules: Arc<IngressRules>) {
        let Some(number) = self.number_of(&rules.name) else {
            self.add(age, rules);
            return;
        };
        let known = &mut self.objects[number];
        let is_of_this_age = std::mem::replace(&mut known.age, age) == age;
        if Arc::ptr_eq(&known.rules, &rules) || *known.rules == *rules {
            // The newer value all the same: whoever made it may compare pointers.
            if !is_of_this_age {
                self.has_aged(number);
            }
            return;
        }
        let before = std::mem::replace(&mut known.rules, Arc::clone(&rules));
        let (listed_before, lists_now) = (listing(&before), listing(&rules));
        self.forget_paths(&before);
        self.note_paths(&rules);
        self.unclaim(number, &listed_before);
        self.claim(number, &lists_now);
        self.note_invalid_hosts(number);
        let listed: Vec<_> = listed_before
            .into_iter()
            .chain(lists_now.iter().cloned())
            .collect();
        self.serve(&listed, Some((number, lists_now)));
    }

    /// Takes leave of a KIngress; its hosts go to the next oldest that claim them.
    pub fn remove(&mut self, name: &IngressName) {
        let Some(number) = self.number_of(name) else {
            return;
        };
        let hash = self.hasher.hash_one(name);
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
        let gone = self.objects.remove(number);
        let listed = listing(&gone.rules);
        self.forget_paths(&gone.rules);
        self.unclaim(number, &listed);
        self.with_invalid_hosts.remove(&number);
        self.serve(&listed, None);
    }

    /// The routes as they are now. What did not change since the snapshot before is shared with it.
    pub fn snapshot(&mut self, generation: u64) -> RouteSnapshot {
        let tables = &self.tables;
        let latest = self.latest.get_or_insert_with(|| RouteSnapshot {
            generation,
            tables: Arc::new(tables.clone()),
        });
        latest.for_generation(generation)
    }

    /// The hosts that are listed by an object which does not get them, the oldest object first.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let disputed = self.disputed.iter();
        let losers = disputed.flat_map(|host| {
            let owner = self.lister(host);
            self.listers(host).filter(move |one| Some(*one) != owner)
        });
        let concerned: BTreeSet<usize> = losers
            .chain(self.with_invalid_hosts.iter().copied())
            .collect();
        let mut concerned: Vec<usize> = concerned.into_iter().collect();
        concerned.sort_by_key(|number| self.seniority(*number));
        concerned
            .into_iter()
            .flat_map(|number| self.conflicts_of(number))
            .collect()
    }

    fn conflicts_of(&self, number: usize) -> Vec<Conflict> {
        let rules = &self.objects[number].rules;
        let mut reported = HashSet::new();
        let listed = rules.rules.iter().flat_map(listed_hosts);
        let refused = listed.filter_map(|(written, host)| {
            let reason = match host {
                Ok(host) => {
                    let owner = self.lister(&host).filter(|owner| *owner != number)?;
                    ConflictReason::ClaimedBy(self.objects[owner].rules.name.clone())
                }
                Err(invalid) => invalid.into(),
            };
            reported.insert(written).then(|| Conflict {
                ingress: rules.name.clone(),
                host: written.to_owned(),
                reason,
            })
        });
        refused.collect()
    }

    fn add(&mut self, age: Age, rules: Arc<IngressRules>) {
        let hash = self.hasher.hash_one(&rules.name);
        self.note_paths(&rules);
        let lists = listing(&rules);
        let number = self.objects.insert(Known { age, rules });
        let (objects, hasher) = (&self.objects, &self.hasher);
        let rehash = |number: &usize| hasher.hash_one(&objects[*number].rules.name);
        self.by_name.insert_unique(hash, number, rehash);
        self.claim(number, &lists);
        self.note_invalid_hosts(number);
        self.serve(&lists.clone(), Some((number, lists)));
    }

    /// The object is older or younger than it was: that matters only for hosts that others would have, too.
    fn has_aged(&mut self, number: usize) {
        if self.disputed.is_empty() {
            return;
        }
        let lists = listing(&self.objects[number].rules);
        let is_disputed = |host: &str| self.disputed.contains(host);
        let is_concerned = lists.iter().any(|(host, _)| {
            is_disputed(host) || short_forms(host, &self.cluster_domain).any(is_disputed)
        });
        if is_concerned {
            self.serve(&lists.clone(), Some((number, lists)));
        }
    }

    fn number_of(&self, name: &IngressName) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        let is_it = |number: &usize| self.objects[*number].rules.name == *name;
        self.by_name.find(hash, is_it).copied()
    }

    fn seniority(&self, number: usize) -> (Age, &IngressName) {
        let known = &self.objects[number];
        (known.age, &known.rules.name)
    }

    fn oldest(&self, objects: impl Iterator<Item = usize>) -> Option<usize> {
        objects.min_by_key(|number| self.seniority(*number))
    }

    fn claim(&mut self, object: usize, lists: &Listing) {
        for host in each_host(lists) {
            let claim = Claim {
                host: Arc::clone(host),
                object,
            };
            let hash = self.hasher.hash_one(&**host);
            let rehash = |other: &Claim| self.hasher.hash_one(&*other.host);
            self.claims.insert_unique(hash, claim, rehash);
        }
    }

    fn unclaim(&mut self, object: usize, listed: &Listing) {
        for host in each_host(listed) {
            let hash = self.hasher.hash_one(&**host);
            let is_it = |claim: &Claim| claim.object == object && claim.host == *host;
            if let Ok(entry) = self.claims.find_entry(hash, is_it) {
                entry.remove();
            }
        }
    }

    /// Notes whether the object lists what is no host.
    fn note_invalid_hosts(&mut self, number: usize) {
        let mut listed = self.objects[number]
            .rules
            .rules
            .iter()
            .flat_map(listed_hosts);
        if listed.any(|(_, host)| host.is_err()) {
            self.with_invalid_hosts.insert(number);
        } else {
            self.with_invalid_hosts.remove(&number);
        }
    }

    fn note_paths(&mut self, rules: &IngressRules) {
        let keys = Arc::make_mut(&mut self.tables.keys);
        for key in keys_of(rules) {
            *keys.entry(key).or_default() += 1;
        }
    }

    fn forget_paths(&mut self, rules: &IngressRules) {
        let keys = Arc::make_mut(&mut self.tables.keys);
        for key in keys_of(rules) {
            if let Some(count) = keys.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    keys.remove(&key);
                }
            }
        }
    }

    /// The objects that list a host.
    fn listers(&self, host: &str) -> impl Iterator<Item = usize> {
        let claims = self.claims.iter_hash(self.hasher.hash_one(host));
        let of_host = claims.filter(move |claim| *claim.host == *host);
        of_host.map(|claim| claim.object)
    }

    /// The object that has a host because it lists it.
    fn lister(&self, host: &str) -> Option<usize> {
        self.oldest(self.listers(host))
    }

    /// Looks again at who serves these hosts and their short forms, and by which rules. `lists` is
    /// what an object is known to list.
    fn serve(&mut self, listed: &Listing, lists: Option<(usize, Box<Listing>)>) {
        self.latest = None;
        let mut hosts: HashSet<Arc<str>> = each_host(listed).map(Arc::clone).collect();
        let short: Vec<Arc<str>> = hosts
            .iter()
            .flat_map(|host| short_forms(host, &self.cluster_domain))
            .filter(|short| !hosts.contains(*short))
            .map(Arc::from)
            .collect();
        hosts.extend(short);
        let mut compiler = Compiler::new(lists);
        for host in &hosts {
            self.serve_host(host, &mut compiler);
        }
    }

    fn serve_host(&mut self, host: &Arc<str>, compiler: &mut Compiler) {
        let long: Vec<(String, usize)> = self
            .long_forms(host)
            .filter_map(|long| self.lister(&long).map(|owner| (long, owner)))
            .collect();
        let lister = self.lister(host);
        let expander = self.oldest(long.iter().map(|(_, owner)| *owner));
        let goes_by_age = self.listers(host).nth(1).is_some()
            || long.iter().any(|(_, owner)| Some(*owner) != expander);
        if goes_by_age {
            self.disputed.insert(Arc::clone(host));
        } else {
            self.disputed.remove(host);
        }
        let routes = lister.or(expander).and_then(|owner| {
            let rules = &self.objects[owner].rules;
            let is_expanded = expander == Some(owner);
            let its_long = long
                .iter()
                .filter(|(_, other)| is_expanded && *other == owner);
            let names = its_long.map(|(name, _)| name.as_str());
            compiler.routes(owner, rules, names.chain([&**host]))
        });
        match (routes, &**host) {
            (routes, ALL_HOSTS) => self.tables.any = routes,
            (Some(routes), _) => self.tables.hosts.insert(host, routes),
            (None, _) => self.tables.hosts.remove(host),
        }
    }

    /// The names whose short form this host may be: the other way round of [`short_forms`].
    fn long_forms(&self, host: &str) -> impl Iterator<Item = String> {
        let domain = &self.cluster_domain;
        let has_some = host != ALL_HOSTS && ends_like_a_name(host);
        let forms = has_some.then(|| [format!("{host}.{domain}"), format!("{host}.svc.{domain}")]);
        forms.into_iter().flatten()
    }
}

/// Makes routes of rules. Hosts of one object that go by the same rules get the same routes in memory.
struct Compiler {
    listings: HashMap<usize, Box<Listing>>,
    made: HashMap<(usize, Vec<u32>), Arc<[Route]>>,
}

impl Compiler {
    /// A compiler that need not find out what these objects list.
    fn new(known: Option<(usize, Box<Listing>)>) -> Self {
        Self {
            listings: known.into_iter().collect(),
            made: HashMap::new(),
        }
    }

    /// The routes of all rules of an object that list one of these names; none when they have no path.
    fn routes<'n>(
        &mut self,
        number: usize,
        ingress: &Arc<IngressRules>,
        names: impl Iterator<Item = &'n str>,
    ) -> Option<Arc<[Route]>> {
        let listing = self
            .listings
            .entry(number)
            .or_insert_with(|| listing(ingress));
        let mut rules: Vec<u32> = names.flat_map(|name| rules_for(listing, name)).collect();
        rules.sort_unstable();
        rules.dedup();
        let routes = match self.made.entry((number, rules)) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(new) => {
                let routes = compile(ingress, &new.key().1);
                new.insert(routes)
            }
        };
        (!routes.is_empty()).then(|| Arc::clone(routes))
    }
}

fn rules_for(listing: &Listing, name: &str) -> impl Iterator<Item = u32> {
    let first = listing.partition_point(|(host, _)| **host < *name);
    let of_name = listing.iter().skip(first);
    of_name
        .take_while(move |(host, _)| **host == *name)
        .map(|(_, rule)| *rule)
}

/// The paths of these rules in the order in which they are tried.
fn compile(ingress: &Arc<IngressRules>, rules: &[u32]) -> Arc<[Route]> {
    let mut routes = Vec::new();
    for (index, rule) in (0..).zip(&ingress.rules) {
        if rules.binary_search(&index).is_err() {
            continue;
        }
        let paths = (0..).zip(&rule.paths);
        routes.extend(paths.map(|(position, path)| Route {
            path: Arc::clone(path),
            key: key_of(&ingress.name, rule, path),
            ingress: Arc::clone(ingress),
            rule: index,
            position,
            is_external: rule.visibility == Visibility::ExternalIp,
        }));
    }
    // Stable: what is equal keeps its listed order.
    routes.sort_by_key(|route| Reverse((route.path.prefix.len(), route.path.headers.len())));
    routes.into()
}

fn key_of(name: &IngressName, rule: &Rule, path: &PathRule) -> PathKey {
    PathKey::of(&(
        name,
        rule.visibility,
        &rule.hosts,
        &path.prefix,
        &path.headers,
    ))
}

/// The keys of the paths that have shares to draw for.
fn keys_of(ingress: &IngressRules) -> impl Iterator<Item = PathKey> {
    let rules = ingress.rules.iter();
    let paths = rules.flat_map(|rule| rule.paths.iter().map(move |path| (rule, path)));
    let drawn = paths.filter(|(_, path)| path.splits.sole().is_none());
    drawn.map(|(rule, path)| key_of(&ingress.name, rule, path))
}

/// What the rules list, as claims are made of it.
fn listing(ingress: &IngressRules) -> Box<Listing> {
    let rules = (0..).zip(&ingress.rules);
    let listed = rules.flat_map(|(index, rule)| listed_hosts(rule).map(move |host| (index, host)));
    let valid = listed.filter_map(|(index, (_, host))| Some((host.ok()?, index)));
    let mut listing: Vec<_> = valid.collect();
    listing.sort_unstable();
    listing.dedup();
    listing.into()
}

/// The hosts of a listing, each once.
fn each_host(listing: &Listing) -> impl Iterator<Item = &Arc<str>> {
    let same = listing.chunk_by(|(one, _), (other, _)| one == other);
    same.filter_map(|rules| rules.first()).map(|(host, _)| host)
}

type ListedHost<'r> = (&'r str, Result<Arc<str>, InvalidHost>);

/// The hosts of a rule as written and normalised; a rule without hosts is for all.
fn listed_hosts(rule: &Rule) -> impl Iterator<Item = ListedHost<'_>> {
    let all = { rule.hosts.is_empty() }.then(|| ("*", Ok(ALL_HOSTS.into())));
    let each = rule.hosts.iter().map(|written| {
        let host = Host::parse(written).map(|host| match host.as_str() {
            // Nearly all of them: the same text in memory.
            normal if *normal == **written => Arc::clone(written),
            normal => normal.into(),
        });
        (&**written, host)
    });
    all.into_iter().chain(each)
}

/// A host below the cluster domain without `.<domain>` and without `.svc.<domain>`.
///
/// Source: knative/networking `pkg/ingress/ingress.go`, `ExpandedHosts`.
pub(super) fn short_forms<'h>(
    host: &'h str,
    cluster_domain: &str,
) -> impl Iterator<Item = &'h str> {
    let in_domain = host
        .strip_suffix(cluster_domain)
        .and_then(|rest| rest.strip_suffix('.'));
    let service = in_domain.and_then(|rest| rest.strip_suffix(".svc"));
    in_domain
        .into_iter()
        .chain(service)
        .filter(|name| ends_like_a_name(name))
}

/// Whether the last label can be taken for a top-level name: at most 63 bytes, and not a number.
fn ends_like_a_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    last.len() <= 63 && last.bytes().any(|byte| byte > b'9' || byte == b'-')
}

/// A host that a KIngress lists and does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The object that asked.
    pub ingress: IngressName,
    /// The host as the object writes it; `*` for a rule for all hosts.
    pub host: String,
    /// Why it does not get it.
    pub reason: ConflictReason,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "host {:?} of {}: {}",
            self.host, self.ingress, self.reason
        )
    }
}

/// Why a KIngress does not get a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflictReason {
    /// An earlier KIngress has it.
    #[error("already served for {0}")]
    ClaimedBy(IngressName),
    /// It is no host name.
    #[error(transparent)]
    Invalid(#[from] InvalidHost),
}

#[cfg(test)]
mod tests;
