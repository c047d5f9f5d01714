//! The objects a configuration consists of, as plain values.
//!
//! They are what a cluster has, as far as they mean something here. Reading is strict where a slip would change what
//! happens (unknown fields, wrong types, values out of range) and silent about what Kubernetes adds on its own
//! (`status`, `managedFields`, resources). Defaults are not filled in here: that takes ConfigMaps, which may stand in
//! another document.

mod core;
mod ingress;
mod labels;
mod revision;
mod secret;
mod service;

use std::cell::RefCell;
use std::sync::Arc;

pub use core::{
    ConfigMap, CoreService, CoreServicePort, EndpointSlice, SliceEndpoint, SlicePort, TargetPort,
};
pub use ingress::Ingress;
pub use labels::Labels;
pub use revision::{Container, Probe, ProbeHandler, Revision, RevisionTemplate, TemplateSpec};
pub use secret::{Entry, Secret};
pub use service::{Service, TrafficTarget};

use super::document::{Document, Node, Value};
use super::fields::{Field, Fields, Reading};
use super::names;
use super::problem::{Origin, Problem, did_you_mean};

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What is known about every object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace; `default` when none is written.
    pub namespace: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// `creationTimestamp` in RFC 3339, which a cluster writes; none in files made by hand.
    pub created: Option<Box<str>>,
    /// Where it was written.
    pub origin: Origin,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// `serving.knative.dev/v1` Service.
    Service(Arc<Service>),
    /// `serving.knative.dev/v1` Revision.
    Revision(Arc<Revision>),
    /// `networking.internal.knative.dev/v1alpha1` Ingress, the KIngress.
    Ingress(Arc<Ingress>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// `v1` Service.
    CoreService(Arc<CoreService>),
    /// `v1` ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// `v1` Secret with a certificate.
    Secret(Arc<Secret>),
}

impl Object {
    /// What is known about every object.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Service(object) => &object.meta,
            Self::Revision(object) => &object.meta,
            Self::Ingress(object) => &object.meta,
            Self::EndpointSlice(object) => &object.meta,
            Self::CoreService(object) => &object.meta,
            Self::ConfigMap(object) => &object.meta,
            Self::Secret(object) => &object.meta,
        }
    }

    /// Whether it is the same value in memory.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Revision(one), Self::Revision(other)) => Arc::ptr_eq(one, other),
            (Self::Ingress(one), Self::Ingress(other)) => Arc::ptr_eq(one, other),
            (Self::EndpointSlice(one), Self::EndpointSlice(other)) => Arc::ptr_eq(one, other),
            (Self::CoreService(one), Self::CoreService(other)) => Arc::ptr_eq(one, other),
            (Self::ConfigMap(one), Self::ConfigMap(other)) => Arc::ptr_eq(one, other),
            (Self::Secret(one), Self::Secret(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The kind with its group, as people write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service (serving.knative.dev)",
            Self::Revision(_) => "Revision",
            Self::Ingress(_) => "Ingress (networking.internal.knative.dev)",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::CoreService(_) => "Service",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
        }
    }
}

/// The kinds that are read, with the API versions they are read in.
const KINDS: [(&str, &str); 7] = [
    ("serving.knative.dev/v1", "Service"),
    ("serving.knative.dev/v1", "Revision"),
    ("networking.internal.knative.dev/v1alpha1", "Ingress"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
];

/// How deep Lists may stand within Lists.
const MAX_LIST_DEPTH: usize = 4;

/// Reads the objects of a document: one, or the members of a List.
pub fn read(document: &Arc<Document>, objects: &mut Vec<Object>, problems: &mut Vec<Problem>) {
    read_part(
        document,
        &document.root,
        String::new(),
        0,
        objects,
        problems,
    );
}

fn read_part(
    document: &Arc<Document>,
    node: &Node,
    prefix: String,
    depth: usize,
    objects: &mut Vec<Object>,
    problems: &mut Vec<Problem>,
) {
    if let Some(items) = members_of_list(node)
        && depth < MAX_LIST_DEPTH
    {
        for (index, item) in items.iter().enumerate() {
            let separator = if prefix.is_empty() { "" } else { "." };
            let prefix = format!("{prefix}{separator}items[{index}]");
            read_part(document, item, prefix, depth + 1, objects, problems);
        }
        return;
    }
    let reading = if prefix.is_empty() {
        Reading::document(document)
    } else {
        Reading::new(Origin::of_part(document, prefix, node.at), document)
    };
    objects.extend(read_object(&reading, node));
    problems.extend(reading.into_problems());
}

/// The members of a `kind: List`, and of the typed lists a cluster returns, such as `ServiceList`.
fn members_of_list(node: &Node) -> Option<&[Node]> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let get = |name: &str| {
        entries
            .iter()
            .find(|(key, _)| key.name == name)
            .map(|(_, value)| &value.value)
    };
    match (get("kind"), get("items")) {
        (Some(Value::String(kind)), Some(Value::List(items))) if kind.ends_with("List") => {
            Some(items)
        }
        _ => None,
    }
}

