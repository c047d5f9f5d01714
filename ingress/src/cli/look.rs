//! `parkway why` and `parkway top`.

use clap::Args;

use super::AdminTarget;

/// `parkway why`.
#[derive(Args, Debug)]
pub struct Why {
    /// The host that the request is for, perhaps with a path: `shop.default.localhost/cart`.
    pub host: String,

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

/// `parkway top`.
#[derive(Args, Debug)]
pub struct Top {
    /// Only Revisions whose name contains this.
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,

    /// Print once, as plain text, and end.
    #[arg(long)]
    pub once: bool,

    /// How often to look, in milliseconds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000), value_name = "MILLISECONDS")]
    pub interval: u64,

    /// Whom to ask.
    #[command(flatten)]
    pub target: AdminTarget,
}
