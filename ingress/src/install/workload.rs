//! How a Deployment comes along, and why it does not.

use serde_json::Value;

use super::api::{ApiError, Cluster};
use super::object::{Name, Object};
use super::progress::{Failure, State};

/// Which of its `ReplicaSet`s is a Deployment's newest.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

/// Whether a Pod that cannot start is given up at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Once it is clear that it will not start by itself.
    GivesUp,
    /// Only when the time is over.
    Waits,
}

/// How far a Deployment is: all its Pods new, and as many ready as there should be.
///
/// Source: kubernetes/kubectl `pkg/polymorphichelpers/rollout_status.go`.
///
/// # Errors
///
/// When it is gone, or its Pods cannot start.
pub async fn rollout(cluster: &Cluster, name: &Name, patience: Patience) -> Result<State, Failure> {
    let Some(deployment) = cluster.get(name).await? else {
        return Err(Failure::new(format!("{name} is gone")));
    };
    let wanted = match deployment.0.pointer("/spec/replicas") {
        Some(_) => deployment.number("/spec/replicas"),
        None => 1,
    };
    let updated = deployment.number("/status/updatedReplicas");
    let available = deployment.number("/status/availableReplicas");
    let all = deployment.number("/status/replicas");
    let is_observed = deployment.number("/status/observedGeneration")
        >= deployment.number("/metadata/generation");
    if is_observed && updated >= wanted && all <= updated && available >= updated {
        return Ok(State::Done(format!("{available} of {wanted} Pods ready")));
    }
    if !is_observed {
        // What there is of Pods and troubles is of before.
        return Ok(State::Waiting("not begun yet".to_owned()));
    }
    let old = (all - updated).max(0);
    // Those that are available may all be old ones.
    let mut how = format!("{} of {wanted} new Pods ready", (available - old).max(0));
    if old > 0 {
        how.push_str(&format!(", {old} old still there"));
    }
    match trouble(cluster, &deployment).await? {
        Some(trouble) if trouble.is_lasting && patience == Patience::GivesUp => {
            Err(Failure::new(format!("{name}: {}", trouble.what)).mend(trouble.mend))
        }
        Some(trouble) => Ok(State::Waiting(format!("{how}; {}", trouble.what))),
        None => Ok(State::Waiting(how)),
    }
}

/// What keeps a Pod from starting.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    what: String,
    mend: String,
    /// It will not pass by itself.
    is_lasting: bool,
}

async fn trouble(cluster: &Cluster, deployment: &Object) -> Result<Option<Trouble>, ApiError> {
    if let Some(trouble) = of_deployment(deployment) {
        return Ok(Some(trouble));
    }
    let pods = new_pods(cluster, deployment).await?;
    for pod in &pods {
        if let Some(trouble) = of_pod(pod) {
            return Ok(Some(trouble));
        }
    }
    // Nothing of the Pod's status says why: a volume that cannot be mounted is only in its events.
    for pod in pods.iter().filter(|pod| !is_ready(pod)) {
        if let Some(trouble) = of_events(cluster, pod).await? {
            return Ok(Some(trouble));
        }
    }
    Ok(None)
}

/// The Pods of the Deployment's newest `ReplicaSet`: those before it may be in trouble that is over.
///
/// Source: kubernetes `pkg/controller/deployment/util/deployment_util.go`.
async fn new_pods(cluster: &Cluster, deployment: &Object) -> Result<Vec<Object>, ApiError> {
    let namespace = deployment.namespace();
    let labels = deployment.0.pointer("/spec/template/metadata/labels");
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let labels: Vec<_> = labels
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
        .collect();
    let selector = labels.join(",");
    let sets = cluster
        .list(
            "apps/v1",
            "ReplicaSet",
            namespace,
            &[("labelSelector", &selector)],
        )
        .await?;
    let revision = deployment.annotation(REVISION);
    let newest = sets
        .iter()
        .find(|set| revision.is_some() && set.annotation(REVISION) == revision);
    let Some(hash) = newest.and_then(|set| set.label("pod-template-hash")) else {
        return Ok(Vec::new());
    };
    let selector = format!("{selector},pod-template-hash={hash}");
    cluster
        .list("v1", "Pod", namespace, &[("labelSelector", &selector)])
        .await
}

