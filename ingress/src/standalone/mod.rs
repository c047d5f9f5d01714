//! Local processes in the place of Pods: start, probe, watch, drain, end.
//!
//! [`Processes`] is told what to run ([`Processes::set`]) and how many of it ([`Processes::scale`]); it answers through
//! [`Events`]. Everything is level-triggered: the table holds what is wanted, one task per Revision makes it so, and a
//! call that comes twice, or in a bad moment, changes nothing.
//!
//! ```text
//! Processes (handle) ──wanted──▶ Supervisor, one task per Revision ──owns──▶ Process, one task each
//!                                   │ Fleet: the pure plan                    │ child, group, record,
//!                                   ▼                                         ▼ output, probe
//!                                 Events                                    Writer, one thread for all output
//! ```
//!
//! A process has the environment of Knative's runtime contract, a process group of its own, no input, and its output
//! appears line by line with `[revision-N]` before it. It is recorded in the state directory while it runs, so that
//! [`Processes::end_leftovers`] can end what a killed Parkway left.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::workload::Workload;

mod backoff;
mod command;
mod expand;
mod failure;
mod fleet;
mod output;
mod pace;
mod probe;
mod process;
mod record;
mod supervisor;

pub use output::{LineSink, Stream, Terminal};
pub use record::Leftover;

use output::Writer;
use supervisor::{End, Supervisor, Wanted};

/// How many processes may run at the same time unless [`Options::max_processes`] says otherwise.
pub const DEFAULT_MAX_PROCESSES: usize = 256;
/// How long after the deadline of [`Processes::shutdown`] killed processes may take to vanish.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last output may take to be written when all processes have ended.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// What happens to the processes of a Revision. Called from the Revision's task: must not block.
pub trait Events: Send + Sync + 'static {
    /// Which processes may have requests: all of them, in address order, on every change.
    fn endpoints(&self, id: &RevisionId, ready: Vec<Endpoint>);

    /// The Revision has no process that is ready or may become so, because of this; it is tried again in `retry_in`
    /// while it is wanted.
    ///
    /// Called after each failed start: the process ended, could not be executed, or was not ready within the progress
    /// deadline; and when one that was ready has died so often that its replacement has to wait a second or more. The reason is for
    /// people, lower case, and may quote the end of the process's stderr in further lines.
    fn start_failed(&self, id: &RevisionId, reason: String, retry_in: Duration);

    /// A process was started at that moment; its number is the system's.
    fn started(&self, id: &RevisionId, pid: i32, at: Instant);

    /// A new process is asked for the first time whether it is ready. Called from the process's task.
    fn probed(&self, id: &RevisionId);

    /// The Revision had no ready process and has one now, this long after that process was started. Comes right after
    /// [`Events::endpoints`].
    fn ready(&self, id: &RevisionId, took: Duration);

    /// Whether a withdrawn endpoint has no request left. Asked every 1 to 50 ms, from 50 ms after the withdrawal until
    /// it says yes or the termination grace is over.
    fn is_idle(&self, id: &RevisionId, endpoint: Endpoint) -> bool;
}

/// How to run processes.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where running processes are recorded; made when it does not exist. Several Parkways may share one.
    pub state_dir: PathBuf,
    /// A folder that comes first in the processes' `PATH`. Default: none.
    pub binary_dir: Option<PathBuf>,
    /// How many processes of all Revisions may exist at once, those that are ending included. A start beyond it fails
    /// with a reason that says so, and is tried again like any other. Default: [`DEFAULT_MAX_PROCESSES`].
    pub max_processes: usize,
    /// Where the processes' output goes. Default: [`Terminal`].
    pub output: Arc<dyn LineSink>,
}

impl Options {
    /// The defaults.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            binary_dir: None,
            max_processes: DEFAULT_MAX_PROCESSES,
            output: Arc::new(Terminal),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("state_dir", &self.state_dir)
            .field("binary_dir", &self.binary_dir)
            .field("max_processes", &self.max_processes)
            .finish_non_exhaustive()
    }
}

