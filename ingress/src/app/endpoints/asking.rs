//! The task that asks: one probe for each target, by the orders in the table.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parkway_activator::backends::{Outcome, Target};
use parkway_activator::revision::RevisionId;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::proxy::probe::{self, Dial};

/// Room that tables keep when the storm is over in which everything there is became known.
const USUAL: usize = 1_024;

/// Whom to ask when, or no more.
struct Fetched {
    target: (RevisionId, Target),
    ask: Option<Ask>,
}

struct Ask {
    at: Instant,
    passthrough: Option<String>,
}

/// A probe that has been ordered.
struct Probe {
    number: u64,
    abort: AbortHandle,
}

/// Its number, whom it asked and how it ended.
type Answer = (u64, (RevisionId, Target), Outcome);

/// Keeps to the orders, and tells the table how probes end. Never ends.
///
/// # Cancel safety
///
/// Dropping it ends its probes. What was ordered before is lost then.
pub(super) async fn run<D: Dial + 'static>(shared: Arc<Shared>, dial: Arc<D>) {
    let mut asking = Asking {
        shared,
        dial,
        probes: HashMap::new(),
        under_way: FuturesUnordered::new(),
        numbers: 0,
    };
    loop {
        asking.obey();
        // Both are cancel safe: what is ordered stays in the table, what is under way in `under_way`.
        tokio::select! {
            () = asking.shared.ordered.notified() => {}
            Some(first) = asking.under_way.next() => asking.tell(first.ok()),
        }
    }
}

struct Asking<D> {
    shared: Arc<Shared>,
    dial: Arc<D>,
    probes: HashMap<(RevisionId, Target), Probe>,
    under_way: FuturesUnordered<Abortable<BoxFuture<'static, Answer>>>,
    numbers: u64,
}

impl<D: Dial + 'static> Asking<D> {
    fn obey(&mut self) {
        let fetched = self.fetch();
        if fetched.is_empty() {
            return;
        }
        for Fetched { target, ask } in fetched {
            if let Some(old) = self.probes.remove(&target) {
                old.abort.abort();
            }
            if let Some(ask) = ask {
                self.begin(target, ask);
            }
        }
        self.shared.table.lock().asking = self.probes.len();
    }

    fn fetch(&self) -> Vec<Fetched> {
        let mut table = self.shared.table.lock();
        let mut orders: Vec<_> = table.orders.drain().collect();
        // In order of time, so that who is to be asked first gets a place first.
        orders.sort_unstable_by_key(|(_, at)| *at);
        let fetched = orders.into_iter().map(|(target, at)| {
            let ask = at.map(|at| Ask {
                at,
                passthrough: Shared::passthrough_host(&table, &target.0),
            });
            Fetched { target, ask }
        });
        let fetched = fetched.collect();
        table.orders.shrink_to(USUAL);
        fetched
    }

    fn begin(&mut self, target: (RevisionId, Target), ask: Ask) {
        self.numbers += 1;
        let number = self.numbers;
        let (abort, registration) = AbortHandle::new_pair();
        let shared = Arc::clone(&self.shared);
        let dial = Arc::clone(&self.dial);
        let asked = target.clone();
        let probe = async move {
            let outcome = attempt(&shared, &*dial, &asked.0, asked.1, ask).await;
            (number, asked, outcome)
        };
        self.under_way
            .push(Abortable::new(probe.boxed(), registration));
        self.probes.insert(target, Probe { number, abort });
    }

    /// Tells of a probe that has ended, and of all others that have ended by now. `None` is one that was stopped.
    fn tell(&mut self, first: Option<Answer>) {
        let mut ended: Vec<_> = first.into_iter().collect();
        while let Some(Some(next)) = self.under_way.next().now_or_never() {
            ended.extend(next.ok());
        }
        let current = ended.into_iter().filter_map(|(number, target, outcome)| {
            let is_current = self.probes.get(&target)?.number == number;
            if is_current {
                self.probes.remove(&target);
            }
            is_current.then_some((target.0, target.1, outcome))
        });
        let answers: Vec<_> = current.collect();
        if answers.is_empty() {
            return;
        }
        self.shared.answered(answers);
        self.shared.table.lock().asking = self.probes.len();
        if self.probes.is_empty() {
            self.probes.shrink_to(USUAL);
        }
    }
}

/// One probe, at its time and when it is its turn.
async fn attempt<D: Dial>(
    shared: &Shared,
    dial: &D,
    id: &RevisionId,
    target: Target,
    ask: Ask,
) -> Outcome {
    // A timer is never early, and up to a millisecond late: not for what is to be done at once.
    if ask.at > Instant::now() {
        sleep_until(ask.at).await;
    }
    let place = shared.places.acquire().await;
    shared.asks(id, target.endpoint());
    let outcome = probe::ask(dial, target.endpoint(), id, ask.passthrough.as_deref()).await;
    drop(place);
    outcome
}
