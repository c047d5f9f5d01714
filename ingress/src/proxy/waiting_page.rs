//! What a browser is told that waits for a start.

use std::sync::Arc;
use std::time::Duration;

use parkway_activator::cold_start::{ColdStart, Milestone};
use parkway_activator::revision::RevisionSpec;
use tokio::time::Instant;

use crate::routing::policy::RoutePolicy;
use crate::routing::waiting_page::{Moment, WaitingPage};

/// What there is to tell.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What its route asks for.
    pub policy: Arc<RoutePolicy>,
    /// What it waits for.
    pub start: Arc<ColdStart>,
    /// How long that takes usually.
    pub usual: Option<Duration>,
    /// Of its Revision.
    pub spec: Arc<RevisionSpec>,
}

impl Notice {
    /// How the page looks.
    pub fn page(&self) -> Option<&WaitingPage> {
        self.policy.waiting_page.as_ref()
    }

    /// The page as it is now.
    pub fn html(&self, now: Instant) -> String {
        let Some(page) = self.page() else {
            return String::new();
        };
        let seen = self.start.state(now).seen;
        let last = { seen.iter() }.map(|seen| seen.milestone).max();
        page.html(&Moment {
            service: &self.spec.service,
            elapsed: now.saturating_duration_since(self.start.arrived()),
            usual: self.usual,
            stage: stage(last.unwrap_or(Milestone::Arrived)),
        })
    }
}

/// How far a start has come, for somebody who does not know what it is made of.
fn stage(last: Milestone) -> &'static str {
    use Milestone as M;
    match last {
        M::Arrived | M::Parked | M::Signalled => "asking for an instance",
        M::Scaled | M::Created => "an instance is on its way",
        M::Scheduled | M::Addressed => "the instance has a place, and fetches what it needs",
        M::Pulled => "the instance has all that it needs",
        M::Spawned | M::Started => "the instance is starting",
        M::Probed => "the instance runs and gets ready",
        M::Ready | M::Released | M::Connected | M::FirstByte | M::Finished => "ready",
    }
}
