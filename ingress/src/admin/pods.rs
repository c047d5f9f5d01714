//! The watches of Pods that start, as `/state` and `/metrics` tell of them.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use serde_json::{Value, json};

use super::metrics::{Labels, counters, gauges};
use crate::provider::kubernetes::pods::PodWatches;

/// `podWatches` of `/state`.
pub(super) fn state(pods: &PodWatches) -> Value {
    json!({
        "running": pods.running(),
        "skipped": pods.skipped(),
        "watches": pods.health().collect::<BTreeMap<_, _>>(),
    })
}

pub(super) fn metrics(pods: &PodWatches, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let running = u32::try_from(pods.running()).unwrap_or(u32::MAX);
    gauges(
        out,
        "parkway_pod_watches",
        "Starts whose Pods are watched",
        [(Labels::new(), f64::from(running))],
    )?;
    counters(
        out,
        "parkway_pod_watches_skipped",
        "Starts whose Pods were not watched because too many were",
        [(Labels::new(), pods.skipped())],
    )
}
