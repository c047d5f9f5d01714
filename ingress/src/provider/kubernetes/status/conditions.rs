//! What a KIngress's status has to be: pure, and exactly as Knative's shared reconciler computes it.
//!
//! Sources: knative/networking `pkg/apis/networking/v1alpha1/ingress_lifecycle.go` (the marks), knative/pkg
//! `apis/condition_set.go` (what a mark does to Ready), knative/pkg `reconciler/reconcile_common.go` (what happens
//! before and after), knative-extensions/net-kourier `pkg/reconciler/ingress/ingress.go` (which marks, in which order).

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const READY: &str = "Ready";
const NETWORK_CONFIGURED: &str = "NetworkConfigured";
const LOAD_BALANCER_READY: &str = "LoadBalancerReady";
/// What Ready follows from, in the order of the condition set.
const DEPENDENTS: [&str; 2] = [NETWORK_CONFIGURED, LOAD_BALANCER_READY];

/// Begins the message of a KIngress whose load balancer is not ready, and is all of it at first.
pub const WAITING: &str = "Waiting for load balancer to be ready";
/// Begins the message of a KIngress that is refused.
pub const REJECTED: &str = "Ingress rejected: ";

/// `status` of a KIngress. What is in it and has no meaning here stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressStatus {
    /// The generation this status is about.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Sorted by type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How the external entrance is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_load_balancer: Option<LoadBalancer>,
    /// How the cluster-local entrance is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_load_balancer: Option<LoadBalancer>,
    /// Annotations, for instance.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One condition. Source: knative/pkg `apis/condition_types.go`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Empty when others depend on it, as for all three of a KIngress.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// When anything else of it last changed, in RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
    /// In one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How an entrance is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Serving takes exactly one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Address>,
}

/// One way to reach an entrance. We write `domainInternal`; the others are read to see whether they are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// An address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// A name outside the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// A Service's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain_internal: String,
    /// By a mesh alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mesh_only: bool,
}

/// The names under which the entrances are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrances {
    /// The external entrance: `SERVICE.NAMESPACE.svc.DOMAIN`.
    pub public: String,
    /// The cluster-local one.
    pub private: String,
}

/// What is to be said of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in effect everywhere.
    Ready,
    /// It is not in effect everywhere yet; the message begins with [`WAITING`].
    Pending(String),
    /// It cannot be served.
    Refused {
        /// In one word.
        reason: &'static str,
        /// For people, without [`REJECTED`].
        message: String,
    },
    /// It waits for something in the cluster.
    Waiting {
        /// In one word.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl Entrances {
    /// The names of the gateway's Services.
    pub fn of(namespace: &str, public: &str, private: &str, cluster_domain: &str) -> Self {
        let name = |service: &str| format!("{service}.{namespace}.svc.{cluster_domain}");
        Self {
            public: name(public),
            private: name(private),
        }
    }
}

impl LoadBalancer {
    fn at(name: &str) -> Self {
        Self {
            ingress: vec![Address {
                domain_internal: name.to_owned(),
                ..Address::default()
            }],
        }
    }

    fn is_at(&self, name: &str) -> bool {
        matches!(self.ingress.as_slice(), [one] if one.domain_internal == name && one.ip.is_empty())
    }
}

impl IngressStatus {
    /// Reads what the API has; what cannot be read counts as not there.
    pub fn read(status: Value) -> Self {
        serde_json::from_value(status).unwrap_or_default()
    }

    /// Whether this already says that the generation is in effect, and where.
    pub fn is_ready_at(&self, generation: i64, entrances: &Entrances) -> bool {
        let is_at = |balancer: &Option<LoadBalancer>, name: &str| {
            balancer
                .as_ref()
                .is_some_and(|balancer| balancer.is_at(name))
        };
        self.observed_generation == generation
            && [READY, LOAD_BALANCER_READY, NETWORK_CONFIGURED]
                .iter()
                .all(|kind| {
                    self.condition(kind)
                        .is_some_and(|condition| condition.status == "True")
                })
            && is_at(&self.public_load_balancer, &entrances.public)
            && is_at(&self.private_load_balancer, &entrances.private)
    }

