//! What all queues share: the workers' mailboxes, the bound over all bytes, and whether we drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::QueueLimits;
use super::mailbox::{Letter, Mailbox, Traffic};
use crate::cold_start::ColdStarts;
use crate::queue::QueueBounds;

#[derive(Debug)]
pub(super) struct Office {
    pub(super) limits: QueueLimits,
    /// Those of every queue.
    pub(super) bounds: Arc<QueueBounds>,
    mailboxes: Box<[Mailbox]>,
    claimed: Box<[AtomicBool]>,
    /// Bytes that queues have reserved; more than `limits.total_bytes` only by what is sent again.
    bytes: AtomicUsize,
    parked: AtomicUsize,
    draining: AtomicBool,
    pub(super) cold_starts: ColdStarts,
}

impl Office {
    pub(super) fn new(limits: QueueLimits, workers: usize) -> Self {
        let bounds = QueueBounds {
            depth: limits.depth,
            bytes: limits.bytes,
            client_share: limits.client_share,
            release_window: limits.release_window,
            widest_window: limits.widest_window,
        };
        Self {
            limits,
            bounds: Arc::new(bounds),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            claimed: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            bytes: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            cold_starts: ColdStarts::default(),
        }
    }

    /// Whether this is the first time somebody asks for this mailbox.
    pub(super) fn claim(&self, worker: usize) -> bool {
        let claimed = self.claimed.get(worker);
        claimed.is_some_and(|claimed| !claimed.swap(true, Ordering::Relaxed))
    }

    pub(super) fn mailbox(&self, worker: usize) -> &Mailbox {
        &self.mailboxes[worker]
    }

    /// Sends letters, sorted by worker, on their way: each worker's in one batch.
    pub(super) fn post(&self, mut letters: Vec<(usize, Letter)>) {
        letters.sort_by_key(|(worker, _)| *worker); // stable: order within a worker stays
        let mut letters = letters.into_iter().peekable();
        while let Some((worker, letter)) = letters.next() {
            let mut batch = vec![letter];
            while let Some((_, letter)) = letters.next_if(|(next, _)| *next == worker) {
                batch.push(letter);
            }
            // A closed mailbox gives them back, and their permits go to the next in line. That ends, because a
            // worker takes its requests out of all queues before it closes its mailbox.
            drop(self.mailbox(worker).put(batch));
        }
    }

    /// Takes bytes of all Revisions' together, or nothing if these would be more than `most`.
    pub(super) fn reserve_bytes(&self, bytes: usize, most: usize) -> bool {
        let add = |held: usize| {
            let after = held.checked_add(bytes)?;
            (after <= most).then_some(after)
        };
        let reserved = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        reserved.is_ok()
    }

    pub(super) fn give_back_bytes(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_parked(&self, before: usize, after: usize) {
        if after > before {
            self.parked.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.parked.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    pub(super) fn parked_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn traffic(&self) -> Traffic {
        let mut all = Traffic::default();
        for mailbox in &self.mailboxes {
            let one = mailbox.traffic();
            all.letters += one.letters;
            all.wakes += one.wakes;
        }
        all
    }
}
