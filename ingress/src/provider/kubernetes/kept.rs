//! What is kept of the cluster's objects: plain values, as small as they can be.
//!
//! Here the wire's form ends. What a value keeps is what routes, endpoints and status need of it; two equal values mean
//! that nothing has changed for us, whatever else about the object has.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parkway_activator::revision::{
    ContainerConcurrency, Protocol, RevisionId, RevisionSpec, Timeouts,
};

use super::super::annotations;
use super::super::kingress::{IngressSpec, ServicePort};
use super::super::object::{CoreService, CoreServicePort, Ingress, Labels, Meta, TargetPort};
use super::super::problem::Origin;
use super::super::slices::{REVISION_LABEL, SERVICE_NAME_LABEL, SERVICE_TYPE_LABEL};
use super::objects;
use super::watch::Key;
use serde::Deserialize;

/// The annotation that says whose a KIngress is.
///
/// Source: knative/networking `pkg/apis/networking/register.go`, `IngressClassAnnotationKey`.
pub const CLASS_ANNOTATION: &str = "networking.knative.dev/ingress.class";
const SERVICE_LABEL: &str = "serving.knative.dev/service";
const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
/// `timeoutSeconds` of a Revision that has none: `config-defaults`, and every Revision that passed the webhook has one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// A KIngress of our class.
#[derive(Debug, PartialEq)]
pub struct KeptIngress {
    /// Its name.
    pub key: Key,
    /// Tells it from another of the same name.
    pub uid: Arc<str>,
    /// Counts the changes of its spec.
    pub generation: i64,
    /// The state of the object that was seen.
    pub resource_version: Box<str>,
    /// `creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// Those of its annotations that mean something here.
    pub annotations: Labels,
    /// Its spec, with the webhook's defaults, as JSON: a fourth of what its values need, and seldom read.
    pub spec: Box<str>,
    /// What is said of it in the API, as JSON: a tenth.
    pub status: Arc<str>,
}

/// A Revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRevision {
    /// Its name.
    pub id: RevisionId,
    /// What it promises.
    pub spec: Arc<RevisionSpec>,
    /// A Pod that its queue-proxy calls ready may be used before Kubernetes says so.
    pub trusts_early: bool,
    /// Why its Pods cannot start.
    pub failure: Option<Box<str>>,
}

/// A Service: an ordinary one, or the private one of a Revision, of which the address is all that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptService {
    /// One that a split may name.
    Ordinary(Key, Arc<CoreService>),
    /// Where a mesh wants requests for a Revision to go.
    PrivateOf(Key, RevisionId, Option<IpAddr>),
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSlice {
    /// Its own name.
    pub key: Key,
    /// The Service it belongs to.
    pub service: Arc<str>,
    /// The Revision whose Pods it names.
    pub revision: Option<RevisionId>,
    /// Whether it names what the Revision's public Service leads to.
    pub is_public: bool,
    /// Its ports by name; none when a slice means all.
    pub ports: Box<[(Box<str>, u16)]>,
    /// Its endpoints.
    pub endpoints: Box<[KeptEndpoint]>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEndpoint {
    /// Where it is.
    pub address: IpAddr,
    /// How it is.
    pub phase: Phase,
    /// The Pod behind it, where it may be one of our replicas.
    pub pod: Option<Box<str>>,
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Kubernetes calls it ready.
    Ready,
    /// It has an address and is not ready.
    NotReady,
    /// It is about to end, and gets nothing new.
    Terminating,
}

/// What is seen of a KIngress, whosever it is.
#[derive(Debug, PartialEq)]
pub enum SeenIngress {
    /// Of our class.
    Ours(KeptIngress),
    /// Of another.
    Given(Given),
}

/// A KIngress of another class, which may have been ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name.
    pub key: Key,
    /// Tells it from another of the same name.
    pub uid: Arc<str>,
    /// How its entrances are reached.
    balancers: Balancers,
}

/// `publicLoadBalancer` and `privateLoadBalancer` of a status.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Balancers {
    public_load_balancer: serde_json::Value,
    private_load_balancer: serde_json::Value,
}

impl SeenIngress {
    /// What is kept of a KIngress, if it is of this class.
    pub fn of(object: objects::KIngress, class: &str) -> Self {
        if annotation(&object.metadata, CLASS_ANNOTATION) != Some(class) {
            return Self::Given(Given {
                key: Key::of(&object),
                uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
                balancers: Balancers::deserialize(object.status).unwrap_or_default(),
            });
        }
        Self::Ours(KeptIngress::kept(object))
    }

    /// Its name.
    pub fn key(&self) -> &Key {
        match self {
            Self::Ours(kept) => &kept.key,
            Self::Given(given) => &given.key,
        }
    }
}

