//! Makes a [`World`] real: queues, processes, the autoscaler and the routes, in an order in which nothing is lost.
//!
//! What is new is set up first, then the routes are published, then what nothing leads to any more is retired: it keeps
//! its queue and its processes until its last request has ended.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::revision::{RevisionId, RevisionSpec};
use parkway_activator::stats::Stats;
use parkway_activator::throttler::{Parking, Throttler};
use parkway_autoscaler_client::embedded::{
    AutoscalerConfig, Embedded, Reachability, RevisionScaling,
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::names::{Name, Names, Resolved, Resolver};
use super::validate::autoscaler_config;
use crate::frontend::worker::RoutePublisher;
use crate::provider::{RevisionEntry, World};
use crate::proxy::observe::RequestCounts;
use crate::routing::revisions::Revisions;
use crate::routing::rules::{IngressName, IngressRules, Target};
use crate::routing::table::{Age, Conflict, DEFAULT_CLUSTER_DOMAIN, RouteTable};
use crate::standalone::Processes;

/// Who decides how many processes there are.
#[derive(Debug)]
pub(super) enum Scaling {
    /// The autoscaler inside.
    Embedded(Embedded),
    /// Someone who is only reported to: one process per Revision with traffic.
    Elsewhere,
}

/// Everything a configuration reaches.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) throttler: Throttler,
    pub(super) stats: Stats,
    pub(super) counts: RequestCounts,
    pub(super) processes: Processes,
    pub(super) scaling: Scaling,
    pub(super) publisher: RoutePublisher,
    pub(super) resolver: Resolver,
    pub(super) applied: Applied,
}

/// What is set up.
#[derive(Debug)]
pub(super) struct Applied {
    revisions: Arc<BTreeMap<RevisionId, Arc<RevisionEntry>>>,
    config: BTreeMap<String, String>,
    /// What the routes are made of.
    ingresses: Arc<Vec<Arc<IngressRules>>>,
    routes: RouteTable,
    /// The ExternalName targets of those that have some.
    external_of: BTreeMap<IngressName, Externals>,
    services: BTreeSet<RevisionId>,
    /// Names to resolve, by the identity of their endpoints.
    external: Names,
    /// What no route leads to any more, and since when: last requests may still run.
    retiring: BTreeMap<RevisionId, Instant>,
}

impl Applier {
    /// Makes `world` real. Returns the hosts that more than one KIngress claims.
    pub(super) async fn apply(&mut self, world: &World) -> Vec<Conflict> {
        // The provider has checked the same values with the same function.
        let config = autoscaler_config(&world.autoscaler_config)
            .unwrap_or_else(|_| AutoscalerConfig::standalone());
        let is_same_config = self.applied.config == world.autoscaler_config;
        self.applied.config.clone_from(&world.autoscaler_config);
        let before = std::mem::replace(&mut self.applied.revisions, Arc::clone(&world.revisions));
        let (changed, gone) = differences(&before, &world.revisions);
        if is_same_config {
            for (id, entry) in changed {
                self.set_up(id, entry, &config);
            }
        } else {
            for (id, entry) in &*world.revisions {
                self.set_up(id, entry, &config);
            }
        }
        for (id, (spec, endpoints)) in &world.services {
            self.applied.retiring.remove(id);
            self.throttler.upsert(id, Arc::clone(spec), Parking::Never);
            self.throttler.set_endpoints(id, endpoints.clone());
        }
        self.set_up_routes(world).await;
        self.retire(gone, world);
        self.applied.routes.conflicts()
    }

    /// Publishes the routes; those that are the same are not compiled again.
    async fn set_up_routes(&mut self, world: &World) {
        let before = std::mem::replace(&mut self.applied.ingresses, Arc::clone(&world.ingresses));
        if !Arc::ptr_eq(&before, &world.ingresses) {
            let Changes { gone, new } = changes(&before, &world.ingresses);
            self.set_up_externals(&gone, &new).await;
            for name in gone {
                self.applied.routes.remove(&name);
            }
            for (place, rules) in new {
                self.applied.routes.set(Age::Written(place), rules);
            }
        }
        let snapshot = self.applied.routes.snapshot(world.generation);
        // There are no activator ports, so nobody names Revisions.
        self.publisher.publish(snapshot, Revisions::default());
    }

