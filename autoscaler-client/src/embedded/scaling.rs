//! How one Revision is scaled: its annotations over the settings for all.
//!
//! Keys and ranges: knative/serving `pkg/apis/autoscaling/register.go` and `annotation_validation.go`. Targets:
//! `ResolveMetricTarget`, `pkg/reconciler/autoscaling/resources/target.go`. Panic window: `MakeMetric`, `metric.go`
//! beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use parkway_activator::revision::ContainerConcurrency;

use super::config::{AutoscalerConfig, CLASS, InvalidKey, WINDOW_RULE, burst_capacity, window};
use super::values::{Reader, count, duration, number, whole_seconds};
use super::window::Aggregation;

#[cfg(test)]
mod tests;

/// What the keys of all these annotations begin with.
pub const ANNOTATION_GROUP: &str = "autoscaling.knative.dev/";

/// The shortest stable window.
pub const WINDOW_MIN: Duration = Duration::from_secs(6);

/// The longest stable window, and the longest delay and retention an annotation may ask for.
pub const WINDOW_MAX: Duration = Duration::from_secs(60 * 60);

/// The smallest target.
pub const TARGET_MIN: f64 = 0.01;

/// The share of an RPS target that is aimed at, unless an annotation says otherwise.
const RPS_UTILIZATION: f64 = 0.7;

/// How long a Revision may take to become ready, unless said otherwise: `progress-deadline` of `config-deployment`.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// Time on top of it before a Revision that nobody asks for any more is given up: `activationTimeoutBuffer`,
/// knative/serving `pkg/reconciler/autoscaling/kpa/scaler.go`.
const ACTIVATION_BUFFER: Duration = Duration::from_secs(30);

const CLASS_NAMES: &[&str] = &["class"];
const METRIC: &[&str] = &["metric"];
const TARGET: &[&str] = &["target"];
const UTILIZATION: &[&str] = &[
    "target-utilization-percentage",
    "targetUtilizationPercentage",
];
const BURST_CAPACITY: &[&str] = &["target-burst-capacity", "targetBurstCapacity"];
const WINDOW: &[&str] = &["window"];
const PANIC_WINDOW: &[&str] = &["panic-window-percentage", "panicWindowPercentage"];
const PANIC_THRESHOLD: &[&str] = &["panic-threshold-percentage", "panicThresholdPercentage"];
const MIN_SCALE: &[&str] = &["min-scale", "minScale"];
const MAX_SCALE: &[&str] = &["max-scale", "maxScale"];
const INITIAL_SCALE: &[&str] = &["initial-scale", "initialScale"];
const ACTIVATION_SCALE: &[&str] = &["activation-scale"];
const SCALE_DOWN_DELAY: &[&str] = &["scale-down-delay", "scaleDownDelay"];
const RETENTION: &[&str] = &[
    "scale-to-zero-pod-retention-period",
    "scaleToZeroPodRetentionPeriod",
];
const ALGORITHM: &[&str] = &["metric-aggregation-algorithm", "metricAggregationAlgorithm"];

/// Every key of the group, the alternative spelling after the preferred one.
const KNOWN: &[&[&str]] = &[
    CLASS_NAMES,
    METRIC,
    TARGET,
    UTILIZATION,
    BURST_CAPACITY,
    WINDOW,
    PANIC_WINDOW,
    PANIC_THRESHOLD,
    MIN_SCALE,
    MAX_SCALE,
    INITIAL_SCALE,
    ACTIVATION_SCALE,
    SCALE_DOWN_DELAY,
    RETENTION,
    ALGORITHM,
];

/// What a Revision is scaled by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// Requests inside, on average.
    #[default]
    Concurrency,
    /// Requests per second.
    Rps,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Concurrency => "concurrency",
            Self::Rps => "rps",
        })
    }
}

/// How one Revision is scaled, checked and resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionScaling {
    pub(super) metric: Metric,
    /// What one replica should get of the metric.
    pub(super) target_value: f64,
    /// What one replica can take of it.
    pub(super) total_value: f64,
    pub(super) target_burst_capacity: f64,
    pub(super) stable_window: Duration,
    pub(super) panic_window: Duration,
    /// A factor: 2 means twice what the ready replicas are meant for.
    pub(super) panic_threshold: f64,
    pub(super) aggregation: Aggregation,
    pub(super) max_scale_up_rate: f64,
    pub(super) max_scale_down_rate: f64,
    pub(super) min_scale: u32,
    /// 0 means no maximum.
    pub(super) max_scale: u32,
    pub(super) initial_scale: u32,
    /// 0 when not set.
    pub(super) activation_scale: u32,
    pub(super) scale_down_delay: Duration,
    pub(super) retention: Duration,
    pub(super) enable_scale_to_zero: bool,
    /// How long to wait for a Revision to become ready after nobody wants it any more.
    pub(super) activation_timeout: Duration,
}

