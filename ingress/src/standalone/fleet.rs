//! Which processes a Revision has and what should happen to them next: pure, no processes, no clock.
//!
//! ```text
//!            probe passed           not wanted: the endpoint is withdrawn
//! Starting ───────────────▶ Ready ─────────────────────────────────────────▶ Draining
//!    │                        ▲                wanted again                     │
//!    │ not wanted, or         └─────────────────────────────────────────────────┤
//!    │ not ready in time                                                        │ idle, or the grace is over
//!    └──────────────────────────▶ Stopping ◀────────────────────────────────────┘
//! ```
//!
//! Its process may end in every state; then the replica is gone. Until SIGTERM a withdrawn process can be taken back,
//! so a burst right after a scale-down costs no cold start.

use std::collections::BTreeMap;
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use tokio::time::Instant;

use super::ReplicaPhase;
use super::backoff::Backoff;
use super::pace::pace;

/// How long a withdrawn process is left alone before it counts as idle: requests that were given its endpoint in the
/// moment of the withdrawal are on their way to it.
const DRAIN_SETTLE: Duration = Duration::from_millis(50);

/// Counts the processes of one Revision; the N of `[revision-N]`.
pub(super) type Number = u64;

/// What a Revision should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Processes of the current workload.
    pub(super) replicas: u32,
    /// Which workload is current: grows with each edit.
    pub(super) generation: u64,
}

/// What to do now: after the ready endpoints have been published, because a process must be withdrawn before it is
/// told to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// How many processes to start.
    pub(super) start: u32,
    /// Which get SIGTERM.
    pub(super) stop: Vec<Number>,
    /// When to plan again if nothing happens before.
    pub(super) wake: Option<Instant>,
}

/// How a process ended, seen from the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was told to, or was about to be.
    Expected,
    /// It never became ready; try again after this.
    FailedStart(Duration),
    /// It was ready; it is replaced after this.
    Died(Duration),
}

/// The processes of one Revision.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    replicas: BTreeMap<Number, Replica>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Replica {
    endpoint: Endpoint,
    generation: u64,
    grace: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Starting,
    Ready {
        since: Instant,
    },
    Draining {
        since: Instant,
        ready_since: Instant,
        look_at: Instant,
    },
    Stopping,
}

impl Fleet {
    /// Takes up a process that has just been started; `grace` bounds how long it may drain.
    pub(super) fn started(
        &mut self,
        number: Number,
        endpoint: Endpoint,
        generation: u64,
        grace: Duration,
    ) {
        let state = State::Starting;
        self.replicas.insert(
            number,
            Replica {
                endpoint,
                generation,
                grace,
                state,
            },
        );
    }

    /// The probe of a process passed; says whether it may have requests (it may have been told to stop meanwhile).
    pub(super) fn became_ready(&mut self, number: Number, now: Instant) -> bool {
        let Some(replica) = self.replicas.get_mut(&number) else {
            return false;
        };
        let is_starting = matches!(replica.state, State::Starting);
        if is_starting {
            replica.state = State::Ready { since: now };
            self.backoff.ready(now);
        }
        is_starting
    }

    /// A process did not become ready in time: it is told to stop, and its start counts as failed.
    pub(super) fn overdue(&mut self, number: Number, now: Instant) -> Departure {
        match self.replicas.get_mut(&number) {
            Some(replica) if matches!(replica.state, State::Starting) => {
                replica.state = State::Stopping;
                Departure::FailedStart(self.backoff.failed(now))
            }
            _ => Departure::Expected,
        }
    }

    /// A process is gone.
    pub(super) fn ended(&mut self, number: Number, now: Instant) -> Departure {
        match self.replicas.remove(&number).map(|replica| replica.state) {
            Some(State::Starting) => Departure::FailedStart(self.backoff.failed(now)),
            Some(State::Ready { .. }) => Departure::Died(self.backoff.failed(now)),
            Some(State::Draining { .. } | State::Stopping) | None => Departure::Expected,
        }
    }

    /// A process is gone through no fault of its own (its port was taken first): nothing to wait for.
    pub(super) fn forget(&mut self, number: Number) {
        self.replicas.remove(&number);
    }

    /// There is not even a process; says how long to wait.
    pub(super) fn could_not_start(&mut self, now: Instant) -> Duration {
        self.backoff.failed(now)
    }

    /// A new workload deserves a new chance.
    pub(super) fn forgive(&mut self) {
        self.backoff = Backoff::default();
    }

    /// Brings the states in line with `target`.
    ///
    /// Processes of an older workload serve until as many of the current one are ready.
    pub(super) fn plan(
        &mut self,
        target: Target,
        now: Instant,
        is_idle: impl Fn(Endpoint) -> bool,
    ) -> Plan {
        let mut plan = Plan::default();
        let current =
            self.count(|replica| replica.generation == target.generation && replica.is_live());
        let wanted = target.replicas as usize;
        if current < wanted {
            let missing = wanted - current - self.take_back(target.generation, wanted - current);
            plan.start = self.startable(missing, target, now);
            if missing > 0 {
                plan.wake = self.backoff.blocked_until(now);
            }
        }
        self.withdraw(
            |replica| replica.generation == target.generation,
            wanted,
            now,
            &mut plan,
        );
        let ready =
            self.count(|replica| replica.generation == target.generation && replica.is_ready());
        let substitutes = wanted.saturating_sub(ready);
        self.stop_outdated_starts(target.generation, &mut plan);
        self.withdraw(
            |replica| replica.generation != target.generation,
            substitutes,
            now,
            &mut plan,
        );
        self.stop_the_idle(now, is_idle, &mut plan);
        plan
    }

