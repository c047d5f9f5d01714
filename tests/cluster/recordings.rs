//! The watch client against what a real API server sent, byte for byte and as it came: what it tells is what the
//! recordings say, as a few lines here read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;

use kube::{Api, Config, Resource};
use parkway_ingress::provider::kubernetes::objects::{
    ConfigMap, EndpointSlice, KIngress, Revision, Service,
};
use parkway_ingress::provider::kubernetes::pods::objects::Pod;
use parkway_ingress::provider::kubernetes::watch::{Change, Key, Watch, WatchState};
use parkway_ingress::provider::kubernetes::{WatchHealth, client};
use parkway_tests::api::replay::{Pace, Recording, Replay};
use parkway_tests::eventually;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The version of each object there is.
type Table = BTreeMap<String, String>;

/// Requests of the watch client.
const LIST: &str = "limit=500";
const WATCH: &str = "watch=true";

/// Long recordings in a second or three; what belongs together comes together.
const PACE: Pace = Pace::Faster(60.0);

fn recording(name: &str) -> Recording {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/watch");
    Recording::read(&folder.join(format!("{name}.http")))
}

/// The content of a recorded response (RFC 9112, section 7.1).
fn content(recording: &Recording) -> Vec<u8> {
    let bytes = recording.bytes();
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut rest = &bytes[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return rest.to_vec();
    }
    let mut content = Vec::new();
    loop {
        let line = rest.windows(2).position(|end| end == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

fn name_and_version(object: &Value) -> (String, String) {
    let of = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (
        format!("{}/{}", of("namespace"), of("name")),
        of("resourceVersion"),
    )
}

/// What a list said.
fn listed(recording: &Recording) -> Table {
    let list: Value = serde_json::from_slice(&content(recording)).unwrap();
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(name_and_version)
        .collect()
}

/// What there was after a watch, and the last version that it told.
fn after(recording: &Recording, mut table: Table) -> (Table, String) {
    let mut last = String::new();
    let content = content(recording);
    for line in content.split(|byte| *byte == b'\n') {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        let (name, version) = name_and_version(&event["object"]);
        match event["type"].as_str().unwrap() {
            "ADDED" | "MODIFIED" => drop(table.insert(name, version.clone())),
            "DELETED" => drop(table.remove(&name)),
            "BOOKMARK" => {}
            other => panic!("{other}"),
        }
        last = version;
    }
    (table, last)
}

/// A watch client at work.
struct Following {
    replay: Replay,
    changes: mpsc::Receiver<Change<(Key, String)>>,
    health: WatchHealth,
    running: JoinHandle<()>,
    table: Table,
    lists: usize,
}

impl Following {
    fn start<K>(replay: Replay) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let client = client::of(Config::new(replay.url().parse().unwrap())).unwrap();
        let (news, changes) = mpsc::channel(4);
        let health = WatchHealth::default();
        let watch: Watch<K, (Key, String), Change<(Key, String)>> = Watch {
            kind: "kind",
            api: Api::all(client),
            labels: String::new(),
            fields: String::new(),
            keep: Box::new(|object| {
                let version = object.meta().resource_version.clone();
                Some((Key::of(&object), version.unwrap_or_default()))
            }),
            wrap: Box::new(|change| change),
            news,
            health: health.clone(),
        };
        Self {
            replay,
            changes,
            health,
            running: tokio::spawn(watch.run()),
            table: Table::new(),
            lists: 0,
        }
    }

    /// Takes in what is told until so many requests were sent: the one before the last has been worked off then.
    async fn until_requests(&mut self, count: usize) -> &Table {
        eventually(format!("{count} requests"), async || {
            let is_there = self.replay.lines().len() >= count;
            while let Ok(change) = self.changes.try_recv() {
                match change {
                    Change::All(all) => {
                        self.lists += 1;
                        self.table = all.into_iter().map(told).collect();
                    }
                    Change::Set(object) => {
                        let (name, version) = told(object);
                        self.table.insert(name, version);
                    }
                    Change::Gone(key) => drop(self.table.remove(&key.to_string())),
                }
            }
            is_there.then_some(())
        })
        .await;
        &self.table
    }

    fn state(&self) -> WatchState {
        self.health.state()["kind"].clone()
    }

    /// The request of this number, from 0.
    fn line(&self, number: usize) -> String {
        self.replay.lines()[number].clone()
    }

    async fn failing(&self) -> String {
        eventually("the watch to say that it fails", async || {
            self.health.state().get("kind")?.failing.clone()
        })
        .await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn told((key, version): (Key, String)) -> (String, String) {
    (key.to_string(), version)
}

/// After an empty list, this watch; then what there is and where the next watch begins is as recorded.
async fn assert_followed<K>(name: &str, pace: Pace)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = recording(name);
    let replay = Replay::start()
        .await
        .once(LIST, &recording("ingresses.list-empty"), Pace::Immediate)
        .once(WATCH, &watch, pace);
    let mut following = Following::start::<K>(replay);

    let (expected, last) = after(&watch, Table::new());
    assert!(!last.is_empty(), "{name} tells something");
    assert_eq!(*following.until_requests(3).await, expected, "{name}");
    let next = following.line(2);
    assert!(
        next.contains(&format!("resourceVersion={last}")),
        "{name}: not after {last}: {next}"
    );
    assert_eq!(following.lists, 1, "{name}: nothing had to be listed anew");
}

#[tokio::test]
async fn long_watch_of_kingresses_tells_what_was_recorded() {
    assert_followed::<KIngress>("ingresses.watch", PACE).await;
}

#[tokio::test]
async fn storm_of_kingresses_under_the_conformance_suite_tells_what_was_recorded() {
    assert_followed::<KIngress>("conformance-ingresses.watch", PACE).await;
}

#[tokio::test]
async fn storm_of_slices_under_the_conformance_suite_tells_what_was_recorded() {
    assert_followed::<EndpointSlice>("conformance-endpointslices.watch", PACE).await;
}

#[tokio::test]
async fn watches_of_the_other_kinds_tell_what_was_recorded() {
    tokio::join!(
        assert_followed::<Service>("services.watch", PACE),
        assert_followed::<Revision>("revisions.watch", PACE),
        assert_followed::<ConfigMap>("configmaps.watch", PACE),
        assert_followed::<Pod>("pods.watch", PACE),
    );
}

#[tokio::test]
async fn watches_that_begin_with_what_there_is_tell_it() {
    tokio::join!(
        assert_followed::<KIngress>("ingresses.watch-initial-events", Pace::Faster(4.0)),
        assert_followed::<KIngress>("ingresses.watch-rv0", Pace::Recorded),
        assert_followed::<KIngress>("ingresses.watch-labelselector", Pace::Recorded),
    );
}

#[tokio::test]
async fn watch_goes_on_from_the_list_and_over_the_servers_own_timeout() {
    let (list, watch) = (
        recording("ingresses.list"),
        recording("ingresses.watch-timeout-with-bookmark"),
    );
    let replay = Replay::start()
        .await
        .once(LIST, &list, Pace::Immediate)
        .once(WATCH, &watch, Pace::Faster(4.0));
    let mut following = Following::start::<KIngress>(replay);

    let (expected, last) = after(&watch, listed(&list));
    assert_eq!(*following.until_requests(3).await, expected);

    let of_list = serde_json::from_slice::<Value>(&content(&list)).unwrap();
    let version = of_list["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(
        following
            .line(1)
            .contains(&format!("resourceVersion={version}"))
    );
    assert!(
        following
            .line(2)
            .contains(&format!("resourceVersion={last}"))
    );
    assert!(following.line(1).contains("allowWatchBookmarks=true"));
    // The watch after that finds nobody, which is all that ever went wrong.
    assert!(following.failing().await.contains("404"));
}

#[tokio::test]
async fn list_in_pages_is_told_as_one() {
    let pages = [recording("ingresses.page1"), recording("ingresses.page2")];
    let token = |page: &Recording| {
        let list: Value = serde_json::from_slice(&content(page)).unwrap();
        list["metadata"]["continue"].as_str().unwrap().to_owned()
    };
    // The second page of the recording is not the last: the rest is one that was taken over.
    let rest = recording("ingresses.list-empty");
    let replay = Replay::start()
        .await
        .once(
            &format!("continue={}", token(&pages[1])),
            &rest,
            Pace::Immediate,
        )
        .once(
            &format!("continue={}", token(&pages[0])),
            &pages[1],
            Pace::Immediate,
        )
        .once(LIST, &pages[0], Pace::Immediate);
    let mut following = Following::start::<KIngress>(replay);

    let mut expected = listed(&pages[0]);
    let second = listed(&pages[1]);
    assert_eq!((expected.len(), second.len()), (3, 3));
    expected.extend(second);
    assert_eq!(*following.until_requests(4).await, expected);
    assert_eq!(following.lists, 1);
}

#[tokio::test]
async fn list_whose_rest_has_expired_is_asked_for_anew_and_never_told_in_part() {
    let (first, whole) = (recording("ingresses.page1"), recording("ingresses.list"));
    let replay = Replay::start()
        .await
        .once(
            "continue=",
            &recording("ingresses.list-expired-continue"),
            Pace::Immediate,
        )
        .once(LIST, &first, Pace::Immediate)
        .once(LIST, &whole, Pace::Immediate);
    let mut following = Following::start::<KIngress>(replay);

    assert!(following.until_requests(2).await.is_empty());
    assert_eq!(*following.until_requests(4).await, listed(&whole));
    assert_eq!(following.lists, 1, "what a list began is not told");
    assert!(!following.line(2).contains("continue="));
}

/// A list, then a watch that is answered by this; then another list, which is all there is.
async fn assert_listed_anew_after(watch: &str) {
    let (before, now) = (
        recording("ingresses.list"),
        recording("ingresses.page1"), // its other pages are the empty ones
    );
    let mut expected = listed(&before);
    let gone: BTreeSet<String> = expected.keys().cloned().collect();
    let replay = Replay::start()
        .await
        .once(
            "continue=",
            &recording("ingresses.list-empty"),
            Pace::Immediate,
        )
        .once(LIST, &before, Pace::Immediate)
        .once(WATCH, &recording(watch), Pace::Recorded)
        .once(LIST, &now, Pace::Immediate);
    let mut following = Following::start::<KIngress>(replay);

    assert_eq!(*following.until_requests(2).await, expected, "{watch}");
    expected = listed(&now);
    assert_eq!(*following.until_requests(5).await, expected, "{watch}");
    assert!(gone.len() > expected.len(), "something has gone meanwhile");
    assert_eq!(following.lists, 2);
}

#[tokio::test]
async fn version_that_is_gone_is_listed_anew_in_each_recorded_form() {
    tokio::join!(
        assert_listed_anew_after("ingresses.watch-rv-evicted"),
        assert_listed_anew_after("ingresses.watch-rv-too-old"),
        // As an answer instead of an event: some servers and proxies say so at once.
        assert_listed_anew_after("ingresses.list-rv-compacted-exact"),
        // A server that was restored from a backup has never heard of our version.
        assert_listed_anew_after("ingresses.list-rv-too-large"),
    );
}

/// A list that is refused like this keeps everything as it is, is seen, and is asked for again.
async fn assert_refusal_is_outlasted(refusal: &str, said: &str) {
    let list = recording("ingresses.list");
    let replay = Replay::start()
        .await
        .once(LIST, &recording(refusal), Pace::Immediate)
        .once(LIST, &list, Pace::Immediate);
    let mut following = Following::start::<KIngress>(replay);

    let failing = following.failing().await;
    assert!(failing.contains(said), "{refusal}: {failing}");
    assert!(!following.state().is_synced, "{refusal}: nothing is known");
    assert!(following.table.is_empty());
    assert_eq!(
        *following.until_requests(3).await,
        listed(&list),
        "{refusal}"
    );
    assert!(following.state().is_synced);
    assert_eq!(following.lists, 1);
}

#[tokio::test]
async fn refusals_are_said_and_outlasted() {
    tokio::join!(
        assert_refusal_is_outlasted("serviceaccount-forbidden", "forbidden"),
        assert_refusal_is_outlasted("anonymous-forbidden", "forbidden"),
        assert_refusal_is_outlasted("bad-token-unauthorized", "Unauthorized"),
        assert_refusal_is_outlasted("unknown-resource", "404"),
        assert_refusal_is_outlasted("ingresses.list-rv-compacted-exact", "too old"),
        assert_refusal_is_outlasted("ingresses.list-rv-too-large", "Too large resource version"),
    );
}

#[tokio::test]
async fn what_was_known_stays_while_watching_is_refused() {
    let list = recording("ingresses.list");
    let forbidden = recording("serviceaccount-forbidden");
    let more = recording("ingresses.watch-labelselector");
    let replay = Replay::start()
        .await
        .once(LIST, &list, Pace::Immediate)
        .once(WATCH, &forbidden, Pace::Immediate)
        .once(WATCH, &recording("bad-token-unauthorized"), Pace::Immediate)
        .once(WATCH, &more, Pace::Immediate);
    let mut following = Following::start::<KIngress>(replay);

    assert_eq!(*following.until_requests(3).await, listed(&list));
    let (expected, _) = after(&more, listed(&list));
    assert_eq!(*following.until_requests(5).await, expected);
    assert_eq!(following.lists, 1, "the place was not lost");
}
