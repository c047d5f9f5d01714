//! `parkway serve`: what it consists of, in the order in which it starts, and what stops it.

mod applier;
mod config;
mod internal_tls;
mod leading;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parkway_activator::backends::Replicas;
use parkway_activator::prober;
use parkway_activator::stats::Stats;
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::remote::RemoteSink;
use parkway_autoscaler_client::reporter;
use parkway_autoscaler_client::sink::StatSink;
use rustls::server::ProducesTickets;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::endpoints::{ClusterEndpoints, ProbeLimits};
use super::names;
use super::parts::{
    Workers, guard, joined, limits, log_lines, policy, proxies, queue_limits, raise_file_limit,
    start_workers, trace_settings, traces, written,
};
use super::signals::Signals;
use super::starts::{self, Noting};
use crate::admin::cluster::InCluster;
use crate::admin::{self, Admin, Autoscaler, Problems};
use crate::cli::{DataPath, Role, Serve};
use crate::frontend::health::{HealthPublisher, HealthState, TERMINATING};
use crate::frontend::listener;
use crate::frontend::places::Places;
use crate::frontend::tls::{CertificatePublisher, Certificates, SharedTickets, TlsSettings};
use crate::frontend::worker::{Entrance, EntranceKind, Policy, RoutePublisher, WorkerParts};
use crate::provider::kubernetes::client::client;
use crate::provider::kubernetes::pods::PodWatches;
use crate::provider::kubernetes::{
    self, CertificateChange, Changes, IngressChange, Key, KubernetesProvider, Replica,
};
use crate::proxy::observe::RequestCounts;
use crate::proxy::probe;
use crate::proxy::request_log::RequestLogPublisher;
use crate::ready::Ready;
use crate::routing::headers::HostMode;
use crate::routing::rules::Visibility;
use crate::routing::table::{DEFAULT_CLUSTER_DOMAIN, RouteSnapshot, RouteTable};
use crate::telemetry;
use crate::trace::Exporting;
use applier::{Applied, Applier};
use internal_tls::SystemInternalTls;
use leading::Leading;

/// How often what retires, and what cannot start, is looked at.
const RETIRE_TICK: Duration = Duration::from_millis(200);

/// The gateway's Service serves TLS where `https` is expected.
const HTTPS: NonZeroU16 = NonZeroU16::new(443).expect("not zero");

/// Serves a cluster until it is told to stop.
///
/// # Errors
///
/// When it cannot start: an address is taken, there is no cluster.
pub fn serve(settings: &Serve) -> anyhow::Result<ExitCode> {
    telemetry::init(settings.data_path.log_format, &settings.data_path.log)?;
    raise_file_limit();
    // Before anything makes a TLS connection: kube and we use the same one.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        warn!("a TLS provider was installed before");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(run(settings));
    // Workers that are still busy have been given up by now: their threads are not waited for.
    runtime.shutdown_background();
    code
}

