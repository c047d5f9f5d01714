//! What goes wrong around Parkway, and must not be seen by its clients more than can be helped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken_answers;
mod edits;
mod endpoints;
mod h2c;
mod keep_alive;
mod killed_process;
mod live;
#[expect(dead_code, reason = "of its clients not all are needed here")]
mod load;
mod random;
mod restart;
mod unruly_endpoints;
mod vanishing_clients;
