//! What a person at the terminal reads: mistakes before the start, and where to go after it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;

use super::Addresses;
use crate::cli::Run;
use crate::provider::problem::Problem;
use crate::provider::{ServiceUrl, World};

/// Prints mistakes, one after the other, and how many there are.
#[expect(
    clippy::print_stderr,
    reason = "the answer to a command, not a log line"
)]
pub(super) fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}\n");
    }
    match problems.iter().filter(|problem| problem.is_error()).count() {
        0 => {}
        1 => eprintln!("1 mistake"),
        errors => eprintln!("{errors} mistakes"),
    }
}

/// Says that mistakes kept Parkway from starting.
#[expect(
    clippy::print_stderr,
    reason = "the answer to a command, not a log line"
)]
pub(super) fn print_nothing_started() {
    eprintln!("nothing was started");
}

/// Prints where each Service can be reached.
#[expect(
    clippy::print_stderr,
    reason = "the answer to a command, not a log line"
)]
pub(super) fn print(settings: &Run, world: &World, addresses: &Addresses) {
    eprintln!();
    for url in world.urls.iter() {
        let entrance = if url.is_cluster_local {
            addresses.local
        } else {
            addresses.external
        };
        eprintln!("  {:<24} {}", name(url), reachable(url, entrance));
    }
    if let Some(tls) = addresses.external_tls {
        let port = tls.port();
        eprintln!("  {:<24} the same hosts at https://…:{port}/", "by TLS");
    }
    eprintln!("  {:<24} http://{}/", "admin", addresses.admin);
    eprintln!("\n  Ready with {} at zero; Ctrl-C ends.\n", services(world));
    if settings.autoscaler != crate::cli::AutoscalerChoice::Embedded {
        eprintln!("  An autoscaler elsewhere is reported to; it does not scale local processes.\n");
    }
}

/// Logs where the Services can be reached that a change has touched.
pub(super) fn log_urls(world: &World, before: &[Arc<ServiceUrl>]) {
    if std::ptr::eq(world.urls.as_slice(), before) {
        return;
    }
    let mut known = HashSet::with_capacity(before.len());
    known.extend(before.iter().map(Arc::as_ptr));
    for url in world.urls.iter() {
        if known.contains(&Arc::as_ptr(url)) {
            continue;
        }
        let shares: Vec<_> = url
            .shares
            .iter()
            .map(|(revision, percent)| format!("{percent}% {revision}"))
            .collect();
        info!(
            service = name(url),
            url = url.url,
            to = shares.join(", "),
            "serving"
        );
    }
}

fn name(url: &ServiceUrl) -> String {
    match &url.tag {
        Some(tag) => format!("{}/{} ({tag})", url.namespace, url.service),
        None => format!("{}/{}", url.namespace, url.service),
    }
}

fn reachable(url: &ServiceUrl, entrance: SocketAddr) -> String {
    match entrance.port() {
        80 => format!("http://{}/", url.host()),
        port => format!("http://{}:{port}/", url.host()),
    }
}

fn services(world: &World) -> String {
    match world.urls.iter().filter(|url| url.tag.is_none()).count() {
        1 => "1 Service".to_owned(),
        count => format!("{count} Services"),
    }
}
