//! How long a Revision took to start, and so how long it may take next time.
//!
//! A start lasts from the first request parked while there is no endpoint to the first ready endpoint. What is
//! remembered becomes the `Retry-After` of requests refused meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cold_start::{ColdStart, Milestone, Outcome, Seen};

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
    under_way: Option<UnderWay>,
    /// The last one that was waited for to its end, and its end, until nobody is parked any more.
    waited_for: Option<(Arc<ColdStart>, Instant)>,
    /// What was seen of a replica that nobody waits for yet, each milestone once.
    early: Vec<Seen>,
}

#[derive(Debug)]
struct UnderWay {
    since: Instant,
    record: Arc<ColdStart>,
}

impl Starts {
    /// A request parks while there is no endpoint. Says whether this begins a start.
    ///
    /// A start goes on when the clients leave, for the workload is being started all the same. But one that began
    /// long ago and that nobody waits for has been given up by whoever starts workloads.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        is_first_parked: bool,
        record: impl FnOnce() -> Arc<ColdStart>,
    ) -> bool {
        let is_stale = |since: Instant| is_first_parked && now.duration_since(since) > LONGEST;
        if self.since().is_some_and(|since| !is_stale(since)) {
            return false;
        }
        let early = std::mem::take(&mut self.early);
        self.give_up(Outcome::Abandoned, now);
        let record = record();
        record.saw(Seen::new(Milestone::Parked, now));
        for seen in early {
            record.saw(seen);
        }
        self.under_way = Some(UnderWay { since: now, record });
        true
    }

    /// One more request waits for the start under way; so many are parked now. Returns what is recorded of the start.
    pub(super) fn wait(&self, parked: usize) -> Option<Arc<ColdStart>> {
        let under_way = self.under_way.as_ref()?;
        under_way.record.parks(parked);
        Some(Arc::clone(&under_way.record))
    }

    /// A milestone of the start under way was seen, or of one that nobody waits for yet.
    pub(super) fn saw(&mut self, seen: Seen) {
        if let Some(under_way) = &self.under_way {
            return under_way.record.saw(seen);
        }
        let known = { &mut self.early }
            .iter_mut()
            .find(|known| known.milestone == seen.milestone);
        match known {
            Some(known) => *known = seen,
            None => self.early.push(seen),
        }
    }

    /// The first endpoint is ready, and so many are parked. Says how long that took, if somebody waited.
    pub(super) fn ready(&mut self, now: Instant, parked: usize) -> Option<Duration> {
        self.early = Vec::new();
        let under_way = self.under_way.take()?;
        under_way.record.is_ready(now);
        let took = now.duration_since(under_way.since);
        self.waited_for = (parked > 0).then_some((under_way.record, now));
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        Some(took)
    }

    /// Requests are let go that parked at these moments; afterwards so many are left.
    pub(super) fn release(
        &mut self,
        since: impl Iterator<Item = Instant>,
        now: Instant,
        left: usize,
    ) {
        let Some((record, ready)) = &self.waited_for else {
            return;
        };
        let count = since.filter(|since| since <= ready).count();
        if count > 0 {
            record.releases(u64::try_from(count).unwrap_or(u64::MAX), now);
        }
        if left == 0 {
            self.waited_for = None;
        }
    }

    /// The start has failed or is of no interest any more.
    pub(super) fn give_up(&mut self, outcome: Outcome, now: Instant) {
        self.early = Vec::new();
        if let Some(under_way) = self.under_way.take() {
            under_way.record.fails(outcome, now);
        }
    }

    /// When the start under way began.
    pub(super) fn since(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|start| start.since)
    }

    /// When to come again: whole seconds, 1 to 300.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        let estimate = self.usual().unwrap_or(UNKNOWN);
        let waited = self
            .since()
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        whole_seconds(estimate.saturating_sub(waited))
    }

    /// How long a start takes at most, as nine of ten of the last ones did.
    pub(super) fn usual(&self) -> Option<Duration> {
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
    use crate::cold_start::ColdStarts;
    use crate::revision::RevisionId;

    const SECOND: Duration = Duration::from_secs(1);

    impl Starts {
        fn begins(&mut self, now: Instant, is_first_parked: bool) -> bool {
            let log = ColdStarts::default();
            self.begin(now, is_first_parked, || {
                log.begin(RevisionId::new("ns", "rev"), now)
            })
        }
    }

    fn after(durations: impl IntoIterator<Item = u64>) -> (Starts, Instant) {
        let mut now = Instant::now();
        let mut starts = Starts::default();
        for seconds in durations {
            starts.begins(now, true);
            now += SECOND * u32::try_from(seconds).unwrap();
            starts.ready(now, 0);
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
        starts.begins(now, true);

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
        assert!(starts.begins(now, true));
        assert!(!starts.begins(now + 10 * SECOND, true));
        assert_eq!(starts.since(), Some(now));

        let much_later = now + 400 * SECOND;
        assert!(
            !starts.begins(much_later, false),
            "somebody has waited all the time"
        );
        assert!(starts.begins(much_later, true));
        assert_eq!(starts.since(), Some(much_later));
    }
}
