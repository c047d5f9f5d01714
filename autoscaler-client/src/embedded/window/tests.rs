use super::*;

/// A window of six seconds, and the moment `s` seconds after its origin.
struct Case {
    window: Window,
    origin: Instant,
}

impl Case {
    fn new(aggregation: Aggregation) -> Self {
        let origin = Instant::now();
        let window = Window::new(origin, Duration::from_secs(6), aggregation);
        Self { window, origin }
    }

    fn linear(values: &[(f64, f64)]) -> Self {
        Self::new(Aggregation::Linear).with(values)
    }

    /// Records values at seconds.
    fn with(mut self, values: &[(f64, f64)]) -> Self {
        for (second, value) in values {
            self.window
                .record(self.origin + Duration::from_secs_f64(*second), *value);
        }
        self
    }

    fn average_at(&self, second: f64) -> f64 {
        self.window
            .average(self.origin + Duration::from_secs_f64(second))
    }
}

fn assert_close(left: f64, right: f64) {
    assert!((left - right).abs() < 1e-9, "{left} ≠ {right}");
}

#[test]
fn a_window_without_reports_is_zero() {
    assert_close(Case::linear(&[]).average_at(0.0), 0.0);
}

#[test]
fn the_mean_goes_over_the_seconds_since_the_first_report() {
    // (4 + 2) / 2 seconds.
    assert_close(
        Case::linear(&[(10.0, 4.0), (11.0, 2.0)]).average_at(11.5),
        3.0,
    );
}

#[test]
fn reports_within_one_second_add_up() {
    // 1 + 2 in one second.
    assert_close(
        Case::linear(&[(10.1, 1.0), (10.9, 2.0)]).average_at(10.95),
        3.0,
    );
}

#[test]
fn missing_seconds_between_reports_count_as_zero() {
    // 4, 0, 0, 2 over four seconds.
    assert_close(
        Case::linear(&[(10.0, 4.0), (13.0, 2.0)]).average_at(13.0),
        1.5,
    );
}

#[test]
fn a_full_window_divides_by_its_length() {
    // Seconds 4 to 9 of 0 to 9: (4 + 5 + 6 + 7 + 8 + 9) / 6.
    let values: Vec<(f64, f64)> = (0..10).map(|n| (f64::from(n), f64::from(n))).collect();
    assert_close(Case::linear(&values).average_at(9.0), 6.5);
}

#[test]
fn seconds_since_the_last_report_shorten_the_window() {
    // Six seconds of 6; four seconds later only seconds 4 and 5 are inside, and the mean is over 6 − 4 of them.
    let values: Vec<(f64, f64)> = (0..6).map(|n| (f64::from(n), 6.0)).collect();
    let case = Case::linear(&values).with(&[(5.0, 6.0)]);
    // (6 + 12) / 2.
    assert_close(case.average_at(9.0), 9.0);
}

#[test]
fn a_report_followed_by_silence_is_divided_by_the_reports_only() {
    // One second of 3, first = last: min(1, 6 − 2) = 1.
    assert_close(Case::linear(&[(10.0, 3.0)]).average_at(12.0), 3.0);
}

#[test]
fn silence_of_a_whole_window_is_zero() {
    let case = Case::linear(&[(10.0, 3.0)]);
    assert_close(case.average_at(15.9), 3.0);
    assert_close(case.average_at(16.0), 0.0);
}

#[test]
fn after_a_gap_of_a_window_the_start_is_new() {
    // Without the reset it would be 2 / 6 or less.
    assert_close(Case::linear(&[(0.0, 9.0), (6.0, 2.0)]).average_at(6.0), 2.0);
}

#[test]
fn a_gap_of_less_than_a_window_keeps_the_start() {
    // Seconds 0 to 5: 9, 0, 0, 0, 0, 3.
    assert_close(Case::linear(&[(0.0, 9.0), (5.0, 3.0)]).average_at(5.0), 2.0);
}

#[test]
fn a_late_report_goes_to_its_second() {
    // Seconds 8, 9, 10: 3, 0, 6.
    assert_close(
        Case::linear(&[(10.0, 6.0), (8.0, 3.0)]).average_at(10.0),
        3.0,
    );
}

#[test]
fn a_report_older_than_the_window_is_left_out() {
    assert_close(
        Case::linear(&[(10.0, 6.0), (4.0, 60.0)]).average_at(10.0),
        6.0,
    );
}

#[test]
fn averages_have_six_digits() {
    // 1 / 3 seconds.
    assert_close(
        Case::linear(&[(10.0, 1.0), (12.0, 0.0)]).average_at(12.0),
        0.333_333,
    );
}

#[test]
fn a_clock_that_stands_still_changes_nothing() {
    let case = Case::linear(&[(10.0, 4.0)]);
    assert_close(case.average_at(10.0), case.average_at(10.0));
    assert_close(case.average_at(9.0), 4.0);
}

/// For six buckets α = max(1 − 0.0001^(1/6), 0.2) = 1 − 10^(−2/3) = 0.784 556 531…
const ALPHA: f64 = 0.784_556_530_996_813_2;

#[test]
fn the_newest_second_weighs_alpha_and_each_before_it_a_share_less() {
    let case = Case::new(Aggregation::WeightedExponential).with(&[(10.0, 10.0), (11.0, 20.0)]);
    // 20·α + 10·α·(1 − α) = 15.691 131 + 1.690 276 = 17.381 406 by hand.
    assert_close(
        case.average_at(11.0),
        20.0 * ALPHA + 10.0 * ALPHA * (1.0 - ALPHA),
    );
    assert!((case.average_at(11.0) - 17.381_4).abs() < 1e-3);
}

#[test]
fn silence_shifts_the_weights() {
    let case = Case::new(Aggregation::WeightedExponential).with(&[(10.0, 10.0)]);
    // Two seconds later: 10·α·(1 − α)².
    assert_close(case.average_at(12.0), 10.0 * ALPHA * (1.0 - ALPHA).powi(2));
    assert_close(case.average_at(16.0), 0.0);
}

#[test]
fn a_long_window_has_an_alpha_of_a_fifth() {
    let origin = Instant::now();
    let mut window = Window::new(
        origin,
        Duration::from_secs(60),
        Aggregation::WeightedExponential,
    );
    window.record(origin, 10.0);
    // 1 − 0.0001^(1/60) = 0.1423 < 0.2.
    assert_close(window.average(origin), 2.0);
}

#[test]
fn shrinking_keeps_the_newest_seconds() {
    let values: Vec<(f64, f64)> = (0..6).map(|n| (f64::from(n), f64::from(n))).collect();
    let mut case = Case::linear(&values);
    case.window
        .reshape(Duration::from_secs(2), Aggregation::Linear);
    // (4 + 5) / 2.
    assert_close(case.average_at(5.0), 4.5);
}

#[test]
fn growing_keeps_what_is_there_and_invents_nothing() {
    let values: Vec<(f64, f64)> = (0..10).map(|n| (f64::from(n), f64::from(n))).collect();
    let mut case = Case::linear(&values);
    case.window
        .reshape(Duration::from_secs(60), Aggregation::Linear);
    // Seconds 4 to 9 were kept.
    assert_close(case.average_at(9.0), 6.5);
    // A second of 3.5 more: (39 + 3.5) / 7.
    assert_close(
        case.with(&[(10.0, 3.5)]).average_at(10.0),
        to_six_digits(42.5 / 7.0),
    );
}

#[test]
fn spans_are_rounded_up_to_whole_seconds() {
    assert_eq!(buckets(Duration::from_millis(1500)), 2);
    assert_eq!(buckets(Duration::ZERO), 1);
}
