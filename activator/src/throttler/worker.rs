//! The side of the throttler that lives on a request worker: admission, and tickets of parked requests.
//!
//! A worker and its tickets stay on one thread and share their state without locks. Each parked request has a slot;
//! exactly one of two things ends it: the ticket takes it back (client gone), or a letter arrives.
//!
//! ```text
//!            letter                 poll
//!  Waiting ─────────▶ Ended ───────────────▶ (free)
//!     │                  │ ticket dropped        ▲
//!     │                  └───────────────────────┤  its permit goes to the next in line
//!     │ ticket dropped, still in the queue       │
//!     ├──────────────────────────────────────────┤
//!     │ ticket dropped, letter on its way        │ letter
//!     └────────▶ Left ───────────────────────────┘  its permit goes to the next in line
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::lane::{Lane, thread_number};
use super::ledger::{Asker, Decision, Ledger, Parked};
use super::mailbox::{Letter, Mailbox};
use super::shell::Shell;
use super::starts::RETRY_SOON;
use super::{Admission, Ask, Bound, Inner, Permit, Refusal};
use crate::cold_start::ColdStart;
use crate::endpoint::Endpoint;
use crate::policy::{Draw, better_of_two};
use crate::queue::TicketId;
use crate::revision::{RevisionId, RevisionMap};

/// Above this many slots a worker with nothing parked gives their memory back.
const KEPT_SLOTS: usize = 64;

/// A request worker's way in. Lives on one single-threaded runtime, where [`run`](Self::run) must run beside the
/// requests.
///
/// Dropping it ends what its tickets wait for with [`Refusal::Draining`].
pub struct Worker {
    local: Rc<Local>,
}

/// A parked request's place; resolves to its permit.
///
/// # Cancel safety
///
/// Dropping it gives up the place and its bytes; a permit granted in that moment goes to the next in line.
#[must_use = "dropping a ticket gives up its place"]
pub struct Ticket {
    local: Rc<Local>,
    /// `None` once it has resolved.
    slot: Option<usize>,
    since: Instant,
    place: QueuePlace,
    start: Option<Arc<ColdStart>>,
}

/// Where a request stood when it parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// Its place in the line, the first is 1.
    pub position: u32,
    /// How many were parked, this one among them.
    pub depth: u32,
}

/// What a worker and its tickets share. Each request writes to it, so it is alone on its cache lines.
#[repr(align(128))]
struct Local {
    inner: Arc<Inner>,
    index: usize,
    thread: u64,
    known: RefCell<RevisionMap<Known>>,
    /// Removals the cache above has seen.
    removals: Cell<u64>,
    slots: RefCell<Slab<Slot>>,
    draws: Cell<u64>,
}

/// What a worker remembers of a Revision, so that a warm request without a limit asks nobody.
struct Known {
    shell: Arc<Shell>,
    generation: u64,
    open_list: Arc<Vec<Endpoint>>,
    lanes: Vec<Arc<Lane>>,
}

/// One parked request. See the [module](self) for how it goes on.
enum Slot {
    Waiting {
        shell: Arc<Shell>,
        ticket: TicketId,
        waker: Option<Waker>,
    },
    Ended(Result<Permit, Refusal>),
    Left,
}

impl Worker {
    pub(super) fn new(inner: Arc<Inner>, index: usize, seed: u64) -> Self {
        Self {
            local: Rc::new(Local {
                inner,
                index,
                thread: thread_number(),
                known: RefCell::default(),
                removals: Cell::new(0),
                slots: RefCell::default(),
                draws: Cell::new(seed),
            }),
        }
    }

    /// A permit for a newcomer without asking anybody: the Revision is known here, has no limit, is ready, and nothing
    /// is parked. Nearly all requests get theirs here; the others [ask](Self::admit).
    #[must_use]
    pub fn admit_warm(&self, id: &RevisionId) -> Option<Permit> {
        let local = &self.local;
        let mut cache = local.known.borrow_mut();
        let known = cache.get_mut(id)?;
        known.refresh(local);
        known.grant(None, local.draw())
    }

