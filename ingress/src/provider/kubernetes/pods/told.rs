//! What Pods of one start have told so far: which milestones follow from it, and whether there is hope. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::cold_start::{Milestone, Seen};
use tokio::time::Instant;

use super::super::watch::Change;
use super::kept::{KeptEvent, KeptPod, Obstacle, PodNews};

/// How long a start may last although its Pods could not start before it began.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a Pod may be without a node until whoever makes nodes has said that one comes: they look around every 10 s.
pub const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// How long ago that may have been said when the start begins, in seconds: a node that has not come by then does not.
const NODE_COMES_WITHIN: i64 = 600;

/// Pods of one start that are remembered; further ones are not looked at.
pub const PODS: usize = 256;

/// What was heard.
#[derive(Debug)]
pub enum News {
    /// Of Pods.
    Pods(Change<KeptPod>),
    /// Of Events of Pods.
    Events(Change<KeptEvent>),
}

/// The Pods of a start.
#[derive(Debug)]
pub struct Told {
    arrived: Instant,
    /// The same in seconds since 1970.
    arrived_unix: i64,
    /// By their own numbers.
    pods: BTreeMap<Box<str>, Known>,
    is_listed: bool,
    /// Milestones that have been told: each counts once, whichever Pod is the first.
    told: BTreeSet<Milestone>,
}

#[derive(Debug)]
struct Known {
    pod: KeptPod,
    /// Containers whose images are there, and of which that was said.
    pulled: BTreeSet<Box<str>>,
    /// What was said when the last of them was pulled.
    pull: Option<(Box<str>, Option<i64>)>,
    /// Containers that were started, as Events say.
    started: BTreeMap<Box<str>, Option<i64>>,
    stuck: Option<Stuck>,
    expects_node: bool,
}

/// Since when a Pod cannot start.
#[derive(Clone, Copy, Debug)]
enum Stuck {
    /// Since before the start began.
    Before,
    /// Since then.
    Since(Instant),
}

/// That a start has come to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// From then on.
    pub from: Instant,
    /// Because of this.
    pub reason: Arc<str>,
}

impl Told {
    /// Nothing yet, of a start whose first request came in then.
    pub fn new(arrived: Instant, arrived_unix: Duration) -> Self {
        Self {
            arrived,
            arrived_unix: i64::try_from(arrived_unix.as_secs()).unwrap_or(i64::MAX),
            pods: BTreeMap::new(),
            is_listed: false,
            told: BTreeSet::new(),
        }
    }

    /// Something was heard; these milestones follow that had not been told.
    pub fn hear(&mut self, news: News, now: Instant) -> Vec<Seen> {
        match news {
            News::Pods(Change::All(pods)) => {
                let is_first = !std::mem::replace(&mut self.is_listed, true);
                self.pods
                    .retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
                for pod in pods {
                    self.set(pod, now, is_first);
                }
                self.milestones(now, is_first)
            }
            News::Pods(Change::Set(pod)) => {
                self.set(pod, now, false);
                self.milestones(now, false)
            }
            News::Pods(Change::Gone(key)) => {
                self.pods.retain(|_, known| *known.pod.name != *key.name);
                Vec::new()
            }
            News::Events(Change::All(events)) => {
                for event in events {
                    self.event(event);
                }
                self.milestones(now, false)
            }
            News::Events(Change::Set(event)) => {
                self.event(event);
                self.milestones(now, false)
            }
            // Events are forgotten after an hour, and what they told stays true.
            News::Events(Change::Gone(_)) => Vec::new(),
        }
    }

    /// Whether it is known which Pods there are.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The Pods that may become endpoints, by their own numbers.
    pub fn coming(&self) -> impl Iterator<Item = &str> {
        let coming = self.pods.values().filter(|known| !known.pod.is_leaving);
        coming.map(|known| &*known.pod.uid)
    }

    /// Whether all Pods there are cannot start, and from when on that counts.
    pub fn verdict(&self) -> Option<Verdict> {
        let mut worst: Option<(Instant, &str)> = None;
        for known in self.pods.values().filter(|known| !known.pod.is_leaving) {
            let (from, reason) = known.cannot(self.arrived)?;
            if worst.is_none_or(|(latest, _)| from > latest) {
                worst = Some((from, reason));
            }
        }
        worst.map(|(from, reason)| Verdict {
            from,
            reason: reason.into(),
        })
    }

    fn set(&mut self, pod: KeptPod, now: Instant, is_first: bool) {
        if !self.pods.contains_key(&pod.uid) && self.pods.len() >= PODS {
            return;
        }
        // What was said before the start began is no reason to give it up at once.
        let since = match is_first && pod.created.is_some_and(|created| self.is_before(created)) {
            true => Stuck::Before,
            false => Stuck::Since(now),
        };
        let known = self.pods.entry(pod.uid.clone());
        let known = known.or_insert_with(|| Known::new(pod.clone()));
        known.stuck = pod.obstacle.as_ref().map(|_| known.stuck.unwrap_or(since));
        known.pod = pod;
    }

