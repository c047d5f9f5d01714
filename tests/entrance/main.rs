//! The data path as a cluster uses it, without the cluster: real workers with the gateway's entrances and the activator's
//! ports, scripted endpoints in the place of queue-proxy, and what Knative's own components were recorded to say.
//!
//! Deliberate deviations from the recordings, each where a test allows it: names of header fields are in lower case and
//! in another order, which means the same (RFC 9110 section 5.1); over HTTP/2 our own answers have no `Date`; the gateway
//! says itself what another ingress's hop would have (`X-Forwarded-*`, `Forwarded`) and invents no `X-Request-Id`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod health;
mod probes;
mod protocols;
mod recording;
mod request_log;
mod requests;
mod timeouts;
mod tls;
mod turned_away;
mod unknown;
mod websocket;
