//! Parkway's front end: from accept to the last byte, and everything around it.
//!
//! # The life of a request
//!
//! A client connects to an entrance of a [`frontend::worker`], where the connection stays to its end. Its first bytes
//! tell the protocol. The request's head is checked, matched and edited by [`routing`], pure and synchronous, against a
//! snapshot that the request keeps: now it is known which Revision is meant. It is counted for the autoscaler, and asks
//! the `activator` crate for a permit.
//!
//! With a permit, [`proxy::forward`] sends it to the permit's endpoint over a connection of the worker's own
//! [`proxy::pool`], and to another one if that is right. Without, it is parked: an HTTP/1 connection is taken apart down
//! to the packed head and the socket, an HTTP/2 stream to the packed head and the stream's handles; when the permit
//! comes, the request is replayed. The answer streams back in a [`proxy::held::Held`] body, which owns what the request
//! holds: when the body ends, or the client leaves, all of it is free.
//!
//! # Around it
//!
//! [`provider`] reads manifests and says what there should be; [`standalone`] runs local processes; [`admin`] shows what
//! is going on; [`app`] joins them and is where starting and stopping can be read from top to bottom. Arrows go one
//! way: `main` → [`app`] → [`admin`] → [`frontend`], [`provider`], [`standalone`] → [`proxy`] → [`routing`], and the
//! three in the middle do not name each other. (The admin stands above them because it shows what they know.)
//! [`mod@ask`] is what the commands share that look at a running Parkway: [`mod@explain`], [`why`] and [`top`].
//! [`config`], [`cli`], [`ready`], [`telemetry`], [`trace`] and [`workload`] are leaves anyone may use; [`mod@install`], which brings
//! Parkway into a cluster and out of it again, stands apart. `tests/layering.rs` holds us to it.

pub mod admin;
pub mod app;
pub mod ask;
pub mod check;
pub mod cli;
pub mod config;
pub mod explain;
pub mod frontend;
pub mod hello;
pub mod install;
pub mod provider;
pub mod proxy;
pub mod ready;
pub mod routing;
pub mod standalone;
pub mod telemetry;
pub mod top;
pub mod trace;
pub mod why;
pub mod workload;
