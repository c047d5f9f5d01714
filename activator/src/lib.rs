//! The heart of Parkway.

pub mod endpoint;
pub mod policy;
pub mod queue;
pub mod revision;
pub mod throttler;
