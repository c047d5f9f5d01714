//! Parkway's front end.
