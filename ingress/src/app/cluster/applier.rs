//! Makes [`Changes`] of a cluster real, in an order in which nothing is lost.
//!
//! What is new is set up first: Revisions with their endpoints, Services, names. Then the routes are published, then what
//! nothing leads to any more is retired. Rules that lead to a name nobody has looked up yet wait for the look-up, and
//! what was in effect before them stays until then; everything else goes on meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::backends::{Pods, Replicas};
use parkway_activator::revision::{RevisionId, RevisionMap, RevisionSpec};
use parkway_activator::stats::Stats;
use parkway_activator::throttler::{Parking, Throttler};
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::endpoints::ClusterEndpoints;
use super::super::names::{Name, Resolved, Resolver};
use super::super::starts::RETRY_START;
use crate::frontend::worker::RoutePublisher;
use crate::provider::kubernetes::{
    Changes, IngressChange, Key, Outcome, RevisionChange, ServiceChange,
};
use crate::proxy::observe::RequestCounts;
use crate::routing::revisions::Revisions;
use crate::routing::rules::{IngressName, IngressRules, Target};
use crate::routing::table::{Age, RouteTable};

/// Everything the cluster reaches.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) throttler: Throttler,
    pub(super) endpoints: ClusterEndpoints,
    /// Our address, where the public endpoints of a Revision say who serves it: without a gateway of ours.
    pub(super) sharing_by_public: Option<IpAddr>,
    pub(super) stats: Stats,
    pub(super) counts: RequestCounts,
    pub(super) publisher: RoutePublisher,
    pub(super) resolver: Resolver,
    pub(super) table: RouteTable,
    pub(super) applied: Applied,
}

/// What is set up.
#[derive(Debug, Default)]
pub(super) struct Applied {
    generation: u64,
    /// Something about routes or Revisions is not published yet.
    is_changed: bool,
    /// What is published with the routes.
    revisions: Revisions,
    services: RevisionMap<()>,
    names: BTreeMap<RevisionId, NamedTarget>,
    /// The names that the rules in effect, or held, lead to.
    names_of: HashMap<Key, Vec<RevisionId>>,
    /// Rules that wait for look-ups.
    held: BTreeMap<Key, IngressChange>,
    /// Revisions whose Pods cannot start: why, and since when that is known.
    failing: BTreeMap<RevisionId, (Arc<str>, Instant)>,
    /// What no route leads to any more, and since when: last requests may still run.
    retiring: BTreeMap<RevisionId, Instant>,
}

/// A name that rules lead to.
#[derive(Debug)]
struct NamedTarget {
    name: Name,
    users: usize,
    /// A look-up has ended, well or not.
    is_answered: bool,
}

impl Applier {
    /// Makes `changes` real, and that the KIngresses `gone` are gone. Returns the others that are as they are told now,
    /// with their rules in effect if they can be; those whose rules wait for look-ups say so.
    pub(super) fn apply(&mut self, changes: Changes, gone: &[Key]) -> Vec<IngressChange> {
        for (id, change) in &changes.revisions {
            if let Some(revision) = change {
                self.set_up_revision(id, revision);
            }
        }
        for (id, change) in &changes.services {
            if let Some(service) = change {
                self.set_up_service(id, service);
            }
        }
        let mut in_effect = Vec::new();
        for key in &changes.given_away {
            // What was to come does not come any more; what is there stays.
            self.applied.held.remove(key);
        }
        for key in gone {
            self.applied.held.remove(key);
            self.lead_to(key, &[]);
            self.table.remove(&IngressName::from(key));
            self.applied.is_changed = true;
        }
        for change in changes.ingresses {
            for problem in &change.notes {
                warn!(ingress = %change.key, %problem, "an annotation is left out");
            }
            self.take(change, &mut in_effect);
        }
        for (id, _) in changes
            .revisions
            .iter()
            .filter(|(_, change)| change.is_none())
        {
            self.applied.revisions.remove(id);
            self.applied.failing.remove(id);
            self.applied.is_changed = true;
        }
        self.publish();
        for (id, change) in changes.revisions {
            if change.is_none() {
                info!(revision = %id, "is gone: retires when its last request has ended");
                // What is parked for it has nothing to wait for.
                self.endpoints.remove(&id);
                self.throttler.remove(&id);
                self.applied.retiring.insert(id, Instant::now());
            }
        }
        for (id, change) in changes.services {
            if change.is_none() {
                self.applied.services.remove(&id);
                self.applied.retiring.insert(id, Instant::now());
            }
        }
        in_effect
    }

