//! Parkway's front end.

pub mod hello;
pub mod routing;
pub mod standalone;
pub mod workload;
