//! What is kept of a Pod, and of an Event of one: how far it is, and what speaks against it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::objects::{ContainerStatus, Event, Pod, PodCondition};

/// Containers of a Pod that are looked at; the first ones count.
const CONTAINERS: usize = 32;

/// A step of a Pod that has been made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// When, as the object says: whole seconds since 1970.
    pub stamp: Option<i64>,
    /// What is known besides.
    pub detail: Box<str>,
}

/// How far a Pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPod {
    /// Its name.
    pub name: Box<str>,
    /// Its own number: a Pod of the same name may follow it.
    pub uid: Box<str>,
    /// Nobody waits for it: it is about to end, or has.
    pub is_leaving: bool,
    /// When it was made: whole seconds since 1970.
    pub created: Option<i64>,
    /// Its node.
    pub scheduled: Option<Step>,
    /// Its address.
    pub addressed: Option<Step>,
    /// Its containers.
    pub containers: Vec<KeptContainer>,
    /// Why it cannot start.
    pub obstacle: Option<Obstacle>,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptContainer {
    /// Its name.
    pub name: Box<str>,
    /// It has been started, and then: whole seconds since 1970.
    pub started: Option<Option<i64>>,
}

/// Why a Pod cannot start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Kubernetes has tried, and waits longer and longer between further attempts, or sees no use in them.
    GivenUp(Box<str>),
    /// There is no node for it; one may come.
    NoNode(Box<str>),
}

/// What an Event says of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Which Pod.
    pub pod: Box<str>,
    /// What.
    pub news: PodNews,
    /// When, as the object says: whole seconds since 1970.
    pub stamp: Option<i64>,
}

/// What can have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodNews {
    /// It has this node.
    Scheduled(Box<str>),
    /// The image of this container is there; what is said of that.
    Pulled(Box<str>, Box<str>),
    /// This container was started.
    Started(Box<str>),
    /// A node is being made for it.
    NodeComes,
}

impl KeptPod {
    /// What is kept of a Pod.
    pub fn of(object: &Pod) -> Self {
        let (spec, status) = (&object.spec, &object.status);
        let is_over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        let condition = |kind: &str| {
            let found = status.conditions.iter().find(|known| known.kind == kind);
            found.filter(|condition| condition.status == "True")
        };
        let stamp_of =
            |kind| condition(kind).and_then(|it| seconds(it.last_transition_time.as_ref()));
        let scheduled = (!spec.node_name.is_empty()).then(|| Step {
            stamp: stamp_of("PodScheduled"),
            detail: spec.node_name.as_str().into(),
        });
        let addressed = (!status.pod_ip.is_empty()).then(|| Step {
            stamp: stamp_of("PodReadyToStartContainers"),
            detail: status.pod_ip.as_str().into(),
        });
        let containers = { spec.containers.iter().take(CONTAINERS) }.map(|container| {
            let mut all = status.container_statuses.iter();
            let status = all.find(|status| status.name == container.name);
            KeptContainer {
                name: container.name.as_str().into(),
                started: status.and_then(started),
            }
        });
        Self {
            name: object.metadata.name.as_deref().unwrap_or_default().into(),
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            is_leaving: is_over || object.metadata.deletion_timestamp.is_some(),
            created: created(&object.metadata),
            scheduled,
            addressed,
            containers: containers.collect(),
            obstacle: obstacle(&status.container_statuses, &status.conditions),
        }
    }
}

impl KeptEvent {
    /// What is kept of an Event; nothing of most.
    ///
    /// Sources of the words: kubernetes/kubernetes `pkg/kubelet/events/event.go` (`Pulled`, `Started`) and
    /// `pkg/scheduler/schedule_one.go` (`Scheduled`); kubernetes/autoscaler
    /// `cluster-autoscaler/processors/status/eventing_scale_up_processor.go` (`TriggeredScaleUp`);
    /// kubernetes-sigs/karpenter `pkg/controllers/provisioning/scheduling/events.go` (`Nominated`).
    pub fn of(object: &Event) -> Option<Self> {
        let container = || {
            let path = object.involved_object.field_path.as_str();
            let name = path.strip_prefix("spec.containers{")?.strip_suffix('}')?;
            Some(Box::from(name))
        };
        let news = match object.reason.as_str() {
            "Scheduled" => {
                let (_, node) = object.message.rsplit_once(" to ")?;
                PodNews::Scheduled(node.into())
            }
            "Pulled" => PodNews::Pulled(container()?, object.message.as_str().into()),
            "Started" => PodNews::Started(container()?),
            "TriggeredScaleUp" | "Nominated" => PodNews::NodeComes,
            _ => return None,
        };
        let happened = seconds(object.last_timestamp.as_ref());
        let first = || Some(object.event_time.as_ref()?.0.as_second());
        Some(Self {
            pod: object.involved_object.uid.as_str().into(),
            news,
            stamp: happened
                .or_else(first)
                .or_else(|| created(&object.metadata)),
        })
    }
}

/// A container that has been started once counts, whatever became of it.
fn started(status: &ContainerStatus) -> Option<Option<i64>> {
    let of_state = |state: &super::objects::ContainerState| {
        let running = state.running.as_ref().map(|it| it.started_at.as_ref());
        let ended = state.terminated.as_ref().map(|it| it.started_at.as_ref());
        running.or(ended).map(seconds)
    };
    of_state(&status.state).or_else(|| of_state(&status.last_state))
}

/// Source of the words: kubernetes/kubernetes `pkg/kubelet/images/types.go` (`ImagePullBackOff`, `InvalidImageName`,
/// `ErrImageNeverPull`), `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`CrashLoopBackOff`, from the second end of a
/// container on) and kubernetes/api `core/v1/types.go` (`Unschedulable`). A first `ErrImagePull` or a first crash is
/// none: the kubelet tries again at once.
fn obstacle(containers: &[ContainerStatus], conditions: &[PodCondition]) -> Option<Obstacle> {
    let given_up = containers.iter().find_map(|container| {
        let waiting = container.state.waiting.as_ref()?;
        let message = match waiting.reason.as_str() {
            "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                waiting.message.clone()
            }
            // What is said is when it is tried again, and which Pod it is.
            "CrashLoopBackOff" => crashed(container),
            _ => return None,
        };
        Some(Obstacle::GivenUp(said(&waiting.reason, &message)))
    });
    let no_node = || {
        let mut all = conditions.iter();
        let scheduled = all.find(|condition| condition.kind == "PodScheduled")?;
        let is_without = scheduled.status == "False" && scheduled.reason == "Unschedulable";
        is_without.then(|| Obstacle::NoNode(said(&scheduled.reason, &scheduled.message)))
    };
    given_up.or_else(no_node)
}

fn crashed(container: &ContainerStatus) -> String {
    let name = &container.name;
    match &container.last_state.terminated {
        Some(ended) if ended.reason.is_empty() => {
            format!("container {name} ended with exit code {}", ended.exit_code)
        }
        Some(ended) => format!(
            "container {name} ended with exit code {} ({})",
            ended.exit_code, ended.reason
        ),
        None => format!("container {name} ends again and again"),
    }
}

/// As the condition of a Revision is told.
fn said(reason: &str, message: &str) -> Box<str> {
    match message {
        "" => reason.into(),
        message => format!("{reason}: {message}").into(),
    }
}

fn created(metadata: &ObjectMeta) -> Option<i64> {
    seconds(metadata.creation_timestamp.as_ref())
}

fn seconds(time: Option<&Time>) -> Option<i64> {
    time.map(|time| time.0.as_second())
}
