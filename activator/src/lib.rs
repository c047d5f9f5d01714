//! The heart of Parkway: bounded queues, endpoint slots and accounting per Revision.
//!
//! This crate decides when a request may go, and where. It knows neither HTTP nor Kubernetes and opens no socket: of a
//! request it sees how many bytes it holds, of a replica its address, of time what `tokio::time::Instant` says.
//!
//! # The story of a request
//!
//! A request worker asks its [`Worker`](throttler::Worker) to admit a request of a
//! [`RevisionId`](revision::RevisionId). Three things can happen:
//!
//! - **Granted**: there is room. The [`Permit`](throttler::Permit) names an [`Endpoint`](endpoint::Endpoint) and is kept
//!   until the response body has ended; dropping it frees the slot, on whatever thread and for whatever reason.
//! - **Parked**: there is no room, or the Revision is scaled to zero. The [`Ticket`](throttler::Ticket) is a future of
//!   the permit; dropping it, because the client has left, frees exactly the place and the bytes it held.
//! - **Refused**: a bound is reached, the workload cannot start, or nobody knows the Revision. The
//!   [`Refusal`](throttler::Refusal) says which, and when to come again.
//!
//! On the other side the control thread tells the [`Throttler`](throttler::Throttler) which Revisions there are, which
//! of their endpoints are ready ([`set_endpoints`](throttler::Throttler::set_endpoints)), and what cannot start. Each
//! such event lets as many parked requests go as there are slots, in order of arrival.
//!
//! # Where to read
//!
//! | module | what it knows |
//! |---|---|
//! | [`revision`], [`endpoint`] | the words everyone shares |
//! | [`queue`] | one Revision's admission state, pure: who is parked, which slots are in use |
//! | [`policy`] | which endpoint gets the next request |
//! | [`throttler`] | the async shell: all queues, workers, tickets, permits |
//! | [`cold_start`] | what happened in each start of a Revision, and when |
//! | [`stats`] | how many requests there are, for the autoscaler |
//! | [`prober`] | when to probe which endpoint; brings back those that refused a connection |
//! | [`backends`] | which Pods of a Revision in a cluster may be used, and which must be asked first |
//! | [`subset`] | which endpoints are ours when several Parkways share a Revision |
//!
//! # What holds
//!
//! - A limit is hard: no endpoint is given more requests than its slots, also if it leaves while busy and comes back,
//!   and also if the Revision is deleted and comes back. (Requests admitted while there was no limit do not count.)
//! - First come, first served, per Revision. A newcomer never overtakes a parked request; only a request that was
//!   admitted before and is being sent again goes first.
//! - What is parked is bounded by count and bytes per Revision, by bytes over all, and by share per client if wanted.
//!   These bounds are for newcomers: a request that was admitted once and is being sent again is never refused because
//!   the queue is full. It counts, and the excess is bounded by the requests that held a permit when the queue became
//!   full, since nobody new gets in meanwhile.
//! - Every parked request ends once. A permit whose client has just left goes to the next in line.
//! - While somebody is parked, no endpoint has room: nobody waits for a free slot.
//! - A warm Revision without a limit takes no lock and writes nothing that another worker reads per request.
//! - Admissions reach a worker in batches, with at most one wake per batch.
//!
//! `tests/simulation.rs` checks these against a model, with random arrivals, hang-ups and endpoint churn.

pub mod backends;
pub mod cold_start;
pub mod endpoint;
pub mod policy;
pub mod prober;
pub mod queue;
pub mod revision;
pub mod stats;
pub mod subset;
pub mod throttler;
