//! The command line: what was written, and what it means.
//!
//! Every flag has an environment variable; everything is checked here, so that nothing later can find a setting wrong.

mod admin;
mod data_path;
mod install;
mod look;
mod run_tls;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use admin::{AdminAccess, AdminTarget};
pub use data_path::{AccessLogged, DataPath, ProxiedEntrance};
pub use install::{Access, Install, Live, Target, Uninstall};
pub use look::{Top, Why};
pub use run_tls::{RunTls, TlsFiles};
pub use serve::{DEFAULT_INGRESS_CLASS, PeerAuth, Role, Serve};

/// Parks requests for workloads at zero, wakes them, and routes everything else.
#[derive(Debug, Parser)]
#[command(name = "parkway", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What Parkway can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs Knative Services on this machine, from zero and back.
    ///
    /// Reads ordinary Knative manifests and runs their containers' commands as local processes: a request to a
    /// Service at zero is parked, the process is started, the request goes on, and after the stable window without
    /// requests the process ends. The files are watched; a change takes effect without losing a request.
    Run(Box<Run>),
    /// Serves a Knative cluster, in the place of the activator and of the ingress.
    ///
    /// Watches the API server for what Knative Serving makes of its Services, parks requests for Revisions at zero,
    /// reports to Knative's autoscaler, and routes everything. Runs in a Pod, or outside with a kubeconfig.
    Serve(Box<Serve>),
    /// Installs Parkway into a cluster that has Knative Serving, or prints what that takes.
    ///
    /// Applies the manifests, waits until its Pods are ready, makes its ingress class that of the cluster, and waits
    /// until everything is served. What was there before is kept in the cluster. Begun again, it goes on where it was.
    Install(Box<Install>),
    /// Removes Parkway from a cluster; what was there before is there again.
    Uninstall(Box<Uninstall>),
    /// Checks manifests, or what a cluster has, and says what is wrong, without running or changing anything.
    ///
    /// Ends with status 0 when nothing is wrong and 2 when something is.
    Check(Check),
    /// Says where a request to a running Parkway would go, and why.
    ///
    /// Prints the rule, the split with its shares, the Revision, the header edits and timeouts, and whether a request
    /// would have to wait at this moment.
    Explain(Explain),
    /// Says in a paragraph why the next request to a host would or would not wait, and what its last cold start spent its
    /// time on.
    Why(Why),
    /// Shows what a running Parkway does, live: Revisions, endpoints, requests that wait, the last cold starts.
    Top(Top),
    /// Serves a small HTTP workload on $PORT, for examples and tests.
    #[command(hide = true)]
    Hello,
}

/// `parkway run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Manifests: files, or folders whose .yaml, .yml and .json files are read.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// External entrance: serves rules that are visible from outside.
    #[arg(
        long,
        env = "PARKWAY_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// Cluster-local entrance: serves all rules.
    #[arg(
        long,
        env = "PARKWAY_LISTEN_LOCAL",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    pub listen_local: SocketAddr,

    /// The external entrance by TLS.
    #[command(flatten)]
    pub tls: RunTls,

    /// Admin: a page for people at /, and /healthz, /readyz, /metrics, /state, /explain. Not for the public.
    #[arg(
        long,
        env = "PARKWAY_ADMIN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub admin: SocketAddr,

    /// Who may use it.
    #[command(flatten)]
    pub admin_access: AdminAccess,

    /// What holds for every request.
    #[command(flatten)]
    pub data_path: DataPath,

    /// Domain of the hosts of Services without another by config-domain.
    #[arg(
        long,
        env = "PARKWAY_DOMAIN",
        default_value = "localhost",
        value_name = "DOMAIN"
    )]
    pub domain: String,

    /// Who decides how many processes there are: `embedded`, or the address of a Knative autoscaler, which is then
    /// only reported to: Parkway keeps one process per Revision with traffic.
    #[arg(
        long,
        env = "PARKWAY_AUTOSCALER",
        default_value = "embedded",
        value_name = "embedded|ws://HOST:PORT"
    )]
    pub autoscaler: AutoscalerChoice,

    /// How long parked and running requests may take to end after Ctrl-C or SIGTERM, in seconds.
    #[arg(
        long,
        env = "PARKWAY_DRAIN_SECONDS",
        default_value_t = 30,
        value_name = "SECONDS"
    )]
    pub drain_seconds: u64,

    /// Where started processes are recorded, so that the next start can end what a killed Parkway left behind.
    /// Default: a folder for this user and --listen address below the system's folder for temporary files.
    #[arg(long, env = "PARKWAY_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
}

