//! The log: where it goes and in which form.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// What is not logged unless the filter asks for it: kube's client calls every failed request an error, and whoever
/// sent it says so too, once and with the reason.
const QUIET: &str = "kube_client::client::builder=off";

/// Sends the log to standard error.
///
/// # Errors
///
/// When the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| anyhow::anyhow!("--log {filter:?}: {error}"))?;
    let is_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        error!(%panic, backtrace = %std::backtrace::Backtrace::capture(), "a bug: this request or task has ended");
    }));
    Ok(())
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics there were. One in a request ends that request only; what it held is freed.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}
