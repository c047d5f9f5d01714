//! What is known of a cluster whatever its API server does: all watches together, joined to the double in memory on a
//! paused clock, so that hours pass in no time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use parkway_activator::revision::RevisionId;
use parkway_ingress::provider::kubernetes::watch::{LONGEST_PAUSE, RELIST, WATCH_SECONDS};
use parkway_ingress::provider::kubernetes::{
    Changes, HANDOVER, Key, KubernetesProvider, NAMES_FOLLOW, Settings,
};
use parkway_tests::api::{ApiDouble, Which};
use parkway_tests::cluster::{CLASS, CLASS_ANNOTATION, NAMESPACE, PodIs, SYSTEM, Serving, serving};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::random::Random;

/// Everything that is watched.
const WATCHED: [&str; 5] = [
    "ingresses",
    "revisions",
    "services",
    "endpointslices",
    "configmaps",
];

const MINUTE: Duration = Duration::from_secs(60);

/// What the data path would know.
#[derive(Debug, Default, PartialEq)]
struct Known {
    /// Versions by name.
    ingresses: BTreeMap<String, String>,
    revisions: BTreeSet<String>,
    /// Addresses of Pods, ready or not, by Revision; only of Revisions that are there.
    pods: BTreeMap<String, BTreeSet<String>>,
}

struct World {
    api: ApiDouble,
    provider: KubernetesProvider,
    known: Known,
    /// What is never deleted.
    live: BTreeSet<String>,
}

impl World {
    fn start() -> Self {
        Self::of(ApiDouble::in_memory())
    }

    fn of(api: ApiDouble) -> Self {
        let client = Client::new(api.router(), "default");
        let settings = Settings {
            default_certificate: None,
            ticket_keys: None,
            ingress_class: Some(CLASS.to_owned()),
            system_namespace: SYSTEM.to_owned(),
            gateway: Key::new(SYSTEM, "parkway"),
            wants_public: false,
        };
        Self {
            provider: KubernetesProvider::new(&client, &settings),
            api,
            known: Known::default(),
            live: BTreeSet::new(),
        }
    }

    /// Puts a Service there that stays.
    fn put_live(&mut self, name: &str) {
        put(&self.api, &serving(name));
        self.live.insert(name.to_owned());
    }

    fn take(&mut self, changes: Changes) {
        for change in changes.ingresses {
            let name = change.key.name.to_string();
            self.known
                .ingresses
                .insert(name, change.resource_version.into());
        }
        for key in changes.gone {
            assert!(!self.live.contains(&*key.name), "{key} was never deleted");
            self.known.ingresses.remove(&*key.name);
        }
        for (id, revision) in changes.revisions {
            let name = id.name().to_owned();
            let Some(revision) = revision else {
                assert!(!self.is_live(&id), "{id} was never deleted");
                self.known.revisions.remove(&name);
                self.known.pods.remove(&name);
                continue;
            };
            let pods = revision.ready.iter().chain(&revision.not_ready);
            let pods = pods.map(|pod| pod.address().ip().to_string()).collect();
            self.known.pods.insert(name.clone(), pods);
            self.known.revisions.insert(name);
        }
    }

    fn is_live(&self, id: &RevisionId) -> bool {
        let service = id.name().strip_suffix("-00001");
        service.is_some_and(|service| self.live.contains(service))
    }

    /// What there is in truth.
    fn truth(&self) -> Known {
        let text = |object: &serde_json::Value, pointer: &str| {
            let text = object.pointer(pointer).and_then(|text| text.as_str());
            text.unwrap_or_default().to_owned()
        };
        let ingresses = self.api.list("ingresses");
        let ingresses = ingresses.iter().map(|object| {
            (
                text(object, "/metadata/name"),
                text(object, "/metadata/resourceVersion"),
            )
        });
        let revisions = self.api.list("revisions");
        let revisions: BTreeSet<String> = { revisions.iter() }
            .map(|object| text(object, "/metadata/name"))
            .collect();
        let mut pods: BTreeMap<String, BTreeSet<String>> = { revisions.iter() }
            .map(|name| (name.clone(), BTreeSet::new()))
            .collect();
        for slice in self.api.list("endpointslices") {
            let revision = text(&slice, "/metadata/labels/serving.knative.dev~1revision");
            if let Some(pods) = pods.get_mut(&revision) {
                let endpoints = slice["endpoints"].as_array().into_iter().flatten();
                pods.extend(endpoints.map(|endpoint| text(endpoint, "/addresses/0")));
            }
        }
        Known {
            ingresses: ingresses.collect(),
            revisions,
            pods,
        }
    }

    /// Takes in what is told for this long.
    async fn listen(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while let Ok(changes) = timeout(until - Instant::now(), self.provider.changed()).await {
            self.take(changes);
        }
    }