impl Run {
    /// How long a drain may take.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// `parkway check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Manifests: files, or folders whose .yaml, .yml and .json files are read.
    #[arg(required_unless_present = "live", value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Domain of the hosts of Services without another by config-domain.
    #[arg(
        long,
        env = "PARKWAY_DOMAIN",
        default_value = "localhost",
        value_name = "DOMAIN"
    )]
    pub domain: String,

    /// Certificates to check as well.
    #[command(flatten)]
    pub certificates: TlsFiles,

    /// Instead of manifests.
    #[command(flatten)]
    pub live: Live,
}

/// `parkway explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The request's method.
    pub method: http::Method,

    /// The request's URL; its host decides the rule. Connects to no such host.
    pub url: http::Uri,

    /// A header of the request, as `Name: value`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,

    /// Say also which split the next such request falls to, for each worker.
    #[arg(long)]
    pub next: bool,

    /// Ask as a client at the cluster-local entrance.
    #[arg(long)]
    pub local: bool,

    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,

    /// Whom to ask.
    #[command(flatten)]
    pub target: AdminTarget,
}

/// Who decides how many processes there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutoscalerChoice {
    /// The one inside.
    Embedded,
    /// A Knative autoscaler at this `ws://` address.
    Remote(String),
}

impl std::str::FromStr for AutoscalerChoice {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        if written == "embedded" {
            return Ok(Self::Embedded);
        }
        let uri: http::Uri = written
            .parse()
            .map_err(|error| format!("neither `embedded` nor an address: {error}"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("ws"), Some(_)) => Ok(Self::Remote(written.to_owned())),
            _ => Err(
                "expected `embedded` or an address such as ws://autoscaler.knative-serving:8080"
                    .to_owned(),
            ),
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_what_runs_or_installs_has_an_environment_variable() {
        let command = Cli::command();
        let commands = ["run", "serve", "install", "uninstall"]
            .map(|name| command.find_subcommand(name).unwrap());
        let without: Vec<_> = commands
            .iter()
            .flat_map(|command| command.get_arguments())
            .filter(|argument| {
                argument.get_long().is_some()
                    && !["help", "version"].contains(&argument.get_id().as_str())
            })
            .filter(|argument| argument.get_env().is_none())
            .map(|argument| argument.get_id().to_string())
            .collect();
        assert_eq!(without, Vec::<String>::new());
    }

    #[test]
    fn the_admin_entrance_is_for_this_machine_and_nothing_is_told_in_answers_unless_asked_for() {
        let command = Cli::command();
        for name in ["run", "serve"] {
            let command = command.find_subcommand(name).unwrap();
            let default = |long: &str| {
                let mut arguments = command.get_arguments();
                let argument = arguments.find(|argument| argument.get_long() == Some(long));
                let values = argument.unwrap().get_default_values().first().cloned();
                values.map(|value| value.to_str().unwrap().to_owned())
            };
            let admin: SocketAddr = default("admin").unwrap().parse().unwrap();
            assert!(admin.ip().is_loopback(), "{name}: {admin}");
            for off in ["access-log", "access-log-template", "cold-start-headers"] {
                let default =
                    default(off).filter(|value| !["off", "false"].contains(&value.as_str()));
                assert_eq!(default, None, "{name} --{off}");
            }
        }
    }

    #[test]
    fn an_autoscaler_is_embedded_or_has_a_websocket_address() {
        assert_eq!("embedded".parse(), Ok(AutoscalerChoice::Embedded));
        let remote = "ws://127.0.0.1:8080";
        assert_eq!(
            remote.parse(),
            Ok(AutoscalerChoice::Remote(remote.to_owned()))
        );
        assert!("http://127.0.0.1:8080".parse::<AutoscalerChoice>().is_err());
        assert!("".parse::<AutoscalerChoice>().is_err());
    }
}
