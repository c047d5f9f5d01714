//! How many requests that were parked an endpoint without a limit works on at once: found out by its answers.
//!
//! Thousands that fall on a new process at once cost it more than they would one after the other: each has a connection
//! and buffers of its own, here and behind it. Too few at once keep an endpoint idle that only waits for a database. So
//! the window begins narrow and widens with each answer that comes about as fast as the fastest: while they do, more at
//! once cost nothing. When an endpoint has all it can do, answers take longer, and the window stays. (The idea is that of
//! TCP Vegas, of which only the widening is needed: the queue ends soon.)

use std::num::NonZeroU32;
use std::time::Duration;

/// The release window of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    slots: u32,
    fastest: Duration,
}

/// An answer is about as fast as the fastest if it took no more than twice as long, and this.
const GRACE: Duration = Duration::from_millis(1);

impl Window {
    pub(super) fn new(slots: NonZeroU32) -> Self {
        Self {
            slots: slots.get(),
            fastest: Duration::MAX,
        }
    }

    /// Requests at once.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// An answer has begun, so long after its request was released.
    pub(super) fn answered(&mut self, took: Duration, widest: NonZeroU32) {
        self.fastest = self.fastest.min(took);
        if took <= self.fastest.saturating_mul(2).saturating_add(GRACE) {
            self.widen(widest);
        }
    }

    /// One request more at once, up to `widest`.
    pub(super) fn widen(&mut self, widest: NonZeroU32) {
        if self.slots < widest.get() {
            self.slots += 1;
        }
    }
}
