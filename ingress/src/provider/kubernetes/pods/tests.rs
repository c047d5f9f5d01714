//! What is concluded from Pods and Events, by hand.

use std::time::Duration;

use parkway_activator::cold_start::Milestone;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::watch::{Change, Key};
use super::kept::{KeptEvent, KeptPod};
use super::told::{NODE_PATIENCE, News, PATIENCE, PODS, Told};

/// When the starts of these tests begin, in seconds since 1970, and the same second as objects write it.
const ARRIVED: Duration = Duration::from_secs(1_800_000_000);
const THEN: &str = "2027-01-15T08:00:00Z";
const SECOND: Duration = Duration::from_secs(1);

fn told() -> (Told, Instant) {
    let arrived = Instant::now();
    (Told::new(arrived, ARRIVED), arrived)
}

fn pod(name: &str, created: &str, status: impl Into<Value>) -> KeptPod {
    let object = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": created},
        "spec": {"containers": [{"name": "user-container"}, {"name": "queue-proxy"}]},
        "status": status.into(),
    });
    KeptPod::of(&serde_json::from_value(object).unwrap())
}

fn new_pod(name: &str) -> KeptPod {
    pod(name, THEN, json!({"phase": "Pending"}))
}

fn without_node(name: &str, created: &str) -> KeptPod {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": null});
    pod(name, created, json!({"conditions": [condition]}))
}

fn event(pod: &str, reason: &str, message: &str, at: &str) -> Option<KeptEvent> {
    let object = json!({
        "metadata": {"name": format!("{pod}.1")},
        "involvedObject": {"uid": pod},
        "reason": reason,
        "message": message,
        "lastTimestamp": null,
        "eventTime": at,
    });
    KeptEvent::of(&serde_json::from_value(object).unwrap())
}

fn milestones(told: &mut Told, news: News, now: Instant) -> Vec<Milestone> {
    let seen = told.hear(news, now).into_iter();
    seen.map(|seen| seen.milestone).collect()
}

fn all(pods: Vec<KeptPod>) -> News {
    News::Pods(Change::All(pods))
}

fn set(pod: KeptPod) -> News {
    News::Pods(Change::Set(pod))
}

#[test]
fn of_several_pods_the_first_at_each_step_counts_and_a_new_list_tells_nothing_twice() {
    let (mut told, now) = told();
    assert_eq!(milestones(&mut told, all(Vec::new()), now), []);
    let one = milestones(&mut told, set(new_pod("one")), now);
    assert_eq!(one, [Milestone::Created]);
    assert_eq!(milestones(&mut told, set(new_pod("two")), now), []);

    let mut two = new_pod("two");
    two.scheduled = Some(super::kept::Step::default());
    let again = all(vec![new_pod("one"), two]);

    assert_eq!(milestones(&mut told, again, now), [Milestone::Scheduled]);
}

#[test]
fn a_pod_that_leaves_and_one_that_has_ended_are_none() {
    let (mut told, now) = told();
    let ended = pod(
        "ended",
        THEN,
        json!({"phase": "Failed", "podIP": "10.1.1.1"}),
    );
    let mut leaving = new_pod("leaving");
    leaving.is_leaving = true;

    assert_eq!(milestones(&mut told, all(vec![ended, leaving]), now), []);
    assert_eq!(told.coming().count(), 0);
    assert_eq!(told.verdict(), None);
}

#[test]
fn a_pod_that_came_just_before_its_list_is_not_one_from_before() {
    let (mut told, arrived) = told();
    let now = arrived + SECOND;
    let seen = told.hear(all(vec![new_pod("new")]), now);
    assert_eq!((seen[0].at, seen[0].stamp), (now, Some(1_800_000_000)));

    let (mut told, arrived) = self::told();
    let old = pod("old", "2027-01-15T07:59:50Z", json!({}));
    let seen = told.hear(all(vec![old]), arrived + SECOND);
    assert_eq!(seen[0].at, arrived - 10 * SECOND);
}

#[test]
fn the_scheduler_says_by_an_event_which_node_it_is() {
    let (mut told, now) = told();
    told.hear(all(vec![new_pod("one")]), now);
    let message = "Successfully assigned ns/one to node-7";
    let event = event("one", "Scheduled", message, "2027-01-15T08:00:03.123456Z").unwrap();

    let seen = told.hear(News::Events(Change::Set(event)), now + SECOND);

    assert_eq!(
        (seen[0].milestone, seen[0].at),
        (Milestone::Scheduled, now + SECOND)
    );
    assert_eq!(seen[0].stamp, Some(1_800_000_003));
    assert_eq!(seen[0].detail.as_deref(), Some("node-7"));
}

#[test]
fn events_that_tell_nothing_of_a_start_are_not_kept() {
    for (reason, message) in [
        ("Killing", "Stopping container user-container"),
        ("Scheduled", "nobody knows where"),
        ("Pulled", "of which container"),
        ("", ""),
    ] {
        assert_eq!(event("one", reason, message, THEN), None, "{reason}");
    }
}

#[test]
fn a_pod_without_a_node_from_before_is_given_less_time_and_what_was_to_come_long_ago_does_not_come()
{
    let (mut told, arrived) = told();
    told.hear(
        all(vec![without_node("old", "2027-01-15T07:00:00Z")]),
        arrived,
    );
    let long_ago = event(
        "old",
        "TriggeredScaleUp",
        "pod triggered scale-up",
        "2027-01-15T07:00:10Z",
    );
    told.hear(News::Events(Change::All(vec![long_ago.unwrap()])), arrived);
    assert_eq!(told.verdict().unwrap().from, arrived + PATIENCE);

    told.hear(set(without_node("new", THEN)), arrived + SECOND);
    let verdict = told.verdict().unwrap();
    assert_eq!(verdict.from, arrived + SECOND + NODE_PATIENCE);
    assert_eq!(&*verdict.reason, "Unschedulable");

    let comes = event(
        "new",
        "Nominated",
        "Pod should schedule on: nodeclaim/x",
        THEN,
    );
    told.hear(News::Events(Change::Set(comes.unwrap())), arrived);
    assert_eq!(told.verdict(), None, "there is hope for one of them");
    told.hear(News::Pods(Change::Gone(Key::new("ns", "new"))), arrived);
    assert_eq!(told.verdict().unwrap().from, arrived + PATIENCE);
}

#[test]
fn whatever_is_missing_or_null_so_many_pods_are_remembered_and_no_more() {
    let (mut told, now) = told();
    for number in 0..PODS + 9 {
        let object = json!({
            "metadata": {"name": "x", "uid": number.to_string()},
            "status": {"containerStatuses": null, "conditions": null},
        });
        told.hear(
            set(KeptPod::of(&serde_json::from_value(object).unwrap())),
            now,
        );
    }
    assert_eq!(told.coming().count(), PODS);
}
