//! What to run for a Revision when there is no cluster: the part of a container that a local process needs.
//!
//! A leaf: the file provider makes it from `spec.template.spec.containers[0]`, `standalone` runs it.

use std::path::PathBuf;
use std::time::Duration;

use parkway_activator::revision::{Protocol, RevisionId};

/// How to run one replica of a Revision as a local process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The Revision it serves.
    pub revision: RevisionId,
    /// `K_SERVICE`; empty when the Revision belongs to no Service.
    pub service: String,
    /// `K_CONFIGURATION`; empty when the Revision belongs to no Configuration.
    pub configuration: String,
    /// Program and its first arguments; never empty.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment in the manifest's order, on top of Parkway's own.
    pub env: Vec<(String, String)>,
    /// Directory to run in; a relative one is resolved against the manifest's folder. None: Parkway's own.
    pub working_dir: Option<PathBuf>,
    /// What it speaks on `$PORT`.
    pub protocol: Protocol,
    /// When a new process may get requests.
    pub readiness: Readiness,
    /// How long it may take to become ready before its start counts as failed. Default 600 s
    /// (`serving.knative.dev/progress-deadline`).
    pub progress_deadline: Duration,
    /// How long it may take to end after SIGTERM before SIGKILL. Default: the Revision's `timeoutSeconds`, as for Pods.
    pub termination_grace: Duration,
}

/// When a new process may get requests: `readinessProbe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// What is asked.
    pub check: ReadinessCheck,
    /// `successThreshold`: how many passes in a row. At least 1.
    pub successes: u32,
    /// `timeoutSeconds`: how long one attempt may take. Default 1 s.
    pub timeout: Duration,
    /// `initialDelaySeconds`: how long to wait before the first attempt. Default 0.
    pub initial_delay: Duration,
    /// `periodSeconds`: 0 means adaptively from the first millisecond, which is the default.
    pub period: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            check: ReadinessCheck::Tcp,
            successes: 1,
            timeout: Duration::from_secs(1),
            initial_delay: Duration::ZERO,
            period: Duration::ZERO,
        }
    }
}

/// What a readiness probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadinessCheck {
    /// The port accepts a connection.
    Tcp,
    /// `GET path` answers with a status from 200 to 399.
    Http {
        /// Path and query.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// The command ends with status 0.
    Exec {
        /// Program and arguments; never empty.
        command: Vec<String>,
    },
}
