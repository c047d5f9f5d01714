//! What is known of the cluster, and what follows from a change: pure, without API and clock.
//!
//! A change of an object marks what depends on it; [`Cluster::changes`] works off the marks, and costs what has changed,
//! not what there is. Nothing comes out before every kind has been listed once, so that a Parkway that starts never
//! answers 404 for a host it has not heard of yet.
//!
//! A KIngress whose new generation names a Service that is not there, or has no endpoint, keeps the rules of the generation
//! before in effect until it can be served (as knative-extensions/net-kourier `pkg/reconciler/ingress/ingress.go` does): between
//! a Service and its endpoints lies a moment in which nobody should get a 503.
//!
//! A KIngress that is given another class keeps its rules in effect until whoever has it now serves it ([`Given`]),
//! which its status tells, and nothing more is said of it: between two layers nobody should get a 404.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId, RevisionMap, RevisionSpec};

use super::super::knative::{NAMESPACE_HEADER, REVISION_HEADER};
use super::super::object::{CoreService, CoreServicePort, TargetPort};
use super::super::problem::Problem;
use super::super::translate::{Catalogue, translate_one};
use super::few::Few;
use super::internal_tls::{self, Certificates, InternalTlsChange, KnownInternalTls};
use super::kept::{Given, KeptIngress, KeptRevision, KeptService, KeptSlice, Phase, SeenIngress};
use super::objects;
use super::secrets::{CertificateChange, KeptSecret, Secrets};
use super::ticket_keys::{KeptTicketKeys, KnownTicketKeys};
use super::watch::{Change, Key};
use crate::routing::rules::{IngressName, IngressRules, Target};
use crate::routing::tls::TicketKeys;

/// What one watch tells.
#[derive(Debug)]
pub enum News {
    /// KIngresses.
    Ingress(Change<SeenIngress>),
    /// Revisions.
    Revision(Change<KeptRevision>),
    /// Services.
    Service(Change<KeptService>),
    /// EndpointSlices.
    Slice(Change<KeptSlice>),
    /// ConfigMaps of the system namespace.
    Config(Change<objects::ConfigMap>),
    /// The Secret of `system-internal-tls`.
    Certificates(Change<Certificates>),
    /// Secrets with certificates, of this namespace; of all when it is empty.
    Secret(Arc<str>, Change<KeptSecret>),
    /// The Secret with the keys of session tickets.
    TicketKeys(Change<KeptTicketKeys>),
}

/// What has to be different from now on.
#[derive(Debug, Default)]
pub struct Changes {
    /// KIngresses that are new or different, or about which there is something else to say.
    pub ingresses: Vec<IngressChange>,
    /// KIngresses that are gone.
    pub gone: Vec<Key>,
    /// KIngresses that are another's now. Their rules stay in effect until they are gone, and that is all.
    pub given_away: Vec<Key>,
    /// Revisions that are new or different; none: gone.
    pub revisions: Vec<(RevisionId, Option<RevisionChange>)>,
    /// Endpoints of ordinary Services that rules name; none: no rule does any more.
    pub services: Vec<(RevisionId, Option<ServiceChange>)>,
    /// The replicas of the gateway that are ready, in the order of their addresses as text.
    pub replicas: Option<Vec<Replica>>,
    /// Who owns the autoscaler's buckets: `host:port` by the bucket's name, all of them.
    pub bucket_owners: Option<BTreeMap<String, String>>,
    /// ConfigMaps of the system namespace by name, all of them.
    pub config: Option<Arc<BTreeMap<String, BTreeMap<String, String>>>>,
    /// Whether and how Pods are spoken to by TLS.
    pub internal_tls: Option<InternalTlsChange>,
    /// What the entrances prove themselves with, all of it.
    pub certificates: Option<CertificateChange>,
    /// The keys of session tickets, or why there are none.
    pub ticket_keys: Option<Result<TicketKeys, String>>,
}

/// A KIngress as it is now.
#[derive(Clone, Debug)]
pub struct IngressChange {
    /// Its name.
    pub key: Key,
    /// Tells it from another of the same name.
    pub uid: Arc<str>,
    /// The generation that was looked at.
    pub generation: i64,
    /// The state of the object that was looked at.
    pub resource_version: Box<str>,
    /// `creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// What the API says of it, as JSON.
    pub status: Arc<str>,
    /// Its rules, when others than before are to be in effect.
    pub rules: Option<Arc<IngressRules>>,
    /// Whether this generation is, or will be with `rules`, in effect.
    pub outcome: Outcome,
    /// What is wrong with its annotations, when that is news: the route is served without them.
    pub notes: Vec<Problem>,
}

