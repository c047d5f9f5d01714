//! The entrances: listeners, connections, and a request's first steps.
//!
//! There are two kinds: the gateway's, where rules say which Revision is meant, and the activator's ports, where the
//! request says so itself. [`worker`] is where a connection lives, whichever it came in by; `connection` tells its
//! protocol, behind [`proxy_protocol`] and [`tls`] where there is that; [`places`] bounds how many there are, and `stream` is both kinds of bytes; `http1` and `http2` are the engines, `lent` and `lingering` what comes behind them; `exchange` takes a request in, whatever engine it came by; `respond`
//! says what went wrong; by `drain` connections hear that it is time to end, and by [`health`] the kubelet hears of it
//! before. [`published`] is what requests are routed by.

mod chunks;
mod connection;
mod demand;
mod drain;
pub mod exchange;
mod framing;
pub mod health;
mod http1;
mod http2;
mod input;
mod lent;
mod lingering;
pub mod listener;
pub mod places;
pub mod proxy_protocol;
pub mod published;
mod respond;
#[cfg(test)]
mod sizes;
mod stall;
mod stream;
pub mod tls;
mod websocket;
pub mod worker;
