//! The double's own promises, over sockets and without.

mod befalls;
mod watches;

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::replay::{Pace, Recording, Replay};
use super::{ApiDouble, Kind, Which};
use crate::{Answer, PATIENCE, Site, eventually, patiently};

const INGRESSES: &str = "/apis/networking.internal.knative.dev/v1alpha1/namespaces/shop/ingresses";
const ALL_INGRESSES: &str = "/apis/networking.internal.knative.dev/v1alpha1/ingresses";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";
const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";

fn ingress(name: &str) -> Value {
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"httpOption": "Enabled"},
    })
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": data})
}

fn site(api: &ApiDouble) -> Site {
    Site::new(api.address(), "api")
}

async fn ask(api: &ApiDouble, method: Method, path: &str, body: &Value) -> Answer {
    ask_as(api, method, path, "application/json", body).await
}

async fn ask_as(
    api: &ApiDouble,
    method: Method,
    path: &str,
    media_type: &str,
    body: &Value,
) -> Answer {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", media_type)
        .body(body)
        .unwrap();
    site(api).send(request).await
}

async fn get(api: &ApiDouble, path: &str) -> Answer {
    ask(api, Method::GET, path, &Value::Null).await
}

/// The lines of a running watch.
struct Lines {
    response: Response<Incoming>,
    read: BytesMut,
    _connection: crate::http1::Http1,
}

impl Lines {
    async fn of(api: &ApiDouble, path: &str) -> Self {
        let mut connection = site(api).http1().await;
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let response = connection.begin(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            response,
            read: BytesMut::new(),
            _connection: connection,
        }
    }

    /// The next event; none when the watch ended, an error when it broke off.
    async fn next(&mut self) -> Result<Option<Value>, hyper::Error> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line).unwrap()));
            }
            let frame = patiently("an event", self.response.body_mut().frame()).await;
            match frame.transpose()? {
                Some(frame) => self.read.extend_from_slice(frame.data_ref().unwrap()),
                None => return Ok(None),
            }
        }
    }

    /// Kind of event and name of object of the next event.
    async fn told(&mut self) -> (String, String) {
        let event = self.next().await.unwrap().expect("an event");
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        (text("/type"), text("/object/metadata/name"))
    }
}

fn told(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

#[tokio::test]
async fn objects_are_created_read_and_deleted() {
    let api = ApiDouble::start();
    let created = ask(&api, Method::POST, INGRESSES, &ingress("a"))
        .await
        .expect(201)
        .json();
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["metadata"]["uid"].is_string());

    let read = get(&api, &format!("{INGRESSES}/a"))
        .await
        .expect(200)
        .json();
    assert_eq!(read, created);
    ask(&api, Method::POST, INGRESSES, &ingress("a"))
        .await
        .expect(409);
    ask(
        &api,
        Method::DELETE,
        &format!("{INGRESSES}/a"),
        &Value::Null,
    )
    .await
    .expect(200);
    get(&api, &format!("{INGRESSES}/a")).await.expect(404);
}

#[tokio::test]
async fn refusals_read_as_the_recorded_ones() {
    let api = ApiDouble::start();
    let missing = get(&api, &format!("{INGRESSES}/does-not-exist"))
        .await
        .expect(404)
        .json();
    let expected = json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"ingresses.networking.internal.knative.dev \"does-not-exist\" not found","reason":"NotFound","details":{"name":"does-not-exist","group":"networking.internal.knative.dev","kind":"ingresses"},"code":404});
    assert_eq!(missing, expected);

    let unknown = get(&api, "/apis/example.com/v1/things").await.expect(404);
    assert_eq!(unknown.text(), "404 page not found\n");

    let future = get(&api, &format!("{ALL_INGRESSES}?resourceVersion=999999999"))
        .await
        .expect(504);
    assert_eq!(future.header("retry-after"), Some("1"));
    assert_eq!(
        future.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );

    api.refuse(Which::lists("ingresses"), 1, 403);
    let forbidden = get(&api, INGRESSES).await.expect(403).json();
    assert_eq!(
        forbidden["message"],
        "ingresses.networking.internal.knative.dev is forbidden: User \"system:anonymous\" cannot list resource \"ingresses\" in API group \"networking.internal.knative.dev\" in the namespace \"shop\""
    );
    get(&api, INGRESSES).await.expect(200);
}

