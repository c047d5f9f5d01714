//! How long a Revision whose processes keep failing waits before it tries again.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after the second failure in a row; the first is followed by a start at once.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long a process must have been ready for the failures before it to be forgotten.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// Counts failures in a row: 0, 0.1 s, 0.2 s, 0.4 s … 10 s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// Since when some process has been ready, if one became ready since the last failure.
    ready_since: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Backoff {
    /// A process could not be started, did not become ready, or ended unasked; says how long to wait.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        if self
            .ready_since
            .take()
            .is_some_and(|since| now - since >= PROVEN_AFTER)
        {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            doublings => {
                (FIRST_WAIT * 2_u32.saturating_pow((doublings - 1).min(16))).min(LONGEST_WAIT)
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + wait);
        wait
    }

    /// A process became ready.
    pub(super) fn ready(&mut self, now: Instant) {
        self.ready_since.get_or_insert(now);
        self.retry_at = None;
    }

    /// Until when nothing may be started; None when it may be now.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| *at > now)
    }

    /// Whether the last thing that happened was a failure, so that one process should try before many do.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0 && self.ready_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(waits: impl IntoIterator<Item = Duration>) -> Vec<u128> {
        waits.into_iter().map(|wait| wait.as_millis()).collect()
    }

    #[test]
    fn waits_double_from_nothing_to_ten_seconds() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());

        let waits = millis((0..10).map(|_| backoff.failed(now)));

        assert_eq!(
            waits,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
    }

    #[test]
    fn failures_are_forgotten_after_ten_seconds_of_being_ready() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        backoff.failed(now);
        backoff.failed(now);

        backoff.ready(now);
        assert_eq!(
            backoff.failed(now + Duration::from_secs(9)),
            Duration::from_millis(200)
        );
        backoff.ready(now);
        assert_eq!(
            backoff.failed(now + Duration::from_secs(10)),
            Duration::ZERO
        );
    }

    #[test]
    fn a_healthy_process_does_not_excuse_one_that_keeps_failing() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        backoff.ready(now);
        let later = now + Duration::from_secs(3600);

        let waits = millis((0..3).map(|_| backoff.failed(later)));

        assert_eq!(waits, [0, 100, 200]);
    }
}
