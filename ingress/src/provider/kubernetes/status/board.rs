//! Which KIngresses there are, and which of them need a look: pure but for the clock's readings it is given.
//!
//! A KIngress is *settled* when the API says of it what it has to say. Until then it is *open*: its status in the API is
//! kept, and it is looked at when something about it changes or a time has come.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::peers::confirm::{Confirmation, Confirmations};
use super::conditions::WAITING;
use super::{GRACE, IngressObject, IngressStatus, Key, Outcome, Settings, Verdict, WaitingIngress};

/// The first wait after a failure about one KIngress; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait after failures about one KIngress.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Room that tables of what is not settled keep when a storm is over.
const USUAL: usize = 1_024;
/// How many names a message has; the others are counted.
const NAMES_TOLD: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Board {
    objects: HashMap<Key, Object>,
    /// Those that are open and not settled, by uid.
    unsettled: HashMap<Arc<str>, Key>,
    /// To be looked at, in this order; each once.
    marked: VecDeque<Key>,
}

#[derive(Debug)]
struct Object {
    uid: Arc<str>,
    generation: i64,
    outcome: Outcome,
    is_marked: bool,
    /// How often somebody has undone what we had written about this generation.
    undone: u32,
    open: Option<Box<Open>>,
}

/// What is known of the status in the API.
#[derive(Debug)]
struct Open {
    resource_version: Box<str>,
    status: IngressStatus,
    /// We know it from our own write, which the watch has not shown yet.
    is_from_write: bool,
    /// Since when this generation has had this outcome, and we have led.
    since: Instant,
    failures: u32,
    not_before: Option<Instant>,
    why: Box<str>,
}

/// What is to be done about a KIngress.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing, unless something changes or this time comes.
    Wait(Option<Instant>),
    Write(Box<Job>),
}

/// One status to be written.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) resource_version: Box<str>,
    /// What the API has.
    pub(super) status: IngressStatus,
    pub(super) verdict: Verdict,
}