/// What became of a generation of a KIngress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its rules can be in effect.
    Programmed,
    /// It cannot be served as it is.
    Refused {
        /// In one word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// It waits for something else.
    Waiting {
        /// In one word.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// A Revision as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionChange {
    /// What it promises.
    pub spec: Arc<RevisionSpec>,
    /// Pods that Kubernetes calls ready, in the order of their addresses.
    pub ready: Vec<Endpoint>,
    /// Pods that have an address and are not ready.
    pub not_ready: Vec<Endpoint>,
    /// A Pod that is not ready may be used when its queue-proxy says so.
    pub trusts_early: bool,
    /// The private Service, for a mesh.
    pub service: Option<Endpoint>,
    /// Its name.
    pub private_service: Arc<str>,
    /// Ready addresses behind the public Service, in their order as text: activators, while they are in the path.
    pub public: Vec<IpAddr>,
    /// Why its Pods cannot start.
    pub failure: Option<Box<str>>,
}

/// Endpoints of one port of an ordinary Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChange {
    /// Its protocol.
    pub spec: Arc<RevisionSpec>,
    /// Those that are ready.
    pub endpoints: Vec<Endpoint>,
}

/// A Parkway among several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Its address.
    pub address: IpAddr,
    /// Its Pod's name.
    pub pod: Box<str>,
}

/// All that is known.
#[derive(Debug)]
pub struct Cluster {
    /// The Service whose ready endpoints are the replicas.
    gateway: Key,
    /// Where Knative Serving is.
    system_namespace: Arc<str>,
    has_all: [bool; KINDS],
    ingresses: HashMap<Key, Box<Entry>>,
    /// Those that are another's now.
    given_away: BTreeSet<Key>,
    /// Who names a Service or Revision.
    users: HashMap<Key, Few<Key>>,
    revisions: RevisionMap<Box<Known>>,
    services: HashMap<Key, Arc<CoreService>>,
    /// Private Services: whose they are.
    private: HashMap<Key, RevisionId>,
    slices: HashMap<Key, Box<KeptSlice>>,
    slices_of_service: HashMap<Key, Few<Key>>,
    slices_of_revision: RevisionMap<Few<Key>>,
    /// Service ports that rules in effect name.
    ports: BTreeMap<RevisionId, UsedPort>,
    ports_of_service: HashMap<Key, BTreeSet<RevisionId>>,
    config: BTreeMap<String, BTreeMap<String, String>>,
    internal_tls: KnownInternalTls,
    /// Something has been told: from then on nothing waits for a kind that was not needed before.
    has_told: bool,
    secrets: Secrets,
    ticket_keys: KnownTicketKeys,
    marks: Marks,
}

/// How many kinds [`News`] has that are watched from the beginning.
const KINDS: usize = 5;

#[derive(Debug)]
struct Entry {
    kept: KeptIngress,
    refers_to: Few<Key>,
    /// In effect.
    rules: Option<Arc<IngressRules>>,
    /// The Service ports these name.
    ports: Vec<RevisionId>,
    outcome: Outcome,
    /// It has another class by now.
    is_given_away: bool,
    /// What is wrong with its annotations.
    notes: Vec<Problem>,
}

impl Entry {
    fn is_waiting(&self) -> bool {
        matches!(self.outcome, Outcome::Waiting { .. })
    }

    fn change(&self, rules: Option<Arc<IngressRules>>) -> IngressChange {
        let kept = &self.kept;
        IngressChange {
            key: kept.key.clone(),
            uid: Arc::clone(&kept.uid),
            generation: kept.generation,
            resource_version: kept.resource_version.clone(),
            created: kept.created,
            status: Arc::clone(&kept.status),
            rules,
            outcome: self.outcome.clone(),
            notes: Vec::new(),
        }
    }
}

/// What is known of a Revision, whichever object told it first.
#[derive(Debug, Default)]
struct Known {
    revision: Option<KeptRevision>,
    spec: Arc<RevisionSpec>,
    cluster_ip: Option<IpAddr>,
    private_service: Option<Arc<str>>,
    told: Option<RevisionChange>,
}

#[derive(Debug)]
struct UsedPort {
    service: Key,
    spec: Arc<RevisionSpec>,
    users: usize,
    told: Option<ServiceChange>,
}

/// What has to be looked at.
#[derive(Debug, Default)]
struct Marks {
    ingresses: BTreeSet<Key>,
    gone: Vec<Key>,
    given_away: Vec<Key>,
    revisions: HashSet<RevisionId>,
    ports: BTreeSet<RevisionId>,
    replicas: bool,
    bucket_owners: bool,
    config: bool,
}

