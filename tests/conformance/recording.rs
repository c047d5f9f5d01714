//! What a real cluster said: the recorded objects, as the files have them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;

/// A KIngress that Knative's suite made, by the name of its row.
pub(crate) fn ingress(row: &str) -> Value {
    object(&format!("conformance/ingress/{row}.json"))
}

/// The KIngress of the row `update`, generation by generation.
pub(crate) fn updates() -> Vec<Value> {
    lines("conformance/updates.jsonl")
}

/// The Service that a split of the suite names.
pub(crate) fn service(name: &str) -> Value {
    static SERVICES: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    let services =
        SERVICES.get_or_init(|| by(lines("conformance/services.jsonl"), "/metadata/name"));
    services[name].clone()
}

/// The EndpointSlice of such a Service with its Pod ready; an `ExternalName` has none.
pub(crate) fn slice(service: &str) -> Option<Value> {
    static SLICES: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    let label = "/metadata/labels/kubernetes.io~1service-name";
    let slices = SLICES.get_or_init(|| by(lines("conformance/endpointslices.jsonl"), label));
    slices.get(service).cloned()
}

/// An object of Serving: `path` is moment, kind and name, such as `main/ksvc/split`.
pub(crate) fn serving(path: &str) -> Value {
    object(&format!("serving/{path}.json"))
}

fn object(path: &str) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn lines(path: &str) -> Vec<Value> {
    let text = read(path);
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn by(objects: Vec<Value>, key: &str) -> BTreeMap<String, Value> {
    let key_of = |object: &Value| {
        object
            .pointer(key)
            .and_then(Value::as_str)
            .unwrap()
            .to_owned()
    };
    objects
        .into_iter()
        .map(|object| (key_of(&object), object))
        .collect()
}

fn read(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(path);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
