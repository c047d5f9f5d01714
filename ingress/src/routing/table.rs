//! The compiled routes of one generation, and how a request finds its path in them.
//!
//! There are two tables because the entrance decides who may reach what: the external one holds the rules for
//! [`Visibility::ExternalIp`], the internal one all rules. Finding a path is one hash look-up of the host and a walk
//! over that host's paths; it allocates nothing.
//!
//! A path's prefix is compared as a raw string, so that `/foo` also covers `/foobar`: the API calls it "a literal
//! prefix" (knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`) and knative-extensions/net-kourier does the
//! same. The longest prefix goes first, then the one that asks for more headers, then the listed order.

mod claims;
mod hosts;

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

pub use self::claims::{Age, Conflict, ConflictReason, RouteTable};
use self::hosts::{Hosts, Route};
use super::host::Host;
use super::policy::RoutePolicy;
use super::rules::{IngressName, IngressRules, PathRule, Visibility};
use super::split::PathKey;

/// The cluster's DNS domain when nothing else is said.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// All routes of one generation; immutable.
///
/// Cheap to clone. Made by a [`RouteTable`]; snapshots of one table share what did not change between them.
#[derive(Clone, Debug, Default)]
pub struct RouteSnapshot {
    generation: u64,
    tables: Arc<Tables>,
}

/// What a snapshot consists of; cloned, it shares all its parts.
#[derive(Clone, Debug, Default)]
struct Tables {
    hosts: Hosts,
    /// The rules for all hosts.
    any: Option<Arc<[Route]>>,
    /// The paths that have shares to draw for, and how many have each key.
    keys: Arc<HashMap<PathKey, u32>>,
}

impl RouteSnapshot {
    /// Compiles what a provider found, oldest first, in the cluster domain [`DEFAULT_CLUSTER_DOMAIN`].
    ///
    /// See [`build_in`](Self::build_in).
    pub fn build(
        generation: u64,
        ingresses: Vec<impl Into<Arc<IngressRules>>>,
    ) -> (Self, Vec<Conflict>) {
        Self::build_in(DEFAULT_CLUSTER_DOMAIN, generation, ingresses)
    }

    /// Compiles what a provider found, oldest first, as a [`RouteTable`] does; of several of one name the last counts.
    pub fn build_in(
        cluster_domain: &str,
        generation: u64,
        ingresses: Vec<impl Into<Arc<IngressRules>>>,
    ) -> (Self, Vec<Conflict>) {
        let mut table = RouteTable::new(cluster_domain);
        for (place, ingress) in ingresses.into_iter().enumerate() {
            table.set(Age::Written(place), ingress.into());
        }
        (table.snapshot(generation), table.conflicts())
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
        let tables = &*self.tables;
        let listed = tables.hosts.get(host.as_str());
        let routes = served(listed, entrance)
            .or_else(|| served(tables.any.as_ref(), entrance))
            .ok_or(NoRoute::UnknownHost)?;
        routes
            .iter()
            .find(|route| route.is_for(entrance) && route.covers(path, headers))
            .map(Route::as_match)
            .ok_or(NoRoute::NoPath)
    }

    /// Whether a rule at `entrance` lists this very host.
    pub fn lists_host(&self, entrance: Visibility, host: &Host<'_>) -> bool {
        served(self.tables.hosts.get(host.as_str()), entrance).is_some()
    }

    /// The generation it was built for.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the path is part of this snapshot, and has shares to draw for: what [`Dealer::retain`](super::split::Dealer::retain) asks.
    pub fn has_path(&self, key: PathKey) -> bool {
        self.tables.keys.contains_key(&key)
    }

    /// The hosts served at `entrance` and whose they are, in no order; rules for all hosts are not among them.
    pub fn hosts(&self, entrance: Visibility) -> impl Iterator<Item = (&str, &IngressName)> {
        let hosts = self.tables.hosts.iter();
        hosts.filter_map(move |(host, routes)| {
            let routes = served(Some(routes), entrance)?;
            Some((host.as_ref(), &routes.first()?.ingress.name))
        })
    }

    /// The paths of this very host that are served at `entrance`, in the order in which they are tried.
    pub fn paths(&self, entrance: Visibility, host: &str) -> impl Iterator<Item = Match<'_>> {
        let routes = self.tables.hosts.get(host).map_or(&[][..], |routes| routes);
        let routes = routes.iter().filter(move |route| route.is_for(entrance));
        routes.map(Route::as_match)
    }
}

/// The routes of a host, if there is one for this entrance.
fn served(routes: Option<&Arc<[Route]>>, entrance: Visibility) -> Option<&[Route]> {
    let routes = &**routes?;
    let is_served = routes.iter().any(|route| route.is_for(entrance));
    is_served.then_some(routes)
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
    /// What that KIngress asks for beyond its rules.
    pub policy: Option<&'s Arc<RoutePolicy>>,
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

#[cfg(test)]
mod tests;
