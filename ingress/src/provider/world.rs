//! What a provider publishes, and what it is told beforehand.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{ContainerConcurrency, RevisionId, RevisionSpec};

use super::object::Labels;
use super::problem::{Origin, Problem};
use super::translate::ServiceEndpoints;
use crate::routing::rules::IngressRules;
use crate::routing::tls::Binding;
use crate::workload::Workload;

/// Everything that follows from one state of the configuration.
///
/// What did not change since the world before is the same value in memory. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Counts the worlds of this process, from 1.
    pub generation: u64,
    /// The rules, oldest KIngress first.
    pub ingresses: Arc<Vec<Arc<IngressRules>>>,
    /// The Revisions that can be reached, or are about to.
    pub revisions: Arc<BTreeMap<RevisionId, Arc<RevisionEntry>>>,
    /// Endpoints of the ordinary Services that rules name.
    pub services: ServiceEndpoints,
    /// The acting keys of `config-autoscaler`, with the defaults of the options.
    pub autoscaler_config: BTreeMap<String, String>,
    /// Where the Services can be reached, by namespace and name; tags after the Service itself.
    pub urls: Arc<Vec<Arc<ServiceUrl>>>,
    /// The certificates of hosts that are visible outside.
    pub certificates: Arc<Vec<Binding>>,
    /// What was understood but cannot act, or did not work; never an error.
    pub warnings: Vec<Problem>,
}

/// A Revision of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEntry {
    /// What it promises.
    pub spec: Arc<RevisionSpec>,
    /// Its annotations, of which those of the autoscaler matter here.
    pub annotations: Labels,
    /// It must be started now to prove itself: it gets its traffic once it was reported ready.
    pub takeover: bool,
    /// What to run for it; none when its endpoints are someone else's.
    pub workload: Option<Arc<Workload>>,
    /// Someone else's endpoints, from EndpointSlices; none when there is something to run.
    pub endpoints: Option<Box<[Endpoint]>>,
    /// Where it was written.
    pub origin: Origin,
}

/// Where a Service, or one of its tags, can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Its name.
    pub service: Arc<str>,
    /// The tag; none for the Service as a whole.
    pub tag: Option<Arc<str>>,
    /// The URL, without a port: that depends on the entrance.
    pub url: Box<str>,
    /// It is reached at the cluster-local entrance only.
    pub is_cluster_local: bool,
    /// Revisions and their shares in percent.
    pub shares: Box<[(Arc<str>, u8)]>,
}

impl ServiceUrl {
    /// The host of the URL.
    pub fn host(&self) -> &str {
        self.url
            .split_once("://")
            .map_or(&*self.url, |(_, host)| host)
    }
}

/// What a provider is told by the process's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The domain of Services that no entry of `config-domain` is for.
    pub domain: String,
    /// The domain of the cluster, in which local names end: `cluster.local`.
    pub cluster_domain: String,
    /// What holds for the autoscaler unless `config-autoscaler` says otherwise.
    pub autoscaler_defaults: BTreeMap<String, String>,
}

impl Options {
    /// For a process without a cluster: everything starts at zero, and hosts end in `domain`.
    pub fn standalone(domain: impl Into<String>) -> Self {
        let defaults = [("initial-scale", "0"), ("allow-zero-initial-scale", "true")];
        Self {
            domain: domain.into(),
            cluster_domain: "cluster.local".to_owned(),
            autoscaler_defaults: defaults
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::standalone("localhost")
    }
}

/// Checks of values that only the autoscaler understands, so that its complaints get file and line.
pub trait Validate: fmt::Debug + Send + Sync {
    /// What is wrong with `config-autoscaler`.
    fn autoscaler_config(&self, config: &BTreeMap<String, String>) -> Vec<InvalidKey>;

    /// What is wrong with the annotations of a Revision, given a configuration without errors.
    fn scaling(
        &self,
        annotations: &BTreeMap<String, String>,
        concurrency: ContainerConcurrency,
        config: &BTreeMap<String, String>,
    ) -> Vec<InvalidKey>;
}

/// A value the autoscaler cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidKey {
    /// The key of the ConfigMap, or of the annotation.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it: lower case, without a full stop.
    pub problem: String,
}

/// Finds nothing wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchecked;

impl Validate for Unchecked {
    fn autoscaler_config(&self, _: &BTreeMap<String, String>) -> Vec<InvalidKey> {
        Vec::new()
    }

    fn scaling(
        &self,
        _: &BTreeMap<String, String>,
        _: ContainerConcurrency,
        _: &BTreeMap<String, String>,
    ) -> Vec<InvalidKey> {
        Vec::new()
    }
}
