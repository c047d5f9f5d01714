//! What hostile clients and endpoints do, and what becomes of it: nothing is read in two ways, memory stays bounded,
//! others are served meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chain;
mod endpoints;
mod files;
mod handshakes;
mod http2_confusion;
mod http2_floods;
mod http2_rules;
mod http2_states;
mod memory;
mod messages;
mod names;
mod peers;
mod programs;
mod proxied;
mod recorder;
mod slow;
mod smuggling;
