//! What both modes of running are made of: workers, and what settings mean to them.

use std::num::NonZeroU32;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use parkway_activator::throttler::QueueLimits;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::admin::guard::Guard;
use crate::cli::{AccessLogged, AdminAccess, DataPath, ProxiedEntrance};
use crate::config::Limits;
use crate::frontend::exchange::ClientShares;
use crate::frontend::proxy_protocol::TrustedProxies;
use crate::frontend::worker::{self, Entrance, EntranceKind, Peek, Policy, WorkerParts};
use crate::proxy::access_log::{AccessLog, Logged};
use crate::proxy::log_lines::LogLines;
use crate::proxy::request_log::Template;
use crate::routing::rules::Visibility;
use crate::trace::{Exporting, Settings};

/// The threads that serve requests.
pub(super) struct Workers {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) peeks: Vec<mpsc::Sender<Peek>>,
    /// Tells which has ended.
    pub(super) ended: mpsc::Receiver<usize>,
}

/// Starts the workers. What each next request would draw can be asked through the returned channels.
pub(super) fn start_workers(
    entrances: Vec<Vec<Entrance>>,
    parts: &WorkerParts,
) -> anyhow::Result<Workers> {
    let mut threads = Vec::new();
    let mut peeks = Vec::new();
    let (end, ended) = mpsc::channel(parts.workers.max(1));
    for (index, entrances) in entrances.into_iter().enumerate() {
        let (peek, peeked) = mpsc::channel(worker::PEEKS);
        threads.push(
            worker::start(index, parts.clone(), entrances, peeked, end.clone())
                .context("cannot start a worker")?,
        );
        peeks.push(peek);
    }
    Ok(Workers {
        threads,
        peeks,
        ended,
    })
}

/// Who may use the admin entrance.
pub(super) fn guard(access: &AdminAccess) -> anyhow::Result<Guard> {
    Ok(Guard::new(access.token()?.as_deref(), &access.admin_hosts))
}

/// Waits for threads to end.
pub(super) async fn joined(threads: Vec<JoinHandle<()>>) {
    let all = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                error!("a worker has panicked");
            }
        }
    });
    if let Err(error) = all.await {
        error!(%error, "cannot wait for the workers");
    }
}

pub(super) fn queue_limits(settings: &DataPath) -> QueueLimits {
    const MIB: usize = 1024 * 1024;
    QueueLimits {
        depth: settings.queue_depth,
        bytes: settings.queue_mib.saturating_mul(MIB),
        total_bytes: settings.queue_total_mib.saturating_mul(MIB),
        client_share: settings.client_share(),
        ..QueueLimits::default()
    }
}

pub(super) fn limits(settings: &DataPath, drain: Duration) -> Limits {
    let connections = connections(settings.connections, open_files());
    Limits {
        connections,
        client_connections: settings.client_connections.unwrap_or(connections),
        body_rate: NonZeroU32::new(settings.body_rate),
        body_patience: Duration::from_secs(settings.body_patience_seconds),
        first_byte: Duration::from_secs(settings.first_byte_seconds),
        header_read: Duration::from_secs(settings.header_read_seconds),
        idle: Duration::from_secs(settings.idle_seconds),
        stall: Duration::from_secs(settings.stall_seconds),
        drain,
        ..Limits::default()
    }
}

/// As many connections of clients as were asked for, and as leave files for connections to endpoints: out of files, a
/// client would wait without an answer, and nobody could be connected to.
fn connections(asked: usize, files: Option<usize>) -> usize {
    let most = files.map_or(usize::MAX, |files| files - files / 4);
    if asked > most {
        info!(asked, most, "fewer connections: there may be no more files");
    }
    asked.min(most)
}

/// How many files this process may have open, if that is bounded.
fn open_files() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|files| usize::try_from(files).ok())
}

/// The proxies in front of an entrance, if there are any.
pub(super) fn proxies(
    settings: &DataPath,
    kind: EntranceKind,
    is_tls: bool,
) -> Option<TrustedProxies> {
    let entrance = match (kind, is_tls) {
        (EntranceKind::Gateway(Visibility::ExternalIp), false) => ProxiedEntrance::External,
        (EntranceKind::Gateway(Visibility::ExternalIp), true) => ProxiedEntrance::ExternalTls,
        (EntranceKind::Gateway(Visibility::ClusterLocal), false) => ProxiedEntrance::Local,
        (EntranceKind::Gateway(Visibility::ClusterLocal), true) => ProxiedEntrance::LocalTls,
        (EntranceKind::Activator, _) => return None,
    };
    let is_proxied = settings.proxy_protocol.contains(&entrance);
    is_proxied.then(|| TrustedProxies::new(&settings.trusted_proxies))
}

/// Where lines about requests go: standard output, written by a thread of its own.
pub(super) fn log_lines() -> anyhow::Result<LogLines> {
    let (lines, writer) = LogLines::new();
    std::thread::Builder::new()
        .name("log-lines".to_owned())
        .spawn(move || {
            if let Err(error) = writer.run(std::io::stdout()) {
                warn!(%error, "requests are not written down any more");
            }
        })
        .context("cannot start the thread that writes requests down")?;
    Ok(lines)
}

/// Waits until all lines are written, but not for long: somebody may have stopped reading.
pub(super) async fn written(lines: &LogLines) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let written = async {
        while !lines.is_written() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, written).await.is_err() {
        warn!("the last lines about requests are lost: nobody reads standard output");
    }
}

fn access_log(settings: &DataPath, lines: &LogLines) -> anyhow::Result<AccessLog> {
    let template = settings.access_log_template.as_deref().map(Template::parse);
    let template = template.transpose().context("--access-log-template")?;
    let logged = match settings.access_log {
        AccessLogged::Off => Logged::Off,
        AccessLogged::Errors => Logged::Errors,
        AccessLogged::Share(share) => Logged::Share(share),
    };
    Ok(AccessLog::new(logged, template, lines.clone()))
}

pub(super) fn policy(settings: &DataPath, lines: &LogLines) -> anyhow::Result<Policy> {
    let shares = || ClientShares {
        header: settings.client_header.clone(),
        ..ClientShares::default()
    };
    Ok(Policy {
        trusted_hops: settings.trusted_hops,
        client_shares: settings.client_share.map(|_| shares()),
        access_log: access_log(settings, lines)?,
        cold_start_headers: settings.cold_start_headers,
        ..Policy::default()
    })
}

/// What OpenTelemetry's variables say of traces. What cannot be used turns them off: they are not worth not serving.
pub(super) fn trace_settings() -> Settings {
    Settings::from_env(|name| std::env::var(name).ok()).unwrap_or_else(|error| {
        warn!(%error, "traces are off");
        Settings::default()
    })
}

/// Traces as the variables say; this process is named by them and by `names`.
pub(super) fn traces(workers: usize, names: &[(&'static str, &str)]) -> Exporting {
    Exporting::new(workers, &trace_settings(), names)
}

/// Connections are files: take as many as the system lets this user have.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "cannot raise the limit of open files");
    }
}
