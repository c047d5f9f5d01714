//! Pods of starts as they were recorded, told by the API server's double in memory on a paused clock: each milestone is
//! seen at the moment at which the recording has it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parkway_activator::cold_start::{ColdStartState, Milestone, Phase, Seen};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{RevisionId, RevisionSpec};
use parkway_activator::throttler::{
    Admission, Ask, Parking, QueueLimits, Throttler, Ticket, Worker,
};
use parkway_ingress::provider::kubernetes::pods::told::{NODE_PATIENCE, PATIENCE};
use parkway_ingress::provider::kubernetes::pods::{
    CannotStart, EVENTS_OF, LINGERS, MOST_STARTS, PodWatches,
};
use parkway_tests::api::{ApiDouble, Which};
use parkway_tests::cluster::{NAMESPACE, Serving, serving};
use parkway_tests::pods::{BROKEN, COLD, Reached, broken_pod, event, pod, recorded, recorded_of};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How far a moment may be from the recorded one: timers count milliseconds.
const SLACK: Duration = Duration::from_millis(2);

const SOON: Duration = Duration::from_millis(500);

/// Starts of Revisions, and what is heard of their Pods.
struct Stage {
    api: ApiDouble,
    throttler: Throttler,
    worker: Rc<Worker>,
    pods: PodWatches,
    failed: mpsc::Receiver<CannotStart>,
    _watching: AbortOnDropHandle<()>,
}

/// All starts begin at 2026-11-22T11:50:00Z, a little after everything that was recorded.
fn unix(_arrived: Instant) -> Duration {
    Duration::from_secs(1_795_348_200)
}

impl Stage {
    fn start() -> Self {
        let api = ApiDouble::in_memory();
        let client = Client::new(api.router(), "default");
        let throttler = Throttler::new(QueueLimits::default(), 1);
        let worker = Rc::new(throttler.worker(0));
        let (pods, watching, failed) = PodWatches::new(&client, throttler.cold_starts(), unix);
        Self {
            api,
            throttler,
            worker,
            pods,
            failed,
            _watching: AbortOnDropHandle::new(tokio::spawn(watching)),
        }
    }

    /// A request parks for this Revision, and the autoscaler is told.
    fn park(&self, id: &RevisionId) -> Ticket {
        self.throttler
            .upsert(id, Arc::new(RevisionSpec::default()), Parking::Allowed);
        let Admission::Parked(ticket) = self.worker.admit(id, Ask::default()) else {
            panic!("nobody is there to serve it");
        };
        let told = Seen::new(Milestone::Signalled, Instant::now());
        self.throttler.saw(id, told);
        ticket
    }

    /// What is recorded of the last start.
    fn told(&self) -> ColdStartState {
        let starts = self.throttler.cold_starts().recent();
        starts[0].state(Instant::now())
    }

    /// An endpoint is ready.
    fn ready(&self, id: &RevisionId) {
        let endpoint = Endpoint::new(([10, 244, 0, 32], 8012).into());
        let probed = Seen::new(Milestone::Probed, Instant::now());
        self.throttler.saw(id, probed);
        self.throttler.set_endpoints(id, vec![endpoint]);
    }

    /// The watch tells of this Pod what was recorded, from this state on, at the recorded times after `begun`.
    async fn replay(&self, pod: &str, begun: Instant, until: Duration) {
        for (time, event) in recorded() {
            if *time > until || event["object"]["metadata"]["name"] != pod {
                continue;
            }
            sleep_until(begun + *time).await;
            self.api.put(event["object"].clone());
        }
    }

    fn asked(&self, plural: &str) -> usize {
        self.api.count(&Which::watches(plural))
    }

    async fn failure(&mut self, within: Duration) -> Option<String> {
        let failed = timeout(within, self.failed.recv()).await;
        failed.ok().map(|failed| failed.unwrap().reason.to_string())
    }
}

fn id_of(serving: &Serving) -> RevisionId {
    RevisionId::new(NAMESPACE, serving.revision_name().as_str())
}

fn single() -> RevisionId {
    RevisionId::new(NAMESPACE, "single-00001")
}

fn seen(state: &ColdStartState, milestone: Milestone) -> Option<&Seen> {
    state.seen.iter().find(|seen| seen.milestone == milestone)
}

/// Names and lengths in milliseconds.
fn phases(state: &ColdStartState) -> Vec<(&'static str, u128)> {
    let phases = state.phases.iter();
    phases
        .map(|phase| (phase.name.as_str(), phase.duration().as_millis()))
        .collect()
}