impl Cluster {
    /// Nothing is known yet. `gateway` is the Service whose endpoints are the replicas, `system_namespace` where
    /// Knative Serving is.
    pub fn new(gateway: Key, system_namespace: &str) -> Self {
        Self {
            gateway,
            system_namespace: system_namespace.into(),
            has_all: [false; KINDS],
            ingresses: HashMap::new(),
            given_away: BTreeSet::new(),
            users: HashMap::new(),
            revisions: RevisionMap::default(),
            services: HashMap::new(),
            private: HashMap::new(),
            slices: HashMap::new(),
            slices_of_service: HashMap::new(),
            slices_of_revision: RevisionMap::default(),
            ports: BTreeMap::new(),
            ports_of_service: HashMap::new(),
            config: BTreeMap::new(),
            internal_tls: KnownInternalTls::default(),
            has_told: false,
            secrets: Secrets::default(),
            ticket_keys: KnownTicketKeys::default(),
            marks: Marks::default(),
        }
    }

    /// There will be no KIngresses: this Parkway is no ingress.
    pub fn without_ingresses(&mut self) {
        self.has_all[0] = true;
    }

    /// The Secret with the certificate for names that no KIngress binds.
    pub fn set_default_certificate(&mut self, secret: Key) {
        self.secrets.set_default(secret);
    }

    /// Which namespaces to watch for Secrets, if that is news: those that are named, or `""` for all.
    pub fn secret_scopes(&mut self) -> Option<BTreeSet<Arc<str>>> {
        self.secrets.rescope()
    }

    /// Whether all that is missing are Secrets.
    pub fn waits_for_secrets(&self) -> bool {
        !self.secrets.is_complete() && self.has_all.iter().all(|has| *has)
    }

    /// Secrets that have not been listed are not waited for any more; KIngresses that name them wait one by one.
    pub fn do_without_secrets(&mut self) {
        self.secrets.give_up();
    }

    /// Takes something in.
    pub fn learn(&mut self, news: News) {
        match news {
            News::Ingress(change) => self.learn_ingress(change),
            News::Revision(change) => self.learn_revision(change),
            News::Service(change) => self.learn_service(change),
            News::Slice(change) => self.learn_slice(change),
            News::Config(change) => self.learn_config(change),
            News::Certificates(change) => self.internal_tls.learn_certificates(change),
            News::Secret(scope, change) => {
                let concerned = self.secrets.learn(&scope, change);
                self.marks.ingresses.extend(concerned);
            }
            News::TicketKeys(change) => self.ticket_keys.learn(change),
        }
    }

    /// A KIngress of ours as it was told last.
    pub fn known(&self, key: &Key) -> Option<IngressChange> {
        let entry = self.ingresses.get(key)?;
        (!entry.is_given_away).then(|| entry.change(None))
    }

    /// KIngresses of another class by now, whose rules are still in effect.
    pub fn given_away(&self) -> impl Iterator<Item = &Key> {
        self.given_away.iter()
    }

    /// Whoever has this KIngress now has had time enough: its rules go.
    pub fn let_go(&mut self, key: &Key) {
        if self.given_away.contains(key) {
            self.forget_ingress(key);
        }
    }

    /// Whether every kind has been listed.
    pub fn is_complete(&self) -> bool {
        let has_certificates = self.has_told || self.internal_tls.is_complete();
        let has_all = self.has_all.iter().all(|has| *has);
        has_all && has_certificates && self.secrets.is_complete()
    }

    /// Whether the Secret of `system-internal-tls` is to be watched.
    pub fn wants_certificates(&self) -> bool {
        self.internal_tls.is_enabled()
    }

    /// What follows from all that was learned since the last call; nothing before every kind has been listed.
    pub fn changes(&mut self) -> Option<Changes> {
        if !self.is_complete() {
            return None;
        }
        // Of what is named later nobody but the KIngress that names it waits.
        self.secrets.give_up();
        self.has_told = true;
        let mut changes = Changes {
            internal_tls: self.internal_tls.change(),
            ..Changes::default()
        };
        for id in std::mem::take(&mut self.marks.revisions) {
            self.revision_changes(id, &mut changes);
        }
        changes.gone = std::mem::take(&mut self.marks.gone);
        changes.given_away = std::mem::take(&mut self.marks.given_away);
        for key in std::mem::take(&mut self.marks.ingresses) {
            self.ingress_changes(&key, &mut changes);
        }
        for id in std::mem::take(&mut self.marks.ports) {
            self.port_changes(id, &mut changes);
        }
        if std::mem::take(&mut self.marks.replicas) {
            changes.replicas = Some(self.replicas());
        }
        if std::mem::take(&mut self.marks.bucket_owners) {
            changes.bucket_owners = Some(self.bucket_owners());
        }
        if std::mem::take(&mut self.marks.config) {
            changes.config = Some(Arc::new(self.config.clone()));
        }
        changes.certificates = self.secrets.changes();
        changes.ticket_keys = self.ticket_keys.change();
        Some(changes)
    }