async fn run(settings: &Serve) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new();
    let guard = guard(&settings.admin_access)?;
    let (system_internal_tls, internal_tls) = SystemInternalTls::new();
    let internal_certificates = system_internal_tls.certificates();
    let tickets = Arc::new(SharedTickets::new());
    let (certificates, readers) = Certified::new(&tickets);
    let entrances = Entrances::bind(settings, &readers, internal_certificates.clone()).await?;
    let addresses = entrances.addresses()?;
    let client = client(settings.kubeconfig.as_deref(), settings.context.as_deref()).await?;
    let cluster_domain = cluster_domain(settings);

    let ready = Ready::default();
    let starting = ready.wait_for("the cluster's configuration");
    let drain = CancellationToken::new();
    let workers = entrances.workers;
    let throttler = Throttler::new(queue_limits(&settings.data_path), workers);
    let stats = Stats::new(workers);
    let counts = RequestCounts::new(workers);
    let names = [
        ("k8s.pod.name", settings.pod_name.as_str()),
        ("k8s.namespace.name", settings.namespace()),
    ];
    let traces = traces(workers, &names);
    let (publisher, routes) = RoutePublisher::new(RouteSnapshot::default());
    let lines = log_lines()?;
    let policy = policy(&settings.data_path, &lines)?;
    let (request_log_publisher, request_log) = RequestLogPublisher::new(lines.clone());
    let (health_publisher, health) = HealthPublisher::new(HealthState::Healthy);

    let mut tasks = JoinSet::new();
    let (sink, connection) = RemoteSink::new(vec![autoscaler(settings, &cluster_domain)]);
    tasks.spawn(connection);
    let stat_sink: Arc<dyn StatSink> = Arc::new(sink.clone());
    tasks.spawn(reporter::run(
        stats.clone(),
        Noting::new(stat_sink, throttler.clone()),
        settings.pod_name.clone(),
    ));
    let dial = probe::Tcp::new(internal_tls.clone());
    let (endpoints, asking) =
        ClusterEndpoints::new(throttler.clone(), dial.clone(), ProbeLimits::default());
    tasks.spawn(asking);
    tasks.spawn(prober::restore_suspects(
        throttler.clone(),
        endpoints.suspect_probe(dial),
    ));
    let pods = { settings.watch_pods }.then(|| starts::watch_pods(&client, &throttler, &mut tasks));
    let (resolver, resolving) = names::Resolver::new();
    tasks.spawn(resolving);

    let mut provider = KubernetesProvider::new(&client, &provider_settings(settings));
    let problems = Problems::default();
    let applier = Applier {
        throttler: throttler.clone(),
        endpoints,
        sharing_by_public: settings.pod_ip.filter(|_| !settings.has(Role::Ingress)),
        stats: stats.clone(),
        counts: counts.clone(),
        publisher,
        resolver,
        table: RouteTable::new(&cluster_domain),
        applied: Applied::default(),
    };

    let in_cluster = InCluster::new(provider.health());
    let places = Places::default();
    let parts = WorkerParts {
        workers,
        limits: Arc::new(limits(&settings.data_path, settings.drain())),
        policy: Arc::new(Policy {
            host_mode: HostMode::QueueProxy,
            request_log,
            https_port: Some(HTTPS),
            cluster_domain: cluster_domain.as_str().into(),
            ..policy
        }),
        routes: routes.clone(),
        health,
        throttler: throttler.clone(),
        stats: stats.clone(),
        counts: counts.clone(),
        tracer: traces.tracer(),
        internal_tls: internal_tls.clone(),
        places: places.clone(),
        drain: drain.clone(),
    };
    let Entrances {
        requests,
        peers,
        metrics,
        admin: admin_listener,
        ..
    } = entrances;
    let per_worker = per_worker(&settings.data_path, workers, requests);
    let admin = Admin {
        ready: ready.clone(),
        routes,
        throttler: throttler.clone(),
        stats,
        counts,
        tracer: traces.tracer(),
        lines: lines.clone(),
        processes: None,
        watches: Some(provider.health()),
        pods: pods.clone(),
        leading: None,
        cluster: Some(in_cluster.clone()),
        internal_tls: Some((internal_tls, internal_certificates)),
        autoscaler: Autoscaler::Remote(sink.clone()),
        problems: problems.clone(),
        places,
        workers,
        peeks: Vec::new(),
        certificates: vec![("external", readers.external), ("local", readers.local)],
    };
    // From here on it can be seen what is waited for.
    tasks.spawn(admin::serve_metrics(metrics, admin.clone()));
    info!(metrics = %addresses.metrics, "waiting for the cluster to tell what there is");

    let first = tokio::select! {
        changes = provider.changed() => changes,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    info!(
        ingresses = first.ingresses.len(),
        revisions = first.revisions.len(),
        "the cluster has told what there is"
    );
    let leading = peers.map(|peers| {
        let config = first.config.as_deref();
        Leading::start(
            settings,
            &cluster_domain,
            &client,
            peers,
            config,
            &mut tasks,
        )
    });
    if let Some(leading) = &leading {
        in_cluster.set_leading(leading.told());
    }
    let mut running = Running {
        provider,
        applier,
        pods,
        internal_tls: system_internal_tls,
        certificates,
        tickets,
        sink,
        request_log: request_log_publisher,
        traces,
        pod_ip: settings.pod_ip,
        leading,
        in_cluster,
        conflicts: BTreeMap::new(),
        tasks,
    };
    running.take(first);
    let Workers {
        threads,
        peeks,
        ended,
    } = start_workers(per_worker, &parts)?;
    running.tasks.spawn(admin::serve(
        admin_listener,
        Admin {
            peeks,
            leading: running.leading.as_ref().map(Leading::shown),
            ..admin
        },
        guard,
    ));
    drop(starting);
    info!(
        workers,
        roles = ?settings.roles,
        class = %settings.ingress_class,
        external = addresses.external.map(display),
        external_tls = addresses.external_tls.map(display),
        local = addresses.local.map(display),
        local_tls = addresses.local_tls.map(display),
        activator = addresses.activator.map(display),
        activator_h2c = addresses.activator_h2c.map(display),
        activator_tls = addresses.activator_tls.map(display),
        peers = addresses.peers.map(display),
        metrics = %addresses.metrics,
        admin = %addresses.admin,
        "serving"
    );

    let workers = Workers {
        threads,
        peeks: Vec::new(),
        ended,
    };
    let code = running.until_the_end(settings, &drain, workers, &mut signals, || {
        health_publisher.publish(HealthState::Unhealthy(TERMINATING.into()));
        ready.wait_for("nothing: the process is ending")
    });
    let code = code.await;
    running.traces.finish().await;
    written(&lines).await;
    running.tasks.shutdown().await;
    Ok(code)
}

