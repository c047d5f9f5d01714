//! The composition root: what `parkway run` consists of, in the order in which it starts, and what stops it.

mod applier;
pub mod endpoints;
mod events;
mod names;
mod summary;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use parkway_activator::prober;
use parkway_activator::stats::Stats;
use parkway_activator::throttler::{QueueLimits, Throttler};
use parkway_autoscaler_client::embedded::Embedded;
use parkway_autoscaler_client::remote::RemoteSink;
use parkway_autoscaler_client::reporter;
use parkway_autoscaler_client::sink::StatSink;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Admin, Autoscaler, Problems};
use crate::cli::{AutoscalerChoice, Run};
use crate::config::Limits;
use crate::frontend::exchange::ClientShares;
use crate::frontend::listener;
use crate::frontend::worker::{self, Entrance, Peek, Policy, RoutePublisher, WorkerParts};
use crate::provider::file::{FileProvider, Watch};
use crate::provider::{self, Problem, ServiceUrl, World};
use crate::proxy::observe::RequestCounts;
use crate::ready::Ready;
use crate::routing::rules::Visibility;
use crate::routing::table::RouteSnapshot;
use crate::standalone::{Options, Processes};
use crate::telemetry;
use applier::{Applied, Applier, Scaling};
use events::{ProcessEvents, RolloutEvent, ScaleProcesses};

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
    let entrances = Entrances::bind(settings).await?;
    let addresses = entrances.addresses()?;
    let state_dir = state_dir(settings);
    end_leftovers(&state_dir).await;

    let ready = Ready::default();
    let starting = ready.wait_for("routes and listeners");
    let drain = CancellationToken::new();
    let workers = entrances.workers;
    let throttler = Throttler::new(queue_limits(settings), workers);
    let stats = Stats::new(workers);
    let counts = RequestCounts::new(workers);
    let (publisher, routes) = RoutePublisher::new(RouteSnapshot::default());
    let (events, rollout) = ProcessEvents::new(throttler.clone());
    let (processes, running_processes) = Processes::new(process_options(&state_dir), events)
        .with_context(|| format!("cannot use {} to record processes", state_dir.display()))?;

    let mut tasks = JoinSet::new();
    tasks.spawn(running_processes);
    let (scaling, sink, autoscaler) = autoscaler(settings, &processes, &throttler, &mut tasks);
    tasks.spawn(reporter::run(
        stats.clone(),
        Arc::clone(&sink),
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

    let connections = Arc::new(AtomicUsize::new(0));
    let Entrances {
        external,
        local,
        admin: admin_listener,
        ..
    } = entrances;
    let parts = WorkerParts {
        workers,
        limits: Arc::new(limits(settings)),
        policy: Arc::new(policy(settings)),
        routes: routes.clone(),
        throttler: throttler.clone(),
        stats: stats.clone(),
        counts: counts.clone(),
        connections: Arc::clone(&connections),
        drain: drain.clone(),
    };
    let Workers {
        threads,
        peeks,
        ended,
    } = start_workers(external, local, &parts)?;
    info!(workers, external = %addresses.external, local = %addresses.local, admin = %addresses.admin, "serving");
    let admin = Admin {
        ready: ready.clone(),
        routes,
        throttler: throttler.clone(),
        stats,
        counts,
        processes: processes.clone(),
        autoscaler,
        problems: problems.clone(),
        connections,
        workers,
        peeks,
    };
    tasks.spawn(admin::serve(admin_listener, admin));
    drop(starting);
    summary::print(settings, &world, &addresses);
    let urls = world.urls.clone();
    drop(world);

    let news = News {
        signals: &mut signals,
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
    drop(draining);
    tasks.shutdown().await;
    Ok(code)
}

/// What this replica is called in stats; informational.
const POD_NAME: &str = "parkway";

/// What may happen to a running Parkway.
struct News<'a> {
    signals: &'a mut Signals,
    watch: Watch,
    rollout: mpsc::Receiver<RolloutEvent>,
    ended: mpsc::Receiver<usize>,
    /// What was told about last.
    urls: Vec<Arc<ServiceUrl>>,
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

async fn joined(threads: Vec<JoinHandle<()>>) {
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

/// Bound listeners, so that a taken address is noticed before anything is started.
struct Entrances {
    workers: usize,
    external: Vec<std::net::TcpListener>,
    local: Vec<std::net::TcpListener>,
    admin: TcpListener,
}

/// Where a started Parkway listens: with port 0 in the settings, what the system chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    external: SocketAddr,
    local: SocketAddr,
    admin: SocketAddr,
}

impl Entrances {
    async fn bind(settings: &Run) -> anyhow::Result<Self> {
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
            local: bind("--listen-local", settings.listen_local)?,
            admin: TcpListener::bind(settings.admin)
                .await
                .with_context(|| taken("--admin", settings.admin))?,
        })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        let of = |listeners: &[std::net::TcpListener]| match listeners.first() {
            Some(first) => first.local_addr(),
            None => Err(std::io::ErrorKind::AddrNotAvailable.into()),
        };
        Ok(Addresses {
            external: of(&self.external)?,
            local: of(&self.local)?,
            admin: self.admin.local_addr()?,
        })
    }
}

