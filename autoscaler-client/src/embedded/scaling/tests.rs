use super::*;

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let full = pairs
        .iter()
        .map(|(name, value)| (format!("{ANNOTATION_GROUP}{name}"), (*value).to_owned()));
    full.collect()
}

fn parse_for(concurrency: u32, pairs: &[(&str, &str)]) -> Result<RevisionScaling, Vec<InvalidKey>> {
    RevisionScaling::parse(
        &annotations(pairs),
        concurrency.into(),
        &AutoscalerConfig::default(),
    )
}

fn parse(pairs: &[(&str, &str)]) -> RevisionScaling {
    parse_for(0, pairs).unwrap()
}

/// The one problem with these annotations.
fn problem(pairs: &[(&str, &str)]) -> InvalidKey {
    let mut problems = parse_for(0, pairs).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

/// Container concurrency, annotations, then total and target.
type Row = (u32, &'static [(&'static str, &'static str)], f64, f64);

#[test]
fn targets_follow_metric_limit_annotation_and_utilization() {
    let cases: &[Row] = &[
        // Nothing said: 100, and 70 % of it.
        (0, &[], 100.0, 70.0),
        // The limit is the total.
        (10, &[], 10.0, 7.0),
        (1, &[], 1.0, 0.7),
        // An annotation goes over the default, and under the limit only.
        (0, &[("target", "50")], 50.0, 35.0),
        (10, &[("target", "5")], 5.0, 3.5),
        (10, &[("target", "50")], 10.0, 7.0),
        // 90 % of 100; 100 % of 10.
        (0, &[("target-utilization-percentage", "90")], 100.0, 90.0),
        (10, &[("targetUtilizationPercentage", "100")], 10.0, 10.0),
        // RPS: 200, and 70 % of it; the limit of concurrency does not bound it.
        (10, &[("metric", "rps")], 200.0, 140.0),
        (10, &[("metric", "rps"), ("target", "50")], 50.0, 35.0),
        // 1 % of 0.5 would be 0.005, and 0.01 is the least.
        (
            0,
            &[("target", "0.5"), ("target-utilization-percentage", "1")],
            0.5,
            0.01,
        ),
    ];
    for (concurrency, pairs, total, target) in cases {
        let scaling = parse_for(*concurrency, pairs).unwrap();
        assert!(
            (scaling.total_value - total).abs() < 1e-9,
            "{concurrency} {pairs:?} {scaling:?}"
        );
        assert!(
            (scaling.target_value - target).abs() < 1e-9,
            "{concurrency} {pairs:?} {scaling:?}"
        );
    }
}

#[test]
fn the_panic_window_is_a_share_of_the_stable_window_in_whole_seconds() {
    // 10 % of 60 s; of 6 s = 0.6 s, rounded; of 14 s = 1.4 s; of 15 s = 1.5 s; 1 % of 6 s = 0.06 s, at least 1 s.
    let cases = [
        ("60s", "10", 6),
        ("6s", "10", 1),
        ("14s", "10", 1),
        ("15s", "10", 2),
        ("6s", "1", 1),
    ];
    for (window, percentage, seconds) in cases {
        let scaling = parse(&[("window", window), ("panic-window-percentage", percentage)]);
        assert_eq!(
            scaling.panic_window,
            Duration::from_secs(seconds),
            "{window} {percentage}"
        );
    }
}

#[test]
fn every_annotation_is_read_into_its_setting() {
    let scaling = parse(&[
        ("class", "kpa.autoscaling.knative.dev"),
        ("window", "40s"),
        ("panic-window-percentage", "20"),
        ("panic-threshold-percentage", "150"),
        ("target-burst-capacity", "-1"),
        ("min-scale", "1"),
        ("max-scale", "5"),
        ("initial-scale", "3"),
        ("activation-scale", "2"),
        ("scale-down-delay", "10s"),
        ("scale-to-zero-pod-retention-period", "90s"),
        ("metric-aggregation-algorithm", "weighted-exponential"),
    ]);
    let expected = RevisionScaling {
        metric: Metric::Concurrency,
        target_value: 70.0,
        total_value: 100.0,
        target_burst_capacity: -1.0,
        stable_window: Duration::from_secs(40),
        panic_window: Duration::from_secs(8),
        panic_threshold: 1.5,
        aggregation: Aggregation::WeightedExponential,
        max_scale_up_rate: 1000.0,
        max_scale_down_rate: 2.0,
        min_scale: 1,
        max_scale: 5,
        initial_scale: 3,
        activation_scale: 2,
        scale_down_delay: Duration::from_secs(10),
        retention: Duration::from_secs(90),
        enable_scale_to_zero: true,
        activation_timeout: Duration::from_secs(630),
    };
    assert_eq!(scaling, expected);
}

#[test]
fn the_alternative_spellings_mean_the_same() {
    let pairs = [
        ("min-scale", "minScale", "1"),
        ("max-scale", "maxScale", "5"),
        ("initial-scale", "initialScale", "3"),
        ("scale-down-delay", "scaleDownDelay", "10s"),
        (
            "scale-to-zero-pod-retention-period",
            "scaleToZeroPodRetentionPeriod",
            "90s",
        ),
        ("panic-window-percentage", "panicWindowPercentage", "20"),
        (
            "panic-threshold-percentage",
            "panicThresholdPercentage",
            "150",
        ),
        ("target-burst-capacity", "targetBurstCapacity", "7"),
        (
            "target-utilization-percentage",
            "targetUtilizationPercentage",
            "80",
        ),
        (
            "metric-aggregation-algorithm",
            "metricAggregationAlgorithm",
            "weightedExponential",
        ),
    ];
    for (preferred, alternative, value) in pairs {
        assert_eq!(parse(&[(preferred, value)]), parse(&[(alternative, value)]));
        assert_ne!(parse(&[(preferred, value)]), parse(&[]), "{preferred}");
    }
}

#[test]
fn the_preferred_spelling_wins() {
    assert_eq!(parse(&[("min-scale", "1"), ("minScale", "2")]).min_scale, 1);
}

#[test]
fn settings_for_all_hold_where_no_annotation_is() {
    let config = AutoscalerConfig {
        min_scale: 1,
        max_scale: 9,
        initial_scale: 4,
        retention: Duration::from_secs(7),
        ..AutoscalerConfig::default()
    };
    let scaling = RevisionScaling::parse(&BTreeMap::new(), 0.into(), &config).unwrap();
    assert_eq!(
        (scaling.min_scale, scaling.max_scale, scaling.initial_scale),
        (1, 9, 4)
    );
    assert_eq!(scaling.idle_before_zero(), Duration::from_secs(67));
}

#[test]
fn a_value_out_of_its_range_is_reported_with_key_and_value() {
    let cases = [
        ("metric", "cpu"),
        ("target", "0.001"),
        ("target-utilization-percentage", "0.5"),
        ("target-utilization-percentage", "101"),
        ("target-burst-capacity", "-2"),
        ("window", "5s"),
        ("window", "1h1s"),
        ("window", "6.5s"),
        ("panic-window-percentage", "0"),
        ("panic-threshold-percentage", "109"),
        ("panic-threshold-percentage", "1001"),
        ("min-scale", "-1"),
        ("max-scale", "many"),
        ("initial-scale", "0"),
        ("activation-scale", "1"),
        ("scale-down-delay", "1500ms"),
        ("scale-down-delay", "1h1s"),
        ("scale-to-zero-pod-retention-period", "61m"),
        ("metric-aggregation-algorithm", "median"),
        ("minScale", "x"),
    ];
    for (name, value) in cases {
        let problem = problem(&[(name, value)]);
        assert_eq!(problem.key, format!("{ANNOTATION_GROUP}{name}"));
        assert_eq!(problem.value, value);
    }
}

#[test]
fn scales_must_not_contradict_each_other() {
    assert!(
        problem(&[("min-scale", "3"), ("max-scale", "2")])
            .key
            .ends_with("max-scale")
    );
    assert!(
        problem(&[("min-scale", "3"), ("activation-scale", "2")])
            .key
            .ends_with("activation-scale")
    );
    assert!(
        problem(&[("max-scale", "2"), ("activation-scale", "3")])
            .key
            .ends_with("activation-scale")
    );
    // A maximum of 0 is none.
    assert!(
        parse_for(
            0,
            &[
                ("max-scale", "0"),
                ("min-scale", "3"),
                ("activation-scale", "3")
            ]
        )
        .is_ok()
    );
}

#[test]
fn a_maximum_beyond_the_limit_for_all_is_refused() {
    let config = AutoscalerConfig {
        max_scale: 5,
        max_scale_limit: 5,
        ..AutoscalerConfig::default()
    };
    let parse =
        |max| RevisionScaling::parse(&annotations(&[("max-scale", max)]), 0.into(), &config);
    assert!(parse("5").is_ok());
    assert!(parse("6").is_err());
    assert!(parse("0").is_err());
}

#[test]
fn an_initial_scale_of_zero_needs_permission() {
    let annotations = annotations(&[("initial-scale", "0")]);
    let parse = |config: &AutoscalerConfig| RevisionScaling::parse(&annotations, 0.into(), config);
    assert!(parse(&AutoscalerConfig::default()).is_err());
    assert_eq!(
        parse(&AutoscalerConfig::standalone())
            .unwrap()
            .initial_scale,
        0
    );
}

#[test]
fn another_class_needs_a_cluster() {
    for class in ["hpa.autoscaling.knative.dev", "my-own"] {
        assert!(
            problem(&[("class", class)])
                .problem
                .contains("need a cluster")
        );
    }
}

#[test]
fn an_unknown_annotation_of_the_group_is_an_error_that_names_the_known_ones() {
    let problem = problem(&[("min-scales", "1")]);
    assert_eq!(problem.key, "autoscaling.knative.dev/min-scales");
    assert!(
        problem
            .problem
            .contains("min-scale, max-scale, initial-scale"),
        "{}",
        problem.problem
    );
}

#[test]
fn annotations_of_other_groups_are_none_of_our_business() {
    let others = BTreeMap::from([("serving.knative.dev/creator".to_owned(), "me".to_owned())]);
    assert!(RevisionScaling::parse(&others, 0.into(), &AutoscalerConfig::default()).is_ok());
}
