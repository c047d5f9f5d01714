//! What requests of one worker go to: a split's target with what is looked up for it once.

use std::sync::Arc;

use parkway_activator::revision::{RevisionId, RevisionSpec};
use parkway_activator::stats::RevisionStats;

use crate::routing::rules::Target;

/// A target as one worker knows it. Shared by its requests without writing anything another worker reads.
#[derive(Debug)]
pub struct Destination {
    /// Its identity in queues and accounts.
    pub id: RevisionId,
    /// What it promises.
    pub spec: Arc<RevisionSpec>,
    /// What the split names.
    pub target: Target,
    /// Its accounts for the autoscaler; `None` for an ordinary Service, which nobody scales.
    pub stats: Option<Arc<RevisionStats>>,
}
