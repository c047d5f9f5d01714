//! What goes into the [`Cluster`](super::Cluster), and what comes out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{RevisionId, RevisionSpec};

use super::super::super::problem::Problem;
use super::super::internal_tls::{Certificates, InternalTlsChange};
use super::super::kept::{KeptRevision, KeptService, KeptSlice, SeenIngress};
use super::super::objects;
use super::super::secrets::{CertificateChange, KeptSecret};
use super::super::ticket_keys::KeptTicketKeys;
use super::super::watch::{Change, Key};
use crate::routing::rules::IngressRules;
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
