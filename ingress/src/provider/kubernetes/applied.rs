//! Which generation of which KIngress is in effect here, and how others follow that.
//!
//! Every change of the data path takes the next sequence number. Who has seen everything up to a number asks for what
//! came after it, and gets the present state of whatever has changed since: at most one entry for each KIngress, however
//! often it changed. A removal is remembered for those who know the KIngress; [`REMOVALS_KEPT`] of them, and who is
//! further behind is told everything anew.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Key;
use super::random;

/// How many removals are remembered. Beyond that the oldest is forgotten, and who has not heard of it begins anew.
pub const REMOVALS_KEPT: usize = 1_024;

/// What is in effect in this process; cheap to clone, all clones are the same.
///
/// It has one entry for each KIngress in effect and one for each removal that is remembered, and no others.
#[derive(Clone, Debug)]
pub struct AppliedLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Tells this process from one before it at the same address.
    instance: String,
    log: Mutex<Log>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    entries: HashMap<Key, Entry>,
    /// What the last change of each entry was, by its number.
    order: BTreeMap<u64, Last>,
    removals: VecDeque<u64>,
    last: u64,
    /// The latest removal that is no longer remembered.
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    generation: i64,
    sequence: u64,
}

#[derive(Debug)]
enum Last {
    Applied(Key),
    Removed(Arc<str>),
}

/// One change of the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This generation of this KIngress is in effect from now on.
    Applied {
        /// Its name.
        key: Key,
        /// Tells it from another of the same name.
        uid: Arc<str>,
        /// What is in effect.
        generation: i64,
    },
    /// Nothing of this KIngress is in effect any more.
    Removed {
        /// Its name.
        key: Key,
    },
}

/// What has changed since a number, as replicas tell each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The process that tells.
    pub instance: String,
    /// The number to ask from next.
    pub next: u64,
    /// This is everything: whatever is not in it is not in effect.
    #[serde(default)]
    pub is_all: bool,
    /// Uids and the generations in effect.
    #[serde(default)]
    pub applied: Vec<(String, i64)>,
    /// Uids of what went; what came back since is in `applied` too, so these are taken in first.
    #[serde(default)]
    pub removed: Vec<String>,
}

impl Default for AppliedLog {
    fn default() -> Self {
        Self::new()
    }
}

impl AppliedLog {
    /// Nothing is in effect yet.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            instance: random::uuid(),
            log: Mutex::default(),
            last: watch::Sender::new(0),
        }))
    }

    /// A generation is in effect from now on. Saying it again changes nothing.
    pub fn applied(&self, key: &Key, uid: &Arc<str>, generation: i64) {
        self.record([Step::Applied {
            key: key.clone(),
            uid: Arc::clone(uid),
            generation,
        }]);
    }

    /// Nothing of this KIngress is in effect any more.
    pub fn removed(&self, key: &Key) {
        self.record([Step::Removed { key: key.clone() }]);
    }

    /// Notes many changes at once; who waits hears of all of them together.
    pub fn record(&self, steps: impl IntoIterator<Item = Step>) {
        let last = {
            let mut log = self.0.log.lock();
            for step in steps {
                match step {
                    Step::Applied {
                        key,
                        uid,
                        generation,
                    } => log.apply(key, uid, generation),
                    Step::Removed { key } => log.remove(&key),
                }
            }
            log.last
        };
        self.0.last.send_if_modified(|known| {
            let is_news = *known < last;
            *known = (*known).max(last);
            is_news
        });
    }

    /// How many KIngresses are in effect.
    pub fn len(&self) -> usize {
        self.0.log.lock().entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has changed since `after`, for someone who was told so by `instance`; everything when that was another
    /// process, or too long ago.
    pub fn since(&self, instance: &str, after: u64) -> News {
        let log = self.0.log.lock();
        let is_known = instance == self.0.instance && after <= log.last;
        let is_all = !is_known || after < log.forgotten;
        let after = if is_all { 0 } else { after };
        let mut news = News {
            instance: self.0.instance.clone(),
            next: log.last,
            is_all,
            ..News::default()
        };
        for last in log.order.range(after + 1..).map(|(_, last)| last) {
            match last {
                Last::Applied(key) => {
                    if let Some(entry) = log.entries.get(key) {
                        news.applied.push((entry.uid.to_string(), entry.generation));
                    }
                }
                Last::Removed(_) if is_all => {}
                Last::Removed(uid) => news.removed.push(uid.to_string()),
            }
        }
        news
    }

    /// Waits until [`since`](Self::since) has something to tell.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn has_news(&self, instance: &str, after: u64) {
        if instance != self.0.instance {
            return;
        }
        let mut last = self.0.last.subscribe();
        // The sender is ours, so it is there.
        drop(last.wait_for(|last| *last != after).await);
    }
}

