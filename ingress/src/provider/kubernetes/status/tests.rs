//! Statuses as the double of the API server gets them, in memory and on a paused clock; the last ones with sockets.

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
async fn a_status_that_somebody_undoes_again_and_again_is_not_fought_over_at_full_speed() {
    let running = Running::new();
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if running.is_ready("a", 1) {
            running.edit("a", json!({"status": {"conditions": null}}));
        }
        sleep(LAG).await;
    }
    assert!(
        (5..20).contains(&running.writes()),
        "{} writes",
        running.writes()
    );
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("a", 1));
    // It is not held against a new generation.
    running.edit("a", json!({"spec": {"httpOption": "Redirected"}}));
    running.applied("a", 2);
    sleep(SOON).await;
    assert!(running.is_ready("a", 2));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_written_again_over_the_newer_object() {
    let running = Running::new();
    running.api.overtake(status_writes(), 2);
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    let counts = running.board.counts();
    assert_eq!((counts.writes, counts.conflicts, counts.errors), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_conflicts_is_outlived_without_a_storm_of_writes() {
    let running = Running::new();
    running.api.overtake(status_writes(), u32::MAX);
    running.create("stormy");
    running.create("calm");
    running.applied("stormy", 1);
    running.applied("calm", 1);
    sleep(Duration::from_secs(60)).await;
    assert!(
        running.writes() < 2 * 60 * 20,
        "{} writes",
        running.writes()
    );
    assert!(!running.board.waiting(1)[0].why.is_empty());
    running.api.heal();
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("stormy", 1) && running.is_ready("calm", 1));
    assert_eq!(running.board.counts().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_any_more_is_not_touched() {
    let (lead, leadership) = Leadership::by_hand();
    let running = Running::led_by(leadership);
    for name in ["class", "uid", "generation", "gone"] {
        running.create(name);
    }
    sleep(SOON).await;
    running.tasks[1].abort(); // from now on the board knows nothing of what changes
    sleep(SOON).await;
    let other =
        json!({"metadata": {"annotations": {"networking.knative.dev/ingress.class": "other"}}});
    running.edit("class", other);
    running.api.delete("ingresses", "shop", "uid");
    let mut another = ingress("uid");
    another["metadata"]["uid"] = json!("another");
    running.api.put(another);
    running.edit("generation", json!({"spec": {"httpOption": "Redirected"}}));
    running.api.delete("ingresses", "shop", "gone");
    for name in ["class", "uid", "generation", "gone"] {
        running.applied(name, 1);
    }
    lead(true);
    sleep(Duration::from_secs(60)).await;
    for name in ["class", "uid", "generation"] {
        assert_eq!(running.get(name)["status"], Value::Null, "{name}");
    }
    let counts = running.board.counts();
    assert_eq!((counts.writes, counts.errors, counts.unsettled), (0, 0, 4));
    assert!(running.writes() < 100, "{} attempts", running.writes());
    running.board.gone(&key("gone"));
    assert_eq!(running.board.counts().unsettled, 3);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_behind_our_writes_changes_nothing() {
    let running = Running::new();
    let created = running.api.put(ingress("a"));
    sleep(SOON).await;
    let waiting = running.get("a");
    running.applied("a", 1);
    sleep(SOON).await;
    assert_eq!(running.writes(), 2);
    // As they came from a watch that is slow; the second was our own write.
    let none = HashMap::new();
    for old in [&created, &waiting] {
        running.board.seen(object(old, &none));
    }
    sleep(Duration::from_secs(60)).await;
    // What is settled and was shown by the watch is not kept, so it costs one look at the newer object.
    assert!(running.writes() <= 3, "{} writes", running.writes());
    assert!(running.is_ready("a", 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_written_does_not_hold_up_the_others() {
    let running = Running::new();
    running
        .api
        .refuse(status_writes().name("bad"), u32::MAX, 422);
    for name in ["bad", "a", "b"] {
        running.create(name);
        running.applied(name, 1);
    }
    sleep(SOON).await;
    assert!(running.is_ready("a", 1) && running.is_ready("b", 1));
    sleep(Duration::from_secs(300)).await;
    assert!(running.writes() < 40, "{} attempts", running.writes());
    running.api.heal();
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("bad", 1));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_left_alone_and_caught_up_with() {
    for code in [401, 403, 429, 500, 503] {
        let running = Running::new();
        running.api.refuse(status_writes(), u32::MAX, code);
        for n in 0..100 {
            running.create(&n.to_string());
            running.applied(&n.to_string(), 1);
        }
        sleep(Duration::from_secs(120)).await;
        assert!(
            running.writes() < 100,
            "{code}: {} attempts",
            running.writes()
        );
        running.api.heal();
        sleep(Duration::from_secs(7)).await;
        assert!(
            (0..100).all(|n| running.is_ready(&n.to_string(), 1)),
            "{code}"
        );
        assert_eq!(running.board.counts().unsettled, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up_and_tried_again() {
    let running = Running::new();
    running.api.ignore(status_writes(), u32::MAX);
    running.create("a");
    running.applied("a", 1);
    sleep(Duration::from_secs(300)).await;
    assert!(
        (10..40).contains(&running.writes()),
        "{} attempts",
        running.writes()
    );
    running.api.heal();
    sleep(Duration::from_secs(17)).await;
    assert!(running.is_ready("a", 1));
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

/// A replica: its log, and who answers for it.
struct Served {
    replica: Replica,
    log: AppliedLog,
    serving: JoinHandle<()>,
}

/// Replicas on loopback addresses with one port.
async fn replicas(count: u8) -> (Vec<Served>, u16) {
    let mut served = Vec::new();
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = first.local_addr().unwrap().port();
    let mut listeners = vec![first];
    for last in 2..=count {
        listeners.push(
            TcpListener::bind((IpAddr::from([127, 0, 0, last]), port))
                .await
                .unwrap(),
        );
    }
    for (last, listener) in (1..).zip(listeners) {
        let log = AppliedLog::new();
        let serving = serve_peers(listener, log.clone(), PeerAuth::Open);
        served.push(Served {
            replica: replica(last),
            log,
            serving: tokio::spawn(serving),
        });
    }
    (served, port)
}

/// A client over sockets.
fn client(api: &ApiDouble) -> Client {
    // Whoever is first installs it.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::try_from(Config::new(api.url().parse().unwrap())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_are_ready_at_three_replicas() {
    const COUNT: usize = 1000;
    let api = Arc::new(ApiDouble::start());
    let (served, port) = replicas(3).await;
    let asking = confirm::Settings {
        own_pod: "gateway-1".to_owned(),
        port,
        token: None,
        silent_after: SILENT_AFTER,
    };
    let (confirmations, ask) =
        Confirmations::new(asking, served[0].log.clone(), Leadership::always());
    confirmations.set_replicas(served.iter().map(|one| one.replica.clone()));
    let board = StatusBoard::new(settings());
    let write = board.write(client(&api), Leadership::always(), confirmations);
    let tasks = [tokio::spawn(ask), tokio::spawn(write)];

    let begun = Instant::now();
    let created: Vec<Value> = (0..COUNT)
        .map(|n| api.put(ingress(&n.to_string())))
        .collect();
    let none = HashMap::new();
    for one in &created {
        board.seen(object(one, &none));
        let step = |name: &str| Step::Applied {
            key: key(name),
            uid: name.into(),
            generation: 1,
        };
        for replica in &served {
            replica
                .log
                .record([step(one["metadata"]["name"].as_str().unwrap())]);
        }
    }
    eventually("a thousand to be Ready", async || {
        (board.counts().unsettled == 0).then_some(())
    })
    .await;
    let took = begun.elapsed();
    let entrances = settings().entrances;
    let ready = api
        .list("ingresses")
        .into_iter()
        .filter(|one| IngressStatus::read(one["status"].clone()).is_ready_at(1, &entrances));
    assert_eq!(ready.count(), COUNT);
    let writes = api.count(&status_writes());
    println!("{COUNT} KIngresses Ready at 3 replicas after {took:?}, {writes} writes");
    assert!(writes <= 2 * COUNT, "{writes} writes");
    for task in tasks
        .into_iter()
        .chain(served.into_iter().map(|one| one.serving))
    {
        task.abort();
    }
}

#[tokio::test]
async fn an_api_server_that_goes_away_and_comes_back_is_caught_up_with() {
    let api = Arc::new(ApiDouble::start());
    let board = StatusBoard::new(settings());
    let confirmations = Confirmations::by_hand(&[replica(1)]);
    let write = board.write(client(&api), Leadership::always(), confirmations.clone());
    let writing = tokio::spawn(write);
    let none = HashMap::new();
    let first = api.put(ingress("first"));
    let second = api.put(ingress("second"));
    confirmations.tell(&replica(1), &[("first", 1), ("second", 1)]);
    board.seen(object(&first, &none));
    eventually("the first to be written", async || {
        (board.counts().writes == 1).then_some(())
    })
    .await;

    api.refuse_connections();
    board.seen(object(&second, &none));
    eventually("a failure", async || {
        (board.counts().errors > 0).then_some(())
    })
    .await;
    api.accept_connections();
    patiently("the second to be written", async {
        while board.counts().writes < 2 {
            sleep(LAG).await;
        }
    })
    .await;
    writing.abort();
}
