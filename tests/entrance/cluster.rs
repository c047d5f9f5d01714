//! One worker with all entrances, and all that a provider would tell it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId, RevisionSpec, Timeouts};
use parkway_activator::stats::Stats;
use parkway_activator::throttler::{Parking, QueueLimits, RevisionState, Throttler};
use parkway_ingress::config::Limits;
use parkway_ingress::frontend::health::{HealthPublisher, HealthState};
use parkway_ingress::frontend::listener;
use parkway_ingress::frontend::places::Places;
use parkway_ingress::frontend::tls::{CertificatePublisher, Certificates, TlsSettings};
use parkway_ingress::frontend::worker::{
    self, Entrance, EntranceKind, Policy, RoutePublisher, WorkerParts,
};
use parkway_ingress::proxy::log_lines::{LogLines, LogLinesWriter};
use parkway_ingress::proxy::observe::RequestCounts;
use parkway_ingress::proxy::request_log::RequestLogPublisher;
use parkway_ingress::proxy::tls::InternalTls;
use parkway_ingress::routing::headers::HostMode;
use parkway_ingress::routing::revisions::Revisions;
use parkway_ingress::routing::rules::{
    Backend, IngressName, IngressRules, PathRule, Rule, Target, Visibility,
};
use parkway_ingress::routing::split::Splits;
use parkway_ingress::routing::table::RouteSnapshot;
use parkway_ingress::routing::tls::{Binding, Certificate, CertificateSnapshot};
use parkway_ingress::trace::Tracer;
use parkway_tests::tls::Identity;
use parkway_tests::{patiently, settled};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The host that the gateway routes to [`revision`].
pub(crate) const HOST: &str = "single.fixtures.example.com";

/// The Revision of the recorded requests.
pub(crate) fn revision() -> RevisionId {
    RevisionId::new("fixtures", "single-00001")
}

/// What Serving says of that Revision, unless a test says otherwise.
pub(crate) fn spec() -> RevisionSpec {
    RevisionSpec {
        concurrency: 10.into(),
        ..RevisionSpec::default()
    }
}

/// One that serves this many requests at once, and gives up after so many milliseconds.
pub(crate) fn limited(concurrency: u32, timeout_ms: u64) -> RevisionSpec {
    RevisionSpec {
        concurrency: concurrency.into(),
        timeouts: Timeouts {
            total: Duration::from_millis(timeout_ms),
            ..Timeouts::default()
        },
        ..RevisionSpec::default()
    }
}

