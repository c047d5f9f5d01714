//! Statuses as the double of the API server gets them, in memory and on a paused clock.

mod faults;
mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use kube::Config;
use parkway_tests::api::{ApiDouble, Which};
use parkway_tests::{eventually, patiently};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::Replica;
use super::super::applied::{AppliedLog, Step};
use super::super::peers::auth::PeerAuth;
use super::super::peers::{confirm, serve_peers};
use super::*;

const CLASS: &str = "parkway.ingress.networking.knative.dev";
/// How much later than the API the provider knows.
const LAG: Duration = Duration::from_millis(5);

fn settings() -> Settings {
    let entrances = Entrances::of(
        "knative-serving",
        "parkway",
        "parkway-internal",
        "cluster.local",
    );
    Settings::new(CLASS, entrances)
}

fn ingress(name: &str) -> Value {
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": name,
            "annotations": {"networking.knative.dev/ingress.class": CLASS},
        },
        "spec": {"httpOption": "Enabled", "rules": []},
    })
}

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn replica(last: u8) -> Replica {
    Replica {
        address: IpAddr::from([127, 0, 0, last]),
        pod: format!("gateway-{last}").into(),
    }
}

fn status_writes() -> Which {
    Which::any()
        .verb("update")
        .plural("ingresses")
        .subresource("status")
}

/// What a provider would tell of an object; no outcome is said otherwise: its rules are in effect here.
fn object(object: &Value, outcomes: &HashMap<String, Outcome>) -> IngressObject {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let outcome = outcomes.get(text("/metadata/name")).cloned();
    IngressObject {
        key: Key::new(text("/metadata/namespace"), text("/metadata/name")),
        uid: text("/metadata/uid").into(),
        generation: object["metadata"]["generation"].as_i64().unwrap(),
        resource_version: text("/metadata/resourceVersion").into(),
        status: object["status"].clone(),
        outcome: outcome.unwrap_or(Outcome::Programmed),
    }
}

/// A board that is fed from the double, and a writer.
struct Running {
    api: Arc<ApiDouble>,
    board: StatusBoard,
    confirmations: Confirmations,
    outcomes: Arc<Outcomes>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Running {
    fn new() -> Self {
        Self::led_by(Leadership::always())
    }

    /// In memory, with two replicas that tell nothing by themselves.
    fn led_by(leadership: Leadership) -> Self {
        let api = Arc::new(ApiDouble::in_memory());
        let board = StatusBoard::new(settings());
        let confirmations = Confirmations::by_hand(&[replica(1), replica(2)]);
        let client = Client::new(api.router(), "default");
        let write = board.write(client, leadership, confirmations.clone());
        let outcomes: Arc<Outcomes> = Arc::default();
        let feed = feed(Arc::clone(&api), board.clone(), Arc::clone(&outcomes));
        Self {
            tasks: vec![tokio::spawn(write), tokio::spawn(feed)],
            api,
            board,
            confirmations,
            outcomes,
        }
    }

    fn create(&self, name: &str) {
        self.api.put(ingress(name));
    }

    fn edit(&self, name: &str, patch: Value) {
        self.api.edit("ingresses", "shop", name, patch);
    }

    fn outcome(&self, name: &str, outcome: Outcome) {
        self.outcomes
            .by_name
            .lock()
            .insert(name.to_owned(), outcome);
        self.outcomes.changed.notify_one();
    }

    fn applied(&self, name: &str, generation: i64) {
        for last in [1, 2] {
            self.confirmations
                .tell(&replica(last), &[(name, generation)]);
        }
    }

    fn get(&self, name: &str) -> Value {
        self.api.get("ingresses", "shop", name).expect("an Ingress")
    }

    fn status(&self, name: &str) -> IngressStatus {
        IngressStatus::read(self.get(name)["status"].take())
    }

    /// Status and reason of Ready, and the generation it is about.
    fn ready(&self, name: &str) -> (String, String, i64) {
        let status = self.status(name);
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.kind == "Ready");
        let ready = ready.cloned().unwrap_or_default();
        (ready.status, ready.reason, status.observed_generation)
    }