impl Board {
    pub(super) fn see(&mut self, seen: IngressObject, now: Instant, settings: &Settings) {
        let before = self.objects.get(&seen.key);
        if before.is_some_and(|before| before.uid != seen.uid) {
            self.forget(&seen.key);
        }
        let key = seen.key.clone();
        let is_new = !self.objects.contains_key(&key);
        let object = self.objects.entry(key.clone()).or_insert_with(|| Object {
            uid: Arc::clone(&seen.uid),
            generation: seen.generation,
            outcome: seen.outcome.clone(),
            is_marked: false,
            undone: 0,
            open: None,
        });
        // A watch lags behind our own writes: what it shows of before them is not news.
        let is_stale = object.open.as_ref().is_some_and(|open| {
            open.is_from_write && is_older(&seen.resource_version, &open.resource_version)
        });
        if is_stale && seen.generation < object.generation {
            return;
        }
        let is_same = object.generation == seen.generation && object.outcome == seen.outcome;
        let was_settled = !is_new && !self.unsettled.contains_key(&object.uid);
        object.generation = seen.generation;
        object.outcome = seen.outcome;
        let mut open = match object.open.take() {
            Some(open) if is_same => open,
            Some(open) => Box::new(Open {
                resource_version: open.resource_version,
                status: open.status,
                is_from_write: open.is_from_write,
                ..Open::new(now)
            }),
            None => Box::new(Open::new(now)),
        };
        if !is_stale {
            open.resource_version = seen.resource_version;
            open.status = IngressStatus::read(seen.status);
            open.is_from_write = false;
        }
        let is_settled = object.is_settled(&open.status, settings);
        if is_settled && !open.is_from_write {
            let uid = Arc::clone(&object.uid);
            self.settle(&uid);
            return;
        }
        if !is_same {
            object.undone = 0;
        } else if was_settled && !is_settled {
            // Once may be chance; after that it is not fought over at full speed.
            open.not_before = (object.undone > 0).then(|| now + pause_after(object.undone));
            object.undone = object.undone.saturating_add(1);
        }
        object.open = Some(open);
        if !is_settled {
            self.unsettled.insert(Arc::clone(&object.uid), key.clone());
        }
        self.mark(&key);
    }

    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(object) = self.objects.remove(key) {
            self.settle(&object.uid);
        }
    }

    fn settle(&mut self, uid: &str) {
        self.unsettled.remove(uid);
        if self.unsettled.is_empty() {
            self.unsettled.shrink_to(USUAL);
        }
    }

    /// How many there are, and how many of them are not settled.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.objects.len(), self.unsettled.len())
    }

    /// How many statuses are kept.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.objects
            .values()
            .filter(|object| object.open.is_some())
            .count()
    }

    pub(super) fn waiting(&self, limit: usize) -> Vec<WaitingIngress> {
        let unsettled = self.unsettled.values().filter_map(|key| {
            let object = self.objects.get(key)?;
            let open = object.open.as_ref()?;
            Some((open.since, key, object.generation, &open.why))
        });
        let mut unsettled: Vec<_> = unsettled.collect();
        unsettled.sort_unstable_by_key(|(since, key, ..)| (*since, *key));
        let told = unsettled.into_iter().take(limit);
        told.map(|(since, key, generation, why)| WaitingIngress {
            key: key.clone(),
            generation,
            since,
            why: why.clone(),
        })
        .collect()
    }

    /// We lead from now on: everything that is not settled is looked at, and waits from now.
    pub(super) fn begin(&mut self, now: Instant) {
        let keys: Vec<Key> = self.unsettled.values().cloned().collect();
        for key in &keys {
            if let Some(open) = self
                .objects
                .get_mut(key)
                .and_then(|object| object.open.as_mut())
            {
                open.since = now;
                open.not_before = None;
                open.failures = 0;
            }
            self.mark(key);
        }
    }

    pub(super) fn mark(&mut self, key: &Key) {
        if let Some(object) = self.objects.get_mut(key)
            && !std::mem::replace(&mut object.is_marked, true)
        {
            self.marked.push_back(key.clone());
        }
    }

    pub(super) fn mark_uid(&mut self, uid: &str) {
        if let Some(key) = self.unsettled.get(uid).cloned() {
            self.mark(&key);
        }
    }

    pub(super) fn mark_unsettled(&mut self) {
        let keys: Vec<Key> = self.unsettled.values().cloned().collect();
        for key in &keys {
            self.mark(key);
        }
    }

    /// The next one to look at.
    pub(super) fn next_marked(&mut self) -> Option<Key> {
        loop {
            let Some(key) = self.marked.pop_front() else {
                self.marked.shrink_to(USUAL);
                return None;
            };
            // One that went, or went and came back, is marked anew if need be.
            if let Some(object) = self.objects.get_mut(&key)
                && std::mem::take(&mut object.is_marked)
            {
                return Some(key);
            }
        }
    }

    /// What is to be done about a KIngress now.
    pub(super) fn plan(
        &mut self,
        key: &Key,
        now: Instant,
        confirmations: &Confirmations,
        settings: &Settings,
    ) -> Plan {
        let Some(object) = self.objects.get_mut(key) else {
            return Plan::Wait(None);
        };
        let Some(open) = object.open.as_deref_mut() else {
            return Plan::Wait(None);
        };
        if let Some(not_before) = open.not_before.filter(|not_before| now < *not_before) {
            return Plan::Wait(Some(not_before));
        }
        let (verdict, look_again) = match &object.outcome {
            Outcome::Programmed
                if open
                    .status
                    .is_ready_at(object.generation, &settings.entrances) =>
            {
                // What is Ready stays Ready when a replica comes: none is ready before it has everything in effect.
                (Verdict::Ready, None)
            }
            Outcome::Programmed => {
                let confirmation = confirmations.of(&object.uid, object.generation);
                let names_from = open.since + settings.name_after;
                match said(&confirmation, now >= names_from, settings.name_after) {
                    None => (Verdict::Ready, None),
                    Some(message) => {
                        open.why = message.as_str().into();
                        let speaks_from = open.since + GRACE;
                        if now < speaks_from {
                            return Plan::Wait(Some(speaks_from));
                        }
                        let look_again = Some(names_from).filter(|from| now < *from);
                        (Verdict::Pending(message), look_again)
                    }
                }
            }
            Outcome::Refused { reason, message } => (
                Verdict::Refused {
                    reason,
                    message: message.clone(),
                },
                None,
            ),
            Outcome::Waiting { reason, message } => (
                Verdict::Waiting {
                    reason,
                    message: message.clone(),
                },
                None,
            ),
        };
        let wanted = open.status.after(
            object.generation,
            &verdict,
            &settings.entrances,
            (settings.clock)(),
        );
        if wanted != open.status {
            return Plan::Write(Box::new(Job {
                key: key.clone(),
                uid: Arc::clone(&object.uid),
                generation: object.generation,
                resource_version: open.resource_version.clone(),
                status: open.status.clone(),
                verdict,
            }));
        }
        if !matches!(verdict, Verdict::Pending(_)) {
            let uid = Arc::clone(&object.uid);
            if !open.is_from_write {
                object.open = None;
            }
            self.settle(&uid);
        }
        Plan::Wait(look_again)
    }

    /// The API has this status now, in this version.
    pub(super) fn written(&mut self, job: &Job, resource_version: Box<str>, status: IngressStatus) {
        if let Some(open) = self.open_of(job) {
            open.failures = 0;
            open.not_before = None;
            if !is_older(&resource_version, &open.resource_version) {
                open.resource_version = resource_version;
                open.status = status;
                open.is_from_write = true;
            }
        }
        self.mark(&job.key);
    }

    /// It could not be written; it is looked at again after a while, or when it is seen again.
    pub(super) fn failed(&mut self, job: &Job, why: &str, now: Instant) {
        let is_about_it = self
            .objects
            .get(&job.key)
            .is_some_and(|object| object.generation == job.generation);
        if let Some(open) = self.open_of(job).filter(|_| is_about_it) {
            open.failures = open.failures.saturating_add(1);
            open.not_before = Some(now + pause_after(open.failures));
            open.why = why.into();
        }
        self.mark(&job.key);
    }

    fn open_of(&mut self, job: &Job) -> Option<&mut Open> {
        let object = self.objects.get_mut(&job.key);
        let object = object.filter(|object| object.uid == job.uid)?;
        object.open.as_deref_mut()
    }
}

