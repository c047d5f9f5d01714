//! Parkway's front end.

pub mod provider;

pub mod workload;
