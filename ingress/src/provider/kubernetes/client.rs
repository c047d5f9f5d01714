//! How the API server is reached.

use std::path::Path;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use kube::Client;

/// How long connecting to the API server may take; then it is tried again.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may be silent; watches end well before, see [`WATCH_SECONDS`](super::watch::WATCH_SECONDS).
pub const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// How long sending a request may take.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API server is, and who we are to it.
///
/// # Errors
///
/// When there is neither a kubeconfig nor a Pod's ServiceAccount, or what there is cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NoCluster {
    /// The kubeconfig that was named.
    #[error("--kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// None was named, and none was found.
    #[error(
        "no cluster to serve: not in a Pod with a ServiceAccount, and no kubeconfig; name one with --kubeconfig: {0}"
    )]
    NotFound(#[source] kube::config::InferConfigError),
    /// What was found does not make a client.
    #[error("cannot make a client for the API server: {0}")]
    Client(#[source] kube::Error),
}

/// A client for the cluster of `kubeconfig`, else of this Pod, else of the user's kubeconfig.
///
/// # Errors
///
/// When there is none, or it cannot be used.
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, NoCluster> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = match kubeconfig {
        Some(path) => {
            let failed = |source| NoCluster::Kubeconfig {
                path: path.display().to_string(),
                source,
            };
            let written = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(written, &options)
                .await
                .map_err(failed)?
        }
        None if context.is_some() => {
            let found = Config::from_kubeconfig(&options).await;
            found.map_err(|source| NoCluster::Kubeconfig {
                path: "(default)".to_owned(),
                source,
            })?
        }
        None => Config::infer().await.map_err(NoCluster::NotFound)?,
    };
    of(config)
}

/// A client with our bounds, for what is configured.
///
/// # Errors
///
/// When no client can be made of it.
pub fn of(mut config: Config) -> Result<Client, NoCluster> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    // Whoever asks waits and asks again, in its own way. kube's would do so 15 times before it says a word, and wait for
    // minutes in between, or for however long the answer says.
    config.default_retry = false;
    Client::try_from(config).map_err(NoCluster::Client)
}
