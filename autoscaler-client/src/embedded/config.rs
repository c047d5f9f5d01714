//! `config-autoscaler`: what holds for every Revision that does not say otherwise.
//!
//! Keys, defaults and rules: knative/serving `pkg/autoscaler/config/config.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scaling::{TARGET_MIN, WINDOW_MAX, WINDOW_MIN};
use super::values::{Reader, boolean, count, duration, number, whole_seconds};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {value:?}: {problem}")]
pub struct InvalidKey {
    /// The key, with its prefix if it has one.
    pub key: String,
    /// What was written.
    pub value: String,
    /// What values are valid.
    pub problem: String,
}

/// The keys that change something here.
pub const ACTING_KEYS: &[&str] = &[
    "allow-zero-initial-scale",
    "container-concurrency-target-default",
    "container-concurrency-target-percentage",
    "enable-scale-to-zero",
    "initial-scale",
    "max-scale",
    "max-scale-down-rate",
    "max-scale-limit",
    "max-scale-up-rate",
    "min-scale",
    "panic-threshold-percentage",
    "panic-window-percentage",
    "requests-per-second-target-default",
    "scale-down-delay",
    "scale-to-zero-pod-retention-period",
    "stable-window",
    "target-burst-capacity",
];

/// Keys that are checked and have nothing to act on: there is one activator, no switch of paths, and one class.
pub const IDLE_KEYS: &[&str] = &[
    "activator-capacity",
    "pod-autoscaler-class",
    "scale-to-zero-grace-period",
];

/// The class of the autoscaler whose formulas these are.
pub(super) const CLASS: &str = "kpa.autoscaling.knative.dev";

/// The settings of `config-autoscaler`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoscalerConfig {
    pub(super) enable_scale_to_zero: bool,
    pub(super) allow_zero_initial_scale: bool,
    /// A fraction, from (0, 1].
    pub(super) concurrency_utilization: f64,
    pub(super) concurrency_target: f64,
    pub(super) rps_target: f64,
    pub(super) target_burst_capacity: f64,
    pub(super) max_scale_up_rate: f64,
    pub(super) max_scale_down_rate: f64,
    pub(super) panic_window_percentage: f64,
    pub(super) panic_threshold_percentage: f64,
    pub(super) stable_window: Duration,
    pub(super) scale_down_delay: Duration,
    pub(super) retention: Duration,
    pub(super) initial_scale: u32,
    pub(super) min_scale: u32,
    /// 0 means no maximum.
    pub(super) max_scale: u32,
    /// The most that an annotation may set as maximum; 0 means no limit.
    pub(super) max_scale_limit: u32,
}

impl Default for AutoscalerConfig {
    /// Knative's defaults: `defaultConfig`, knative/serving `pkg/autoscaler/config/config.go`.
    fn default() -> Self {
        Self {
            enable_scale_to_zero: true,
            allow_zero_initial_scale: false,
            concurrency_utilization: 0.7,
            concurrency_target: 100.0,
            rps_target: 200.0,
            target_burst_capacity: 211.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            stable_window: Duration::from_secs(60),
            scale_down_delay: Duration::ZERO,
            retention: Duration::ZERO,
            initial_scale: 1,
            min_scale: 0,
            max_scale: 0,
            max_scale_limit: 0,
        }
    }
}

impl AutoscalerConfig {
    /// Knative's defaults, except that Revisions start with no replica: what `parkway run` begins with.
    pub fn standalone() -> Self {
        Self {
            allow_zero_initial_scale: true,
            initial_scale: 0,
            ..Self::default()
        }
    }