    fn message(&self, name: &str) -> String {
        let status = self.status(name);
        let ready = status
            .conditions
            .into_iter()
            .find(|condition| condition.kind == "Ready");
        ready.unwrap_or_default().message
    }

    fn is_ready(&self, name: &str, generation: i64) -> bool {
        self.status(name)
            .is_ready_at(generation, &settings().entrances)
    }

    fn writes(&self) -> usize {
        self.api.count(&status_writes())
    }
}

/// Tells the board what has changed in the double, a little later, as a watch would.
async fn feed(api: Arc<ApiDouble>, board: StatusBoard, outcomes: Arc<Outcomes>) {
    let mut seen: BTreeMap<Key, IngressObject> = BTreeMap::new();
    let mut version = 0;
    loop {
        tokio::select! {
            now = api.changed_since(version) => version = now,
            () = outcomes.changed.notified() => {}
        }
        sleep(LAG).await;
        let outcomes = outcomes.by_name.lock().clone();
        let objects: Vec<IngressObject> = api
            .list("ingresses")
            .iter()
            .map(|one| object(one, &outcomes))
            .collect();
        let there: Vec<Key> = objects.iter().map(|one| one.key.clone()).collect();
        seen.retain(|key, _| {
            let stays = there.contains(key);
            if !stays {
                board.gone(key);
            }
            stays
        });
        for object in objects {
            if seen.get(&object.key) != Some(&object) {
                seen.insert(object.key.clone(), object.clone());
                board.seen(object);
            }
        }
    }
}

/// What becomes of KIngresses here, by name.
#[derive(Default)]
struct Outcomes {
    by_name: Mutex<HashMap<String, Outcome>>,
    changed: Notify,
}

fn told(status: &str, reason: &str, generation: i64) -> (String, String, i64) {
    (status.to_owned(), reason.to_owned(), generation)
}

const SOON: Duration = Duration::from_millis(400);

