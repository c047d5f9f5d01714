//! The admin entrance: a page for people, health, readiness, metrics, state, and what a request would meet.
//!
//! On a listener of its own, apart from all traffic, on the control thread: a heavy scrape is not seen as latency. All
//! of it only reads: nothing here changes what Parkway does. Health and readiness are for everybody, the rest for
//! those whom the [`guard`] lets through.

pub mod cluster;
mod events;
mod explain;
pub mod guard;
mod internal_tls;
mod metrics;
mod page;
mod pods;
mod starts;
mod state;
mod story;
mod text;
mod view;
mod why;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use parking_lot::Mutex;
use parkway_activator::stats::Stats;
use parkway_activator::throttler::Throttler;
use parkway_autoscaler_client::embedded::Embedded;
use parkway_autoscaler_client::remote::RemoteSink;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{error, warn};

use self::cluster::InCluster;
use self::guard::Guard;
use self::view::Views;

use crate::frontend::places::Places;
use crate::frontend::tls::Certificates;
use crate::frontend::worker::{Peek, Routes};
use crate::provider::kubernetes::WatchHealth;
use crate::provider::kubernetes::lease::Leadership;
use crate::provider::kubernetes::pods::PodWatches;
use crate::provider::kubernetes::status::StatusBoard;
use crate::provider::problem::Problem;
use crate::proxy::log_lines::LogLines;
use crate::proxy::observe::RequestCounts;
use crate::proxy::tls::InternalTls;
use crate::ready::Ready;
use crate::routing::table::Conflict;
use crate::standalone::Processes;
use crate::trace::Tracer;

/// What the admin can tell about.
#[derive(Clone)]
pub struct Admin {
    /// Readiness.
    pub ready: Ready,
    /// The current routes.
    pub routes: Routes,
    /// Queues and endpoints.
    pub throttler: Throttler,
    /// Accounting for the autoscaler.
    pub stats: Stats,
    /// Accounting for the operator.
    pub counts: RequestCounts,
    /// Traces.
    pub tracer: Tracer,
    /// Lines about requests.
    pub lines: LogLines,
    /// Local processes; none in a cluster.
    pub processes: Option<Processes>,
    /// How the cluster is seen; none without one.
    pub watches: Option<WatchHealth>,
    /// The watches of Pods that start; none without a cluster, or where they are off.
    pub pods: Option<PodWatches>,
    /// Who leads, and how the writing of status goes; none where there is nothing to write.
    pub leading: Option<(Leadership, StatusBoard)>,
    /// What else there is to tell of the cluster's part; none without one.
    pub cluster: Option<InCluster>,
    /// How Pods are spoken to by TLS, and what is shown to who speaks to us as they do; none without a cluster.
    pub internal_tls: Option<(InternalTls, Certificates)>,
    /// The autoscaler.
    pub autoscaler: Autoscaler,
    /// What is wrong with the configuration.
    pub problems: Problems,
    /// Client connections.
    pub places: Places,
    /// How many workers there are.
    pub workers: usize,
    /// Asks each worker what its next request would draw.
    pub peeks: Vec<mpsc::Sender<Peek>>,
    /// Of the entrances that speak TLS, by their names.
    pub certificates: Vec<(&'static str, Certificates)>,
}

/// The autoscaler as the admin sees it.
#[derive(Clone)]
pub enum Autoscaler {
    /// The one inside.
    Embedded(Embedded),
    /// The one reported to.
    Remote(RemoteSink),
}

/// What the last configuration was like.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<Found>>);

#[derive(Clone, Debug, Default)]
struct Found {
    generation: u64,
    /// When that took effect.
    since: Option<Instant>,
    is_rejected: bool,
    rejections: u64,
    problems: Vec<Problem>,
    conflicts: Vec<String>,
}

impl Problems {
    /// A configuration took effect, perhaps with warnings.
    pub fn accepted(&self, generation: u64, warnings: &[Problem], conflicts: &[Conflict]) {
        let mut found = self.0.lock();
        let rejections = found.rejections;
        *found = Found {
            generation,
            since: Some(Instant::now()),
            is_rejected: false,
            rejections,
            problems: warnings.to_vec(),
            conflicts: conflicts.iter().map(ToString::to_string).collect(),
        };
    }

    /// A configuration was rejected; the one before it stays in effect.
    pub fn rejected(&self, problems: Vec<Problem>) {
        let mut found = self.0.lock();
        found.is_rejected = true;
        found.rejections += 1;
        found.problems = problems;
    }

    fn found(&self) -> Found {
        self.0.lock().clone()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Autoscaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded(_) => "Embedded",
            Self::Remote(_) => "Remote",
        })
    }
}

/// Serves health, readiness and metrics, for everybody in a cluster, until the process ends.
pub async fn serve_metrics(listener: TcpListener, admin: Admin) {
    serve_router(listener, for_everybody().with_state(admin)).await;
}

fn for_everybody() -> Router<Admin> {
    health().route("/metrics", get(metrics))
}

fn health() -> Router<Admin> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
}

/// Who looks at the page, and what they see.
#[derive(Clone)]
struct Looking {
    admin: Admin,
    views: Arc<Views>,
    /// One for each listener of `/events`.
    seats: Arc<Semaphore>,
}

/// Serves the admin entrance until the process ends, all but health and readiness to those whom the guard lets through.
pub async fn serve(listener: TcpListener, admin: Admin, guard: Guard) {
    let is_open = |address: std::net::SocketAddr| !address.ip().is_loopback();
    if !guard.has_token() && listener.local_addr().is_ok_and(is_open) {
        warn!(
            "the admin entrance can be reached from elsewhere and asks for no token: give it one with --admin-token-file, \
             or a loopback address"
        );
    }
    let page = Router::new()
        .route("/", get(page::answer))
        .route("/events", get(events::answer))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/page.svg", get(page::icon))
        .with_state(Looking::new(admin.clone()));
    let data = Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/state",
            get(async |State(admin): State<Admin>| Json(state::of(&admin))),
        )
        .route("/explain", get(explain::answer))
        .route("/why", get(why::answer))
        .with_state(admin.clone());
    let guarded = page
        .merge(data)
        .layer(from_fn_with_state(guard, guard::stand));
    let router = health().with_state(admin.clone()).merge(guarded);
    tokio::select! {
        () = serve_router(listener, router) => {}
        () = admin.counts.starts().follow(admin.throttler.cold_starts()) => {}
    }
}

async fn serve_router(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the admin entrance ended");
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let waits_for = admin.ready.waits_for();
    if waits_for.is_empty() {
        return "ready\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for {}\n", waits_for.join(", ")),
    )
        .into_response()
}

async fn metrics(State(admin): State<Admin>, asked: HeaderMap) -> Response {
    let accepts = asked
        .get(header::ACCEPT)
        .and_then(|accepts| accepts.to_str().ok());
    let content_type = if accepts.is_some_and(|accepts| accepts.contains("openmetrics")) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    match metrics::encode(&admin) {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
