//! A Pod as Parkway meets it: queue-proxy in front of a container, scripted.
//!
//! It answers the probe of an activator when its container is ready (and holds it until then, as queue-proxy does),
//! lets as many requests into the container as ContainerConcurrency allows, keeps ten times as many waiting, turns the
//! rest away, gives the container its `Host` back, and counts. Sources: knative/serving `pkg/queue/readiness/probe.go`,
//! `pkg/queue/breaker.go`, `pkg/queue/handler.go`, `cmd/queue/main.go` (depth of the queue).
//!
//! Its container answers GET with a description of the request, and anything with a body with that body;
//! `?sleep_ms=N` makes it take as long.
//!
//! By TLS it serves where a test says so ([`QueueProxy::secured`]), there also HTTP/2.
//!
//! It does not: speak HTTP/2 in the clear, serve metrics, drain.

pub mod secured;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// As long queue-proxy holds a probe.
const HOLD: Duration = Duration::from_secs(10);

/// A Pod in this process. Dropping it closes its port and breaks its connections, as when its node dies.
#[derive(Debug)]
pub struct QueueProxy {
    address: SocketAddr,
    pod: Arc<Pod>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Pod {
    name: String,
    /// Of the container; none: unlimited.
    slots: Option<Semaphore>,
    /// Requests in the container or waiting for it.
    room: usize,
    is_ready: watch::Sender<bool>,
    /// When the first request came since `is_ready` is what it is.
    first_request: Mutex<Option<Instant>>,
    admitted: AtomicUsize,
    inside: AtomicUsize,
    counts: Counts,
}

/// What a Pod has seen so far.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    turned_away: AtomicUsize,
    probes: AtomicUsize,
    unmarked: AtomicUsize,
    most_admitted: AtomicUsize,
    most_inside: AtomicUsize,
}

/// One of the addresses of this machine that no other Pod of this process has, and hardly one of another.
pub fn loopback() -> Ipv4Addr {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let process = std::process::id();
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let octet = |number: usize| u8::try_from(number % 250 + 1).unwrap();
    let network = usize::try_from(process).unwrap();
    Ipv4Addr::new(
        127,
        octet(network / 250 + number / 250 * 7).max(2),
        octet(network),
        octet(number),
    )
}

/// The port of all Pods of this process: endpoints of one slice have the same.
fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let any = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        any.local_addr().unwrap().port()
    })
}

impl QueueProxy {
    /// A Pod whose container is ready. A `concurrency` of 0 is unlimited.
    pub async fn start(name: &str, concurrency: usize) -> Self {
        let pod = Self::starting(name, concurrency).await;
        pod.set_ready(true);
        pod
    }

    /// A Pod whose container is not ready yet.
    pub async fn starting(name: &str, concurrency: usize) -> Self {
        Self::starting_at(SocketAddr::from((loopback(), port())), name, concurrency).await
    }