/// One process, as the admin page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Its Revision.
    pub revision: RevisionId,
    /// Counts the Revision's processes from 1; the N of the `[revision-N]` before its output.
    pub number: u64,
    /// The system's number of it and of its process group.
    pub pid: i32,
    /// Where it serves, or will.
    pub endpoint: Endpoint,
    /// Where it is in its life.
    pub phase: ReplicaPhase,
    /// When it was started.
    pub started: Instant,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaPhase {
    /// It runs and is being probed.
    Starting,
    /// It may have requests.
    Ready,
    /// It gets no new requests and finishes those it has.
    Draining,
    /// It has been sent SIGTERM.
    Stopping,
}

impl ReplicaPhase {
    /// The word for it, for output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// A handle on all local processes. Its methods return at once, except where they are `async`.
#[derive(Clone)]
pub struct Processes(Arc<Shared>);

impl Processes {
    /// Makes a handle, and the future that does the work.
    ///
    /// The future ends after [`Processes::shutdown`]; dropping it kills all processes. It has to be polled on a Tokio
    /// runtime with I/O and time, and panics when one of its tasks does.
    ///
    /// # Errors
    ///
    /// When the state directory or the output thread cannot be made.
    pub fn new(
        options: Options,
        events: Arc<dyn Events>,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        std::fs::create_dir_all(&options.state_dir)?;
        let shared = Arc::new(Shared {
            writer: Writer::start(Arc::clone(&options.output))?,
            permits: Arc::new(Semaphore::new(
                options.max_processes.min(Semaphore::MAX_PERMITS),
            )),
            options,
            events,
            table: Mutex::default(),
            changed: Notify::new(),
            finished: CancellationToken::new(),
        });
        let driver = drive(Arc::clone(&shared));
        Ok((Self(shared), driver))
    }

    /// Configures a Revision, at first with no processes.
    ///
    /// When it is known already and the workload differs, new processes replace the old, which serve until as many of
    /// the new are ready. After [`Processes::shutdown`] this does nothing.
    pub fn set(&self, workload: Arc<Workload>) {
        let mut table = self.0.table.lock();
        if table.kill_at.is_some() {
            return;
        }
        match table.revisions.get(&workload.revision) {
            Some(known) => known.wanted.send_modify(|wanted| {
                if wanted.end.take().is_some() {
                    wanted.replicas = 0;
                }
                wanted.workload = workload;
            }),
            None => {
                table
                    .revisions
                    .insert(workload.revision.clone(), Entry::new(workload));
            }
        }
        drop(table);
        self.0.changed.notify_one();
    }

    /// Forgets a Revision: its endpoints are withdrawn, its requests finish, its processes end.
    pub fn remove(&self, id: &RevisionId) {
        self.0
            .modify(id, |wanted| wanted.end = wanted.end.or(Some(End::Removed)));
    }

    /// Says how many processes a Revision should have; one that is not configured is left alone.
    pub fn scale(&self, id: &RevisionId, replicas: u32) {
        let is_known = self.0.modify(id, |wanted| wanted.replicas = replicas);
        if !is_known {
            debug!(revision = %id, replicas, "scaling a Revision that is not configured");
        }
    }