/// The threads that serve requests.
struct Workers {
    threads: Vec<JoinHandle<()>>,
    peeks: Vec<mpsc::Sender<Peek>>,
    /// Tells which has ended.
    ended: mpsc::Receiver<usize>,
}

/// Starts the workers. What each next request would draw can be asked through the returned channels.
fn start_workers(
    external: Vec<std::net::TcpListener>,
    local: Vec<std::net::TcpListener>,
    parts: &WorkerParts,
) -> anyhow::Result<Workers> {
    let mut threads = Vec::new();
    let mut peeks = Vec::new();
    let (end, ended) = mpsc::channel(parts.workers.max(1));
    for (index, (external, local)) in external.into_iter().zip(local).enumerate() {
        let entrances = vec![
            Entrance {
                listener: external,
                visibility: Visibility::ExternalIp,
            },
            Entrance {
                listener: local,
                visibility: Visibility::ClusterLocal,
            },
        ];
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

fn queue_limits(settings: &Run) -> QueueLimits {
    const MIB: usize = 1024 * 1024;
    QueueLimits {
        depth: settings.data_path.queue_depth,
        bytes: settings.data_path.queue_mib.saturating_mul(MIB),
        total_bytes: settings.data_path.queue_total_mib.saturating_mul(MIB),
        client_share: settings.data_path.client_share(),
        ..QueueLimits::default()
    }
}

fn limits(settings: &Run) -> Limits {
    Limits {
        connections: settings.data_path.connections,
        first_byte: Duration::from_secs(settings.data_path.first_byte_seconds),
        header_read: Duration::from_secs(settings.data_path.header_read_seconds),
        idle: Duration::from_secs(settings.data_path.idle_seconds),
        drain: settings.drain(),
        ..Limits::default()
    }
}

fn policy(settings: &Run) -> Policy {
    let shares = || ClientShares {
        header: settings.data_path.client_header.clone(),
        ..ClientShares::default()
    };
    Policy {
        trusted_hops: settings.data_path.trusted_hops,
        client_shares: settings.data_path.client_share.map(|_| shares()),
        access_log: settings.data_path.access_log,
    }
}

/// Connections are files: take as many as the system lets this user have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// An endpoint is back when it accepts a connection.
struct ConnectProbe;

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

/// Ctrl-C and SIGTERM, noticed from the start to the end: one that comes while nobody asks is told to the next who does.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    fn new() -> Self {
        let notice = |kind, name| {
            signal(kind)
                .inspect_err(|error| warn!(%error, name, "a signal cannot be noticed"))
                .ok()
        };
        Self {
            interrupt: notice(SignalKind::interrupt(), "SIGINT"),
            terminate: notice(SignalKind::terminate(), "SIGTERM"),
        }
    }

    /// Waits for the next of either.
    ///
    /// # Cancel safety
    ///
    /// A signal that was not waited for is there the next time.
    async fn stop(&mut self) {
        tokio::select! {
            () = next(&mut self.interrupt) => {}
            () = next(&mut self.terminate) => {}
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    // Nothing to be noticed, now or later.
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

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