/// One that speaks HTTP/2.
pub(crate) fn h2c() -> RevisionSpec {
    RevisionSpec {
        protocol: Protocol::H2c,
        ..spec()
    }
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) external: SocketAddr,
    pub(crate) activator: SocketAddr,
    /// The external entrance by TLS.
    pub(crate) secure: SocketAddr,
    certificates: CertificatePublisher,
    /// What is served there, and how handshakes end.
    pub(crate) certified: Certificates,
    pub(crate) throttler: Throttler,
    pub(crate) stats: Stats,
    pub(crate) counts: RequestCounts,
    pub(crate) health: HealthPublisher,
    pub(crate) drain: CancellationToken,
    pub(crate) request_log: RequestLogPublisher,
    writer: LogLinesWriter,
    publisher: RoutePublisher,
    spec: Arc<RevisionSpec>,
    generation: u64,
    ended: mpsc::Receiver<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// One in which there is the [`revision`], with these endpoints, and queue-proxy in front of them.
    pub(crate) async fn with(spec: RevisionSpec, endpoints: &[SocketAddr]) -> Self {
        Self::start(spec, endpoints, HostMode::QueueProxy).await
    }

    /// The same, but endpoints may be without queue-proxy.
    pub(crate) async fn start(
        spec: RevisionSpec,
        endpoints: &[SocketAddr],
        host_mode: HostMode,
    ) -> Self {
        let (health, kubelet) = HealthPublisher::new(HealthState::Healthy);
        let (publisher, routes) = RoutePublisher::new(RouteSnapshot::default());
        let (end, ended) = mpsc::channel(1);
        let (_peek, peeks) = mpsc::channel(worker::PEEKS);
        let throttler = Throttler::new(QueueLimits::default(), 1);
        let (stats, counts) = (Stats::new(1), RequestCounts::new(1));
        let drain = CancellationToken::new();
        let (lines, writer) = LogLines::new();
        let (request_log, log) = RequestLogPublisher::new(lines);
        let parts = WorkerParts {
            tracer: Tracer::default(),
            workers: 1,
            limits: Arc::new(Limits::default()),
            policy: Arc::new(Policy {
                host_mode,
                request_log: log,
                ..Policy::default()
            }),
            routes,
            health: kubelet,
            throttler: throttler.clone(),
            stats: stats.clone(),
            counts: counts.clone(),
            internal_tls: InternalTls::default(),
            places: Places::default(),
            drain: drain.clone(),
        };
        let kinds = [
            EntranceKind::Gateway(Visibility::ExternalIp),
            EntranceKind::Activator,
            EntranceKind::Gateway(Visibility::ExternalIp),
        ];
        let (certificates, certified) = CertificatePublisher::new(TlsSettings::new());
        let mut secured = [None, None, Some(certified.clone())].into_iter();
        let entrances = kinds.map(|kind| {
            let listener = listener::bind(([127, 0, 0, 1], 0).into(), 1)
                .unwrap()
                .remove(0);
            Entrance {
                listener,
                kind,
                certificates: secured.next().flatten(),
                proxies: None,
            }
        });
        let [external, activator, secure] = entrances
            .each_ref()
            .map(|entrance| entrance.listener.local_addr().unwrap());
        let thread = worker::start(0, parts, entrances.into(), peeks, end).unwrap();
        let mut cluster = Self {
            external,
            activator,
            secure,
            certificates,
            certified,
            throttler,
            stats,
            counts,
            health,
            drain,
            request_log,
            writer,
            publisher,
            spec: Arc::new(spec),
            generation: 0,
            ended,
            thread: Some(thread),
        };
        cluster.add_revision();
        cluster.set_endpoints(endpoints);
        cluster
    }

    /// Makes the Revision known, as a provider does.
    fn add_revision(&mut self) {
        self.throttler
            .upsert(&revision(), Arc::clone(&self.spec), Parking::Allowed);
        let revisions = [(revision(), Arc::clone(&self.spec))];
        self.publish(revisions.into_iter().collect());
    }

    /// Deletes it, likewise.
    pub(crate) fn remove_revision(&mut self) {
        self.publish(Revisions::default());
        self.throttler.remove(&revision());
        self.stats.remove(&revision());
    }

    fn publish(&mut self, revisions: Revisions) {
        self.generation += 1;
        let rules = vec![rules(&self.spec)];
        let (routes, conflicts) = RouteSnapshot::build(self.generation, rules);
        assert_eq!(conflicts, []);
        self.publisher.publish(routes, revisions);
    }

    /// From now on these are the certificates, each for the names in it; there is no default.
    pub(crate) fn certify(&self, identities: &[&Identity]) {
        let bindings: Vec<_> = identities.iter().map(|&it| binding(it)).collect();
        self.bind(&bindings);
    }

    /// From now on these are the certificates.
    pub(crate) fn bind(&self, bindings: &[Binding]) {
        let snapshot = CertificateSnapshot::build(bindings, Vec::new());
        self.certificates.publish(snapshot).unwrap();
    }

    pub(crate) fn set_endpoints(&self, endpoints: &[SocketAddr]) {
        let endpoints = endpoints.iter().map(|address| Endpoint::new(*address));
        self.throttler
            .set_endpoints(&revision(), endpoints.collect());
    }

    pub(crate) fn state(&self) -> RevisionState {
        self.throttler.revision_state(&revision()).unwrap()
    }

    /// Waits until so many requests are parked.
    pub(crate) async fn parked(&self, count: usize) {
        settled(format!("{count} parked requests"), async || {
            match self.state().parked {
                parked if parked == count => Ok(()),
                parked => Err(format!("{parked} are parked")),
            }
        })
        .await;
    }

    /// Ends it, after everything that requests held has been given back.
    pub(crate) async fn finish(self) {
        self.end().await;
    }

    /// Ends it likewise; what the request log says.
    pub(crate) async fn finish_and_read_log(self) -> String {
        let (request_log, writer) = self.end().await;
        drop(request_log);
        let mut written = Vec::new();
        writer.run(&mut written).unwrap();
        String::from_utf8(written).unwrap()
    }

    async fn end(mut self) -> (RequestLogPublisher, LogLinesWriter) {
        settled("everything to be free", async || {
            let held: u64 = self.throttler.state().iter().map(|it| it.in_flight).sum();
            let counted: u64 = self.stats.gauges().iter().map(|(_, count, _)| count).sum();
            match (self.throttler.parked(), held, counted) {
                (0, 0, 0) => Ok(()),
                held => Err(format!("parked, held and counted are {held:?}")),
            }
        })
        .await;
        self.drain.cancel();
        patiently("the worker's end", self.ended.recv()).await;
        self.thread.take().unwrap().join().unwrap();
        (self.request_log, self.writer)
    }
}

/// A certificate for the names in it.
pub(crate) fn binding(identity: &Identity) -> Binding {
    let provider = rustls::crypto::ring::default_provider();
    let (chain, key) = (identity.chain.as_bytes(), identity.key.as_bytes());
    #[expect(clippy::disallowed_methods, reason = "certificates made a moment ago")]
    let now = std::time::SystemTime::now();
    let certificate = Certificate::parse("a test".into(), chain, key, now, &provider).unwrap();
    Binding {
        hosts: Vec::new(),
        certificate: Arc::new(certificate),
        client_ca: None,
    }
}

/// Rules that send everything for [`HOST`] to the Revision, and `/service` to an ordinary Service that has none.
fn rules(spec: &Arc<RevisionSpec>) -> IngressRules {
    let target = Target::Revision {
        id: revision(),
        spec: Arc::clone(spec),
    };
    let headers = [
        ("knative-serving-namespace", "fixtures"),
        ("knative-serving-revision", "single-00001"),
    ];
    let backend = Backend {
        target,
        set_headers: headers
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into(),
    };
    let path = PathRule {
        prefix: String::new(),
        headers: Vec::new(),
        rewrite_host: None,
        set_headers: Vec::new(),
        splits: Splits::all_to(backend),
    };
    IngressRules {
        name: IngressName {
            namespace: "fixtures".into(),
            name: "single".into(),
        },
        hash: "3f2a".into(),
        rules: vec![Rule {
            hosts: vec![HOST.into()],
            visibility: Visibility::ExternalIp,
            paths: vec![path.into()],
        }],
        policy: None,
    }
}
