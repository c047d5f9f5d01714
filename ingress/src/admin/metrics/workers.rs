//! What each worker has to do.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::super::Admin;
use super::{Labels, counters, gauges};

pub(super) fn encode(admin: &Admin, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let loads = admin.counts.loads();
    let worker = |index: usize| -> Labels { vec![("worker", index.to_string())] };
    let each = || loads.iter().enumerate();
    counters(
        out,
        "parkway_worker_requests",
        "Requests of this worker that have ended",
        each().map(|(index, (_, requests))| (worker(index), *requests)),
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let connections = each().map(|(index, (load, _))| (worker(index), load.connections as f64));
    gauges(
        out,
        "parkway_worker_connections",
        "Client connections of this worker, in the last five seconds",
        connections,
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let budget = each().map(|(index, (load, _))| (worker(index), load.budget as f64));
    gauges(
        out,
        "parkway_retry_budget",
        "Requests that this worker could send again, in the last five seconds",
        budget,
    )?;
    let mut metric = out.encode_descriptor(
        "parkway_worker_cpu_seconds",
        "Processor time that this worker has used, up to the last five seconds",
        None,
        MetricType::Counter,
    )?;
    for (index, (load, _)) in each() {
        metric
            .encode_family(&worker(index))?
            .encode_counter::<NoLabelSet, f64, f64>(&load.cpu.as_secs_f64(), None)?;
    }
    Ok(())
}
