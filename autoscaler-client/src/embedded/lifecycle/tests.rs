//! Row by row: `scaler.go` (applying, scaling to zero) and `computeActiveCondition` in `kpa.go`.

use std::collections::BTreeMap;

use super::Reachability::{Reachable, Unreachable};
use super::*;
use crate::embedded::config::AutoscalerConfig;

/// One Revision's replicas, its clock, and how it is scaled; windows of 60 s unless said otherwise.
struct Case {
    lifecycle: Lifecycle,
    scaling: RevisionScaling,
    reachability: Reachability,
    now: Instant,
}

impl Case {
    /// A new Revision at zero, with Knative's defaults for all.
    fn new(pairs: &[(&str, &str)]) -> Self {
        Self::found(0, Reachable, pairs)
    }

    fn found(ready: u32, reachability: Reachability, pairs: &[(&str, &str)]) -> Self {
        Self::with(&AutoscalerConfig::default(), ready, reachability, pairs)
    }

    /// A new Revision of `parkway run`.
    fn standalone(pairs: &[(&str, &str)]) -> Self {
        Self::with(&AutoscalerConfig::standalone(), 0, Reachable, pairs)
    }

    fn with(
        config: &AutoscalerConfig,
        ready: u32,
        reachability: Reachability,
        pairs: &[(&str, &str)],
    ) -> Self {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                format!("autoscaling.knative.dev/{name}"),
                (*value).to_owned(),
            )
        });
        let annotations: BTreeMap<String, String> = pairs.collect();
        let scaling = RevisionScaling::parse(&annotations, 0.into(), config).unwrap();
        let now = Instant::now();
        Self {
            lifecycle: Lifecycle::new(&scaling, reachability, ready, now),
            scaling,
            reachability,
            now,
        }
    }

    /// Looks `seconds` later; returns the order.
    fn after(&mut self, seconds: u64, desired: impl Into<Option<u32>>, ready: u32) -> Option<u32> {
        self.now += Duration::from_secs(seconds);
        let (scaling, reachability) = (&self.scaling, self.reachability);
        self.lifecycle
            .look(desired.into(), scaling, reachability, ready, self.now)
    }

    fn phase(&self) -> Phase {
        self.lifecycle.phase()
    }
}

#[test]
fn nothing_is_ordered_for_a_new_revision_beyond_its_initial_scale() {
    let mut case = Case::new(&[]);
    assert_eq!(case.after(0, None, 0), Some(1));
    assert_eq!(case.after(2, None, 0), None);
    assert_eq!(case.phase(), Phase::Activating);
}

#[test]
fn a_new_standalone_revision_stays_at_zero() {
    let mut case = Case::standalone(&[]);
    assert_eq!(case.after(0, None, 0), None);
    assert_eq!(case.after(2, 0, 0), None);
    assert_eq!(case.phase(), Phase::Inactive);
}

#[test]
fn an_initial_scale_is_the_minimum_until_it_was_reached() {
    let mut case = Case::new(&[("initial-scale", "3")]);
    assert_eq!(case.after(0, None, 0), Some(3));
    assert_eq!(case.after(2, 1, 2), None); // max(3, 0) although 1 is desired
    assert_eq!(case.phase(), Phase::Activating);
    assert_eq!(case.after(2, 1, 3), Some(1)); // reached
    assert_eq!(case.phase(), Phase::Active);
}

#[test]
fn an_initial_scale_goes_beyond_the_maximum_until_it_was_reached() {
    let mut case = Case::new(&[("initial-scale", "3"), ("max-scale", "2")]);
    assert_eq!(case.after(0, None, 0), Some(3));
    assert_eq!(case.after(2, 5, 3), Some(2));
}

#[test]
fn a_minimum_beyond_the_initial_scale_is_ordered_at_once() {
    assert_eq!(Case::new(&[("min-scale", "2")]).after(0, None, 0), Some(2));
    assert_eq!(
        Case::standalone(&[("min-scale", "2")]).after(0, None, 0),
        Some(2)
    );
}

#[test]
fn the_minimum_holds_without_traffic() {
    let mut case = Case::new(&[("min-scale", "2")]);
    case.after(0, None, 0);
    assert_eq!(case.after(600, 0, 2), None);
    assert_eq!(case.phase(), Phase::Active);
}

#[test]
fn the_desired_number_is_kept_within_the_bounds() {
    let mut case = Case::new(&[("min-scale", "2"), ("max-scale", "4")]);
    case.after(0, None, 0);
    assert_eq!(case.after(2, 3, 2), Some(3));
    assert_eq!(case.after(2, 9, 3), Some(4));
    assert_eq!(case.after(2, 1, 4), Some(2));
}

#[test]
fn a_revision_is_active_when_its_minimum_is_ready() {
    let mut case = Case::new(&[("min-scale", "2")]);
    case.after(0, None, 1);
    assert_eq!(case.phase(), Phase::Activating);
    case.after(2, None, 2);
    assert_eq!(case.phase(), Phase::Active);
}

#[test]
fn the_last_replica_goes_a_stable_window_after_the_revision_became_active() {
    let mut case = Case::standalone(&[]);
    assert_eq!(case.after(0, 1, 0), Some(1));
    assert_eq!(case.after(2, 1, 1), None); // active from here
    assert_eq!(case.after(58, 0, 1), None); // 58 s
    assert_eq!(case.phase(), Phase::Active);
    assert_eq!(case.after(2, 0, 1), Some(0)); // 60 s, no retention
    assert_eq!(case.phase(), Phase::Inactive);
}

