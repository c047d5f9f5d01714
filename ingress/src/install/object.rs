//! An object of a cluster, whatever its kind.

use serde_json::{Map, Value};

/// The label on everything that is Parkway's, with [`PROVIDER`] as its value.
///
/// Source: the manifests of Knative's networking layers, for one knative-extensions/net-kourier `config`.
pub const PROVIDER_LABEL: &str = "networking.knative.dev/ingress-provider";
/// Parkway as a networking layer.
pub const PROVIDER: &str = "parkway";

/// What the API server writes, in the metadata of an object.
const SERVERS_METADATA: [&str; 6] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// An object as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Value);

/// Which object is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// None for what belongs to the whole cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Name {
    /// An object in a namespace.
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl Object {
    /// `apps/v1`.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// `Deployment`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.0.pointer("/metadata/namespace")?.as_str()
    }

    /// Which object this is.
    pub fn id(&self) -> Name {
        Name {
            api_version: self.api_version().to_owned(),
            kind: self.kind().to_owned(),
            namespace: self.namespace().map(str::to_owned),
            name: self.name().to_owned(),
        }
    }

    /// The text at this JSON pointer; empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        let found = self.0.pointer(pointer);
        found.and_then(Value::as_str).unwrap_or_default()
    }

    /// The number at this JSON pointer; 0 when there is none.
    pub fn number(&self, pointer: &str) -> i64 {
        let found = self.0.pointer(pointer);
        found.and_then(Value::as_i64).unwrap_or_default()
    }

    /// The list at this JSON pointer; empty when there is none.
    pub fn list(&self, pointer: &str) -> &[Value] {
        let found = self.0.pointer(pointer);
        found
            .and_then(Value::as_array)
            .map_or(&[], |items| items.as_slice())
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.entry("labels", name)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.entry("annotations", name)
    }

    fn entry(&self, map: &str, name: &str) -> Option<&str> {
        let metadata = self.0.get("metadata")?;
        metadata.get(map)?.get(name)?.as_str()
    }

    /// Whether it is Parkway's.
    pub fn is_ours(&self) -> bool {
        self.label(PROVIDER_LABEL) == Some(PROVIDER)
    }

    /// The kind of what made it, if that is one of these.
    pub fn owned_by(&self, kinds: &[&str]) -> Option<&Value> {
        let mut owners = self.list("/metadata/ownerReferences").iter();
        owners.find(|owner| {
            let kind = owner.get("kind").and_then(Value::as_str);
            kind.is_some_and(|kind| kinds.contains(&kind))
        })
    }

    /// Without what the API server writes: what a person would have written.
    pub fn written(&self) -> Self {
        let mut object = self.0.clone();
        if let Some(object) = map(&mut object) {
            object.remove("status");
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(map) {
            for field in SERVERS_METADATA {
                metadata.remove(field);
            }
        }
        Self(object)
    }

    /// Writes a text into the metadata.
    pub fn set_metadata(&mut self, field: &str, value: Value) {
        if let Some(metadata) = self.0.get_mut("metadata").and_then(map) {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// The entries of a value that is a map.
pub(super) fn map(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}

/// The places at which two values differ, as dotted paths; of a list that differs, the list.
pub fn differences(from: &Value, to: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(from, to, String::new(), &mut found);
    found
}

fn collect(from: &Value, to: &Value, path: String, found: &mut Vec<String>) {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        if from != to {
            found.push(path);
        }
        return;
    };
    let added = to.keys().filter(|key| !from.contains_key(*key));
    for key in from.keys().chain(added) {
        let below = match path.is_empty() {
            true => key.clone(),
            false => format!("{path}.{key}"),
        };
        let (from, to) = (from.get(key), to.get(key));
        collect(
            from.unwrap_or(&Value::Null),
            to.unwrap_or(&Value::Null),
            below,
            found,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_has_nothing_of_the_servers() {
        let stored = Object(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "activator", "namespace": "knative-serving", "labels": {"a": "b"}, "uid": "1", "generation": 3,
                "resourceVersion": "5", "creationTimestamp": "2026-11-22T12:00:00Z", "managedFields": [{}],
            },
            "spec": {"replicas": 2},
            "status": {"replicas": 2},
        }));
        assert_eq!(
            stored.written().0,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "activator", "namespace": "knative-serving", "labels": {"a": "b"}},
                "spec": {"replicas": 2},
            })
        );
    }

    #[test]
    fn differences_are_named_by_their_path() {
        let from = json!({"same": 1, "gone": 1, "deep": {"a": [1, 2], "b": {"c": 1}}});
        let to = json!({"same": 1, "new": 1, "deep": {"a": [2, 1], "b": {"c": 1}}});
        assert_eq!(differences(&from, &to), ["gone", "deep.a", "new"]);
        assert_eq!(differences(&to, &to), Vec::<String>::new());
    }
}
