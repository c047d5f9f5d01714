//! Clients that do not read: whatever they keep open is ended after a bound.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Peer;
use super::input::Signals;
use crate::proxy::sweep::Alarm;

/// Measures how long a client has not read what there is for it.
///
/// Nobody asks the response for more meanwhile, so its own deadline would not be noticed: it is looked at here. Whatever
/// it is, a client that reads nothing for `limit` is given up.
pub(super) struct Stall {
    since: Option<Instant>,
    writes: u64,
    alarm: Alarm,
}

impl Stall {
    pub(super) fn new(peer: &Peer) -> Self {
        Self {
            since: None,
            writes: 0,
            alarm: peer.alarm(),
        }
    }

    /// Asked only while there is something that was not written.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        signals: &Signals,
        limit: Duration,
    ) -> Poll<()> {
        let now = Instant::now();
        if self.since.is_none() || self.writes != signals.writes.get() {
            self.since = Some(now);
            self.writes = signals.writes.get();
        }
        let idle = self.since.unwrap_or(now) + limit;
        let due = signals.due.get().map_or(idle, |due| due.min(idle));
        if due <= now {
            return Poll::Ready(());
        }
        self.alarm.poll_due(cx, due)
    }
}
