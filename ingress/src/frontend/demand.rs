//! What keeps a Revision wanted while a browser shows the page that says so.
//!
//! A browser that was shown a waiting page is no request any more, but it will come again in a moment: until then it counts
//! for the autoscaler as if it still waited. When it comes, what was kept of it is let go; when it does not, a little later.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use parkway_activator::revision::RevisionId;
use parkway_activator::stats::InFlight;
use tokio::time::Instant;

use crate::proxy::failure::Failure;
use crate::proxy::forward::Job;

/// So many browsers of a worker are kept; of more, the first are let go.
const MOST: usize = 4_096;

/// How much later than its page says a browser may come again.
const LATE: Duration = Duration::from_secs(2);

/// Browsers that will come again.
#[derive(Debug, Default)]
pub(super) struct Demand {
    kept: RefCell<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    id: RevisionId,
    until: Instant,
    /// Its drop counts the browser out.
    _in_flight: InFlight,
}

impl Demand {
    /// Keeps the count of a request that is answered with a page.
    pub(super) fn outlasts(self: &Rc<Self>, job: &mut Job, failure: &Failure) {
        let Failure::Starting(notice) = failure else {
            return;
        };
        if let (Some(page), Some(in_flight)) = (notice.page(), job.in_flight.take()) {
            let until = Instant::now() + page.refresh + LATE;
            self.keep(job.destination.id.clone(), in_flight, until);
        }
    }

    fn keep(self: &Rc<Self>, id: RevisionId, in_flight: InFlight, until: Instant) {
        let mut kept = self.kept.borrow_mut();
        let first = (kept.len() >= MOST).then(|| kept.pop_front()).flatten();
        kept.push_back(Kept {
            id,
            until,
            _in_flight: in_flight,
        });
        drop(kept);
        drop(first);
        let demand = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(until).await;
            if let Some(demand) = demand.upgrade() {
                demand.forget(until);
            }
        });
    }

    /// A browser has come again, or comes for the first time while another has not yet.
    pub(super) fn returns(&self, id: &RevisionId) {
        let mut kept = self.kept.borrow_mut();
        let index = kept.iter().position(|kept| kept.id == *id);
        let returned = index.and_then(|index| kept.remove(index));
        drop(kept);
        drop(returned);
    }

    /// Those that should have come by now do not come any more.
    fn forget(&self, now: Instant) {
        let kept = self.kept.take();
        let (over, kept) = kept.into_iter().partition(|kept| kept.until <= now);
        let over: VecDeque<Kept> = over;
        self.kept.replace(kept);
        drop(over);
    }
}
