//! Why a Revision has no ready process, in words for the person who wrote the manifest.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why there is not even a process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("command {command:?} not found in {searched}")]
    NotFound { command: String, searched: String },
    #[error("command {} cannot be executed", path.display())]
    NotExecutable { path: PathBuf, source: io::Error },
    #[error("working directory {} does not exist", .0.display())]
    WorkingDir(PathBuf),
    #[error("no free port")]
    NoPort(#[source] io::Error),
    #[error(
        "the limit of {0} local processes is reached; lower max-scale, or stop another Revision"
    )]
    Limit(usize),
    #[error("the manifest gives no command")]
    NoCommand,
}

impl StartError {
    /// The message with its sources.
    pub(super) fn explain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Why one attempt to probe failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ProbeFailure {
    /// No attempt has ended yet.
    #[default]
    NotTried,
    /// Nothing listens on the port.
    NoListener,
    /// The attempt took longer than `timeoutSeconds`.
    TimedOut(Duration),
    /// `GET path` was answered with this status.
    Status { path: String, status: u16 },
    /// The connection was accepted, but what came was no HTTP answer.
    NoAnswer { path: String, why: String },
    /// The command ended so, or could not be started.
    Exec(String),
}

/// Why a process is not, or no longer, ready.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It ended before it was ready.
    Exited {
        status: ExitStatus,
        stderr: Vec<String>,
    },
    /// It ended this long after it had become ready.
    Died {
        status: ExitStatus,
        after: Duration,
        stderr: Vec<String>,
    },
    /// It still runs, but was not ready within the progress deadline.
    Overdue {
        port: u16,
        within: Duration,
        last: ProbeFailure,
        stderr: Vec<String>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status, stderr } => {
                write!(f, "{} before it was ready", Ended(*status))?;
                quote(f, stderr)
            }
            Self::Died {
                status,
                after,
                stderr,
            } => {
                write!(f, "{} after {after:.1?} of being ready", Ended(*status))?;
                quote(f, stderr)
            }
            Self::Overdue {
                port,
                within,
                last,
                stderr,
            } => {
                overdue(f, *port, *within, last)?;
                quote(f, stderr)
            }
        }
    }
}

fn overdue(
    f: &mut fmt::Formatter<'_>,
    port: u16,
    within: Duration,
    last: &ProbeFailure,
) -> fmt::Result {
    match last {
        ProbeFailure::NotTried | ProbeFailure::NoListener => write!(
            f,
            "did not listen on $PORT={port} within {within:?}; it must listen on the port given by the PORT \
             environment variable"
        ),
        ProbeFailure::TimedOut(timeout) => {
            write!(
                f,
                "not ready within {within:?}: the readiness probe did not end within {timeout:?}"
            )
        }
        ProbeFailure::Status { path, status } => {
            write!(
                f,
                "not ready within {within:?}: GET {path} on port {port} answered {status}"
            )
        }
        ProbeFailure::NoAnswer { path, why } => {
            write!(
                f,
                "not ready within {within:?}: GET {path} on port {port} got no answer: {why}"
            )
        }
        ProbeFailure::Exec(what) => write!(
            f,
            "not ready within {within:?}: the readiness command {what}"
        ),
    }
}

fn quote(f: &mut fmt::Formatter<'_>, stderr: &[String]) -> fmt::Result {
    if stderr.is_empty() {
        return Ok(());
    }
    f.write_str("; the end of its stderr:")?;
    stderr.iter().try_for_each(|line| write!(f, "\n  {line}"))
}

/// How a process ended: `exited with status 1`, `was ended by signal 9 (KILL)`.
pub(super) struct Ended(pub(super) ExitStatus);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exited with status {code}"),
            (None, Some(signal)) => match signal_name(signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            (None, None) => f.write_str("ended"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    const NAMES: [(Signal, &str); 11] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| known.as_raw() == signal)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_names_its_status_and_quotes_the_end_of_stderr() {
        let stderr = vec!["no database".to_owned(), "giving up".to_owned()];
        let failure = Failure::Exited {
            status: ExitStatus::from_raw(3 << 8),
            stderr,
        };
        assert_eq!(
            failure.to_string(),
            "exited with status 3 before it was ready; the end of its stderr:\n  no database\n  giving up"
        );
    }

    #[test]
    fn a_signal_is_named() {
        let died = Failure::Died {
            status: ExitStatus::from_raw(9),
            after: Duration::from_millis(1500),
            stderr: Vec::new(),
        };
        assert_eq!(
            died.to_string(),
            "was ended by signal 9 (SIGKILL) after 1.5s of being ready"
        );
    }

    #[test]
    fn a_port_that_never_opened_says_what_is_expected() {
        let failure = Failure::Overdue {
            port: 4711,
            within: Duration::from_secs(2),
            last: ProbeFailure::NoListener,
            stderr: Vec::new(),
        };
        assert_eq!(
            failure.to_string(),
            "did not listen on $PORT=4711 within 2s; it must listen on the port given by the PORT environment variable"
        );
    }
}
