//! Patches: JSON merge, and a simple form of server-side apply.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Merges `patch` into `target`: RFC 7396, section 2.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// Who applied what, by field manager: the last applied object of each.
pub(super) type Applied = BTreeMap<String, Value>;

/// Applies `wanted` for `manager` onto `object`.
///
/// A field that the manager applied before and leaves out now goes away, unless another manager applied it too. A field
/// that another manager applied with another value is a conflict unless `force`, and with `force` ours alone. A list is
/// one field.
///
/// Source: <https://kubernetes.io/docs/reference/using-api/server-side-apply/>.
pub(super) fn apply(
    object: &mut Value,
    applied: &mut Applied,
    manager: &str,
    wanted: &Value,
    force: bool,
) -> Result<(), Refusal> {
    let conflicts: Vec<(String, String)> = leaves(wanted)
        .into_iter()
        .flat_map(|(path, value)| {
            let others = applied.iter().filter(|(other, _)| *other != manager);
            others
                .filter(|(_, theirs)| theirs.pointer(&path).is_some_and(|theirs| theirs != value))
                .map(|(other, _)| (path.clone(), other.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(Refusal::apply_conflict(&conflicts));
    }
    for (path, other) in conflicts {
        if let Some(theirs) = applied.get_mut(&other) {
            remove(theirs, &path);
        }
    }
    let before = applied.remove(manager).unwrap_or(Value::Null);
    for (path, _) in leaves(&before) {
        let is_kept = wanted.pointer(&path).is_some()
            || applied
                .values()
                .any(|theirs| theirs.pointer(&path).is_some());
        if !is_kept {
            remove(object, &path);
        }
    }
    merge(object, wanted);
    applied.insert(manager.to_owned(), wanted.clone());
    Ok(())
}

/// The fields that hold no further fields, by JSON pointer, without those that name the object.
fn leaves(value: &Value) -> Vec<(String, &Value)> {
    const NAMES: [&str; 4] = [
        "/apiVersion",
        "/kind",
        "/metadata/name",
        "/metadata/namespace",
    ];
    let mut found = Vec::new();
    collect(value, String::new(), &mut found);
    found.retain(|(path, _)| !path.is_empty() && !NAMES.contains(&path.as_str()));
    found
}

fn collect<'a>(value: &'a Value, path: String, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(value, format!("{path}/{name}"), found);
            }
        }
        _ => found.push((path, value)),
    }
}

/// Takes out a field, and what is empty without it.
fn remove(object: &mut Value, path: &str) {
    let Some((parent, name)) = path.rsplit_once('/') else {
        return;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    let Some(fields) = object.pointer_mut(parent).and_then(Value::as_object_mut) else {
        return;
    };
    fields.shift_remove(&name);
    if fields.is_empty() && !parent.is_empty() {
        remove(object, parent);
    }
}
