//! A worker: one thread, one single-threaded runtime, its own listeners; a connection stays here from accept to close.
//!
//! Nothing a warm request needs is shared with other workers in a way that is written: the route snapshot is kept and
//! re-read when its generation changes, connections to endpoints and counters are this worker's own.

use std::cell::{Cell, Ref, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::revision::{RevisionId, RevisionMap, RevisionSpec};
use parkway_activator::stats::Stats;
use parkway_activator::throttler::Throttler;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connection::{self, Opening, Peer, place_of};
use super::demand::Demand;
use super::drain::Drain;
use super::exchange::ClientShares;
use super::health::Health;
use super::places::Places;
use super::proxy_protocol::TrustedProxies;
use super::published::Current;
pub use super::published::{RoutePublisher, Routes};
use super::tls::Certificates;
use crate::config::Limits;
use crate::proxy::access_log::AccessLog;
use crate::proxy::counts::WorkerLoad;
use crate::proxy::destination::Destination;
use crate::proxy::failure::Failure;
use crate::proxy::forward::Forwarder;
use crate::proxy::observe::{RequestCounts, WorkerCounts};
use crate::proxy::pool::Pool;
use crate::proxy::request_log::RequestLog;
use crate::proxy::sweep::Sweep;
use crate::proxy::tls::InternalTls;
pub use crate::routing::headers::EntranceKind;
use crate::routing::headers::HostMode;
use crate::routing::retry::{Budget, BudgetLimits};
use crate::routing::rules::Target;
use crate::routing::split::{Dealer, PathKey, Percentile};
use crate::routing::table::{DEFAULT_CLUSTER_DOMAIN, RouteSnapshot};
use crate::routing::validate;
use crate::trace::Tracer;

/// What decides about requests besides routes and limits.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How many proxies in front of the external entrance are trusted to have appended to `X-Forwarded-For`. Default 0:
    /// what comes from outside is replaced.
    pub trusted_hops: usize,
    /// How clients are told apart, if the share one may have of a queue is bounded. Default: it is not.
    pub client_shares: Option<ClientShares>,
    /// Where requests are written down when they end, and which. Default: none.
    pub access_log: AccessLog,
    /// Whether answers to requests that waited for a start say what it has cost them. Default: they do not.
    pub cold_start_headers: bool,
    /// Where requests to Revisions are written down. Default: nowhere.
    pub request_log: RequestLog,
    /// Who restores the Host that a client meant: queue-proxy, or nobody because processes are local. Default: nobody.
    pub host_mode: HostMode,
    /// Where clients reach us by TLS: plain requests are sent there whose KIngress says so. Default: nowhere.
    pub https_port: Option<NonZeroU16>,
    /// The cluster's DNS domain: by it a host at the activator ports names a Revision. Default `cluster.local`.
    pub cluster_domain: Arc<str>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            trusted_hops: 0,
            client_shares: None,
            access_log: AccessLog::default(),
            cold_start_headers: false,
            request_log: RequestLog::default(),
            host_mode: HostMode::default(),
            https_port: None,
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.into(),
        }
    }
}

/// What all workers are made of.
#[derive(Clone, Debug)]
pub struct WorkerParts {
    /// How many workers there are.
    pub workers: usize,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Decisions.
    pub policy: Arc<Policy>,
    /// The current routes and Revisions.
    pub routes: Routes,
    /// What the kubelet is told at the activator ports.
    pub health: Health,
    /// Queues and slots.
    pub throttler: Throttler,
    /// Accounting for the autoscaler.
    pub stats: Stats,
    /// Accounting for the operator.
    pub counts: RequestCounts,
    /// Traces.
    pub tracer: Tracer,
    /// How secured endpoints are spoken to.
    pub internal_tls: InternalTls,
    /// Places for client connections, over all workers.
    pub places: Places,
    /// Cancelled when no new connections are taken any more and those that are there end. [`WorkerParts::health`] fails
    /// before that: until this is cancelled, everything is taken as ever.
    pub drain: CancellationToken,
}

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    pub(super) index: usize,
    pub(super) limits: Arc<Limits>,
    pub(super) policy: Arc<Policy>,
    pub(super) forwarder: Rc<Forwarder>,
    pub(super) counts: Rc<WorkerCounts>,
    pub(super) request_limits: validate::Limits,
    pub(super) dealer: RefCell<Dealer>,
    pub(super) drain: Rc<Drain>,
    pub(super) demand: Rc<Demand>,
    pub(super) health: Health,
    pub(super) places: Places,
    turning_away: Arc<Semaphore>,
    routes: Routes,
    kept: RefCell<Arc<Current>>,
    kept_generation: Cell<u64>,
    stats: Stats,
    destinations: RefCell<RevisionMap<Rc<Destination>>>,
}

