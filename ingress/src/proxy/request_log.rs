//! The request log: a line on standard output for each request to a Revision, in a form the operator chooses.
//!
//! The form is a template of Go's, set in `config-observability` as `logging.request-log-template` (knative/serving
//! `pkg/http/request_log.go`). What of it the request's head says is written when the request arrives, the rest when it
//! has ended. Workers hand whole lines to a thread that writes them, and never wait for it ([`log_lines`](super::log_lines)).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use http::request::Parts;

pub(super) use self::template::Ended;
use self::template::{Arrived, Rest};
pub use self::template::{InvalidTemplate, Template};
use super::destination::Destination;
use super::log_lines::{Log, LogLines};

pub(super) mod template;
#[cfg(test)]
mod tests;

/// Where requests are written down. Clones are the same log; by default it is off and stays so.
#[derive(Clone, Debug, Default)]
pub struct RequestLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there is a template: all that a request looks at while there is none.
    is_on: AtomicBool,
    template: ArcSwapOption<Template>,
    lines: LogLines,
}

/// Decides about the request log.
#[derive(Debug)]
pub struct RequestLogPublisher(RequestLog);

impl RequestLogPublisher {
    /// A log that is off, and will write to `lines`.
    pub fn new(lines: LogLines) -> (Self, RequestLog) {
        let log = RequestLog(Arc::new(Shared {
            lines,
            ..Shared::default()
        }));
        (Self(log.clone()), log)
    }

    /// From now on requests that arrive are written down like this, or not at all. Running ones stay as they arrived.
    pub fn publish(&self, template: Option<Template>) {
        let shared = &self.0.0;
        shared.is_on.store(template.is_some(), Ordering::Release);
        shared.template.store(template.map(Arc::new));
    }
}

impl RequestLog {
    /// Begins the line of a request that has arrived from `remote`; `None` while the log is off. `tls` says what Go would
    /// show of its connection, if that is encrypted.
    pub fn begin(
        &self,
        head: &Parts,
        remote: SocketAddr,
        tls: Option<&dyn fmt::Display>,
    ) -> Option<Pending> {
        if !self.0.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let template = self.0.template.load();
        let rest = template.as_ref()?.begin(&Arrived { head, remote, tls });
        Some(Pending {
            rest,
            log: self.clone(),
        })
    }
}

/// A line that is written when its request has ended.
#[derive(Debug)]
pub struct Pending {
    rest: Rest,
    log: RequestLog,
}

impl Pending {
    /// Writes the line of a request to `destination`. A status that is missing is written as 0: the client left before
    /// there was one.
    pub fn end(
        self,
        destination: &Destination,
        status: Option<StatusCode>,
        size: u64,
        took: Duration,
    ) {
        let ended = Ended {
            destination: Some(destination),
            code: status.map_or(0, |status| status.as_u16()),
            size,
            took,
        };
        self.log.0.lines.write(Log::Request, self.rest.end(&ended));
    }
}
