//! From a request to its answer.

use std::future::pending;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::call::{Call, Options, Selector};
use super::discovery;
use super::fault::{Effect, Request};
use super::refusal::{Refusal, json_response};
use super::shared::{Shared, State};
use super::store::{Part, Patch, Store, text};
use super::stream::Watch;

/// Answers one request that came over the connection of this number.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    connection: u64,
    head: Parts,
    body: Bytes,
) -> Response<Body> {
    if shared.is_silenced(connection) {
        return pending().await;
    }
    if !shared.with(|state| is_admitted(state, &head)) {
        return Refusal::unauthorized().response();
    }
    if let Some(response) = shared.with(|state| discovery::answer(head.uri.path(), &state.kinds)) {
        return response;
    }
    let call = shared.with(|state| Call::read(&head.method, &head.uri, &state.kinds));
    let Some(call) = call else {
        return not_served();
    };
    let request = logged(&call, head.uri.query().unwrap_or_default());
    let (line, effects) = shared.with(|state| {
        state.log.push(request.clone());
        (state.log.len() - 1, state.effects_on(&request))
    });
    let response = suffer(shared, &call, &head, &body, connection, effects).await;
    // A silence that began meanwhile holds for this answer too.
    if shared.is_silenced(connection) {
        return pending().await;
    }
    shared.with(|state| {
        if let Some(request) = state.log.get_mut(line) {
            request.status = response.status().as_u16();
        }
    });
    response
}

fn logged(call: &Call, query: &str) -> Request {
    Request {
        verb: call.verb,
        group: call.kind.group.clone(),
        plural: call.kind.plural.clone(),
        subresource: call.subresource.clone().unwrap_or_default(),
        namespace: call.namespace.clone().unwrap_or_default(),
        name: call.name().to_owned(),
        query: query.to_owned(),
        status: 0,
    }
}

/// Answers a request after what the test does to it.
async fn suffer(
    shared: &Arc<Shared>,
    call: &Call,
    head: &Parts,
    body: &Bytes,
    connection: u64,
    effects: Vec<Effect>,
) -> Response<Body> {
    for effect in effects {
        match effect {
            Effect::Refused(code) => {
                let namespace = call.namespace.as_deref();
                return Refusal::by_code(code, call.verb, &call.kind, namespace).response();
            }
            Effect::Gone => {
                return streaming(Watch::gone(shared, call.clone(), connection));
            }
            Effect::Late(delay) => sleep(delay).await,
            Effect::Unanswered => return pending().await,
            Effect::Overtaken => overtake(shared, call),
        }
    }
    if call.verb == "watch" {
        return match Selector::read(&call.options) {
            Ok(selector) => streaming(Watch::begin(shared, call.clone(), selector, connection)),
            Err(why) => Refusal::bad_request(why).response(),
        };
    }
    let now = shared.now();
    let result = shared.with(|state| match call.options.get("dryRun") {
        None => serve(state, call, head, body, &now),
        Some(_) => {
            let kept = state.store.clone();
            let result = serve(state, call, head, body, &now);
            state.store = kept;
            result
        }
    });
    match result {
        Ok((status, value)) => json_response(status, &value),
        Err(refusal) => refusal.response(),
    }
}

/// Somebody else is a moment faster.
fn overtake(shared: &Shared, call: &Call) {
    let now = shared.now();
    let patch = json!({"metadata": {"annotations": {"example.com/overtaken": now}}});
    shared.with(|state| {
        let namespace = call.namespace.as_deref();
        let edits = state.log.len();
        let mut patch = patch;
        patch["metadata"]["annotations"]["example.com/edits"] = json!(edits.to_string());
        let patch = Patch::Merge(patch);
        let patched =
            state
                .store
                .patch(&call.kind, namespace, call.name(), patch, Part::Main, &now);
        drop(patched);
    });
}

fn streaming(watch: Watch) -> Response<Body> {
    Response::builder()
        .header("Cache-Control", "no-cache, private")
        .header("Content-Type", "application/json")
        .body(watch.into_body())
        .unwrap()
}

