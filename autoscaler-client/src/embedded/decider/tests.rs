//! Worked examples, computed by hand from the formulas of `autoscaler.go`.

use std::collections::BTreeMap;

use parkway_activator::revision::ContainerConcurrency;

use super::*;
use crate::embedded::config::AutoscalerConfig;

/// A Revision whose replicas should get 10 of the metric each and can take 10: windows of 60 s and 6 s, panic at
/// twice the load, at most 1000 times as many and half as many replicas at once.
fn scaling() -> RevisionScaling {
    annotated(&[("target", "10"), ("target-utilization-percentage", "100")])
}

fn annotated(pairs: &[(&str, &str)]) -> RevisionScaling {
    let pairs = pairs.iter().map(|(name, value)| {
        (
            format!("autoscaling.knative.dev/{name}"),
            (*value).to_owned(),
        )
    });
    let annotations: BTreeMap<String, String> = pairs.collect();
    let config = AutoscalerConfig::default();
    RevisionScaling::parse(&annotations, ContainerConcurrency::Unlimited, &config).unwrap()
}

fn seen(stable: f64, panic: f64, ready: u32) -> Observed {
    Observed {
        stable,
        panic,
        ready,
        is_reachable: true,
    }
}

fn unreachable(stable: f64, panic: f64, ready: u32) -> Observed {
    Observed {
        is_reachable: false,
        ..seen(stable, panic, ready)
    }
}

/// A decider and its clock.
struct Case {
    decider: Decider,
    scaling: RevisionScaling,
    now: Instant,
}

impl Case {
    fn new(scaling: RevisionScaling) -> Self {
        Self::with_ready(0, scaling)
    }

    fn with_ready(ready: u32, scaling: RevisionScaling) -> Self {
        let now = Instant::now();
        Self {
            decider: Decider::new(ready, now),
            scaling,
            now,
        }
    }

    fn after(&mut self, seconds: u64, observed: Observed) -> u32 {
        self.now += Duration::from_secs(seconds);
        self.decider
            .decide(&self.scaling, observed, self.now)
            .desired
    }
}

fn desired(scaling: RevisionScaling, observed: Observed) -> u32 {
    Case::new(scaling).after(0, observed)
}

fn excess(scaling: RevisionScaling, observed: Observed) -> i32 {
    let mut case = Case::new(scaling);
    case.decider
        .decide(&case.scaling, observed, case.now)
        .excess_burst_capacity
}

#[test]
fn load_is_divided_by_the_target_and_rounded_up() {
    // ⌈0/10⌉ with 1 ready: 0, and floor(1/2) = 0 allows it.
    assert_eq!(desired(scaling(), seen(0.0, 0.0, 1)), 0);
    // ⌈0.1/10⌉.
    assert_eq!(desired(scaling(), seen(0.1, 0.1, 1)), 1);
    // ⌈30/10⌉; panic needs ⌈30/10⌉/3 = 1 < 2.
    assert_eq!(desired(scaling(), seen(30.0, 30.0, 3)), 3);
    // ⌈30.1/10⌉.
    assert_eq!(desired(scaling(), seen(30.1, 30.1, 3)), 4);
}

#[test]
fn the_default_target_is_seventy_of_a_hundred() {
    // ⌈140/70⌉ = 2, ⌈141/70⌉ = 3; with 2 ready 3/2 < 2 is no panic.
    assert_eq!(desired(annotated(&[]), seen(140.0, 140.0, 2)), 2);
    assert_eq!(desired(annotated(&[]), seen(141.0, 141.0, 2)), 3);
}

#[test]
fn scaling_down_is_limited_to_half_of_what_is_ready() {
    // max(⌈10/10⌉, ⌊9/2⌋) = 4.
    assert_eq!(desired(scaling(), seen(10.0, 10.0, 9)), 4);
    // max(0, ⌊1/2⌋) = 0.
    assert_eq!(desired(scaling(), seen(0.0, 0.0, 1)), 0);
}

#[test]
fn an_unreachable_revision_scales_down_at_any_rate() {
    // max(⌈10/10⌉, 0) = 1.
    assert_eq!(desired(scaling(), unreachable(10.0, 10.0, 9)), 1);
}

#[test]
fn scaling_up_is_limited_to_the_rate() {
    let slow = RevisionScaling {
        max_scale_up_rate: 1.5,
        ..scaling()
    };
    // min(⌈100/10⌉, ⌈1.5 · 3⌉) = 5; from zero min(10, ⌈1.5 · 1⌉) = 2.
    assert_eq!(desired(slow.clone(), seen(100.0, 100.0, 3)), 5);
    assert_eq!(desired(slow, seen(100.0, 100.0, 0)), 2);
}

