//! Parkway's front end.

pub mod hello;
pub mod standalone;
pub mod workload;
