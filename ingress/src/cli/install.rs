//! `parkway install` and `parkway uninstall`: which cluster, and what it is to have.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::{DEFAULT_INGRESS_CLASS, Role};

/// Which cluster is meant.
#[derive(Args, Clone, Debug)]
pub struct Access {
    /// Kubeconfig of the cluster. Default: $KUBECONFIG or ~/.kube/config, in a Pod its own `ServiceAccount`.
    #[arg(long, env = "PARKWAY_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Default: its current one.
    #[arg(long, env = "PARKWAY_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// Namespace of Knative Serving.
    #[arg(
        long,
        env = "SYSTEM_NAMESPACE",
        default_value = "knative-serving",
        value_name = "NAMESPACE"
    )]
    pub system_namespace: String,
}

/// Which cluster is meant, and how long it is waited for.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The cluster.
    #[command(flatten)]
    pub access: Access,

    /// How long each step may take to come true, in seconds.
    #[arg(long, env = "PARKWAY_TIMEOUT_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub timeout_seconds: u64,

    /// Do not wait for what the cluster makes of a change.
    #[arg(long, env = "PARKWAY_NO_WAIT")]
    pub no_wait: bool,
}

impl Target {
    /// The namespace of Knative Serving.
    pub fn namespace(&self) -> &str {
        &self.access.system_namespace
    }

    /// How long each step may take to come true.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

/// `parkway install`.
#[derive(Args, Clone, Debug)]
pub struct Install {
    /// The cluster.
    #[command(flatten)]
    pub target: Target,

    /// What to stand in for: the ingress, the activator, or both.
    #[arg(
        long,
        env = "PARKWAY_ROLES",
        value_enum,
        value_delimiter = ',',
        default_value = "ingress,activator",
        value_name = "ROLES"
    )]
    pub roles: Vec<Role>,

    /// Parkway's image. Default: the name that deploy/Containerfile is built under, of this version.
    #[arg(long, env = "PARKWAY_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,

    /// The fewest Pods; under load there are more. Default: as many as now, at first 1.
    #[arg(long, env = "PARKWAY_REPLICAS", value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "COUNT")]
    pub replicas: Option<u16>,

    /// Class of what is Parkway's among the `KIngress` objects.
    #[arg(long, env = "PARKWAY_INGRESS_CLASS", default_value = DEFAULT_INGRESS_CLASS, value_name = "CLASS")]
    pub ingress_class: String,

    /// Make that class the one of all Routes without another: sets config-network's ingress-class.
    #[arg(
        long,
        env = "PARKWAY_SET_INGRESS_CLASS",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub set_ingress_class: bool,

    /// Install Knative Serving from this release file first: serving-crds.yaml, serving-core.yaml, or both by giving
    /// the option twice.
    #[arg(long, env = "PARKWAY_KNATIVE", value_name = "FILE")]
    pub knative: Vec<PathBuf>,

    /// Print the commands that fetch this version of Knative Serving and install it with Parkway; do nothing else.
    #[arg(
        long,
        env = "PARKWAY_KNATIVE_VERSION",
        conflicts_with = "knative",
        value_name = "VERSION"
    )]
    pub knative_version: Option<String>,

    /// Print what would be applied, as YAML, and what that would change; change nothing.
    #[arg(long, env = "PARKWAY_DRY_RUN")]
    pub dry_run: bool,
}

impl Install {
    /// Whether this is among what to stand in for.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// `parkway uninstall`.
#[derive(Args, Clone, Debug)]
pub struct Uninstall {
    /// The cluster.
    #[command(flatten)]
    pub target: Target,

    /// Say what would be changed; change nothing.
    #[arg(long, env = "PARKWAY_DRY_RUN")]
    pub dry_run: bool,
}

/// What `parkway check` is told of a cluster.
#[derive(Args, Clone, Debug)]
pub struct Live {
    /// Look at what a cluster has instead: what Parkway would do with its Routes and Revisions. Changes nothing.
    #[arg(long, conflicts_with = "paths")]
    pub live: bool,

    /// Only this namespace of the cluster.
    #[arg(long, requires = "live", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Class of what is Parkway's among the `KIngress` objects. Another layer's class says what Parkway would do in its
    /// place.
    #[arg(long, env = "PARKWAY_INGRESS_CLASS", default_value = DEFAULT_INGRESS_CLASS, value_name = "CLASS")]
    pub ingress_class: String,

    /// The cluster.
    #[command(flatten)]
    pub access: Access,
}
