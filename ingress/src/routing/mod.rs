//! Given a request and a snapshot: which rule, which backend, which edits, and whether to try again.
//!
//! Everything here is pure and synchronous: no clock, no I/O, no task. A provider hands over [`rules`]; [`table`]
//! compiles them into an immutable [`RouteSnapshot`](table::RouteSnapshot). A request is checked by [`validate`], cleaned by [`headers`], and
//! followed through the snapshot by [`resolve`], which asks [`split`] for the share it falls to. [`retry`] and
//! [`timeout`] say what may happen when an attempt does not go well, and [`policy`] what a route asks for; [`identify`], [`revisions`] and [`probe`] are
//! the activator's side of the same contract; [`explain`] tells people all of it.

pub mod explain;
mod go;
pub mod headers;
pub mod host;
pub mod identify;
pub mod names;
pub mod policy;
pub mod probe;
pub mod redirect;
pub mod resolve;
pub mod retry;
pub mod revisions;
pub mod rules;
pub mod split;
pub mod table;
pub mod timeout;
pub mod tls;
pub mod validate;
pub mod waiting_page;
pub mod websocket;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fixture;
