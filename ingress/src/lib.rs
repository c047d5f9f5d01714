//! Parkway's front end.

pub mod routing;
