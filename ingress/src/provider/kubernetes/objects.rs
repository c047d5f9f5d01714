//! The objects of a cluster as they come from the API server: only the fields that mean something here.
//!
//! Everything else is skipped while it is read and never held, `managedFields` above all: they are often larger than
//! the object. Reading is forgiving, unlike that of files: what the API server has accepted is not ours to refuse, so a
//! field that is missing has its default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::super::kingress::{IngressSpec, ServicePort};

/// A kind that is watched.
macro_rules! watched {
    ($type:ident, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(&(): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(&(): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(&(): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(&(): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(super) use watched;

/// `networking.internal.knative.dev/v1alpha1` Ingress, the KIngress.
///
/// Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`.
#[derive(Clone, Debug, Deserialize)]
pub struct KIngress {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// What it asks for, as stored.
    #[serde(default)]
    pub spec: IngressSpec,
    /// What is said of it now.
    #[serde(default)]
    pub status: serde_json::Value,
}
watched!(
    KIngress,
    "networking.internal.knative.dev",
    "v1alpha1",
    "Ingress",
    "ingresses"
);

/// `serving.knative.dev/v1` Revision.
///
/// Source: knative/serving `pkg/apis/serving/v1/revision_types.go`.
#[derive(Clone, Debug, Deserialize)]
pub struct Revision {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// What it promises.
    #[serde(default)]
    pub spec: RevisionFields,
    /// How it is.
    #[serde(default)]
    pub status: RevisionStatus,
}
watched!(
    Revision,
    "serving.knative.dev",
    "v1",
    "Revision",
    "revisions"
);

/// The fields of a Revision's spec that its requests depend on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionFields {
    /// 0 or missing: unlimited.
    pub container_concurrency: Option<i64>,
    /// Seconds.
    pub timeout_seconds: Option<i64>,
    /// Seconds.
    pub response_start_timeout_seconds: Option<i64>,
    /// Seconds.
    pub idle_timeout_seconds: Option<i64>,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// A container of a Revision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// The port that serves requests has a name that says its protocol.
    pub ports: Vec<ContainerPort>,
    /// Its readiness probe.
    pub readiness_probe: Option<Probe>,
    /// Present if it has one.
    pub startup_probe: Option<serde::de::IgnoredAny>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerPort {
    /// `h2c`, `http1` or nothing.
    pub name: String,
}

/// A readiness probe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// Present if it runs a command.
    pub exec: Option<serde::de::IgnoredAny>,
}

/// The status of a Revision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RevisionStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// A condition of Knative's kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// `v1` Service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// What it stands for.
    #[serde(default)]
    pub spec: ServiceFields,
}
watched!(Service, "", "v1", "Service", "services");

/// The fields of a Service's spec that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceFields {
    /// `ClusterIP`, `ExternalName` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name an ExternalName stands for.
    pub external_name: String,
    /// Its address; `None` as a word for a headless one.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Its ports.
    pub ports: Vec<ServicePortFields>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePortFields {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Where it leads to on the endpoints.
    pub target_port: Option<ServicePort>,
    /// What it speaks.
    pub app_protocol: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// Its endpoints.
    #[serde(default, deserialize_with = "none_when_null")]
    pub endpoints: Vec<SliceEndpoint>,
    /// Its ports.
    #[serde(default, deserialize_with = "none_when_null")]
    pub ports: Vec<SlicePort>,
}
watched!(
    EndpointSlice,
    "discovery.k8s.io",
    "v1",
    "EndpointSlice",
    "endpointslices"
);

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses; the first is as good as the others.
    pub addresses: Vec<String>,
    /// How it is.
    pub conditions: SliceConditions,
    /// The Pod behind it.
    pub target_ref: Option<TargetRef>,
}

/// What an endpoint belongs to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its name.
    pub name: String,
}

/// The conditions of an endpoint.
///
/// Source: kubernetes/api `discovery/v1/types.go`: what is missing is unknown, and consumers take unknown `ready` and
/// `serving` for true, unknown `terminating` for false.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SliceConditions {
    /// It takes requests.
    pub ready: Option<bool>,
    /// It would, were it not terminating.
    pub serving: Option<bool>,
    /// It is about to end.
    pub terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Its name; empty when it has none.
    #[serde(deserialize_with = "none_when_null")]
    pub name: String,
    /// Its number; missing: all of them.
    pub port: Option<u16>,
}

/// `v1` ConfigMap.
#[derive(Clone, Debug, Deserialize)]
pub struct ConfigMap {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// Its values.
    #[serde(default, deserialize_with = "none_when_null")]
    pub data: BTreeMap<String, String>,
}
watched!(ConfigMap, "", "v1", "ConfigMap", "configmaps");

/// `v1` Secret of the type `kubernetes.io/tls`.
#[derive(Clone, Deserialize)]
pub struct Secret {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// Its values.
    #[serde(default, deserialize_with = "none_when_null")]
    pub data: TlsData,
}
watched!(Secret, "", "v1", "Secret", "secrets");

/// Without what is secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

/// The values that matter here, all in PEM.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_debug_implementations, reason = "it holds a private key")]
pub struct TlsData {
    /// The chain.
    #[serde(rename = "tls.crt")]
    pub certificate: Option<ByteString>,
    /// The private key.
    #[serde(rename = "tls.key")]
    pub key: Option<ByteString>,
    /// Who issues clients' certificates.
    #[serde(rename = "ca.crt")]
    pub client_ca: Option<ByteString>,
}

impl SliceEndpoint {
    /// Its address, unless it is not one.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first()?.parse().ok()
    }
}

/// The part of the metadata that is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct NeededMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

pub(super) fn needed_metadata<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ObjectMeta, D::Error> {
    let needed = NeededMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: needed.name,
        namespace: needed.namespace,
        uid: needed.uid,
        resource_version: needed.resource_version,
        generation: needed.generation,
        creation_timestamp: needed.creation_timestamp,
        deletion_timestamp: needed.deletion_timestamp,
        labels: needed.labels,
        annotations: needed.annotations,
        ..ObjectMeta::default()
    })
}

/// Go writes what was never filled as `null`.
pub(super) fn none_when_null<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
