//! The log: where it goes and in which form; and what time it is for others.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as SystemTimer};

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

/// What the wall clock says, in RFC 3339's form.
pub fn timestamp() -> String {
    let mut text = String::new();
    // A String takes everything.
    SystemTimer
        .format_time(&mut Writer::new(&mut text))
        .unwrap_or_default();
    text
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics there were. One in a request ends that request only; what it held is freed.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// What the wall clock says of moments that were taken by the other one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Both clocks now: for moments of the last minutes, and for one use, because the wall clock may be set.
    #[expect(
        clippy::disallowed_methods,
        reason = "others are told times of the wall clock"
    )]
    pub fn now() -> Self {
        Self {
            now: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The moment that is now.
    pub fn instant(&self) -> Instant {
        self.now
    }

    /// What the wall clock said then.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let ago = self.now.saturating_duration_since(at);
        let ahead = at.saturating_duration_since(self.now);
        let wall = self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        wall + ahead.min(A_DAY)
    }

    /// The same, since 1970.
    pub fn unix(&self, at: Instant) -> Duration {
        let since = self.wall(at).duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default()
    }
}

/// Nothing that is told lies further ahead.
const A_DAY: Duration = Duration::from_secs(86_400);
