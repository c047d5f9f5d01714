//! Parkway's front end.

pub mod hello;
pub mod provider;
pub mod routing;
pub mod standalone;
pub mod workload;
