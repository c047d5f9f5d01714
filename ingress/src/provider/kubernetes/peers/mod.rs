//! How replicas tell each other which generations are in effect, so that Ready is written when all have them.
//!
//! ```text
//!   replica                                            leader
//!   AppliedLog ──serve_peers──▶ GET /applied?after=N ◀── Confirmations, one long poll per ready replica
//!                               (a token of our own ServiceAccount)
//! ```
//!
//! A question is held until there is something to tell, or [`HOLD`]; what changed meanwhile comes in one answer,
//! however much it is. So a thousand KIngresses cost a few answers, and none costs one each [`HOLD`].
//!
//! The connection is plain HTTP within the cluster, as Knative's are without system-internal TLS. What it tells are uids
//! and numbers; the token says who asks and, being for these questions only (its audience), opens nothing else.

pub mod auth;
pub mod confirm;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::applied::AppliedLog;
use auth::{PeerAuth, Verdict};

/// How long a question is held when there is nothing to tell.
pub const HOLD: Duration = Duration::from_secs(5);
/// How many connections of askers there may be; more wait to be accepted. One leader asks over one.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and how long a connection may say nothing between two.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The path of the question.
pub const PATH: &str = "/applied";

/// What is asked: `after` as the last answer's `next`, of the process that gave it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Question {
    after: u64,
    instance: String,
}

/// Answers other replicas for ever.
///
/// Dropping the future closes the listener and every connection.
pub async fn serve_peers(listener: TcpListener, log: AppliedLog, auth: PeerAuth) {
    let auth = Arc::new(auth);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, log.clone(), Arc::clone(&auth)));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection of another replica");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, log: AppliedLog, auth: Arc<PeerAuth>) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(&log, &auth, &request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "the connection of another replica ended");
    }
}

async fn answer<B>(
    log: &AppliedLog,
    auth: &PeerAuth,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match auth.check(bearer(request.headers())).await {
        Verdict::Ours => {}
        Verdict::Nobody => {
            return plain(
                StatusCode::UNAUTHORIZED,
                "a token of this ServiceAccount is needed\n",
            );
        }
        Verdict::Stranger => return plain(StatusCode::FORBIDDEN, "only replicas may ask\n"),
        Verdict::Unknown => {
            return plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the token cannot be verified now\n",
            );
        }
    }
    let Ok(Query(question)) = Query::<Question>::try_from_uri(request.uri()) else {
        return plain(StatusCode::BAD_REQUEST, "after is a number\n");
    };
    // Whether or not there is news by then, there is an answer.
    drop(timeout(HOLD, log.has_news(&question.instance, question.after)).await);
    let news = log.since(&question.instance, question.after);
    match serde_json::to_vec(&news) {
        Ok(json) => {
            let mut response = Response::new(Full::from(json));
            let value = axum::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, value);
            response
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot be told\n"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let field = headers.get(AUTHORIZATION)?.to_str().ok()?;
    field
        .strip_prefix("Bearer ")
        .filter(|token| !token.is_empty())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
