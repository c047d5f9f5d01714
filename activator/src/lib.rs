//! The heart of Parkway.

pub mod endpoint;
pub mod revision;
pub mod stats;
