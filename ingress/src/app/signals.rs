//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Ctrl-C and SIGTERM, noticed from the start to the end: one that comes while nobody asks is told to the next who does.
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> Self {
        let notice = |kind, name| {
            signal(kind)
                .inspect_err(|error| warn!(%error, name, "a signal cannot be noticed"))
                .ok()
        };
        Self {
            interrupt: notice(SignalKind::interrupt(), "SIGINT"),
            terminate: notice(SignalKind::terminate(), "SIGTERM"),
        }
    }

    /// Waits for the next of either.
    ///
    /// # Cancel safety
    ///
    /// A signal that was not waited for is there the next time.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            () = next(&mut self.interrupt) => {}
            () = next(&mut self.terminate) => {}
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    // Nothing to be noticed, now or later.
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}
