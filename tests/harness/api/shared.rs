//! What all requests to one double share: the objects, the faults, the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::call::Call;
use super::fault::{Effect, Fault, Mishap, Request, Which};
use super::kind::Kind;
use super::store::{Change, Store};

/// When the double's own time begins: the day of the recordings.
const EPOCH_UNIX_SECONDS: u64 = 1_795_348_800; // 2026-11-22T12:00:00Z

/// About once a minute, as the recordings show and `defaultBookmarkFrequency` in kubernetes/apiserver
/// `pkg/storage/cacher/cacher.go` says.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How many changes are remembered unless a test says otherwise.
const HISTORY: usize = 100_000;

/// An order to running watches.
#[derive(Clone, Debug, Default)]
pub(super) struct Interruption {
    /// Which: those of these resources, or all.
    pub(super) plural: Option<String>,
    /// They say that their version is gone and end; else the connection breaks in the middle.
    pub(super) is_gone: bool,
}

impl Interruption {
    pub(super) fn concerns(&self, call: &Call) -> bool {
        self.plural
            .as_ref()
            .is_none_or(|plural| *plural == call.kind.plural)
    }
}

/// Whose token it is, and for whom it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) user: String,
    pub(super) audiences: Vec<String>,
}

pub(super) struct State {
    pub(super) store: Store,
    pub(super) kinds: Vec<Kind>,
    pub(super) faults: Vec<Fault>,
    mishaps: Vec<(String, u32, Mishap)>,
    pub(super) log: Vec<Request>,
    /// Tokens that requests may carry; none means that none is asked for.
    pub(super) admitted: Option<HashSet<String>>,
    /// What a TokenReview knows.
    pub(super) bearers: HashMap<String, Bearer>,
    bookmark_every: Duration,
}

pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    interrupted: watch::Sender<Interruption>,
    /// Connections with a smaller number than this say nothing any more.
    silenced: watch::Sender<u64>,
    started: Instant,
}

/// Changes for one watch, each with what befalls it on the way.
pub(super) struct Changes {
    found: Vec<(Change, Option<Mishap>)>,
    /// Up to where they were looked for.
    pub(super) upto: u64,
}

impl Changes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Change, Option<Mishap>)> {
        self.found.iter()
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        let state = State {
            store: Store::new(HISTORY),
            kinds: super::kind::standard(),
            faults: Vec::new(),
            mishaps: Vec::new(),
            log: Vec::new(),
            admitted: None,
            bearers: HashMap::new(),
            bookmark_every: BOOKMARK_EVERY,
        };
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            interrupted: watch::Sender::new(Interruption::default()),
            silenced: watch::Sender::new(0),
            started: Instant::now(),
        }
    }

    /// Works on the state; watches hear of what changed.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, revision) = {
            let mut state = self.state.lock();
            (work(&mut state), state.store.revision())
        };
        self.changed.send_if_modified(|known| {
            let has_changed = *known != revision;
            *known = revision;
            has_changed
        });
        result
    }

    /// The double's own time, in RFC 3339: it goes with tokio's clock, paused or not.
    pub(super) fn now(&self) -> String {
        rfc3339(EPOCH_UNIX_SECONDS + self.started.elapsed().as_secs())
    }

    pub(super) fn signals(
        &self,
    ) -> (
        watch::Receiver<u64>,
        watch::Receiver<Interruption>,
        watch::Receiver<u64>,
    ) {
        (
            self.changed.subscribe(),
            self.interrupted.subscribe(),
            self.silenced.subscribe(),
        )
    }

    pub(super) fn versions(&self) -> (u64, u64) {
        self.with(|state| (state.store.revision(), state.store.horizon()))
    }

    pub(super) fn list(&self, call: &Call) -> Vec<Arc<Value>> {
        let objects = self.with(|state| state.store.list(&call.kind, call.namespace.as_deref()));
        objects.into_iter().map(|(_, object)| object).collect()
    }

    pub(super) fn since(&self, revision: u64, call: &Call) -> Changes {
        let resource = call.kind.resource();
        self.with(|state| {
            let of_kind = state
                .store
                .since(revision)
                .filter(|change| change.resource == resource);
            let found: Vec<Change> = of_kind.cloned().collect();
            let found = found
                .into_iter()
                .map(|change| (change, state.mishap(&call.kind.plural)));
            Changes {
                found: found.collect(),
                upto: state.store.revision(),
            }
        })
    }

    pub(super) fn bookmark_every(&self) -> Duration {
        self.with(|state| state.bookmark_every)
    }

    pub(super) fn set_bookmark_every(&self, every: Duration) {
        self.with(|state| state.bookmark_every = every);
    }

    pub(super) fn interrupt(&self, interruption: Interruption) {
        self.interrupted.send_replace(interruption);
    }

    /// Silences the connections with smaller numbers for ever; they stay open.
    pub(super) fn silence(&self, before_connection: u64) {
        self.silenced.send_replace(before_connection);
    }

    pub(super) fn is_silenced(&self, connection: u64) -> bool {
        *self.silenced.borrow() > connection
    }

    pub(super) fn add_mishaps(&self, plural: &str, count: u32, mishap: Mishap) {
        self.with(|state| state.mishaps.push((plural.to_owned(), count, mishap)));
    }
}

impl State {
    /// What befalls the next event of these resources.
    fn mishap(&mut self, plural: &str) -> Option<Mishap> {
        let (_, left, mishap) = self
            .mishaps
            .iter_mut()
            .find(|(of, left, _)| of == plural && *left > 0)?;
        *left -= 1;
        Some(*mishap)
    }

    /// What befalls this request, and notes it.
    pub(super) fn effects_on(&mut self, request: &Request) -> Vec<Effect> {
        let mut effects = Vec::new();
        for fault in &mut self.faults {
            if fault.left > 0 && fault.which.includes(request) {
                fault.left -= 1;
                effects.push(fault.effect.clone());
            }
        }
        self.faults.retain(|fault| fault.left > 0);
        effects
    }

    pub(super) fn add_fault(&mut self, which: Which, times: u32, effect: Effect) {
        self.faults.push(Fault {
            which,
            left: times,
            effect,
        });
    }
}

/// Seconds since 1970 in RFC 3339. Days to date: Howard Hinnant, "chrono-compatible low-level date algorithms".
fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(rfc3339(EPOCH_UNIX_SECONDS), "2026-11-22T12:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }
}
