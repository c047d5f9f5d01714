//! The compiled routes of one generation, and how a request finds its path in them.
//!
//! There are two tables because the entrance decides who may reach what: the external one holds the rules for
//! [`Visibility::ExternalIp`], the internal one all rules. Finding a path is one hash look-up of the host and a walk
//! over that host's paths; it allocates nothing.
//!
//! A path's prefix is compared as a raw string, so that `/foo` also covers `/foobar`: the API calls it "a literal
//! prefix" (knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`) and knative-extensions/net-kourier does the
//! same. The longest prefix goes first, then the one that asks for more headers, then the listed order.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::host::{Host, InvalidHost};
use super::rules::{IngressName, IngressRules, PathRule, Rule, Visibility};
use super::split::PathKey;

/// The cluster's DNS domain when nothing else is said.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// All routes of one generation; immutable.
///
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RouteSnapshot {
    generation: u64,
    tables: Arc<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    external: Table,
    internal: Table,
    keys: HashSet<PathKey>,
}

impl RouteSnapshot {
    /// Compiles what a provider found, in the cluster domain [`DEFAULT_CLUSTER_DOMAIN`].
    ///
    /// See [`build_in`](Self::build_in).
    pub fn build(
        generation: u64,
        ingresses: Vec<impl Into<Arc<IngressRules>>>,
    ) -> (Self, Vec<Conflict>) {
        Self::build_in(DEFAULT_CLUSTER_DOMAIN, generation, ingresses)
    }

    /// Compiles what a provider found.
    ///
    /// A host belongs to the first KIngress that lists it, at both entrances; the others lose that host, keep
    /// the rest of their hosts, and each loss is a [`Conflict`]. Names below the cluster domain are also known by their
    /// short forms (knative/networking `pkg/ingress/ingress.go`, `ExpandedHosts`), unless another object lists such a form itself.
    pub fn build_in(
        cluster_domain: &str,
        generation: u64,
        ingresses: Vec<impl Into<Arc<IngressRules>>>,
    ) -> (Self, Vec<Conflict>) {
        let ingresses: Vec<Arc<IngressRules>> = ingresses.into_iter().map(Into::into).collect();
        let (claims, conflicts) = Claims::stake(cluster_domain, &ingresses);
        let mut tables = Tables::default();
        for (owner, ingress) in ingresses.iter().enumerate() {
            tables.add(&claims, owner, ingress);
        }
        tables.external.sort();
        tables.internal.sort();
        tables.keys.shrink_to_fit();
        let tables = Arc::new(tables);
        (Self { generation, tables }, conflicts)
    }

    /// The same routes for a later generation, in which no rule has changed.
    #[must_use]
    pub fn for_generation(&self, generation: u64) -> Self {
        Self {
            generation,
            tables: Arc::clone(&self.tables),
        }
    }