#[test]
fn a_rate_close_to_one_still_allows_one_more() {
    let slow = RevisionScaling {
        max_scale_up_rate: 1.1,
        ..scaling()
    };
    // ⌈1.1 · 2⌉ = 3 although 2.2 is barely more than 2.
    assert_eq!(desired(slow, seen(30.0, 30.0, 2)), 3);
}

#[test]
fn activation_scale_is_the_least_for_any_load_and_nothing_for_none() {
    let activated = annotated(&[("activation-scale", "5"), ("target", "10")]);
    assert_eq!(desired(activated.clone(), seen(1.0, 1.0, 0)), 5);
    assert_eq!(desired(activated.clone(), seen(0.0, 0.0, 0)), 0);
    // Target 7: ⌈42/7⌉ = 6 > 5; with 6 ready there is no panic.
    assert_eq!(desired(activated, seen(42.0, 42.0, 6)), 6);
}

#[test]
fn activation_scale_goes_beyond_the_rate() {
    let slow = RevisionScaling {
        max_scale_up_rate: 1.1,
        activation_scale: 5,
        ..scaling()
    };
    // min(1, ⌈1.1⌉) = 1, raised to 5.
    assert_eq!(desired(slow, seen(1.0, 1.0, 0)), 5);
}

#[test]
fn panic_begins_at_twice_the_load_that_is_ready() {
    // ⌈39/10⌉ = 4 ≥ 2 · 2 begins; ⌈30/10⌉ = 3 does not.
    let mut panicking = Case::new(scaling());
    assert_eq!(panicking.after(0, seen(10.0, 39.0, 2)), 4);
    assert!(panicking.decider.is_panicking());

    let mut calm = Case::new(scaling());
    assert_eq!(calm.after(0, seen(10.0, 30.0, 2)), 1);
    assert!(!calm.decider.is_panicking());
}

#[test]
fn the_threshold_of_panic_is_set_by_annotation() {
    let early = annotated(&[
        ("target", "10"),
        ("target-utilization-percentage", "100"),
        ("panic-threshold-percentage", "150"),
    ]);
    // 3 ≥ 1.5 · 2.
    assert_eq!(desired(early, seen(10.0, 30.0, 2)), 3);
}

#[test]
fn panic_never_scales_down_until_a_stable_window_after_it_was_last_renewed() {
    let mut case = Case::new(scaling());
    assert_eq!(case.after(0, seen(10.0, 80.0, 2)), 8); // 8 ≥ 4: panic
    assert_eq!(case.after(2, seen(20.0, 20.0, 8)), 8); // 2 < 16: not renewed, but it lasts
    assert_eq!(case.after(58, seen(20.0, 20.0, 8)), 8); // 60 s after: not yet "after"
    assert_eq!(case.after(2, seen(20.0, 20.0, 8)), 4); // 62 s: over; max(2, ⌊8/2⌋)
    assert!(!case.decider.is_panicking());
}

#[test]
fn panic_is_renewed_while_the_load_is_over_the_threshold() {
    let mut case = Case::new(scaling());
    assert_eq!(case.after(0, seen(10.0, 80.0, 2)), 8);
    assert_eq!(case.after(50, seen(10.0, 40.0, 2)), 8); // 4 ≥ 4: renewed, the most stays
    assert_eq!(case.after(60, seen(10.0, 10.0, 8)), 8); // 60 s after the renewal
    assert_eq!(case.after(2, seen(10.0, 10.0, 8)), 4);
}

#[test]
fn panic_takes_the_greater_of_both_windows() {
    let mut case = Case::new(scaling());
    assert_eq!(case.after(0, seen(10.0, 20.0, 1)), 2); // 2 ≥ 2: panic
    assert_eq!(case.after(2, seen(70.0, 20.0, 2)), 7); // the stable window asks for more
    assert_eq!(case.after(2, seen(10.0, 20.0, 7)), 7);
}

#[test]
fn a_second_panic_starts_its_maximum_anew() {
    let mut case = Case::new(scaling());
    assert_eq!(case.after(0, seen(10.0, 80.0, 2)), 8);
    assert_eq!(case.after(62, seen(10.0, 10.0, 2)), 1); // over: max(1, ⌊2/2⌋)
    assert_eq!(case.after(2, seen(10.0, 40.0, 2)), 4); // 4 ≥ 4, and not 8
}

#[test]
fn a_restarted_autoscaler_keeps_several_replicas_for_a_stable_window() {
    let mut case = Case::with_ready(5, scaling());
    assert_eq!(case.after(2, seen(0.0, 0.0, 5)), 5);
    assert_eq!(case.after(58, seen(0.0, 0.0, 5)), 5);
    assert_eq!(case.after(2, seen(0.0, 0.0, 5)), 2); // ⌊5/2⌋
}

