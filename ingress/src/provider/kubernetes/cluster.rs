//! What is known of the cluster, and what follows from a change: pure, without API and clock.
//!
//! What watches tell is taken in (`learning`) and marks what depends on it; [`Cluster::changes`] works off the marks
//! (`following`), and costs what has changed, not what there is. Nothing comes out before every kind has been listed
//! once, so that a Parkway that starts never answers 404 for a host it has not heard of yet.
//!
//! A KIngress whose new generation names a Service that is not there, or has no endpoint, keeps the rules of the generation
//! before in effect until it can be served (as knative-extensions/net-kourier `pkg/reconciler/ingress/ingress.go` does): between
//! a Service and its endpoints lies a moment in which nobody should get a 503.
//!
//! A KIngress that is given another class keeps its rules in effect until whoever has it now serves it ([`Given`](super::kept::Given)),
//! which its status tells, and for a while after that, in which names still lead here. Nothing more is said of it. Between
//! two layers nobody should get a 404.

mod changes;
mod following;
mod learning;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use parkway_activator::revision::{RevisionId, RevisionMap, RevisionSpec};

use super::super::object::CoreService;
use super::super::problem::Problem;
use super::few::Few;
use super::internal_tls::KnownInternalTls;
use super::kept::{KeptIngress, KeptRevision, KeptSlice};
use super::secrets::Secrets;
use super::ticket_keys::KnownTicketKeys;
use super::watch::Key;
use crate::routing::rules::{IngressName, IngressRules};

pub use changes::{Changes, IngressChange, News, Outcome, Replica, RevisionChange, ServiceChange};

/// All that is known.
#[derive(Debug)]
pub struct Cluster {
    /// The Service whose ready endpoints are the replicas.
    gateway: Key,
    /// Where Knative Serving is.
    system_namespace: Arc<str>,
    has_all: [bool; KINDS],
    ingresses: HashMap<Key, Box<Entry>>,
    /// Those that are another's now, and whether that one serves them.
    given_away: BTreeMap<Key, bool>,
    /// Who names a Service or Revision.
    users: HashMap<Key, Few<Key>>,
    revisions: RevisionMap<Box<Known>>,
    services: HashMap<Key, Arc<CoreService>>,
    /// Private Services: whose they are.
    private: HashMap<Key, RevisionId>,
    slices: HashMap<Key, Box<KeptSlice>>,
    /// Those of Services that are nobody's; the others are found by their Revision.
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
    /// Somebody has been told that it is there. What was told is not kept: there are many, and hearing the same again
    /// changes nothing.
    is_told: bool,
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
            given_away: BTreeMap::new(),
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

    /// KIngresses of another class by now, whose rules are still in effect, and whether they are served elsewhere.
    pub fn given_away(&self) -> impl Iterator<Item = (&Key, bool)> {
        self.given_away.iter().map(|(key, served)| (key, *served))
    }

    /// Whoever has this KIngress now has had time enough: its rules go.
    pub fn let_go(&mut self, key: &Key) {
        if self.given_away.contains_key(key) {
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
}

impl From<&Key> for IngressName {
    fn from(key: &Key) -> Self {
        Self {
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&key.name),
        }
    }
}