    /// How many processes of a Revision may have requests.
    pub fn ready(&self, id: &RevisionId) -> u32 {
        let view = self
            .0
            .table
            .lock()
            .revisions
            .get(id)
            .map(|entry| entry.view.subscribe());
        let ready = view.map_or(0, |view| {
            view.borrow()
                .iter()
                .filter(|it| it.phase == ReplicaPhase::Ready)
                .count()
        });
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// All processes, by Revision and number.
    pub fn state(&self) -> Vec<ReplicaState> {
        let views: Vec<_> = self
            .0
            .table
            .lock()
            .revisions
            .values()
            .map(|entry| entry.view.subscribe())
            .collect();
        let mut all: Vec<_> = views
            .iter()
            .flat_map(|view| view.borrow().clone())
            .collect();
        all.sort_by(|a, b| (&a.revision, a.number).cmp(&(&b.revision, b.number)));
        all
    }

    /// Ends all processes: SIGTERM at once, SIGKILL at the deadline or when the termination grace is over, whichever
    /// comes first. Returns when they are gone, at the latest three seconds after the deadline.
    ///
    /// Does not ask whether they are idle: whoever calls this has let requests finish.
    pub async fn shutdown(&self, deadline: Duration) {
        let kill_at = Instant::now() + deadline;
        self.0.close(kill_at);
        let gone = timeout(
            deadline + KILL_PATIENCE + LAST_OUTPUT,
            self.0.finished.cancelled(),
        )
        .await;
        if gone.is_err() {
            warn!(left = self.state().len(), "processes do not end");
        }
    }

    /// Ends what a killed Parkway left running, and returns what that was; to be called before [`Processes::new`].
    ///
    /// A process is ended only if its number, its start time and the boot are those recorded, and the Parkway that
    /// recorded it runs no more. Its process group gets SIGTERM and, after `grace`, SIGKILL; all groups at the same
    /// time, so this takes `grace` plus two seconds at most. Where there is no `/proc` nothing can be told apart, and
    /// nothing is ended.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read. One that does not exist holds nothing.
    pub async fn end_leftovers(state_dir: &Path, grace: Duration) -> io::Result<Vec<Leftover>> {
        record::end_leftovers(state_dir, grace).await
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// What the handles, the driver and the Revisions' tasks share.
struct Shared {
    options: Options,
    events: Arc<dyn Events>,
    writer: Writer,
    permits: Arc<Semaphore>,
    table: Mutex<Table>,
    /// The table has changed; wakes the driver.
    changed: Notify,
    /// The driver has ended.
    finished: CancellationToken,
}

#[derive(Default)]
struct Table {
    revisions: HashMap<RevisionId, Entry>,
    /// Set by shutdown.
    kill_at: Option<Instant>,
}

struct Entry {
    wanted: watch::Sender<Wanted>,
    view: Arc<watch::Sender<Vec<ReplicaState>>>,
    is_supervised: bool,
}

impl Entry {
    fn new(workload: Arc<Workload>) -> Self {
        let wanted = Wanted {
            workload,
            replicas: 0,
            end: None,
        };
        Self {
            wanted: watch::Sender::new(wanted),
            view: Arc::default(),
            is_supervised: false,
        }
    }
}

impl Shared {
    /// Changes what is wanted of a Revision; says whether it is known.
    fn modify(&self, id: &RevisionId, change: impl FnOnce(&mut Wanted)) -> bool {
        let table = self.table.lock();
        let entry = table.revisions.get(id);
        if let Some(entry) = entry {
            entry.wanted.send_modify(change);
        }
        entry.is_some()
    }

    fn close(&self, kill_at: Instant) {
        let mut table = self.table.lock();
        table.kill_at = Some(kill_at);
        for entry in table.revisions.values() {
            entry
                .wanted
                .send_modify(|wanted| wanted.end = Some(End::Shutdown(kill_at)));
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Supervisors for Revisions that have none yet, and whether this is the end.
    fn unsupervised(self: &Arc<Self>) -> (Vec<Supervisor>, bool) {
        let mut table = self.table.lock();
        let is_closed = table.kill_at.is_some();
        let entries = table
            .revisions
            .iter_mut()
            .filter(|(_, entry)| !entry.is_supervised);
        let new = entries.map(|(id, entry)| {
            entry.is_supervised = true;
            Supervisor::new(
                id.clone(),
                Arc::clone(self),
                entry.wanted.subscribe(),
                Arc::clone(&entry.view),
            )
        });
        (new.collect(), is_closed)
    }

    /// A Revision's task has ended. It may have been configured again in that very moment.
    fn retire(&self, id: &RevisionId) {
        let mut table = self.table.lock();
        let Some(entry) = table.revisions.get_mut(id) else {
            return;
        };
        if entry.wanted.borrow().end.is_some() {
            table.revisions.remove(id);
        } else {
            entry.is_supervised = false;
        }
    }
}

async fn drive(shared: Arc<Shared>) {
    let _finished = shared.finished.clone().drop_guard();
    let mut supervisors = JoinSet::new();
    loop {
        let (new, is_closed) = shared.unsupervised();
        for supervisor in new {
            supervisors.spawn(supervisor.run());
        }
        if is_closed && supervisors.is_empty() {
            break;
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            Some(ended) = supervisors.join_next() => match ended {
                Ok(id) => shared.retire(&id),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }
    if timeout(LAST_OUTPUT, shared.writer.flush()).await.is_err() {
        debug!("the last output of processes is not read");
    }
}