    /// Takes in what is told until it is the truth; how long that took.
    async fn agrees(&mut self) -> Duration {
        let started = Instant::now();
        while self.known != self.truth() {
            let changes = timeout(3 * RELIST, self.provider.changed()).await;
            let Ok(changes) = changes else {
                panic!("for ever {:#?} instead of {:#?}", self.known, self.truth());
            };
            self.take(changes);
        }
        started.elapsed()
    }

    fn failing(&self) -> usize {
        let states = self.provider.health().state();
        states
            .values()
            .filter(|state| state.failing.is_some())
            .count()
    }
}

fn put(api: &ApiDouble, serving: &Serving) {
    api.put(serving.revision());
    for service in serving.services() {
        api.put(service);
    }
    api.put(serving.slice(&[]));
    api.put(serving.ingress());
}

fn delete(api: &ApiDouble, serving: &Serving) {
    let slice = serving.slice(&[])["metadata"]["name"].clone();
    api.delete("ingresses", NAMESPACE, serving.name());
    api.delete("revisions", NAMESPACE, &serving.revision_name());
    api.delete("endpointslices", NAMESPACE, slice.as_str().unwrap());
    for service in serving.services() {
        let name = service["metadata"]["name"].as_str().unwrap();
        api.delete("services", NAMESPACE, name);
    }
}

/// A further version of a KIngress.
fn touch(api: &ApiDouble, serving: &Serving, number: usize) {
    let annotations = json!({"example.com/number": number.to_string()});
    let patch = json!({"metadata": {"annotations": annotations}});
    api.edit("ingresses", NAMESPACE, serving.name(), patch);
}

fn pod(number: usize) -> (std::net::SocketAddr, PodIs) {
    let octet = u8::try_from(number % 200).unwrap();
    (([10, 1, 1, octet], 8012).into(), PodIs::Ready)
}

#[tokio::test(start_paused = true)]
async fn connection_that_has_fallen_silent_is_noticed_soon_after_a_watchs_own_end() {
    let mut world = World::start();
    world.put_live("shop");
    world.agrees().await;

    world.api.fall_silent();
    put(&world.api, &serving("cart"));
    touch(&world.api, &serving("shop"), 1);
    let took = world.agrees().await;
    let at_most = Duration::from_secs(u64::from(WATCH_SECONDS) + 6);
    assert!(took <= at_most, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn deletion_that_was_never_told_is_noticed_by_the_next_list() {
    let mut world = World::start();
    world.put_live("shop");
    put(&world.api, &serving("cart"));
    world.agrees().await;

    for plural in ["ingresses", "revisions", "endpointslices"] {
        world.api.lose_events(plural, 1);
    }
    delete(&world.api, &serving("cart"));
    touch(&world.api, &serving("shop"), 1); // what comes after is heard
    world.listen(Duration::from_secs(1)).await;
    assert!(world.known.ingresses.contains_key("cart"), "nobody told");
    assert_eq!(
        world.known.ingresses["shop"],
        world.truth().ingresses["shop"]
    );

    let took = world.agrees().await;
    assert!(took <= RELIST, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_twice_counts_once() {
    let mut world = World::start();
    world.put_live("shop");
    world.agrees().await;

    for plural in WATCHED {
        world.api.double_events(plural, 100);
    }
    for number in 0..5 {
        touch(&world.api, &serving("shop"), number);
        world.api.put(serving("shop").slice(&[pod(number)]));
        put(&world.api, &serving("cart"));
        world.agrees().await;
        delete(&world.api, &serving("cart"));
        world.agrees().await;
    }
}

#[tokio::test(start_paused = true)]
async fn hours_without_a_server_change_nothing_and_end_within_seconds() {
    let mut world = World::start();
    for name in ["shop", "till"] {
        world.put_live(name);
    }
    put(&world.api, &serving("cart"));
    world.agrees().await;
    let before = world.truth();

    for code in [503, 500, 401, 403, 429] {
        world.api.refuse(Which::any(), u32::MAX, code);
        world.api.cut_watches();
        world.listen(3 * 60 * MINUTE).await;
        assert_eq!(world.known, before, "after hours of {code}");
        assert_eq!(world.failing(), WATCHED.len(), "that they fail is seen");
        world.api.heal();
        world.listen(2 * LONGEST_PAUSE).await;
        assert_eq!(world.failing(), 0, "after {code}");
    }

    world.api.refuse(Which::any(), u32::MAX, 503);
    world.api.cut_watches();
    delete(&world.api, &serving("cart"));
    put(&world.api, &serving("desk"));
    world.api.put(serving("shop").slice(&[pod(1), pod(2)]));
    world.listen(60 * MINUTE).await;
    assert_eq!(world.known, before);
    world.api.compact(); // nobody remembers what happened meanwhile
    world.api.heal();
    let took = world.agrees().await;
    assert!(took <= 2 * LONGEST_PAUSE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn kingress_that_is_given_a_class_that_is_nobodys_is_let_go_in_the_end() {
    let mut world = World::start();
    put(&world.api, &serving("cart"));
    world.agrees().await;

    let class = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "nobodys"}}});
    world.api.edit("ingresses", NAMESPACE, "cart", class);
    world.listen(HANDOVER - Duration::from_secs(1)).await;
    assert!(world.known.ingresses.contains_key("cart"));
    world.listen(Duration::from_secs(2)).await;
    assert!(!world.known.ingresses.contains_key("cart"));
}

#[tokio::test(start_paused = true)]
async fn kingress_that_is_served_elsewhere_is_let_go_when_names_have_had_time_to_follow() {
    let mut world = World::start();
    put(&world.api, &serving("cart"));
    world.agrees().await;

    let class = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "somebodys"}}});
    world.api.edit("ingresses", NAMESPACE, "cart", class);
    world.listen(Duration::from_secs(20)).await;
    let elsewhere = json!({"ingress": [{"domainInternal": "istio.istio-system.svc"}]});
    let status = json!({"status": {"privateLoadBalancer": elsewhere}});
    world.api.edit("ingresses", NAMESPACE, "cart", status);
    world.listen(NAMES_FOLLOW - Duration::from_secs(1)).await;
    assert!(world.known.ingresses.contains_key("cart"));
    world.listen(Duration::from_secs(2)).await;
    assert!(!world.known.ingresses.contains_key("cart"));
}

