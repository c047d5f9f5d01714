//! The objects, their versions and what happened to them: pure, without time of its own.
//!
//! One counter numbers every change, as etcd's revision does; an object's `resourceVersion` is the number of its last
//! change. What happened is kept up to a horizon, below which a version is gone: for watches as for lists.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::merge::{Applied, apply, merge};
use super::refusal::Refusal;

/// Resource (`ingresses.networking.internal.knative.dev`) and path (`NAMESPACE/NAME`), which is the order of lists.
type Key = (String, String);

/// One change of one object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) resource: String,
    path: String,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All but `status`, if that is a subresource.
    Main,
    /// Only `status`.
    Status,
}

/// How an object is patched.
#[derive(Clone, Debug)]
pub(super) enum Patch {
    /// `application/merge-patch+json`.
    Merge(Value),
    /// `application/apply-patch+yaml`.
    Apply {
        wanted: Value,
        manager: String,
        force: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    revision: u64,
    /// The latest change that is no longer known.
    horizon: u64,
    capacity: usize,
    objects: BTreeMap<Key, Arc<Value>>,
    applied: BTreeMap<Key, Applied>,
    history: VecDeque<Change>,
    uids: u64,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            revision: 1,
            horizon: 1,
            capacity,
            objects: BTreeMap::new(),
            applied: BTreeMap::new(),
            history: VecDeque::new(),
            uids: 0,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Forgets what happened, so that every version but the present one is gone.
    pub(super) fn compact(&mut self) {
        self.horizon = self.revision;
        self.history.clear();
    }

    pub(super) fn get(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Arc<Value>> {
        self.objects.get(&key(kind, namespace, name)).cloned()
    }

    /// The objects of a kind, of all namespaces or of one, with their paths.
    pub(super) fn list(&self, kind: &Kind, namespace: Option<&str>) -> Vec<(String, Arc<Value>)> {
        let resource = kind.resource();
        let prefix = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
        let of_kind = self.objects.range((resource.clone(), prefix.clone())..);
        of_kind
            .take_while(|((of, path), _)| *of == resource && path.starts_with(&prefix))
            .map(|((_, path), object)| (path.clone(), Arc::clone(object)))
            .collect()
    }

    /// The same as it was at `revision`, by undoing what happened since; none when that is no longer known.
    pub(super) fn list_at(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        revision: u64,
    ) -> Option<Vec<(String, Arc<Value>)>> {
        if revision < self.horizon {
            return None;
        }
        let mut objects: BTreeMap<_, _> = self.list(kind, namespace).into_iter().collect();
        let prefix = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
        let resource = kind.resource();
        let since = self.history.iter().rev();
        for change in since.take_while(|change| change.revision > revision) {
            if change.resource != resource || !change.path.starts_with(&prefix) {
                continue;
            }
            match &change.before {
                Some(before) => objects.insert(change.path.clone(), Arc::clone(before)),
                None => objects.remove(&change.path),
            };
        }
        Some(objects.into_iter().collect())
    }

    /// What happened after `revision`.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let known = self
            .history
            .partition_point(|change| change.revision <= revision);
        self.history.range(known..)
    }

    pub(super) fn create(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        mut object: Value,
        now: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let name = self.name_of_new(kind, &object)?;
        check_names(kind, &object, namespace, &name)?;
        let key = key(kind, namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(Refusal::already_exists(kind, &name));
        }
        self.uids += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.uids);
        let metadata = metadata_of(&mut object);
        metadata.insert("name".to_owned(), json!(name));
        if let Some(namespace) = namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(now));
        metadata.shift_remove("deletionTimestamp");
        metadata.shift_remove("generation");
        if kind.has_generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        if kind.has_status && kind.is_custom {
            // `PrepareForCreate` of custom resources drops what only the subresource may set.
            remove_field(&mut object, "status");
        }
        name_kind(kind, &mut object);
        Ok(self.commit(key, None, Some(object)))
    }

    /// Puts an object there as it is, for a test's own purposes: its uid, generation and status stay as written.
    pub(super) fn put(&mut self, kind: &Kind, mut object: Value, now: &str) -> Arc<Value> {
        let name = text(&object, "/metadata/name").to_owned();
        let namespace = kind.is_namespaced.then(|| {
            let written = text(&object, "/metadata/namespace");
            if written.is_empty() {
                "default"
            } else {
                written
            }
            .to_owned()
        });
        let key = key(kind, namespace.as_deref(), &name);
        let before = self.objects.get(&key).cloned();
        self.uids += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.uids);
        let old_generation = before.as_deref().map(generation);
        let is_same_spec = before
            .as_deref()
            .is_some_and(|before| is_same_spec(before, &object));
        let old_uid = before
            .as_deref()
            .map(|before| text(before, "/metadata/uid").to_owned());
        let metadata = metadata_of(&mut object);
        if let Some(namespace) = &namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        metadata
            .entry("uid")
            .or_insert_with(|| json!(old_uid.unwrap_or(uid)));
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| json!(now));
        if kind.has_generation {
            let next = match old_generation {
                Some(old) if is_same_spec => old,
                Some(old) => old + 1,
                None => 1,
            };
            metadata.entry("generation").or_insert_with(|| json!(next));
        }
        name_kind(kind, &mut object);
        self.commit(key, before, Some(object))
    }

    pub(super) fn update(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        mut object: Value,
        part: Part,
    ) -> Result<Arc<Value>, Refusal> {
        check_names(kind, &object, namespace, name)?;
        let key = key(kind, namespace, name);
        let Some(before) = self.objects.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        check_preconditions(kind, name, &before, &object, true)?;
        let after = if part == Part::Status {
            let mut after = (*before).clone();
            match object.get_mut("status").map(Value::take) {
                Some(status) => after["status"] = status,
                None => remove_field(&mut after, "status"),
            }
            after
        } else {
            name_kind(kind, &mut object);
            keep_what_is_the_servers(kind, &before, &mut object);
            object
        };
        Ok(self.commit(key, Some(before), Some(after)))
    }

    pub(super) fn patch(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        patch: Patch,
        part: Part,
        now: &str,
    ) -> Result<(Arc<Value>, bool), Refusal> {
        let key = key(kind, namespace, name);
        let Some(before) = self.objects.get(&key).cloned() else {
            return match patch {
                Patch::Apply {
                    wanted, manager, ..
                } if part == Part::Main => {
                    check_names(kind, &wanted, namespace, name)?;
                    let created = self.create(kind, namespace, wanted.clone(), now)?;
                    let applied = self.applied.entry(key).or_default();
                    applied.insert(manager, wanted);
                    Ok((created, true))
                }
                Patch::Apply { .. } | Patch::Merge(_) => Err(Refusal::not_found(kind, name)),
            };
        };
        let mut after = (*before).clone();
        match patch {
            Patch::Merge(wanted) => {
                check_preconditions(kind, name, &before, &wanted, false)?;
                merge(&mut after, &wanted);
            }
            Patch::Apply {
                wanted,
                manager,
                force,
            } => {
                check_names(kind, &wanted, namespace, name)?;
                check_preconditions(kind, name, &before, &wanted, false)?;
                let applied = self.applied.entry(key.clone()).or_default();
                apply(&mut after, applied, &manager, &wanted, force)?;
            }
        }
        if part == Part::Status {
            let status = after.get("status").cloned();
            after = (*before).clone();
            match status {
                Some(status) => after["status"] = status,
                None => remove_field(&mut after, "status"),
            }
        } else {
            keep_what_is_the_servers(kind, &before, &mut after);
        }
        Ok((self.commit(key, Some(before), Some(after)), false))
    }

    /// Deletes an object; one with finalizers is only marked, and goes with the last of them.
    ///
    /// Source: `markAsDeleting` in kubernetes/apiserver `pkg/registry/generic/registry/store.go`.
    pub(super) fn delete(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: &Value,
        now: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let key = key(kind, namespace, name);
        let Some(before) = self.objects.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        for (field, called) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let wanted = text(options, &format!("/preconditions/{field}"));
            let held = text(&before, &format!("/metadata/{field}"));
            if !wanted.is_empty() && wanted != held {
                let why = format!(
                    "the {called} in the precondition ({wanted}) does not match the {called} in record ({held})"
                );
                return Err(Refusal::conflict(kind, name, &why));
            }
        }
        if has_finalizers(&before) {
            let mut after = (*before).clone();
            let metadata = metadata_of(&mut after);
            if !metadata.contains_key("deletionTimestamp") {
                metadata.insert("deletionTimestamp".to_owned(), json!(now));
                metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
                if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                    metadata.insert("generation".to_owned(), json!(generation + 1));
                }
            }
            return Ok(self.commit(key, Some(before), Some(after)));
        }
        Ok(self.commit(key, Some(before), None))
    }

    fn name_of_new(&mut self, kind: &Kind, object: &Value) -> Result<String, Refusal> {
        let name = text(object, "/metadata/name");
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let prefix = text(object, "/metadata/generateName");
        if prefix.is_empty() {
            let why = "metadata.name: Required value: name or generateName is required";
            return Err(Refusal::invalid(kind, "", why));
        }
        self.uids += 1;
        Ok(format!("{prefix}{:05x}", self.uids))
    }

    /// Writes a change down. One that changes nothing is none: the version stays, nobody is told.
    ///
    /// Source: `GuaranteedUpdate` in kubernetes/apiserver `pkg/storage/etcd3/store.go`.
    fn commit(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Value>) -> Arc<Value> {
        let is_finished = after.as_ref().is_some_and(|after| {
            after.pointer("/metadata/deletionTimestamp").is_some() && !has_finalizers(after)
        });
        if let (Some(before), Some(after)) = (&before, &after)
            && **before == *after
        {
            return Arc::clone(before);
        }
        self.revision += 1;
        let revision = self.revision;
        let after = after.map(|mut after| {
            metadata_of(&mut after)
                .insert("resourceVersion".to_owned(), json!(revision.to_string()));
            Arc::new(after)
        });
        let shown = match (&before, &after) {
            (_, Some(after)) => Arc::clone(after),
            (Some(before), None) => Arc::clone(before),
            (None, None) => Arc::new(Value::Null),
        };
        let after = after.filter(|_| !is_finished);
        match &after {
            Some(after) => self.objects.insert(key.clone(), Arc::clone(after)),
            None => {
                self.applied.remove(&key);
                self.objects.remove(&key)
            }
        };
        self.history.push_back(Change {
            revision,
            resource: key.0,
            path: key.1,
            before,
            after,
        });
        while self.history.len() > self.capacity
            && let Some(forgotten) = self.history.pop_front()
        {
            self.horizon = forgotten.revision;
        }
        shown
    }
}