impl Worker {
    fn new(index: usize, parts: &WorkerParts) -> Self {
        let kept = parts.routes.load();
        Self {
            index,
            limits: Arc::clone(&parts.limits),
            policy: Arc::clone(&parts.policy),
            forwarder: Rc::new(Forwarder {
                throttle: parts.throttler.worker(index),
                throttler: parts.throttler.clone(),
                sweep: Sweep::new(Instant::now()),
                pool: Pool::new(Arc::clone(&parts.limits), parts.workers)
                    .with_tls(parts.internal_tls.clone()),
                budget: RefCell::new(Budget::new(BudgetLimits::default())),
                host_mode: parts.policy.host_mode,
                limits: Arc::clone(&parts.limits),
            }),
            counts: Rc::new(
                parts
                    .counts
                    .of_worker(index, parts.tracer.of_worker(index))
                    .logging(parts.policy.access_log.clone())
                    .telling_starts(parts.policy.cold_start_headers),
            ),
            request_limits: validate::Limits {
                uri_bytes: parts.limits.uri_bytes,
                header_bytes: parts.limits.header_bytes,
                fields: parts.limits.header_fields,
            },
            dealer: RefCell::new(Dealer::new(u64::try_from(index).unwrap_or_default())),
            drain: Rc::default(),
            demand: Rc::default(),
            health: parts.health.clone(),
            places: parts.places.clone(),
            turning_away: Arc::new(Semaphore::new(connection::TURNED_AWAY)),
            routes: parts.routes.clone(),
            kept_generation: Cell::new(kept.routes.generation()),
            kept: RefCell::new(kept),
            stats: parts.stats.clone(),
            destinations: RefCell::default(),
        }
    }

    /// The right to tell a client that it is not welcome; `None`: as many are being told as may be.
    pub(super) fn may_turn_away(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turning_away).try_acquire_owned().ok()
    }

    /// The routes for a request that arrives now; what it needs of them later, it takes along.
    pub(super) fn routes(&self) -> Ref<'_, RouteSnapshot> {
        Ref::map(self.current(), |current| &current.routes)
    }

    /// Routes and Revisions for a request that arrives now.
    fn current(&self) -> Ref<'_, Current> {
        let generation = self.routes.generation();
        if generation != self.kept_generation.get() {
            let current = self.routes.load();
            self.kept_generation.set(current.routes.generation());
            self.dealer
                .borrow_mut()
                .retain(|path| current.routes.has_path(path));
            // What a name stands for may have changed, and a Revision that came again has new counters.
            self.destinations.borrow_mut().clear();
            self.kept.replace(current);
        }
        Ref::map(self.kept.borrow(), |kept| &**kept)
    }

    /// What is known of a split's target.
    ///
    /// # Errors
    ///
    /// When the split names something that is not there.
    pub(super) fn destination(&self, target: &Target) -> Result<Rc<Destination>, Failure> {
        match target {
            Target::Revision { id, spec } => Ok(self.known(id, spec, true, || target.clone())),
            Target::Service { id, spec } | Target::External { id, spec, .. } => {
                Ok(self.known(id, spec, false, || target.clone()))
            }
            Target::Missing { reason } => Err(Failure::Misconfigured(reason.to_string())),
        }
    }

    /// What is known of a Revision that a request names itself. `None`: there is no such Revision.
    pub(super) fn revision(&self, id: &RevisionId) -> Option<Rc<Destination>> {
        let current = self.current();
        let spec = current.revisions.get(id)?;
        Some(self.known(id, spec, true, || Target::Revision {
            id: id.clone(),
            spec: Arc::clone(spec),
        }))
    }

    fn known(
        &self,
        id: &RevisionId,
        spec: &Arc<RevisionSpec>,
        is_scaled: bool,
        target: impl FnOnce() -> Target,
    ) -> Rc<Destination> {
        let mut known = self.destinations.borrow_mut();
        if let Some(destination) = known.get(id) {
            return Rc::clone(destination);
        }
        let destination = Rc::new(Destination {
            id: id.clone(),
            spec: Arc::clone(spec),
            target: target(),
            stats: is_scaled.then(|| self.stats.revision(id)),
        });
        known.insert(id.clone(), Rc::clone(&destination));
        destination
    }
}

