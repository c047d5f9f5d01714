//! One process: started, watched until it is ready, ended, and everything it leaves taken away.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tokio::process::Child;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::command::Environment;
use super::failure::{Failure, ProbeFailure, StartError};
use super::fleet::Number;
use super::output::{Stream, Tail, Writer};
use super::record::{Record, signal_group};
use super::{Options, probe};
use crate::workload::Workload;

/// How long to wait for the last output of a process that has ended, in case something it started keeps the pipe open
/// from outside its process group.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// The order to end: SIGTERM now, SIGKILL at that time. None: run.
pub(super) type StopOrder = Option<Instant>;

/// A process and all that belongs to it. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
    record: Option<Record>,
    readers: JoinSet<()>,
    stderr: Tail,
    workload: Arc<Workload>,
    environment: Environment,
    endpoint: Endpoint,
    stop: watch::Receiver<StopOrder>,
    started: Instant,
    /// Its share of the bound on all processes.
    _permit: OwnedSemaphorePermit,
}

/// What became of a process.
#[derive(Debug)]
pub(super) enum Step {
    /// It may have requests; this long after its start.
    Ready(Box<Process>, Duration),
    /// It was not ready in time, and still runs.
    Overdue(Box<Process>, Failure),
    /// It has ended, and nothing of it is left.
    Ended(Departed),
}

/// What a process left behind: how it ended, and its last words.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) status: ExitStatus,
    pub(super) stderr: Vec<String>,
}

impl Departed {
    /// Whether somebody else took the port between our choosing it and the process's opening it.
    pub(super) fn has_lost_its_port(&self) -> bool {
        self.stderr.iter().any(|line| {
            let line = line.to_ascii_lowercase();
            ["address already in use", "eaddrinuse", "address in use"]
                .iter()
                .any(|it| line.contains(it))
        })
    }
}

impl Process {
    /// Starts a process. Blocks for the time the system takes for that, about a millisecond.
    pub(super) fn start(
        workload: &Arc<Workload>,
        number: Number,
        options: &Options,
        writer: &Writer,
        stop: watch::Receiver<StopOrder>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, StartError> {
        let started = Instant::now();
        let port = free_port().map_err(StartError::NoPort)?;
        let environment = Environment::new(workload, port, options.binary_dir.as_deref());
        let words = workload.command.iter().chain(&workload.args);
        let mut command = environment.command(words, workload.working_dir.as_deref())?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|source| StartError::NotExecutable {
                path: command.as_std().get_program().into(),
                source,
            })?;
        let pid = child.id().unwrap_or_default();
        let group = Group::led_by(pid);
        let record = Record::write(&options.state_dir, group.0, &workload.revision.to_string());
        let record = record
            .inspect_err(|error| warn!(pid, %error, "process could not be recorded: it would outlive a killed Parkway"))
            .ok();
        let stderr = Tail::default();
        let readers = readers(
            &mut child,
            writer,
            &format!("{}-{number}", workload.revision.name()),
            &stderr,
        );
        let endpoint = Endpoint::new((Ipv4Addr::LOCALHOST, port).into());
        let workload = Arc::clone(workload);
        debug!(revision = %workload.revision, number, pid, port, "process started");
        Ok(Self {
            child,
            group,
            record,
            readers,
            stderr,
            workload,
            environment,
            endpoint,
            stop,
            started,
            _permit: permit,
        })
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(super) fn pid(&self) -> i32 {
        self.group.0
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Probes it from its first millisecond; its end, an order to stop and the progress deadline end the wait at once.
    /// `is_probed` is called when it is probed for the first time.
    pub(super) async fn become_ready(mut self, is_probed: impl FnOnce()) -> Step {
        enum Outcome {
            Ready,
            Ended(io::Result<ExitStatus>),
            Overdue,
        }
        let deadline = self.started + self.workload.progress_deadline;
        let address = self.endpoint.address();
        let mut last = ProbeFailure::default();
        let outcome = tokio::select! {
            biased; // a process that has ended is not ready, even if another now answers on its port
            status = self.child.wait() => Outcome::Ended(status),
            () = stop_ordered(&mut self.stop) => return self.run().await,
            () = probe::until_ready(&self.workload, &self.environment, address, is_probed, &mut last) => Outcome::Ready,
            () = sleep_until(deadline) => Outcome::Overdue,
        };
        match outcome {
            Outcome::Ready => {
                let took = self.started.elapsed();
                Step::Ready(Box::new(self), took)
            }
            Outcome::Ended(status) => self.bury(status).await,
            Outcome::Overdue => {
                let within = self.workload.progress_deadline;
                let failure = Failure::Overdue {
                    port: address.port(),
                    within,
                    last,
                    stderr: self.stderr.lines(),
                };
                Step::Overdue(Box::new(self), failure)
            }
        }
    }

    /// Waits for its end, or ends it when ordered to.
    pub(super) async fn run(mut self) -> Step {
        let status = tokio::select! {
            biased; // what has ended needs no signal
            status = self.child.wait() => status,
            () = stop_ordered(&mut self.stop) => self.end().await,
        };
        self.bury(status).await
    }

    /// SIGTERM, and SIGKILL when the order's time has come; a later order may shorten it.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.group.signal(Signal::TERM);
        loop {
            let kill_at = (*self.stop.borrow_and_update()).unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                status = self.child.wait() => return status,
                () = sleep_until(kill_at) => break,
                Ok(()) = self.stop.changed() => {}
            }
        }
        debug!(
            pid = self.group.0,
            "process did not end in time and is killed"
        );
        self.group.signal(Signal::KILL);
        self.child.wait().await
    }

