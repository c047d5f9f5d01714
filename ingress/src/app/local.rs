//! `parkway run`: what it consists of, in the order in which it starts, and what stops it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use parkway_activator::prober;
use parkway_activator::stats::Stats;
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::embedded::Embedded;
use parkway_autoscaler_client::remote::RemoteSink;
use parkway_autoscaler_client::reporter;
use parkway_autoscaler_client::sink::StatSink;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::applier::{Applied, Applier, Scaling};
use super::events::{ProcessEvents, RolloutEvent, ScaleProcesses};
use super::local_tls::{self, LocalTls, OwnCertificates, certificate_files};
use super::parts::{
    Workers, guard, joined, limits, log_lines, policy, proxies, queue_limits, raise_file_limit,
    start_workers, traces, written,
};
use super::signals::Signals;
use super::starts::Noting;
use super::{names, summary, validate};
use crate::admin::{self, Admin, Autoscaler, Problems};
use crate::cli::{AutoscalerChoice, ProxiedEntrance, Run};
use crate::frontend::health::Health;
use crate::frontend::listener;
use crate::frontend::places::Places;
use crate::frontend::tls::Certificates;
use crate::frontend::worker::{Entrance, EntranceKind, Policy, RoutePublisher, WorkerParts};
use crate::provider::file::{FileProvider, Watch};
use crate::provider::{self, Problem, ServiceUrl, World};
use crate::proxy::observe::RequestCounts;
use crate::proxy::tls::InternalTls;
use crate::ready::Ready;
use crate::routing::rules::Visibility;
use crate::routing::table::RouteSnapshot;
use crate::standalone::{Options, Processes};
use crate::telemetry;

/// How long a process that a killed Parkway left may take to end before it is killed.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How often what retires is looked at.
const RETIRE_TICK: Duration = Duration::from_millis(200);
/// Status of an invocation with unusable manifests.
const UNUSABLE: u8 = 2;

/// Runs Parkway until it is told to stop.
///
/// # Errors
///
/// When it cannot start: an address is taken, a path cannot be read. Manifests with mistakes are printed, and the
/// status is 2.
pub fn run(settings: &Run) -> anyhow::Result<ExitCode> {
    telemetry::init(settings.data_path.log_format, &settings.data_path.log)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(serve(settings));
    // Workers that are still busy have been given up by now: their threads are not waited for.
    runtime.shutdown_background();
    code
}

