//! What one worker has in flight at one endpoint, counted without a lock.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::Endpoint;
use crate::revision::RevisionId;

/// What one worker has in flight at one endpoint of a Revision without a limit.
///
/// Written by the worker's thread only, with plain loads and stores, and alone on its cache lines, so that counting a
/// request costs no other worker anything. A permit that ends on a foreign thread counts itself in a field of its own.
///
/// With the counts of its `Arc` it is as large as two lines, 128 bytes, which processors fetch in pairs. Allocators
/// place what is of such a size at multiples of it (jemalloc's size classes do); asking for that alignment would put the
/// counts on lines of their own, and there is a lane for each worker and endpoint that had traffic.
#[derive(Debug)]
pub(super) struct Lane {
    /// Written by `owner` only.
    granted: AtomicU64,
    /// Written by `owner` only.
    joined: AtomicU64,
    /// Written by `owner` only.
    ended: AtomicU64,
    /// Written by all other threads.
    ended_elsewhere: AtomicU64,
    owner: u64,
    revision: RevisionId,
    endpoint: Endpoint,
}

impl Lane {
    /// A lane of the thread with this number.
    pub(super) fn new(owner: u64, revision: RevisionId, endpoint: Endpoint) -> Self {
        Self {
            granted: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            ended_elsewhere: AtomicU64::new(0),
            owner,
            revision,
            endpoint,
        }
    }

    pub(super) fn revision(&self) -> &RevisionId {
        &self.revision
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Requests that went this way so far.
    pub(super) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Requests under way. Exact for the owner; from elsewhere a moment old.
    pub(super) fn in_flight(&self) -> u64 {
        let elsewhere = self.ended_elsewhere.load(Ordering::Relaxed);
        let ended = self.ended.load(Ordering::Relaxed).saturating_add(elsewhere);
        let begun = self.granted() + self.joined.load(Ordering::Relaxed);
        begun.saturating_sub(ended)
    }

    /// Counts a request in. Only on the owner's thread: workers do not move.
    pub(super) fn begin(&self) {
        debug_assert_eq!(self.owner, thread_number(), "a lane of another thread");
        self.granted.store(self.granted() + 1, Ordering::Relaxed);
    }

    /// Counts a request in that was released through the queue and is on its way. Only on the owner's thread.
    pub(super) fn join(&self) {
        debug_assert_eq!(self.owner, thread_number(), "a lane of another thread");
        let joined = self.joined.load(Ordering::Relaxed);
        self.joined.store(joined + 1, Ordering::Relaxed);
    }

    /// Counts a request out, on any thread.
    pub(super) fn end(&self) {
        if self.owner == thread_number() {
            let ended = self.ended.load(Ordering::Relaxed);
            self.ended.store(ended + 1, Ordering::Relaxed);
        } else {
            self.ended_elsewhere.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The lanes of one Revision by endpoint and worker. Kept while a worker or a permit knows them.
///
/// A sorted list: there are few, and one of them is added when a worker first goes to an endpoint.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<(usize, Arc<Lane>)>);

impl Lanes {
    /// The lane of a worker to an endpoint.
    pub(super) fn get(&self, endpoint: Endpoint, worker: usize) -> Option<&Arc<Lane>> {
        let place = self.place(endpoint, worker).ok()?;
        Some(&self.0[place].1)
    }

    /// The same; a new one if there is none.
    pub(super) fn get_or_insert_with(
        &mut self,
        endpoint: Endpoint,
        worker: usize,
        new: impl FnOnce() -> Lane,
    ) -> &Arc<Lane> {
        let place = self.place(endpoint, worker).unwrap_or_else(|place| {
            if self.0.len() < FEW {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, (worker, Arc::new(new())));
            place
        });
        &self.0[place].1
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter().map(|(_, lane)| &**lane)
    }

    /// Forgets those for which `is_known` says so.
    pub(super) fn retain(&mut self, mut is_known: impl FnMut(&mut Arc<Lane>) -> bool) {
        self.0.retain_mut(|(_, lane)| is_known(lane));
    }

    fn place(&self, endpoint: Endpoint, worker: usize) -> Result<usize, usize> {
        let wanted = (endpoint, worker);
        { &self.0 }.binary_search_by_key(&wanted, |(worker, lane)| (lane.endpoint(), *worker))
    }
}

/// Up to this many lanes the list has no room to spare: most Revisions have no more.
const FEW: usize = 8;

/// A number that no other thread of this process has, or ever had.
pub(super) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! { static NUMBER: Cell<u64> = const { Cell::new(0) } }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_fills_two_cache_lines() {
        let counts = 2 * size_of::<usize>();
        assert_eq!(size_of::<Lane>() + counts, 128);
    }

    #[test]
    fn a_request_that_ends_on_another_thread_is_counted_out_too() {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        let lane = Lane::new(
            thread_number(),
            RevisionId::new("ns", "rev"),
            address.into(),
        );
        lane.begin();
        lane.begin();
        lane.begin();

        std::thread::scope(|scope| scope.spawn(|| lane.end()).join()).unwrap();
        lane.end();

        assert_eq!((lane.in_flight(), lane.granted()), (1, 3));
    }
}