#[test]
fn several_replicas_become_one_until_the_stable_window_is_over() {
    let mut case = Case::standalone(&[]);
    case.after(0, 3, 0);
    case.after(2, 3, 3);
    assert_eq!(case.after(10, 0, 3), Some(1));
    assert_eq!(case.after(50, 0, 1), Some(0));
}

#[test]
fn the_last_replica_stays_for_the_retention() {
    let mut case = Case::standalone(&[("scale-to-zero-pod-retention-period", "30s")]);
    case.after(0, 1, 0);
    case.after(2, 1, 1);
    assert_eq!(case.after(60, 0, 1), None); // inactive from here
    assert_eq!(case.phase(), Phase::Inactive);
    assert_eq!(case.after(28, 0, 1), None);
    assert_eq!(case.after(2, 0, 1), Some(0));
}

#[test]
fn a_request_during_the_retention_keeps_the_replica_and_starts_over() {
    let mut case = Case::standalone(&[("scale-to-zero-pod-retention-period", "30s")]);
    case.after(0, 1, 0);
    case.after(2, 1, 1);
    case.after(60, 0, 1);
    assert_eq!(case.after(10, 1, 1), None);
    assert_eq!(case.phase(), Phase::Active);
    assert_eq!(case.after(58, 0, 1), None);
    assert_eq!(case.after(2, 0, 1), None); // inactive again
    assert_eq!(case.after(30, 0, 1), Some(0));
}

#[test]
fn a_revision_that_becomes_ready_after_its_client_left_stays_for_a_stable_window() {
    let mut case = Case::standalone(&[]);
    assert_eq!(case.after(0, 1, 0), Some(1));
    assert_eq!(case.after(2, 0, 0), None); // nobody wants it, but it is on its way
    assert_eq!(case.phase(), Phase::Activating);
    assert_eq!(case.after(8, 0, 1), None);
    assert_eq!(case.phase(), Phase::Active);
    assert_eq!(case.after(60, 0, 1), Some(0));
}

#[test]
fn a_revision_that_never_becomes_ready_is_given_up_after_its_deadline_and_half_a_minute() {
    let mut case = Case::standalone(&[]);
    case.scaling = case
        .scaling
        .with_progress_deadline(Duration::from_secs(100));
    assert_eq!(case.after(0, 1, 0), Some(1));
    assert_eq!(case.after(130, 0, 0), None); // not yet "longer than"
    assert_eq!(case.after(2, 0, 0), Some(0));
    assert_eq!(case.phase(), Phase::Inactive);
}

#[test]
fn a_revision_that_is_wanted_is_not_given_up() {
    let mut case = Case::standalone(&[]);
    assert_eq!(case.after(0, 1, 0), Some(1));
    assert_eq!(case.after(100_000, 1, 0), None);
    assert_eq!(case.phase(), Phase::Activating);
}

#[test]
fn one_replica_stays_where_zero_is_forbidden() {
    let config = AutoscalerConfig {
        enable_scale_to_zero: false,
        ..AutoscalerConfig::default()
    };
    let mut case = Case::with(&config, 0, Reachable, &[]);
    assert_eq!(case.after(0, None, 0), Some(1));
    assert_eq!(case.after(2, 0, 1), None);
    assert_eq!(case.after(10_000, 0, 1), None);
    assert_eq!(case.phase(), Phase::Active);
}

#[test]
fn a_crashed_replica_makes_the_revision_activating_and_its_window_starts_over() {
    let mut case = Case::standalone(&[]);
    case.after(0, 1, 0);
    case.after(2, 1, 1);
    case.after(30, 1, 0);
    assert_eq!(case.phase(), Phase::Activating);
    case.after(2, 1, 1);
    assert_eq!(case.after(58, 0, 1), None);
    assert_eq!(case.after(2, 0, 1), Some(0));
}

#[test]
fn an_unreachable_revision_loses_its_minimum_and_its_retention() {
    let mut case = Case::new(&[
        ("min-scale", "2"),
        ("scale-to-zero-pod-retention-period", "1h"),
    ]);
    case.after(0, None, 2);
    case.reachability = Unreachable;
    assert_eq!(case.after(30, 0, 2), Some(1));
    assert_eq!(case.after(30, 0, 1), Some(0));
}

#[test]
fn a_new_revision_that_nobody_can_reach_is_not_started() {
    let mut case = Case::found(0, Unreachable, &[("min-scale", "2")]);
    assert_eq!(case.after(0, None, 0), None);
    assert_eq!(case.after(2, 0, 0), None);
    assert_eq!(case.phase(), Phase::Inactive);
}

#[test]
fn a_revision_that_can_be_reached_again_gets_its_minimum() {
    let mut case = Case::found(0, Unreachable, &[("min-scale", "2")]);
    case.after(2, 0, 0);
    case.reachability = Reachable;
    assert_eq!(case.after(0, 0, 0), Some(2));
}

#[test]
fn replicas_that_are_found_are_kept_until_something_is_decided() {
    let mut case = Case::found(4, Reachable, &[]);
    assert_eq!(case.after(0, None, 4), None);
    assert_eq!(case.phase(), Phase::Active);
    assert_eq!(case.after(2, 2, 4), Some(2));
}