    /// Finds the path that serves a request which came in at `entrance`.
    ///
    /// A host that some rule lists never falls back to the rules for all hosts.
    ///
    /// # Errors
    ///
    /// [`NoRoute`], when the host or the path is not served at this entrance.
    pub fn find(
        &self,
        entrance: Visibility,
        host: &Host<'_>,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Match<'_>, NoRoute> {
        let routes = self
            .table(entrance)
            .routes(host)
            .ok_or(NoRoute::UnknownHost)?;
        routes
            .iter()
            .find(|route| route.covers(path, headers))
            .map(|route| route.as_match())
            .ok_or(NoRoute::NoPath)
    }

    /// Whether a rule at `entrance` lists this very host.
    pub fn lists_host(&self, entrance: Visibility, host: &Host<'_>) -> bool {
        self.table(entrance).hosts.contains_key(host.as_str())
    }

    /// The generation it was built for.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the path is part of this snapshot: what [`Dealer::retain`](super::split::Dealer::retain) asks.
    pub fn has_path(&self, key: PathKey) -> bool {
        self.tables.keys.contains(&key)
    }

    /// The hosts served at `entrance` and whose they are, in no order; rules for all hosts are not among them.
    pub fn hosts(&self, entrance: Visibility) -> impl Iterator<Item = (&str, &IngressName)> {
        let hosts = self.table(entrance).hosts.iter();
        hosts.filter_map(|(host, routes)| Some((host.as_ref(), &routes.first()?.ingress.name)))
    }

    fn table(&self, entrance: Visibility) -> &Table {
        match entrance {
            Visibility::ExternalIp => &self.tables.external,
            Visibility::ClusterLocal => &self.tables.internal,
        }
    }
}

impl Tables {
    fn add(&mut self, claims: &Claims<'_>, owner: usize, ingress: &Arc<IngressRules>) {
        for (index, rule) in ingress.rules.iter().enumerate() {
            let names = claims.names_of(owner, rule);
            for route in compile(ingress, index, rule) {
                self.keys.insert(route.key);
                for name in &names {
                    self.internal.push(name.as_ref(), &route);
                    if rule.visibility == Visibility::ExternalIp {
                        self.external.push(name.as_ref(), &route);
                    }
                }
            }
        }
    }
}

/// The path a request falls to.
#[derive(Clone, Copy, Debug)]
pub struct Match<'s> {
    /// The KIngress it comes from.
    pub ingress: &'s IngressName,
    /// The hash of that KIngress.
    pub hash: &'s Arc<str>,
    /// Position of the rule in the object.
    pub rule: usize,
    /// Position of the path in the rule.
    pub position: usize,
    /// The path itself.
    pub path: &'s PathRule,
    /// What the draws for this path are counted by.
    pub key: PathKey,
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No rule of this entrance serves the host.
    #[error("no rule serves this host")]
    UnknownHost,
    /// The host is served, but none of its paths matches.
    #[error("no path of this host matches")]
    NoPath,
    /// Rewritten hosts lead in a circle, or through too many rules.
    #[error("rewritten hosts lead in a circle")]
    Loop,
}

impl NoRoute {
    /// The status to answer with: 404, or 508 for a circle.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnknownHost | Self::NoPath => StatusCode::NOT_FOUND,
            Self::Loop => StatusCode::LOOP_DETECTED,
        }
    }
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

/// Which KIngress has which host, by position; `None` is all hosts.
struct Claims<'d> {
    cluster_domain: &'d str,
    listed: HashMap<Option<Arc<str>>, usize>,
    expanded: HashMap<Arc<str>, usize>,
}

impl<'d> Claims<'d> {
    fn stake(cluster_domain: &'d str, ingresses: &[Arc<IngressRules>]) -> (Self, Vec<Conflict>) {
        let mut claims = Self {
            cluster_domain,
            listed: HashMap::new(),
            expanded: HashMap::new(),
        };
        let mut conflicts = Vec::new();
        for (owner, ingress) in ingresses.iter().enumerate() {
            let mut reported = HashSet::new();
            for (written, host) in ingress.rules.iter().flat_map(listed_hosts) {
                let refusal = match host {
                    Ok(host) => claims
                        .claim(owner, host.as_ref())
                        .map(|first| ConflictReason::ClaimedBy(ingresses[first].name.clone())),
                    Err(invalid) => Some(invalid.into()),
                };
                let conflict = refusal.map(|reason| Conflict {
                    ingress: ingress.name.clone(),
                    host: written.to_owned(),
                    reason,
                });
                conflicts.extend(conflict.filter(|_| reported.insert(written)));
            }
        }
        (claims, conflicts)
    }

    /// Gives the host and its short forms to `owner`; says who has it when it is someone else.
    fn claim(&mut self, owner: usize, host: Option<&Arc<str>>) -> Option<usize> {
        let first = *self.listed.entry(host.cloned()).or_insert(owner);
        if first != owner {
            return Some(first);
        }
        for short in host
            .iter()
            .flat_map(|host| short_forms(host, self.cluster_domain))
        {
            self.expanded.entry(short.into()).or_insert(owner);
        }
        None
    }

