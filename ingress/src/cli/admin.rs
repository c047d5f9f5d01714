//! Who may use the admin entrance of what runs, and how it is reached.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

/// Who may use the admin entrance.
#[derive(Args, Debug, Default)]
pub struct AdminAccess {
    /// File with the token that the admin entrance asks for, as `Authorization: Bearer TOKEN`, or from a browser as the
    /// password of any user. Default: none is asked for. Read once, at the start.
    #[arg(long, env = "PARKWAY_ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,

    /// Name by which the admin entrance may be reached, besides localhost and addresses; may be given several times.
    /// Others are refused, because a stranger's page could have them lead here.
    #[arg(
        long = "admin-host",
        env = "PARKWAY_ADMIN_HOSTS",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub admin_hosts: Vec<String>,
}

impl AdminAccess {
    /// The token, without white space around it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds none.
    pub fn token(&self) -> anyhow::Result<Option<String>> {
        token_in(self.admin_token_file.as_deref())
    }
}

/// A running Parkway that is asked.
#[derive(Args, Debug)]
pub struct AdminTarget {
    /// Admin address of the running Parkway.
    #[arg(
        long,
        env = "PARKWAY_ADMIN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub admin: SocketAddr,

    /// File with the token that its admin entrance asks for. Default: it asks for none.
    #[arg(long, env = "PARKWAY_ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,
}

impl AdminTarget {
    /// The token, without white space around it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds none.
    pub fn token(&self) -> anyhow::Result<Option<String>> {
        token_in(self.admin_token_file.as_deref())
    }
}

fn token_in(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--admin-token-file {}", path.display()))?;
    let token = text.trim();
    ensure!(
        !token.is_empty(),
        "--admin-token-file {}: it holds no token",
        path.display()
    );
    Ok(Some(token.to_owned()))
}
