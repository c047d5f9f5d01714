//! What has happened to a Revision: nothing, for most of many.

use std::sync::{Arc, LazyLock};

use tokio::time::Instant;

use super::histogram::Histogram;
use super::starts::Starts;
use super::state::Counters;

/// What has happened to a Revision; takes memory from the first time that something does.
#[derive(Debug, Default)]
pub(super) struct History(Option<Box<Past>>);

/// Counts and times of one Revision.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) counters: Counters,
    /// The most that were parked at once.
    pub(super) most_parked: usize,
    pub(super) parked_seconds: Histogram,
    pub(super) cold_start_seconds: Histogram,
    pub(super) starts: Starts,
    pub(super) failure: Option<Failure>,
    /// When a request that had been parked was answered last.
    pub(super) last_answer: Option<Instant>,
}

/// The workload cannot start.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    pub(super) until: Instant,
}

impl History {
    /// What has happened so far.
    pub(super) fn any(&self) -> &Past {
        static NOTHING: LazyLock<Past> = LazyLock::new(Past::default);
        self.0.as_deref().unwrap_or_else(|| &NOTHING)
    }

    /// The same to be changed, if anything has happened.
    pub(super) fn any_mut(&mut self) -> Option<&mut Past> {
        self.0.as_deref_mut()
    }

    /// The same to be changed because something happens now.
    pub(super) fn past(&mut self) -> &mut Past {
        self.0.get_or_insert_default()
    }
}
