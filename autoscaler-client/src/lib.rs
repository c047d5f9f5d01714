//! Both ways to have a Knative autoscaler: over its WebSocket, or embedded.
//!
//! Somebody must decide how many replicas a Revision gets. In a cluster that is Knative's autoscaler; with
//! `parkway run` it is a small one in process. Both are told the same things in the same words, and both stand
//! behind one trait:
//!
//! ```text
//!  activator::stats ──▶ reporter ──▶ dyn StatSink ──┬──▶ remote ── WebSocket, protobuf ──▶ Knative's autoscaler
//!   (counts requests)   (each second,               │
//!                        and first requests)        └──▶ embedded ── windows, decider ──▶ dyn Scaler
//! ```
//!
//! **What is told.** [`stat`]: per Revision and second, the time-weighted mean of the requests inside, parked ones
//! included, and how many arrived. The first request of an idle Revision is told at once, and left out of the report
//! that follows. A Revision that was idle for a whole second reports zeros once and is silent then. [`reporter`] keeps
//! this rhythm; [`wire`] is the form in which it travels.
//!
//! **The contract of a sink.** [`sink::StatSink::send`] never waits and never fails: a request does not depend on an
//! autoscaler being there. What cannot be delivered is dropped and counted, because a second later there are newer
//! numbers. [`remote`] keeps its connection by itself.
//!
//! **The embedded autoscaler** follows Knative's formulas with one simplification: all traffic passes here, so it is
//! told everything, asks no replica for its own numbers, and need not make sure that somebody catches requests before
//! the last replica goes. It never starts a process; it orders from a [`embedded::Scaler`]. Read [`embedded`].
//!
//! Cores take the time as an argument. The libraries return futures, and whoever joins them spawns them:
//! [`reporter::run`], the driver beside [`remote::RemoteSink`], and [`embedded::Embedded::run`].

pub mod embedded;
pub mod remote;
pub mod reporter;
pub mod sink;
pub mod stat;
pub mod wire;