    /// Sends an arriving request on, parks it, or refuses it.
    pub fn admit(&self, id: &RevisionId, ask: Ask) -> Admission {
        let admission = self.admit_as_known(id, ask);
        let is_unknown = matches!(admission, Admission::Refused(Refusal::UnknownRevision));
        if is_unknown && self.local.forget(id) {
            return self.admit_as_known(id, ask); // deleted, but it may have come back as another
        }
        admission
    }

    /// Says that a request which was parked is answered: its response has begun, `took` after it had its permit.
    ///
    /// Without a limit, its place in the release window ([`QueueLimits::release_window`](super::QueueLimits)) goes to the
    /// next parked request; long responses would else keep everybody else waiting. With a limit the slot is the request's
    /// until it ends, and nothing happens.
    pub fn has_answered(&self, permit: &mut Permit, took: Duration) {
        permit.has_answered(took, (self.local.index, self.local.thread));
    }

    /// Says that a request which was parked is not answered yet, although it had its permit
    /// [`QueueLimits::release_patience`](super::QueueLimits) ago. Without a limit its place goes to the next, as if it
    /// was answered, unless others of its Revision have been answered since: then the endpoint has all it can do, and
    /// this is to be called again at the time that is returned.
    pub fn takes_its_time(&self, permit: &mut Permit) -> Option<Instant> {
        permit.takes_its_time((self.local.index, self.local.thread))
    }

    /// [`QueueLimits::release_patience`](super::QueueLimits).
    pub fn release_patience(&self) -> Duration {
        self.local.inner.office.limits.release_patience
    }

