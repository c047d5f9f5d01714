//! From the desired number of replicas to the number to run: bounds, initial scale, and the way to zero.
//!
//! ```text
//!               ready                         idle for the stable window
//!  Activating ─────────▶ Active ──────────────────────────────────────────────▶ Inactive
//!      ▲  ▲ not ready any more │                                               │   │ after the retention: 0
//!      │  └────────────────────┘                                               │   ▼
//!      └──────────────────────── somebody wants it ────────────────────────────┘
//! ```
//!
//! A Revision that is never ready goes to zero, too, when nobody wants it and its time is over. Pure: one call is
//! one look. Source: knative/serving `pkg/reconciler/autoscaling/kpa/scaler.go` and `computeActiveCondition`,
//! `kpa.go` beside it.

use std::time::Duration;

use tokio::time::Instant;

use super::autoscaler::Reachability;
use super::scaling::RevisionScaling;

#[cfg(test)]
mod tests;

/// A change of phase can make another one due at once; there are never more in a row than phases.
const PHASES: usize = 3;

/// Where a Revision is on its way from zero and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Wanted, and not enough replicas are ready.
    Activating,
    /// Enough replicas are ready.
    Active,
    /// Nobody wants it; it has no replica, or keeps its last ones for the retention.
    Inactive,
}

/// The state of one Revision's replicas.
#[derive(Clone, Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    since: Instant,
    /// Whether its initial scale has been reached once.
    is_initialized: bool,
    /// The number last ordered, or found.
    replicas: u32,
    /// The first order, when there is one.
    initial: Option<u32>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// Not known yet.
    Nothing,
    /// None is wanted, but those there are stay for now.
    Last,
    /// So many.
    Replicas(u32),
}

impl Lifecycle {
    /// A Revision that is known from now on, with `ready` replicas found.
    ///
    /// Replicas that are there are kept until something else is decided. Without any, the initial scale is ordered;
    /// but not for a Revision that nobody can reach, which waits at zero.
    pub(super) fn new(
        scaling: &RevisionScaling,
        reachability: Reachability,
        ready: u32,
        now: Instant,
    ) -> Self {
        let first = scaling.initial_scale.max(scaling.min_scale);
        let waits_at_zero = ready == 0 && (first == 0 || reachability == Reachability::Unreachable);
        Self {
            phase: if waits_at_zero {
                Phase::Inactive
            } else {
                Phase::Activating
            },
            since: now,
            is_initialized: waits_at_zero,
            replicas: ready,
            initial: (ready == 0 && !waits_at_zero).then_some(first),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The number of replicas last ordered.
    pub(super) fn replicas(&self) -> u32 {
        self.replicas
    }

    /// Looks once, and returns the number to run when it is another than before.
    pub(super) fn look(
        &mut self,
        desired: Option<u32>,
        scaling: &RevisionScaling,
        reachability: Reachability,
        ready: u32,
        now: Instant,
    ) -> Option<u32> {
        let before = self.replicas;
        if let Some(initial) = self.initial.take() {
            self.replicas = initial;
        }
        for _ in 0..PHASES {
            let phase = self.phase;
            let want = self.want(desired, scaling, reachability, now);
            if let Want::Replicas(wanted) = want {
                self.replicas = wanted;
            }
            let next = self.phase_after(want, scaling, reachability, ready);
            self.enter(next, now);
            if self.phase == phase {
                break;
            }
        }
        (self.replicas != before).then_some(self.replicas)
    }

    fn want(
        &self,
        desired: Option<u32>,
        scaling: &RevisionScaling,
        reachability: Reachability,
        now: Instant,
    ) -> Want {
        let least = self.least(scaling, reachability);
        let bounded = match desired {
            Some(desired) => bound(desired, least, scaling.max_scale),
            None if self.phase == Phase::Activating => least,
            None => return Want::Nothing,
        };
        match bounded {
            0 if scaling.enable_scale_to_zero => self.want_zero(scaling, reachability, now),
            0 => Want::Replicas(1),
            some => Want::Replicas(some),
        }
    }

    fn want_zero(
        &self,
        scaling: &RevisionScaling,
        reachability: Reachability,
        now: Instant,
    ) -> Want {
        let elapsed = now.saturating_duration_since(self.since);
        match self.phase {
            Phase::Activating if elapsed > scaling.activation_timeout => Want::Replicas(0),
            Phase::Activating => Want::Nothing,
            Phase::Active if elapsed < scaling.stable_window => Want::Replicas(1),
            Phase::Inactive if elapsed >= retention(scaling, reachability) => Want::Replicas(0),
            Phase::Active | Phase::Inactive => Want::Last,
        }
    }

    fn phase_after(
        &mut self,
        want: Want,
        scaling: &RevisionScaling,
        reachability: Reachability,
        ready: u32,
    ) -> Phase {
        let threshold = self.ready_threshold(scaling, reachability);
        self.is_initialized |= ready >= threshold;
        match want {
            Want::Last | Want::Replicas(0) => Phase::Inactive,
            Want::Nothing if self.phase == Phase::Inactive => Phase::Inactive,
            Want::Nothing | Want::Replicas(_) if ready < threshold => Phase::Activating,
            Want::Nothing | Want::Replicas(_) => Phase::Active,
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    /// The lower bound: `min-scale`, and the initial scale until it has been reached.
    fn least(&self, scaling: &RevisionScaling, reachability: Reachability) -> u32 {
        match reachability {
            Reachability::Unreachable => 0,
            Reachability::Reachable if !self.is_initialized && scaling.initial_scale > 1 => {
                scaling.min_scale.max(scaling.initial_scale)
            }
            Reachability::Reachable => scaling.min_scale,
        }
    }

    /// How many ready replicas make the Revision active.
    fn ready_threshold(&self, scaling: &RevisionScaling, reachability: Reachability) -> u32 {
        let min = match reachability {
            Reachability::Unreachable => 0,
            Reachability::Reachable => scaling.min_scale,
        };
        let initial = if self.is_initialized {
            1
        } else {
            scaling.initial_scale
        };
        min.max(initial).max(1)
    }
}

/// The lower bound wins over the upper one; an upper bound of 0 is none.
fn bound(desired: u32, least: u32, most: u32) -> u32 {
    if desired < least {
        least
    } else if most != 0 && desired > most {
        most
    } else {
        desired
    }
}

fn retention(scaling: &RevisionScaling, reachability: Reachability) -> Duration {
    match reachability {
        Reachability::Reachable => scaling.retention,
        Reachability::Unreachable => Duration::ZERO,
    }
}