#[tokio::test]
async fn an_update_of_an_older_version_is_a_conflict() {
    let api = ApiDouble::start();
    let first = api.put(ingress("a"));
    let mut second = first.clone();
    second["spec"]["httpOption"] = json!("Redirected");
    let path = format!("{INGRESSES}/a");
    let updated = ask(&api, Method::PUT, &path, &second)
        .await
        .expect(200)
        .json();
    assert_eq!(updated["metadata"]["generation"], 2);

    let refused = ask(&api, Method::PUT, &path, &first)
        .await
        .expect(409)
        .json();
    assert_eq!(refused["reason"], "Conflict");
    let mut blind = updated.clone();
    blind["metadata"]["resourceVersion"] = json!("");
    ask(&api, Method::PUT, &path, &blind).await.expect(422);
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_change() {
    let api = ApiDouble::start();
    let stored = api.put(ingress("a"));
    let updated = ask(&api, Method::PUT, &format!("{INGRESSES}/a"), &stored)
        .await
        .expect(200)
        .json();
    assert_eq!(updated, stored);
    assert_eq!(
        api.version().to_string(),
        stored["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn status_is_written_through_its_subresource_only() {
    let api = ApiDouble::start();
    let mut stored = api.put(ingress("a"));
    let path = format!("{INGRESSES}/a");
    stored["status"] = json!({"observedGeneration": 1});
    let main = ask(&api, Method::PUT, &path, &stored)
        .await
        .expect(200)
        .json();
    assert_eq!(main["status"], Value::Null);

    let mut changed = stored.clone();
    changed["spec"] = json!({"httpOption": "ignored"});
    let status = ask(&api, Method::PUT, &format!("{path}/status"), &changed)
        .await
        .expect(200)
        .json();
    assert_eq!(status["status"], json!({"observedGeneration": 1}));
    assert_eq!(status["spec"], json!({"httpOption": "Enabled"}));
    assert_eq!(status["metadata"]["generation"], 1);

    let patch = json!({"status": {"observedGeneration": 2}, "spec": null});
    let media_type = "application/merge-patch+json";
    let patched = ask_as(
        &api,
        Method::PATCH,
        &format!("{path}/status"),
        media_type,
        &patch,
    )
    .await;
    let patched = patched.expect(200).json();
    assert_eq!(patched["status"], json!({"observedGeneration": 2}));
    assert_eq!(patched["spec"], json!({"httpOption": "Enabled"}));
    // A ConfigMap has none.
    api.put(config_map("c", &json!({})));
    ask(
        &api,
        Method::PUT,
        &format!("{CONFIG_MAPS}/c/status"),
        &json!({}),
    )
    .await
    .expect(404);
}

#[tokio::test]
async fn a_status_may_be_written_without_repeating_the_rest() {
    let api = ApiDouble::start();
    let stored = api.put(ingress("a"));
    let bare = json!({
        "apiVersion": stored["apiVersion"],
        "kind": stored["kind"],
        "metadata": {"name": "a", "namespace": "shop", "resourceVersion": stored["metadata"]["resourceVersion"]},
        "status": {"observedGeneration": 1},
    });
    let written = ask(&api, Method::PUT, &format!("{INGRESSES}/a/status"), &bare)
        .await
        .expect(200)
        .json();
    assert_eq!(written["spec"], stored["spec"]);
    assert_eq!(written["metadata"]["labels"], stored["metadata"]["labels"]);
}

#[tokio::test]
async fn an_object_with_finalizers_is_marked_and_goes_with_the_last() {
    let api = ApiDouble::start();
    let mut object = ingress("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.put(object);
    let path = format!("{INGRESSES}/a");
    let mut marked = ask(&api, Method::DELETE, &path, &Value::Null)
        .await
        .expect(200)
        .json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["generation"], 2);

    marked["metadata"]["finalizers"] = json!([]);
    ask(&api, Method::PUT, &path, &marked).await.expect(200);
    get(&api, &path).await.expect(404);
}

#[tokio::test]
async fn leases_are_created_and_updated_with_their_version() {
    let api = ApiDouble::start();
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "one"}});
    let mut created = ask(&api, Method::POST, LEASES, &lease)
        .await
        .expect(201)
        .json();
    assert_eq!(created["metadata"]["generation"], Value::Null);
    created["spec"]["holderIdentity"] = json!("two");
    let path = format!("{LEASES}/l");
    ask(&api, Method::PUT, &path, &created).await.expect(200);
    ask(&api, Method::PUT, &path, &created).await.expect(409);
}