    /// Hands arriving permits to parked requests: at most `release_batch` a turn, then others on this thread run.
    ///
    /// Never ends.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped; while it does not run, parked requests stay parked.
    pub async fn run(&self) {
        let batch = self.local.inner.office.limits.release_batch;
        let mut letters = Vec::new();
        let mailbox = self.local.mailbox();
        loop {
            poll_fn(|cx| mailbox.poll_take(cx, batch, &mut letters)).await;
            for letter in letters.drain(..) {
                self.local.deliver(letter);
            }
            // Asked only now: a permit whose client has left may have sent a letter to us meanwhile.
            if mailbox.has_letters() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Admits to the Revision this worker remembers by that name.
    fn admit_as_known(&self, id: &RevisionId, ask: Ask) -> Admission {
        let local = &self.local;
        let draw = local.draw();
        let mut cache = local.known.borrow_mut();
        if !cache.contains_key(id) {
            local.look_up(id, &mut cache);
        }
        let Some(known) = cache.get_mut(id) else {
            return Admission::Refused(Refusal::UnknownRevision);
        };
        known.refresh(local);
        if let Some(permit) = known.grant(ask.avoid, draw) {
            return Admission::Granted(permit);
        }
        let shell = Arc::clone(&known.shell);
        drop(cache);
        self.ask(shell, ask, draw)
    }

    /// Asks the queue, under its lock.
    fn ask(&self, shell: Arc<Shell>, ask: Ask, draw: Draw) -> Admission {
        let slot = self.local.slots.borrow().vacant_key();
        let asker = Asker {
            worker: self.local.index,
            thread: self.local.thread,
            slot,
            draw,
        };
        match shell.step(|ledger, office, _| ledger.admit(ask, asker, office)) {
            Decision::Slot(endpoint) => Admission::Granted(Permit::of_slot(shell, endpoint, false)),
            Decision::Lane(lane) => Admission::Granted(Permit::of_lane(&lane)),
            Decision::Parked(parked) => {
                if parked.begins_start {
                    self.local.inner.office.cold_starts.announce();
                }
                Admission::Parked(self.ticket(shell, slot, parked))
            }
            Decision::Refused(refusal) => Admission::Refused(refusal),
        }
    }

    fn ticket(&self, shell: Arc<Shell>, slot: usize, parked: Parked) -> Ticket {
        let waiting = Slot::Waiting {
            shell,
            ticket: parked.ticket,
            waker: None,
        };
        let inserted = self.local.slots.borrow_mut().insert(waiting);
        debug_assert_eq!(inserted, slot, "nothing on this thread came between");
        Ticket {
            local: Rc::clone(&self.local),
            slot: Some(slot),
            since: parked.since,
            place: QueuePlace {
                position: u32::try_from(parked.position).unwrap_or(u32::MAX),
                depth: u32::try_from(parked.depth).unwrap_or(u32::MAX),
            },
            start: parked.start,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // First out of all queues, then close: so no grant can come back to us, and from us to us again.
        for (shell, ticket, waker) in self.local.end_waiting() {
            shell.step(|ledger, _, _| ledger.cancel(ticket));
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        drop(self.local.mailbox().close());
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("index", &self.local.index)
            .finish_non_exhaustive()
    }
}

impl Ticket {
    /// Lets the request hold `bytes` more while it is parked.
    ///
    /// A request that is no longer parked holds nothing; then this does nothing. The bounds hold for everybody, also
    /// for a request that is being sent again: what has been read of it already may wait, but no more is taken in.
    ///
    /// # Errors
    ///
    /// The first bound it would exceed; nothing has changed then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Bound> {
        if bytes == 0 {
            return Ok(()); // the queue may hold more than it may, but not because of this
        }
        let Some((shell, ticket)) = self.local.waiting(self.slot) else {
            return Ok(());
        };
        shell.step(|ledger, office, _| ledger.grow(ticket, bytes, office))
    }

    /// What to answer when it was to [`grow`](Self::grow) beyond `bound`, with the Revision's `Retry-After`.
    ///
    /// Changes nothing: the request stays parked until the ticket is dropped, and then counts as cancelled.
    pub fn refusal(&self, bound: Bound) -> Refusal {
        match self.local.waiting(self.slot) {
            Some((shell, _)) => shell.read(|ledger| ledger.queue_full(bound, Instant::now())),
            // It waits no more, so whoever comes again soon will not wait long either.
            None => Refusal::QueueFull {
                retry_after: RETRY_SOON,
                bound,
            },
        }
    }

    /// How long a start of its Revision takes at most, as nine of ten of the last ones did; none before the first.
    pub fn usual_start(&self) -> Option<Duration> {
        let (shell, _) = self.local.waiting(self.slot)?;
        shell.read(Ledger::usual_start)
    }

    /// When it parked.
    pub fn parked_since(&self) -> Instant {
        self.since
    }

    /// Where it stood then.
    pub fn place(&self) -> QueuePlace {
        self.place
    }

    /// The start it waits for; none if it waits for a slot of an endpoint that is ready.
    pub fn start(&self) -> Option<&Arc<ColdStart>> {
        self.start.as_ref()
    }
}

impl Future for Ticket {
    type Output = Result<Permit, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(slot) = self.slot else {
            return Poll::Ready(Err(Refusal::RevisionGone)); // polled again after it had resolved
        };
        let mut slots = self.local.slots.borrow_mut();
        let stale = match &mut slots[slot] {
            Slot::Waiting { waker, .. } => waker.replace(cx.waker().clone()),
            Slot::Ended(_) | Slot::Left => {
                drop(slots);
                let ended = self.local.free(slot);
                self.slot = None;
                return match ended {
                    Some(Slot::Ended(outcome)) => Poll::Ready(outcome),
                    _ => Poll::Ready(Err(Refusal::RevisionGone)),
                };
            }
        };
        drop(slots);
        drop(stale); // a waker is somebody else's code: not while the slots are borrowed
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let Some((shell, ticket)) = self.local.waiting(Some(slot)) else {
            drop(self.local.free(slot)); // its permit goes to the next in line
            return;
        };
        if shell.step(|ledger, _, _| ledger.cancel(ticket)) {
            drop(self.local.free(slot));
        } else {
            drop(self.local.leave(slot));
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

impl Local {
    fn mailbox(&self) -> &Mailbox {
        self.inner.office.mailbox(self.index)
    }

    /// The next random number: splitmix64.
    fn draw(&self) -> Draw {
        let state = self.draws.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.draws.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Draw(mixed ^ (mixed >> 31))
    }

    /// Asks the registry for a Revision that is not in the cache, and remembers it.
    fn look_up(&self, id: &RevisionId, cache: &mut RevisionMap<Known>) {
        let removals = self.inner.removals.load(Ordering::Relaxed);
        if removals != self.removals.replace(removals) {
            cache.retain(|id, _| self.inner.shell(id).is_some());
        }
        if let Some(shell) = self.inner.shell(id) {
            cache.insert(id.clone(), Known::new(shell));
        }
    }

    /// Says whether there was something to forget.
    fn forget(&self, id: &RevisionId) -> bool {
        self.known.borrow_mut().remove(id).is_some()
    }

    fn waiting(&self, slot: Option<usize>) -> Option<(Arc<Shell>, TicketId)> {
        match self.slots.borrow().get(slot?)? {
            Slot::Waiting { shell, ticket, .. } => Some((Arc::clone(shell), *ticket)),
            Slot::Ended(_) | Slot::Left => None,
        }
    }

    /// Ends a slot's use. What was in it is to be dropped when nothing is borrowed.
    #[must_use = "it may hold a permit or a waker"]
    fn free(&self, slot: usize) -> Option<Slot> {
        let mut slots = self.slots.borrow_mut();
        let freed = slots.try_remove(slot);
        if slots.is_empty() && slots.capacity() > KEPT_SLOTS {
            *slots = Slab::new();
        }
        freed
    }

    /// The ticket is gone, but a letter is on its way and needs the slot until it arrives.
    #[must_use = "it may hold a waker"]
    fn leave(&self, slot: usize) -> Option<Slot> {
        let mut slots = self.slots.borrow_mut();
        slots
            .get_mut(slot)
            .map(|slot| std::mem::replace(slot, Slot::Left))
    }

    fn deliver(&self, letter: Letter) {
        let Letter { slot, outcome } = letter;
        let mut slots = self.slots.borrow_mut();
        let Some(entry) = slots.get_mut(slot) else {
            debug_assert!(false, "a letter for nobody");
            drop(slots); // before the outcome, which may hold a permit
            return;
        };
        if matches!(entry, Slot::Left) {
            drop(slots);
            drop(self.free(slot));
            drop(outcome); // the permit goes to the next in line
            return;
        }
        let waited = std::mem::replace(entry, Slot::Ended(outcome));
        drop(slots);
        if let Slot::Waiting {
            waker: Some(waker), ..
        } = waited
        {
            waker.wake();
        }
    }

    /// Ends all that wait because the worker goes.
    fn end_waiting(&self) -> Vec<(Arc<Shell>, TicketId, Option<Waker>)> {
        let mut ended = Vec::new();
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if matches!(slot, Slot::Waiting { .. })
                && let Slot::Waiting {
                    shell,
                    ticket,
                    waker,
                } = std::mem::replace(slot, Slot::Ended(Err(Refusal::Draining)))
            {
                ended.push((shell, ticket, waker));
            }
        }
        ended
    }
}

impl Known {
    fn new(shell: Arc<Shell>) -> Self {
        Self {
            shell,
            generation: u64::MAX, // never published: the first use reads the list
            open_list: Arc::default(),
            lanes: Vec::new(),
        }
    }

    /// Reads the list anew if it has changed.
    fn refresh(&mut self, local: &Local) {
        let generation = self.shell.generation(); // before the list: a later list only means to read it twice
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        let open_list = self.shell.open_list();
        self.lanes = if open_list.is_empty() {
            Vec::new()
        } else {
            self.shell.lanes(local.index, local.thread, &open_list)
        };
        self.open_list = open_list;
    }

    /// A permit without asking, if the queue is open.
    fn grant(&self, avoid: Option<Endpoint>, draw: Draw) -> Option<Permit> {
        let avoided = avoid.and_then(|avoid| self.open_list.binary_search(&avoid).ok());
        let lane = match avoided {
            Some(avoided) if self.lanes.len() > 1 => {
                let skip = |index: usize| index + usize::from(index >= avoided);
                let load = |index| self.lanes[skip(index)].in_flight();
                skip(better_of_two(self.lanes.len() - 1, draw, load)?)
            }
            _ => better_of_two(self.lanes.len(), draw, |index| {
                self.lanes[index].in_flight()
            })?,
        };
        Some(Permit::of_lane(&self.lanes[lane]))
    }
}
