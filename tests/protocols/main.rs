//! What passes by each protocol, and how: tunnels, calls, streams, retries, with clients and endpoints of others where
//! there are some.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod informational;
mod python;
mod retries;
mod streams;
mod tunnels;
mod versions;
mod websocket;
mod websocket_http2;

/// Bytes in which any that are missing, doubled or swapped show.
fn pattern(length: u32) -> bytes::Bytes {
    (0..length / 4)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect()
}
