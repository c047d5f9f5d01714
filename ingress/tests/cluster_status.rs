//! From a KIngress in the API to its Ready there, by way of the watches, whatever the API server does meanwhile.
//!
//! The double of the API server and the provider are joined in memory on a paused clock; the data path is one that takes
//! everything over at once.

#![expect(clippy::unwrap_used, reason = "a test: what is missing fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parkway_ingress::provider::kubernetes::applied::{AppliedLog, Step};
use parkway_ingress::provider::kubernetes::lease::Leadership;
use parkway_ingress::provider::kubernetes::peers::confirm::{self, Confirmations, SILENT_AFTER};
use parkway_ingress::provider::kubernetes::status::conditions::{Entrances, IngressStatus};
use parkway_ingress::provider::kubernetes::status::{IngressObject, Settings, StatusBoard};
use parkway_ingress::provider::kubernetes::{self, Key, KubernetesProvider, Replica};
use parkway_tests::api::{ApiDouble, Which};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

const CLASS: &str = "kourier.ingress.networking.knative.dev";
const NAMESPACE: &str = "serving-tests";

fn entrances() -> Entrances {
    Entrances::of(
        "knative-serving",
        "parkway",
        "parkway-internal",
        "cluster.local",
    )
}

fn fixture(path: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/conformance");
    fs::read_to_string(fixtures.join(path)).unwrap()
}

/// A KIngress of the conformance suite as it was when it was made, under another name.
fn ingress(name: &str) -> Value {
    let mut object: Value = serde_json::from_str(&fixture("ingress/basics.json")).unwrap();
    let rule = &mut object["spec"]["rules"][0];
    rule["hosts"] = json!([format!("{name}.example.com")]);
    let spec = object["spec"].take();
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": object["metadata"]["annotations"],
        },
        "spec": spec,
    })
}

/// A cluster with the suite's Services, and a Parkway that leads and is the only replica.
struct Site {
    api: Arc<ApiDouble>,
    board: StatusBoard,
    /// Ends with the site.
    _tasks: JoinSet<()>,
}

impl Site {
    fn new() -> Self {
        let api = ApiDouble::in_memory();
        for line in fixture("services.jsonl")
            .lines()
            .chain(fixture("endpointslices.jsonl").lines())
        {
            api.put(serde_json::from_str(line).unwrap());
        }
        let client = Client::new(api.router(), "default");
        let settings = kubernetes::Settings {
            ingress_class: Some(CLASS.to_owned()),
            system_namespace: "knative-serving".to_owned(),
            gateway: Key::new("knative-serving", "parkway"),
            default_certificate: None,
            ticket_keys: None,
            wants_public: false,
        };
        let log = AppliedLog::new();
        let asking = confirm::Settings {
            own_pod: "own".to_owned(),
            port: 1,
            token: None,
            silent_after: SILENT_AFTER,
        };
        let (confirmations, asking) = Confirmations::new(asking, log.clone(), Leadership::always());
        confirmations.set_replicas([Replica {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            pod: "own".into(),
        }]);
        let board = StatusBoard::new(Settings::new(CLASS, entrances()));
        let writing = board.write(client.clone(), Leadership::always(), confirmations);
        let mut tasks = JoinSet::new();
        tasks.spawn(asking);
        tasks.spawn(writing);
        let provider = KubernetesProvider::new(&client, &settings);
        tasks.spawn(take_over(provider, log, board.clone()));
        Self {
            api: Arc::new(api),
            board,
            _tasks: tasks,
        }
    }

    fn create(&self, name: &str) {
        self.api.put(ingress(name));
    }

    fn change(&self, name: &str, path: &str) {
        let mut spec = ingress(name)["spec"].take();
        spec["rules"][0]["http"]["paths"][0]["path"] = json!(path);
        self.api
            .edit("ingresses", NAMESPACE, name, json!({"spec": spec}));
    }

    fn delete(&self, name: &str) {
        self.api.delete("ingresses", NAMESPACE, name);
    }

    fn is_ready(&self, object: &Value) -> bool {
        let generation = object["metadata"]["generation"].as_i64().unwrap();
        IngressStatus::read(object["status"].clone()).is_ready_at(generation, &entrances())
    }

    /// Every KIngress there is, is Ready, and nothing is known of others.
    fn is_all_ready(&self) -> bool {
        let objects = self.api.list("ingresses");
        objects.iter().all(|object| self.is_ready(object))
            && self.board.counts().known == objects.len()
    }