    /// Takes away what it started and has left, and waits for its last words.
    async fn bury(mut self, status: io::Result<ExitStatus>) -> Step {
        let status = status.unwrap_or_else(|error| {
            warn!(pid = self.group.0, %error, "process could not be waited for");
            ExitStatus::default()
        });
        // As in a container, whose other processes end with its first.
        self.group.kill();
        if timeout(LAST_OUTPUT, async {
            while self.readers.join_next().await.is_some() {}
        })
        .await
        .is_err()
        {
            debug!(
                pid = self.group.0,
                "something outside the process group holds the output open"
            );
        }
        drop(self.record.take());
        Step::Ended(Departed {
            status,
            stderr: self.stderr.lines(),
        })
    }
}

/// Returns when an order to stop is there; when nobody can give one any more, that is an order, too.
async fn stop_ordered(stop: &mut watch::Receiver<StopOrder>) {
    drop(stop.wait_for(Option::is_some).await);
}

fn readers(child: &mut Child, writer: &Writer, name: &str, stderr: &Tail) -> JoinSet<()> {
    let (name, mut readers): (Arc<str>, _) = (name.into(), JoinSet::new());
    if let Some(pipe) = child.stdout.take() {
        readers.spawn(writer.clone().relay(
            pipe,
            Stream::Stdout,
            Arc::clone(&name),
            Tail::default(),
        ));
    }
    if let Some(pipe) = child.stderr.take() {
        readers.spawn(
            writer
                .clone()
                .relay(pipe, Stream::Stderr, name, stderr.clone()),
        );
    }
    readers
}

/// A port that nothing uses on any local address, because the process may listen on all of them.
///
/// It is free again when this returns: whoever is quicker than the process gets it, which shows in
/// [`Departed::has_lost_its_port`]. The socket never listens, so nobody can connect to it meanwhile.
fn free_port() -> io::Result<u16> {
    let socket = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket)
            if socket.set_only_v6(false).is_ok()
                && bind(&socket, Ipv6Addr::UNSPECIFIED).is_ok() =>
        {
            socket
        }
        _ => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            bind(&socket, Ipv4Addr::UNSPECIFIED)?;
            socket
        }
    };
    let address = socket.local_addr()?.as_socket();
    address
        .map(|it| it.port())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn bind(socket: &Socket, address: impl Into<std::net::IpAddr>) -> io::Result<()> {
    socket.bind(&SocketAddr::new(address.into(), 0).into())
}

/// A process group, named by its leader, which is our child. Dropping it kills what is left of it.
#[derive(Debug)]
pub(super) struct Group(i32);

impl Group {
    pub(super) fn led_by(pid: u32) -> Self {
        Self(i32::try_from(pid).unwrap_or_default())
    }

    fn signal(&self, signal: Signal) {
        signal_group(self.0, signal);
    }

    /// Kills what is left when the leader has been waited for. The number cannot mean another group as long as this one
    /// has members; once it has none, the system would have to come round to the same number at this very moment.
    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.0 = 0;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
