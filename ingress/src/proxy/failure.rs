//! Why a request gets an answer of our own instead of an endpoint's.
//!
//! What went wrong and which status it means is decided where it is known; how it is said, in `frontend::respond`.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use parkway_activator::throttler::Refusal;

use super::waiting_page::Notice;
use crate::routing::table;
use crate::routing::validate::BadRequest;

/// A request that no endpoint answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request itself cannot be served.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// The connection was secured for other hosts (RFC 9110 section 15.5.20).
    #[error("this connection's certificate is not for this host")]
    Misdirected,
    /// The route is for clients that show a certificate, by TLS.
    #[error("this is for clients that show a certificate, by https")]
    NoClientCertificate,
    /// No rule matches.
    #[error("{0}")]
    NoRoute(#[from] table::NoRoute),
    /// The Revision that the request names is not there; in the activator's words.
    #[error("{0}")]
    NoRevision(String),
    /// The rule refers to something that is not there.
    #[error("{0}")]
    Misconfigured(String),
    /// Not parked, or parked and turned away.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The Revision's total, response-start or idle timeout passed before the response began.
    ///
    /// Text and status: knative/serving `pkg/activator/handler/main_test.go` and `pkg/http/handler/timeout.go`.
    #[error("activator request timeout")]
    TimedOut,
    /// A timeout that the route has set.
    #[error("the route's timeout has passed: {}", .0.name())]
    RouteTimeout(Named),
    /// The endpoint had no room, and what it was sent cannot be sent again. The text is queue-proxy's.
    #[error("pending request queue full")]
    TurnedAway,
    /// The endpoint broke off or answered nonsense, and the request must not be sent again.
    #[error("{0}")]
    BadGateway(String),
    /// Not a failure: a browser that has waited for a start for a while is told how that stands.
    #[error("the Revision is starting")]
    Starting(Rc<Notice>),
    /// The client did not send the whole request.
    #[error("the request was not sent completely")]
    Incomplete,
    /// The client sends the request's body too slowly.
    #[error("the request's body is sent too slowly")]
    SlowBody,
    /// No connection to an endpoint can be made for want of files or ports of our own.
    #[error("out of files or ports")]
    OutOfFiles,
}

/// A timeout of a route, by the name it has in the annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Parked too long at a stretch.
    Parked,
    /// One attempt, and there may be no other.
    Try,
    /// From the first attempt to the response head.
    FirstByte,
    /// From the arrival.
    Total,
}

impl Named {
    /// The annotation's name, without its group.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parked => "timeout-parked",
            Self::Try => "timeout-try",
            Self::FirstByte => "timeout-first-byte",
            Self::Total => "timeout-total",
        }
    }
}

impl Failure {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(bad) => bad.status(),
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoClientCertificate => StatusCode::FORBIDDEN,
            Self::NoRoute(missing) => missing.status(),
            Self::NoRevision(_) | Self::Refused(Refusal::UnknownRevision) => StatusCode::NOT_FOUND,
            // Nobody has begun with a request that is parked: asking again does no harm.
            Self::Refused(_)
            | Self::Misconfigured(_)
            | Self::TurnedAway
            | Self::OutOfFiles
            | Self::Starting(_)
            | Self::RouteTimeout(Named::Parked) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut | Self::RouteTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::BadGateway(_) => StatusCode::BAD_GATEWAY,
            Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// When it is worth asking again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(
                Refusal::QueueFull { retry_after, .. } | Refusal::StartFailed { retry_after, .. },
            ) => Some(*retry_after),
            Self::Refused(Refusal::Draining | Refusal::NoEndpoint)
            | Self::TurnedAway
            | Self::OutOfFiles => Some(Duration::from_secs(1)),
            Self::Starting(notice) => notice.page().map(|page| page.refresh),
            _ => None,
        }
    }
}
