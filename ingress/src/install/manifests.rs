//! What a cluster is to have: the manifests of `deploy/`, with what was asked for in them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::object::{Name, Object, map};
use super::yaml;
use crate::cli::{Install, Role};

const BOTH: &str = include_str!("../../../deploy/parkway.yaml");
const INGRESS: &str = include_str!("../../../deploy/parkway-ingress.yaml");
const ACTIVATOR: &str = include_str!("../../../deploy/parkway-activator.yaml");

/// The name of the manifests that stand in for these roles, and their text.
pub fn built(roles: &[Role]) -> (&'static str, &'static str) {
    let (ingress, activator) = (
        roles.contains(&Role::Ingress),
        roles.contains(&Role::Activator),
    );
    match (ingress, activator) {
        (true, false) => ("parkway-ingress.yaml", INGRESS),
        (false, true) => ("parkway-activator.yaml", ACTIVATOR),
        _ => ("parkway.yaml", BOTH),
    }
}

/// The objects a cluster is to have, in the order in which they are to be applied.
pub fn wanted(settings: &Install) -> Vec<Object> {
    let (name, text) = built(&settings.roles);
    let objects = yaml::read(name, text.as_bytes()).unwrap_or_default();
    debug_assert!(!objects.is_empty(), "{name} is YAML");
    let mut objects: Vec<_> = objects.into_iter().map(Object::from).collect();
    for object in &mut objects {
        adapt(object, settings);
    }
    objects.sort_by_key(|object| order(object.kind()));
    objects
}

/// Everything that any of the manifests has.
pub(super) fn names(namespace: &str) -> BTreeSet<Name> {
    let texts = [BOTH, INGRESS, ACTIVATOR];
    let objects = texts.map(|text| yaml::read("deploy", text.as_bytes()).unwrap_or_default());
    let objects = objects.into_iter().flatten().map(Object::from);
    objects
        .map(|object| Name {
            namespace: object.namespace().map(|_| namespace.to_owned()),
            ..object.id()
        })
        .collect()
}

fn adapt(object: &mut Object, settings: &Install) {
    let namespace = settings.target.namespace();
    if object.namespace().is_some() {
        object.0["metadata"]["namespace"] = json!(namespace);
    }
    match object.kind() {
        "RoleBinding" | "ClusterRoleBinding" => {
            if let Some(Value::Array(subjects)) = object.0.get_mut("subjects") {
                for subject in subjects {
                    subject["namespace"] = json!(namespace);
                }
            }
        }
        "Deployment" => {
            if let Some(replicas) = settings.replicas {
                object.0["spec"]["replicas"] = json!(replicas);
            }
            if let Some(container) = object.0.pointer_mut("/spec/template/spec/containers/0") {
                adapt_container(container, settings);
            }
        }
        "HorizontalPodAutoscaler" => adapt_scaling(object, settings.replicas),
        _ => {}
    }
}

/// Bounds that nobody has asked for are left to who is there already: an operator may have raised them.
fn adapt_scaling(object: &mut Object, replicas: Option<u16>) {
    let most = object.number("/spec/maxReplicas");
    let Some(Value::Object(spec)) = object.0.get_mut("spec") else {
        return;
    };
    let Some(replicas) = replicas else {
        spec.remove("minReplicas");
        return;
    };
    spec.insert("minReplicas".to_owned(), json!(replicas));
    // As Knative's operator does: room above the fewest stays as it is.
    spec.insert(
        "maxReplicas".to_owned(),
        json!(most + i64::from(replicas) - 1),
    );
}

fn adapt_container(container: &mut Value, settings: &Install) {
    if let Some(image) = &settings.image {
        container["image"] = json!(image);
    }
    let Some(Value::Array(env)) = container.get_mut("env") else {
        return;
    };
    for variable in env.iter_mut().filter_map(map) {
        if variable.get("name") == Some(&json!("PARKWAY_INGRESS_CLASS")) {
            variable.insert("value".to_owned(), json!(settings.ingress_class));
        }
    }
}

/// What others depend on goes first; what others are not to see before it works goes last.
pub(super) fn order(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" => 2,
        "Role" | "ClusterRole" => 3,
        "RoleBinding" | "ClusterRoleBinding" => 4,
        "ConfigMap" | "Secret" => 5,
        "Service" | "NetworkPolicy" => 6,
        "Deployment" => 7,
        "HorizontalPodAutoscaler" | "PodDisruptionBudget" => 8,
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => 10,
        _ => 9,
    }
}
