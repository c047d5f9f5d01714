//! When a request may take no longer: the Revision's timeouts, or its route's, counted from its arrival.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::revision::Timeouts;
use tokio::time::Instant;

use super::destination::Destination;
use super::failure::{Failure, Named};
use super::waiting_page::Notice;
use crate::routing::policy::RoutePolicy;
use crate::routing::timeout::{Milestones, next};

/// The timeouts of one request.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Whose timeouts they are.
    pub of: Rc<Destination>,
    /// From when they count.
    pub arrived: Instant,
    /// The client's own deadline, counted from arrival too.
    pub client: Option<Patience>,
    /// What the route asks for; mostly nothing.
    pub route: Option<Box<Terms>>,
}

/// What a route asks for, and what has to be known of a request for it.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What it asks for.
    pub policy: Arc<RoutePolicy>,
    /// When the request was first sent to an endpoint.
    pub first_sent: Option<Instant>,
    /// The request wakes nobody: it is not parked where no endpoint is ready.
    pub only_if_up: bool,
    /// A browser waits for a start, and is shown a page in time.
    pub notice: Option<Rc<Notice>>,
}

/// A duration in microseconds: half as large as one in nanoseconds, for each request that is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(NonZeroU64);

impl From<Duration> for Patience {
    fn from(duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(micros).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Patience> for Duration {
    fn from(patience: Patience) -> Self {
        Self::from_micros(patience.0.get())
    }
}

impl Deadlines {
    /// When a request without a response head ends.
    pub fn before_response(&self) -> Instant {
        let timeouts = match &self.route {
            None => self.of.spec.timeouts,
            Some(terms) => terms.policy.timeouts.before_response(self.of.spec.timeouts),
        };
        let due = self.of_revision(&timeouts);
        match self.first_byte() {
            Some(first_byte) => due.min(first_byte),
            None => due,
        }
    }

    fn of_revision(&self, timeouts: &Timeouts) -> Instant {
        let milestones = Milestones::new(self.arrived);
        let revisions = next(timeouts, &milestones).map(|(due, _)| due);
        let clients = self
            .client
            .map(|client| self.arrived + Duration::from(client));
        let latest = self.arrived + timeouts.total;
        [revisions, clients]
            .into_iter()
            .flatten()
            .fold(latest, Instant::min)
    }

    /// When the route's timeout for the first byte passes, once the request was sent.
    fn first_byte(&self) -> Option<Instant> {
        let terms = self.route.as_ref()?;
        Some(terms.first_sent? + terms.policy.timeouts.first_byte?)
    }

    /// When a request that is parked since `since` ends.
    pub fn while_parked(&self, since: Instant) -> Instant {
        let due = self.before_response();
        let limits = self.parked(since).into_iter().chain(self.page());
        limits.fold(due, Instant::min)
    }

    /// When a browser that is parked is shown a page.
    fn page(&self) -> Option<Instant> {
        let notice = self.route.as_ref()?.notice.as_ref()?;
        Some(self.arrived + notice.page()?.patience)
    }

    fn parked(&self, since: Instant) -> Option<Instant> {
        Some(since + self.route.as_ref()?.policy.timeouts.parked?)
    }

    /// When a response that was last written to at `last_write` is cut.
    pub fn while_streaming(&self, last_write: Instant) -> Option<Instant> {
        let timeouts = match &self.route {
            None => self.of.spec.timeouts,
            Some(terms) => terms.policy.timeouts.while_streaming(self.of.spec.timeouts),
        };
        let milestones = Milestones {
            arrival: self.arrived,
            response_start: Some(last_write),
            last_write: Some(last_write),
        };
        next(&timeouts, &milestones).map(|(due, _)| due)
    }

    /// How to speak of a request whose time is over before its response has begun.
    ///
    /// `parked_since` says since when it has been parked, if it is.
    pub fn failure(&self, parked_since: Option<Instant>, now: Instant) -> Failure {
        let Some(terms) = &self.route else {
            return Failure::TimedOut;
        };
        let has_passed = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let total = terms
            .policy
            .timeouts
            .total
            .map(|total| self.arrived + total);
        if has_passed(total) {
            Failure::RouteTimeout(Named::Total)
        } else if has_passed(self.first_byte()) {
            Failure::RouteTimeout(Named::FirstByte)
        } else if has_passed(parked_since.and_then(|since| self.parked(since))) {
            Failure::RouteTimeout(Named::Parked)
        } else if let Some(notice) = &terms.notice
            && parked_since.is_some()
            && has_passed(self.page())
            && !has_passed(Some(self.before_response()))
        {
            Failure::Starting(Rc::clone(notice))
        } else {
            Failure::TimedOut
        }
    }
}
