//! Lets the autoscaler's own parser complain about manifests, so that its complaints get file and line.

use std::collections::BTreeMap;

use parkway_activator::revision::ContainerConcurrency;
use parkway_autoscaler_client::embedded;
use parkway_autoscaler_client::embedded::{AutoscalerConfig, RevisionScaling};

use crate::provider::{InvalidKey, Validate};

/// Checks with the parsers whose values are used later.
#[derive(Clone, Copy, Debug)]
pub(super) struct AutoscalerRules;

impl Validate for AutoscalerRules {
    fn autoscaler_config(&self, config: &BTreeMap<String, String>) -> Vec<InvalidKey> {
        complaints(autoscaler_config(config))
    }

    fn scaling(
        &self,
        annotations: &BTreeMap<String, String>,
        concurrency: ContainerConcurrency,
        config: &BTreeMap<String, String>,
    ) -> Vec<InvalidKey> {
        let config = autoscaler_config(config).unwrap_or_default();
        complaints(RevisionScaling::parse(annotations, concurrency, &config))
    }
}

/// `config-autoscaler` over the defaults of a process without a cluster.
///
/// # Errors
///
/// Every key that is unknown or whose value is not valid.
pub(super) fn autoscaler_config(
    data: &BTreeMap<String, String>,
) -> Result<AutoscalerConfig, Vec<embedded::InvalidKey>> {
    AutoscalerConfig::standalone().with(data)
}

fn complaints<T>(parsed: Result<T, Vec<embedded::InvalidKey>>) -> Vec<InvalidKey> {
    let invalid = parsed.err().unwrap_or_default();
    let translate = |invalid: embedded::InvalidKey| InvalidKey {
        key: invalid.key,
        value: invalid.value,
        problem: invalid.problem,
    };
    invalid.into_iter().map(translate).collect()
}
