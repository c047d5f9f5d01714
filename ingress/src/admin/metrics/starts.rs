//! Cold starts that are over, by Revision, outcome and phase.

use std::fmt;

use parkway_activator::throttler::Histogram;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::super::Admin;
use super::{Labels, counters, histogram, labels};

pub(super) fn encode(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (over, missed) = admin.counts.starts().over();
    let with = |id, label, value: &str| {
        let mut labels = labels(id);
        labels.push((label, value.to_owned()));
        labels
    };
    let ended = over.iter().flat_map(|(id, starts)| {
        let outcomes = starts.outcomes.iter();
        outcomes.map(move |(outcome, count)| (with(id, "outcome", outcome), *count))
    });
    counters(
        out,
        "parkway_cold_starts_ended",
        "Cold starts that are over: ready, failed, or abandoned",
        ended,
    )?;
    counters(
        out,
        "parkway_cold_starts_missed",
        "Cold starts that came and went too fast to be counted by outcome and phase",
        [(Labels::new(), missed)],
    )?;
    let mut metric = out.encode_descriptor(
        "parkway_cold_start_phase_seconds",
        "How long each phase of a cold start took; the phases of a start add up to the whole of it",
        None,
        MetricType::Histogram,
    )?;
    for (id, starts) in &over {
        for (phase, seconds) in &starts.phases {
            let labels = with(id, "phase", phase.as_str());
            let values = (seconds.counts(), seconds.sum().as_secs_f64());
            histogram(&labels, &Histogram::BOUNDS, values, &mut metric)?;
        }
    }
    Ok(())
}
