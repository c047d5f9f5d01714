//! Parkway's front end.

pub mod hello;
pub mod workload;
