//! `parkway serve`: what a Parkway in a cluster is told.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::{AdminAccess, DataPath};

/// The class of the KIngresses that are ours unless something else is said.
pub const DEFAULT_INGRESS_CLASS: &str = "parkway.ingress.networking.knative.dev";

/// `parkway serve`.
#[derive(Args, Debug)]
pub struct Serve {
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

    /// Kubeconfig of the cluster. Default: the Pod's own ServiceAccount, else $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "PARKWAY_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Default: its current one.
    #[arg(long, env = "PARKWAY_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// Class of the KIngresses that are ours: the value of config-network's ingress-class.
    #[arg(long, env = "PARKWAY_INGRESS_CLASS", default_value = DEFAULT_INGRESS_CLASS, value_name = "CLASS")]
    pub ingress_class: String,

    /// Namespace of Knative Serving.
    #[arg(
        long,
        env = "SYSTEM_NAMESPACE",
        default_value = "knative-serving",
        value_name = "NAMESPACE"
    )]
    pub system_namespace: String,

    /// Domain of the cluster. Default: as /etc/resolv.conf has it, else cluster.local.
    #[arg(long, env = "CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,

    /// Knative's autoscaler. Default: `autoscaler` of the system namespace, port 8080.
    #[arg(long, env = "PARKWAY_AUTOSCALER", value_name = "ws://HOST:PORT")]
    pub autoscaler: Option<String>,

    /// This Pod's name.
    #[arg(long, env = "POD_NAME", default_value = "parkway", value_name = "NAME")]
    pub pod_name: String,

    /// This Pod's namespace, in which the gateway's Services are. Default: the system namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub pod_namespace: Option<String>,

    /// This Pod's address, as it stands in EndpointSlices: tells which of several replicas this one is.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,

    /// Service of the external entrance.
    #[arg(
        long,
        env = "PARKWAY_GATEWAY_SERVICE",
        default_value = "parkway",
        value_name = "NAME"
    )]
    pub gateway_service: String,

    /// Service of the cluster-local entrance.
    #[arg(
        long,
        env = "PARKWAY_GATEWAY_LOCAL_SERVICE",
        default_value = "parkway-internal",
        value_name = "NAME"
    )]
    pub gateway_local_service: String,

    /// External entrance: serves rules that are visible from outside.
    #[arg(
        long,
        env = "PARKWAY_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// Cluster-local entrance: serves all rules.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_LOCAL",
        default_value = "0.0.0.0:8081",
        value_name = "ADDRESS"
    )]
    pub listen_local: SocketAddr,

    /// External entrance by TLS: what --listen serves, with the certificates that KIngresses name.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_TLS",
        default_value = "0.0.0.0:8443",
        value_name = "ADDRESS"
    )]
    pub listen_tls: SocketAddr,

    /// Cluster-local entrance by TLS: what --listen-local serves, with the certificates that KIngresses name.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_LOCAL_TLS",
        default_value = "0.0.0.0:8444",
        value_name = "ADDRESS"
    )]
    pub listen_local_tls: SocketAddr,

    /// Secret of the certificate for names that no KIngress has one for. Default: such clients are turned away.
    #[arg(
        long,
        env = "PARKWAY_DEFAULT_TLS_SECRET",
        value_parser = secret,
        value_name = "NAMESPACE/NAME"
    )]
    pub default_tls_secret: Option<(String, String)>,

    /// Secret of the keys of session tickets, for clients to resume at any replica what they began at another. Default:
    /// each replica has keys of its own.
    #[arg(
        long,
        env = "PARKWAY_TLS_TICKETS_SECRET",
        value_parser = secret,
        value_name = "NAMESPACE/NAME"
    )]
    pub tls_tickets_secret: Option<(String, String)>,

    /// The activator's port for HTTP/1. Knative looks for its number: change it only where nothing else reaches it.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_ACTIVATOR",
        default_value = "0.0.0.0:8012",
        value_name = "ADDRESS"
    )]
    pub listen_activator: SocketAddr,

    /// The activator's port for HTTP/2. Knative looks for its number: change it only where nothing else reaches it.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_ACTIVATOR_H2C",
        default_value = "0.0.0.0:8013",
        value_name = "ADDRESS"
    )]
    pub listen_activator_h2c: SocketAddr,

    /// The activator's port for TLS, with system-internal-tls. Knative looks for its number: change it only where nothing
    /// else reaches it.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_ACTIVATOR_TLS",
        default_value = "0.0.0.0:8112",
        value_name = "ADDRESS"
    )]
    pub listen_activator_tls: SocketAddr,

    /// Where the other replicas ask which configuration is in effect here.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_PEERS",
        default_value = "0.0.0.0:9093",
        value_name = "ADDRESS"
    )]
    pub listen_peers: SocketAddr,

    /// How replicas that ask show that they are: by a token of their ServiceAccount, or not at all.
    #[arg(
        long,
        env = "PARKWAY_PEER_AUTH",
        value_enum,
        default_value = "token",
        value_name = "HOW"
    )]
    pub peer_auth: PeerAuth,

    /// This Pod's token for asking other replicas, projected with the audience parkway-peers.
    #[arg(
        long,
        env = "PARKWAY_PEER_TOKEN_FILE",
        default_value = "/var/run/secrets/parkway/peers/token",
        value_name = "PATH"
    )]
    pub peer_token_file: PathBuf,

    /// /metrics, /healthz and /readyz, and nothing else.
    #[arg(
        long,
        env = "PARKWAY_METRICS_LISTEN",
        default_value = "0.0.0.0:9090",
        value_name = "ADDRESS"
    )]
    pub metrics_listen: SocketAddr,

    /// Admin: a page for people at /, and /healthz, /readyz, /metrics, /state, /explain. Not for the public.
    #[arg(
        long,
        env = "PARKWAY_ADMIN",
        default_value = "127.0.0.1:9094",
        value_name = "ADDRESS"
    )]
    pub admin: SocketAddr,

    /// Who may use it.
    #[command(flatten)]
    pub admin_access: AdminAccess,

    /// What holds for every request.
    #[command(flatten)]
    pub data_path: DataPath,

    /// Watch the Pods of Revisions that start, and their Events: tells where the time of a cold start goes, and answers
    /// early when the Pods cannot start. Needs the right to list and watch both.
    #[arg(
        long,
        env = "PARKWAY_WATCH_PODS",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub watch_pods: bool,

    /// How long requests are still taken after SIGTERM while the cluster learns that this Pod is leaving, in seconds.
    #[arg(
        long,
        env = "PARKWAY_DRAIN_DELAY_SECONDS",
        default_value_t = 45,
        value_name = "SECONDS"
    )]
    pub drain_delay_seconds: u64,

    /// How long parked and running requests may take to end after that, in seconds.
    #[arg(
        long,
        env = "PARKWAY_DRAIN_SECONDS",
        default_value_t = 540,
        value_name = "SECONDS"
    )]
    pub drain_seconds: u64,
}

/// What a Parkway in a cluster stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Routes what KIngresses say.
    Ingress,
    /// Answers for `activator-service`.
    Activator,
}

/// How replicas that ask show that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PeerAuth {
    /// By a token of their ServiceAccount, which the API server reviews.
    Token,
    /// Not at all: for places where nobody else reaches the port.
    None,
}

fn secret(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("must be NAMESPACE/NAME"),
    }
}

impl Serve {
    /// Whether this is among what to stand in for.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The namespace of the gateway's Services.
    pub fn namespace(&self) -> &str {
        self.pod_namespace
            .as_deref()
            .unwrap_or(&self.system_namespace)
    }

    /// How long requests are still taken after SIGTERM.
    pub fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_seconds)
    }

    /// How long a drain may take.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}