    fn learn_ingress(&mut self, change: Change<SeenIngress>) {
        match change {
            Change::All(all) => {
                self.has_all[0] = true;
                let there: HashSet<Key> = all.iter().map(|seen| seen.key().clone()).collect();
                for gone in missing(self.ingresses.keys(), &there) {
                    self.forget_ingress(&gone);
                }
                for seen in all {
                    self.see_ingress(seen);
                }
            }
            Change::Set(seen) => self.see_ingress(seen),
            Change::Gone(key) => self.forget_ingress(&key),
        }
    }

    fn see_ingress(&mut self, seen: SeenIngress) {
        match seen {
            SeenIngress::Ours(kept) => self.set_ingress(kept),
            SeenIngress::Given(given) => self.give_away(&given),
        }
    }

    /// Leaves a KIngress of ours to whoever has it now, at once if that one serves it already.
    fn give_away(&mut self, given: &Given) {
        let key = &given.key;
        let Some(entry) = self.ingresses.get_mut(key) else {
            return; // never ours
        };
        if entry.kept.uid != given.uid || given.is_served_since(&entry.kept) {
            self.forget_ingress(key);
            return;
        }
        if !std::mem::replace(&mut entry.is_given_away, true) {
            self.given_away.insert(key.clone());
            self.marks.ingresses.remove(key);
            self.marks.given_away.push(key.clone());
        }
    }

    fn set_ingress(&mut self, kept: KeptIngress) {
        let key = kept.key.clone();
        let known = self.ingresses.get(&key);
        if known.is_some_and(|known| known.kept == kept) {
            return;
        }
        if known.is_some_and(|known| known.kept.uid != kept.uid) {
            self.forget_ingress(&key); // another of the same name: nothing of the one before holds
        }
        let refers_to = references(&kept);
        self.secrets.name(&key, &kept.ingress().spec);
        let before = self.ingresses.remove(&key);
        let before_to = before.iter().flat_map(|entry| &entry.refers_to);
        for gone in before_to.filter(|target| !refers_to.contains(target)) {
            remove_from(&mut self.users, gone, &key);
        }
        for target in &refers_to {
            self.users
                .entry(target.clone())
                .or_default()
                .insert(key.clone());
        }
        let entry = match before {
            Some(entry) => Entry {
                kept,
                refers_to,
                is_given_away: false,
                ..*entry
            },
            None => Entry {
                kept,
                refers_to,
                rules: None,
                ports: Vec::new(),
                outcome: Outcome::Programmed,
                is_given_away: false,
                notes: Vec::new(),
            },
        };
        self.marks.gone.retain(|gone| *gone != key);
        self.marks.given_away.retain(|given| *given != key);
        self.given_away.remove(&key);
        self.marks.ingresses.insert(key.clone());
        self.ingresses.insert(key, Box::new(entry));
    }

    fn forget_ingress(&mut self, key: &Key) {
        let Some(entry) = self.ingresses.remove(key) else {
            return;
        };
        for target in &entry.refers_to {
            remove_from(&mut self.users, target, key);
        }
        self.secrets.forget(key);
        self.release_ports(&entry.ports);
        self.given_away.remove(key);
        self.marks.given_away.retain(|given| given != key);
        self.marks.ingresses.remove(key);
        self.marks.gone.push(key.clone());
    }

    fn learn_revision(&mut self, change: Change<KeptRevision>) {
        match change {
            Change::All(all) => {
                self.has_all[1] = true;
                let there: HashSet<RevisionId> = all.iter().map(|kept| kept.id.clone()).collect();
                let known = self.revisions.iter();
                let known = known.filter(|(_, known)| known.revision.is_some());
                for gone in missing(known.map(|(id, _)| id), &there) {
                    self.forget_revision(&gone);
                }
                for kept in all {
                    self.set_revision(kept);
                }
            }
            Change::Set(kept) => self.set_revision(kept),
            Change::Gone(key) => self.forget_revision(&RevisionId::new(key.namespace, key.name)),
        }
    }

    fn set_revision(&mut self, kept: KeptRevision) {
        let id = kept.id.clone();
        let known = self.revisions.entry(id.clone()).or_default();
        if known.revision.as_ref() == Some(&kept) {
            return;
        }
        let is_new = known.revision.is_none();
        if is_new || known.spec != kept.spec {
            known.spec = Arc::clone(&kept.spec);
            mark_users(&mut self.marks, &self.users, &key_of(&id));
        }
        known.revision = Some(kept);
        self.marks.revisions.insert(id);
    }

    fn forget_revision(&mut self, id: &RevisionId) {
        if let Some(known) = self.revisions.get_mut(id)
            && known.revision.take().is_some()
        {
            mark_users(&mut self.marks, &self.users, &key_of(id));
            self.marks.revisions.insert(id.clone());
        }
    }