    /// Reads the data of the `ConfigMap` over Knative's defaults.
    ///
    /// # Errors
    ///
    /// Every key that is unknown or whose value is not valid. `_example` is ignored.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Vec<InvalidKey>> {
        Self::default().with(data)
    }

    /// Reads the data of the `ConfigMap` over these settings.
    ///
    /// When `data` forbids an initial scale of zero and names none, zero becomes 1.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn with(mut self, data: &BTreeMap<String, String>) -> Result<Self, Vec<InvalidKey>> {
        let mut keys = Reader::new(data, "");
        let is_known =
            |key: &str| key == "_example" || ACTING_KEYS.contains(&key) || IDLE_KEYS.contains(&key);
        keys.refuse_unknown(is_known, "is no key of config-autoscaler");
        self.read_targets(&mut keys);
        self.read_rates_and_windows(&mut keys);
        self.read_scales(&mut keys);
        check_idle_keys(&mut keys);
        keys.finish(self)
    }

    fn read_targets(&mut self, keys: &mut Reader<'_>) {
        keys.set(
            &mut self.concurrency_utilization,
            "container-concurrency-target-percentage",
            "must be a percentage above 0 and up to 100; up to 1 it is taken as a fraction",
            |text| {
                number(text)
                    .map(|n| if n > 1.0 { n / 100.0 } else { n })
                    .filter(|n| *n > 0.0 && *n <= 1.0)
            },
        );
        let target = "must be a number, at least 0.01";
        let at_least_min = |text: &str| number(text).filter(|n| *n >= TARGET_MIN);
        keys.set(
            &mut self.concurrency_target,
            "container-concurrency-target-default",
            target,
            at_least_min,
        );
        keys.set(
            &mut self.rps_target,
            "requests-per-second-target-default",
            target,
            at_least_min,
        );
        if self.concurrency_utilization * self.concurrency_target < TARGET_MIN {
            keys.object(
                &["container-concurrency-target-default", "container-concurrency-target-percentage"],
                "must be at least 0.01 when multiplied with container-concurrency-target-percentage",
            );
        }
        keys.set(
            &mut self.target_burst_capacity,
            "target-burst-capacity",
            "must be a number, at least 0, or -1 for no limit",
            burst_capacity,
        );
    }

    fn read_rates_and_windows(&mut self, keys: &mut Reader<'_>) {
        let rate = |text: &str| number(text).filter(|n| *n > 1.0);
        keys.set(
            &mut self.max_scale_up_rate,
            "max-scale-up-rate",
            "must be a number above 1",
            rate,
        );
        keys.set(
            &mut self.max_scale_down_rate,
            "max-scale-down-rate",
            "must be a number above 1",
            rate,
        );
        keys.set(
            &mut self.panic_window_percentage,
            "panic-window-percentage",
            "must be a percentage from 1 to 100",
            |text| number(text).filter(|n| (1.0..=100.0).contains(n)),
        );
        keys.set(
            &mut self.panic_threshold_percentage,
            "panic-threshold-percentage",
            "must be a percentage above 0",
            |text| number(text).filter(|n| *n > 0.0),
        );
        keys.set(
            &mut self.stable_window,
            "stable-window",
            WINDOW_RULE,
            window,
        );
        let delay = "must be a duration of whole seconds, such as 15s";
        keys.set(
            &mut self.scale_down_delay,
            "scale-down-delay",
            delay,
            whole_seconds,
        );
        let retention = "must be a duration, such as 1m5s";
        keys.set(
            &mut self.retention,
            "scale-to-zero-pod-retention-period",
            retention,
            duration,
        );
    }

    fn read_scales(&mut self, keys: &mut Reader<'_>) {
        let truth = "must be true or false";
        keys.set(
            &mut self.enable_scale_to_zero,
            "enable-scale-to-zero",
            truth,
            boolean,
        );
        keys.set(
            &mut self.allow_zero_initial_scale,
            "allow-zero-initial-scale",
            truth,
            boolean,
        );
        let whole = "must be a whole number, at least 0";
        keys.set(&mut self.initial_scale, "initial-scale", whole, count);
        if self.initial_scale == 0 && !self.allow_zero_initial_scale {
            if keys.has(&["initial-scale"]) {
                keys.object(
                    &["initial-scale"],
                    "must be at least 1 unless allow-zero-initial-scale is true",
                );
            }
            self.initial_scale = 1;
        }
        keys.set(&mut self.min_scale, "min-scale", whole, count);
        keys.set(&mut self.max_scale, "max-scale", whole, count);
        keys.set(&mut self.max_scale_limit, "max-scale-limit", whole, count);
        let limit = self.max_scale_limit;
        if limit > 0 && !(1..=limit).contains(&self.max_scale) {
            keys.object(
                &["max-scale"],
                &format!("must be from 1 to {limit}, because max-scale-limit is set"),
            );
        }
    }
}

pub(super) const WINDOW_RULE: &str = "must be a duration of whole seconds from 6s to 1h";

pub(super) fn window(text: &str) -> Option<Duration> {
    whole_seconds(text).filter(|window| (WINDOW_MIN..=WINDOW_MAX).contains(window))
}

pub(super) fn burst_capacity(text: &str) -> Option<f64> {
    number(text).filter(|n| *n >= 0.0 || is_unlimited(*n))
}

#[expect(clippy::float_cmp, reason = "-1 is written, not computed")]
pub(super) fn is_unlimited(burst_capacity: f64) -> bool {
    burst_capacity == -1.0
}