    /// What it has to be for this verdict; equal to `self` when nothing is to be written.
    #[must_use]
    pub fn after(
        &self,
        generation: i64,
        verdict: &Verdict,
        entrances: &Entrances,
        now: Timestamp,
    ) -> Self {
        let mut draft = Draft {
            status: self.clone(),
            now: seconds(now),
        };
        draft.initialize();
        if self.observed_generation != generation {
            let message = "unsuccessfully observed a new generation";
            draft.unknown(READY, "NewObservedGenFailure", message);
        }
        match verdict {
            Verdict::Ready => {
                draft.all_well(NETWORK_CONFIGURED);
                draft.status.public_load_balancer = Some(LoadBalancer::at(&entrances.public));
                draft.status.private_load_balancer = Some(LoadBalancer::at(&entrances.private));
                draft.all_well(LOAD_BALANCER_READY);
            }
            Verdict::Pending(message) => {
                draft.all_well(NETWORK_CONFIGURED);
                draft.unknown(LOAD_BALANCER_READY, "Uninitialized", message);
            }
            Verdict::Refused { reason, message } => {
                draft.failed(LOAD_BALANCER_READY, reason, &format!("{REJECTED}{message}"));
            }
            Verdict::Waiting { reason, message } => draft.unknown(READY, reason, message),
        }
        let Draft { mut status, now } = draft;
        status.observed_generation = generation;
        status.date(self, &now);
        status
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    /// A condition's time moves only when anything else of it has (`groomConditionsTransitionTime`).
    fn date(&mut self, before: &Self, now: &str) {
        for condition in &mut self.conditions {
            if let Some(before) = before.condition(&condition.kind) {
                condition
                    .last_transition_time
                    .clone_from(&before.last_transition_time);
                if condition == before {
                    continue;
                }
            }
            now.clone_into(&mut condition.last_transition_time);
        }
    }
}

/// A status while it is worked on.
struct Draft {
    status: IngressStatus,
    now: String,
}

impl Draft {
    /// `InitializeConditions`: what is not there is unknown. An unhappy Ready that is there stays.
    fn initialize(&mut self) {
        let is_ready = self
            .status
            .condition(READY)
            .map(|ready| ready.status == "True");
        if is_ready.is_none() {
            self.set(READY, "Unknown", "", "");
        }
        for kind in DEPENDENTS {
            if self.status.condition(kind).is_none() {
                // A Ready from a time without this dependent stays true, and so did the dependent.
                let status = if is_ready == Some(true) {
                    "True"
                } else {
                    "Unknown"
                };
                self.set(kind, status, "", "");
            }
        }
    }

    /// `MarkTrue`.
    fn all_well(&mut self, kind: &str) {
        self.set(kind, "True", "", "");
        match self.unhappy_dependent() {
            Some(unhappy) => self.set(READY, &unhappy.status, &unhappy.reason, &unhappy.message),
            None => self.set(READY, "True", "", ""),
        }
    }

    /// `MarkUnknown`.
    fn unknown(&mut self, kind: &str, reason: &str, message: &str) {
        self.set(kind, "Unknown", reason, message);
        for dependent in DEPENDENTS {
            let has_failed = |status: &IngressStatus, kind: &str| {
                status
                    .condition(kind)
                    .is_some_and(|condition| condition.status == "False")
            };
            if has_failed(&self.status, dependent) {
                // What has failed trumps what is unknown.
                if !has_failed(&self.status, READY) {
                    self.set(READY, "False", reason, message);
                }
                return;
            }
        }
        if DEPENDENTS.contains(&kind) {
            self.set(READY, "Unknown", reason, message);
        }
    }

    /// `MarkFalse`.
    fn failed(&mut self, kind: &str, reason: &str, message: &str) {
        self.set(kind, "False", reason, message);
        if DEPENDENTS.contains(&kind) {
            self.set(READY, "False", reason, message);
        }
    }

    /// `SetCondition`: what would only change the time is left alone.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let mut condition = Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Condition::default()
        };
        let conditions = &mut self.status.conditions;
        if let Some(before) = conditions.iter().find(|before| before.kind == kind) {
            condition
                .last_transition_time
                .clone_from(&before.last_transition_time);
            if condition == *before {
                return;
            }
        }
        condition.last_transition_time.clone_from(&self.now);
        conditions.retain(|before| before.kind != kind);
        conditions.push(condition);
        conditions.sort_by(|one, other| one.kind.cmp(&other.kind));
    }

    /// `findUnhappyDependent`: one that has failed before one that is unknown, the latest first.
    fn unhappy_dependent(&self) -> Option<Condition> {
        let dependents = self
            .status
            .conditions
            .iter()
            .filter(|condition| condition.kind != READY && condition.severity.is_empty());
        let mut dependents: Vec<&Condition> = dependents.collect();
        // Times of one form sort as text.
        dependents.sort_by(|one, other| other.last_transition_time.cmp(&one.last_transition_time));
        let find = |status: &str| {
            dependents
                .iter()
                .find(|condition| condition.status == status)
        };
        find("False")
            .or_else(|| find("Unknown"))
            .map(|found| (*found).clone())
    }
}

