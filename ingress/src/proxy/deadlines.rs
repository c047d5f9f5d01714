//! When a request may take no longer: the Revision's timeouts, counted from its arrival.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::destination::Destination;
use crate::routing::timeout::{Milestones, next};

/// The timeouts of one request.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Whose timeouts they are.
    pub of: Rc<Destination>,
    /// From when they count.
    pub arrived: Instant,
    /// The client's own deadline, counted from arrival too.
    pub client: Option<Duration>,
}

impl Deadlines {
    /// When a request without a response head ends.
    pub fn before_response(&self) -> Instant {
        let milestones = Milestones::new(self.arrived);
        let revisions = next(&self.of.spec.timeouts, &milestones).map(|(due, _)| due);
        let clients = self.client.map(|client| self.arrived + client);
        let latest = self.arrived + self.of.spec.timeouts.total;
        [revisions, clients]
            .into_iter()
            .flatten()
            .fold(latest, Instant::min)
    }

    /// When a response that was last written to at `last_write` is cut.
    pub fn while_streaming(&self, last_write: Instant) -> Option<Instant> {
        let milestones = Milestones {
            arrival: self.arrived,
            response_start: Some(last_write),
            last_write: Some(last_write),
        };
        next(&self.of.spec.timeouts, &milestones).map(|(due, _)| due)
    }
}