#[tokio::test(start_paused = true)]
async fn watches_cut_every_second_lose_nothing() {
    let mut world = World::start();
    world.put_live("shop");
    world.agrees().await;

    for second in 0..60 {
        world.api.cut_watches();
        touch(&world.api, &serving("shop"), second);
        world.api.put(serving("shop").slice(&[pod(second)]));
        match second % 2 {
            0 => put(&world.api, &serving("cart")),
            _ => delete(&world.api, &serving("cart")),
        }
        world.listen(Duration::from_secs(1)).await;
    }
    let took = world.agrees().await;
    assert!(took <= 2 * LONGEST_PAUSE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_every_kind_is_known() {
    for plural in WATCHED {
        let api = ApiDouble::in_memory();
        put(&api, &serving("shop"));
        api.refuse(Which::lists(plural), u32::MAX, 403);
        let mut world = World::of(api);

        world.listen(60 * MINUTE).await;
        assert_eq!(world.known, Known::default(), "without {plural}");
        world.api.heal();
        let took = world.agrees().await;
        assert!(took <= 2 * LONGEST_PAUSE, "{took:?}");
    }
}

/// One thing after the other that may befall an API server, while objects come, change and go.
async fn live_through(seed: usize) {
    let mut random = Random::of(seed);
    let mut world = World::start();
    for name in ["shop", "till"] {
        world.put_live(name);
    }
    let mut passing = BTreeSet::new();
    for step in 0..300 {
        let plural = WATCHED[random.below(WATCHED.len())];
        match random.below(16) {
            0..=2 => {
                let name = format!("passing-{}", random.below(8));
                put(&world.api, &serving(&name));
                passing.insert(name);
            }
            3..=4 => {
                if let Some(name) = passing.pop_first() {
                    delete(&world.api, &serving(&name));
                }
            }
            5 => touch(&world.api, &serving("shop"), step),
            6 => {
                let pods: Vec<_> = (0..random.below(4)).map(pod).collect();
                world.api.put(serving("till").slice(&pods));
            }
            7 => world.api.cut_watches(),
            8 => world.api.expire_watches(plural),
            9 => world.api.compact(),
            10 => world.api.fall_silent(),
            11 => {
                let code = [401, 403, 404, 410, 429, 500, 503, 504][random.below(8)];
                let times = u32::try_from(random.below(5)).unwrap();
                world.api.refuse(Which::any().plural(plural), times, code);
            }
            12 => world.api.gone(Which::watches(plural), 2),
            13 => {
                let late = Duration::from_millis(u64::try_from(random.below(30_000)).unwrap());
                world.api.delay(Which::any().plural(plural), 1, late);
            }
            14 => match random.below(3) {
                0 => world.api.lose_events(plural, 1),
                1 => world.api.double_events(plural, 3),
                _ => world.api.ignore(Which::any().plural(plural), 1),
            },
            _ => {
                let seconds = u64::try_from(random.below(40)).unwrap();
                world.listen(Duration::from_secs(seconds)).await;
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    world.api.heal();
    // What was lost or is never answered is made good by the next list.
    world.listen(RELIST + MINUTE).await;
    assert_eq!(world.known, world.truth(), "seed {seed}");
    assert_eq!(world.failing(), 0, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn whatever_befalls_the_server_live_revisions_stay_and_the_truth_is_known_in_the_end() {
    for seed in 0..12 {
        live_through(seed).await;
    }
}
