//! How long a Revision took to start, and so how long it may take next time.
//!
//! A start lasts from the first request parked while there is no endpoint to the first ready endpoint. What is
//! remembered becomes the `Retry-After` of requests refused meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many starts are remembered.
const REMEMBERED: usize = 16;

/// Ten percent of the starts may have taken longer than what is promised.
const PERCENTILE: usize = 90;

/// What is promised while no start has been seen.
const UNKNOWN: Duration = Duration::from_secs(5);

/// No promise is shorter: the header counts whole seconds, and 0 would invite to hammer.
const SHORTEST: Duration = Duration::from_secs(1);

/// When to come again if it is not a start one waits for, but slots of ready endpoints.
pub(super) const RETRY_SOON: Duration = SHORTEST;

/// No promise is longer. A start that takes longer than this and that nobody waits for is forgotten.
const LONGEST: Duration = Duration::from_secs(300);

/// The starts of one Revision.
#[derive(Debug, Default)]
pub(super) struct Starts {
    recent: VecDeque<Duration>,
    since: Option<Instant>,
}

impl Starts {
    /// A request parks while there is no endpoint. Says whether this begins a start.
    ///
    /// A start goes on when the clients leave, for the workload is being started all the same. But one that began
    /// long ago and that nobody waits for has been given up by whoever starts workloads.
    pub(super) fn begin(&mut self, now: Instant, is_first_parked: bool) -> bool {
        let is_stale = |since: Instant| is_first_parked && now.duration_since(since) > LONGEST;
        if self.since.is_some_and(|since| !is_stale(since)) {
            return false;
        }
        self.since = Some(now);
        true
    }

    /// The first endpoint is ready. Says how long that took, if somebody waited.
    pub(super) fn ready(&mut self, now: Instant) -> Option<Duration> {
        let took = now.duration_since(self.since.take()?);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        Some(took)
    }

    /// The start has failed or is of no interest any more.
    pub(super) fn abandon(&mut self) {
        self.since = None;
    }

    /// When the start under way began.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// When to come again: whole seconds, 1 to 300.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        let estimate = self.estimate().unwrap_or(UNKNOWN);
        let waited = self
            .since
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        whole_seconds(estimate.saturating_sub(waited))
    }

    fn estimate(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * PERCENTILE).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }
}

/// Rounds up to whole seconds, at least 1 and at most 300.
pub(super) fn whole_seconds(duration: Duration) -> Duration {
    let up = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(up)).clamp(SHORTEST, LONGEST)
}

/// The instant after `wait`, or one so far ahead that nobody will see it.
pub(super) fn later(now: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
    now + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(durations: impl IntoIterator<Item = u64>) -> (Starts, Instant) {
        let mut now = Instant::now();
        let mut starts = Starts::default();
        for seconds in durations {
            starts.begin(now, true);
            now += SECOND * u32::try_from(seconds).unwrap();
            starts.ready(now);
        }
        (starts, now)
    }

    #[test]
    fn unknown_start_promises_five_seconds() {
        let (starts, now) = after([]);
        assert_eq!(starts.retry_after(now), 5 * SECOND);
    }

    #[test]
    fn promise_is_a_high_percentile_of_the_last_sixteen_starts() {
        let (starts, now) = after((1..=10).chain([60]));
        assert_eq!(
            starts.retry_after(now),
            10 * SECOND,
            "one outlier of eleven"
        );

        let (starts, now) = after(std::iter::repeat_n(60, 20).chain(std::iter::repeat_n(2, 16)));
        assert_eq!(
            starts.retry_after(now),
            2 * SECOND,
            "older ones are forgotten"
        );
    }

    #[test]
    fn time_already_waited_counts_and_a_second_is_the_least() {
        let (mut starts, now) = after([10]);
        starts.begin(now, true);

        assert_eq!(
            starts.retry_after(now + Duration::from_millis(3_500)),
            7 * SECOND
        );
        assert_eq!(starts.retry_after(now + 60 * SECOND), SECOND);
    }

    #[test]
    fn promise_ends_at_five_minutes() {
        let (starts, now) = after([4_000]);
        assert_eq!(starts.retry_after(now), 300 * SECOND);
    }

    #[test]
    fn a_start_goes_on_when_its_clients_leave_but_not_for_ever() {
        let (mut starts, now) = after([]);
        assert!(starts.begin(now, true));
        assert!(!starts.begin(now + 10 * SECOND, true));
        assert_eq!(starts.since(), Some(now));

        let much_later = now + 400 * SECOND;
        assert!(
            !starts.begin(much_later, false),
            "somebody has waited all the time"
        );
        assert!(starts.begin(much_later, true));
        assert_eq!(starts.since(), Some(much_later));
    }
}
