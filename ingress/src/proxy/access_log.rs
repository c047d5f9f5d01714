//! The access log: a line on standard output for each request that has ended, for all, for a share, or for errors only.
//!
//! A line is JSON, or what a template makes of it, the language being that of the [request log](super::request_log).
//! Of a share, requests that waited are always among those that are written: they are what is asked about later.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, header};
use serde_json::{Map, Value};

use super::log_lines::{Log, LogLines};
use super::request_log::Template;
use super::request_log::template::{Arrived, Ended, Rest};

/// Which requests are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Logged {
    /// None.
    #[default]
    Off,
    /// Those that failed: answered 500 or above, not answered, or broken off.
    Errors,
    /// This share of them, above 0 and at most 1, and those that waited.
    Share(f64),
}

/// How requests are written down. Clones are the same log; by default it is off.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Settings>>);

#[derive(Debug)]
struct Settings {
    logged: Logged,
    template: Option<Template>,
    lines: LogLines,
}

/// What is known of a request's line when it arrives.
#[derive(Debug)]
pub(super) enum Begun {
    Json {
        method: Method,
        host: String,
        path: String,
    },
    Template(Rest),
}

impl AccessLog {
    /// Writes requests to `lines`, in the form of a template or as JSON.
    pub fn new(logged: Logged, template: Option<Template>, lines: LogLines) -> Self {
        Self((logged != Logged::Off).then(|| {
            Arc::new(Settings {
                logged,
                template,
                lines,
            })
        }))
    }

    /// Which requests are written down.
    pub(super) fn logged(&self) -> Logged {
        self.0.as_ref().map_or(Logged::Off, |log| log.logged)
    }

    /// Notes what the head says.
    pub(super) fn begin(
        &self,
        head: &Parts,
        remote: SocketAddr,
        tls: Option<&dyn fmt::Display>,
    ) -> Option<Begun> {
        let settings = self.0.as_ref()?;
        Some(match &settings.template {
            Some(template) => Begun::Template(template.begin(&Arrived { head, remote, tls })),
            None => Begun::Json {
                method: head.method.clone(),
                host: host(head),
                path: head.uri.path().to_owned(),
            },
        })
    }

    /// Writes the line of a request that has ended; `rest`: what JSON says besides the head.
    pub(super) fn end(&self, begun: Begun, ended: &Ended<'_>, rest: impl FnOnce() -> Fields) {
        let Some(settings) = &self.0 else { return };
        let line = match begun {
            Begun::Template(rest) => rest.end(ended),
            Begun::Json { method, host, path } => {
                let mut line = Map::new();
                line.insert("time".to_owned(), crate::telemetry::timestamp().into());
                line.insert("message".to_owned(), "request".into());
                line.insert("method".to_owned(), method.as_str().into());
                line.insert("host".to_owned(), host.into());
                line.insert("path".to_owned(), path.into());
                line.insert("status".to_owned(), ended.code.into());
                line.extend(rest());
                let mut line = Value::Object(line).to_string();
                line.push('\n');
                line
            }
        };
        settings.lines.write(Log::Access, line);
    }
}

/// Fields of a line.
type Fields = Map<String, Value>;

fn host(head: &Parts) -> String {
    let target = head.uri.authority().map(|authority| authority.as_str());
    let field = || head.headers.get(header::HOST)?.to_str().ok();
    target.or_else(field).unwrap_or_default().to_owned()
}
