//! What clients ask to learn which kinds there are.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::kind::Kind;
use super::refusal::json_response;

/// The answer to a question about the server itself; none when the path is about something else.
pub(super) fn answer(path: &str, kinds: &[Kind]) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => return Some(Response::new(Body::from("ok"))),
        ["version"] => {
            json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"})
        }
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"]}),
        ["apis"] => groups(kinds),
        ["api", version] => resources("", version, kinds)?,
        ["apis", group, version] => resources(group, version, kinds)?,
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &value))
}

fn groups(kinds: &[Kind]) -> Value {
    let named: BTreeSet<(&str, &str)> = kinds
        .iter()
        .filter(|kind| !kind.group.is_empty())
        .map(|kind| (kind.group.as_str(), kind.version.as_str()))
        .collect();
    let groups: Vec<Value> = named
        .into_iter()
        .map(|(group, version)| {
            let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
            json!({"name": group, "versions": [version], "preferredVersion": version})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resources(group: &str, version: &str, kinds: &[Kind]) -> Option<Value> {
    let of_group: Vec<&Kind> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    let first = of_group.first()?;
    let mut resources = Vec::new();
    for kind in &of_group {
        let verbs = [
            "create", "delete", "get", "list", "patch", "update", "watch",
        ];
        resources.push(resource(kind, &kind.plural, &verbs));
        if kind.has_status {
            let name = format!("{}/status", kind.plural);
            resources.push(resource(kind, &name, &["get", "patch", "update"]));
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": resources,
    }))
}

fn resource(kind: &Kind, name: &str, verbs: &[&str]) -> Value {
    json!({
        "name": name,
        "singularName": kind.kind.to_lowercase(),
        "namespaced": kind.is_namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    })
}