    fn learn_service(&mut self, change: Change<KeptService>) {
        match change {
            Change::All(all) => {
                self.has_all[2] = true;
                let there: HashSet<Key> = all.iter().map(|kept| kept.key().clone()).collect();
                let known = self.services.keys().chain(self.private.keys());
                for gone in missing(known, &there) {
                    self.forget_service(&gone);
                }
                for kept in all {
                    self.set_service(kept);
                }
            }
            Change::Set(kept) => self.set_service(kept),
            Change::Gone(key) => self.forget_service(&key),
        }
    }

    fn set_service(&mut self, kept: KeptService) {
        match kept {
            KeptService::Ordinary(key, service) => {
                if self.services.get(&key) != Some(&service) {
                    self.services.insert(key.clone(), service);
                    mark_users(&mut self.marks, &self.users, &key);
                }
            }
            KeptService::PrivateOf(key, id, cluster_ip) => {
                let known = self.revisions.entry(id.clone()).or_default();
                let name = Some(&key.name);
                if known.cluster_ip != cluster_ip || known.private_service.as_ref() != name {
                    known.cluster_ip = cluster_ip;
                    known.private_service = name.cloned();
                    self.marks.revisions.insert(id.clone());
                }
                self.private.insert(key, id);
            }
        }
    }

    fn forget_service(&mut self, key: &Key) {
        if self.services.remove(key).is_some() {
            mark_users(&mut self.marks, &self.users, key);
        }
        if let Some(id) = self.private.remove(key)
            && let Some(known) = self.revisions.get_mut(&id)
        {
            known.cluster_ip = None;
            known.private_service = None;
            self.marks.revisions.insert(id);
        }
    }

    fn learn_slice(&mut self, change: Change<KeptSlice>) {
        match change {
            Change::All(all) => {
                self.has_all[3] = true;
                let there: HashSet<Key> = all.iter().map(|kept| kept.key.clone()).collect();
                for gone in missing(self.slices.keys(), &there) {
                    self.forget_slice(&gone);
                }
                for kept in all {
                    self.set_slice(kept);
                }
            }
            Change::Set(kept) => self.set_slice(kept),
            Change::Gone(key) => self.forget_slice(&key),
        }
    }

    fn set_slice(&mut self, kept: KeptSlice) {
        let key = kept.key.clone();
        if self.slices.get(&key).is_some_and(|known| **known == kept) {
            return;
        }
        self.forget_slice(&key);
        let service = kept.service_key();
        let of_service = self.slices_of_service.entry(service).or_default();
        of_service.insert(key.clone());
        if let Some(id) = &kept.revision {
            let of_revision = self.slices_of_revision.entry(id.clone()).or_default();
            of_revision.insert(key.clone());
        }
        self.mark_slice(&kept);
        self.slices.insert(key, Box::new(kept));
    }

    fn forget_slice(&mut self, key: &Key) {
        let Some(kept) = self.slices.remove(key) else {
            return;
        };
        remove_from(&mut self.slices_of_service, &kept.service_key(), key);
        if let Some(id) = &kept.revision
            && let Some(of_revision) = self.slices_of_revision.get_mut(id)
        {
            of_revision.remove(key);
            if of_revision.is_empty() {
                self.slices_of_revision.remove(id);
            }
        }
        self.mark_slice(&kept);
    }

    /// Marks whom a slice concerns.
    fn mark_slice(&mut self, slice: &KeptSlice) {
        if let Some(id) = &slice.revision {
            self.marks.revisions.insert(id.clone());
        }
        let service = slice.service_key();
        self.marks.replicas |= service == self.gateway;
        self.marks.bucket_owners |= self.is_bucket(&service);
        if let Some(ports) = self.ports_of_service.get(&service) {
            self.marks.ports.extend(ports.iter().cloned());
        }
        for user in self.users.get(&service).into_iter().flatten() {
            if self
                .ingresses
                .get(user)
                .is_some_and(|entry| entry.is_waiting())
            {
                self.marks.ingresses.insert(user.clone());
            }
        }
    }

    fn learn_config(&mut self, change: Change<objects::ConfigMap>) {
        let named = |map: objects::ConfigMap| (map.metadata.name.unwrap_or_default(), map.data);
        match change {
            Change::All(all) => {
                self.has_all[4] = true;
                let there: HashSet<String> = { all.iter() }
                    .filter_map(|map| map.metadata.name.clone())
                    .collect();
                self.internal_tls
                    .retain_bundles(|name| there.contains(name));
                let others = all.into_iter();
                let others = others.filter_map(|map| self.internal_tls.keep_bundle(map));
                self.config = others.map(named).collect();
            }
            Change::Set(map) => match self.internal_tls.keep_bundle(map) {
                Some(map) => {
                    let (name, data) = named(map);
                    self.config.insert(name, data);
                }
                None => return,
            },
            Change::Gone(key) => {
                self.internal_tls.forget_bundle(&key.name);
                self.config.remove(&*key.name);
            }
        }
        self.marks.config = true;
        let network = self.config.get("config-network");
        if self.internal_tls.learn_config(network) {
            // Its Pods are reached in another way from now on.
            let all = self.revisions.keys().cloned();
            self.marks.revisions.extend(all);
        }
    }

