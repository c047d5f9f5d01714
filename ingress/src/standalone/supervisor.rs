//! One Revision's processes: the shell around [`Fleet`], a task that owns them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::failure::{Failure, StartError};
use super::fleet::{Departure, Fleet, Number, Plan, Target};
use super::process::{Departed, Process, Step, StopOrder};
use super::{ReplicaState, Shared};
use crate::workload::Workload;

/// How many starts in a row may lose their port before that counts as a failure: then the process rather insists on a
/// port of its own that is taken.
const PORT_RACES: u32 = 3;

/// What the rest of Parkway wants of a Revision.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) workload: Arc<Workload>,
    pub(super) replicas: u32,
    pub(super) end: Option<End>,
}

/// Why a Revision's task should come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is not configured any more: drain.
    Removed,
    /// Parkway ends: SIGTERM now, SIGKILL at this time.
    Shutdown(Instant),
}

/// Owns the processes of one Revision.
pub(super) struct Supervisor {
    id: RevisionId,
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    view: Arc<watch::Sender<Vec<ReplicaState>>>,
    workload: Arc<Workload>,
    generation: u64,
    fleet: Fleet,
    replicas: BTreeMap<Number, Replica>,
    steps: JoinSet<(Number, Step)>,
    last_number: Number,
    lost_ports: u32,
    published: Vec<Endpoint>,
}

/// What the shell knows of a process beside its place in the fleet.
struct Replica {
    stop: watch::Sender<StopOrder>,
    grace: Duration,
    ready_at: Option<Instant>,
    state: ReplicaState,
}

