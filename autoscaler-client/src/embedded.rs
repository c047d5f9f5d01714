//! A small autoscaler in process: Knative's formulas, for when Parkway carries all traffic.
//!
//! It takes the same [`StatMessage`](crate::stat::StatMessage)s as the remote one and calls a [`Scaler`]. Reading
//! order: [`config`] and [`scaling`] turn what people wrote into numbers; [`window`] averages; [`decider`] turns
//! averages into a desired number of replicas; `lifecycle` turns that into the number to run, holds initial and last
//! replicas, and goes to zero; [`autoscaler`] is the task that ticks.
//!
//! Because all traffic passes here, it behaves like Knative with a target burst capacity of −1: replicas are never
//! scraped, no data means no traffic, nobody is probed before the last replica goes, and no grace period for a switch
//! of paths is waited for.

pub mod autoscaler;
pub mod config;
pub mod decider;
mod lifecycle;
pub mod scaling;
mod values;
pub mod window;

pub use autoscaler::{DeciderState, Embedded, Reachability, Scaler};
pub use config::{ACTING_KEYS, AutoscalerConfig, InvalidKey};
pub use lifecycle::Phase;
pub use scaling::{Metric, RevisionScaling};