    /// The hosts under which a rule is served, each once.
    fn names_of(&self, owner: usize, rule: &Rule) -> HashSet<Option<Arc<str>>> {
        let mut names = HashSet::new();
        for host in listed_hosts(rule).filter_map(|(_, host)| host.ok()) {
            if self.listed.get(&host) != Some(&owner) {
                continue;
            }
            let shorts = host
                .iter()
                .flat_map(|host| short_forms(host, self.cluster_domain));
            for short in shorts.map(Arc::from) {
                if self.expanded.get(&short) == Some(&owner) && self.is_free_for(owner, &short) {
                    names.insert(Some(short));
                }
            }
            names.insert(host);
        }
        names
    }

    fn is_free_for(&self, owner: usize, short: &Arc<str>) -> bool {
        self.listed
            .get(&Some(Arc::clone(short)))
            .is_none_or(|lister| *lister == owner)
    }
}

type ListedHost<'r> = (&'r str, Result<Option<Arc<str>>, InvalidHost>);

/// The hosts of a rule as written and normalised; a rule without hosts is for all.
fn listed_hosts(rule: &Rule) -> impl Iterator<Item = ListedHost<'_>> {
    let all = rule.hosts.is_empty().then_some(("*", Ok(None)));
    let each = rule.hosts.iter().map(|written| {
        let host = Host::parse(written).map(|host| Some(Arc::from(host.as_str())));
        (written.as_str(), host)
    });
    all.into_iter().chain(each)
}

/// A host below the cluster domain without `.<domain>` and without `.svc.<domain>`.
///
/// Source: knative/networking `pkg/ingress/ingress.go`, `ExpandedHosts`.
fn short_forms<'h>(host: &'h str, cluster_domain: &str) -> impl Iterator<Item = &'h str> {
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

/// One path, compiled; shared by all its hosts and both tables.
#[derive(Debug)]
struct Route {
    ingress: Arc<IngressRules>,
    rule: usize,
    position: usize,
    key: PathKey,
}

impl Route {
    fn path(&self) -> &PathRule {
        &self.ingress.rules[self.rule].paths[self.position]
    }

    fn covers(&self, path: &str, headers: &HeaderMap) -> bool {
        let rule = self.path();
        path.starts_with(&rule.prefix)
            && rule.headers.iter().all(|(name, wanted)| {
                let mut values = headers.get_all(name).iter();
                // Two values are not this value: whoever reads them next may take the other one.
                values.next() == Some(wanted) && values.next().is_none()
            })
    }

    fn as_match(&self) -> Match<'_> {
        Match {
            ingress: &self.ingress.name,
            hash: &self.ingress.hash,
            rule: self.rule,
            position: self.position,
            path: self.path(),
            key: self.key,
        }
    }
}

fn compile<'r>(
    ingress: &'r Arc<IngressRules>,
    index: usize,
    rule: &'r Rule,
) -> impl Iterator<Item = Arc<Route>> + 'r {
    rule.paths.iter().enumerate().map(move |(position, path)| {
        let key = PathKey::of(&(
            &ingress.name,
            rule.visibility,
            &rule.hosts,
            &path.prefix,
            &path.headers,
        ));
        Arc::new(Route {
            ingress: Arc::clone(ingress),
            rule: index,
            position,
            key,
        })
    })
}

/// The routes of one entrance by host.
#[derive(Clone, Debug, Default)]
struct Table {
    hosts: HashMap<Arc<str>, Vec<Arc<Route>>>,
    any: Vec<Arc<Route>>,
}

impl Table {
    fn push(&mut self, host: Option<&Arc<str>>, route: &Arc<Route>) {
        let routes = match host {
            Some(host) => self.hosts.entry(Arc::clone(host)).or_default(),
            None => &mut self.any,
        };
        routes.push(Arc::clone(route));
    }

    fn sort(&mut self) {
        for routes in self.hosts.values_mut().chain([&mut self.any]) {
            // Stable: what is equal keeps its listed order.
            routes.sort_by_key(|route| {
                let path = route.path();
                Reverse((path.prefix.len(), path.headers.len()))
            });
            routes.shrink_to_fit();
        }
        self.hosts.shrink_to_fit();
    }

    fn routes(&self, host: &Host<'_>) -> Option<&[Arc<Route>]> {
        let any = (!self.any.is_empty()).then_some(&self.any);
        self.hosts.get(host.as_str()).or(any).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
