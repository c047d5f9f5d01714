//! Rows of connections by TLS: requests on ones that stay, and handshakes.

use anyhow::Result;

use super::busy::{Load, busy};
use super::{Bench, idle};
use crate::peers::{Program, Route};
use crate::report::Table;

/// Those that speak TLS; the relay looks at no byte.
const PROGRAMS: [Program; 5] = [
    Program::Hyper,
    Program::Nginx,
    Program::Haproxy,
    Program::Envoy,
    Program::Parkway,
];

const REACH: &str = "no dearer than the minimal hyper proxy";

pub(super) fn tls(bench: &Bench) -> Result<Vec<Table>> {
    let kept = Load {
        route: Route::Tls,
        ..Load::of("http1")
    };
    let new = Load {
        route: Route::Tls,
        ..Load::of("close")
    };
    let title = "tls: small keep-alive request by TLS 1.3, 1 KiB answered, 64 connections";
    let kept = busy(bench, title, REACH, &kept, &PROGRAMS)?;
    let title = "tls: a full handshake (ECDSA P-256) and one request, 64 at once";
    let new = busy(bench, title, REACH, &new, &PROGRAMS)?;
    Ok(vec![kept, new, idle::idle_by_tls(bench, &PROGRAMS)?])
}
