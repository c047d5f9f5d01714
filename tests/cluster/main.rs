//! Parkway in a cluster: the watch client against what a real API server sent, and the real `parkway serve` against the
//! API server's double, with scripted queue-proxies in the place of Pods.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoscaling;
mod cannot_start;
mod client_certificates;
mod figures;
mod internal_tls;
mod life;
#[path = "../chaos/load.rs"]
mod load;
mod ordinary;
mod outages;
#[path = "../chaos/random.rs"]
mod random;
mod recordings;
mod redirect;
mod replicas;
mod roles;
mod starts;
mod storms;
mod tickets;
mod tls;
mod told;
mod watching;