fn read_object(reading: &Reading, node: &Node) -> Option<Object> {
    let root = Field::root(reading, node);
    let mut fields = root.fields()?;
    let remedy = "begin with \"apiVersion: serving.knative.dev/v1\" and \"kind: Service\"";
    let (version, kind) = (
        fields.required("apiVersion", remedy),
        fields.required("kind", remedy),
    );
    let (version, kind) = (version?.string()?, kind?.string()?);
    if !KINDS.contains(&(version.as_str(), kind.as_str())) {
        reading.report(unknown_kind(reading, &version, &kind));
        return None;
    }
    let meta = read_meta(reading, &mut fields)?;
    match (version.as_str(), kind.as_str()) {
        ("serving.knative.dev/v1", "Service") => service::read(fields, meta)
            .map(Arc::new)
            .map(Object::Service),
        ("serving.knative.dev/v1", "Revision") => revision::read(fields, meta)
            .map(Arc::new)
            .map(Object::Revision),
        ("networking.internal.knative.dev/v1alpha1", _) => ingress::read(fields, meta)
            .map(Arc::new)
            .map(Object::Ingress),
        ("discovery.k8s.io/v1", _) => core::read_slice(fields, meta)
            .map(Arc::new)
            .map(Object::EndpointSlice),
        (_, "ConfigMap") => core::read_config_map(fields, meta)
            .map(Arc::new)
            .map(Object::ConfigMap),
        (_, "Secret") => secret::read(fields, meta).map(Arc::new).map(Object::Secret),
        _ => core::read_service(fields, meta)
            .map(Arc::new)
            .map(Object::CoreService),
    }
}

/// Skipped, with a hint when it looks like a slip.
fn unknown_kind(reading: &Reading, version: &str, kind: &str) -> Problem {
    let named = reading.problem(
        "kind",
        format!("{kind} of {version} is not read here, and skipped"),
    );
    let same_kind = KINDS.iter().find(|(_, known)| *known == kind);
    let group = |version: &str| version.split('/').next().unwrap_or_default().to_owned();
    if let Some((known, _)) = same_kind.filter(|(known, _)| group(known) == group(version)) {
        return named
            .warning()
            .remedy(format!("it is read as apiVersion {known}"));
    }
    let similar = KINDS
        .iter()
        .filter(|(known, _)| *known == version)
        .map(|(_, kind)| *kind);
    match did_you_mean(kind, similar) {
        Some(meant) => named
            .warning()
            .remedy(format!("did you mean kind {meant}?")),
        None => named.warning(),
    }
}

/// `metadata`, of which most is the cluster's own business.
fn read_meta(reading: &Reading, fields: &mut Fields<'_>) -> Option<Meta> {
    let mut metadata = fields
        .required("metadata", "write a name below it")?
        .fields()?;
    let name = metadata.required("name", "every object has a name");
    let namespace = metadata.get("namespace");
    let labels = metadata.string_map("labels").into();
    let annotations = metadata.string_map("annotations").into();
    let created = metadata.string("creationTimestamp");
    metadata.inert(&INERT_META);
    metadata.finish();
    let name = checked(&name?, names::is_dns_subdomain, names::SUBDOMAIN_RULE)?;
    let namespace = match namespace {
        Some(field) => checked(&field, names::is_dns_label, names::LABEL_RULE)?,
        None => DEFAULT_NAMESPACE.to_owned(),
    };
    Some(Meta {
        name: name.into(),
        namespace: shared(&namespace),
        labels,
        annotations,
        created: created.map(String::into_boxed_str),
        origin: reading.origin(),
    })
}

/// The text of a namespace, shared with the object before if that was in the same one: mostly all of them are.
fn shared(namespace: &str) -> Arc<str> {
    thread_local! { static LAST: RefCell<Arc<str>> = RefCell::new(Arc::default()) }
    LAST.with_borrow_mut(|last| {
        if **last != *namespace {
            *last = namespace.into();
        }
        Arc::clone(last)
    })
}

/// What a cluster keeps in `metadata` for itself.
const INERT_META: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
];

/// The string of a field, if it obeys a rule.
fn checked(field: &Field<'_>, rule: fn(&str) -> bool, message: &str) -> Option<String> {
    let text = field.string()?;
    if rule(&text) {
        return Some(text);
    }
    field.report(field.problem(message));
    None
}

impl Meta {
    /// Namespace and name.
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// An object with a name and nothing else.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, origin: Origin) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            labels: Labels::default(),
            annotations: Labels::default(),
            created: None,
            origin,
        }
    }
}
