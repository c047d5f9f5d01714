//! Where the time of a start went: its milestones, as pieces without overlaps or holes.

use std::time::Duration;

use tokio::time::Instant;

use super::{Milestone, Seen};

/// A piece of a start's time, between two moments that were seen one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What the time went into.
    pub name: PhaseName,
    /// Its beginning.
    pub from: Instant,
    /// Its end: the beginning of the next one.
    pub to: Instant,
    /// The milestone it begins with.
    pub after: Milestone,
    /// The milestone it ends with; none while that is waited for, and if it never came.
    pub until: Option<Milestone>,
}

impl Phase {
    /// How long it lasted.
    pub fn duration(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

/// What a piece of a start's time went into; most are named for the milestone that ends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PhaseName {
    /// From a request's arrival until it is parked.
    Parking,
    /// Until the autoscaler is told.
    Signal,
    /// Until the embedded autoscaler asks for replicas.
    Decision,
    /// Until a local process is started.
    Spawn,
    /// Until there is a Pod: the autoscaler decides, and the cluster's controllers act.
    PodCreation,
    /// Until the Pod has a node.
    Scheduling,
    /// Until the Pod has a sandbox with an address.
    Sandbox,
    /// Until the images are there.
    ImagePull,
    /// Until the containers run; with the pull, where nobody says when that ended.
    ContainerStart,
    /// Until the replica is asked for the first time.
    FirstProbe,
    /// Until it says that it serves.
    Readiness,
    /// Until the first request is let go.
    Release,
    /// Until it has a connection.
    Connect,
    /// Until its response begins.
    FirstByte,
    /// Until its response ends.
    Response,
    /// What comes next has not come yet, or never came.
    Waiting,
    /// Nobody saw what this time went into.
    Gap,
}

impl PhaseName {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Parking,
        Self::Signal,
        Self::Decision,
        Self::Spawn,
        Self::PodCreation,
        Self::Scheduling,
        Self::Sandbox,
        Self::ImagePull,
        Self::ContainerStart,
        Self::FirstProbe,
        Self::Readiness,
        Self::Release,
        Self::Connect,
        Self::FirstByte,
        Self::Response,
        Self::Waiting,
        Self::Gap,
    ];

    /// The word for it, for output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parking => "parking",
            Self::Signal => "signal",
            Self::Decision => "decision",
            Self::Spawn => "spawn",
            Self::PodCreation => "pod-creation",
            Self::Scheduling => "scheduling",
            Self::Sandbox => "sandbox",
            Self::ImagePull => "image-pull",
            Self::ContainerStart => "container-start",
            Self::FirstProbe => "first-probe",
            Self::Readiness => "readiness",
            Self::Release => "release",
            Self::Connect => "connect",
            Self::FirstByte => "first-byte",
            Self::Response => "response",
            Self::Waiting => "waiting",
            Self::Gap => "gap",
        }
    }
}

/// The phase a milestone ends, and the milestones of which one must have come before it for the time to be explained.
fn ended_by(milestone: Milestone) -> (PhaseName, &'static [Milestone]) {
    use Milestone as M;
    match milestone {
        M::Arrived => (PhaseName::Gap, &[]),
        M::Parked => (PhaseName::Parking, &[M::Arrived]),
        M::Signalled => (PhaseName::Signal, &[M::Parked]),
        M::Scaled => (PhaseName::Decision, &[M::Signalled]),
        M::Spawned => (PhaseName::Spawn, &[M::Scaled]),
        M::Created => (PhaseName::PodCreation, &[M::Signalled]),
        M::Scheduled => (PhaseName::Scheduling, &[M::Created]),
        M::Addressed => (PhaseName::Sandbox, &[M::Scheduled]),
        M::Pulled => (PhaseName::ImagePull, &[M::Scheduled]),
        M::Started => (PhaseName::ContainerStart, &[M::Scheduled]),
        M::Probed => (
            PhaseName::FirstProbe,
            &[M::Spawned, M::Addressed, M::Started],
        ),
        M::Ready => (PhaseName::Readiness, &[M::Probed]),
        M::Released => (PhaseName::Release, &[M::Ready]),
        M::Connected => (PhaseName::Connect, &[M::Released]),
        M::FirstByte => (PhaseName::FirstByte, &[M::Connected]),
        M::Finished => (PhaseName::Response, &[M::FirstByte]),
    }
}

/// The pieces between `arrived` and the last milestone, or `until`, which lies after it. `seen` is in order of time.
///
/// What was seen before the arrival (the replica was being started already) or is only news (a watch said after the
/// replica was ready that its containers run) ends no phase.
pub(super) fn between(seen: &[Seen], arrived: Instant, until: Option<Instant>) -> Vec<Phase> {
    let at = |milestone| seen.iter().find(|seen| seen.milestone == milestone);
    let ready = at(Milestone::Ready).map(|ready| ready.at);
    let is_news = |seen: &Seen| {
        seen.milestone < Milestone::Ready && ready.is_some_and(|ready| seen.at > ready)
    };
    let mut phases = Vec::with_capacity(seen.len());
    let (mut from, mut after) = (arrived, Milestone::Arrived);
    for seen in seen {
        if seen.milestone == Milestone::Arrived || seen.at < arrived || is_news(seen) {
            continue;
        }
        let (name, causes) = ended_by(seen.milestone);
        let is_caused = |cause: &Milestone| at(*cause).is_some_and(|cause| cause.at <= seen.at);
        let name = match causes.iter().any(is_caused) {
            true => name,
            false => PhaseName::Gap,
        };
        phases.push(Phase {
            name,
            from,
            to: seen.at,
            after,
            until: Some(seen.milestone),
        });
        (from, after) = (seen.at, seen.milestone);
    }
    if let Some(until) = until.filter(|until| *until > from) {
        phases.push(Phase {
            name: PhaseName::Waiting,
            from,
            to: until,
            after,
            until: None,
        });
    }
    phases
}