async fn serve(settings: &Run) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new();
    let mut provider = file_provider(&settings.paths, &settings.domain);
    // Watched before it is read, so that no change falls between.
    let watch = provider
        .watch()
        .context("cannot watch the manifests for changes")?;
    let world = match provider.load() {
        Ok(world) => world,
        Err(problems) => {
            summary::print_problems(&problems);
            summary::print_nothing_started();
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let files = match tls_files(settings) {
        Ok(files) => files,
        Err(problems) => {
            summary::print_problems(&problems);
            summary::print_nothing_started();
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let entrances = Entrances::bind(settings).await?;
    let addresses = entrances.addresses()?;
    let tls = files.map(|files| LocalTls::new(files, &world, &settings.domain));
    let mut tls = tls.transpose()?;
    let certificates = tls.as_ref().map(LocalTls::certificates);
    if tls.is_none() && !world.certificates.is_empty() {
        warn!(
            "manifests name certificates, and there is no --listen-tls: nothing is served by TLS"
        );
    }
    let state_dir = state_dir(settings);
    end_leftovers(&state_dir).await;

    let ready = Ready::default();
    let starting = ready.wait_for("routes and listeners");
    let drain = CancellationToken::new();
    let lines = log_lines()?;
    let policy = policy(&settings.data_path, &lines)?;
    let guard = guard(&settings.admin_access)?;
    let workers = entrances.workers;
    let throttler = Throttler::new(queue_limits(&settings.data_path), workers);
    let stats = Stats::new(workers);
    let counts = RequestCounts::new(workers);
    let traces = traces(workers, &[]);
    let (publisher, routes) = RoutePublisher::new(RouteSnapshot::default());
    let (events, rollout) = ProcessEvents::new(throttler.clone());
    let (processes, running_processes) = Processes::new(process_options(&state_dir), events)
        .with_context(|| format!("cannot use {} to record processes", state_dir.display()))?;

    let mut tasks = JoinSet::new();
    tasks.spawn(running_processes);
    let (scaling, sink, autoscaler) = autoscaler(settings, &processes, &throttler, &mut tasks);
    tasks.spawn(reporter::run(
        stats.clone(),
        Noting::new(sink, throttler.clone()),
        POD_NAME.to_owned(),
    ));
    tasks.spawn(prober::restore_suspects(throttler.clone(), ConnectProbe));

    let (resolver, resolving) = names::Resolver::new();
    tasks.spawn(resolving);
    let problems = Problems::default();
    let mut applier = Applier {
        throttler: throttler.clone(),
        stats: stats.clone(),
        counts: counts.clone(),
        processes: processes.clone(),
        scaling,
        publisher,
        resolver,
        applied: Applied::default(),
    };
    apply(&mut applier, &world, &problems).await;

    let places = Places::default();
    let (per_worker, admin_listener) = entrances.into_parts(settings, certificates.as_ref());
    let parts = WorkerParts {
        workers,
        limits: Arc::new(limits(&settings.data_path, settings.drain())),
        policy: Arc::new(Policy {
            https_port: local_tls::https_port(addresses.external_tls),
            ..policy
        }),
        routes: routes.clone(),
        health: Health::default(),
        throttler: throttler.clone(),
        stats: stats.clone(),
        counts: counts.clone(),
        tracer: traces.tracer(),
        internal_tls: InternalTls::default(),
        places: places.clone(),
        drain: drain.clone(),
    };
    let Workers {
        threads,
        peeks,
        ended,
    } = start_workers(per_worker, &parts)?;
    let external_tls = addresses.external_tls.map(tracing::field::display);
    info!(workers, external = %addresses.external, external_tls, local = %addresses.local, admin = %addresses.admin, "serving");
    let admin = Admin {
        ready: ready.clone(),
        routes,
        throttler: throttler.clone(),
        stats,
        counts,
        tracer: traces.tracer(),
        lines: lines.clone(),
        processes: Some(processes.clone()),
        watches: None,
        pods: None,
        leading: None,
        cluster: None,
        internal_tls: None,
        autoscaler,
        problems: problems.clone(),
        places,
        workers,
        peeks,
        certificates: certificates
            .map(|it| ("external", it))
            .into_iter()
            .collect(),
    };
    tasks.spawn(admin::serve(admin_listener, admin, guard));
    drop(starting);
    summary::print(settings, &world, &addresses);
    let urls = world.urls.clone();
    drop(world);

    let news = News {
        signals: &mut signals,
        tls: &mut tls,
        watch,
        rollout,
        ended,
        urls,
    };
    let code = steady(&mut provider, &mut applier, &problems, news, &mut tasks).await;
    let draining = ready.wait_for("nothing: the process is ending");
    stop(
        settings,
        &drain,
        &throttler,
        threads,
        &processes,
        &mut signals,
    )
    .await;
    traces.finish().await;
    written(&lines).await;
    drop(draining);
    tasks.shutdown().await;
    Ok(code)
}

/// What this replica is called in stats; informational.
const POD_NAME: &str = "parkway";

/// What may happen to a running Parkway.
struct News<'a> {
    signals: &'a mut Signals,
    tls: &'a mut Option<LocalTls>,
    watch: Watch,
    rollout: mpsc::Receiver<RolloutEvent>,
    ended: mpsc::Receiver<usize>,
    /// What was told about last.
    urls: Arc<Vec<Arc<ServiceUrl>>>,
}

/// Runs until a signal, or until something that should never end does.
async fn steady(
    provider: &mut FileProvider,
    applier: &mut Applier,
    problems: &Problems,
    news: News<'_>,
    tasks: &mut JoinSet<()>,
) -> ExitCode {
    let News {
        signals,
        tls,
        mut watch,
        mut rollout,
        mut ended,
        mut urls,
    } = news;
    let mut tick = tokio::time::interval(RETIRE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.stop() => return ExitCode::SUCCESS,
            () = watch.changed() => match provider.load() {
                Ok(world) => {
                    info!(generation = world.generation, "configuration changed");
                    // Before the routes: whoever finds one may come by TLS.
                    if let Some(tls) = tls {
                        tls.take(&world);
                    }
                    apply(applier, &world, problems).await;
                    summary::log_urls(&world, &urls);
                    urls = world.urls;
                }
                Err(mistakes) => {
                    for mistake in &mistakes {
                        error!("{mistake}");
                    }
                    warn!("the configuration before this change stays in effect");
                    problems.rejected(mistakes);
                }
            },
            () = local_tls::changed(tls) => {
                if let Some(tls) = tls {
                    tls.reload();
                }
            }
            Some(event) = rollout.recv() => {
                let world = match event {
                    RolloutEvent::Ready(id) => provider.revision_ready(&id),
                    RolloutEvent::Failed(id, reason) => provider.revision_failed(&id, reason),
                };
                if let Some(world) = world {
                    apply(applier, &world, problems).await;
                }
            }
            resolved = applier.resolver.next() => applier.resolved(resolved),
            _ = tick.tick(), if applier.is_retiring() => applier.finish_retiring(),
            Some(worker) = ended.recv() => {
                error!(worker, "a worker has ended before its time");
                return ExitCode::FAILURE;
            }
            Some(ended) = tasks.join_next() => {
                error!(?ended, "a task that should never end has ended");
                return ExitCode::FAILURE;
            }
        }
    }
}

async fn apply(applier: &mut Applier, world: &World, problems: &Problems) {
    let conflicts = applier.apply(world).await;
    for warning in &world.warnings {
        warn!("{warning}");
    }
    for conflict in &conflicts {
        warn!("{conflict}");
    }
    problems.accepted(world.generation, &world.warnings, &conflicts);
}

/// Ends in order: no new connections, parked and running requests, processes.
async fn stop(
    settings: &Run,
    drain: &CancellationToken,
    throttler: &Throttler,
    threads: Vec<JoinHandle<()>>,
    processes: &Processes,
    signals: &mut Signals,
) {
    info!(
        parked = throttler.parked(),
        "stopping: parked and running requests may end; once more to stop at once"
    );
    throttler.drain();
    drain.cancel();
    tokio::select! {
        () = joined(threads) => info!("all requests have ended"),
        () = signals.stop() => warn!("stopping at once"),
        // The workers keep the deadline themselves; this is for a worker that cannot.
        () = tokio::time::sleep(settings.drain() + Duration::from_secs(1)) => warn!("drain deadline passed"),
    }
    processes.shutdown(PROCESS_GRACE).await;
}

/// How long processes may take to end with Parkway before they are killed.
const PROCESS_GRACE: Duration = Duration::from_secs(5);

/// Bound listeners, so that a taken address is noticed before anything is started.
struct Entrances {
    workers: usize,
    external: Vec<std::net::TcpListener>,
    /// Empty: there is none.
    external_tls: Vec<std::net::TcpListener>,
    local: Vec<std::net::TcpListener>,
    admin: TcpListener,
}

/// Where a started Parkway listens: with port 0 in the settings, what the system chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(super) external: SocketAddr,
    pub(super) external_tls: Option<SocketAddr>,
    pub(super) local: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Entrances {
    async fn bind(settings: &Run) -> anyhow::Result<Self> {
        let proxied = &settings.data_path.proxy_protocol;
        anyhow::ensure!(
            !proxied.contains(&ProxiedEntrance::LocalTls),
            "--proxy-protocol local-tls: `parkway run` has no such entrance"
        );
        anyhow::ensure!(
            settings.tls.listen_tls.is_some() || !proxied.contains(&ProxiedEntrance::ExternalTls),
            "--proxy-protocol external-tls: there is no such entrance without --listen-tls"
        );
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = settings.data_path.workers.map_or(cores, usize::from);
        let taken = |flag: &str, address| {
            format!("{flag} {address}: cannot listen there; choose another address with {flag}")
        };
        let bind =
            |flag, address| listener::bind(address, workers).with_context(|| taken(flag, address));
        Ok(Self {
            workers,
            external: bind("--listen", settings.listen)?,
            external_tls: match settings.tls.listen_tls {
                Some(address) => bind("--listen-tls", address)?,
                None => Vec::new(),
            },
            local: bind("--listen-local", settings.listen_local)?,
            admin: TcpListener::bind(settings.admin)
                .await
                .with_context(|| taken("--admin", settings.admin))?,
        })
    }

    /// What each worker listens on, and the admin.
    fn into_parts(
        self,
        settings: &Run,
        certificates: Option<&Certificates>,
    ) -> (Vec<Vec<Entrance>>, TcpListener) {
        let mut per_worker: Vec<Vec<Entrance>> = (0..self.workers).map(|_| Vec::new()).collect();
        for (listeners, visibility, certificates) in [
            (self.external, Visibility::ExternalIp, None),
            (self.external_tls, Visibility::ExternalIp, certificates),
            (self.local, Visibility::ClusterLocal, None),
        ] {
            let kind = EntranceKind::Gateway(visibility);
            let proxies = proxies(&settings.data_path, kind, certificates.is_some());
            for (entrances, listener) in per_worker.iter_mut().zip(listeners) {
                entrances.push(Entrance {
                    listener,
                    kind,
                    certificates: certificates.cloned(),
                    proxies: proxies.clone(),
                });
            }
        }
        (per_worker, self.admin)
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        let of = |listeners: &[std::net::TcpListener]| match listeners.first() {
            Some(first) => first.local_addr(),
            None => Err(std::io::ErrorKind::AddrNotAvailable.into()),
        };
        Ok(Addresses {
            external: of(&self.external)?,
            external_tls: match self.external_tls.is_empty() {
                true => None,
                false => Some(of(&self.external_tls)?),
            },
            local: of(&self.local)?,
            admin: self.admin.local_addr()?,
        })
    }
}

/// The certificates in files, where there is an entrance for them.
fn tls_files(settings: &Run) -> Result<Option<OwnCertificates>, Vec<Problem>> {
    let files = certificate_files(&settings.tls.files)?;
    match settings.tls.listen_tls {
        Some(_) => Ok(Some(files)),
        None => {
            if let Some(first) = settings.tls.files.tls_cert.first() {
                warn!(file = %first.display(), "--tls-cert without --listen-tls: nothing is served by TLS");
            }
            Ok(None)
        }
    }
}

fn autoscaler(
    settings: &Run,
    processes: &Processes,
    throttler: &Throttler,
    tasks: &mut JoinSet<()>,
) -> (Scaling, Arc<dyn StatSink>, Autoscaler) {
    match &settings.autoscaler {
        AutoscalerChoice::Embedded => {
            let scaler = ScaleProcesses {
                processes: processes.clone(),
                throttler: throttler.clone(),
            };
            let embedded = Embedded::new(Arc::new(scaler));
            let running = embedded.clone();
            tasks.spawn(async move { running.run().await });
            (
                Scaling::Embedded(embedded.clone()),
                Arc::new(embedded.clone()),
                Autoscaler::Embedded(embedded),
            )
        }
        AutoscalerChoice::Remote(address) => {
            let (sink, connection) = RemoteSink::new(vec![address.clone()]);
            tasks.spawn(connection);
            (
                Scaling::Elsewhere,
                Arc::new(sink.clone()),
                Autoscaler::Remote(sink),
            )
        }
    }
}

async fn end_leftovers(state_dir: &Path) {
    match Processes::end_leftovers(state_dir, LEFTOVER_GRACE).await {
        Ok(ended) => {
            for leftover in ended {
                info!(?leftover, "ended a process that a killed Parkway left");
            }
        }
        Err(error) => {
            warn!(%error, state_dir = %state_dir.display(), "cannot look for processes that a killed Parkway left");
        }
    }
}

fn process_options(state_dir: &Path) -> Options {
    let mut options = Options::new(state_dir);
    let binary = std::env::current_exe().ok();
    options.binary_dir = binary.and_then(|binary| binary.parent().map(Path::to_owned));
    options
}

/// A folder that two Parkways of different users or at different addresses do not share.
fn state_dir(settings: &Run) -> PathBuf {
    let default = || {
        let user = rustix::process::getuid().as_raw();
        let name = format!(
            "parkway-{user}-{}",
            settings.listen.to_string().replace([':', '[', ']'], "-")
        );
        std::env::temp_dir().join(name)
    };
    settings.state_dir.clone().unwrap_or_else(default)
}

/// An endpoint is back when it accepts a connection.
pub(super) struct ConnectProbe;

impl prober::Probe for ConnectProbe {
    async fn probe(
        &self,
        _revision: &parkway_activator::revision::RevisionId,
        endpoint: parkway_activator::endpoint::Endpoint,
    ) -> bool {
        let connecting = tokio::net::TcpStream::connect(endpoint.address());
        matches!(
            tokio::time::timeout(PROBE_TIMEOUT, connecting).await,
            Ok(Ok(_))
        )
    }
}

/// As long as Knative's activator waits for a probe (`PROBE_TIMEOUT`, knative/serving `cmd/activator/main.go`).
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// A provider of the manifests at `paths`.
pub(crate) fn file_provider(paths: &[PathBuf], domain: &str) -> FileProvider {
    FileProvider::new(
        paths.to_vec(),
        provider::Options::standalone(domain),
        Arc::new(validate::AutoscalerRules),
    )
}

/// Prints what is wrong and nothing else.
pub(crate) fn print_problems(problems: &[Problem]) {
    summary::print_problems(problems);
}
