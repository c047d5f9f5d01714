//! Pods as they were recorded while they were started, and Events as the sources of Kubernetes write them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::replay::Recording;
use crate::cluster::{NAMESPACE, Serving};

/// The Pod of the recorded cold start of `single`.
pub const COLD: &str = "single-00001-deployment-7c9b8f4fcf-6c8gc";
/// The Pod whose image cannot be pulled.
pub const BROKEN: &str = "broken-00001-deployment-6ff79848cd-txkml";

/// Everything that a watch of all Pods told, with the seconds since it began.
pub fn recorded() -> &'static [(Duration, Value)] {
    static RECORDED: OnceLock<Vec<(Duration, Value)>> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/watch");
        Recording::read(&folder.join("pods.watch.http")).events()
    })
}

/// One Pod, state after state.
pub fn recorded_of(pod: &str) -> Vec<(Duration, Value)> {
    let all = recorded().iter();
    all.filter(|(_, event)| event["object"]["metadata"]["name"] == pod)
        .map(|(time, event)| (*time, event["object"].clone()))
        .collect()
}

/// How far a Pod is: the states of [`COLD`], in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It is there.
    Created,
    /// It has a node.
    Scheduled,
    /// It has an address.
    Addressed,
    /// Its first container runs.
    FirstRuns,
    /// All its containers run.
    Runs,
    /// Kubernetes calls it ready.
    Ready,
}

/// A Pod of this Service, called so, with this address, as [`COLD`] was.
pub fn pod(serving: &Serving, name: &str, address: IpAddr, reached: Reached) -> Value {
    let (_, state) = recorded_of(COLD).swap_remove(reached as usize);
    let mut pod = under_name(&state, "single", serving, name);
    if pod["status"]["podIP"].is_string() {
        pod["status"]["podIP"] = address.to_string().into();
        pod["status"]["podIPs"] = json!([{"ip": address.to_string()}]);
    }
    pod
}

/// A Pod of this Service whose image cannot be pulled, as [`BROKEN`] was when its container first waited because of
/// `reason`.
pub fn broken_pod(serving: &Serving, name: &str, reason: &str) -> Value {
    let states = recorded_of(BROKEN).into_iter();
    let mut states = states.filter(|(_, state)| {
        let containers = state["status"]["containerStatuses"].as_array();
        let mut containers = containers.into_iter().flatten();
        containers.any(|container| container["state"]["waiting"]["reason"] == reason)
    });
    let (_, state) = states
        .next()
        .unwrap_or_else(|| panic!("none waits for {reason}"));
    under_name(&state, "broken", serving, name)
}

fn under_name(state: &Value, recorded: &str, serving: &Serving, name: &str) -> Value {
    let text = state.to_string();
    let text = text.replace(&format!("{recorded}-00001"), &serving.revision_name());
    let mut pod: Value = serde_json::from_str(&text).unwrap();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = format!("uid-of-{name}").into();
    let fields = pod["metadata"].as_object_mut().unwrap();
    fields.remove("managedFields");
    fields.remove("resourceVersion");
    pod
}

/// An Event of a Pod of ours, of one of its containers if that is named.
///
/// As the kubelet writes them: kubernetes/client-go `tools/record/event.go`, `makeEvent`.
pub fn event(pod: &str, container: Option<&str>, reason: &str, message: &str) -> Value {
    let number = container.unwrap_or("pod");
    let path = container.map(|name| format!("spec.containers{{{name}}}"));
    let now = "2026-11-22T11:49:30Z";
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{pod}.{number}.{}", reason.to_lowercase()), "namespace": NAMESPACE},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": NAMESPACE, "name": pod,
            "uid": format!("uid-of-{pod}"), "fieldPath": path,
        },
        "reason": reason,
        "message": message,
        "type": "Normal",
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "eventTime": null,
        "count": 1,
        "reportingComponent": "kubelet",
        "reportingInstance": "node-1",
    })
}