fn not_served() -> Response<Body> {
    Response::builder()
        .status(StatusCode::NOT_FOUND)
        .header("Content-Type", "text/plain; charset=utf-8")
        .body(Body::from("404 page not found\n"))
        .unwrap()
}

fn is_admitted(state: &State, head: &Parts) -> bool {
    let Some(admitted) = &state.admitted else {
        return true;
    };
    let field = head
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = field.and_then(|field| field.strip_prefix("Bearer "));
    token.is_some_and(|token| admitted.contains(token))
}

type Answered = Result<(StatusCode, Value), Refusal>;

fn serve(state: &mut State, call: &Call, head: &Parts, body: &Bytes, now: &str) -> Answered {
    let part = match call.subresource.as_deref() {
        None => Part::Main,
        Some("status") if call.kind.has_status => Part::Status,
        Some(_) => return Err(Refusal::not_found(&call.kind, call.name())),
    };
    let namespace = call.namespace.as_deref();
    if call.kind.is_namespaced && namespace.is_none() && call.verb != "list" {
        return Err(Refusal::method_not_allowed());
    }
    match call.verb {
        "list" => list(&state.store, call),
        "get" => {
            let found = state.store.get(&call.kind, namespace, call.name());
            let found = found.ok_or_else(|| Refusal::not_found(&call.kind, call.name()))?;
            Ok((StatusCode::OK, (*found).clone()))
        }
        "create" if call.kind.plural == "tokenreviews" => review(state, &json_of(body)?),
        "create" => {
            let created = state
                .store
                .create(&call.kind, namespace, json_of(body)?, now)?;
            Ok((StatusCode::CREATED, (*created).clone()))
        }
        "update" => {
            let object = json_of(body)?;
            let updated = state
                .store
                .update(&call.kind, namespace, call.name(), object, part)?;
            Ok((StatusCode::OK, (*updated).clone()))
        }
        "patch" => {
            let patch = patch_of(call, head, body)?;
            let (patched, is_new) =
                state
                    .store
                    .patch(&call.kind, namespace, call.name(), patch, part, now)?;
            let status = if is_new {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            Ok((status, (*patched).clone()))
        }
        "delete" => {
            let options = if body.is_empty() {
                Value::Null
            } else {
                json_of(body)?
            };
            let before = state
                .store
                .delete(&call.kind, namespace, call.name(), &options, now)?;
            Ok((StatusCode::OK, deleted(call, &before)))
        }
        _ => Err(Refusal::method_not_allowed()),
    }
}

fn json_of(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!("the object provided is unrecognized: {error}"))
    })
}

fn patch_of(call: &Call, head: &Parts, body: &Bytes) -> Result<Patch, Refusal> {
    let written = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = written
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let wanted = json_of(body)?;
    match media_type {
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            Ok(Patch::Merge(wanted))
        }
        "application/apply-patch+yaml" => {
            let manager = call.options.get("fieldManager");
            let manager = manager.ok_or_else(|| {
                Refusal::bad_request("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")
            })?;
            Ok(Patch::Apply {
                wanted,
                manager: manager.to_owned(),
                force: call.options.is_set("force"),
            })
        }
        _ => Err(Refusal::unsupported_media_type()),
    }
}

/// What DELETE answers: the object while finalizers hold it, else a `Status` of success.
fn deleted(call: &Call, object: &Value) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return object.clone();
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": call.name(),
            "group": call.kind.group,
            "kind": call.kind.plural,
            "uid": text(object, "/metadata/uid"),
        },
    })
}

/// Answers a TokenReview from what the test registered.
///
/// A token for other audiences than those asked for is not authenticated; without any asked for, the API server's own
/// counts, which every registered token has. Source: kubernetes/api `authentication/v1/types.go`.
fn review(state: &State, review: &Value) -> Answered {
    let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
    let asked: Vec<&str> = asked
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let bearer = state.bearers.get(text(review, "/spec/token"));
    let common = |bearer: &super::shared::Bearer| -> Vec<String> {
        let audiences = bearer.audiences.iter();
        audiences
            .filter(|audience| asked.contains(&audience.as_str()))
            .cloned()
            .collect()
    };
    let status = match bearer.map(|bearer| (bearer, common(bearer))) {
        Some((bearer, common)) if asked.is_empty() || !common.is_empty() => json!({
            "authenticated": true,
            "user": {"username": bearer.user},
            "audiences": common,
        }),
        Some(_) => json!({
            "authenticated": false,
            "error": "[invalid bearer token, token audiences are invalid for the target audiences]",
        }),
        None => json!({"authenticated": false, "error": "[invalid bearer token]"}),
    };
    let mut answered = review.clone();
    answered["status"] = status;
    Ok((StatusCode::CREATED, answered))
}