fn check_idle_keys(keys: &mut Reader<'_>) {
    keys.read(
        &["activator-capacity"],
        "must be a number, at least 1",
        |text| number(text).filter(|n| *n >= 1.0),
    );
    keys.read(
        &["scale-to-zero-grace-period"],
        "must be a duration above 0",
        |text| duration(text).filter(|grace| !grace.is_zero()),
    );
    let class = format!("must be {CLASS}; other autoscalers need a cluster");
    keys.read(&["pod-autoscaler-class"], &class, |text| {
        (text == CLASS).then_some(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<AutoscalerConfig, Vec<InvalidKey>> {
        AutoscalerConfig::parse(&data(pairs))
    }

    #[test]
    fn nothing_written_means_the_defaults_of_knative() {
        assert_eq!(parse(&[]), Ok(AutoscalerConfig::default()));
    }

    #[test]
    fn the_example_is_ignored() {
        assert_eq!(
            parse(&[("_example", "stable-window: nonsense")]),
            Ok(AutoscalerConfig::default())
        );
    }

    #[test]
    fn every_key_is_read_into_its_setting() {
        let config = parse(&[
            ("allow-zero-initial-scale", "true"),
            ("container-concurrency-target-default", "50"),
            ("container-concurrency-target-percentage", "80"),
            ("enable-scale-to-zero", "false"),
            ("initial-scale", "0"),
            ("max-scale", "7"),
            ("max-scale-down-rate", "3"),
            ("max-scale-limit", "9"),
            ("max-scale-up-rate", "10"),
            ("min-scale", "2"),
            ("panic-threshold-percentage", "300"),
            ("panic-window-percentage", "20"),
            ("requests-per-second-target-default", "150"),
            ("scale-down-delay", "15s"),
            ("scale-to-zero-pod-retention-period", "1m5s"),
            ("stable-window", "6s"),
            ("target-burst-capacity", "-1"),
            ("activator-capacity", "100"),
            ("pod-autoscaler-class", "kpa.autoscaling.knative.dev"),
            ("scale-to-zero-grace-period", "30s"),
        ]);
        let expected = AutoscalerConfig {
            enable_scale_to_zero: false,
            allow_zero_initial_scale: true,
            concurrency_utilization: 0.8,
            concurrency_target: 50.0,
            rps_target: 150.0,
            target_burst_capacity: -1.0,
            max_scale_up_rate: 10.0,
            max_scale_down_rate: 3.0,
            panic_window_percentage: 20.0,
            panic_threshold_percentage: 300.0,
            stable_window: Duration::from_secs(6),
            scale_down_delay: Duration::from_secs(15),
            retention: Duration::from_secs(65),
            initial_scale: 0,
            min_scale: 2,
            max_scale: 7,
            max_scale_limit: 9,
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn a_target_percentage_up_to_one_is_a_fraction() {
        for (text, fraction) in [("1", 1.0), ("0.5", 0.5), ("1.5", 0.015), ("100", 1.0)] {
            let config = parse(&[("container-concurrency-target-percentage", text)]).unwrap();
            assert!(
                (config.concurrency_utilization - fraction).abs() < 1e-12,
                "{text}"
            );
        }
    }

    #[test]
    fn a_value_out_of_its_range_is_reported_with_key_and_value() {
        let cases = [
            ("allow-zero-initial-scale", "yes"),
            ("container-concurrency-target-default", "0"),
            ("container-concurrency-target-percentage", "101"),
            ("container-concurrency-target-percentage", "0"),
            ("initial-scale", "0"),
            ("initial-scale", "-1"),
            ("max-scale", "-1"),
            ("max-scale-down-rate", "1"),
            ("max-scale-up-rate", "1"),
            ("min-scale", "some"),
            ("panic-threshold-percentage", "0"),
            ("panic-window-percentage", "0.9"),
            ("panic-window-percentage", "101"),
            ("requests-per-second-target-default", "0.001"),
            ("scale-down-delay", "1.5s"),
            ("scale-down-delay", "-1s"),
            ("scale-to-zero-pod-retention-period", "-1s"),
            ("stable-window", "5s"),
            ("stable-window", "1h1s"),
            ("stable-window", "6500ms"),
            ("target-burst-capacity", "-2"),
            ("activator-capacity", "0.5"),
            ("pod-autoscaler-class", "hpa.autoscaling.knative.dev"),
            ("scale-to-zero-grace-period", "0s"),
        ];
        for (key, value) in cases {
            let problems = parse(&[(key, value)]).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(
                (problems[0].key.as_str(), problems[0].value.as_str()),
                (key, value)
            );
        }
    }

    #[test]
    fn an_unknown_key_is_reported() {
        let problems = parse(&[("stabel-window", "60s")]).unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            r#"stabel-window: "60s": is no key of config-autoscaler"#
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        assert_eq!(
            parse(&[("min-scale", "x"), ("max-scale", "y"), ("z", "")])
                .unwrap_err()
                .len(),
            3
        );
    }

    #[test]
    fn a_limit_needs_a_maximum_within_it() {
        assert_eq!(
            parse(&[("max-scale-limit", "5")]).unwrap_err()[0].key,
            "max-scale"
        );
        assert_eq!(
            parse(&[("max-scale-limit", "5"), ("max-scale", "6")]).unwrap_err()[0].key,
            "max-scale"
        );
        assert!(parse(&[("max-scale-limit", "5"), ("max-scale", "5")]).is_ok());
    }

    #[test]
    fn targets_that_are_valid_alone_may_be_too_small_together() {
        let pairs = [
            ("container-concurrency-target-default", "0.01"),
            ("container-concurrency-target-percentage", "50"),
        ];
        assert_eq!(parse(&pairs).unwrap_err().len(), 1);
    }

    #[test]
    fn standalone_starts_revisions_at_zero_unless_a_key_says_otherwise() {
        let initial = |pairs| {
            AutoscalerConfig::standalone()
                .with(&data(pairs))
                .map(|config| config.initial_scale)
        };
        assert_eq!(initial(&[]), Ok(0));
        assert_eq!(initial(&[("initial-scale", "2")]), Ok(2));
        assert_eq!(initial(&[("allow-zero-initial-scale", "false")]), Ok(1));
    }
}
