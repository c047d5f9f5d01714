//! The admin's page: as a browser shows it, as it is without scripts, and who may see it.
//!
//! What needs a browser is done in Chromium, by its driver (Debian: `apt-get install chromium chromium-driver`). Where
//! there is none, these tests say so and prove nothing, unless `REQUIRE_CHROMIUM` is set: then they fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod browser;
mod cluster;
mod health;
mod live;
mod looks;
mod plain;
mod secrets;
mod waiting;