    /// The KIngresses that do not have all their hosts, because older ones have them, and what to say of it.
    pub(super) fn conflicts(&self) -> BTreeMap<Key, String> {
        let mut conflicts: BTreeMap<Key, String> = BTreeMap::new();
        for conflict in self.table.conflicts() {
            let name = &conflict.ingress;
            let key = Key::new(Arc::clone(&name.namespace), Arc::clone(&name.name));
            let said = conflicts.entry(key).or_default();
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(&conflict.to_string());
        }
        conflicts
    }

    /// Whether rules of this KIngress wait for look-ups.
    pub(super) fn holds(&self, key: &Key) -> bool {
        self.applied.held.contains_key(key)
    }

    /// How many KIngresses' rules wait for look-ups.
    pub(super) fn held(&self) -> usize {
        self.applied.held.len()
    }

    /// Takes in what a name stands for now. Returns the KIngresses that waited for it, now in effect.
    pub(super) fn resolved(&mut self, resolved: Resolved) -> Vec<IngressChange> {
        let Resolved {
            id,
            name,
            endpoints,
        } = resolved;
        let Some(target) = self.applied.names.get_mut(&id) else {
            return Vec::new();
        };
        if target.name != name {
            return Vec::new();
        }
        target.is_answered = true;
        if let Some(endpoints) = endpoints {
            self.throttler.set_endpoints(&id, endpoints);
        }
        let names = &self.applied.names;
        let names_of = &self.applied.names_of;
        let is_free = |key: &Key| {
            let mut led_to = names_of.get(key).into_iter().flatten();
            led_to.all(|id| names.get(id).is_none_or(|target| target.is_answered))
        };
        let free: Vec<Key> = { self.applied.held.keys() }
            .filter(|key| is_free(key))
            .cloned()
            .collect();
        let mut in_effect = Vec::new();
        for key in free {
            if let Some(change) = self.applied.held.remove(&key) {
                self.take(change, &mut in_effect);
            }
        }
        if !in_effect.is_empty() {
            self.publish();
        }
        in_effect
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
        let done: Vec<_> = { self.applied.retiring.iter() }
            .filter(|(id, since)| is_done(id, since))
            .map(|(id, _)| id.clone())
            .collect();
        for id in done {
            self.applied.retiring.remove(&id);
            self.throttler.remove(&id);
            self.stats.remove(&id);
        }
        self.counts.retain(|id| self.applied.knows(id));
    }

    /// Answers those who wait for Pods that cannot start, and says why. Called again and again while some cannot.
    ///
    /// What a Revision says of an earlier start is no reason to give up this one: either it was said after the start
    /// began, or the start has lasted for [`PATIENCE`]. Whether there is a node for a Pod is left to who `sees` the Pods:
    /// one may be on its way or there already, which the Revision does not say.
    pub(super) fn fail_starts(&self, sees: impl Fn(&RevisionId) -> bool) {
        for (id, (reason, told)) in &self.applied.failing {
            if reason.starts_with("Unschedulable") && sees(id) {
                continue;
            }
            let state = self.throttler.revision_state(id);
            let Some(since) = state.and_then(|state| state.starting_since) else {
                continue;
            };
            if *told > since || since.elapsed() >= PATIENCE {
                self.throttler
                    .start_failed(id, Arc::clone(reason), RETRY_START);
            }
        }
    }

    /// Whether there is something to look after with [`fail_starts`](Self::fail_starts).
    pub(super) fn is_failing(&self) -> bool {
        !self.applied.failing.is_empty()
    }

    /// Whether there is something to look after with [`finish_retiring`](Self::finish_retiring).
    pub(super) fn is_retiring(&self) -> bool {
        !self.applied.retiring.is_empty()
    }

