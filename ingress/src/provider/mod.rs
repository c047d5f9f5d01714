//! Where configuration comes from.
//!
//! The way from text to rules: [`document`] reads text into nodes that know their line, [`object`] reads nodes into
//! the objects of a cluster, [`rollout`] makes of Knative Services what Knative's controllers would (Revisions and
//! KIngress objects, see `knative`), and [`translate`] turns those into the rules that routing compiles. What comes out is
//! a [`World`]: everything that follows from one state of the configuration, so that it can be taken over as a whole.
//!
//! [`mod@file`] does this for files and folders. From `object` on nothing knows where the objects came from; a provider
//! for a cluster begins there.

pub mod annotations;
pub mod certificate_files;
mod certificates;
mod difference;
pub mod document;
mod fields;
pub mod file;
pub mod kingress;
mod knative;
pub mod kubernetes;
pub mod names;
pub mod object;
pub mod problem;
pub mod rollout;
pub mod settings;
pub mod slices;
mod template;
pub mod translate;
mod world;

pub use problem::{Origin, Problem, Severity};
pub use template::{HostTemplate, HostValues};
pub use world::{InvalidKey, Options, RevisionEntry, ServiceUrl, Unchecked, Validate, World};