#[test]
fn a_restarted_autoscaler_does_not_panic_over_one_replica() {
    assert_eq!(
        Case::with_ready(1, scaling()).after(2, seen(0.0, 0.0, 1)),
        0
    );
}

#[test]
fn a_delay_holds_the_greatest_number_of_its_window() {
    let delayed = annotated(&[
        ("target", "10"),
        ("target-utilization-percentage", "100"),
        ("scale-down-delay", "6s"),
    ]);
    let mut case = Case::new(delayed);
    // Steps of 2 s, three of them: a number counts in its own step and the two after it.
    assert_eq!(case.after(0, seen(40.0, 40.0, 4)), 4);
    assert_eq!(case.after(2, seen(20.0, 20.0, 4)), 4);
    assert_eq!(case.after(2, seen(30.0, 30.0, 4)), 4);
    assert_eq!(case.after(2, seen(20.0, 20.0, 4)), 3); // the 4 is three steps old
    assert_eq!(case.after(2, seen(20.0, 20.0, 3)), 3);
    assert_eq!(case.after(2, seen(20.0, 20.0, 3)), 2);
}

#[test]
fn a_delay_does_not_hold_back_scaling_up() {
    let delayed = annotated(&[
        ("target", "10"),
        ("target-utilization-percentage", "100"),
        ("scale-down-delay", "6s"),
    ]);
    let mut case = Case::new(delayed);
    assert_eq!(case.after(0, seen(40.0, 40.0, 4)), 4);
    assert_eq!(case.after(2, seen(50.0, 50.0, 4)), 5);
}

#[test]
fn two_decisions_in_one_step_count_with_the_greater_one() {
    let delayed = annotated(&[
        ("target", "10"),
        ("target-utilization-percentage", "100"),
        ("scale-down-delay", "2s"),
    ]);
    let mut case = Case::new(delayed);
    assert_eq!(case.after(0, seen(40.0, 40.0, 4)), 4);
    assert_eq!(case.after(1, seen(30.0, 30.0, 4)), 4);
    assert_eq!(case.after(1, seen(30.0, 30.0, 4)), 3);
}

#[test]
fn an_unreachable_revision_is_not_delayed() {
    let delayed = annotated(&[
        ("target", "10"),
        ("target-utilization-percentage", "100"),
        ("scale-down-delay", "6s"),
    ]);
    let mut case = Case::new(delayed);
    assert_eq!(case.after(0, seen(40.0, 40.0, 4)), 4);
    assert_eq!(case.after(2, unreachable(10.0, 10.0, 4)), 1);
}

#[test]
fn excess_burst_capacity_is_what_ready_replicas_can_take_beyond_burst_and_load() {
    // No burst wanted: 0. No limit: −1.
    assert_eq!(
        excess(
            annotated(&[("target-burst-capacity", "0")]),
            seen(5.0, 5.0, 3)
        ),
        0
    );
    assert_eq!(
        excess(
            annotated(&[("target-burst-capacity", "-1")]),
            seen(5.0, 5.0, 3)
        ),
        -1
    );
    // ⌊3 · 100 − 211 − 50⌋ = 39; ⌊2 · 100 − 211 − 0.5⌋ = −12; none ready: ⌊0 − 211 − 0⌋.
    assert_eq!(excess(annotated(&[]), seen(1.0, 50.0, 3)), 39);
    assert_eq!(excess(annotated(&[]), seen(1.0, 0.5, 2)), -12);
    assert_eq!(excess(annotated(&[]), seen(0.0, 0.0, 0)), -211);
}

#[test]
fn excess_burst_capacity_before_the_first_decision_is_that_of_the_initial_scale() {
    // 1 · 100 − 211 = −111; 3 · 100 − 211 = 89.
    assert_eq!(initial_excess_burst_capacity(&annotated(&[])), -111);
    assert_eq!(
        initial_excess_burst_capacity(&annotated(&[("initial-scale", "3")])),
        89
    );
    assert_eq!(
        initial_excess_burst_capacity(&annotated(&[("target-burst-capacity", "-1")])),
        -1
    );
    assert_eq!(
        initial_excess_burst_capacity(&annotated(&[("target-burst-capacity", "0")])),
        0
    );
}

#[test]
fn absurd_load_does_not_overflow() {
    assert_eq!(
        desired(scaling(), seen(f64::MAX, f64::MAX, u32::MAX)),
        2_147_483_647
    );
    assert_eq!(
        excess(annotated(&[]), seen(f64::MAX, f64::MAX, 0)),
        i32::MIN
    );
}
