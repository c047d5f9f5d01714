//! What holds between two steps of a queue, checked in debug builds.

use super::RevisionQueue;
use crate::policy::Policy;

impl<W> RevisionQueue<W> {
    /// Above this many parked, only what is cheap is checked.
    const CHECKED_WHOLLY: usize = 64;

    pub(super) fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let free: u64 = self
            .endpoints
            .iter()
            .map(|slots| u64::from(slots.free(self.concurrency)))
            .sum();
        debug_assert_eq!(self.free, free, "free slots");
        debug_assert!(
            self.parked() == 0 || free == 0,
            "parked although there is room"
        );
        debug_assert!(self.newcomers.len() <= self.bounds.depth, "depth");
        debug_assert!(
            self.left.values().all(|in_use| *in_use > 0),
            "left and idle"
        );
        if Policy::of(self.concurrency) == Policy::FirstAvailable {
            let before = self.endpoints.iter().take(self.first_free);
            debug_assert!(
                before
                    .into_iter()
                    .all(|slots| slots.free(self.concurrency) == 0),
                "first free"
            );
        }
        if self.parked() <= Self::CHECKED_WHOLLY {
            let parked = || self.returned.values().chain(self.newcomers.values());
            debug_assert_eq!(
                self.bytes,
                parked().map(|parked| parked.bytes).sum::<usize>()
            );
            let newcomers = self.newcomers.values().map(|parked| parked.bytes);
            debug_assert!(newcomers.sum::<usize>() <= self.bounds.bytes, "bytes");
            let places: usize = self.clients.values().map(|held| held.places).sum();
            let with_client = parked().filter(|parked| parked.client.is_some()).count();
            let counted = if self.bounds.client_share.is_some() {
                with_client
            } else {
                0
            };
            debug_assert_eq!(places, counted, "places by client");
        }
    }
}