/// An entrance's listening socket of one worker.
#[derive(Debug)]
pub struct Entrance {
    /// Bound with `SO_REUSEPORT`.
    pub listener: std::net::TcpListener,
    /// Who asks there, and what may be reached.
    pub kind: EntranceKind,
    /// The certificates its connections are secured with. `None`: plain text.
    pub certificates: Option<Certificates>,
    /// The proxies it is behind, which say by the PROXY protocol whose connections they are. `None`: who connects is who
    /// asks.
    pub proxies: Option<TrustedProxies>,
}

/// A question to a worker: what would the next request on this path draw?
#[derive(Debug)]
pub struct Peek {
    /// The path.
    pub path: PathKey,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Percentile>,
}

/// How many such questions may wait; when full, the asker does without.
pub const PEEKS: usize = 16;

/// Starts worker `index` on a thread of its own; `ended` is told when it has ended. It ends when `parts.drain` is cancelled and its connections are done.
///
/// # Errors
///
/// When the thread, its runtime or the registration of a listener cannot be had.
pub fn start(
    index: usize,
    parts: WorkerParts,
    entrances: Vec<Entrance>,
    peeks: mpsc::Receiver<Peek>,
    ended: mpsc::Sender<usize>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listeners = {
        let _entered = runtime.enter();
        let listen = |entrance: Entrance| {
            entrance.listener.set_nonblocking(true)?;
            Ok(Listening {
                listener: TcpListener::from_std(entrance.listener)?,
                kind: entrance.kind,
                opening: Opening::of(entrance.proxies, entrance.certificates),
            })
        };
        entrances
            .into_iter()
            .map(listen)
            .collect::<std::io::Result<Vec<_>>>()?
    };
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let _ended = Ended { index, ended };
            let local = LocalSet::new();
            local.block_on(&runtime, run(index, parts, listeners, peeks));
        })
}

/// Says that a worker has ended, however it did.
struct Ended {
    index: usize,
    ended: mpsc::Sender<usize>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Full or closed: the process knows already.
        self.ended.try_send(self.index).unwrap_or_default();
    }
}

/// A listener of this worker's.
struct Listening {
    listener: TcpListener,
    kind: EntranceKind,
    opening: Option<Opening>,
}

/// What the connections of a listener are.
struct Kind {
    entrance: EntranceKind,
    /// What comes before their requests, if anything does.
    opening: Option<Rc<Opening>>,
}

async fn run(
    index: usize,
    parts: WorkerParts,
    listeners: Vec<Listening>,
    peeks: mpsc::Receiver<Peek>,
) {
    let worker = Rc::new(Worker::new(index, &parts));
    let connections = TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listening| {
            let accept = accept(
                Rc::clone(&worker),
                listening.listener,
                Rc::new(Kind {
                    entrance: listening.kind,
                    opening: listening.opening.map(Rc::new),
                }),
                parts.drain.clone(),
                connections.clone(),
            );
            tokio::task::spawn_local(accept)
        })
        .collect();
    let helpers = [
        tokio::task::spawn_local({
            let forwarder = Rc::clone(&worker.forwarder);
            async move { forwarder.throttle.run().await }
        }),
        tokio::task::spawn_local({
            let sweep = worker.forwarder.sweep.clone();
            async move { sweep.run().await }
        }),
        tokio::task::spawn_local(close_unused(Rc::clone(&worker), connections.clone())),
        tokio::task::spawn_local({
            let (drain, begun) = (Rc::clone(&worker.drain), parts.drain.clone());
            async move {
                begun.cancelled().await;
                drain.begin();
            }
        }),
        tokio::task::spawn_local(answer_peeks(Rc::clone(&worker), peeks)),
    ];
    for task in accepting {
        if let Err(error) = task.await {
            warn!(%error, "an accept loop ended early");
        }
    }
    connections.close();
    if tokio::time::timeout(worker.limits.drain, connections.wait())
        .await
        .is_err()
    {
        warn!(
            worker = index,
            connections = connections.len(),
            "drain deadline passed: the rest is cut off"
        );
    }
    for helper in helpers {
        helper.abort();
    }
    debug!(worker = index, "worker ended");
}

