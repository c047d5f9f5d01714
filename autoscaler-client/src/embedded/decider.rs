//! From averages to a desired number of replicas. Pure: one call is one tick.
//!
//! Source: `Scale`, knative/serving `pkg/autoscaler/scaling/autoscaler.go`; the delay is
//! `pkg/autoscaler/aggregation/max`.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::config::is_unlimited;
use super::scaling::RevisionScaling;

#[cfg(test)]
mod tests;

/// How often a decision is made, and how fine the delay of scaling down is.
pub const TICK: Duration = Duration::from_secs(2);

/// What is seen at one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// The metric's average over the stable window.
    pub stable: f64,
    /// The metric's average over the panic window.
    pub panic: f64,
    /// Replicas that are ready.
    pub ready: u32,
    /// Whether traffic can reach the Revision; if not, it may scale down at any rate.
    pub is_reachable: bool,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Replicas wanted, before the bounds of the Revision.
    pub desired: u32,
    /// Room for a burst beyond the target burst capacity; negative when there is less.
    pub excess_burst_capacity: i32,
}

/// Decides for one Revision; remembers panic and the delay of scaling down.
#[derive(Clone, Debug)]
pub struct Decider {
    origin: Instant,
    panic: Option<Panic>,
    delayed: DelayWindow,
}

/// While it lasts, the number of replicas only grows.
#[derive(Clone, Copy, Debug)]
struct Panic {
    renewed: Instant,
    most: u32,
}

impl Decider {
    /// A Revision that already has several replicas keeps them for a stable window: their history is not known.
    pub fn new(ready: u32, now: Instant) -> Self {
        Self {
            origin: now,
            panic: (ready > 1).then_some(Panic {
                renewed: now,
                most: ready,
            }),
            delayed: DelayWindow::default(),
        }
    }

    /// Whether the Revision is in panic mode.
    pub fn is_panicking(&self) -> bool {
        self.panic.is_some()
    }

    /// Decides once.
    pub fn decide(
        &mut self,
        scaling: &RevisionScaling,
        observed: Observed,
        now: Instant,
    ) -> Decision {
        let load = Load::of(scaling, observed);
        self.panic = load.panic(self.panic, scaling, now);
        let mut desired = load.stable;
        if let Some(panic) = &mut self.panic {
            panic.most = panic.most.max(load.stable).max(load.panic);
            desired = panic.most;
        }
        if observed.is_reachable && !scaling.scale_down_delay.is_zero() {
            desired = self
                .delayed
                .most(scaling.scale_down_delay, now - self.origin, desired);
        }
        Decision {
            desired,
            excess_burst_capacity: excess_burst_capacity(scaling, observed),
        }
    }
}

/// Replicas that the two windows ask for.
struct Load {
    stable: u32,
    panic: u32,
    is_over_threshold: bool,
}

impl Load {
    fn of(scaling: &RevisionScaling, observed: Observed) -> Self {
        let ready = f64::from(observed.ready.max(1));
        let most = (scaling.max_scale_up_rate * ready).ceil();
        let least = if observed.is_reachable {
            (ready / scaling.max_scale_down_rate).floor()
        } else {
            0.0
        };
        let stable = (observed.stable / scaling.target_value).ceil();
        let panic = (observed.panic / scaling.target_value).ceil();
        let within_rates = |wanted: f64| {
            let bounded = replicas(wanted.max(least).min(most));
            if wanted > 0.0 {
                bounded.max(scaling.activation_scale)
            } else {
                bounded
            }
        };
        Self {
            stable: within_rates(stable),
            panic: within_rates(panic),
            is_over_threshold: panic / ready >= scaling.panic_threshold,
        }
    }

    /// Panic begins and is renewed above the threshold; it ends a stable window after it was last renewed.
    fn panic(
        &self,
        before: Option<Panic>,
        scaling: &RevisionScaling,
        now: Instant,
    ) -> Option<Panic> {
        match before {
            _ if self.is_over_threshold => {
                let most = before.map_or(0, |panic| panic.most);
                Some(Panic { renewed: now, most })
            }
            Some(panic) if now > panic.renewed + scaling.stable_window => None,
            lasting => lasting,
        }
    }
}

/// Before anything was decided: what the initial replicas could take.
pub(super) fn initial_excess_burst_capacity(scaling: &RevisionScaling) -> i32 {
    let burst = scaling.target_burst_capacity;
    if burst <= 0.0 {
        return whole(burst);
    }
    whole((f64::from(scaling.initial_scale) * scaling.total_value - burst).trunc())
}

fn excess_burst_capacity(scaling: &RevisionScaling, observed: Observed) -> i32 {
    let burst = scaling.target_burst_capacity;
    if burst <= 0.0 {
        debug_assert!(
            burst >= 0.0 || is_unlimited(burst),
            "checked when it was read"
        );
        return whole(burst);
    }
    let capacity = f64::from(observed.ready) * scaling.total_value;
    whole((capacity - burst - observed.panic).floor())
}

/// The greatest of the numbers decided within a delay, in steps of [`TICK`].
#[derive(Clone, Debug, Default)]
struct DelayWindow {
    /// Steps and the greatest number of each; only those that can still become the greatest: a later entry is lower.
    greatest: VecDeque<(u64, u32)>,
}

impl DelayWindow {
    /// Records `desired` and returns the greatest within `delay`.
    fn most(&mut self, delay: Duration, since_origin: Duration, desired: u32) -> u32 {
        let step = since_origin.as_secs() / TICK.as_secs();
        let steps = delay.as_secs().div_ceil(TICK.as_secs());
        while self
            .greatest
            .front()
            .is_some_and(|(old, _)| step.saturating_sub(*old) >= steps)
        {
            self.greatest.pop_front();
        }
        while self
            .greatest
            .back()
            .is_some_and(|(_, lower)| *lower <= desired)
        {
            self.greatest.pop_back();
        }
        // In a step that already has a greater number, the greater one stays.
        if self.greatest.back().is_none_or(|(last, _)| *last != step) {
            self.greatest.push_back((step, desired));
        }
        self.greatest
            .front()
            .map_or(desired, |(_, greatest)| *greatest)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range"
)]
fn replicas(wanted: f64) -> u32 {
    wanted.clamp(0.0, f64::from(i32::MAX)) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn whole(value: f64) -> i32 {
    value.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
}