#[tokio::test(start_paused = true)]
async fn what_is_in_effect_at_once_is_written_once() {
    let running = Running::new();
    let before = running.api.put(ingress("a"));
    running.applied("a", 1);
    sleep(GRACE / 2).await;
    assert!(running.is_ready("a", 1));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.writes(), 1);
    assert_eq!(
        running.board.counts(),
        StatusCounts {
            writes: 1,
            known: 1,
            ..StatusCounts::default()
        }
    );
    // Nothing but the status is different.
    let mut after = running.get("a");
    after["status"].take();
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    let mut before = before;
    before["status"].take();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_effect_everywhere_waits_and_is_ready_when_the_last_has_it() {
    let running = Running::new();
    running.create("a");
    running.confirmations.tell(&replica(1), &[("a", 1)]);
    sleep(SOON).await;
    assert_eq!(running.ready("a"), told("Unknown", "Uninitialized", 1));
    assert_eq!(
        running.message("a"),
        "Waiting for load balancer to be ready"
    );
    assert_eq!(running.status("a").public_load_balancer, None);
    running.confirmations.tell(&replica(2), &[("a", 1)]);
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    assert_eq!(running.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_is_ready_when_all_have_it() {
    let running = Running::new();
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    for generation in 2..5 {
        running.edit("a", json!({"spec": {"httpOption": generation.to_string()}}));
        sleep(SOON).await;
        assert_eq!(
            running.ready("a"),
            told("Unknown", "Uninitialized", generation)
        );
        running.applied("a", generation);
        sleep(SOON).await;
        assert!(running.is_ready("a", generation));
    }
    assert_eq!(running.writes(), 1 + 2 * 3);
    assert_eq!(running.board.counts().conflicts, 0);
}

#[tokio::test(start_paused = true)]
async fn ready_is_not_taken_back_when_a_replica_comes() {
    let running = Running::new();
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    running
        .confirmations
        .set_replicas([replica(1), replica(2), replica(3)]);
    running.edit("a", json!({"metadata": {"labels": {"x": "y"}}}));
    sleep(Duration::from_secs(60)).await;
    assert!(running.is_ready("a", 1));
    assert_eq!(running.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_and_one_that_lags_are_named() {
    let running = Running::new();
    running.create("a");
    for _ in 0..9 {
        sleep(Duration::from_secs(1)).await;
        running.confirmations.tell(&replica(1), &[]);
        running.confirmations.look();
    }
    assert_eq!(
        running.message("a"),
        "Waiting for load balancer to be ready"
    );
    for _ in 0..3 {
        sleep(Duration::from_secs(1)).await;
        running.confirmations.tell(&replica(1), &[]);
        running.confirmations.look();
    }
    sleep(SOON).await;
    let expected = "Waiting for load balancer to be ready: no answer for 10s from gateway-2; not in effect at gateway-1";
    assert_eq!(running.message("a"), expected);
    assert_eq!(&*running.board.waiting(9)[0].why, expected);
    // It leaves: nobody waits for it.
    running.confirmations.tell(&replica(1), &[("a", 1)]);
    running.confirmations.set_replicas([replica(1)]);
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    assert_eq!(running.board.waiting(9), []);
}

#[tokio::test(start_paused = true)]
async fn without_a_ready_replica_nothing_is_ready() {
    let running = Running::new();
    running.confirmations.set_replicas([]);
    running.create("a");
    sleep(Duration::from_secs(11)).await;
    assert_eq!(running.ready("a"), told("Unknown", "Uninitialized", 1));
    assert_eq!(
        running.message("a"),
        "Waiting for load balancer to be ready: no replica of the gateway is ready"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_or_waits_says_why_and_recovers() {
    let running = Running::new();
    let refused = Outcome::Refused {
        reason: "DomainConflict",
        message: "duplicate domain: a.example.com".to_owned(),
    };
    let waiting = Outcome::Waiting {
        reason: "ReconcileIngressFailed",
        message: "secret \"x\" not found".to_owned(),
    };
    running.outcome("refused", refused);
    running.outcome("waiting", waiting);
    running.create("refused");
    running.create("waiting");
    sleep(SOON).await;
    assert_eq!(running.ready("refused"), told("False", "DomainConflict", 1));
    assert_eq!(
        running.message("refused"),
        "Ingress rejected: duplicate domain: a.example.com"
    );
    assert_eq!(
        running.ready("waiting"),
        told("Unknown", "ReconcileIngressFailed", 1)
    );
    assert_eq!(running.message("waiting"), "secret \"x\" not found");
    assert_eq!(running.board.counts().unsettled, 0);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(running.writes(), 2);

    for name in ["refused", "waiting"] {
        running.outcome(name, Outcome::Programmed);
        running.applied(name, 1);
    }
    sleep(SOON).await;
    assert!(running.is_ready("refused", 1) && running.is_ready("waiting", 1));
    assert_eq!(running.writes(), 4);
}

#[tokio::test(start_paused = true)]
async fn only_who_leads_writes() {
    let (lead, leadership) = Leadership::by_hand();
    let running = Running::led_by(leadership);
    running.create("a");
    running.applied("a", 1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(running.writes(), 0);
    lead(true);
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    lead(false);
    running.create("b");
    running.applied("b", 1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(running.writes(), 1);
    lead(true);
    sleep(SOON).await;
    assert!(running.is_ready("b", 1));
    assert_eq!(running.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_changes_is_written_again() {
    let running = Running::new();
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    running.edit(
        "a",
        json!({"status": {"observedGeneration": 0, "conditions": null}}),
    );
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    assert_eq!(running.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_written_at_once_than_the_bound() {
    let running = Running::new();
    running
        .api
        .delay(status_writes(), u32::MAX, Duration::from_secs(1));
    for n in 0..50 {
        running.create(&n.to_string());
        running.applied(&n.to_string(), 1);
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(running.writes(), WRITES_AT_ONCE);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.writes(), WRITES_AT_ONCE * 2);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(running.board.counts().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_keeps_no_status() {
    let running = Running::new();
    for n in 0..100 {
        running.create(&n.to_string());
        running.applied(&n.to_string(), 1);
    }
    sleep(Duration::from_secs(1)).await;
    let board = running.board.0.board.lock();
    assert_eq!(board.sizes(), (100, 0));
    assert_eq!(board.open(), 0);
}