    async fn set_up_externals(&mut self, gone: &[IngressName], new: &[(usize, Arc<IngressRules>)]) {
        let external_of = &mut self.applied.external_of;
        let had_some = !external_of.is_empty();
        for name in gone {
            external_of.remove(name);
        }
        for (_, rules) in new {
            let external = externals(rules);
            if external.is_empty() {
                external_of.remove(&rules.name);
            } else {
                external_of.insert(rules.name.clone(), external);
            }
        }
        if had_some || !external_of.is_empty() {
            let all = external_of.values().flatten();
            let all = all.map(|(id, target)| (id.clone(), target.clone()));
            let all = all.collect();
            self.set_up_names(all).await;
        }
    }

    /// Sets up what names stand for, and gives those that are new the time of a look-up: before it, a route to them leads
    /// nowhere.
    async fn set_up_names(&mut self, external: Externals) {
        let mut names = Names::new();
        let mut to_resolve = Names::new();
        for (id, (name, spec)) in external {
            self.applied.retiring.remove(&id);
            self.throttler.upsert(&id, spec, Parking::Never);
            match name.literal() {
                Some(endpoint) => self.throttler.set_endpoints(&id, vec![endpoint]),
                None => drop(to_resolve.insert(id.clone(), name.clone())),
            }
            names.insert(id, name);
        }
        let before = std::mem::replace(&mut self.applied.external, names);
        let mut unknown = to_resolve.clone();
        unknown.retain(|id, name| before.get(id) != Some(name));
        self.resolver.ask(to_resolve);
        let until = Instant::now() + FIRST_LOOK_UP;
        while !unknown.is_empty() {
            let Ok(resolved) = tokio::time::timeout_at(until, self.resolver.next()).await else {
                warn!(names = ?unknown.values(), "routes are in effect before their names are resolved");
                return;
            };
            if unknown.get(&resolved.id) == Some(&resolved.name) {
                unknown.remove(&resolved.id);
            }
            self.resolved(resolved);
        }
    }

    fn set_up(&mut self, id: &RevisionId, entry: &Arc<RevisionEntry>, config: &AutoscalerConfig) {
        self.applied.retiring.remove(id);
        self.throttler
            .upsert(id, Arc::clone(&entry.spec), Parking::Allowed);
        if let Some(endpoints) = &entry.endpoints {
            self.throttler.set_endpoints(id, endpoints.to_vec());
        }
        if let Some(workload) = &entry.workload {
            self.processes.set(Arc::clone(workload));
            self.scale(id, entry, config, Reachability::Reachable);
        }
    }

    fn scale(
        &self,
        id: &RevisionId,
        entry: &RevisionEntry,
        config: &AutoscalerConfig,
        reachability: Reachability,
    ) {
        let Scaling::Embedded(embedded) = &self.scaling else {
            self.processes
                .scale(id, u32::from(reachability == Reachability::Reachable));
            return;
        };
        let mut annotations = entry.annotations.to_map();
        if entry.takeover {
            // It must be started once to prove itself before it gets the traffic of the one before it.
            annotations
                .entry(INITIAL_SCALE.to_owned())
                .or_insert_with(|| "1".to_owned());
        }
        match RevisionScaling::parse(&annotations, entry.spec.concurrency, config) {
            Ok(scaling) => embedded.upsert(id.clone(), scaling, reachability),
            // The provider has checked the same values with the same function.
            Err(invalid) => warn!(revision = %id, ?invalid, "scaling annotations were not applied"),
        }
    }

    /// Takes leave of what the world does not name any more.
    fn retire(&mut self, gone: Vec<&RevisionId>, world: &World) {
        for id in gone {
            info!(revision = %id, "has no traffic any more: retires when its last request has ended");
            self.applied.retiring.insert(id.clone(), Instant::now());
        }
        let services: BTreeSet<_> = world
            .services
            .keys()
            .chain(self.applied.external.keys())
            .cloned()
            .collect();
        for id in self.applied.services.difference(&services) {
            self.applied.retiring.insert(id.clone(), Instant::now());
        }
        self.applied.services = services;
    }