fn key(kind: &Kind, namespace: Option<&str>, name: &str) -> Key {
    let path = match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    (kind.resource(), path)
}

/// A text field, empty when it is not there.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn generation(object: &Value) -> i64 {
    let generation = object.pointer("/metadata/generation");
    generation.and_then(Value::as_i64).unwrap_or(0)
}

fn has_finalizers(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers");
    finalizers
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn metadata_of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().unwrap()
}

fn remove_field(object: &mut Value, name: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove(name);
    }
}

fn name_kind(kind: &Kind, object: &mut Value) {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
}

/// Whether two objects differ only in `metadata` and `status`.
fn is_same_spec(one: &Value, other: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.as_object().cloned().unwrap_or_default();
        for apart in ["metadata", "status", "apiVersion", "kind"] {
            rest.shift_remove(apart);
        }
        rest
    };
    rest(one) == rest(other)
}

/// An object must not name itself otherwise than the path does.
fn check_names(
    kind: &Kind,
    object: &Value,
    namespace: Option<&str>,
    name: &str,
) -> Result<(), Refusal> {
    let written = text(object, "/metadata/name");
    if !written.is_empty() && written != name {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({written}) does not match the name on the URL ({name})"
        )));
    }
    let written = text(object, "/metadata/namespace");
    if !written.is_empty() && written != namespace.unwrap_or_default() {
        let why =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(why));
    }
    for (field, expected) in [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.clone()),
    ] {
        let written = text(object, &format!("/{field}"));
        if !written.is_empty() && written != expected {
            let why =
                format!("{field} in the data ({written}) does not match the expected ({expected})");
            return Err(Refusal::bad_request(why));
        }
    }
    Ok(())
}

