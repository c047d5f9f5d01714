//! Lists and watches.

use super::*;

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
