//! `parkway hello`: a small workload, for the examples and for the tests.
//!
//! It serves HTTP/1.1 and HTTP/2 by prior knowledge on `$PORT`. An ordinary request is answered with
//! `Hello from <K_REVISION>!` and a line feed; with `TARGET` set, as in Knative's samples, with `Hello <TARGET>!`; with
//! neither, `Hello World!`. A POST, PUT or PATCH is answered with its own body, while it arrives.
//!
//! # Paths
//!
//! | path | answer |
//! |---|---|
//! | `/headers` | JSON: `method`, `path`, `version`, `revision`, `pid`, and `headers` by name, each with its list of values |
//! | `/events?count=10&interval_ms=100` | server-sent events `data: 1`, `data: 2` …, the first at once |
//! | `/exit?code=1` | none: the process ends with this status mid-request; with `after_bytes=N`, behind the head and N bytes |
//! | `/stats` | JSON: `revision`, `pid`, `requests`, `now`, `highest`, `violations`; not itself counted |
//! | `/healthz` | 200, or 503 until `READY_DELAY_MS` after listening; not counted |
//! | any other | the greeting or the echo, with `Upgrade: echo` a 101 and then every byte sent back |
//!
//! # Switches in the query, for every path that is counted
//!
//! | switch | effect |
//! |---|---|
//! | `sleep_ms=N` | waits before the head |
//! | `body_sleep_ms=N` | waits between head and body |
//! | `status=N` | answers with this status |
//! | `bytes=N` | answers with N bytes instead of the greeting or the echo, and their `content-length` |
//! | `trailers=1` | ends with the trailer `x-trailer: bye`; over HTTP/1.1 only when asked by `TE: trailers` |
//! | `max_concurrency=N` | answers 500 when this request makes it more than N at once, and counts a violation |
//!
//! A request counts from its head until the end of its answer's body, or of its upgraded connection.
//!
//! # Environment
//!
//! | variable | effect |
//! |---|---|
//! | `PORT` | where to listen; default 8080 |
//! | `HOST` | on which address; default 127.0.0.1, and 0.0.0.0 in a Pod (`KUBERNETES_SERVICE_HOST`) |
//! | `START_DELAY_MS` | waits before it listens |
//! | `START_EXIT_CODE` | ends with this status instead of listening, with a line on stderr |
//! | `READY_DELAY_MS` | how long `/healthz` says 503 |
//! | `IGNORE_SIGTERM` | when not empty: a stubborn process |
//!
//! SIGTERM (or SIGINT) ends it gracefully: it stops accepting, finishes what it has begun, and exits with status 0.

use std::convert::Infallible;
use std::env;
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

mod answer;
mod h2c;

use answer::Hello;

/// Where to listen when `PORT` is not set.
const DEFAULT_PORT: u16 = 8080;
/// How long a client may take for the bytes that tell its protocol.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// How many connections are served at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// What an HTTP/2 connection begins with, and no HTTP/1 request: RFC 9113 section 3.4.
const PREFACE: &[u8; 3] = b"PRI";

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// When a variable of the environment does not fit, or the port cannot be opened.
pub async fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let mut stop = Stop::new()?;
    tokio::select! {
        () = sleep(millis_from_env("START_DELAY_MS")?) => {}
        () = stop.ordered() => return Ok(()), // nothing has begun
    }
    if let Some(status) = number_from_env("START_EXIT_CODE")? {
        say(
            io::stderr(),
            &format!("START_EXIT_CODE is set: ending with status {status}"),
        );
        leave(status);
    }
    let listener = listen().await?;
    let ready_at = Instant::now() + millis_from_env("READY_DELAY_MS")?;
    let address = listener.local_addr()?;
    let took = started.elapsed().as_millis();
    say(
        io::stdout(),
        &format!("listening on {address} after {took} ms"),
    );
    serve(
        listener,
        Hello::new(greeting(), revision(), ready_at),
        stop.ordered(),
    )
    .await;
    say(io::stdout(), "ended");
    Ok(())
}