/// Everything that goes on while requests are served, to the last one.
struct Running {
    provider: KubernetesProvider,
    applier: Applier,
    /// None where Pods of starts are not watched.
    pods: Option<PodWatches>,
    internal_tls: SystemInternalTls,
    certificates: Certified<CertificatePublisher>,
    tickets: Arc<SharedTickets>,
    sink: RemoteSink,
    request_log: RequestLogPublisher,
    traces: Exporting,
    /// Our address.
    pod_ip: Option<IpAddr>,
    /// None where there are no KIngresses to speak of.
    leading: Option<Leading>,
    in_cluster: InCluster,
    /// KIngresses that do not have all their hosts.
    conflicts: BTreeMap<Key, String>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Serves until a signal, then ends in order: the cluster learns that we leave, no new connections, parked and running
    /// requests. What the cluster tells takes effect all the while: parked requests wait for it.
    async fn until_the_end<P>(
        &mut self,
        settings: &Serve,
        drain: &CancellationToken,
        workers: Workers,
        signals: &mut Signals,
        leave: impl FnOnce() -> P,
    ) -> ExitCode {
        let Workers {
            threads, mut ended, ..
        } = workers;
        let mut ended = Some(&mut ended);
        if self.until(signals.stop(), &mut ended).await.is_err() {
            return ExitCode::FAILURE;
        }
        let _leaving = leave();
        if let Some(leading) = &self.leading {
            leading.stand_down();
        }
        info!(
            seconds = settings.drain_delay_seconds,
            "not ready any more; serving until the cluster has noticed, or a second signal"
        );
        let noticed = async {
            tokio::select! {
                () = tokio::time::sleep(settings.drain_delay()) => {}
                () = signals.stop() => {}
            }
        };
        if self.until(noticed, &mut ended).await.is_err() {
            return ExitCode::FAILURE;
        }
        let throttler = self.applier.throttler.clone();
        info!(
            parked = throttler.parked(),
            "stopping: parked and running requests may end; once more to stop at once"
        );
        throttler.drain();
        drain.cancel();
        let over = async {
            tokio::select! {
                () = joined(threads) => info!("all requests have ended"),
                () = signals.stop() => warn!("stopping at once"),
                // The workers keep the deadline themselves; this is for a worker that cannot.
                () = tokio::time::sleep(settings.drain() + Duration::from_secs(1)) => warn!("drain deadline passed"),
            }
        };
        if self.until(over, &mut None).await.is_err() {
            return ExitCode::FAILURE;
        }
        // The others should not wait for our Lease to expire. Mostly it was given back long ago; giving it back ends.
        let has_stood_down = self.leading.as_ref().map(Leading::has_stood_down);
        let given_back = async {
            if let Some(has_stood_down) = has_stood_down {
                tokio::select! {
                    () = has_stood_down.cancelled() => {}
                    () = signals.stop() => {}
                }
            }
        };
        match self.until(given_back, &mut None).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(Broken) => ExitCode::FAILURE,
        }
    }

    /// Makes changes real, and tells whom they concern.
    fn take(&mut self, mut changes: Changes) {
        if let Some(replicas) = changes.replicas.take() {
            let ours = |replica: &Replica| Some(replica.address) == self.pod_ip;
            let place = Replicas {
                index: replicas.iter().position(ours),
                count: replicas.len(),
            };
            info!(replicas = place.count, index = ?place.index, "the gateway's replicas");
            self.applier.endpoints.set_replicas(place);
            if let Some(leading) = &self.leading {
                leading.set_replicas(replicas);
            }
        }
        if let Some(config) = &changes.config {
            let (mode, passthrough) = config::mesh(config);
            self.applier.endpoints.set_mesh(mode, passthrough);
            match config::traces(config, trace_settings()) {
                Ok(settings) => self.traces.configure(settings),
                Err(error) => {
                    warn!("config-observability: {error}; traces stay as they were");
                }
            }
            match config::request_log(config) {
                Ok(template) => self.request_log.publish(template),
                Err(error) => {
                    warn!(%error, "config-observability: logging.request-log-template cannot be used; the one before stays");
                }
            }
        }
        if let Some(change) = changes.internal_tls.take() {
            #[expect(
                clippy::disallowed_methods,
                reason = "a certificate is valid by the clock"
            )]
            let now = std::time::SystemTime::now();
            self.internal_tls.apply(change, now);
        }
        if let Some(owners) = changes.bucket_owners.take() {
            self.sink.set_owners(owners);
        }
        // Before the routes: whoever hears that a KIngress is Ready may come by TLS.
        if let Some(certificates) = changes.certificates.take() {
            self.certificates.publish(certificates);
        }
        match changes.ticket_keys.take() {
            Some(Ok(keys)) => {
                info!(?keys, "session tickets are shared");
                self.tickets.set(&keys);
            }
            Some(Err(why)) => {
                warn!(%why, "the Secret of --tls-tickets-secret cannot be used; tickets are made as before");
            }
            None => {}
        }
        let gone = std::mem::take(&mut changes.gone);
        if let Some(leading) = &self.leading {
            leading.leave(&changes.given_away);
        }
        let in_effect = self.applier.apply(changes, &gone);
        self.tell(in_effect, &gone);
    }

    /// Says of KIngresses that their present state is in effect here, and of others whether they have their hosts now.
    fn tell(&mut self, mut in_effect: Vec<IngressChange>, gone: &[Key]) {
        self.in_cluster.set_held(self.applier.held());
        let Some(leading) = &self.leading else {
            return;
        };
        let conflicts = self.applier.conflicts();
        let before = std::mem::replace(&mut self.conflicts, conflicts);
        let differs = |key: &&Key| before.get(key) != self.conflicts.get(key);
        let others: Vec<Key> = { before.keys().chain(self.conflicts.keys()) }
            .filter(differs)
            .cloned()
            .collect();
        if !others.is_empty() {
            let known = self.provider.known(&others).into_iter();
            in_effect.extend(known.filter(|change| !self.applier.holds(&change.key)));
        }
        leading.tell(in_effect, gone, &self.conflicts);
    }

    /// Takes in what happens until `end`.
    ///
    /// # Errors
    ///
    /// When something ends that never should; workers (`ended` tells) may, while draining.
    async fn until(
        &mut self,
        end: impl Future<Output = ()>,
        ended: &mut Option<&mut mpsc::Receiver<usize>>,
    ) -> Result<(), Broken> {
        let mut end = std::pin::pin!(end);
        let mut tick = tokio::time::interval(RETIRE_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                changes = self.provider.changed() => self.take(changes),
                resolved = self.applier.resolver.next() => {
                    let in_effect = self.applier.resolved(resolved);
                    self.tell(in_effect, &[]);
                }
                _ = tick.tick(), if self.has_to_look() => {
                    self.applier.finish_retiring();
                    let pods = self.pods.as_ref();
                    self.applier.fail_starts(|id| pods.is_some_and(|pods| pods.sees(id)));
                    let Applier { throttler, endpoints, .. } = &self.applier;
                    self.internal_tls.fail_starts(throttler, endpoints);
                }
                Some(worker) = next(ended) => {
                    error!(worker, "a worker has ended before its time");
                    return Err(Broken);
                }
                Some(ended) = self.tasks.join_next() => {
                    error!(?ended, "a task that should never end has ended");
                    return Err(Broken);
                }
            }
        }
    }
}

