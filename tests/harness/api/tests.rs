//! The double's own promises, over sockets and without.

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

#[tokio::test]
async fn a_list_comes_in_pages_of_one_version() {
    let api = ApiDouble::start();
    for name in ["a", "b", "c", "d"] {
        api.put(ingress(name));
    }
    let first = get(&api, &format!("{ALL_INGRESSES}?limit=3"))
        .await
        .expect(200)
        .json();
    let version = first["metadata"]["resourceVersion"].clone();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    api.delete("ingresses", "shop", "d");
    api.put(ingress("e"));

    let rest = first["metadata"]["continue"].as_str().unwrap();
    let second = get(&api, &format!("{ALL_INGRESSES}?limit=3&continue={rest}"))
        .await
        .expect(200)
        .json();
    assert_eq!(second["items"][0]["metadata"]["name"], "d");
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["metadata"]["resourceVersion"], version);
    assert_eq!(second["metadata"]["continue"], "");
}

#[tokio::test]
async fn a_page_whose_version_is_gone_is_offered_from_the_present() {
    let api = ApiDouble::start();
    for name in ["a", "b", "c"] {
        api.put(ingress(name));
    }
    let first = get(&api, &format!("{ALL_INGRESSES}?limit=1"))
        .await
        .expect(200)
        .json();
    let rest = first["metadata"]["continue"].as_str().unwrap().to_owned();
    api.put(ingress("d"));
    api.compact();
    let gone = get(&api, &format!("{ALL_INGRESSES}?continue={rest}"))
        .await
        .expect(410)
        .json();
    assert_eq!(gone["reason"], "Expired");

    let offer = gone["metadata"]["continue"].as_str().unwrap();
    let now = get(&api, &format!("{ALL_INGRESSES}?continue={offer}"))
        .await
        .expect(200)
        .json();
    let names: Vec<_> = now["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["b", "c", "d"]);
}

#[tokio::test]
async fn an_exact_version_is_listed_until_it_is_gone() {
    let api = ApiDouble::start();
    let first = api.put(ingress("a"));
    api.delete("ingresses", "shop", "a");
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{ALL_INGRESSES}?resourceVersion={version}&resourceVersionMatch=Exact");
    let then = get(&api, &path).await.expect(200).json();
    assert_eq!(then["items"][0], first);
    api.compact();
    let gone = get(&api, &path).await.expect(410).json();
    assert_eq!(
        gone["message"],
        "The resourceVersion for the provided list is too old."
    );
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_its_version() {
    let api = ApiDouble::start();
    api.put(ingress("before"));
    let mut lines = Lines::of(
        &api,
        &format!("{ALL_INGRESSES}?watch=1&resourceVersion={}", api.version()),
    )
    .await;
    api.put(ingress("a"));
    api.edit(
        "ingresses",
        "shop",
        "a",
        json!({"spec": {"httpOption": "Redirected"}}),
    );
    api.delete("ingresses", "shop", "a");
    assert_eq!(lines.told().await, told("ADDED", "a"));
    assert_eq!(lines.told().await, told("MODIFIED", "a"));
    let deleted = lines.next().await.unwrap().unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(
        deleted["object"]["metadata"]["resourceVersion"],
        api.version().to_string()
    );
}

#[tokio::test]
async fn a_watch_of_everything_begins_with_what_is_there() {
    let api = ApiDouble::start();
    api.put(ingress("a"));
    for start in ["", "&resourceVersion=0"] {
        let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=true{start}")).await;
        assert_eq!(lines.told().await, told("ADDED", "a"));
    }
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?{query}")).await;
    assert_eq!(lines.told().await, told("ADDED", "a"));
    let end = lines.next().await.unwrap().unwrap();
    let expected = json!({"type":"BOOKMARK","object":{"apiVersion":"networking.internal.knative.dev/v1alpha1","kind":"Ingress","metadata":{"annotations":{"k8s.io/initial-events-end":"true"},"resourceVersion":api.version().to_string()}}});
    assert_eq!(end, expected);
}

#[tokio::test]
async fn what_leaves_the_selection_is_told_as_deleted() {
    let api = ApiDouble::start();
    api.put(ingress("a"));
    let path = format!(
        "{ALL_INGRESSES}?watch=1&resourceVersion={}&labelSelector=app%3Da,!off",
        api.version()
    );
    let mut lines = Lines::of(&api, &path).await;
    api.edit(
        "ingresses",
        "shop",
        "a",
        json!({"metadata": {"labels": {"off": "1"}}}),
    );
    api.edit(
        "ingresses",
        "shop",
        "a",
        json!({"metadata": {"labels": {"off": null}}}),
    );
    api.put(ingress("b"));
    api.edit(
        "ingresses",
        "shop",
        "a",
        json!({"metadata": {"labels": {"x": "1"}}}),
    );
    assert_eq!(lines.told().await, told("DELETED", "a"));
    assert_eq!(lines.told().await, told("ADDED", "a"));
    assert_eq!(lines.told().await, told("MODIFIED", "a"));
}

#[tokio::test]
async fn a_watch_from_a_version_that_is_gone_is_told_so_and_ends() {
    let api = ApiDouble::start();
    api.put(ingress("a"));
    api.put(ingress("b"));
    api.compact();
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    let gone = lines.next().await.unwrap().unwrap();
    let expected = json!({"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (3)","reason":"Expired","code":410}});
    assert_eq!(gone, expected);
    assert_eq!(lines.next().await.unwrap(), None);
}

#[tokio::test]
async fn running_watches_are_cut_and_expired() {
    let api = ApiDouble::start();
    let mut cut = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.cut_watches();
    assert!(cut.next().await.is_err());
    let mut expired = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.expire_watches("services");
    api.put(ingress("a"));
    assert_eq!(expired.told().await, told("ADDED", "a"));
    api.expire_watches("ingresses");
    assert_eq!(expired.told().await, told("ERROR", ""));
    assert_eq!(expired.next().await.unwrap(), None);
}

#[tokio::test]
async fn events_are_lost_and_doubled() {
    let api = ApiDouble::start();
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    api.lose_events("ingresses", 1);
    api.double_events("ingresses", 1);
    api.put(ingress("a"));
    api.put(ingress("b"));
    api.put(ingress("c"));
    for name in ["b", "b", "c"] {
        assert_eq!(lines.told().await, told("ADDED", name));
    }
}

/// Asks without sockets, for tests of time.
async fn in_memory(api: &ApiDouble, path: &str) -> Response<axum::body::Body> {
    let (head, ()) = Request::get(path).body(()).unwrap().into_parts();
    super::answer::answer(&api.shared, u64::MAX, head, Bytes::new()).await
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let api = ApiDouble::in_memory();
    let started = tokio::time::Instant::now();
    let query = "watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=100";
    let mut body = in_memory(&api, &format!("{ALL_INGRESSES}?{query}"))
        .await
        .into_body();
    let mut times = Vec::new();
    while let Some(frame) = body.frame().await {
        let event: Value = serde_json::from_slice(frame.unwrap().data_ref().unwrap()).unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        times.push(started.elapsed().as_secs());
    }
    assert_eq!((times, started.elapsed().as_secs()), (vec![60, 98], 100));
}

#[tokio::test(start_paused = true)]
async fn delayed_and_ignored_requests_are_late_and_unanswered() {
    let api = ApiDouble::in_memory();
    let started = tokio::time::Instant::now();
    api.delay(Which::lists("ingresses"), 1, Duration::from_secs(7));
    in_memory(&api, ALL_INGRESSES).await;
    assert_eq!(started.elapsed(), Duration::from_secs(7));
    api.ignore(Which::lists("ingresses"), 1);
    let waited = timeout(Duration::from_secs(3600), in_memory(&api, ALL_INGRESSES)).await;
    assert!(waited.is_err());
    in_memory(&api, ALL_INGRESSES).await;
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
async fn a_refused_port_is_the_same_when_it_opens_again() {
    let api = ApiDouble::start();
    let mut lines = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    let address = api.address();
    api.refuse_connections();
    assert!(lines.next().await.is_err());
    let refused = async || tokio::net::TcpStream::connect(address).await.err();
    eventually("a refused connection", refused).await;
    api.accept_connections();
    get(&api, ALL_INGRESSES).await.expect(200);
    assert_eq!(api.address(), address);
}

#[tokio::test]
async fn silent_connections_stay_open_and_new_ones_work() {
    let api = ApiDouble::start();
    let mut watching = Lines::of(&api, &format!("{ALL_INGRESSES}?watch=1&resourceVersion=1")).await;
    let mut kept = site(&api).http1().await;
    let request = || Request::get(ALL_INGRESSES).body(Bytes::new()).unwrap();
    kept.send(request()).await.expect(200);
    api.fall_silent();
    api.put(ingress("a"));
    get(&api, ALL_INGRESSES).await.expect(200);

    // What must not come has no moment to wait for: it had as long as the new connection's whole answer.
    let moment = Duration::from_millis(50);
    assert!(timeout(moment, watching.next()).await.is_err());
    assert!(timeout(moment, kept.try_send(request())).await.is_err());
    assert!(!kept.is_closed());
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
async fn an_overtaken_write_meets_a_real_conflict() {
    let api = ApiDouble::start();
    let stored = api.put(ingress("a"));
    api.overtake(Which::any().verb("update"), 1);
    let path = format!("{INGRESSES}/a/status");
    ask(&api, Method::PUT, &path, &stored).await.expect(409);
    let newer = get(&api, &format!("{INGRESSES}/a"))
        .await
        .expect(200)
        .json();
    assert_eq!(newer["metadata"]["generation"], 1);
    ask(&api, Method::PUT, &path, &newer).await.expect(200);
    assert_eq!(
        api.requests()
            .iter()
            .map(|request| request.status)
            .collect::<Vec<_>>(),
        [409, 200, 200]
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
async fn the_default_list_of_a_built_in_kind_looks_as_recorded() {
    let api = ApiDouble::start();
    api.put(config_map("c", &json!({"k": "v"})));
    let list = get(&api, "/api/v1/configmaps").await.expect(200).json();
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0]["kind"], Value::Null);
    assert_eq!(
        list["metadata"],
        json!({"resourceVersion": api.version().to_string()})
    );
}

#[tokio::test]
async fn a_replayed_recording_comes_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("things.watch.http");
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    std::fs::write(&file, text).unwrap();
    let rows = format!("0\t20\t0.001\n20\t{}\t0.050\n", text.len() - 20);
    std::fs::write(folder.path().join("things.watch.timing.tsv"), rows).unwrap();
    let recording = Recording::read(&file);
    assert_eq!(recording.duration(), Duration::from_millis(50));

    let replay = Replay::start().await;
    let replay = replay
        .once("things?watch", &recording, Pace::Faster(5.0))
        .always("things", &recording, Pace::Immediate);
    let address = replay.url().trim_start_matches("http://").parse().unwrap();
    for _ in 0..2 {
        let mut raw = crate::Raw::connect(address).await;
        raw.send(b"GET /things?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let read = timeout(PATIENCE, raw.rest()).await.unwrap();
        assert_eq!(read, text);
    }
    assert_eq!(replay.lines().len(), 2);
    let missing = Site::new(address, "a").get("/other").await;
    assert_eq!(missing.status, 404);
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