/// The signals that end it.
struct Stop {
    term: Signal,
    int: Signal,
    ignores_term: bool,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let ignores_term = env::var_os("IGNORE_SIGTERM").is_some_and(|value| !value.is_empty());
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            ignores_term,
        })
    }

    async fn ordered(&mut self) {
        loop {
            tokio::select! {
                _ = self.int.recv() => return,
                _ = self.term.recv() => if !self.ignores_term { return },
            }
        }
    }
}

async fn listen() -> anyhow::Result<TcpListener> {
    let port = number_from_env("PORT")?.unwrap_or(DEFAULT_PORT);
    let is_in_a_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let default_host = if is_in_a_pod {
        Ipv4Addr::UNSPECIFIED
    } else {
        Ipv4Addr::LOCALHOST
    };
    let host = number_from_env("HOST")?.unwrap_or(IpAddr::V4(default_host));
    TcpListener::bind((host, port))
        .await
        .with_context(|| format!("cannot listen on {host}, port {port}"))
}

/// Serves connections until `stop`, then finishes what has begun.
async fn serve(listener: TcpListener, hello: Arc<Hello>, stop: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, Arc::clone(&hello)))),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    hello.closing.cancel();
    while connections.join_next().await.is_some() {}
    hello.finish_upgrades().await;
}

/// One connection to its end; a client's mistakes only end its connection.
async fn connection(stream: TcpStream, hello: Arc<Hello>) {
    let closing = hello.closing.clone();
    let is_h2c = tokio::select! {
        told = timeout(FIRST_BYTES, is_h2c(&stream)) => told,
        () = closing.cancelled() => return,
    };
    drop(stream.set_nodelay(true));
    match is_h2c {
        Ok(Ok(true)) => drop(h2c::serve(stream, hello).await),
        Ok(Ok(false)) => http1(stream, hello, &closing).await,
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Looks at the first bytes without taking them.
async fn is_h2c(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        match first.get(..seen) {
            Some(bytes) if seen > 0 && seen < PREFACE.len() && PREFACE.starts_with(bytes) => {
                // Readable already, so there is no event for the rest.
                sleep(Duration::from_millis(1)).await;
            }
            bytes => return Ok(bytes == Some(PREFACE)),
        }
    }
}

async fn http1(stream: TcpStream, hello: Arc<Hello>, closing: &CancellationToken) {
    let service = service_fn(move |request| {
        let hello = Arc::clone(&hello);
        async move { Ok::<_, Infallible>(hello.answer(request).await) }
    });
    let mut http1 = hyper::server::conn::http1::Builder::new();
    // Idle connections are the client's to close.
    http1.header_read_timeout(None);
    let mut connection = pin!(
        http1
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

fn revision() -> String {
    env::var("K_REVISION").unwrap_or_default()
}

fn greeting() -> String {
    match (env::var("TARGET"), revision()) {
        (Ok(target), _) => format!("Hello {target}!\n"),
        (Err(_), revision) if revision.is_empty() => "Hello World!\n".to_owned(),
        (Err(_), revision) => format!("Hello from {revision}!\n"),
    }
}

fn millis_from_env(name: &str) -> anyhow::Result<Duration> {
    Ok(Duration::from_millis(number_from_env(name)?.unwrap_or(0)))
}

/// A value that is empty counts as not set.
fn number_from_env<T: FromStr>(name: &str) -> anyhow::Result<Option<T>> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => anyhow::bail!("{name}={text:?} does not fit"),
        },
        _ => Ok(None),
    }
}

/// Nobody listening is no reason to fail.
fn say(mut to: impl Write, what: &str) {
    drop(writeln!(to, "{what}"));
}

#[expect(clippy::exit, reason = "dying mid-request is what it is asked for")]
fn leave(status: i32) -> ! {
    std::process::exit(status)
}

#[cfg(test)]
mod tests;