/// A Revision whose processes become ready and die is a crash loop once a replacement has to wait this long: after five
/// deaths in a row. Until then whoever is parked for it stays so.
const CRASH_LOOP: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn new(
        id: RevisionId,
        shared: Arc<Shared>,
        wanted: watch::Receiver<Wanted>,
        view: Arc<watch::Sender<Vec<ReplicaState>>>,
    ) -> Self {
        let workload = Arc::clone(&wanted.borrow().workload);
        Self {
            id,
            shared,
            wanted,
            view,
            workload,
            generation: 0,
            fleet: Fleet::default(),
            replicas: BTreeMap::new(),
            steps: JoinSet::new(),
            last_number: 0,
            lost_ports: 0,
            published: Vec::new(),
        }
    }

    /// Runs until the Revision is not wanted any more and its last process has ended.
    pub(super) async fn run(mut self) -> RevisionId {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.adopt(&wanted.workload);
            let wake = match wanted.end {
                Some(End::Shutdown(kill_at)) => self.stop_all(kill_at),
                Some(End::Removed) => self.reconcile(0),
                None => self.reconcile(wanted.replicas),
            };
            if wanted.end.is_some() && self.fleet.is_empty() {
                return self.id;
            }
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return self.id; // nobody can want anything any more
                    }
                }
                Some(step) = self.steps.join_next() => match step {
                    Ok((number, step)) => self.take(number, step),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = wake_at(wake) => {}
            }
        }
    }

    /// A changed workload makes a new generation, with a new chance.
    fn adopt(&mut self, workload: &Arc<Workload>) {
        if self.workload != *workload {
            self.workload = Arc::clone(workload);
            self.generation += 1;
            self.fleet.forgive();
        }
    }

    /// Brings the processes in line with what is wanted; says when to look again.
    fn reconcile(&mut self, replicas: u32) -> Option<Instant> {
        let target = Target {
            replicas,
            generation: self.generation,
        };
        loop {
            let now = Instant::now();
            let events = Arc::clone(&self.shared.events);
            let plan = self
                .fleet
                .plan(target, now, |endpoint| events.is_idle(&self.id, endpoint));
            self.publish();
            self.carry_out_stops(&plan, now);
            if plan.start == 0 {
                return plan.wake;
            }
            for _ in 0..plan.start {
                if let Err(error) = self.start() {
                    self.could_not_start(&error);
                    break;
                }
            }
            self.publish_view();
        }
    }

    fn carry_out_stops(&mut self, plan: &Plan, now: Instant) {
        for number in &plan.stop {
            if let Some(replica) = self.replicas.get(number) {
                replica.stop.send_replace(Some(now + replica.grace));
            }
        }
    }

    fn stop_all(&mut self, kill_at: Instant) -> Option<Instant> {
        self.fleet.stop_all();
        self.publish();
        for replica in self.replicas.values() {
            let kill_at = kill_at.min(Instant::now() + replica.grace);
            replica.stop.send_if_modified(|order| {
                let is_sooner = order.is_none_or(|known| kill_at < known);
                if is_sooner {
                    *order = Some(kill_at);
                }
                is_sooner
            });
        }
        None
    }

    fn start(&mut self) -> Result<(), StartError> {
        let permit = Arc::clone(&self.shared.permits).try_acquire_owned();
        let permit =
            permit.map_err(|_none_left| StartError::Limit(self.shared.options.max_processes))?;
        let (stop, stop_order) = watch::channel(None);
        let number = self.last_number + 1;
        let (options, writer) = (&self.shared.options, &self.shared.writer);
        let process = Process::start(&self.workload, number, options, writer, stop_order, permit)?;
        self.last_number = number;
        let (endpoint, grace) = (process.endpoint(), self.workload.termination_grace);
        let state = ReplicaState {
            revision: self.id.clone(),
            number,
            pid: process.pid(),
            endpoint,
            phase: super::ReplicaPhase::Starting,
            started: process.started(),
        };
        self.fleet.started(number, endpoint, self.generation, grace);
        self.replicas.insert(
            number,
            Replica {
                stop,
                grace,
                ready_at: None,
                state,
            },
        );
        self.shared
            .events
            .started(&self.id, process.pid(), process.started());
        let (id, events) = (self.id.clone(), Arc::clone(&self.shared.events));
        let is_probed = move || events.probed(&id);
        self.steps
            .spawn(async move { (number, process.become_ready(is_probed).await) });
        Ok(())
    }

    fn could_not_start(&mut self, error: &StartError) {
        let retry_in = self.fleet.could_not_start(Instant::now());
        self.start_failed(error.explain(), retry_in);
    }

    /// What one process did.
    fn take(&mut self, number: Number, step: Step) {
        match step {
            Step::Ready(process, took) => self.became_ready(number, process, took),
            Step::Overdue(process, failure) => self.overdue(number, process, &failure),
            Step::Ended(departed) => self.ended(number, departed),
        }
    }

    fn became_ready(&mut self, number: Number, process: Box<Process>, took: Duration) {
        self.steps
            .spawn(async move { (number, process.run().await) });
        let now = Instant::now();
        if !self.fleet.became_ready(number, now) {
            return;
        }
        self.lost_ports = 0;
        if let Some(replica) = self.replicas.get_mut(&number) {
            replica.ready_at = Some(now);
        }
        let is_first = self.published.is_empty();
        self.publish();
        debug!(revision = %self.id, number, ?took, "process ready");
        if is_first {
            self.shared.events.ready(&self.id, took);
        }
    }

    fn overdue(&mut self, number: Number, process: Box<Process>, failure: &Failure) {
        let now = Instant::now();
        if let Some(replica) = self.replicas.get(&number) {
            replica.stop.send_replace(Some(now + replica.grace));
        }
        self.steps
            .spawn(async move { (number, process.run().await) });
        if let Departure::FailedStart(retry_in) = self.fleet.overdue(number, now) {
            self.start_failed(failure.to_string(), retry_in);
        }
    }

    fn ended(&mut self, number: Number, departed: Departed) {
        let now = Instant::now();
        let ready_at = self
            .replicas
            .remove(&number)
            .and_then(|replica| replica.ready_at);
        if ready_at.is_none() && departed.has_lost_its_port() && self.lost_ports < PORT_RACES {
            self.lost_ports += 1;
            info!(revision = %self.id, number, "the port was taken first; trying another");
            self.fleet.forget(number);
            return;
        }
        let departure = self.fleet.ended(number, now);
        let Departed { status, stderr } = departed;
        // Before the reason is told, so that nobody is sent to it meanwhile.
        self.publish();
        match departure {
            Departure::Expected => debug!(revision = %self.id, number, "process ended"),
            Departure::FailedStart(retry_in) => {
                self.start_failed(Failure::Exited { status, stderr }.to_string(), retry_in);
            }
            Departure::Died(retry_in) => {
                let after = ready_at.map_or(Duration::ZERO, |ready_at| now - ready_at);
                let failure = Failure::Died {
                    status,
                    after,
                    stderr,
                }
                .to_string();
                if retry_in < CRASH_LOOP {
                    warn!(revision = %self.id, number, reason = failure, "process died and is replaced");
                } else {
                    self.start_failed(failure, retry_in);
                }
            }
        }
    }

    /// Those parked hear of it when no process is left that could serve them soon.
    fn start_failed(&self, reason: String, retry_in: Duration) {
        warn!(revision = %self.id, reason, ?retry_in, "process failed");
        if !self.fleet.has_hope() {
            self.shared.events.start_failed(&self.id, reason, retry_in);
        }
    }

    /// Tells who may have requests, if that has changed.
    fn publish(&mut self) {
        self.publish_view();
        let ready = self.fleet.ready();
        if ready != self.published {
            self.published.clone_from(&ready);
            self.shared.events.endpoints(&self.id, ready);
        }
    }

    fn publish_view(&mut self) {
        for (number, phase) in self.fleet.phases() {
            if let Some(replica) = self.replicas.get_mut(&number) {
                replica.state.phase = phase;
            }
        }
        self.view.send_replace(
            self.replicas
                .values()
                .map(|replica| replica.state.clone())
                .collect(),
        );
    }
}

async fn wake_at(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