impl Open {
    fn new(now: Instant) -> Self {
        Self {
            resource_version: Box::default(),
            status: IngressStatus::default(),
            is_from_write: false,
            since: now,
            failures: 0,
            not_before: None,
            why: Box::default(),
        }
    }
}

/// How long to leave a KIngress alone after its n-th failure, from 1.
fn pause_after(failures: u32) -> Duration {
    let pause = FIRST_PAUSE * 2_u32.pow(failures.clamp(1, 16) - 1);
    pause.min(LONGEST_PAUSE)
}

impl Object {
    /// Whether the API already says what it has to say, whoever confirms what.
    fn is_settled(&self, status: &IngressStatus, settings: &Settings) -> bool {
        let verdict = match &self.outcome {
            Outcome::Programmed => {
                return status.is_ready_at(self.generation, &settings.entrances);
            }
            Outcome::Refused { reason, message } => Verdict::Refused {
                reason,
                message: message.clone(),
            },
            Outcome::Waiting { reason, message } => Verdict::Waiting {
                reason,
                message: message.clone(),
            },
        };
        let now = (settings.clock)();
        status.after(self.generation, &verdict, &settings.entrances, now) == *status
    }
}

/// Why a generation is not Ready yet; none when it is. Names only what has been waited for for a while.
fn said(confirmation: &Confirmation, names: bool, after: Duration) -> Option<String> {
    match confirmation {
        Confirmation::ByAll => None,
        Confirmation::NoReplicas if names => {
            Some(format!("{WAITING}: no replica of the gateway is ready"))
        }
        Confirmation::NoReplicas => Some(WAITING.to_owned()),
        Confirmation::Waits { behind, silent } => {
            let mut parts = Vec::new();
            if !silent.is_empty() {
                parts.push(format!("no answer for {after:?} from {}", listed(silent)));
            }
            if names && !behind.is_empty() {
                parts.push(format!("not in effect at {}", listed(behind)));
            }
            Some(match parts.is_empty() {
                true => WAITING.to_owned(),
                false => format!("{WAITING}: {}", parts.join("; ")),
            })
        }
    }
}