/// In RFC 3339 without fractions, as Kubernetes writes times.
fn seconds(now: Timestamp) -> String {
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    whole.to_string()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn entrances() -> Entrances {
        Entrances::of(
            "kourier-system",
            "kourier",
            "kourier-internal",
            "cluster.local",
        )
    }

    fn at(second: i64) -> Timestamp {
        "2026-11-22T11:54:00Z".parse::<Timestamp>().unwrap()
            + k8s_openapi::jiff::SignedDuration::from_secs(second)
    }

    fn pending() -> Verdict {
        Verdict::Pending(WAITING.to_owned())
    }

    fn json(status: &IngressStatus) -> Value {
        serde_json::to_value(status).unwrap()
    }

    /// Every recorded KIngress: those of the conformance suite, generation by generation, and those of Serving.
    fn recorded() -> Vec<Value> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let text = std::fs::read_to_string(fixtures.join("conformance/updates.jsonl")).unwrap();
        let mut objects: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for folder in [
            "conformance/ingress",
            "serving/main/ingress",
            "serving/tag-header/ingress",
        ] {
            for entry in std::fs::read_dir(fixtures.join(folder)).unwrap() {
                let text = std::fs::read(entry.unwrap().path()).unwrap();
                objects.push(serde_json::from_slice(&text).unwrap());
            }
        }
        objects
    }

    #[test]
    fn a_first_generation_that_waits_looks_as_recorded() {
        let status = IngressStatus::default().after(1, &pending(), &entrances(), at(3));
        let expected = json!({
            "observedGeneration": 1,
            "conditions": [
                {"type": "LoadBalancerReady", "status": "Unknown", "lastTransitionTime": "2026-11-22T11:54:03Z", "reason": "Uninitialized", "message": "Waiting for load balancer to be ready"},
                {"type": "NetworkConfigured", "status": "True", "lastTransitionTime": "2026-11-22T11:54:03Z"},
                {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T11:54:03Z", "reason": "Uninitialized", "message": "Waiting for load balancer to be ready"},
            ],
        });
        assert_eq!(json(&status), expected);
    }

    #[test]
    fn a_generation_in_effect_looks_as_recorded() {
        let waiting = IngressStatus::default().after(1, &pending(), &entrances(), at(3));
        let ready = waiting.after(1, &Verdict::Ready, &entrances(), at(5));
        let expected = json!({
            "observedGeneration": 1,
            "conditions": [
                {"type": "LoadBalancerReady", "status": "True", "lastTransitionTime": "2026-11-22T11:54:05Z"},
                {"type": "NetworkConfigured", "status": "True", "lastTransitionTime": "2026-11-22T11:54:03Z"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T11:54:05Z"},
            ],
            "publicLoadBalancer": {"ingress": [{"domainInternal": "kourier.kourier-system.svc.cluster.local"}]},
            "privateLoadBalancer": {"ingress": [{"domainInternal": "kourier-internal.kourier-system.svc.cluster.local"}]},
        });
        assert_eq!(json(&ready), expected);
        assert!(ready.is_ready_at(1, &entrances()));
        assert!(!waiting.is_ready_at(1, &entrances()));
    }

    #[test]
    fn recorded_statuses_are_read_without_loss_and_need_no_change() {
        let mut ready = 0;
        for object in recorded() {
            let generation = object["metadata"]["generation"].as_i64().unwrap();
            let status = IngressStatus::read(object["status"].clone());
            assert_eq!(json(&status), object["status"]);
            if status.is_ready_at(generation, &entrances()) {
                ready += 1;
                assert_eq!(
                    status.after(generation, &Verdict::Ready, &entrances(), at(99)),
                    status
                );
            }
        }
        assert!(ready > 50, "{ready}");
    }

    #[test]
    fn a_new_generation_of_a_ready_one_waits_and_keeps_its_addresses() {
        let ready = IngressStatus::default().after(1, &Verdict::Ready, &entrances(), at(3));
        let waiting = ready.after(2, &pending(), &entrances(), at(5));
        let of = |kind: &str| waiting.condition(kind).unwrap().clone();
        assert_eq!(waiting.observed_generation, 2);
        assert_eq!(of(READY).status, "Unknown");
        assert_eq!(of(READY).reason, "Uninitialized");
        assert_eq!(
            of(NETWORK_CONFIGURED).last_transition_time,
            "2026-11-22T11:54:03Z"
        );
        assert_eq!(waiting.public_load_balancer, ready.public_load_balancer);
        // In effect everywhere before anybody wrote that it is not: only the generation moves.
        let at_once = ready.after(2, &Verdict::Ready, &entrances(), at(5));
        assert_eq!(
            at_once,
            IngressStatus {
                observed_generation: 2,
                ..ready
            }
        );
    }

    #[test]
    fn the_same_verdict_again_changes_nothing() {
        let verdicts = [
            Verdict::Ready,
            pending(),
            Verdict::Refused {
                reason: "DomainConflict",
                message: "a".to_owned(),
            },
            Verdict::Waiting {
                reason: "ReconcileIngressFailed",
                message: "b".to_owned(),
            },
        ];
        for before in &verdicts {
            for verdict in &verdicts {
                let status = IngressStatus::default().after(1, before, &entrances(), at(0));
                let once = status.after(2, verdict, &entrances(), at(1));
                assert_eq!(
                    once.after(2, verdict, &entrances(), at(2)),
                    once,
                    "{before:?} {verdict:?}"
                );
            }
        }
    }

    #[test]
    fn a_host_conflict_is_a_failure_of_the_load_balancer() {
        let ready = IngressStatus::default().after(1, &Verdict::Ready, &entrances(), at(0));
        let refused = Verdict::Refused {
            reason: "DomainConflict",
            message: "duplicate domain".to_owned(),
        };
        let status = ready.after(2, &refused, &entrances(), at(1));
        for kind in [READY, LOAD_BALANCER_READY] {
            let condition = status.condition(kind).unwrap();
            assert_eq!(condition.status, "False");
            assert_eq!(condition.reason, "DomainConflict");
            assert_eq!(condition.message, "Ingress rejected: duplicate domain");
        }
        assert_eq!(status.condition(NETWORK_CONFIGURED).unwrap().status, "True");
        let mended = status.after(3, &pending(), &entrances(), at(2));
        assert_eq!(mended.condition(READY).unwrap().status, "Unknown");
    }

    #[test]
    fn what_is_missing_makes_ready_unknown_and_nothing_else() {
        let ready = IngressStatus::default().after(1, &Verdict::Ready, &entrances(), at(0));
        let message = "secret \"x\" not found";
        let waiting = Verdict::Waiting {
            reason: "ReconcileIngressFailed",
            message: message.to_owned(),
        };
        let status = ready.after(2, &waiting, &entrances(), at(1));
        let expected = json!([
            {"type": "LoadBalancerReady", "status": "True", "lastTransitionTime": "2026-11-22T11:54:00Z"},
            {"type": "NetworkConfigured", "status": "True", "lastTransitionTime": "2026-11-22T11:54:00Z"},
            {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-22T11:54:01Z", "reason": "ReconcileIngressFailed", "message": message},
        ]);
        assert_eq!(json(&status)["conditions"], expected);
        // Found meanwhile, it is still not in effect everywhere.
        let found = status.after(2, &pending(), &entrances(), at(2));
        assert_eq!(found.condition(READY).unwrap().reason, "Uninitialized");
    }

    #[test]
    fn what_others_wrote_stays_unless_it_is_ours() {
        let theirs = json!({
            "observedGeneration": 4,
            "annotations": {"a": "b"},
            "conditions": [
                {"type": "Extra", "status": "False", "severity": "Info", "message": "x"},
                {"type": "NetworkConfigured", "status": "False", "reason": "NotOwned"},
            ],
            "publicLoadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"meshOnly": true}]},
        });
        let status = IngressStatus::read(theirs.clone());
        assert_eq!(json(&status), theirs);
        let ready = status.after(4, &Verdict::Ready, &entrances(), at(0));
        assert!(ready.is_ready_at(4, &entrances()));
        assert_eq!(json(&ready)["annotations"], theirs["annotations"]);
        assert_eq!(json(&ready)["conditions"][0]["type"], "Extra");
        let kinds: Vec<&str> = ready
            .conditions
            .iter()
            .map(|condition| condition.kind.as_str())
            .collect();
        assert_eq!(
            kinds,
            ["Extra", "LoadBalancerReady", "NetworkConfigured", "Ready"]
        );
    }

    #[test]
    fn what_cannot_be_read_counts_as_nothing() {
        for broken in [
            json!(null),
            json!(7),
            json!({"conditions": "x"}),
            json!({"observedGeneration": "1"}),
        ] {
            assert_eq!(IngressStatus::read(broken), IngressStatus::default());
        }
    }

    #[test]
    fn ready_under_other_names_is_not_ready() {
        let ready = IngressStatus::default().after(1, &Verdict::Ready, &entrances(), at(0));
        let ours = Entrances::of(
            "knative-serving",
            "parkway",
            "parkway-internal",
            "cluster.local",
        );
        assert!(!ready.is_ready_at(1, &ours));
        let moved = ready.after(1, &Verdict::Ready, &ours, at(1));
        assert!(moved.is_ready_at(1, &ours));
        assert_eq!(moved.conditions, ready.conditions);
    }
}
