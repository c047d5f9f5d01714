//! The right to send one request to one endpoint.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;
use super::shell::Shell;
use crate::endpoint::Endpoint;
use crate::revision::RevisionId;

/// The right to send one request to one endpoint.
///
/// Dropping it frees the slot, whatever became of the request (answered, failed, or client gone) and on whatever
/// thread. It stays valid when its endpoint leaves or its Revision is deleted.
#[must_use = "dropping a permit frees its slot at once"]
pub struct Permit {
    taken: Taken,
    waited: bool,
}

/// What was taken, and is given back.
enum Taken {
    /// A count in a worker's lane: there is no limit and nothing was parked.
    Lane(Arc<Lane>),
    /// A slot of the queue.
    Slot {
        shell: Arc<Shell>,
        endpoint: Endpoint,
    },
}

impl Permit {
    /// Counts a request in. Only on the lane's thread.
    pub(super) fn of_lane(lane: &Arc<Lane>) -> Self {
        lane.begin();
        Self {
            taken: Taken::Lane(Arc::clone(lane)),
            waited: false,
        }
    }

    /// Guards a slot that has been taken.
    pub(super) fn of_slot(shell: Arc<Shell>, endpoint: Endpoint, waited: bool) -> Self {
        Self {
            taken: Taken::Slot { shell, endpoint },
            waited,
        }
    }

    /// Where the request goes.
    pub fn endpoint(&self) -> Endpoint {
        match &self.taken {
            Taken::Lane(lane) => lane.endpoint(),
            Taken::Slot { endpoint, .. } => *endpoint,
        }
    }

    /// Whose request it is.
    pub fn revision(&self) -> &RevisionId {
        match &self.taken {
            Taken::Lane(lane) => lane.revision(),
            Taken::Slot { shell, .. } => shell.id(),
        }
    }

    /// Whether the request was parked before.
    pub fn waited(&self) -> bool {
        self.waited
    }

    /// See [`Worker::has_answered`](super::Worker::has_answered).
    pub(super) fn has_answered(&mut self, took: Duration, worker: (usize, u64)) {
        let Taken::Slot { shell, endpoint } = &self.taken else {
            return;
        };
        let answered = (*endpoint, took);
        let lane = shell.step(|ledger, _, out| ledger.has_answered(answered, worker, out));
        if let Some(lane) = lane {
            self.taken = Taken::Lane(lane);
        }
    }

    /// See [`Worker::takes_its_time`](super::Worker::takes_its_time).
    pub(super) fn takes_its_time(&mut self, worker: (usize, u64)) -> Option<Instant> {
        let Taken::Slot { shell, endpoint } = &self.taken else {
            return None;
        };
        let endpoint = *endpoint;
        let let_go =
            shell.step(|ledger, office, out| ledger.takes_its_time(endpoint, worker, office, out));
        match let_go {
            Ok(Some(lane)) => self.taken = Taken::Lane(lane),
            Ok(None) => {}
            Err(patient) => return Some(patient),
        }
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.taken {
            Taken::Lane(lane) => lane.end(),
            Taken::Slot { shell, endpoint } => {
                shell.step(|ledger, _, out| ledger.release(*endpoint, out));
            }
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("revision", self.revision())
            .field("endpoint", &self.endpoint())
            .field("waited", &self.waited())
            .finish()
    }
}
