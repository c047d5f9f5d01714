//! `parkway run` by TLS: where, and with which certificates.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// The entrance by TLS.
#[derive(Args, Debug)]
pub struct RunTls {
    /// External entrance by TLS: what --listen serves, with the certificates of --tls-cert and of Secrets among the
    /// manifests. Without --tls-cert, hosts that no Secret is for are served with a certificate that is made at start,
    /// and that clients have to be told to accept. Default: no such entrance.
    #[arg(long, env = "PARKWAY_LISTEN_TLS", value_name = "ADDRESS")]
    pub listen_tls: Option<SocketAddr>,

    /// Certificates and their keys.
    #[command(flatten)]
    pub files: TlsFiles,
}

/// Certificates and their keys, in files.
#[derive(Args, Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain in PEM, the server's own first; read again when the file changes. Given several times, each is
    /// served for the names in it, and the first also to clients that ask for something else.
    #[arg(
        long,
        env = "PARKWAY_TLS_CERT",
        value_delimiter = ',',
        value_name = "FILE"
    )]
    pub tls_cert: Vec<PathBuf>,

    /// Private key in PEM, of the --tls-cert at the same place.
    #[arg(
        long,
        env = "PARKWAY_TLS_KEY",
        value_delimiter = ',',
        value_name = "FILE"
    )]
    pub tls_key: Vec<PathBuf>,
}
