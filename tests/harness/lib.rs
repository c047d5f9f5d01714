//! A whole Parkway for tests: the real binary, real processes, real sockets.
//!
//! A test reads as what a person would do. It writes manifests ([`manifest`]), starts Parkway on ports the system picks
//! ([`Parkway`]), sends requests (a [`Site`] for what any client does; [`raw`], [`http1`] and [`http2`] for what only
//! some do), and looks at answers, `/state`, `/metrics` and the log. Where the endpoint's behaviour matters it is a
//! scripted [`Upstream`] behind an `EndpointSlice`; else it is `parkway hello`.
//!
//! ```no_run
//! # use parkway_tests::{Parkway, hello_service};
//! # async fn example() {
//! let parkway = Parkway::with(hello_service("shop").window(6)).await;
//! let answer = parkway.service("shop").get("/").await;
//! assert_eq!(answer.text(), "Hello from shop-00001!\n");
//! parkway.finish().await;
//! # }
//! ```
//!
//! Whatever a test does, nothing outlives it: dropping a [`Parkway`] ends it and every process it started, found by a
//! mark in their environment and ended by their ids. Nothing waits for ever: every step that waits has [`PATIENCE`].

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod answer;
pub mod api;
mod binary;
pub mod certificates;
pub mod cluster;
mod collector;
pub mod frames;
mod gate;
pub mod http1;
pub mod http2;
pub mod manifest;
pub mod metrics;
pub mod parkway;
pub mod pods;
mod processes;
mod programs;
pub mod queue_proxy;
pub mod raw;
mod site;
mod state;
pub mod tls;
pub mod upstream;
mod wait;

pub use answer::Answer;
pub use binary::{binary, command};
pub use collector::{Collector, Span};
pub use frames::Frames;
pub use gate::Gate;
pub use manifest::{
    endpoint_slice, h2c_revision_with_endpoints, hello_service, revision_with_endpoints, service,
    with_endpoints,
};
pub use parkway::{Builder, Parkway};
pub use processes::{anonymous_kib, kill_nine};
pub use programs::has_program;
pub use queue_proxy::QueueProxy;
pub use queue_proxy::secured::Secured;
pub use raw::Raw;
pub use site::Site;
pub use state::{RevisionState, State};
pub use upstream::Upstream;
pub use wait::{PATIENCE, eventually, patiently, settled};