    /// Removes what has retired and has no requests. Called again and again until there is nothing.
    pub(super) fn finish_retiring(&mut self) {
        let is_done = |id: &RevisionId, since: &Instant| {
            since.elapsed() >= LEAVE
                && self
                    .throttler
                    .revision_state(id)
                    .is_none_or(|state| state.parked == 0 && state.in_flight == 0)
        };
        let done: Vec<_> = self
            .applied
            .retiring
            .iter()
            .filter(|(id, since)| is_done(id, since))
            .map(|(id, _)| id.clone())
            .collect();
        for id in done {
            self.applied.retiring.remove(&id);
            if let Scaling::Embedded(embedded) = &self.scaling {
                embedded.remove(&id);
            }
            self.processes.remove(&id);
            self.throttler.remove(&id);
            self.stats.remove(&id);
            info!(revision = %id, "retired");
        }
        self.counts.retain(|id| self.applied.knows(id));
    }

    /// Whether there is something to look after with [`finish_retiring`](Self::finish_retiring).
    pub(super) fn is_retiring(&self) -> bool {
        !self.applied.retiring.is_empty()
    }

    /// Takes in what a name stands for now.
    pub(super) fn resolved(&self, resolved: Resolved) {
        let Resolved {
            id,
            name,
            endpoints,
        } = resolved;
        if self.applied.external.get(&id) == Some(&name)
            && let Some(endpoints) = endpoints
        {
            self.throttler.set_endpoints(&id, endpoints);
        }
    }
}

impl Default for Applied {
    fn default() -> Self {
        Self {
            revisions: Arc::default(),
            config: BTreeMap::new(),
            ingresses: Arc::default(),
            routes: RouteTable::new(DEFAULT_CLUSTER_DOMAIN),
            external_of: BTreeMap::new(),
            services: BTreeSet::new(),
            external: Names::new(),
            retiring: BTreeMap::new(),
        }
    }
}

impl Applied {
    fn knows(&self, id: &RevisionId) -> bool {
        self.revisions.contains_key(id)
            || self.retiring.contains_key(id)
            || self.services.contains(id)
    }
}

/// How long what has no route any more stays at least: a worker that has found its way there by the routes before may
/// not have asked for a place yet, or its place may not show yet.
const LEAVE: Duration = Duration::from_secs(1);

/// How long routes wait for the first look-up of the names they lead to, and everything else with them.
const FIRST_LOOK_UP: Duration = Duration::from_secs(2);

const INITIAL_SCALE: &str = "autoscaling.knative.dev/initial-scale";

/// What is to be done to the routes.
#[derive(Debug, Default)]
struct Changes {
    gone: Vec<IngressName>,
    /// What is new, has changed, or stands in another place; with its place, for that is its age.
    new: Vec<(usize, Arc<IngressRules>)>,
}

/// How two lists of the same kind differ, which mostly share all but one of their members.
fn changes(before: &[Arc<IngressRules>], after: &[Arc<IngressRules>]) -> Changes {
    let is_same = |place: usize, rules: &Arc<IngressRules>, others: &[Arc<IngressRules>]| {
        others
            .get(place)
            .is_some_and(|other| Arc::ptr_eq(rules, other))
    };
    let different = |these: &[Arc<IngressRules>], others: &[Arc<IngressRules>]| {
        let places = these.iter().enumerate();
        let different = places.filter(|(place, rules)| !is_same(*place, rules, others));
        different
            .map(|(place, rules)| (place, Arc::clone(rules)))
            .collect::<Vec<_>>()
    };
    let (old, new) = (different(before, after), different(after, before));
    let stay: HashSet<&IngressName> = new.iter().map(|(_, rules)| &rules.name).collect();
    let names = old.iter().map(|(_, rules)| &rules.name);
    let gone = names.filter(|name| !stay.contains(name)).cloned().collect();
    Changes { gone, new }
}

