//! Asks a new process whether it may have requests.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use parkway_activator::revision::Protocol;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::command::Environment;
use super::failure::{Ended, ProbeFailure};
use super::pace::pace;
use super::process::Group;
use crate::workload::{ReadinessCheck, Workload};

/// What probes call themselves: `kube-probe/<major>/<minor>` of the cluster, and here there is none.
/// Source: knative/serving `pkg/queue/health/probe.go`.
const USER_AGENT: &str = "kube-probe/0/0";

/// Returns when `workload` at `address` has passed its check as often in a row as it must; until then `last` says
/// why the latest attempt failed. `begins` is called before the first attempt.
///
/// # Cancel safety
///
/// Dropping it ends an attempt under way, including the process of an `Exec` check.
pub(super) async fn until_ready(
    workload: &Workload,
    environment: &Environment,
    address: SocketAddr,
    begins: impl FnOnce(),
    last: &mut ProbeFailure,
) {
    let readiness = &workload.readiness;
    sleep(readiness.initial_delay).await;
    begins();
    let started = Instant::now();
    let mut passes = 0;
    loop {
        let attempt = timeout(readiness.timeout, attempt(workload, environment, address)).await;
        match attempt.unwrap_or(Err(ProbeFailure::TimedOut(readiness.timeout))) {
            Ok(()) => passes += 1,
            Err(failure) => {
                passes = 0;
                *last = failure;
            }
        }
        if passes >= readiness.successes {
            return;
        }
        let pause = if readiness.period.is_zero() {
            pause(last, started.elapsed())
        } else {
            readiness.period
        };
        sleep(pause).await;
    }
}

/// The pause after an attempt that failed for this reason, so long after the first.
fn pause(failure: &ProbeFailure, elapsed: Duration) -> Duration {
    let usual = pace(elapsed);
    match failure {
        // A refused connection costs the workload nothing and us some 20 µs, and requests wait for its end.
        ProbeFailure::NotTried | ProbeFailure::NoListener if elapsed < OFTEN_FOR => {
            usual.min(NO_LISTENER_PAUSE)
        }
        _ => usual,
    }
}

/// Longest pause before a port is tried again that nobody listens on.
const NO_LISTENER_PAUSE: Duration = Duration::from_millis(1);

/// A workload that takes longer to listen is asked less often.
const OFTEN_FOR: Duration = Duration::from_secs(30);

async fn attempt(
    workload: &Workload,
    environment: &Environment,
    address: SocketAddr,
) -> Result<(), ProbeFailure> {
    match &workload.readiness.check {
        ReadinessCheck::Tcp => connect(address).await.map(drop),
        ReadinessCheck::Http { path, headers } => {
            http(workload.protocol, address, path, headers).await
        }
        ReadinessCheck::Exec { command } => exec(workload, environment, command).await,
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeFailure> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|_refused| ProbeFailure::NoListener)?;
    // Connecting to a port of the ephemeral range can meet itself when the kernel draws that very port for our side:
    // TCP's simultaneous open (RFC 9293 section 3.5), and nobody listens.
    match stream.local_addr() {
        Ok(own) if own != address => Ok(stream),
        _ => Err(ProbeFailure::NoListener),
    }
}

async fn http(
    protocol: Protocol,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), ProbeFailure> {
    let stream = connect(address).await?;
    let answer = match protocol {
        Protocol::Http1 => status_http1(stream, address, path, headers).await,
        Protocol::H2c => status_h2c(stream, address, path, headers).await,
    };
    match answer {
        Ok(200..=399) => Ok(()),
        Ok(status) => Err(ProbeFailure::Status {
            path: path.to_owned(),
            status,
        }),
        Err(why) => Err(ProbeFailure::NoAnswer {
            path: path.to_owned(),
            why,
        }),
    }
}

async fn status_http1(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let mut request = request(path, headers)?
        .body(Empty::<Bytes>::new())
        .map_err(text)?;
    if !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::try_from(address.to_string()).map_err(text)?;
        request.headers_mut().insert(header::HOST, host);
    }
    request
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    // Polled here rather than in a task of its own, so that nothing outlives a probe that is dropped.
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    tokio::select! {
        biased; // an answer whose connection closes in the same moment is an answer
        answer = &mut answer => answer.map(|answer| answer.status().as_u16()).map_err(text),
        closed = &mut connection => match (closed, answer.await) {
            (_, Ok(answer)) => Ok(answer.status().as_u16()),
            (Err(error), _) | (Ok(()), Err(error)) => Err(text(error)),
        },
    }
}

async fn status_h2c(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let request = request(&format!("http://{address}{path}"), headers)?
        .body(())
        .map_err(text)?;
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(text)?;
    let answer = async {
        let (answer, _) = sender.send_request(request, true).map_err(text)?;
        answer
            .await
            .map(|answer| answer.status().as_u16())
            .map_err(text)
    };
    tokio::select! {
        biased; // as above
        answer = answer => answer,
        closed = connection => Err(closed.map_or_else(text, |()| "the connection was closed".to_owned())),
    }
}

fn request(uri: &str, headers: &[(String, String)]) -> Result<http::request::Builder, String> {
    let mut request = Request::get(uri).header(header::USER_AGENT, USER_AGENT);
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str()).map_err(text)?;
        request = request.header(name, HeaderValue::try_from(value.as_str()).map_err(text)?);
    }
    Ok(request)
}

/// Runs the command with the environment of the process it asks about.
///
/// References are replaced in it, too: kubernetes/kubernetes `pkg/kubelet/prober/prober.go`.
async fn exec(
    workload: &Workload,
    environment: &Environment,
    command: &[String],
) -> Result<(), ProbeFailure> {
    let not_started = |why: String| ProbeFailure::Exec(format!("could not be started: {why}"));
    let mut command = environment
        .command(command.iter(), workload.working_dir.as_deref())
        .map_err(|error| not_started(error.explain()))?;
    let child = command.kill_on_drop(true).spawn();
    let mut child = child.map_err(|error| not_started(text(error)))?;
    let group = child.id().map(Group::led_by);
    let ended: io::Result<_> = child.wait().await;
    drop(group); // with what it started, also when this future is dropped
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ProbeFailure::Exec(Ended(status).to_string())),
        Err(error) => Err(ProbeFailure::Exec(format!(
            "could not be waited for: {error}"
        ))),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