    fn set_up_revision(&mut self, id: &RevisionId, revision: &RevisionChange) {
        self.applied.retiring.remove(id);
        let known = self.applied.revisions.get(id);
        if !known.is_some_and(|known| Arc::ptr_eq(known, &revision.spec)) {
            self.throttler
                .upsert(id, Arc::clone(&revision.spec), Parking::Allowed);
            let spec = Arc::clone(&revision.spec);
            self.applied.revisions.insert(id.clone(), spec);
            self.applied.is_changed = true;
        }
        let pods = Pods {
            ready: revision.ready.clone(),
            not_ready: revision.not_ready.clone(),
            trusts_early: revision.trusts_early,
            service: revision.service,
        };
        self.endpoints
            .set(id, &revision.spec, &revision.private_service, pods);
        if let Some(us) = self.sharing_by_public {
            let place = Replicas {
                index: revision.public.iter().position(|address| *address == us),
                count: revision.public.len(),
            };
            self.endpoints.set_revision_replicas(id, place);
        }
        match &revision.failure {
            None => drop(self.applied.failing.remove(id)),
            Some(reason) => {
                let known = self.applied.failing.get(id);
                if known.is_none_or(|(known, _)| **known != **reason) {
                    let told = (reason.as_ref().into(), Instant::now());
                    self.applied.failing.insert(id.clone(), told);
                }
            }
        }
    }

    fn set_up_service(&mut self, id: &RevisionId, service: &ServiceChange) {
        self.applied.retiring.remove(id);
        self.throttler
            .upsert(id, Arc::clone(&service.spec), Parking::Never);
        self.throttler.set_endpoints(id, service.endpoints.clone());
        self.applied.services.insert(id.clone(), ());
    }

    /// Puts rules into effect, or holds them until their names have been looked up.
    fn take(&mut self, mut change: IngressChange, in_effect: &mut Vec<IngressChange>) {
        let held = self.applied.held.remove(&change.key);
        // Still to come: what was held for an earlier look at the same object.
        if change.rules.is_none()
            && let Some(held) = held
        {
            change.rules = held.rules;
        }
        if let Some(rules) = &change.rules {
            let external = externals(rules);
            self.lead_to(&change.key, &external);
            let is_unanswered = |(id, ..): &&(RevisionId, Name, Arc<RevisionSpec>)| {
                let target = self.applied.names.get(id);
                target.is_some_and(|target| !target.is_answered)
            };
            if let Some((_, name, _)) = external.iter().find(is_unanswered) {
                in_effect.push(IngressChange {
                    rules: None,
                    outcome: Outcome::Waiting {
                        reason: "NameLookup",
                        message: format!("the name {} is being looked up", name.host),
                    },
                    ..change.clone()
                });
                self.applied.held.insert(change.key.clone(), change);
                return;
            }
            let age = Age::Created(change.created);
            self.table.set(age, Arc::clone(rules));
            self.applied.is_changed = true;
        }
        in_effect.push(change);
    }

    /// Counts the names that a KIngress leads to, and asks for those that are new.
    fn lead_to(&mut self, key: &Key, external: &[(RevisionId, Name, Arc<RevisionSpec>)]) {
        let before = self.applied.names_of.remove(key).unwrap_or_default();
        if before.is_empty() && external.is_empty() {
            return;
        }
        let mut is_changed = false;
        for (id, name, spec) in external {
            let known = self.applied.names.get_mut(id);
            if let Some(target) = known.filter(|target| target.name == *name) {
                target.users += 1;
                continue;
            }
            is_changed = true;
            self.applied.retiring.remove(id);
            self.throttler.upsert(id, Arc::clone(spec), Parking::Never);
            let literal = name.literal();
            if let Some(endpoint) = literal {
                self.throttler.set_endpoints(id, vec![endpoint]);
            }
            let users = self.applied.names.get(id).map_or(0, |target| target.users);
            let target = NamedTarget {
                name: name.clone(),
                users: users + 1,
                is_answered: literal.is_some(),
            };
            self.applied.names.insert(id.clone(), target);
        }
        for id in before {
            if let Some(target) = self.applied.names.get_mut(&id) {
                target.users = target.users.saturating_sub(1);
                if target.users == 0 {
                    is_changed = true;
                    self.applied.names.remove(&id);
                    self.applied.retiring.insert(id, Instant::now());
                }
            }
        }
        if !external.is_empty() {
            let ids = external.iter().map(|(id, ..)| id.clone()).collect();
            self.applied.names_of.insert(key.clone(), ids);
        }
        if is_changed {
            let to_resolve = self.applied.names.iter();
            let to_resolve = to_resolve.filter(|(_, target)| target.name.literal().is_none());
            let to_resolve = to_resolve.map(|(id, target)| (id.clone(), target.name.clone()));
            self.resolver.ask(to_resolve.collect());
        }
    }

    /// Makes the routes and Revisions what new requests are routed by, unless nothing about them has changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.applied.is_changed) {
            return;
        }
        self.applied.generation += 1;
        let snapshot = self.table.snapshot(self.applied.generation);
        self.publisher
            .publish(snapshot, self.applied.revisions.clone());
    }
}

