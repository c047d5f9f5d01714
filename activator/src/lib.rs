//! The heart of Parkway.

pub mod endpoint;
pub mod policy;
pub mod prober;
pub mod queue;
pub mod revision;
pub mod subset;
pub mod throttler;