fn listed(names: &[Box<str>]) -> String {
    let told: Vec<&str> = names.iter().take(NAMES_TOLD).map(AsRef::as_ref).collect();
    let told = told.join(", ");
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// Whether a version of an object came before another of the same object; no when that cannot be told.
///
/// Source: kubernetes/apimachinery `pkg/util/resourceversion/resourceversion.go`: versions are positive decimal numbers
/// of any length without leading zeros, and compare as such.
fn is_older(version: &str, than: &str) -> bool {
    let is_well_formed = |version: &str| {
        !version.is_empty()
            && !version.starts_with('0')
            && version.bytes().all(|c| c.is_ascii_digit())
    };
    is_well_formed(version) && is_well_formed(than) && (version.len(), version) < (than.len(), than)
}

#[cfg(test)]
mod tests {
    use super::super::super::Replica;
    use super::super::conditions::Entrances;
    use super::*;

    #[test]
    fn versions_compare_as_numbers_of_any_length() {
        assert!(is_older("9", "10"));
        assert!(is_older(
            "99999999999999999999999",
            "100000000000000000000000"
        ));
        assert!(!is_older("10", "9"));
        assert!(!is_older("7", "7"));
        assert!(!is_older("", "7") && !is_older("x", "7") && !is_older("07", "8"));
    }

    #[tokio::test]
    async fn what_a_watch_shows_of_before_our_own_write_is_not_news() {
        let entrances = Entrances::of("ns", "public", "private", "cluster.local");
        let settings = Settings::new("class", entrances);
        let replica = Replica {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            pod: "a".into(),
        };
        let confirmations = Confirmations::by_hand(std::slice::from_ref(&replica));
        confirmations.tell(&replica, &[("u", 1)]);
        let key = Key::new("shop", "a");
        let seen = |resource_version: &str, status: &IngressStatus| IngressObject {
            key: key.clone(),
            uid: "u".into(),
            generation: 1,
            resource_version: resource_version.into(),
            status: serde_json::to_value(status).unwrap(),
            outcome: Outcome::Programmed,
        };
        let now = Instant::now();
        let mut board = Board::default();
        let before = IngressStatus::default();
        board.see(seen("9", &before), now, &settings);
        let Plan::Write(job) = board.plan(&key, now, &confirmations, &settings) else {
            panic!("a new one is written");
        };
        let after = before.after(1, &job.verdict, &settings.entrances, (settings.clock)());
        board.written(&job, "12".into(), after.clone());

        for late in ["9", "11"] {
            board.see(seen(late, &before), now, &settings);
            let plan = board.plan(&key, now, &confirmations, &settings);
            assert!(matches!(plan, Plan::Wait(None)), "{plan:?}");
        }
        board.see(seen("12", &after), now, &settings);
        assert_eq!((board.sizes(), board.open()), ((1, 0), 0));
        // From here on what the watch shows counts again.
        board.see(seen("13", &before), now, &settings);
        let plan = board.plan(&key, now, &confirmations, &settings);
        assert!(matches!(plan, Plan::Write(_)), "{plan:?}");
    }

    #[test]
    fn messages_name_those_that_are_waited_for_and_count_the_rest() {
        let names = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        let waits = |behind: &[&str], silent: &[&str]| Confirmation::Waits {
            behind: names(behind),
            silent: names(silent),
        };
        let after = Duration::from_secs(10);
        assert_eq!(said(&Confirmation::ByAll, true, after), None);
        assert_eq!(said(&waits(&["a"], &[]), false, after).unwrap(), WAITING);
        assert_eq!(
            said(&waits(&["a"], &["b"]), true, after).unwrap(),
            "Waiting for load balancer to be ready: no answer for 10s from b; not in effect at a"
        );
        assert_eq!(
            said(
                &waits(&["a", "b", "c", "d", "e", "f", "g"], &[]),
                true,
                after
            )
            .unwrap(),
            "Waiting for load balancer to be ready: not in effect at a, b, c, d, e and 2 more"
        );
        assert_eq!(
            said(&Confirmation::NoReplicas, true, after).unwrap(),
            "Waiting for load balancer to be ready: no replica of the gateway is ready"
        );
    }
}