impl Running {
    /// Whether something is to be looked at again and again.
    fn has_to_look(&self) -> bool {
        self.applier.is_retiring() || self.applier.is_failing() || self.internal_tls.is_enabled()
    }
}

/// The next worker that has ended, where that is watched for.
async fn next(ended: &mut Option<&mut mpsc::Receiver<usize>>) -> Option<usize> {
    match ended {
        Some(ended) => ended.recv().await,
        None => std::future::pending().await,
    }
}

/// Something has ended that never should.
struct Broken;

fn provider_settings(settings: &Serve) -> kubernetes::Settings {
    let is_ingress = settings.has(Role::Ingress);
    kubernetes::Settings {
        ingress_class: is_ingress.then(|| settings.ingress_class.clone()),
        system_namespace: settings.system_namespace.clone(),
        gateway: Key::new(settings.namespace(), settings.gateway_service.as_str()),
        wants_public: !is_ingress,
        default_certificate: settings
            .default_tls_secret
            .as_ref()
            .map(|(namespace, name)| Key::new(namespace.as_str(), name.as_str())),
        ticket_keys: settings
            .tls_tickets_secret
            .as_ref()
            .map(|(namespace, name)| Key::new(namespace.as_str(), name.as_str())),
    }
}

fn autoscaler(settings: &Serve, cluster_domain: &str) -> String {
    let default = || {
        let namespace = &settings.system_namespace;
        format!("ws://autoscaler.{namespace}.svc.{cluster_domain}:8080")
    };
    settings.autoscaler.clone().unwrap_or_else(default)
}

