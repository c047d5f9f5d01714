//! Traces: which request belongs to which, what is noted of those that are kept, and how they leave.
//!
//! A request that arrives has nothing while tracing is off, ids that are [passed on](Passing) while it is not sampled, or a
//! [`Recording`]. A request that parks is kept whatever the sampler said: that is known before it is sent
//! to anybody, so the endpoint is told that the trace is sampled, and the spans of what was before are made afterwards.
//!
//! When a request ends, its recording goes into its worker's part of a bounded queue: no system call, nobody
//! is waited for, and when it is full the recording is dropped and counted. A thread of its own makes spans
//! of recordings and sends them by OTLP. A cold start is told once: as a span of the request that waited first, with its
//! phases below it, to which every request that waited is linked.

mod context;
mod export;
mod http_client;
mod queue;
mod recording;
mod sampler;
mod settings;
mod spans;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::request::Parts;
use opentelemetry::trace::{SpanId, TraceId};
use parkway_activator::cold_start::ColdStart;
use tokio::time::Instant;

pub use context::Form;
pub use export::Exporting;
pub use queue::{TraceCounts, Tracer};
pub use recording::{End, Recording};
pub use sampler::Sampler;
pub use settings::{Collector, InvalidSettings, Protocol, Settings};

use context::{Incoming, TRACESTATE, pass_on};
use queue::StartToTell;
use recording::StartContext;

/// What is known of the trace of a request that is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passing {
    /// Nothing: nobody wants to know.
    #[default]
    Nothing,
    /// Its head tells the ids to whoever comes next.
    Ids {
        /// They are ours: nobody called.
        is_root: bool,
        /// How the caller told them.
        form: Form,
    },
}

/// What one worker needs to trace its requests.
#[derive(Debug)]
pub struct WorkerTracer {
    tracer: Tracer,
    index: usize,
    dice: Dice,
}

/// Draws ids. Each worker has its own, seeded by chance.
#[derive(Debug)]
struct Dice(Cell<u64>);

impl Tracer {
    /// The part of worker `index`.
    pub fn of_worker(&self, index: usize) -> WorkerTracer {
        WorkerTracer {
            tracer: self.clone(),
            index,
            dice: Dice::new(RandomState::new().hash_one(index)),
        }
    }
}

impl WorkerTracer {
    /// Looks at the head of a request that has arrived, and decides.
    pub fn begin(&self, head: &mut Parts, arrived: Instant) -> (Passing, Option<Box<Recording>>) {
        let Some(rule) = self.tracer.rule() else {
            return (Passing::Nothing, None);
        };
        let incoming = Incoming::of(&head.headers);
        let trace = match incoming.ids {
            Some((trace, _)) => trace,
            None => self.dice.trace_id(),
        };
        let parent = incoming.ids.map(|(_, span)| span);
        if parent.is_none() {
            // It belongs to a trace that could not be read (W3C Trace Context section 4.3).
            head.headers.remove(TRACESTATE);
        }
        if sampler::is_sampled(rule, &incoming, trace) {
            let span = self.dice.span_id();
            let form = incoming.form;
            let recording = Recording::new(trace, parent, form, span, arrived, head);
            return (Passing::Nothing, Some(recording));
        }
        let is_passed_as_it_is =
            parent.is_some() && incoming.form == Form::W3c && incoming.is_sampled == Some(false);
        if !is_passed_as_it_is {
            let span = parent.unwrap_or_else(|| self.dice.span_id());
            pass_on(&mut head.headers, incoming.form, trace, span, false);
        }
        let is_root = parent.is_none();
        let form = incoming.form;
        (Passing::Ids { is_root, form }, None)
    }

    /// Keeps the trace of a request that parks, by what its head says.
    pub fn keep(&self, passing: Passing, head: &Parts, arrived: Instant) -> Option<Box<Recording>> {
        let Passing::Ids { is_root, form } = passing else {
            return None;
        };
        let ids = Incoming::of(&head.headers).ids;
        let (trace, parent) = match ids {
            Some((trace, span)) => (trace, (!is_root).then_some(span)),
            // A rule has taken it away.
            None => (self.dice.trace_id(), None),
        };
        let span = self.dice.span_id();
        Some(Recording::new(trace, parent, form, span, arrived, head))
    }

    /// A request has ended: what is known of it leaves.
    pub fn end(&self, mut recording: Box<Recording>, end: End) {
        recording.goes_on();
        recording.end = Some(end);
        self.tracer.put(self.index, recording);
    }

    /// The context of a start's span. The first to ask makes it a part of its own trace.
    fn start_context(
        &self,
        start: &Arc<ColdStart>,
        trace: TraceId,
        parent: SpanId,
    ) -> StartContext {
        let mut is_first = false;
        let mark = start.mark(|| {
            is_first = true;
            let (trace, span) = (trace.to_bytes(), self.dice.span_id().to_bytes());
            std::array::from_fn(|index| *trace.iter().chain(&span).nth(index).unwrap_or(&0))
        });
        let (trace, span) = mark.split_at(16);
        let context = StartContext {
            trace: TraceId::from_bytes(trace.try_into().unwrap_or_default()),
            span: SpanId::from_bytes(span.try_into().unwrap_or_default()),
        };
        if is_first {
            self.tracer.tell(StartToTell {
                start: Arc::clone(start),
                context,
                parent,
            });
        }
        context
    }
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    fn trace_id(&self) -> TraceId {
        let high = u128::from(self.draw());
        TraceId::from_bytes((high << 64 | u128::from(self.draw())).to_be_bytes())
    }

    fn span_id(&self) -> SpanId {
        SpanId::from_bytes(self.draw().to_be_bytes())
    }

    /// The next of a row that nobody can tell from chance, and that repeats itself after 2^64; never 0.
    ///
    /// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (`SplitMix64`).
    fn draw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}
