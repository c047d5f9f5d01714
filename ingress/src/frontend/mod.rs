//! The entrances: listeners, connections, and a request's first steps.
//!
//! [`worker`] is where a connection lives; `connection` tells its protocol; `http1` and `http2` are the engines;
//! `exchange` takes a request in, whatever engine it came by; `respond` says what went wrong; by `drain` connections hear
//! that it is time to end.

mod connection;
mod drain;
pub mod exchange;
mod framing;
mod http1;
mod http2;
mod input;
pub mod listener;
mod respond;
#[cfg(test)]
mod sizes;
pub mod worker;
