//! The one place that turns failures into answers, for HTTP and gRPC.
//!
//! Bodies are those of Knative's activator where it has one: text written by Go's `http.Error`, with its headers.
//! A gRPC call gets status 200 and its own status in trailers-only form, as gRPC's HTTP mapping wants it
//! (grpc/grpc `doc/PROTOCOL-HTTP2.md`).

use axum::response::IntoResponse as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use parkway_activator::throttler::Refusal;
use tokio::time::Instant;

use super::connection::Peer;
use crate::proxy::body::ResponseBody;
use crate::proxy::failure::Failure;
use crate::proxy::held::{Held, Holds};
use crate::proxy::observe::Observation;
use crate::proxy::waiting_page::Notice;
use crate::routing::headers::EntranceKind;
use crate::routing::identify;
use crate::routing::names::NETWORK_HASH;
use crate::routing::probe::ProbeAnswer;

/// What of a request decides how its failure is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    is_grpc: bool,
    is_head: bool,
    /// The request said itself which Revision it is for.
    names_revision: bool,
}

impl Asked {
    pub(super) fn of(peer: &Peer, head: &Parts) -> Self {
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .map_or(&b""[..], HeaderValue::as_bytes);
        Self {
            is_grpc: content_type.starts_with(b"application/grpc"),
            is_head: head.method == Method::HEAD,
            names_revision: peer.kind == EntranceKind::Activator,
        }
    }

    /// The answer to a request that no endpoint answered.
    pub(super) fn respond(self, failure: &Failure, observation: Observation) -> Response<Held> {
        if let Failure::Starting(notice) = failure {
            return self.page(notice, failure.status(), observation);
        }
        let not_found = self.not_found(failure, &observation);
        let failure = not_found.as_ref().unwrap_or(failure);
        if self.is_grpc && !matches!(failure, Failure::BadRequest(_)) {
            return grpc(failure, observation);
        }
        let mut response = self.local(failure.status(), text_of(failure), Some(observation));
        let fields = response.headers_mut();
        if let Some(after) = failure.retry_after() {
            fields.insert(
                header::RETRY_AFTER,
                HeaderValue::from(after.as_secs().max(1)),
            );
        }
        // After a request that can be read in two ways, or is not waited for, nobody knows where the next one begins.
        if matches!(
            failure,
            Failure::Incomplete | Failure::SlowBody | Failure::BadRequest(_)
        ) {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// A page for somebody who waits in front of a browser. It is no answer yet: nobody should keep it, and robots should
    /// come again.
    fn page(
        self,
        notice: &Notice,
        status: StatusCode,
        mut observation: Observation,
    ) -> Response<Held> {
        observation.shows_a_page();
        let html = notice.html(Instant::now());
        let mut response = self.local(status, html, Some(observation));
        let fields = response.headers_mut();
        let Some(page) = notice.page() else {
            return response;
        };
        let seconds = HeaderValue::from(page.refresh.as_secs());
        fields.insert(header::REFRESH, seconds.clone());
        fields.insert(header::RETRY_AFTER, seconds);
        let fixed = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::VARY, "sec-fetch-mode, accept"),
            (ROBOTS, "noindex"),
        ];
        for (name, value) in fixed {
            fields.insert(name, HeaderValue::from_static(value));
        }
        if page.template.is_none() {
            let alone = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
            fields.insert(header::CONTENT_SECURITY_POLICY, alone);
        }
        response
    }

    /// The answer to a probe; without an observation, nobody counts it.
    pub(super) fn respond_probe(
        self,
        answer: ProbeAnswer,
        observation: Option<Observation>,
    ) -> Response<Held> {
        let mut response = self.local(answer.status, answer.body.into_owned(), observation);
        if let Some(hash) = answer.hash {
            response.headers_mut().insert(NETWORK_HASH, hash);
        }
        response
    }

    /// Sends a client to where the same is served by TLS.
    pub(super) fn respond_redirect(
        self,
        location: HeaderValue,
        observation: Observation,
    ) -> Response<Held> {
        let moved = StatusCode::MOVED_PERMANENTLY;
        let mut response = self.local(moved, String::new(), Some(observation));
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    /// A Revision that is gone when it is asked for a place, or while the request is parked, is spoken of like one that
    /// was never there: at the activator's ports, by its name.
    fn not_found(self, failure: &Failure, observation: &Observation) -> Option<Failure> {
        let Failure::Refused(Refusal::UnknownRevision | Refusal::RevisionGone) = failure else {
            return None;
        };
        let id = observation.revision().filter(|_| self.names_revision)?;
        let text = identify::not_found(id.name().as_bytes());
        Some(Failure::NoRevision(text))
    }

    /// An answer of our own: axum's form of a status and a text.
    fn local(
        self,
        status: StatusCode,
        text: String,
        mut observation: Option<Observation>,
    ) -> Response<Held> {
        if let Some(observation) = &mut observation {
            observation.status(status);
        }
        let length = text.len();
        let answer = (status, text).into_response();
        let (mut head, body) = answer.into_parts();
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if length == 0 {
            head.headers.remove(header::CONTENT_TYPE);
        } else if !status.is_success() {
            // As Go's `http.Error` has it.
            head.headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
        }
        let body = if self.is_head || length == 0 {
            ResponseBody::Empty
        } else {
            ResponseBody::Local(body)
        };
        let held = match observation {
            Some(observation) => Held::new(body, Holds::of_answer(observation)),
            None => Held::bare(body),
        };
        Response::from_parts(head, held)
    }
}

/// What the client reads. Queue full and timeout are the activator's words: knative/serving
/// `pkg/activator/handler/handler.go` and `cmd/activator/main.go`.
fn text_of(failure: &Failure) -> String {
    match failure {
        // Written by the timeout handler without a line end.
        Failure::TimedOut => failure.to_string(),
        Failure::Refused(Refusal::QueueFull { .. }) => "pending request queue full\n".to_owned(),
        _ => format!("{failure}\n"),
    }
}

fn grpc(failure: &Failure, mut observation: Observation) -> Response<Held> {
    observation.status(StatusCode::OK);
    let mut response = Response::new(Held::new(
        ResponseBody::Empty,
        Holds::of_answer(observation),
    ));
    let fields: &mut HeaderMap = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    fields.insert(
        GRPC_STATUS,
        HeaderValue::from(grpc_status(failure.status())),
    );
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&failure.to_string())) {
        fields.insert(GRPC_MESSAGE, message);
    }
    response
}

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Source: grpc/grpc `doc/http-grpc-status-mapping.md`; 504 is our own deadline, which is gRPC's `DEADLINE_EXCEEDED`.
fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::NOT_FOUND => 12,      // UNIMPLEMENTED
        StatusCode::GATEWAY_TIMEOUT => 4, // DEADLINE_EXCEEDED
        StatusCode::BAD_REQUEST => 13,    // INTERNAL
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => 14, // UNAVAILABLE
        _ => 2,                           // UNKNOWN
    }
}

/// `grpc-message` is percent-encoded outside printable ASCII (grpc/grpc `doc/PROTOCOL-HTTP2.md`).
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
