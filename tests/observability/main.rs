//! What a Parkway tells of itself: the record of cold starts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_starts;