    fn event(&mut self, event: KeptEvent) {
        let Some(known) = self.pods.get_mut(&event.pod) else {
            return;
        };
        match event.news {
            PodNews::Scheduled(node) => {
                let step = super::kept::Step {
                    stamp: event.stamp,
                    detail: node,
                };
                known.pod.scheduled.get_or_insert(step);
            }
            PodNews::Pulled(container, message) => {
                let was_there = known.pull.as_ref().is_some_and(|(known, _)| is_pull(known));
                if is_pull(&message) || !was_there {
                    known.pull = Some((message, event.stamp));
                }
                known.pulled.insert(container);
            }
            PodNews::Started(container) => {
                known.started.entry(container).or_insert(event.stamp);
            }
            PodNews::NodeComes => {
                let recent = self.arrived_unix.saturating_sub(NODE_COMES_WITHIN);
                known.expects_node |= event.stamp.is_none_or(|stamp| stamp >= recent);
            }
        }
    }

    /// What has been reached and was not told. What had been reached before the first request came, by the objects'
    /// own stamps, is told of then.
    fn milestones(&mut self, now: Instant, is_first: bool) -> Vec<Seen> {
        let mut new = Vec::new();
        for known in self.pods.values().filter(|known| !known.pod.is_leaving) {
            for (milestone, stamp, detail) in known.reached() {
                if !self.told.insert(milestone) {
                    continue;
                }
                let before = stamp.filter(|stamp| is_first && self.is_before(*stamp));
                let mut seen = Seen::new(milestone, self.at(before, now));
                seen.stamp = stamp;
                new.push(match detail {
                    "" => seen,
                    detail => seen.with_detail(detail),
                });
            }
        }
        new
    }

    /// Whether a second is over before the one in which the first request came.
    fn is_before(&self, stamp: i64) -> bool {
        stamp < self.arrived_unix
    }

    fn at(&self, before: Option<i64>, now: Instant) -> Instant {
        let Some(stamp) = before else { return now };
        let ago = u64::try_from(self.arrived_unix.saturating_sub(stamp)).unwrap_or_default();
        let at = self.arrived.checked_sub(Duration::from_secs(ago));
        at.unwrap_or(self.arrived)
    }
}

impl Known {
    fn new(pod: KeptPod) -> Self {
        Self {
            pod,
            pulled: BTreeSet::new(),
            pull: None,
            started: BTreeMap::new(),
            stuck: None,
            expects_node: false,
        }
    }

    /// The milestones it has reached.
    fn reached(&self) -> Vec<(Milestone, Option<i64>, &str)> {
        let pod = &self.pod;
        let mut reached = vec![(Milestone::Created, pod.created, &*pod.name)];
        let steps = [
            (Milestone::Scheduled, &pod.scheduled),
            (Milestone::Addressed, &pod.addressed),
        ];
        for (milestone, step) in steps {
            if let Some(step) = step {
                reached.push((milestone, step.stamp, &*step.detail));
            }
        }
        let started: Vec<Option<Option<i64>>> = { pod.containers.iter() }
            .map(|container| {
                let by_event = self.started.get(&container.name).copied();
                container.started.or(by_event)
            })
            .collect();
        let is_started = !started.is_empty() && started.iter().all(Option::is_some);
        // A container that was started has its image, but nobody says since when: that all run is no news of a pull.
        let is_pulled = |(container, started): (&super::kept::KeptContainer, &Option<_>)| {
            started.is_some() || self.pulled.contains(&container.name)
        };
        if let Some((message, stamp)) = &self.pull
            && !is_started
            && pod.containers.iter().zip(&started).all(is_pulled)
        {
            reached.push((Milestone::Pulled, *stamp, message));
        }
        if is_started {
            let last = started.iter().copied().flatten().flatten().max();
            reached.push((Milestone::Started, last, ""));
        }
        reached
    }

    /// From when on it counts as one that cannot start, and why.
    fn cannot(&self, arrived: Instant) -> Option<(Instant, &str)> {
        let (patience, reason) = match self.pod.obstacle.as_ref()? {
            Obstacle::NoNode(_) if self.expects_node => return None,
            Obstacle::NoNode(reason) => (NODE_PATIENCE, reason),
            Obstacle::GivenUp(reason) => (Duration::ZERO, reason),
        };
        Some(match self.stuck? {
            Stuck::Before => (arrived + PATIENCE, reason),
            Stuck::Since(since) => (since + patience, reason),
        })
    }
}

/// Whether an image had to be fetched, and was not there before.
fn is_pull(message: &str) -> bool {
    message.starts_with("Successfully pulled")
}
