//! What has ended and waits to be sent: a bounded part for each worker, and the starts that are to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use opentelemetry::trace::SpanId;
use parking_lot::Mutex;
use parkway_activator::cold_start::ColdStart;
use tokio::sync::Notify;

use super::Sampler;
use super::recording::{Recording, StartContext};

/// How many recordings of ended requests wait for the exporting thread, over all workers, unless
/// `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise; further ones are dropped and counted. Some two KiB each.
pub(super) const RECORDINGS: usize = 8_192;

/// How many starts wait to be told, those under way among them; further ones are dropped and counted.
pub(super) const STARTS: usize = 1_024;

/// Decides which traces are kept, and takes them. Clones are the same; by default it is off and stays so.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_on: AtomicBool,
    /// A packed [`Sampler`].
    rule: AtomicU64,
    /// Of each worker.
    room: usize,
    shards: Box<[Shard]>,
    starts: Mutex<Vec<StartToTell>>,
    /// Wakes the exporting thread when a part is half full.
    filling: Notify,
    exported: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
    /// Why the collector does not take them now.
    failing: Mutex<Option<Arc<str>>>,
}

/// On a cache line of its own: only its worker puts something in.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Recordings>);

/// Boxes, because what changes hands under a lock is then a pointer each.
pub(super) type Recordings = Vec<Box<Recording>>;

/// A start that is to be told when it is over.
#[derive(Clone, Debug)]
pub(super) struct StartToTell {
    pub(super) start: Arc<ColdStart>,
    pub(super) context: StartContext,
    /// The request it is told below.
    pub(super) parent: SpanId,
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Spans that a collector has taken.
    pub exported: u64,
    /// Spans that were dropped because too many waited.
    pub full: u64,
    /// Spans that were dropped because the collector did not take them.
    pub failed: u64,
}

impl Tracer {
    /// For so many workers; `room` recordings may wait. Off until it is told to be on.
    pub(super) fn new(workers: usize, room: usize) -> Self {
        let workers = workers.max(1);
        Self(Arc::new(Shared {
            room: (room / workers).max(1),
            shards: (0..workers).map(|_| Shard::default()).collect(),
            ..Shared::default()
        }))
    }

    /// From now on requests that arrive are traced like this, or not at all.
    pub(super) fn set(&self, sampler: Option<Sampler>) {
        if let Some(sampler) = sampler {
            self.0.rule.store(sampler.packed(), Ordering::Relaxed);
        }
        self.0.is_on.store(sampler.is_some(), Ordering::Relaxed);
    }

    /// The packed sampler, while tracing is on.
    pub(super) fn rule(&self) -> Option<u64> {
        { self.0.is_on.load(Ordering::Relaxed) }.then(|| self.0.rule.load(Ordering::Relaxed))
    }

    /// A request has ended.
    pub(super) fn put(&self, worker: usize, recording: Box<Recording>) {
        let shared = &self.0;
        let Some(shard) = shared.shards.get(worker) else {
            return;
        };
        let mut waiting = shard.0.lock();
        if waiting.len() >= shared.room {
            drop(waiting);
            self.dropped_full(recording.spans());
            return;
        }
        waiting.push(recording);
        let is_half = waiting.len() == shared.room.div_ceil(2);
        drop(waiting);
        if is_half {
            shared.filling.notify_one();
        }
    }

    /// A start has a span.
    pub(super) fn tell(&self, start: StartToTell) {
        let mut starts = self.0.starts.lock();
        let has_room = starts.len() < STARTS;
        if has_room {
            starts.push(start);
        }
        drop(starts);
        if !has_room {
            self.dropped_full(1);
        }
    }

    /// What has ended since the last time.
    pub(super) fn take(&self) -> Recordings {
        let mut taken = Recordings::new();
        for shard in &self.0.shards {
            taken.append(&mut std::mem::take(&mut *shard.0.lock()));
        }
        taken
    }

    /// Starts that are to be told since the last time.
    pub(super) fn take_starts(&self) -> Vec<StartToTell> {
        std::mem::take(&mut *self.0.starts.lock())
    }

    /// Waits until much waits.
    pub(super) async fn filling(&self) {
        self.0.filling.notified().await;
    }

    /// What became of spans.
    pub fn counts(&self) -> TraceCounts {
        TraceCounts {
            exported: self.0.exported.load(Ordering::Relaxed),
            full: self.0.full.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
        }
    }

    /// Whether traces are kept and sent.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Why spans are lost now: the collector did not take the last ones.
    pub fn failing(&self) -> Option<Arc<str>> {
        self.0.failing.lock().clone()
    }

    /// From now on the collector takes spans, or fails like this. Says whether that was not so before.
    pub(super) fn fails(&self, why: Option<&str>) -> bool {
        let mut failing = self.0.failing.lock();
        let is_news = failing.is_some() != why.is_some();
        *failing = why.map(Arc::from);
        is_news
    }

    fn dropped_full(&self, spans: usize) {
        add(&self.0.full, spans);
    }

    pub(super) fn exported(&self, spans: usize) {
        add(&self.0.exported, spans);
    }

    pub(super) fn failed(&self, spans: usize) {
        add(&self.0.failed, spans);
    }
}

fn add(count: &AtomicU64, spans: usize) {
    count.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
}
