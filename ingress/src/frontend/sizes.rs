//! How much memory what there may be thousands of takes, in bytes. A bound that is passed is no error by itself: it asks
//! whether what made it grow is worth it for every connection or request that only waits.

use std::future::Future;
use std::mem::size_of;

use super::connection::{self, Peer};
use super::{http1, http2};
use crate::proxy::forward::{Forwarder, Job, Waiting};
use crate::proxy::held::{Held, Holds};
use crate::proxy::observe::Observation;

/// The size of the future that a function returns.
macro_rules! of_future {
    ($($argument:ident),* => $function:expr) => {{
        fn size<Made: Future, $($argument),*>(_: impl FnOnce($($argument),*) -> Made) -> usize {
            size_of::<Made>()
        }
        size($function)
    }};
}

#[test]
fn what_only_waits_is_small() {
    let sizes = [
        ("connection", of_future!(A, B => connection::serve), 256),
        ("its client", size_of::<Peer>(), 256),
        ("dormant connection", of_future!(A, B => http1::dormant), 96),
        ("awake HTTP/1.1", of_future!(A, B, C => http1::awake), 640),
        (
            "parked on HTTP/1.1",
            of_future!(A, B, C, D => http1::parked),
            320,
        ),
        (
            "serving HTTP/1.1",
            of_future!(A, B, C, D, E => http1::serving),
            320,
        ),
        (
            "HTTP/2 connection",
            of_future!(A, B, C => http2::serve),
            512,
        ),
        ("HTTP/2 stream", size_of::<http2::Stream>(), 16),
        ("parked HTTP/2 stream", size_of::<http2::Parked>(), 376),
        ("parked request", size_of::<Waiting>(), 256),
        ("request", size_of::<Job>(), 184),
        ("observation", size_of::<Observation>(), 72),
        (
            "forwarding",
            of_future!(A, B, C, D, E, G => Forwarder::forward),
            2_960,
        ),
        ("response body", size_of::<Held>(), 144),
        ("what a response holds", size_of::<Holds>(), 280),
    ];
    for (what, size, bound) in sizes {
        println!("{size:5} of {bound:5} bytes: {what}");
    }
    for (what, size, bound) in sizes {
        assert!(size <= bound, "{what}: {size} bytes, not {bound}");
    }
}