impl RevisionScaling {
    /// Reads the annotations `autoscaling.knative.dev/…`; others are none of our business.
    ///
    /// # Errors
    ///
    /// Every key of the group that is unknown or whose value is not valid, and a class that needs a cluster.
    pub fn parse(
        annotations: &BTreeMap<String, String>,
        concurrency: ContainerConcurrency,
        config: &AutoscalerConfig,
    ) -> Result<Self, Vec<InvalidKey>> {
        let mut keys = Reader::new(annotations, ANNOTATION_GROUP);
        let is_known = |name: &str| KNOWN.iter().any(|names| names.contains(&name));
        keys.refuse_unknown(
            is_known,
            &format!(
                "is no annotation for scaling; known are {}",
                preferred_names()
            ),
        );
        let class = format!("must be {CLASS}; other autoscalers need a cluster");
        keys.read(CLASS_NAMES, &class, |text| (text == CLASS).then_some(()));

        let mut scaling = Self::of(config);
        scaling.read_target(&mut keys, concurrency, config);
        scaling.read_windows(&mut keys, config);
        scaling.read_scales(&mut keys, config);
        keys.finish(scaling)
    }

    /// The same with another progress deadline: how long the Revision may take to become ready. Default 600 s.
    #[must_use]
    pub fn with_progress_deadline(mut self, deadline: Duration) -> Self {
        self.activation_timeout = deadline.saturating_add(ACTIVATION_BUFFER);
        self
    }

    /// What the Revision is scaled by.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What one replica should get of the metric.
    pub fn target(&self) -> f64 {
        self.target_value
    }

    /// How long without requests before the last replica goes: the stable window and the retention.
    pub fn idle_before_zero(&self) -> Duration {
        self.stable_window.saturating_add(self.retention)
    }

    fn of(config: &AutoscalerConfig) -> Self {
        Self {
            metric: Metric::Concurrency,
            target_value: TARGET_MIN,
            total_value: TARGET_MIN,
            target_burst_capacity: config.target_burst_capacity,
            stable_window: config.stable_window,
            panic_window: Duration::ZERO,
            panic_threshold: config.panic_threshold_percentage / 100.0,
            aggregation: Aggregation::Linear,
            max_scale_up_rate: config.max_scale_up_rate,
            max_scale_down_rate: config.max_scale_down_rate,
            min_scale: config.min_scale,
            max_scale: config.max_scale,
            initial_scale: config.initial_scale,
            activation_scale: 0,
            scale_down_delay: config.scale_down_delay,
            retention: config.retention,
            enable_scale_to_zero: config.enable_scale_to_zero,
            activation_timeout: PROGRESS_DEADLINE + ACTIVATION_BUFFER,
        }
    }

    fn read_target(
        &mut self,
        keys: &mut Reader<'_>,
        concurrency: ContainerConcurrency,
        config: &AutoscalerConfig,
    ) {
        let metric = "must be concurrency or rps; cpu, memory and others need a cluster";
        self.metric = keys.read(METRIC, metric, metric_of).unwrap_or_default();
        let limit = match concurrency {
            ContainerConcurrency::Unlimited => None,
            ContainerConcurrency::Limited(limit) => Some(f64::from(limit.get())),
        };
        let (total, utilization) = match self.metric {
            Metric::Concurrency => (
                limit.unwrap_or(config.concurrency_target),
                config.concurrency_utilization,
            ),
            Metric::Rps => (config.rps_target, RPS_UTILIZATION),
        };
        let at_least_min = |text: &str| number(text).filter(|n| *n >= TARGET_MIN);
        let target = keys.read(TARGET, "must be a number, at least 0.01", at_least_min);
        self.total_value = match (target, self.metric, limit) {
            (Some(target), Metric::Concurrency, Some(limit)) => target.min(limit),
            (Some(target), _, _) => target,
            (None, _, _) => total,
        };
        let percentage = |text: &str| number(text).filter(|n| (1.0..=100.0).contains(n));
        let utilization = keys
            .read(
                UTILIZATION,
                "must be a percentage from 1 to 100",
                percentage,
            )
            .map_or(utilization, |percentage| percentage / 100.0);
        self.target_value = TARGET_MIN.max(self.total_value * utilization);
        let capacity = "must be a number, at least 0, or -1 for no limit";
        self.target_burst_capacity = keys
            .read(BURST_CAPACITY, capacity, burst_capacity)
            .unwrap_or(self.target_burst_capacity);
    }