    /// Tells all to stop, without waiting for them to be idle.
    pub(super) fn stop_all(&mut self) -> Vec<Number> {
        let mut all = Vec::new();
        for (number, replica) in &mut self.replicas {
            replica.state = State::Stopping;
            all.push(*number);
        }
        all
    }

    /// Endpoints that may be given requests, in address order.
    pub(super) fn ready(&self) -> Vec<Endpoint> {
        let mut ready: Vec<_> = self
            .replicas
            .values()
            .filter(|it| it.is_ready())
            .map(|it| it.endpoint)
            .collect();
        ready.sort_unstable();
        ready
    }

    /// Whether a request parked now has any process to hope for.
    pub(super) fn has_hope(&self) -> bool {
        self.replicas.values().any(Replica::is_live)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// Where each process is in its life.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Number, ReplicaPhase)> {
        self.replicas
            .iter()
            .map(|(number, replica)| (*number, replica.state.phase()))
    }

    fn count(&self, which: impl Fn(&Replica) -> bool) -> usize {
        self.replicas
            .values()
            .filter(|replica| which(replica))
            .count()
    }

    /// Makes up to `missing` withdrawn processes ready again, those with the warmest caches first.
    fn take_back(&mut self, generation: u64, missing: usize) -> usize {
        let draining = self
            .replicas
            .values_mut()
            .filter(|replica| replica.generation == generation);
        let mut draining: Vec<_> = draining
            .filter_map(|replica| match &mut replica.state {
                State::Draining { ready_since, .. } => Some((*ready_since, &mut replica.state)),
                State::Starting | State::Ready { .. } | State::Stopping => None,
            })
            .collect();
        draining.sort_by_key(|(ready_since, _)| *ready_since);
        let mut taken = 0;
        for (since, state) in draining.into_iter().take(missing) {
            *state = State::Ready { since };
            taken += 1;
        }
        taken
    }

    /// While the Revision keeps failing one process tries at a time, so that a crash loop is not a storm.
    fn startable(&self, missing: usize, target: Target, now: Instant) -> u32 {
        if self.backoff.blocked_until(now).is_some() {
            return 0;
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        if !self.backoff.is_failing() {
            return missing;
        }
        let trying = self
            .count(|it| it.generation == target.generation && matches!(it.state, State::Starting));
        if trying == 0 { missing.min(1) } else { 0 }
    }

    /// Lets `keep` of these processes live.
    ///
    /// First go those not ready yet, because nobody is served by them; then those ready for the shortest time, because
    /// their caches are the coldest. A `ReplicaSet` chooses by the same two rules
    /// (kubernetes/kubernetes `pkg/controller/controller_utils.go`, `ActivePodsWithRanks`).
    fn withdraw(
        &mut self,
        which: impl Fn(&Replica) -> bool,
        keep: usize,
        now: Instant,
        plan: &mut Plan,
    ) {
        let mut live: Vec<_> = self
            .replicas
            .iter_mut()
            .filter(|(_, it)| which(it) && it.is_live())
            .collect();
        let surplus = live.len().saturating_sub(keep);
        live.sort_by_key(|(number, replica)| match replica.state {
            State::Ready { since } => (0, Some(since), **number),
            State::Starting | State::Draining { .. } | State::Stopping => (1, None, **number),
        });
        for (number, replica) in live.into_iter().rev().take(surplus) {
            replica.state = match replica.state {
                State::Ready { since } => State::Draining {
                    since: now,
                    ready_since: since,
                    look_at: now + DRAIN_SETTLE.min(replica.grace),
                },
                State::Starting | State::Draining { .. } | State::Stopping => {
                    plan.stop.push(*number);
                    State::Stopping
                }
            };
        }
    }

    fn stop_outdated_starts(&mut self, generation: u64, plan: &mut Plan) {
        for (number, replica) in &mut self.replicas {
            if replica.generation != generation && matches!(replica.state, State::Starting) {
                replica.state = State::Stopping;
                plan.stop.push(*number);
            }
        }
    }

    fn stop_the_idle(&mut self, now: Instant, is_idle: impl Fn(Endpoint) -> bool, plan: &mut Plan) {
        for (number, replica) in &mut self.replicas {
            let State::Draining {
                since,
                ready_since,
                mut look_at,
            } = replica.state
            else {
                continue;
            };
            if now >= look_at {
                if now >= since + replica.grace || is_idle(replica.endpoint) {
                    replica.state = State::Stopping;
                    plan.stop.push(*number);
                    continue;
                }
                look_at = (now + pace(now - since)).min(since + replica.grace);
                replica.state = State::Draining {
                    since,
                    ready_since,
                    look_at,
                };
            }
            plan.wake = Some(plan.wake.map_or(look_at, |wake| wake.min(look_at)));
        }
    }
}

impl Replica {
    fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready { .. })
    }

    fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}

impl State {
    fn phase(self) -> ReplicaPhase {
        match self {
            Self::Starting => ReplicaPhase::Starting,
            Self::Ready { .. } => ReplicaPhase::Ready,
            Self::Draining { .. } => ReplicaPhase::Draining,
            Self::Stopping => ReplicaPhase::Stopping,
        }
    }
}

#[cfg(test)]
mod tests;