/// Accepts connections until the drain begins; what has been queued by then is still taken.
async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    kind: Rc<Kind>,
    drain: CancellationToken,
    connections: TaskTracker,
) {
    let mut is_short = false;
    loop {
        let accepted = tokio::select! {
            biased; // however many connections come: what is queued is looked at below
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                if std::mem::take(&mut is_short) {
                    info!(worker = worker.index, "accepting connections again");
                }
                welcome(&worker, stream, address, &kind, &connections);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                worker.places.count_not_accepted();
                // Said once, not as often as it is tried.
                if !std::mem::replace(&mut is_short, true) {
                    warn!(worker = worker.index, %error, "cannot accept connections: those that come wait");
                }
                // Waiting lets what runs give some back.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    match queued(listener) {
        Ok(queued) => {
            for (stream, address) in queued {
                welcome(&worker, stream, address, &kind, &connections);
            }
        }
        Err(error) => warn!(%error, "connections that were queued are lost"),
    }
    info!(
        worker = worker.index,
        kind = ?kind.entrance,
        "no longer accepting connections"
    );
}

/// Takes what the system has queued, and closes the listener. The system itself is asked, not the reactor, which may not
/// have heard of the latest connections yet.
fn queued(listener: TcpListener) -> std::io::Result<Vec<(tokio::net::TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    let mut queued = Vec::new();
    for _ in 0..MOST_QUEUED {
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                queued.push((tokio::net::TcpStream::from_std(stream)?, address));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => debug!(%error, "a queued connection is gone"),
        }
    }
    Ok(queued)
}

/// How many connections are taken from a queue that is filled as fast as it is emptied.
const MOST_QUEUED: usize = 4_096;

fn welcome(
    worker: &Rc<Worker>,
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    kind: &Kind,
    connections: &TaskTracker,
) {
    let opening = kind.opening.as_deref();
    let is_introduced = opening.is_some_and(|opening| opening.proxies.is_some());
    let place = worker.places.take(worker.limits.connections);
    let places = place.and_then(|place| match is_introduced {
        // Whose connection it is has yet to be said.
        true => Ok((place, None)),
        false => Ok((place, place_of(worker, address, kind.entrance)?)),
    });
    let places = match places {
        Ok(places) => places,
        Err(why) => {
            worker.places.count(why, address.ip());
            // Words before a handshake are none; nor is it known whether a proxy is one that is trusted.
            if opening.is_none()
                && let Some(permit) = worker.may_turn_away()
            {
                connections.spawn_local(connection::turn_away(stream, why, permit));
            }
            return;
        }
    };
    let peer = Rc::new(Peer::new(Rc::clone(worker), address, kind.entrance, None));
    let beginning = connection::beginning(kind.opening.clone(), peer, stream);
    connections.spawn_local(connection::serve(beginning, places));
}

/// Whether a connection failed to be accepted because its client is gone, not because files or memory ran out.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// How long nothing is accepted once files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn answer_peeks(worker: Rc<Worker>, mut peeks: mpsc::Receiver<Peek>) {
    while let Some(Peek { path, reply }) = peeks.recv().await {
        let point = worker.dealer.borrow().peek(path);
        // Nobody waits any more: fine.
        reply.send(point).unwrap_or_default();
    }
}

/// Closes idle connections to endpoints, and says what there is to do here.
async fn close_unused(worker: Rc<Worker>, connections: TaskTracker) {
    let mut tick = tokio::time::interval(UNUSED);
    loop {
        let now = tick.tick().await;
        worker.forwarder.pool.sweep(now);
        let used = clock_gettime(ClockId::ThreadCPUTime);
        worker.counts.publish(WorkerLoad {
            connections: u64::try_from(connections.len()).unwrap_or(u64::MAX),
            cpu: Duration::new(
                u64::try_from(used.tv_sec).unwrap_or_default(),
                u32::try_from(used.tv_nsec).unwrap_or_default(),
            ),
            budget: worker.forwarder.budget.borrow_mut().left(now),
        });
    }
}

const UNUSED: Duration = Duration::from_secs(5);