/// The domain that was named, else the first `svc.` entry of the resolver's search list.
///
/// Source: knative/pkg `network/domain.go`.
fn cluster_domain(settings: &Serve) -> String {
    let named = settings.cluster_domain.clone();
    let found = || {
        let resolver = std::fs::read_to_string("/etc/resolv.conf").ok()?;
        search_domain(&resolver)
    };
    named
        .or_else(found)
        .unwrap_or_else(|| DEFAULT_CLUSTER_DOMAIN.to_owned())
}

fn search_domain(resolver: &str) -> Option<String> {
    let searched = resolver
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace);
    let mut domains = searched.filter_map(|domain| domain.strip_prefix("svc."));
    domains
        .next()
        .map(|domain| domain.trim_end_matches('.').to_owned())
}

/// Bound listeners, so that a taken address is noticed before anything is started.
struct Entrances {
    workers: usize,
    requests: Vec<Requests>,
    /// For other replicas; an ingress has others.
    peers: Option<TcpListener>,
    metrics: TcpListener,
    admin: TcpListener,
}

/// The sockets of an entrance, one for each worker, who asks there, and by whose certificates if by TLS.
type Requests = (
    Vec<std::net::TcpListener>,
    EntranceKind,
    Option<Certificates>,
);

/// Something for each entrance that speaks TLS.
#[derive(Clone, Debug)]
struct Certified<T> {
    external: T,
    local: T,
}

impl Certified<CertificatePublisher> {
    fn new(tickets: &Arc<SharedTickets>) -> (Self, Certified<Certificates>) {
        let settings = TlsSettings {
            tickets: Some(Arc::clone(tickets) as Arc<dyn ProducesTickets>),
            ..TlsSettings::new()
        };
        let (external, external_readers) = CertificatePublisher::new(settings.clone());
        let (local, local_readers) = CertificatePublisher::new(settings);
        let readers = Certified {
            external: external_readers,
            local: local_readers,
        };
        (Self { external, local }, readers)
    }

    fn publish(&self, certificates: CertificateChange) {
        let external = self.external.publish(certificates.external);
        let local = self.local.publish(certificates.local);
        if let Err(error) = external.and(local) {
            error!(%error, "certificates cannot be used; those before stay");
        }
    }
}

/// Where the entrances are, once the system has chosen ports for those that left it the choice.
struct Addresses {
    external: Option<SocketAddr>,
    external_tls: Option<SocketAddr>,
    local: Option<SocketAddr>,
    local_tls: Option<SocketAddr>,
    activator: Option<SocketAddr>,
    activator_h2c: Option<SocketAddr>,
    activator_tls: Option<SocketAddr>,
    peers: Option<SocketAddr>,
    metrics: SocketAddr,
    admin: SocketAddr,
}

