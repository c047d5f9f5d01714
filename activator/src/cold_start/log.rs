//! The starts that are remembered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ColdStart;
use crate::revision::RevisionId;

/// How many starts are remembered, of all Revisions together; when there is one more, the oldest is forgotten.
pub const REMEMBERED: usize = 256;

/// The last starts, those under way among them. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ColdStarts {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    log: Mutex<Log>,
    under_way: Arc<AtomicUsize>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Log {
    recent: VecDeque<Arc<ColdStart>>,
    last_number: u64,
}

impl ColdStarts {
    /// A start begins. [`announce`](Self::announce) it when nothing is locked.
    pub(crate) fn begin(&self, revision: RevisionId, arrived: Instant) -> Arc<ColdStart> {
        let under_way = Arc::clone(&self.inner.under_way);
        let mut log = self.inner.log.lock();
        log.last_number += 1;
        let start = Arc::new(ColdStart::new(
            log.last_number,
            revision,
            arrived,
            under_way,
        ));
        let forgotten = match log.recent.len() < REMEMBERED {
            true => None,
            false => log.recent.pop_front(),
        };
        log.recent.push_back(Arc::clone(&start));
        drop(log);
        drop(forgotten);
        start
    }

    /// Wakes whoever waits for starts that [have begun](Self::begun).
    pub(crate) fn announce(&self) {
        self.inner.begun.notify_one();
    }

    /// The starts that are remembered, the latest first.
    pub fn recent(&self) -> Vec<Arc<ColdStart>> {
        self.inner.log.lock().recent.iter().rev().cloned().collect()
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.inner.under_way.load(Ordering::Relaxed)
    }

    /// Waits for starts with numbers above `seen`, and returns those that are remembered, the first one first. For one
    /// caller.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn begun(&self, seen: u64) -> Vec<Arc<ColdStart>> {
        loop {
            let new = self.since(seen);
            if !new.is_empty() {
                return new;
            }
            self.inner.begun.notified().await;
        }
    }

    fn since(&self, seen: u64) -> Vec<Arc<ColdStart>> {
        let log = self.inner.log.lock();
        let new = log.recent.iter().filter(|start| start.number() > seen);
        new.cloned().collect()
    }
}