/// What came or is another, and what went. Values are compared by their place in memory, keys only where those differ.
fn differences<'m, K: Ord, V>(
    before: &'m BTreeMap<K, Arc<V>>,
    after: &'m BTreeMap<K, Arc<V>>,
) -> (Vec<(&'m K, &'m Arc<V>)>, Vec<&'m K>) {
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    let mut old = before.iter().peekable();
    for (key, value) in after {
        if old
            .next_if(|(_, known)| Arc::ptr_eq(known, value))
            .is_some()
        {
            continue;
        }
        while let Some((left, _)) = old.next_if(|(known, _)| *known < key) {
            gone.push(left);
        }
        match old.next_if(|(known, _)| *known == key) {
            Some((_, known)) if Arc::ptr_eq(known, value) => {}
            _ => changed.push((key, value)),
        }
    }
    gone.extend(old.map(|(key, _)| key));
    (changed, gone)
}

/// Names that rules lead to.
type Externals = BTreeMap<RevisionId, (Name, Arc<RevisionSpec>)>;

/// All ExternalName targets of rules.
fn externals(rules: &IngressRules) -> Externals {
    let paths = rules.rules.iter().flat_map(|rule| &rule.paths);
    paths
        .flat_map(|path| path.splits.iter())
        .filter_map(|(_, backend)| match &backend.target {
            Target::External {
                id,
                host,
                port,
                spec,
            } => {
                let name = Name {
                    host: host.clone(),
                    port: *port,
                };
                Some((id.clone(), (name, Arc::clone(spec))))
            }
            Target::Revision { .. } | Target::Service { .. } | Target::Missing { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str) -> Arc<IngressRules> {
        Arc::new(IngressRules {
            name: IngressName {
                namespace: "shop".into(),
                name: name.into(),
            },
            hash: "".into(),
            rules: Vec::new(),
            policy: None,
        })
    }

    fn said(changes: &Changes) -> String {
        let gone = changes.gone.iter().map(|name| format!("-{}", name.name));
        let new = changes.new.iter();
        let new = new.map(|(place, rules)| format!("{place}:{}", rules.name.name));
        gone.chain(new).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_is_another_value_or_stands_elsewhere_has_changed() {
        let [a, b, c] = ["a", "b", "c"].map(rules);
        let all = [Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)];
        assert_eq!(said(&changes(&all, &all)), "");
        assert_eq!(said(&changes(&[], &all)), "0:a 1:b 2:c");
        let changed = [Arc::clone(&a), rules("b"), Arc::clone(&c)];
        assert_eq!(said(&changes(&all, &changed)), "1:b");
        let left = [Arc::clone(&a), Arc::clone(&c)];
        assert_eq!(said(&changes(&all, &left)), "-b 1:c");
        assert_eq!(said(&changes(&left, &all)), "1:b 2:c");
        assert_eq!(said(&changes(&all, &[])), "-a -b -c");
    }

    #[test]
    fn maps_are_compared_by_values_in_memory_and_by_keys() {
        let [one, two, three] = [1, 2, 3].map(Arc::new);
        let map = |pairs: &[(char, &Arc<i32>)]| {
            let pairs = pairs.iter().map(|(key, value)| (*key, Arc::clone(value)));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let said = |before: &BTreeMap<char, Arc<i32>>, after: &BTreeMap<char, Arc<i32>>| {
            let (changed, gone) = differences(before, after);
            let changed = changed.iter().map(|(key, _)| key.to_string());
            changed
                .chain(gone.iter().map(|key| format!("-{key}")))
                .collect::<String>()
        };
        let all = map(&[('b', &one), ('d', &two), ('f', &three)]);
        assert_eq!(said(&all, &all), "");
        assert_eq!(said(&map(&[]), &all), "bdf");
        assert_eq!(said(&all, &map(&[])), "-b-d-f");
        assert_eq!(said(&all, &map(&[('b', &one), ('f', &three)])), "-d");
        assert_eq!(said(&map(&[('d', &two)]), &all), "bf");
        let other = map(&[('a', &two), ('b', &one), ('d', &three), ('g', &two)]);
        assert_eq!(said(&all, &other), "adg-f");
    }
}