/// A list, as a whole or a page of it.
fn list(store: &Store, call: &Call) -> Answered {
    let selector = Selector::read(&call.options).map_err(Refusal::bad_request)?;
    let (version, start, objects) = snapshot(store, call)?;
    let mut rest: Vec<_> = objects
        .into_iter()
        .filter(|(path, object)| {
            start.as_deref().is_none_or(|start| path.as_str() > start) && selector.matches(object)
        })
        .collect();
    let mut metadata = Map::new();
    if call.kind.is_custom {
        metadata.insert("continue".to_owned(), json!(""));
    }
    let limit = call
        .options
        .number("limit")
        .and_then(|limit| usize::try_from(limit).ok());
    if let Some(limit) = limit.filter(|limit| (1..rest.len()).contains(limit)) {
        let left = rest.split_off(limit).len();
        let last = rest
            .last()
            .map(|(path, _)| path.as_str())
            .unwrap_or_default();
        metadata.insert(
            "continue".to_owned(),
            json!(token(&version.to_string(), last)),
        );
        if selector.is_everything() {
            metadata.insert("remainingItemCount".to_owned(), json!(left));
        }
    }
    metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
    let items: Vec<Value> = rest.iter().map(|(_, object)| item(call, object)).collect();
    let list = json!({
        "apiVersion": call.kind.api_version(),
        "kind": format!("{}List", call.kind.kind),
        "metadata": metadata,
        "items": items,
    });
    Ok((StatusCode::OK, list))
}

/// Lists of built-in kinds do not repeat `apiVersion` and `kind`.
fn item(call: &Call, object: &Value) -> Value {
    let mut item = object.clone();
    if !call.kind.is_custom
        && let Some(fields) = item.as_object_mut()
    {
        fields.shift_remove("apiVersion");
        fields.shift_remove("kind");
    }
    item
}

type Snapshot = (u64, Option<String>, Vec<(String, Arc<Value>)>);

/// The objects of the version a list is about, and after which path it begins.
///
/// Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
fn snapshot(store: &Store, call: &Call) -> Result<Snapshot, Refusal> {
    let options: &Options = &call.options;
    let namespace = call.namespace.as_deref();
    let now = || (store.revision(), store.list(&call.kind, namespace));
    if let Some(written) = options.get("continue") {
        let Some((version, start)) = read_token(written) else {
            return Err(Refusal::bad_request("continue key is not valid"));
        };
        let Ok(version) = version.parse::<u64>() else {
            let (revision, objects) = now();
            return Ok((revision, Some(start), objects));
        };
        let objects = store.list_at(&call.kind, namespace, version);
        let objects = objects.ok_or_else(|| Refusal::continue_too_old(token("-1", &start)))?;
        return Ok((version, Some(start), objects));
    }
    let asked = options.number("resourceVersion").unwrap_or(0);
    if asked > store.revision() {
        return Err(Refusal::version_too_large(asked, store.revision()));
    }
    if asked > 0 && options.get("resourceVersionMatch") == Some("Exact") {
        let objects = store.list_at(&call.kind, namespace, asked);
        let objects = objects.ok_or_else(Refusal::list_too_old)?;
        return Ok((asked, None, objects));
    }
    let (revision, objects) = now();
    Ok((revision, None, objects))
}

/// Where a list goes on: its version and the last path; opaque to clients, so it need not be Kubernetes' own form.
fn token(version: &str, path: &str) -> String {
    let hex: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{version}.{hex}")
}

fn read_token(token: &str) -> Option<(String, String)> {
    let (version, hex) = token.split_once('.')?;
    let digits: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    Some((version.to_owned(), String::from_utf8(digits?).ok()?))
}