/// Pods that may not even be made: by a quota, or by Pod security admission.
fn of_deployment(deployment: &Object) -> Option<Trouble> {
    let conditions = deployment.list("/status/conditions");
    let failure = conditions
        .iter()
        .find(|one| one["type"] == "ReplicaFailure" && one["status"] == "True")?;
    let message = failure["message"].as_str().unwrap_or_default();
    Some(Trouble {
        what: format!("its Pods cannot be made: {message}"),
        mend: "see what the namespace forbids: quota, Pod security labels, admission webhooks"
            .to_owned(),
        is_lasting: false,
    })
}

fn of_pod(pod: &Object) -> Option<Trouble> {
    let name = pod.name();
    let namespace = pod.namespace().unwrap_or_default();
    let statuses = pod.list("/status/containerStatuses").iter();
    let inits = pod.list("/status/initContainerStatuses").iter();
    for status in inits.chain(statuses) {
        let at = |pointer: &str| {
            let found = status.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let (reason, message) = (at("/state/waiting/reason"), at("/state/waiting/message"));
        let trouble = match reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                let image = at("/image");
                Trouble {
                    what: format!("the image {image} cannot be pulled: {message}"),
                    mend: "push the image to where the nodes can pull it (on kind: `kind load docker-image`), or choose another with --image".to_owned(),
                    // Tried again once before it is given up.
                    is_lasting: reason != "ErrImagePull",
                }
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Trouble {
                    what: format!("Pod {name} cannot be started: {message}"),
                    mend: format!("`kubectl -n {namespace} describe pod {name}` says more"),
                    is_lasting: true,
                }
            }
            "CrashLoopBackOff" => {
                let code = status.pointer("/lastState/terminated/exitCode");
                let code = code.map_or_else(|| "?".to_owned(), Value::to_string);
                let last = at("/lastState/terminated/message");
                let words = if last.is_empty() {
                    String::new()
                } else {
                    format!(": {}", last.trim())
                };
                Trouble {
                    what: format!("Pod {name} ends again and again, with status {code}{words}"),
                    mend: format!("`kubectl -n {namespace} logs {name}` says why"),
                    is_lasting: true,
                }
            }
            _ => continue,
        };
        return Some(trouble);
    }
    let conditions = pod.list("/status/conditions");
    let unscheduled = conditions
        .iter()
        .find(|one| one["type"] == "PodScheduled" && one["status"] == "False")?;
    let message = unscheduled["message"].as_str().unwrap_or_default();
    Some(Trouble {
        what: format!("Pod {name} finds no node: {message}"),
        mend: "add nodes, or free some of what the Pods ask for".to_owned(),
        is_lasting: false,
    })
}

fn is_ready(pod: &Object) -> bool {
    let mut conditions = pod.list("/status/conditions").iter();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

async fn of_events(cluster: &Cluster, pod: &Object) -> Result<Option<Trouble>, ApiError> {
    let name = pod.name();
    let namespace = pod.namespace();
    let selector = format!("involvedObject.name={name},type=Warning");
    let events = cluster
        .list("v1", "Event", namespace, &[("fieldSelector", &selector)])
        .await;
    let Ok(events) = events else {
        return Ok(None); // who may not read events is told the rest
    };
    let of_pod = events.iter().filter(|event| {
        event.text("/involvedObject/name") == name && event.text("/type") == "Warning"
    });
    let Some(last) = of_pod.max_by_key(|event| event.text("/lastTimestamp").to_owned()) else {
        return Ok(None);
    };
    Ok(Some(Trouble {
        what: format!("Pod {name}: {}", last.text("/message")),
        mend: format!(
            "`kubectl -n {} describe pod {name}` says more",
            namespace.unwrap_or_default()
        ),
        is_lasting: false,
    }))
}