    fn revision_changes(&mut self, id: RevisionId, changes: &mut Changes) {
        let now = self.revision_now(&id);
        let Some(known) = self.revisions.get_mut(&id) else {
            return;
        };
        if known.told == now {
            return;
        }
        known.told.clone_from(&now);
        if known.revision.is_none() && known.private_service.is_none() {
            self.revisions.remove(&id);
        }
        changes.revisions.push((id, now));
    }

    /// None when there is no such Revision.
    fn revision_now(&self, id: &RevisionId) -> Option<RevisionChange> {
        let known = self.revisions.get(id)?;
        let revision = known.revision.as_ref()?;
        let names: &[&str] = match known.spec.protocol {
            Protocol::Http1 => &["http", "http1"],
            Protocol::H2c => &["http2", "h2c"],
        };
        let (mut ready, mut not_ready, mut public) = (Vec::new(), Vec::new(), Vec::new());
        let slices = self.slices_of_revision.get(id).into_iter().flatten();
        for slice in slices.filter_map(|key| self.slices.get(key)) {
            let Some(port) = slice.port(names) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let at = self.pod_at(endpoint.address, port, slice);
                match (slice.is_public, endpoint.phase) {
                    (true, Phase::Ready) => public.push(endpoint.address),
                    (true, _) | (false, Phase::Terminating) => {}
                    (false, Phase::Ready) => ready.push(at),
                    (false, Phase::NotReady) => not_ready.push(at),
                }
            }
        }
        ready.sort_unstable();
        ready.dedup();
        not_ready.sort_unstable();
        not_ready.dedup();
        // In two slices at once, while it moves from one to the other.
        not_ready.retain(|endpoint| ready.binary_search(endpoint).is_err());
        public.sort_by_cached_key(IpAddr::to_string);
        public.dedup();
        let address = |ip| match self.internal_tls.is_enabled() {
            true => Endpoint::secured(SocketAddr::new(ip, internal_tls::SERVICE_PORT)),
            false => Endpoint::new(SocketAddr::new(ip, PRIVATE_SERVICE_PORT)),
        };
        Some(RevisionChange {
            spec: Arc::clone(&known.spec),
            ready,
            not_ready,
            trusts_early: revision.trusts_early,
            service: known.cluster_ip.map(address),
            private_service: match &known.private_service {
                Some(name) => Arc::clone(name),
                None => format!("{}-private", id.name()).into(),
            },
            public,
            failure: revision.failure.clone(),
        })
    }

    /// How a Pod is reached that serves in the clear at `port`.
    fn pod_at(&self, address: IpAddr, port: u16, slice: &KeptSlice) -> Endpoint {
        if !self.internal_tls.is_enabled() {
            return Endpoint::new(SocketAddr::new(address, port));
        }
        let port = slice.port(&["https"]).unwrap_or(internal_tls::POD_PORT);
        Endpoint::secured(SocketAddr::new(address, port))
    }

    fn ingress_changes(&mut self, key: &Key, changes: &mut Changes) {
        let Some(entry) = self.ingresses.get(key) else {
            return;
        };
        if entry.is_given_away {
            return;
        }
        let ingress = entry.kept.ingress();
        let translated = translate_one(&ingress, self);
        let outcome = outcome_of(
            &translated.problems,
            &translated.rules,
            &translated.services,
        );
        let kept = &entry.kept;
        let trouble = match outcome {
            Outcome::Refused { .. } => None,
            _ => {
                let policy = translated.rules.policy.as_ref();
                let wanted = policy.and_then(|policy| policy.client_certificate);
                self.secrets.look(key, kept.created, &ingress.spec, wanted)
            }
        };
        let is_covered = trouble.as_ref().is_none_or(|trouble| trouble.is_covered);
        let may_go = match outcome {
            Outcome::Programmed => is_covered || entry.rules.is_none(),
            // Better rules that answer 503 and say why than none; but never instead of rules that work.
            Outcome::Waiting { .. } => entry.rules.is_none(),
            Outcome::Refused { .. } => false,
        };
        let outcome = match (outcome, trouble) {
            (Outcome::Programmed, Some(trouble)) => trouble.outcome,
            (outcome, _) => outcome,
        };
        let rules = may_go.then(|| Arc::new(translated.rules));
        let rules = rules.filter(|rules| entry.rules.as_ref() != Some(rules));
        if let Some(rules) = &rules {
            let ports = self.claim_ports(key, &translated.services);
            let before = match self.ingresses.get_mut(key) {
                Some(entry) => {
                    entry.rules = Some(Arc::clone(rules));
                    std::mem::replace(&mut entry.ports, ports)
                }
                None => Vec::new(),
            };
            self.release_ports(&before);
        }
        let Some(entry) = self.ingresses.get_mut(key) else {
            return;
        };
        entry.outcome = outcome;
        let mut change = entry.change(rules);
        let of_annotations = |problem: &Problem| problem.field.starts_with("metadata.annotations");
        let mut notes = translated.problems;
        notes.retain(of_annotations);
        if notes != entry.notes {
            change.notes.clone_from(&notes);
            entry.notes = notes;
        }
        changes.ingresses.push(change);
    }

    /// The Service ports of new rules, each counted for them.
    fn claim_ports(
        &mut self,
        ingress: &Key,
        services: &super::super::translate::ServiceEndpoints,
    ) -> Vec<RevisionId> {
        for (id, (spec, _)) in services {
            let name = id.name().split(':').next().unwrap_or_default();
            let service = Key::new(Arc::clone(&ingress.namespace), name);
            let port = self.ports.entry(id.clone()).or_insert_with(|| UsedPort {
                service: service.clone(),
                spec: Arc::clone(spec),
                users: 0,
                told: None,
            });
            port.users += 1;
            port.spec = Arc::clone(spec);
            let of_service = self.ports_of_service.entry(service).or_default();
            of_service.insert(id.clone());
            self.marks.ports.insert(id.clone());
        }
        services.keys().cloned().collect()
    }

    fn release_ports(&mut self, ports: &[RevisionId]) {
        for id in ports {
            if let Some(port) = self.ports.get_mut(id) {
                port.users = port.users.saturating_sub(1);
                self.marks.ports.insert(id.clone());
            }
        }
    }

    fn port_changes(&mut self, id: RevisionId, changes: &mut Changes) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if port.users == 0 {
            let service = port.service.clone();
            self.ports.remove(&id);
            if let Some(of_service) = self.ports_of_service.get_mut(&service) {
                of_service.remove(&id);
                if of_service.is_empty() {
                    self.ports_of_service.remove(&service);
                }
            }
            changes.services.push((id, None));
            return;
        }
        let endpoints = self.services.get(&port.service).and_then(|service| {
            let number = id.name().split(':').nth(1)?;
            let mut ports = service.ports.iter();
            let of_service = ports.find(|port| port.port.to_string() == number)?;
            Some(self.endpoints(service, of_service))
        });
        let now = ServiceChange {
            spec: Arc::clone(&port.spec),
            endpoints: endpoints.unwrap_or_default(),
        };
        if let Some(port) = self.ports.get_mut(&id)
            && port.told.as_ref() != Some(&now)
        {
            port.told = Some(now.clone());
            changes.services.push((id, Some(now)));
        }
    }

    /// Source: `PodIPBucketSet` and `AutoscalerBucketName`, knative/serving `pkg/autoscaler/bucket/bucket.go`: a bucket's
    /// owner makes a Service of the bucket's name and is its only endpoint.
    fn is_bucket(&self, service: &Key) -> bool {
        service.namespace == self.system_namespace && service.name.starts_with(BUCKET_PREFIX)
    }

    fn bucket_owners(&self) -> BTreeMap<String, String> {
        let buckets = self.slices_of_service.iter();
        let buckets = buckets.filter(|(service, _)| self.is_bucket(service));
        let owner = |(service, slices): (&Key, &Few<Key>)| {
            let mut slices = slices.iter().filter_map(|key| self.slices.get(key));
            slices.find_map(|slice| {
                let mut endpoints = slice.endpoints.iter();
                let owner = endpoints.find(|endpoint| endpoint.phase == Phase::Ready)?;
                let address = SocketAddr::new(owner.address, slice.port(&["http"])?);
                Some((service.name.to_string(), address.to_string()))
            })
        };
        buckets.filter_map(owner).collect()
    }

    /// The ready replicas of the gateway, each once, in the order of their addresses as text, which is Knative's.
    fn replicas(&self) -> Vec<Replica> {
        let slices = self.slices_of_service.get(&self.gateway);
        let slices = slices.into_iter().flatten();
        let endpoints = slices
            .filter_map(|key| self.slices.get(key))
            .flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.phase == Phase::Ready);
        let mut replicas: Vec<Replica> = ready
            .map(|endpoint| Replica {
                address: endpoint.address,
                pod: endpoint.pod.clone().unwrap_or_default(),
            })
            .collect();
        replicas.sort_by_cached_key(|replica| replica.address.to_string());
        replicas.dedup_by(|one, other| one.address == other.address);
        replicas
    }
}

