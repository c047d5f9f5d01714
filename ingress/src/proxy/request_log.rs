//! The request log: a line on standard output for each request to a Revision, in a form the operator chooses.
//!
//! The form is a template of Go's, set in `config-observability` as `logging.request-log-template` (knative/serving
//! `pkg/http/request_log.go`). What of it the request's head says is written when the request arrives, the rest when it
//! has ended. Workers hand whole lines to a thread that writes them, and never wait for it.

use std::fmt;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use http::request::Parts;

use self::template::{Arrived, Ended, Rest};
pub use self::template::{InvalidTemplate, Template};
use super::destination::Destination;

mod template;
#[cfg(test)]
mod tests;

/// Lines that may wait to be written; when as many do, further ones are lost, and counted.
const LINES: usize = 4_096;

/// Where requests are written down. Clones are the same log; by default it is off and stays so.
#[derive(Clone, Debug, Default)]
pub struct RequestLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there is a template: all that a request looks at while there is none.
    is_on: AtomicBool,
    template: ArcSwapOption<Template>,
    /// `None`: nobody writes.
    lines: Option<SyncSender<String>>,
    lost: AtomicU64,
}

/// Decides about the request log.
#[derive(Debug)]
pub struct RequestLogPublisher(RequestLog);

/// Writes the lines of a log.
#[derive(Debug)]
pub struct RequestLogWriter(Receiver<String>);

impl RequestLogPublisher {
    /// A log that is off, and who writes it down.
    pub fn new() -> (Self, RequestLog, RequestLogWriter) {
        let (lines, written) = sync_channel(LINES);
        let log = RequestLog(Arc::new(Shared {
            lines: Some(lines),
            ..Shared::default()
        }));
        (Self(log.clone()), log, RequestLogWriter(written))
    }

    /// From now on requests that arrive are written down like this, or not at all. Running ones stay as they arrived.
    pub fn publish(&self, template: Option<Template>) {
        let shared = &self.0.0;
        shared.is_on.store(template.is_some(), Ordering::Release);
        shared.template.store(template.map(Arc::new));
    }
}

impl RequestLogWriter {
    /// Writes lines to `out` until the log is gone. Blocks: for a thread of its own.
    ///
    /// # Errors
    ///
    /// When `out` takes no more.
    pub fn run(self, out: impl Write) -> std::io::Result<()> {
        let mut out = BufWriter::new(out);
        while let Ok(line) = self.0.recv() {
            out.write_all(line.as_bytes())?;
            // What has come meanwhile goes out together.
            while let Ok(line) = self.0.try_recv() {
                out.write_all(line.as_bytes())?;
            }
            out.flush()?;
        }
        Ok(())
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

    /// How many lines were lost because they could not be written fast enough.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
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
            destination,
            code: status.map_or(0, |status| status.as_u16()),
            size,
            took,
        };
        let line = self.rest.end(&ended);
        let shared = &self.log.0;
        let is_taken = shared
            .lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(line).is_ok());
        if !is_taken {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
