//! One Revision's lock, and the list workers use without it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Permit;
use super::lane::Lane;
use super::ledger::{Ledger, Outbox};
use super::mailbox::Letter;
use super::office::Office;
use crate::endpoint::Endpoint;
use crate::revision::RevisionId;

/// One Revision's queue behind its lock, shared by all workers.
#[derive(Debug)]
pub(super) struct Shell {
    id: RevisionId,
    office: Arc<Office>,
    /// Endpoints a newcomer may use without asking; empty unless the queue is open. Written under the lock.
    open_list: ArcSwap<Vec<Endpoint>>,
    /// Changes after each change of `open_list`.
    generation: AtomicU64,
    ledger: Mutex<Ledger>,
}

/// The list of all that have no endpoints to use without asking.
static NOBODY: LazyLock<Arc<Vec<Endpoint>>> = LazyLock::new(Arc::default);

impl Shell {
    pub(super) fn new(id: RevisionId, office: Arc<Office>) -> Self {
        let bounds = Arc::clone(&office.bounds);
        Self {
            ledger: Mutex::new(Ledger::new(id.clone(), bounds)),
            id,
            office,
            open_list: ArcSwap::new(Arc::clone(&NOBODY)),
            generation: AtomicU64::new(0),
        }
    }

    pub(super) fn id(&self) -> &RevisionId {
        &self.id
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn open_list(&self) -> Arc<Vec<Endpoint>> {
        self.open_list.load_full()
    }

    /// One step under the lock; then, without it, sends what the step granted or ended.
    pub(super) fn step<R>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Ledger, &Office, &mut Outbox) -> R,
    ) -> R {
        let (result, outbox) = self.act(act);
        self.send(outbox);
        result
    }

    /// One step under the lock. What it leaves in the outbox must be [sent](Self::send) when no lock is held.
    pub(super) fn act<R>(
        &self,
        act: impl FnOnce(&mut Ledger, &Office, &mut Outbox) -> R,
    ) -> (R, Outbox) {
        let mut outbox = Outbox::new();
        let mut ledger = self.ledger.lock();
        let result = act(&mut ledger, &self.office, &mut outbox);
        let was_open = !self.open_list.load().is_empty();
        if let Some(list) = ledger.settle(was_open, &self.office) {
            let list = if list.is_empty() {
                Arc::clone(&NOBODY)
            } else {
                Arc::new(list)
            };
            self.open_list.store(list);
            self.generation.fetch_add(1, Ordering::Release);
        }
        drop(ledger);
        (result, outbox)
    }

    /// Reads under the lock.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Ledger) -> R) -> R {
        read(&self.ledger.lock())
    }

    /// A worker's lanes to these endpoints.
    pub(super) fn lanes(
        &self,
        worker: usize,
        thread: u64,
        endpoints: &[Endpoint],
    ) -> Vec<Arc<Lane>> {
        let mut ledger = self.ledger.lock();
        let lanes = endpoints
            .iter()
            .map(|endpoint| ledger.lane(worker, thread, *endpoint));
        lanes.collect()
    }

    pub(super) fn send(self: &Arc<Self>, outbox: Outbox) {
        if outbox.is_empty() {
            return;
        }
        let letter = |(waiter, outcome): (super::ledger::Waiter, _)| {
            let permit = |endpoint| Permit::of_slot(Arc::clone(self), endpoint, true);
            let letter = Letter {
                slot: waiter.slot,
                outcome: Result::map(outcome, permit),
            };
            (waiter.worker, letter)
        };
        self.office.post(outbox.into_iter().map(letter).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_without_traffic_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(
            size_of::<Shell>() + counts <= 320,
            "the allocator's next step is 384: {}",
            size_of::<Shell>()
        );
    }
}