/// A write that names the version or the uid it means writes nothing else.
///
/// Source: `Update` in kubernetes/apiserver `pkg/registry/generic/registry/store.go`.
fn check_preconditions(
    kind: &Kind,
    name: &str,
    held: &Value,
    written: &Value,
    is_update: bool,
) -> Result<(), Refusal> {
    let uid = text(written, "/metadata/uid");
    let held_uid = text(held, "/metadata/uid");
    if !uid.is_empty() && uid != held_uid {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {held_uid}"
        );
        return Err(Refusal::conflict(kind, name, &why));
    }
    match text(written, "/metadata/resourceVersion") {
        "" if is_update && !kind.may_update_blindly => {
            let why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
            Err(Refusal::invalid(kind, name, why))
        }
        "" => Ok(()),
        version if version == text(held, "/metadata/resourceVersion") => Ok(()),
        _ => Err(Refusal::modified(kind, name)),
    }
}

/// What a write cannot change: identity, times, the generation it counts up itself, and `status` if that is apart.
fn keep_what_is_the_servers(kind: &Kind, before: &Value, after: &mut Value) {
    if kind.has_status {
        match before.get("status") {
            Some(status) => after["status"] = status.clone(),
            None => remove_field(after, "status"),
        }
    }
    let next_generation = if is_same_spec(before, after) {
        generation(before)
    } else {
        generation(before) + 1
    };
    let metadata = metadata_of(after);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        match before.pointer(&format!("/metadata/{field}")) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.shift_remove(field),
        };
    }
    if kind.has_generation {
        metadata.insert("generation".to_owned(), json!(next_generation));
    }
}