impl Given {
    /// Whether it is reached in another way than it was as `ours`: its new layer writes so when it is ready.
    ///
    /// Source: `MarkLoadBalancerReady`, knative/networking `pkg/apis/networking/v1alpha1/ingress_lifecycle.go`; with
    /// `MarkLoadBalancerNotReady` what was there before stays.
    pub fn is_served_since(&self, ours: &KeptIngress) -> bool {
        let before: Balancers = serde_json::from_str(&ours.status).unwrap_or_default();
        self.balancers != Balancers::default() && self.balancers != before
    }
}

impl KeptIngress {
    /// What is kept of a KIngress; nothing when it is not of this class.
    ///
    /// Only the class decides, and only when it is exactly ours (knative/networking
    /// `test/conformance/ingress/ingressclass.go`).
    pub fn of(object: objects::KIngress, class: &str) -> Option<Self> {
        match SeenIngress::of(object, class) {
            SeenIngress::Ours(kept) => Some(kept),
            SeenIngress::Given(_) => None,
        }
    }

    fn kept(object: objects::KIngress) -> Self {
        let meta = &object.metadata;
        let key = Key::of(&object);
        let mut spec: IngressSpec = object.spec;
        // The webhook has done so, where it is installed. What it did is part of the hash.
        spec.fill_defaults();
        let created = meta.creation_timestamp.as_ref();
        // Maps with keys that are strings: they can be written.
        let spec = serde_json::to_string(&spec).unwrap_or_default();
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation.unwrap_or_default(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default().into(),
            annotations: annotations::ours(meta.annotations.as_ref()),
            spec: spec.into_boxed_str(),
            created: created.map_or(i64::MAX, |time| time.0.as_second()),
            status: object.status.to_string().into(),
            key,
        }
    }

    /// In the form that is translated.
    pub fn ingress(&self) -> Ingress {
        let key = &self.key;
        Ingress {
            meta: Meta {
                name: Arc::clone(&key.name),
                namespace: Arc::clone(&key.namespace),
                labels: Labels::default(),
                annotations: self.annotations.clone(),
                created: None,
                origin: Origin::elsewhere("Ingress", &key.namespace, &key.name),
            },
            // We have written it ourselves.
            spec: serde_json::from_str(&self.spec).unwrap_or_default(),
        }
    }
}

impl KeptRevision {
    /// What is kept of a Revision.
    pub fn of(object: &objects::Revision) -> Self {
        let meta = &object.metadata;
        let fields = &object.spec;
        let key = Key::of(object);
        let seconds = |seconds: Option<i64>| {
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            seconds
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)
        };
        let concurrency = fields.container_concurrency.unwrap_or_default();
        let concurrency = u32::try_from(concurrency).unwrap_or_default();
        let has_exec = |probe: &objects::Probe| probe.exec.is_some();
        let mut containers = fields.containers.iter();
        let is_slow_to_trust = containers.any(|container| {
            container.startup_probe.is_some()
                || container.readiness_probe.as_ref().is_some_and(has_exec)
        });
        let service: Arc<str> = label(meta, SERVICE_LABEL).unwrap_or_default().into();
        let configuration = label(meta, CONFIGURATION_LABEL).unwrap_or_default();
        Self {
            spec: Arc::new(RevisionSpec {
                concurrency: ContainerConcurrency::from(concurrency),
                protocol: protocol_of(&fields.containers),
                timeouts: Timeouts {
                    total: seconds(fields.timeout_seconds).unwrap_or(DEFAULT_TIMEOUT),
                    response_start: seconds(fields.response_start_timeout_seconds),
                    idle: seconds(fields.idle_timeout_seconds),
                },
                // Mostly of one name.
                configuration: match *service == *configuration {
                    true => Arc::clone(&service),
                    false => configuration.into(),
                },
                service,
            }),
            id: RevisionId::new(key.namespace, key.name),
            trusts_early: !is_slow_to_trust,
            failure: failure_of(&object.status.conditions),
        }
    }
}

/// By the name of the serving port.
///
/// Source: `GetProtocol`, knative/serving `pkg/apis/serving/v1/revision_helpers.go`.
fn protocol_of(containers: &[objects::Container]) -> Protocol {
    let mut ports = containers.iter().flat_map(|container| &container.ports);
    if ports.any(|port| port.name == "h2c") {
        Protocol::H2c
    } else {
        Protocol::Http1
    }
}

/// Why Pods of the Revision cannot start: what its conditions say of images, containers and resources.
///
/// Source: knative/serving `pkg/reconciler/revision/reconcile_resources.go`.
fn failure_of(conditions: &[objects::Condition]) -> Option<Box<str>> {
    let is_about_pods = |kind: &str| matches!(kind, "ResourcesAvailable" | "ContainerHealthy");
    let failed = conditions
        .iter()
        .find(|condition| is_about_pods(&condition.kind) && condition.status == "False")?;
    let reason = [failed.reason.as_str(), failed.message.as_str()];
    let said: Vec<&str> = reason.into_iter().filter(|text| !text.is_empty()).collect();
    Some(said.join(": ").into())
}

