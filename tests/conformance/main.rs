//! Knative's ingress conformance suite, row by row, on its recorded objects; what Serving makes of Services; and the
//! stream of stats to an autoscaler.
//!
//! Source of the rows: knative/networking `test/conformance/ingress`. Everything goes through the real `parkway run`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoscaler;
mod basics;
mod dispatch;
mod grpc;
mod headers;
mod images;
mod recording;
mod serving;
mod suite;
mod update;
mod upgrades;
mod visibility;
mod websocket;
