//! Both ways to have a Knative autoscaler.

pub mod remote;
pub mod reporter;
pub mod sink;
pub mod stat;
pub mod wire;