    /// The same at an address where there was another one before.
    pub async fn starting_at(address: SocketAddr, name: &str, concurrency: usize) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let pod = Arc::new(Pod {
            name: name.to_owned(),
            slots: (concurrency > 0).then(|| Semaphore::new(concurrency)),
            room: match concurrency {
                0 => usize::MAX,
                limit => limit + 10 * limit,
            },
            is_ready: watch::Sender::new(false),
            first_request: Mutex::default(),
            admitted: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            counts: Counts::default(),
        });
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(accept(listener, Arc::clone(&pod)));
        Self {
            address,
            pod,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// An address for a Pod that is not there: connections are refused.
    pub fn nowhere() -> SocketAddr {
        SocketAddr::from((loopback(), port()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its container is ready from now on, or is not any more.
    pub fn set_ready(&self, is_ready: bool) {
        *self.pod.first_request.lock() = None;
        self.pod.is_ready.send_replace(is_ready);
    }

    /// When the first request came since its container is ready.
    pub fn first_request(&self) -> Option<Instant> {
        *self.pod.first_request.lock()
    }

    /// Requests that came, those that were turned away among them.
    pub fn requests(&self) -> usize {
        self.pod.counts.requests.load(Ordering::SeqCst)
    }

    /// Requests for which there was no room.
    pub fn turned_away(&self) -> usize {
        self.pod.counts.turned_away.load(Ordering::SeqCst)
    }

    /// How often it was asked whether it is ready.
    pub fn probes(&self) -> usize {
        self.pod.counts.probes.load(Ordering::SeqCst)
    }

    /// Requests that nobody said to have counted.
    pub fn unmarked(&self) -> usize {
        self.pod.counts.unmarked.load(Ordering::SeqCst)
    }

    /// The most requests that there were at once, in the container or waiting for it.
    pub fn most_admitted(&self) -> usize {
        self.pod.counts.most_admitted.load(Ordering::SeqCst)
    }

    /// The most that there were at once in the container.
    pub fn most_inside(&self) -> usize {
        self.pod.counts.most_inside.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, pod: Arc<Pod>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&pod)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, pod: Arc<Pod>) {
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request: Request<Incoming>| {
        let pod = Arc::clone(&pod);
        async move { Ok::<_, Infallible>(pod.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    drop(connection.await);
}

/// Goes down again when it is dropped.
struct Up<'a>(&'a AtomicUsize);

impl<'a> Up<'a> {
    fn count(counter: &'a AtomicUsize, most: &AtomicUsize) -> Self {
        let now = counter.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pod {
    async fn answer<B: Body>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let headers = request.headers();
        if is(headers, USER_AGENT.as_str(), "Knative-Activator-Probe")
            || is(headers, "k-network-probe", "queue")
        {
            return self.probe().await;
        }
        self.counts.requests.fetch_add(1, Ordering::SeqCst);
        self.first_request.lock().get_or_insert_with(Instant::now);
        if !is(headers, "k-proxy-request", "activator") {
            self.counts.unmarked.fetch_add(1, Ordering::SeqCst);
        }
        let admitted = Up::count(&self.admitted, &self.counts.most_admitted);
        if self.admitted.load(Ordering::SeqCst) > self.room {
            self.counts.turned_away.fetch_add(1, Ordering::SeqCst);
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "pending request queue full\n",
            );
        }
        let slot = match &self.slots {
            Some(slots) => Some(slots.acquire().await.unwrap()),
            None => None,
        };
        let inside = Up::count(&self.inside, &self.counts.most_inside);
        let answer = self.container(request).await;
        drop((inside, slot, admitted));
        answer
    }

    async fn probe(&self) -> Response<Full<Bytes>> {
        self.counts.probes.fetch_add(1, Ordering::SeqCst);
        let mut is_ready = self.is_ready.subscribe();
        match timeout(HOLD, is_ready.wait_for(|is_ready| *is_ready)).await {
            Ok(Ok(_)) => text(StatusCode::OK, "queue"),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "queue not ready\n"),
        }
    }

    /// What the user's container gets, and says.
    async fn container<B: Body>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return text(StatusCode::BAD_REQUEST, "the body broke off\n");
        };
        let query = head.uri.query().unwrap_or_default();
        let sleep_ms = query.split('&').find_map(|it| it.strip_prefix("sleep_ms="));
        if let Some(milliseconds) = sleep_ms.and_then(|text| text.parse().ok()) {
            sleep(Duration::from_millis(milliseconds)).await;
        }
        let body = body.to_bytes();
        if head.method != Method::GET {
            return Response::new(Full::new(body));
        }
        let original = head.headers.get("k-original-host");
        let host = original.or_else(|| head.headers.get(HOST));
        let headers = head.headers.iter().filter(|(name, _)| {
            let of_the_hop = ["k-original-host", "k-proxy-request"];
            !of_the_hop.contains(&name.as_str()) && *name != HOST
        });
        let as_text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = headers.map(|(name, value)| (name.to_string(), as_text(value).into()));
        let description = json!({
            "pod": self.name,
            "host": host.map(as_text),
            "path": head.uri.path(),
            "headers": serde_json::Value::Object(headers.collect()),
        });
        text(StatusCode::OK, description.to_string())
    }
}

fn is(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    headers.get(name).is_some_and(|value| value == wanted)
}

/// As Go's `http.Error` writes it.
fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let text = text.into();
    let length = text.len();
    let mut answer = Response::new(Full::new(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    answer
}