/// Asks without sockets, for tests of time.
async fn in_memory(api: &ApiDouble, path: &str) -> Response<axum::body::Body> {
    let (head, ()) = Request::get(path).body(()).unwrap().into_parts();
    super::answer::answer(&api.shared, u64::MAX, head, Bytes::new()).await
}

#[tokio::test(start_paused = true)]
async fn the_time_of_objects_goes_with_the_clock() {
    let api = ApiDouble::in_memory();
    tokio::time::advance(Duration::from_secs(61)).await;
    let stored = api.put(ingress("a"));
    assert_eq!(
        stored["metadata"]["creationTimestamp"],
        "2026-11-22T12:01:01Z"
    );
}

#[tokio::test]
async fn requests_without_an_admitted_token_are_unauthorized() {
    let api = ApiDouble::start();
    api.admit("good");
    let unauthorized = get(&api, ALL_INGRESSES).await.expect(401).json();
    assert_eq!(
        unauthorized,
        json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401})
    );
    let request = || {
        let request = Request::get(ALL_INGRESSES).header("Authorization", "Bearer good");
        request.body(Bytes::new()).unwrap()
    };
    site(&api).send(request()).await.expect(200);
    api.expire("good");
    site(&api).send(request()).await.expect(401);
}

#[tokio::test]
async fn token_reviews_know_whose_a_token_is_and_for_whom() {
    let api = ApiDouble::start();
    api.issue("t", "system:serviceaccount:a:b", &["peers"]);
    let review = async |token: &str, audience: &str| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [audience]}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        ask(&api, Method::POST, path, &body)
            .await
            .expect(201)
            .json()["status"]
            .clone()
    };
    let known = review("t", "peers").await;
    assert_eq!(
        known,
        json!({"authenticated": true, "user": {"username": "system:serviceaccount:a:b"}, "audiences": ["peers"]})
    );
    assert_eq!(review("t", "others").await["authenticated"], false);
    assert_eq!(review("x", "peers").await["authenticated"], false);
    assert_eq!(api.count(&Which::any().plural("tokenreviews")), 3);
}

#[tokio::test]
async fn applying_creates_changes_and_takes_back_what_is_left_out() {
    let api = ApiDouble::start();
    let path = |manager: &str, more: &str| format!("{CONFIG_MAPS}/c?fieldManager={manager}{more}");
    let apply = async |manager: &str, more: &str, data: Value| {
        let body = config_map("c", &data);
        ask_as(
            &api,
            Method::PATCH,
            &path(manager, more),
            "application/apply-patch+yaml",
            &body,
        )
        .await
    };
    apply("one", "", json!({"a": "1", "b": "1"}))
        .await
        .expect(201);
    apply("two", "", json!({"c": "2"})).await.expect(200);
    let after = apply("one", "", json!({"a": "1"})).await.expect(200).json();
    assert_eq!(after["data"], json!({"a": "1", "c": "2"}));

    let conflict = apply("two", "", json!({"a": "2", "c": "2"}))
        .await
        .expect(409)
        .json();
    assert_eq!(
        conflict["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    let forced = apply("two", "&force=true", json!({"a": "2"}))
        .await
        .expect(200)
        .json();
    assert_eq!(forced["data"], json!({"a": "2"}));
    let dry = apply("two", "&dryRun=All", json!({"z": "2"}))
        .await
        .expect(200)
        .json();
    assert_eq!(dry["data"], json!({"z": "2"}));
    assert_eq!(
        api.get("configmaps", "shop", "c").unwrap()["data"],
        json!({"a": "2"})
    );
}

#[tokio::test]
async fn further_kinds_are_served_and_discovered() {
    let api = ApiDouble::start();
    get(&api, "/apis/example.com/v1").await.expect(404);
    api.register(Kind::custom("example.com/v1", "Thing", "things"));
    api.put(json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}}));
    let listed = get(&api, "/apis/example.com/v1/things")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["items"][0]["metadata"]["namespace"], "default");
    let resources = get(&api, "/apis/example.com/v1").await.expect(200).json();
    assert_eq!(resources["resources"][1]["name"], "things/status");
}

#[tokio::test]
async fn fixtures_are_put_as_they_are() {
    let api = ApiDouble::start();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/serving/main/ingress");
    api.put_files(&folder);
    let read = get(
        &api,
        "/apis/networking.internal.knative.dev/v1alpha1/namespaces/fixtures/ingresses/split",
    )
    .await;
    let read = read.expect(200).json();
    assert_eq!(read["status"]["conditions"][2]["status"], "True");
    assert_ne!(read["metadata"]["resourceVersion"], "");
}