    async fn becomes_ready(&self, within: Duration) {
        let steps = within.as_millis() / 100;
        for _ in 0..steps {
            if self.is_all_ready() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let waiting = self.board.waiting(5);
        panic!(
            "not Ready after {within:?}: {:?} {waiting:?}",
            self.board.counts()
        );
    }
}

/// A data path that takes everything over at once.
async fn take_over(mut provider: KubernetesProvider, log: AppliedLog, board: StatusBoard) {
    loop {
        let changes = provider.changed().await;
        let gone = changes
            .gone
            .iter()
            .map(|key| Step::Removed { key: key.clone() });
        let applied = changes.ingresses.iter().map(|change| Step::Applied {
            key: change.key.clone(),
            uid: Arc::clone(&change.uid),
            generation: change.generation,
        });
        log.record(gone.chain(applied));
        for key in changes.gone.iter().chain(&changes.given_away) {
            board.gone(key);
        }
        board.seen_all(changes.ingresses.iter().map(IngressObject::from));
    }
}

#[tokio::test(start_paused = true)]
async fn a_kingress_becomes_ready_generation_by_generation() {
    let site = Site::new();
    site.create("a");
    site.becomes_ready(Duration::from_secs(2)).await;
    for n in 0..20 {
        site.change("a", &format!("/{n}"));
        site.becomes_ready(Duration::from_secs(2)).await;
    }
    let writes = site.board.counts();
    assert_eq!((writes.writes, writes.conflicts, writes.errors), (21, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn objects_of_other_classes_are_left_alone() {
    let site = Site::new();
    let mut other = ingress("other");
    other["metadata"]["annotations"] =
        json!({"networking.knative.dev/ingress.class": "istio.ingress.networking.knative.dev"});
    let mut none = ingress("none");
    none["metadata"]["annotations"] = json!({});
    for object in [other, none] {
        site.api.put(object);
    }
    let before = site.api.list("ingresses");
    site.create("ours");
    sleep(Duration::from_secs(3)).await;
    let ours = site.api.get("ingresses", NAMESPACE, "ours").unwrap();
    assert!(site.is_ready(&ours));
    let annotation =
        json!({"metadata": {"annotations": {"networking.knative.dev/ingress.class": "x"}}});
    site.api.edit("ingresses", NAMESPACE, "ours", annotation);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(site.board.counts().known, 0);
    let others = site.api.list("ingresses").into_iter();
    let others: Vec<Value> = others
        .filter(|object| object["metadata"]["name"] != "ours")
        .collect();
    assert_eq!(others, before);
}

#[tokio::test(start_paused = true)]
async fn everything_becomes_ready_with_watches_cut_each_second() {
    let site = Site::new();
    let mut there = BTreeSet::new();
    for second in 0..60 {
        for n in 0..5 {
            let name = format!("i{second}-{n}");
            site.create(&name);
            there.insert(name);
        }
        if second % 3 == 0
            && let Some(name) = there.pop_first()
        {
            site.delete(&name);
        }
        if let Some(name) = there.first() {
            site.change(name, &format!("/{second}"));
        }
        sleep(Duration::from_secs(1)).await;
        site.api.cut_watches();
    }
    site.becomes_ready(Duration::from_secs(60)).await;
    let counts = site.board.counts();
    assert_eq!(counts.known, there.len());
    assert!(counts.writes <= 2 * (300 + 60), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn everything_becomes_ready_when_versions_are_gone_in_both_forms() {
    let site = Site::new();
    for round in 0..10 {
        site.create(&format!("a{round}"));
        sleep(Duration::from_millis(50)).await;
        if round > 0 {
            site.delete(&format!("a{}", round - 1));
        }
        site.api.compact();
        match round % 3 {
            0 => site.api.expire_watches("ingresses"),
            1 => {
                site.api.gone(Which::watches("ingresses"), 1);
                site.api.cut_watches();
            }
            _ => {
                site.api.refuse(Which::watches("ingresses"), 1, 410);
                site.api.refuse(Which::lists("ingresses"), 1, 410);
                site.api.cut_watches();
            }
        }
        site.becomes_ready(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn everything_becomes_ready_after_an_hour_without_an_api_server() {
    let site = Site::new();
    for n in 0..50 {
        site.create(&n.to_string());
    }
    site.becomes_ready(Duration::from_secs(5)).await;
    site.api.refuse(Which::any(), u32::MAX, 503);
    site.api.cut_watches();
    for n in 0..10 {
        site.delete(&n.to_string());
        site.change(&(n + 10).to_string(), "/new");
        site.create(&(n + 100).to_string());
    }
    sleep(Duration::from_secs(3600)).await;
    site.api.heal();
    site.becomes_ready(Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn everything_becomes_ready_after_connections_fell_silent() {
    let site = Site::new();
    site.create("before");
    site.becomes_ready(Duration::from_secs(5)).await;
    site.api.fall_silent();
    site.create("after");
    site.delete("before");
    // A watch that says nothing is asked for again after its time.
    site.becomes_ready(Duration::from_secs(180)).await;
}

#[tokio::test(start_paused = true)]
async fn doubled_events_change_nothing_and_lost_ones_are_made_good() {
    let site = Site::new();
    site.api.double_events("ingresses", 40);
    for n in 0..20 {
        site.create(&n.to_string());
    }
    site.becomes_ready(Duration::from_secs(5)).await;
    assert_eq!(site.board.counts().writes, 20);
    sleep(Duration::from_secs(1)).await;
    site.api.lose_events("ingresses", 2);
    site.create("lost");
    site.delete("0");
    site.becomes_ready(kubernetes::watch::RELIST + Duration::from_secs(60))
        .await;
}