#[track_caller]
fn assert_add_up(state: &ColdStartState) {
    let sum: Duration = state.phases.iter().map(Phase::duration).sum();
    assert_eq!(sum, state.total, "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn recorded_pod_statuses_give_the_phases_of_the_start_and_the_pod_before_it_is_none_of_them()
{
    let stage = Stage::start();
    let states = recorded_of(COLD);
    let created = states[0].0;
    let arrived = created - Duration::from_millis(400);
    let begun = Instant::now();
    // The Pod before it is on its way out.
    let old = "single-00001-deployment-7c9b8f4fcf-d6w8h";
    let mut leaving = recorded_of(old);
    leaving.retain(|(_, state)| !state["metadata"]["deletionTimestamp"].is_null());
    let mut old = leaving.swap_remove(0).1;
    old["metadata"]["finalizers"] = json!(["example.com/takes-its-time"]);
    stage.api.put(old);
    sleep_until(begun + arrived).await;

    let _ticket = stage.park(&single());
    let until = states[5].0;
    stage.replay(COLD, begun, until).await;
    sleep(SOON).await;
    let running = stage.told();
    stage.ready(&single());

    let told = stage.told();
    let at = |reached: Reached| begun + states[reached as usize].0;
    for (milestone, reached, stamped, detail) in [
        (
            Milestone::Created,
            Reached::Created,
            "/metadata/creationTimestamp",
            Some(COLD),
        ),
        (
            Milestone::Scheduled,
            Reached::Scheduled,
            "/status/conditions/0/lastTransitionTime",
            Some("node-1"),
        ),
        (
            Milestone::Addressed,
            Reached::Addressed,
            "/status/conditions/1/lastTransitionTime",
            Some("10.244.0.32"),
        ),
        (
            Milestone::Started,
            Reached::Runs,
            "/status/containerStatuses/1/state/running/startedAt",
            None,
        ),
    ] {
        let seen = seen(&told, milestone).unwrap_or_else(|| panic!("{milestone:?}: {told:?}"));
        let late = seen.at.checked_duration_since(at(reached));
        assert!(
            late.is_some_and(|late| late <= SLACK),
            "{milestone:?}: {late:?}"
        );
        let state = &states[reached as usize].1;
        assert_eq!(
            seen.stamp,
            Some(seconds(state.pointer(stamped).unwrap())),
            "{milestone:?}"
        );
        assert_eq!(seen.detail.as_deref(), detail, "{milestone:?}");
    }
    let names: Vec<_> = phases(&told).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "parking",
        "signal",
        "pod-creation",
        "scheduling",
        "sandbox",
        "container-start",
        "first-probe",
        "readiness",
        "release",
    ];
    assert_eq!(names, expected, "{told:?}");
    assert_eq!(
        phases(&running).last().map(|(name, _)| *name),
        Some("waiting")
    );
    assert_add_up(&running);
    assert_add_up(&told);
}

/// Seconds since 1970 of an object's own time.
fn seconds(text: &Value) -> i64 {
    let time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time =
        serde_json::from_value(text.clone()).unwrap();
    time.0.as_second()
}

#[tokio::test(start_paused = true)]
async fn a_recorded_image_that_cannot_be_pulled_fails_the_start_when_kubernetes_backs_off_and_not_before()
 {
    let mut stage = Stage::start();
    let states = recorded_of(BROKEN);
    let waits_for = |reason: &str| {
        let mut states = states.iter();
        let found = states.find(|(_, state)| {
            state
                .to_string()
                .contains(&format!("\"reason\":\"{reason}\""))
        });
        found.unwrap().0
    };
    let (first, backs_off) = (waits_for("ErrImagePull"), waits_for("ImagePullBackOff"));
    let begun = Instant::now();
    let arrived = states[0].0 - Duration::from_millis(100);
    sleep_until(begun + arrived).await;
    let _ticket = stage.park(&RevisionId::new(NAMESPACE, "broken-00001"));

    stage.replay(BROKEN, begun, first).await;
    let quiet = (backs_off - first) - Duration::from_millis(10);
    assert_eq!(
        stage.failure(quiet).await,
        None,
        "it may work the next time"
    );
    stage.replay(BROKEN, begun, backs_off).await;
    let reason = stage.failure(SOON).await.expect("a failure");

    assert!(
        reason.starts_with("ImagePullBackOff: Back-off pulling image \"dev.local/no-such-image\""),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_could_not_start_before_the_request_came_is_given_ten_seconds() {
    let mut stage = Stage::start();
    let shop = serving("shop");
    stage
        .api
        .put(broken_pod(&shop, "shop-1", "ImagePullBackOff"));
    let parked = Instant::now();
    let _ticket = stage.park(&id_of(&shop));

    assert_eq!(stage.failure(PATIENCE - SOON).await, None);
    stage.failure(2 * SOON).await.expect("a failure");

    assert!(parked.elapsed() >= PATIENCE);
    // It was there before, and is told so: nothing of this start went into making it.
    let told = stage.told();
    let created = seen(&told, Milestone::Created).unwrap();
    assert!(created.at < told.arrived, "{told:?}");
    assert!(
        !phases(&told)
            .iter()
            .any(|(name, _)| *name == "pod-creation"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_pod_that_cannot_start_is_no_failure_while_another_may() {
    let mut stage = Stage::start();
    let shop = serving("shop");
    let _ticket = stage.park(&id_of(&shop));
    sleep(SOON).await;
    let address = [10, 244, 0, 9].into();
    stage
        .api
        .put(pod(&shop, "shop-1", address, Reached::Scheduled));
    stage
        .api
        .put(broken_pod(&shop, "shop-2", "ImagePullBackOff"));

    assert_eq!(stage.failure(3 * PATIENCE).await, None);
    stage.api.delete("pods", NAMESPACE, "shop-1");
    stage.failure(SOON).await.expect("a failure");
}

/// A container that ended twice, as the kubelet writes it.
fn crash_loop(mut pod: Value) -> Value {
    pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {
        "reason": "CrashLoopBackOff",
        "message": "back-off 10s restarting failed container=user-container pod=shop-1_fixtures(uid)",
    }});
    pod["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {
        "exitCode": 3, "reason": "Error",
        "startedAt": "2026-11-22T11:49:30Z", "finishedAt": "2026-11-22T11:49:31Z",
    }});
    pod
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_fails_the_start_and_says_how_the_container_ended() {
    let mut stage = Stage::start();
    let shop = serving("shop");
    let _ticket = stage.park(&id_of(&shop));
    sleep(SOON).await;
    let runs = pod(&shop, "shop-1", [10, 244, 0, 9].into(), Reached::Runs);
    stage.api.put(runs.clone());
    assert_eq!(stage.failure(SOON).await, None);
    stage.api.put(crash_loop(runs));

    let reason = stage.failure(SOON).await;

    let expected = "CrashLoopBackOff: container user-container ended with exit code 3 (Error)";
    assert_eq!(reason.as_deref(), Some(expected));
}

/// As the scheduler writes it.
fn without_node(shop: &Serving) -> Value {
    let mut pod = pod(shop, "shop-1", [10, 244, 0, 9].into(), Reached::Created);
    pod["status"]["conditions"] = json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
        "lastTransitionTime": "2026-11-22T11:49:29Z",
    }]);
    pod
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_node_is_waited_for_and_longer_when_one_is_being_made() {
    for is_made in [false, true] {
        let mut stage = Stage::start();
        let shop = serving("shop");
        let _ticket = stage.park(&id_of(&shop));
        sleep(SOON).await;
        stage.api.put(without_node(&shop));
        assert_eq!(stage.failure(NODE_PATIENCE - SOON).await, None);
        assert!(stage.pods.sees(&id_of(&shop)));
        if is_made {
            let message = "pod triggered scale-up: [{pool 1->2 (max: 3)}]";
            stage
                .api
                .put(event("shop-1", None, "TriggeredScaleUp", message));
        }

        let failure = stage.failure(4 * NODE_PATIENCE).await;

        let reason = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.";
        assert_eq!(failure.as_deref(), (!is_made).then_some(reason));
        let node = pod(&shop, "shop-1", [10, 244, 0, 9].into(), Reached::Scheduled);
        stage.api.put(node);
        sleep(SOON).await;
        // What a Revision says of nodes counts only when nobody sees its Pods any more.
        assert_eq!(stage.pods.sees(&id_of(&shop)), is_made);
    }
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_images_and_containers_before_the_status_does() {
    let stage = Stage::start();
    let shop = serving("shop");
    let _ticket = stage.park(&id_of(&shop));
    let steps: [&dyn Fn() -> Value; 6] = [
        &|| pod(&shop, "shop-1", [10, 244, 0, 9].into(), Reached::Addressed),
        &|| {
            event(
                "shop-1",
                Some("user-container"),
                "Pulled",
                "Successfully pulled image \"dev.local/single\" in 1.5s (1.5s including waiting). Image size: 7 bytes.",
            )
        },
        &|| {
            event(
                "shop-1",
                Some("user-container"),
                "Started",
                "Started container user-container",
            )
        },
        &|| {
            event(
                "shop-1",
                Some("queue-proxy"),
                "Pulled",
                "Container image \"dev.local/queue\" already present on machine",
            )
        },
        &|| {
            event(
                "shop-1",
                Some("queue-proxy"),
                "Started",
                "Started container queue-proxy",
            )
        },
        &|| pod(&shop, "shop-1", [10, 244, 0, 9].into(), Reached::Runs),
    ];
    let mut moments = Vec::new();
    for step in steps {
        sleep(Duration::from_secs(1)).await;
        moments.push(Instant::now());
        stage.api.put(step());
    }
    sleep(SOON).await;
    stage.ready(&id_of(&shop));

    let told = stage.told();
    let late = |milestone, step: usize| seen(&told, milestone).unwrap().at - moments[step];
    assert!(
        late(Milestone::Pulled, 3) <= SLACK,
        "the last image: {told:?}"
    );
    assert!(
        late(Milestone::Started, 4) <= SLACK,
        "the last container: {told:?}"
    );
    let pulled = seen(&told, Milestone::Pulled).unwrap();
    let detail = pulled.detail.as_deref().unwrap();
    assert!(detail.starts_with("Successfully pulled image"), "{detail}");
    assert_eq!(pulled.stamp, Some(seconds(&json!("2026-11-22T11:49:30Z"))));
    let lengths: Vec<_> = phases(&told)
        .into_iter()
        .filter(|(name, _)| matches!(*name, "image-pull" | "container-start"))
        .collect();
    let near = |ms: u128, wanted: u128| ms.abs_diff(wanted) <= 2;
    assert!(
        near(lengths[0].1, 3_000) && near(lengths[1].1, 1_000),
        "{lengths:?}"
    );
    assert_add_up(&told);
}

#[tokio::test(start_paused = true)]
async fn only_starts_are_watched_and_only_as_long_as_they_last() {
    let stage = Stage::start();
    let shop = serving("shop");
    for number in 0..5 {
        let address = [10, 244, 0, number].into();
        stage.api.put(pod(
            &shop,
            &format!("shop-{number}"),
            address,
            Reached::Addressed,
        ));
    }
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(stage.api.requests(), []);

    let _ticket = stage.park(&id_of(&shop));
    sleep(SOON).await;
    assert_eq!(stage.pods.running(), 1);
    assert_eq!((stage.asked("pods"), stage.asked("events")), (1, EVENTS_OF));
    let selected = stage
        .api
        .requests()
        .into_iter()
        .filter(|asked| asked.plural == "pods");
    for asked in selected {
        assert_eq!(asked.namespace, NAMESPACE);
        let selector = format!(
            "labelSelector=serving.knative.dev%2Frevision%3D{}",
            shop.revision_name()
        );
        assert!(asked.query.contains(&selector), "{}", asked.query);
    }
    stage.ready(&id_of(&shop));
    sleep(LINGERS + SOON).await;

    assert_eq!(stage.pods.running(), 0);
    let before = stage.api.requests().len();
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(stage.api.requests().len(), before);
}

#[tokio::test(start_paused = true)]
async fn so_many_starts_are_watched_at_once_and_further_ones_are_counted() {
    let stage = Stage::start();
    let mut tickets = Vec::new();
    for number in 0..MOST_STARTS + 3 {
        tickets.push(stage.park(&RevisionId::new(
            NAMESPACE,
            format!("shop-{number}-00001").as_str(),
        )));
        sleep(Duration::from_millis(1)).await;
    }
    sleep(SOON).await;

    assert_eq!(stage.pods.running(), MOST_STARTS);
    assert_eq!(stage.pods.skipped(), 3);
    assert_eq!(stage.api.count(&Which::lists("pods")), MOST_STARTS);
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_leaves_the_start_as_it_was() {
    let mut stage = Stage::start();
    for plural in ["pods", "events"] {
        stage.api.refuse(Which::any().plural(plural), u32::MAX, 403);
    }
    let shop = serving("shop");
    let _ticket = stage.park(&id_of(&shop));
    stage
        .api
        .put(pod(&shop, "shop-1", [10, 244, 0, 9].into(), Reached::Runs));
    assert_eq!(stage.failure(Duration::from_secs(60)).await, None);
    stage.ready(&id_of(&shop));

    let told = stage.told();
    assert_eq!(seen(&told, Milestone::Created), None);
    assert!(
        phases(&told).iter().any(|(name, _)| *name == "gap"),
        "{told:?}"
    );
    assert_add_up(&told);
    let (_, pods) = stage
        .pods
        .health()
        .find(|(kind, _)| *kind == "Pod")
        .unwrap();
    assert!(
        pods.failing
            .is_some_and(|failing| failing.contains("403") || failing.contains("orbidden"))
    );
}