impl Log {
    fn apply(&mut self, key: Key, uid: Arc<str>, generation: i64) {
        let known = self.entries.get(&key);
        if known.is_some_and(|known| known.uid == uid && known.generation == generation) {
            return;
        }
        if known.is_some_and(|known| known.uid != uid) {
            self.remove(&key); // another of the same name
        }
        self.last += 1;
        let entry = Entry {
            uid,
            generation,
            sequence: self.last,
        };
        self.order.insert(self.last, Last::Applied(key.clone()));
        if let Some(before) = self.entries.insert(key, entry) {
            self.order.remove(&before.sequence);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.order.remove(&entry.sequence);
        self.last += 1;
        self.order.insert(self.last, Last::Removed(entry.uid));
        self.removals.push_back(self.last);
        if self.removals.len() > REMOVALS_KEPT
            && let Some(oldest) = self.removals.pop_front()
        {
            self.order.remove(&oldest);
            self.forgotten = oldest;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("shop", name)
    }

    fn apply(log: &AppliedLog, name: &str, generation: i64) {
        log.applied(&key(name), &Arc::from(format!("uid-{name}")), generation);
    }

    /// One who follows a log by what it is told.
    #[derive(Default)]
    struct Follower {
        instance: String,
        next: u64,
        knows: BTreeMap<String, i64>,
    }

    impl Follower {
        fn ask(&mut self, log: &AppliedLog) -> News {
            let news = log.since(&self.instance, self.next);
            if news.is_all {
                self.knows.clear();
            }
            for uid in &news.removed {
                self.knows.remove(uid);
            }
            self.knows.extend(news.applied.iter().cloned());
            self.instance.clone_from(&news.instance);
            self.next = news.next;
            news
        }
    }

    #[test]
    fn who_asks_first_is_told_everything_and_then_only_what_changed() {
        let log = AppliedLog::new();
        let mut follower = Follower::default();
        apply(&log, "a", 1);
        apply(&log, "b", 1);
        assert!(follower.ask(&log).is_all);
        apply(&log, "a", 2);
        apply(&log, "a", 3);
        let news = follower.ask(&log);
        assert_eq!(news.applied, [("uid-a".to_owned(), 3)]);
        assert!(!news.is_all);
        let nothing = follower.ask(&log);
        assert_eq!((nothing.applied.len(), nothing.next), (0, follower.next));
    }

    #[test]
    fn the_same_again_is_no_change() {
        let log = AppliedLog::new();
        apply(&log, "a", 1);
        let next = log.since("", 0).next;
        apply(&log, "a", 1);
        log.removed(&key("unknown"));
        assert_eq!(log.since("", 0).next, next);
    }

    #[test]
    fn what_is_removed_and_comes_back_is_told_as_both() {
        let log = AppliedLog::new();
        let mut follower = Follower::default();
        apply(&log, "a", 1);
        follower.ask(&log);
        log.removed(&key("a"));
        assert_eq!(follower.ask(&log).removed, ["uid-a"]);
        apply(&log, "a", 1);
        assert_eq!(follower.ask(&log).applied, [("uid-a".to_owned(), 1)]);
        // Both between two questions.
        log.removed(&key("a"));
        apply(&log, "a", 2);
        follower.ask(&log);
        assert_eq!(follower.knows, BTreeMap::from([("uid-a".to_owned(), 2)]));
    }

    #[test]
    fn another_of_the_same_name_takes_its_place() {
        let log = AppliedLog::new();
        let mut follower = Follower::default();
        log.applied(&key("a"), &Arc::from("first"), 7);
        follower.ask(&log);
        log.applied(&key("a"), &Arc::from("second"), 1);
        follower.ask(&log);
        assert_eq!(follower.knows, BTreeMap::from([("second".to_owned(), 1)]));
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn another_process_is_followed_from_the_beginning() {
        let (before, after) = (AppliedLog::new(), AppliedLog::new());
        let mut follower = Follower::default();
        apply(&before, "a", 1);
        apply(&before, "b", 1);
        follower.ask(&before);
        apply(&after, "b", 1);
        assert!(follower.ask(&after).is_all);
        assert_eq!(follower.knows, BTreeMap::from([("uid-b".to_owned(), 1)]));
    }

    #[test]
    fn removals_are_remembered_up_to_a_bound_and_beyond_it_all_is_told_anew() {
        let log = AppliedLog::new();
        let mut late = Follower::default();
        for n in 0..=REMOVALS_KEPT {
            apply(&log, &n.to_string(), 1);
        }
        apply(&log, "stays", 1);
        late.ask(&log);
        for n in 0..=REMOVALS_KEPT {
            log.removed(&key(&n.to_string()));
        }
        assert!(late.ask(&log).is_all);
        assert_eq!(late.knows.len(), 1);
        let inner = log.0.log.lock();
        assert_eq!(
            (inner.order.len(), inner.removals.len()),
            (1 + REMOVALS_KEPT, REMOVALS_KEPT)
        );
    }

    #[test]
    fn who_waits_is_woken_by_a_change_and_by_a_restart() {
        let log = AppliedLog::new();
        let instance = log.since("", 0).instance;
        let mut waiting = task::spawn(log.has_news(&instance, 0));
        assert_pending!(waiting.poll());
        apply(&log, "a", 1);
        assert!(waiting.is_woken());
        assert_ready!(waiting.poll());
        drop(waiting);
        let mut stranger = task::spawn(log.has_news("another", 1));
        assert_ready!(stranger.poll());
    }

    #[test]
    fn many_changes_are_heard_together() {
        let log = AppliedLog::new();
        let steps = (0..1000).map(|n| Step::Applied {
            key: key(&n.to_string()),
            uid: Arc::from(n.to_string()),
            generation: 1,
        });
        log.record(steps);
        assert_eq!(log.since("", 0).applied.len(), 1000);
    }
}