impl Applied {
    fn knows(&self, id: &RevisionId) -> bool {
        self.revisions.get(id).is_some()
            || self.retiring.contains_key(id)
            || self.services.contains_key(id)
            || self.names.contains_key(id)
    }
}

/// How long what has no route any more stays at least: a worker that has found its way there by the routes before may
/// not have asked for a place yet, or its place may not show yet.
const LEAVE: Duration = Duration::from_secs(1);

/// How long a start may last although its Revision has said before that its Pods cannot start.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ExternalName targets of rules, each once.
fn externals(rules: &IngressRules) -> Vec<(RevisionId, Name, Arc<RevisionSpec>)> {
    let paths = rules.rules.iter().flat_map(|rule| &rule.paths);
    let mut external: Vec<(RevisionId, Name, Arc<RevisionSpec>)> = Vec::new();
    for (_, backend) in paths.flat_map(|path| path.splits.iter()) {
        if let Target::External {
            id,
            host,
            port,
            spec,
        } = &backend.target
            && !external.iter().any(|(known, ..)| known == id)
        {
            let name = Name {
                host: host.clone(),
                port: *port,
            };
            external.push((id.clone(), name, Arc::clone(spec)));
        }
    }
    external
}

#[cfg(test)]
mod tests {
    use parkway_activator::throttler::QueueLimits;

    use super::*;
    use crate::app::endpoints::ProbeLimits;
    use crate::proxy::probe;
    use crate::routing::rules::{Backend, PathRule, Rule, Visibility};
    use crate::routing::split::Splits;
    use crate::routing::table::RouteSnapshot;

    /// One whose names are never looked up.
    fn applier() -> Applier {
        let throttler = Throttler::new(QueueLimits::default(), 1);
        let (endpoints, _asking) = ClusterEndpoints::new(
            throttler.clone(),
            probe::Tcp::default(),
            ProbeLimits::default(),
        );
        Applier {
            throttler,
            endpoints,
            sharing_by_public: None,
            stats: Stats::new(1),
            counts: RequestCounts::new(1),
            publisher: RoutePublisher::new(RouteSnapshot::default()).0,
            resolver: Resolver::new().0,
            table: RouteTable::new("cluster.local"),
            applied: Applied::default(),
        }
    }

    fn id() -> RevisionId {
        RevisionId::of_service("ns", "elsewhere", 80)
    }

    fn to_another_host() -> IngressChange {
        let target = Target::External {
            id: id(),
            host: "elsewhere.example.com".to_owned(),
            port: 80,
            spec: Arc::default(),
        };
        let backend = Backend {
            target,
            set_headers: Vec::new(),
        };
        let path = PathRule {
            prefix: String::new(),
            headers: Vec::new(),
            rewrite_host: None,
            set_headers: Vec::new(),
            splits: Splits::try_new(vec![(100, backend)]).unwrap(),
        };
        let key = Key::new("ns", "a");
        let rules = IngressRules {
            name: IngressName::from(&key),
            hash: "hash".into(),
            policy: None,
            rules: vec![Rule {
                hosts: vec!["a.example.com".into()],
                visibility: Visibility::ExternalIp,
                paths: vec![Arc::new(path)],
            }],
        };
        IngressChange {
            key,
            uid: "uid".into(),
            generation: 1,
            resource_version: "1".into(),
            created: 0,
            status: "null".into(),
            rules: Some(Arc::new(rules)),
            outcome: Outcome::Programmed,
            notes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn rules_that_wait_for_a_look_up_say_so_and_are_in_effect_after_it() {
        let mut applier = applier();
        let changes = Changes {
            ingresses: vec![to_another_host()],
            ..Changes::default()
        };

        let told = applier.apply(changes, &[]);
        let [waits] = told.as_slice() else {
            panic!("{told:?}")
        };
        let message = "the name elsewhere.example.com is being looked up".to_owned();
        let reason = "NameLookup";
        assert_eq!(waits.outcome, Outcome::Waiting { reason, message });
        assert!(applier.holds(&waits.key));
        assert_eq!(applier.held(), 1);

        let told = applier.resolved(Resolved {
            id: id(),
            name: Name {
                host: "elsewhere.example.com".to_owned(),
                port: 80,
            },
            endpoints: Some(Vec::new()),
        });
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].outcome, Outcome::Programmed);
        assert!(told[0].rules.is_some() && !applier.holds(&told[0].key));
        assert_eq!(applier.held(), 0);
    }
}
