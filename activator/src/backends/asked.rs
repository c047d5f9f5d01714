//! Somebody who is asked whether they serve: a Pod, or the ClusterIP of a Service.

use std::time::Duration;

use tokio::time::Instant;

use super::{AskedState, Outcome};
use crate::endpoint::Endpoint;
use crate::prober::Cadence;

/// From this age on a probe without an answer is replaced when Kubernetes calls its Pod ready; and what answers only
/// after so long is asked again at once.
///
/// A probe usually knows earlier than Kubernetes, whose news takes a kubelet, an API server and a watch to get here. One
/// that does not has probably lost its connection, and would wait for its deadline.
pub const STALE_PROBE: Duration = Duration::from_secs(1);

/// Where somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Is not asked.
    Idle,
    /// Is asked, or will be after a pause.
    Asking,
    /// Has passed, or is trusted without being asked.
    Passed,
}

/// Somebody, and what is known from asking.
#[derive(Debug)]
pub(super) struct Asked {
    endpoint: Endpoint,
    step: Step,
    since: Instant,
    last: Option<Outcome>,
}

#[derive(Debug)]
enum Step {
    Idle,
    /// On the heap: most Pods have passed long ago, and there may be very many.
    Asking(Box<Pace>),
    Passed,
}

/// When the next probe begins, or the one under way began, and the pauses after it.
#[derive(Debug)]
struct Pace {
    at: Instant,
    not_listening: Cadence,
    not_ready: Cadence,
}

impl Pace {
    fn from(now: Instant) -> Self {
        Self {
            at: now,
            not_listening: Cadence::not_listening(),
            not_ready: Cadence::suspect(),
        }
    }
}

impl Asked {
    pub(super) fn new(endpoint: Endpoint, now: Instant) -> Self {
        Self {
            endpoint,
            step: Step::Idle,
            since: now,
            last: None,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(super) fn last(&self) -> Option<Outcome> {
        self.last
    }

    pub(super) fn phase(&self) -> Phase {
        match self.step {
            Step::Idle => Phase::Idle,
            Step::Asking(_) => Phase::Asking,
            Step::Passed => Phase::Passed,
        }
    }

    pub(super) fn state(&self) -> AskedState {
        AskedState {
            endpoint: self.endpoint,
            phase: self.phase(),
            since: self.since,
            last: self.last,
        }
    }

    /// Is asked from now on. Says whether that is new.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let is_new = matches!(self.step, Step::Idle);
        if is_new {
            self.step(Step::Asking(Box::new(Pace::from(now))), now);
        }
        is_new
    }

    /// Is not asked any more, and what it said counts no more. Says whether it was being asked.
    pub(super) fn rest(&mut self, now: Instant) -> bool {
        let was = self.phase();
        if was != Phase::Idle {
            self.step(Step::Idle, now);
        }
        was == Phase::Asking
    }

    /// Passes without being asked. Says whether it was being asked.
    pub(super) fn trust(&mut self, now: Instant) -> bool {
        let was = self.phase();
        if was != Phase::Passed {
            self.step(Step::Passed, now);
        }
        was == Phase::Asking
    }

    /// There is news of it. Says whether it is to be asked at once: if it pauses, or if the probe under way is stale.
    pub(super) fn hurry(&mut self, now: Instant) -> bool {
        let Step::Asking(pace) = &mut self.step else {
            return false;
        };
        let pauses = pace.at > now;
        let is_stale = now.saturating_duration_since(pace.at) >= STALE_PROBE;
        if pauses || is_stale {
            **pace = Pace::from(now);
        }
        pauses || is_stale
    }

    /// The probe under way has ended. Returns when the next one begins, if it has not passed.
    pub(super) fn answer(
        &mut self,
        outcome: Outcome,
        now: Instant,
        least_pause: Duration,
    ) -> Option<Instant> {
        self.last = Some(outcome);
        let pace = match &mut self.step {
            Step::Asking(pace) if outcome != Outcome::Ready => pace,
            Step::Idle | Step::Asking(_) | Step::Passed => {
                self.step(Step::Passed, now);
                return None;
            }
        };
        let pause = match outcome {
            Outcome::Refused | Outcome::Unreachable => pace.not_listening.next_pause(),
            Outcome::Ready
            | Outcome::NotReady(_)
            | Outcome::TimedOut
            | Outcome::Broken
            | Outcome::Untrusted => {
                if now.saturating_duration_since(pace.at) >= STALE_PROBE {
                    pace.not_ready = Cadence::suspect(); // it was held: asking again costs little
                }
                pace.not_ready.next_pause()
            }
        };
        pace.at = now + pause.max(least_pause);
        Some(pace.at)
    }

    fn step(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.since = now;
    }
}
