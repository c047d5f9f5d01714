//! Cold starts that are over, by Revision and phase: what `/metrics` shows of them.
//!
//! A start is looked at until it is over, twice a second, and counted then, once. What is kept is bounded by the Revisions
//! there are; starts that came and went faster than they could be looked at are counted as missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::cold_start::{
    ColdStart, ColdStartState, ColdStarts, Milestone, Outcome, PhaseName,
};
use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::Histogram;
use tokio::time::Instant;

/// Buckets of the phases: those of [`Histogram`].
pub const PHASE_BUCKETS: usize = Histogram::BOUNDS.len();

/// How often starts are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// A start whose first response takes longer than this after an endpoint was ready is over, too.
const LONGEST_ANSWER: Duration = Duration::from_secs(15);

/// So many starts are looked at; further ones are missed.
const MOST_OPEN: usize = 4_096;

/// Cold starts that are over.
#[derive(Debug, Default)]
pub struct StartCounts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The number of the last start that was seen.
    last: u64,
    open: Vec<Arc<ColdStart>>,
    over: BTreeMap<RevisionId, StartOfRevision>,
    missed: u64,
}

/// The starts of one Revision.
#[derive(Clone, Debug, Default)]
pub struct StartOfRevision {
    /// By how they ended: `ready`, `failed`, `abandoned`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Seconds by phase, of those phases that came.
    pub phases: BTreeMap<PhaseName, Histogram>,
}

impl StartCounts {
    /// Looks at starts until it is dropped.
    pub async fn follow(&self, starts: ColdStarts) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            let now = tick.tick().await;
            self.look(&starts.recent(), now);
        }
    }

    /// The starts of each Revision that are over, and how many were missed.
    pub fn over(&self) -> (BTreeMap<RevisionId, StartOfRevision>, u64) {
        let table = self.0.lock();
        (table.over.clone(), table.missed)
    }

    pub(super) fn retain(&self, mut keep: impl FnMut(&RevisionId) -> bool) {
        let mut table = self.0.lock();
        table.over.retain(|revision, _| keep(revision));
        table.open.retain(|start| keep(start.revision()));
    }

    /// `recent`: the latest first.
    fn look(&self, recent: &[Arc<ColdStart>], now: Instant) {
        let mut table = self.0.lock();
        let is_nothing_new = recent
            .first()
            .is_none_or(|start| start.number() == table.last);
        if is_nothing_new && table.open.is_empty() {
            return;
        }
        let Table {
            last,
            open,
            over,
            missed,
        } = &mut *table;
        for start in recent.iter().rev() {
            if start.number() <= *last {
                continue;
            }
            *missed += start.number() - *last - 1;
            *last = start.number();
            match open.len() < MOST_OPEN {
                true => open.push(Arc::clone(start)),
                false => *missed += 1,
            }
        }
        open.retain(|start| {
            let state = start.state(now);
            let is_over = is_over(&state, now);
            if is_over {
                over.entry(state.revision.clone())
                    .or_default()
                    .count(&state);
            }
            !is_over
        });
    }
}

fn is_over(state: &ColdStartState, now: Instant) -> bool {
    let at = |milestone| {
        let seen = state.seen.iter().find(|seen| seen.milestone == milestone);
        seen.map(|seen| seen.at)
    };
    match state.outcome {
        Outcome::Starting => false,
        Outcome::Failed(_) | Outcome::Abandoned => true,
        Outcome::Ready => {
            at(Milestone::Finished).is_some()
                || at(Milestone::Ready).is_none_or(|ready| ready + LONGEST_ANSWER <= now)
        }
    }
}

impl StartOfRevision {
    fn count(&mut self, state: &ColdStartState) {
        *self.outcomes.entry(state.outcome.as_str()).or_default() += 1;
        // A phase may come twice, as a gap does: what counts is how much of the start it took.
        let mut took = BTreeMap::<PhaseName, Duration>::new();
        for phase in &state.phases {
            *took.entry(phase.name).or_default() += phase.duration();
        }
        for (phase, duration) in took {
            self.phases.entry(phase).or_default().observe(duration);
        }
    }
}

#[cfg(test)]
mod tests {
    use parkway_activator::revision::RevisionSpec;
    use parkway_activator::throttler::{Admission, Ask, Parking, QueueLimits, Throttler};

    use super::*;

    fn throttler() -> (Throttler, RevisionId) {
        let throttler = Throttler::new(QueueLimits::default(), 1);
        let shop = RevisionId::new("default", "shop");
        throttler.upsert(&shop, Arc::new(RevisionSpec::default()), Parking::Allowed);
        (throttler, shop)
    }

    #[test]
    fn a_start_that_failed_is_counted_once_with_its_phases() {
        let (throttler, shop) = throttler();
        let worker = throttler.worker(0);
        let counts = StartCounts::default();
        let parked = worker.admit(&shop, Ask::default());
        assert!(matches!(parked, Admission::Parked(_)));
        counts.look(&throttler.cold_starts().recent(), Instant::now());
        assert!(counts.over().0.is_empty(), "it is under way");

        throttler.start_failed(&shop, "no such command".into(), Duration::from_secs(1));
        for _ in 0..2 {
            counts.look(&throttler.cold_starts().recent(), Instant::now());
        }

        let (over, missed) = counts.over();
        assert_eq!(missed, 0);
        assert_eq!(over[&shop].outcomes, [("failed", 1)].into());
        let phases = &over[&shop].phases;
        assert_eq!(phases[&PhaseName::Parking].count(), 1);
        counts.retain(|_| false);
        assert!(counts.over().0.is_empty());
    }

    #[test]
    fn starts_that_were_forgotten_before_anybody_looked_are_missed() {
        let (throttler, shop) = throttler();
        let worker = throttler.worker(0);
        let counts = StartCounts::default();
        let remembered = parkway_activator::cold_start::REMEMBERED as u64;
        for _ in 0..remembered + 3 {
            drop(worker.admit(&shop, Ask::default()));
            throttler.start_failed(&shop, "no".into(), Duration::ZERO);
        }

        counts.look(&throttler.cold_starts().recent(), Instant::now());

        let (over, missed) = counts.over();
        assert_eq!((over[&shop].outcomes["failed"], missed), (remembered, 3));
    }
}
