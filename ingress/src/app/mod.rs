//! The composition root: what each way of running Parkway consists of.
//!
//! `run` serves manifests with local processes, `serve` a cluster; what they share is in `parts`.

mod applier;
mod cluster;
pub mod endpoints;
mod events;
mod local;
mod local_tls;
mod names;
mod parts;
mod signals;
mod starts;
mod summary;
mod validate;

pub use cluster::serve;
pub use local::run;
pub(crate) use local::{Addresses, file_provider, print_problems};
pub(crate) use local_tls::certificate_files;