impl KeptService {
    /// What is kept of a Service.
    pub fn of(object: objects::Service) -> Option<Self> {
        let key = Key::of(&object);
        let meta = &object.metadata;
        match (label(meta, SERVICE_TYPE_LABEL), label(meta, REVISION_LABEL)) {
            (Some("Private"), Some(revision)) => {
                let id = RevisionId::new(Arc::clone(&key.namespace), revision);
                Some(Self::PrivateOf(
                    key,
                    id,
                    object.spec.cluster_ip.parse().ok(),
                ))
            }
            // Where the ingress would find an activator or Pods; we find the Revision by its name.
            (Some("Public"), Some(_)) => None,
            _ => {
                let is_external = object.spec.kind == "ExternalName";
                let service = CoreService {
                    meta: Meta {
                        name: Arc::clone(&key.name),
                        namespace: Arc::clone(&key.namespace),
                        labels: Labels::default(),
                        annotations: Labels::default(),
                        created: None,
                        origin: Origin::elsewhere("Service", &key.namespace, &key.name),
                    },
                    external_name: Some(object.spec.external_name).filter(|_| is_external),
                    ports: object.spec.ports.into_iter().map(port_of).collect(),
                };
                Some(Self::Ordinary(key, Arc::new(service)))
            }
        }
    }

    /// Its name.
    pub fn key(&self) -> &Key {
        match self {
            Self::Ordinary(key, _) | Self::PrivateOf(key, _, _) => key,
        }
    }
}

fn port_of(port: objects::ServicePortFields) -> CoreServicePort {
    let target = port.target_port.and_then(|target| match target {
        ServicePort::Number(number) => u16::try_from(number).ok().map(TargetPort::Number),
        ServicePort::Name(name) => Some(TargetPort::Name(name)),
    });
    CoreServicePort {
        name: port.name,
        port: port.port,
        target,
        app_protocol: port.app_protocol,
    }
}

impl KeptSlice {
    /// What is kept of an EndpointSlice: nothing when it belongs to no Service, or names its endpoints by DNS.
    ///
    /// `is_gateway` says of which Services the Pods' names matter.
    pub fn of(object: &objects::EndpointSlice, is_gateway: impl Fn(&Key) -> bool) -> Option<Self> {
        if object.address_type == "FQDN" {
            return None;
        }
        let key = Key::of(object);
        let meta = &object.metadata;
        let service: Arc<str> = label(meta, SERVICE_NAME_LABEL)?.into();
        let is_of_revision = matches!(label(meta, SERVICE_TYPE_LABEL), Some("Private" | "Public"));
        let revision = label(meta, REVISION_LABEL)
            .filter(|_| is_of_revision)
            .map(|revision| RevisionId::new(Arc::clone(&key.namespace), revision));
        let names_pods = is_gateway(&Key {
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&service),
        });
        let endpoints = object.endpoints.iter().filter_map(|endpoint| {
            let conditions = endpoint.conditions;
            let pod = endpoint.target_ref.as_ref().filter(|_| names_pods);
            Some(KeptEndpoint {
                address: endpoint.address()?,
                phase: if conditions.terminating.unwrap_or(false) {
                    Phase::Terminating
                } else if conditions.ready.unwrap_or(true) {
                    Phase::Ready
                } else {
                    Phase::NotReady
                },
                pod: pod.map(|pod| pod.name.as_str().into()),
            })
        });
        // Of a Revision those that serve requests: the others are for metrics.
        let serves = |name: &str| revision.is_none() || SERVING_PORTS.contains(&name);
        let ports = object.ports.iter();
        let ports = ports
            .filter(|port| serves(&port.name))
            .filter_map(|port| Some((port.name.as_str().into(), port.port?)));
        let ports = ports.collect();
        Some(Self {
            is_public: label(meta, SERVICE_TYPE_LABEL) == Some("Public"),
            endpoints: endpoints.collect(),
            ports,
            service,
            revision,
            key,
        })
    }

    /// The number of the port that has one of these names; or of the only one there is.
    pub fn port(&self, names: &[&str]) -> Option<u16> {
        let mut ports = self.ports.iter();
        let named = ports.find(|(name, _)| names.contains(&name.as_ref()));
        named.map(|(_, port)| *port)
    }
}

/// Names that ports of a Revision's Services have.
///
/// Source: knative/networking `pkg/apis/networking/ports.go`; `h2c` and `http1` are names of a container's port.
const SERVING_PORTS: [&str; 5] = ["http", "http1", "http2", "h2c", "https"];

fn label<'m>(meta: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    Some(meta.labels.as_ref()?.get(key)?.as_str())
}

fn annotation<'m>(meta: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    Some(meta.annotations.as_ref()?.get(key)?.as_str())
}