    fn read_windows(&mut self, keys: &mut Reader<'_>, config: &AutoscalerConfig) {
        self.stable_window = keys
            .read(WINDOW, WINDOW_RULE, window)
            .unwrap_or(self.stable_window);
        let percentage = |text: &str| number(text).filter(|n| (1.0..=100.0).contains(n));
        let panic_percentage = keys
            .read(
                PANIC_WINDOW,
                "must be a percentage from 1 to 100",
                percentage,
            )
            .unwrap_or(config.panic_window_percentage);
        self.panic_window = panic_window(self.stable_window, panic_percentage);
        let threshold = |text: &str| number(text).filter(|n| (110.0..=1000.0).contains(n));
        self.panic_threshold = keys
            .read(
                PANIC_THRESHOLD,
                "must be a percentage from 110 to 1000",
                threshold,
            )
            .map_or(self.panic_threshold, |percentage| percentage / 100.0);
        let algorithm = "must be linear or weighted-exponential";
        self.aggregation = keys
            .read(ALGORITHM, algorithm, aggregation_of)
            .unwrap_or_default();
        let delay = |text: &str| whole_seconds(text).filter(|delay| *delay <= WINDOW_MAX);
        self.scale_down_delay = keys
            .read(
                SCALE_DOWN_DELAY,
                "must be a duration of whole seconds from 0s to 1h",
                delay,
            )
            .unwrap_or(self.scale_down_delay);
        let retention = |text: &str| duration(text).filter(|retention| *retention <= WINDOW_MAX);
        self.retention = keys
            .read(RETENTION, "must be a duration from 0s to 1h", retention)
            .unwrap_or(self.retention);
    }

    fn read_scales(&mut self, keys: &mut Reader<'_>, config: &AutoscalerConfig) {
        let whole = "must be a whole number, at least 0";
        let min = keys.read(MIN_SCALE, whole, count);
        let max = keys.read(MAX_SCALE, whole, count);
        let initial = keys.read(INITIAL_SCALE, whole, count);
        let activation_rule = "must be a whole number, at least 2";
        let activation = keys.read(ACTIVATION_SCALE, activation_rule, |text| {
            count(text).filter(|n| *n >= 2)
        });

        check_maximum(keys, min, max, config.max_scale_limit);
        if initial == Some(0) && !config.allow_zero_initial_scale {
            keys.object(
                INITIAL_SCALE,
                "must be at least 1, because allow-zero-initial-scale is not true",
            );
        }
        if activation.is_some_and(|activation| activation < min.unwrap_or(0)) {
            keys.object(ACTIVATION_SCALE, "must not be less than min-scale");
        }
        if let (Some(activation), Some(max @ 1..)) = (activation, max)
            && activation > max
        {
            keys.object(ACTIVATION_SCALE, "must not be more than max-scale");
        }
        self.min_scale = min.unwrap_or(self.min_scale);
        self.max_scale = max.unwrap_or(self.max_scale);
        self.initial_scale = initial.unwrap_or(self.initial_scale);
        self.activation_scale = activation.unwrap_or(0);
    }
}

fn check_maximum(keys: &mut Reader<'_>, min: Option<u32>, max: Option<u32>, limit: u32) {
    let Some(max) = max else {
        return;
    };
    if max != 0 && max < min.unwrap_or(0) {
        keys.object(MAX_SCALE, "must not be less than min-scale");
    }
    if limit > 0 && !(1..=limit).contains(&max) {
        keys.object(
            MAX_SCALE,
            &format!("must be from 1 to {limit}, because max-scale-limit is set"),
        );
    }
}

fn metric_of(text: &str) -> Option<Metric> {
    match text {
        "concurrency" => Some(Metric::Concurrency),
        "rps" => Some(Metric::Rps),
        _ => None,
    }
}

fn aggregation_of(text: &str) -> Option<Aggregation> {
    match text {
        "linear" => Some(Aggregation::Linear),
        "weighted-exponential" | "weightedExponential" => Some(Aggregation::WeightedExponential),
        _ => None,
    }
}

/// The share of the stable window, in whole seconds, at least one.
fn panic_window(stable_window: Duration, percentage: f64) -> Duration {
    let seconds = (stable_window.as_secs_f64() * percentage / 100.0).round();
    Duration::try_from_secs_f64(seconds.max(1.0)).unwrap_or(stable_window)
}

fn preferred_names() -> String {
    KNOWN
        .iter()
        .map(|names| names[0])
        .collect::<Vec<_>>()
        .join(", ")
}
