//! Pods and Events as they come from the API server: only the fields that tell how far a start has come.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Resource;
use serde::Deserialize;

use super::super::objects::{needed_metadata, none_when_null, watched};

/// `v1` Pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// What it shall be.
    #[serde(default)]
    pub spec: PodFields,
    /// What it is.
    #[serde(default)]
    pub status: PodStatus,
}
watched!(Pod, "", "v1", "Pod", "pods");

/// The fields of a Pod's spec that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFields {
    /// Empty until it has a node.
    pub node_name: String,
    /// Its containers.
    pub containers: Vec<Named>,
}

/// What has a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// The fields of a Pod's status that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: String,
    /// Its conditions.
    #[serde(deserialize_with = "none_when_null")]
    pub conditions: Vec<PodCondition>,
    /// Empty until it has one.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// How its containers are.
    #[serde(deserialize_with = "none_when_null")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// A condition of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    #[serde(deserialize_with = "none_when_null")]
    pub reason: String,
    /// Why, for people.
    #[serde(deserialize_with = "none_when_null")]
    pub message: String,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

/// How a container is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// How it is now.
    pub state: ContainerState,
    /// How it was before it was started again.
    pub last_state: ContainerState,
}

/// One of these, or nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It waits.
    pub waiting: Option<Waiting>,
    /// It runs.
    pub running: Option<Running>,
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// Why a container waits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// In one word.
    #[serde(deserialize_with = "none_when_null")]
    pub reason: String,
    /// For people.
    #[serde(deserialize_with = "none_when_null")]
    pub message: String,
}

/// Since when a container runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since then.
    pub started_at: Option<Time>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// What its process ended with.
    pub exit_code: i32,
    /// In one word.
    #[serde(deserialize_with = "none_when_null")]
    pub reason: String,
    /// When it was started.
    pub started_at: Option<Time>,
}

/// `v1` Event.
///
/// Source: kubernetes/api `core/v1/types.go`. Who writes them by the newer `events.k8s.io` (the scheduler) fills
/// `eventTime` only, the kubelet `lastTimestamp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its metadata.
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    /// What it is about.
    #[serde(default)]
    pub involved_object: Involved,
    /// What happened, in one word.
    #[serde(default, deserialize_with = "none_when_null")]
    pub reason: String,
    /// What happened, for people.
    #[serde(default, deserialize_with = "none_when_null")]
    pub message: String,
    /// When it happened last.
    #[serde(default)]
    pub last_timestamp: Option<Time>,
    /// When it happened first, where nothing else is said.
    #[serde(default)]
    pub event_time: Option<MicroTime>,
}
watched!(Event, "", "v1", "Event", "events");

/// What an Event is about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Involved {
    /// The Pod.
    pub uid: String,
    /// A part of it: `spec.containers{NAME}`.
    #[serde(deserialize_with = "none_when_null")]
    pub field_path: String,
}