const BUCKET_PREFIX: &str = "autoscaler-bucket-";

/// Number of the port by which a private Service serves requests, whatever its protocol.
///
/// Source: `MakePrivateService`, knative/serving `pkg/reconciler/serverlessservice/resources/services.go`.
const PRIVATE_SERVICE_PORT: u16 = 80;

impl Catalogue for Cluster {
    fn revision(&self, id: &RevisionId) -> Option<(&RevisionId, &Arc<RevisionSpec>)> {
        let (id, known) = self.revisions.get_key_value(id)?;
        known.revision.as_ref().map(|_| (id, &known.spec))
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&CoreService> {
        Some(self.services.get(&Key::new(namespace, name))?.as_ref())
    }

    fn endpoints(&self, service: &CoreService, port: &CoreServicePort) -> Vec<Endpoint> {
        let key = Key::new(&*service.meta.namespace, &*service.meta.name);
        let mut endpoints = Vec::new();
        for slice in self.slices_of_service.get(&key).into_iter().flatten() {
            let Some(slice) = self.slices.get(slice) else {
                continue;
            };
            let Some(number) = port_in_slice(port, slice) else {
                continue;
            };
            let ready = slice.endpoints.iter();
            let ready = ready.filter(|endpoint| endpoint.phase == Phase::Ready);
            endpoints.extend(
                ready.map(|endpoint| Endpoint::new(SocketAddr::new(endpoint.address, number))),
            );
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }
}

/// The number a Service's port has in a slice: slices carry the names of the Service's ports.
fn port_in_slice(port: &CoreServicePort, slice: &KeptSlice) -> Option<u16> {
    let numbered = |wanted: u16| {
        slice
            .ports
            .iter()
            .find(move |(_, number)| *number == wanted)
    };
    let by_target = || match &port.target {
        Some(TargetPort::Number(number)) => numbered(*number),
        Some(TargetPort::Name(name)) => slice.ports.iter().find(|(known, _)| **known == **name),
        None => numbered(port.port),
    };
    let mut ports = slice.ports.iter();
    let by_name = ports.find(|(name, _)| **name == *port.name);
    by_name.or_else(by_target).map(|(_, number)| *number)
}

fn outcome_of(
    problems: &[Problem],
    rules: &IngressRules,
    services: &super::super::translate::ServiceEndpoints,
) -> Outcome {
    if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
        return Outcome::Refused {
            reason: "ReconcileIngressFailed",
            message: problem.to_string().replace('\n', ";"),
        };
    }
    let paths = rules.rules.iter().flat_map(|rule| &rule.paths);
    let mut backends = paths.flat_map(|path| path.splits.iter());
    let missing = backends.find_map(|(_, backend)| match &backend.target {
        Target::Missing { reason } => Some(reason),
        _ => None,
    });
    if let Some(reason) = missing {
        return Outcome::Waiting {
            reason: "BackendMissing",
            message: reason.to_string(),
        };
    }
    let empty = services
        .iter()
        .find(|(_, (_, endpoints))| endpoints.is_empty());
    match empty {
        Some((id, _)) => Outcome::Waiting {
            reason: "NoEndpoints",
            message: format!("the Service {id} has no ready endpoint"),
        },
        None => Outcome::Programmed,
    }
}

/// Services and Revisions that the splits name.
fn references(kept: &KeptIngress) -> Few<Key> {
    let spec = kept.ingress().spec;
    let paths = { spec.rules.iter() }
        .flat_map(|rule| rule.http.iter())
        .flat_map(|http| &http.paths);
    let mut references = Few::default();
    for split in paths.flat_map(|path| &path.splits) {
        let header = |wanted: &str| {
            let mut headers = split.append_headers.iter();
            headers
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.as_str())
        };
        references.insert(
            kept.key
                .beside(&split.service_namespace, &split.service_name),
        );
        if let Some(revision) = header(REVISION_HEADER) {
            let namespace = header(NAMESPACE_HEADER).unwrap_or(&split.service_namespace);
            references.insert(kept.key.beside(namespace, revision));
        }
    }
    references
}

impl KeptSlice {
    fn service_key(&self) -> Key {
        Key {
            namespace: Arc::clone(&self.key.namespace),
            name: Arc::clone(&self.service),
        }
    }
}

impl From<&Key> for IngressName {
    fn from(key: &Key) -> Self {
        Self {
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&key.name),
        }
    }
}

fn key_of(id: &RevisionId) -> Key {
    Key::new(id.namespace(), id.name())
}

fn mark_users(marks: &mut Marks, users: &HashMap<Key, Few<Key>>, target: &Key) {
    if let Some(users) = users.get(target) {
        marks.ingresses.extend(users.iter().cloned());
    }
}

fn remove_from(index: &mut HashMap<Key, Few<Key>>, at: &Key, what: &Key) {
    if let Some(set) = index.get_mut(at) {
        set.remove(what);
        if set.is_empty() {
            index.remove(at);
        }
    }
}

fn missing<'k, K: Clone + Eq + std::hash::Hash + 'k>(
    known: impl Iterator<Item = &'k K>,
    there: &HashSet<K>,
) -> Vec<K> {
    known.filter(|key| !there.contains(key)).cloned().collect()
}
