//! As much of kustomize as the manifests of `deploy/` use; anything else fails the test that meets it.

use std::fs;
use std::path::Path;

use parkway_ingress::install::object::Object;
use parkway_ingress::install::yaml;
use serde_json::Value;

/// The objects that a folder with a `kustomization.yaml` makes.
pub(crate) fn build(folder: &Path) -> Vec<Object> {
    let mut objects = Vec::new();
    add(folder, &mut objects);
    objects
}

fn add(folder: &Path, objects: &mut Vec<Object>) {
    let kustomization = documents(&folder.join("kustomization.yaml")).remove(0);
    for key in kustomization.as_object().unwrap().keys() {
        let known = ["apiVersion", "kind", "resources", "components", "patches"];
        assert!(known.contains(&key.as_str()), "{key} is not known here");
    }
    for path in texts(&kustomization, "resources") {
        let path = folder.join(path);
        match path.is_dir() {
            true => add(&path, objects),
            false => objects.extend(documents(&path).into_iter().map(Object::from)),
        }
    }
    for path in texts(&kustomization, "components") {
        add(&folder.join(path), objects);
    }
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        let kind = patch["target"]["kind"].as_str().unwrap();
        let mut targets = objects
            .iter_mut()
            .filter(|object| object.kind() == kind)
            .peekable();
        assert!(targets.peek().is_some(), "a patch of no {kind}");
        let operations = yaml::read("patch", patch["patch"].as_str().unwrap().as_bytes()).unwrap();
        for target in targets {
            for operation in operations[0].as_array().unwrap() {
                apply(&mut target.0, operation);
            }
        }
    }
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    yaml::read(&path.display().to_string(), &text).unwrap()
}

fn texts<'a>(object: &'a Value, key: &str) -> Vec<&'a str> {
    let values = object[key].as_array().into_iter().flatten();
    values.map(|value| value.as_str().unwrap()).collect()
}

/// `add` and `replace` of RFC 6902.
fn apply(object: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().unwrap();
    let value = operation["value"].clone();
    match operation["op"].as_str().unwrap() {
        "replace" => {
            *object
                .pointer_mut(path)
                .unwrap_or_else(|| panic!("no {path}")) = value;
        }
        "add" => {
            let (parent, key) = path.rsplit_once('/').unwrap();
            match object
                .pointer_mut(parent)
                .unwrap_or_else(|| panic!("no {parent}"))
            {
                Value::Array(items) if key == "-" => items.push(value),
                Value::Object(entries) => {
                    entries.insert(key.replace("~1", "/").replace("~0", "~"), value);
                }
                other => panic!("{path}: nothing can be added to {other}"),
            }
        }
        other => panic!("{other} is not known here"),
    }
}