impl Entrances {
    fn addresses(&self) -> std::io::Result<Addresses> {
        let of_kind = |wanted: (EntranceKind, bool)| {
            let all = self.requests.iter();
            let of_kind = all.filter(move |(_, kind, tls)| (*kind, tls.is_some()) == wanted);
            of_kind.filter_map(|(listeners, ..)| listeners.first()?.local_addr().ok())
        };
        let gateway =
            |visibility, is_tls| of_kind((EntranceKind::Gateway(visibility), is_tls)).next();
        // In the order in which they were bound.
        let mut activators = of_kind((EntranceKind::Activator, false));
        let peers = self.peers.as_ref().map(TcpListener::local_addr);
        Ok(Addresses {
            external: gateway(Visibility::ExternalIp, false),
            external_tls: gateway(Visibility::ExternalIp, true),
            local: gateway(Visibility::ClusterLocal, false),
            local_tls: gateway(Visibility::ClusterLocal, true),
            activator: activators.next(),
            activator_h2c: activators.next(),
            activator_tls: of_kind((EntranceKind::Activator, true)).next(),
            peers: peers.transpose()?,
            metrics: self.metrics.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }

    /// `internal_certificates`: those of the activator's port for TLS.
    async fn bind(
        settings: &Serve,
        certificates: &Certified<Certificates>,
        internal_certificates: Certificates,
    ) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = settings.data_path.workers.map_or(cores, usize::from);
        let taken = |flag: &str, address: SocketAddr| {
            format!("{flag} {address}: cannot listen there; choose another address with {flag}")
        };
        let bind =
            |flag, address| listener::bind(address, workers).with_context(|| taken(flag, address));
        let mut requests = Vec::new();
        if settings.has(Role::Ingress) {
            let external = EntranceKind::Gateway(Visibility::ExternalIp);
            let local = EntranceKind::Gateway(Visibility::ClusterLocal);
            let tls = |certificates: &Certificates| Some(certificates.clone());
            let (for_external, for_local) = (tls(&certificates.external), tls(&certificates.local));
            for (flag, address, kind, certificates) in [
                ("--listen", settings.listen, external, None),
                ("--listen-tls", settings.listen_tls, external, for_external),
                ("--listen-local", settings.listen_local, local, None),
                (
                    "--listen-local-tls",
                    settings.listen_local_tls,
                    local,
                    for_local,
                ),
            ] {
                requests.push((bind(flag, address)?, kind, certificates));
            }
        }
        if settings.has(Role::Activator) {
            let http1 = bind("--listen-activator", settings.listen_activator)?;
            requests.push((http1, EntranceKind::Activator, None));
            let h2c = bind("--listen-activator-h2c", settings.listen_activator_h2c)?;
            requests.push((h2c, EntranceKind::Activator, None));
            let tls = bind("--listen-activator-tls", settings.listen_activator_tls)?;
            let certificates = Some(internal_certificates);
            requests.push((tls, EntranceKind::Activator, certificates));
        }
        let peers = match settings.has(Role::Ingress) {
            true => Some(
                TcpListener::bind(settings.listen_peers)
                    .await
                    .with_context(|| taken("--listen-peers", settings.listen_peers))?,
            ),
            false => None,
        };
        Ok(Self {
            workers,
            requests,
            peers,
            metrics: TcpListener::bind(settings.metrics_listen)
                .await
                .with_context(|| taken("--metrics-listen", settings.metrics_listen))?,
            admin: TcpListener::bind(settings.admin)
                .await
                .with_context(|| taken("--admin", settings.admin))?,
        })
    }
}

/// What each worker listens on.
fn per_worker(settings: &DataPath, workers: usize, requests: Vec<Requests>) -> Vec<Vec<Entrance>> {
    let mut per_worker: Vec<Vec<Entrance>> = (0..workers).map(|_| Vec::new()).collect();
    for (listeners, kind, certificates) in requests {
        let proxies = proxies(settings, kind, certificates.is_some());
        for (entrances, listener) in per_worker.iter_mut().zip(listeners) {
            entrances.push(Entrance {
                listener,
                kind,
                certificates: certificates.clone(),
                proxies: proxies.clone(),
            });
        }
    }
    per_worker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_domain_is_what_the_resolver_searches() {
        let of = |text: &str| search_domain(text);
        let pod =
            "search shop.svc.corp.example svc.corp.example corp.example\nnameserver 10.96.0.10\n";
        assert_eq!(of(pod).as_deref(), Some("corp.example"));
        assert_eq!(
            of("search svc.cluster.local.\n").as_deref(),
            Some("cluster.local")
        );
        assert_eq!(of("nameserver 10.96.0.10\nsearch example.com\n"), None);
    }
}
