//! What is behind one Revision's lock: its queue, its starts, its counts.
//!
//! Each step leaves letters for those whose time parked has ended in an [`Outbox`]; the [shell](super::shell) sends
//! them when the lock is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::history::{Failure, History};
use super::lane::{Lane, Lanes};
use super::office::Office;
use super::starts::{RETRY_SOON, later, whole_seconds};
use super::state::{EndpointState, RevisionState};
use super::{Ask, Bound, Parking, Refusal};
use crate::cold_start::{ColdStart, Outcome, Seen, cut};
use crate::endpoint::Endpoint;
use crate::policy::{Draw, better_of_two};
use crate::queue::{Grant, Place, QueueBounds, RevisionQueue, Room, TicketId};
use crate::revision::{ContainerConcurrency, RevisionId, RevisionSpec};

/// Who is parked: the worker, which of its parked requests, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) worker: usize,
    pub(super) slot: usize,
    pub(super) since: Instant,
}

/// Who may go where, or must not; to be sent when the lock is gone.
pub(super) type Outbox = Vec<(Waiter, Result<Endpoint, Refusal>)>;

/// Whose request asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) worker: usize,
    /// The worker's thread.
    pub(super) thread: u64,
    /// The worker's name for the request, should it park.
    pub(super) slot: usize,
    pub(super) draw: Draw,
}

/// What the lock path answers.
#[derive(Debug)]
pub(super) enum Decision {
    Slot(Endpoint),
    Lane(Arc<Lane>),
    Parked(Parked),
    Refused(Refusal),
}

/// A request's place, as it was taken.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) ticket: TicketId,
    pub(super) since: Instant,
    /// How many were parked then, this one among them, and which of them it was.
    pub(super) depth: usize,
    pub(super) position: usize,
    /// The start it waits for, and whether it began with this request.
    pub(super) start: Option<Arc<ColdStart>>,
    pub(super) begins_start: bool,
}

#[derive(Debug)]
pub(super) struct Ledger {
    id: RevisionId,
    spec: Arc<RevisionSpec>,
    parking: Parking,
    is_gone: bool,
    queue: RevisionQueue<Waiter>,
    lanes: Lanes,
    history: History,
    /// What this queue has of the bytes of all; never less than its parked requests hold.
    reserved_bytes: usize,
    /// How many of this queue are counted among the parked of all.
    counted_parked: usize,
    /// The open list was made from the set before the last change.
    list_is_stale: bool,
}

impl Ledger {
    pub(super) fn new(id: RevisionId, bounds: Arc<QueueBounds>) -> Self {
        Self {
            id,
            spec: Arc::default(),
            parking: Parking::Allowed,
            is_gone: false,
            queue: RevisionQueue::new(bounds, ContainerConcurrency::Unlimited),
            lanes: Lanes::default(),
            history: History::default(),
            reserved_bytes: 0,
            counted_parked: 0,
            list_is_stale: false,
        }
    }

    /// The Revision is there (again), with these promises.
    pub(super) fn configure(
        &mut self,
        spec: Arc<RevisionSpec>,
        parking: Parking,
        out: &mut Outbox,
    ) {
        self.is_gone = false;
        self.parking = parking;
        let concurrency = match parking {
            Parking::Allowed => spec.concurrency,
            Parking::Never => ContainerConcurrency::Unlimited, // a full slot would make them wait
        };
        self.spec = spec;
        let grants = self.queue.configure(concurrency, parking == Parking::Never);
        self.granted(grants, out);
        self.end_those_who_may_not_wait(out);
        self.list_is_stale = true;
    }

    /// The Revision is deleted. Permits in use stay valid, and their slots are remembered.
    pub(super) fn remove(&mut self, out: &mut Outbox) {
        self.is_gone = true;
        self.end_all(&Refusal::RevisionGone, out);
        self.set_endpoints(Vec::new(), out);
        if let Some(past) = self.history.any_mut() {
            past.starts.give_up(Outcome::Abandoned, Instant::now());
            past.failure = None;
        }
    }

    /// A milestone of a start was seen. With an endpoint that is ready it belongs to none.
    pub(super) fn saw(&mut self, seen: Seen) {
        if !self.is_gone && !self.queue.has_endpoints() {
            self.history.past().starts.saw(seen);
        }
    }

    pub(super) fn admit(&mut self, ask: Ask, asker: Asker, office: &Office) -> Decision {
        if self.is_gone {
            return Decision::Refused(Refusal::UnknownRevision);
        }
        match self.queue.reserve(ask.avoid) {
            Room::Slot(endpoint) => {
                self.history.past().counters.granted_at_once += 1;
                Decision::Slot(endpoint)
            }
            Room::Open => Decision::Lane(self.open_lane(asker)),
            Room::Full => self.park(ask, asker, office).unwrap_or_else(|refusal| {
                self.history.past().counters.refused.count(&refusal);
                Decision::Refused(refusal)
            }),
        }
    }

    pub(super) fn cancel(&mut self, ticket: TicketId) -> bool {
        let Some(waiter) = self.queue.cancel(ticket) else {
            return false;
        };
        let past = self.history.past();
        past.counters.cancelled += 1;
        past.parked_seconds.observe(waiter.since.elapsed());
        true
    }

    pub(super) fn grow(
        &mut self,
        ticket: TicketId,
        bytes: usize,
        office: &Office,
    ) -> Result<(), Bound> {
        self.reserve_bytes(bytes, office.limits.total_bytes, office)?;
        self.queue.grow(ticket, bytes) // what it does not take, `settle` gives back
    }

    /// How long a start takes at most, as nine of ten of the last ones did.
    pub(super) fn usual_start(&self) -> Option<Duration> {
        self.history.any().starts.usual()
    }

    /// What a request is told that exceeds a bound.
    pub(super) fn queue_full(&self, bound: Bound, now: Instant) -> Refusal {
        let retry_after = if self.queue.has_endpoints() {
            RETRY_SOON
        } else {
            self.history.any().starts.retry_after(now)
        };
        Refusal::QueueFull { retry_after, bound }
    }

    pub(super) fn release(&mut self, endpoint: Endpoint, out: &mut Outbox) {
        let grants = self.queue.release(endpoint);
        self.granted(grants, out);
    }

    /// The answer of a request that was released through the queue has begun, so long after: without a limit it goes on
    /// in its worker's lane, and its slot goes to the next. With a limit nothing changes.
    pub(super) fn has_answered(
        &mut self,
        (endpoint, took): (Endpoint, Duration),
        (worker, thread): (usize, u64),
        out: &mut Outbox,
    ) -> Option<Arc<Lane>> {
        if self.queue.concurrency() != ContainerConcurrency::Unlimited {
            return None;
        }
        self.history.past().last_answer = Some(Instant::now());
        let lane = self.lane(worker, thread, endpoint);
        lane.join();
        let grants = self.queue.release_answered(endpoint, took);
        self.granted(grants, out);
        Some(lane)
    }

    /// A request that was released through the queue has not been answered for a while. If others have meanwhile, it is
    /// because the endpoint has much to do: it may be asked again at the time that is returned.
    pub(super) fn takes_its_time(
        &mut self,
        endpoint: Endpoint,
        (worker, thread): (usize, u64),
        office: &Office,
        out: &mut Outbox,
    ) -> Result<Option<Arc<Lane>>, Instant> {
        if self.queue.concurrency() != ContainerConcurrency::Unlimited {
            return Ok(None);
        }
        if let Some(last) = self.history.any().last_answer {
            let patient = later(last, office.limits.release_patience);
            if patient > Instant::now() && self.queue.parked() > 0 {
                return Err(patient);
            }
        }
        let lane = self.lane(worker, thread, endpoint);
        lane.join();
        let grants = self.queue.release_slow(endpoint);
        self.granted(grants, out);
        Ok(Some(lane))
    }

    pub(super) fn set_endpoints(&mut self, endpoints: Vec<Endpoint>, out: &mut Outbox) {
        if self.is_gone && !endpoints.is_empty() {
            return;
        }
        if !endpoints.is_empty()
            && let Some(past) = self.history.any_mut()
        {
            past.failure = None;
            if let Some(took) = past.starts.ready(Instant::now(), self.queue.parked()) {
                past.cold_start_seconds.observe(took);
            }
        }
        let grants = self.queue.set_endpoints(endpoints);
        self.granted(grants, out);
        self.end_those_who_may_not_wait(out);
        self.list_is_stale = true;
        self.forget_idle_lanes();
    }

    pub(super) fn start_failed(&mut self, reason: Arc<str>, retry_in: Duration, out: &mut Outbox) {
        if !self.queue.has_endpoints() && !self.is_gone {
            self.fail(reason, retry_in, out);
        }
    }

    pub(super) fn set_aside_failed(
        &mut self,
        reason: Arc<str>,
        retry_in: Duration,
        out: &mut Outbox,
    ) {
        let endpoints = self.queue.endpoints();
        let mut endpoints = endpoints.iter().filter(|view| view.is_ready);
        if endpoints.all(|view| view.is_suspect) && !self.is_gone {
            self.fail(reason, retry_in, out);
        }
    }

    fn fail(&mut self, reason: Arc<str>, retry_in: Duration, out: &mut Outbox) {
        let refusal = Refusal::StartFailed {
            reason: Arc::clone(&reason),
            retry_after: whole_seconds(retry_in),
        };
        self.end_all(&refusal, out);
        let now = Instant::now();
        let past = self.history.past();
        past.starts.give_up(Outcome::Failed(cut(&reason)), now);
        past.failure = Some(Failure {
            reason,
            until: later(now, retry_in),
        });
    }

    /// Says whether it was trusted before.
    pub(super) fn suspect(&mut self, endpoint: Endpoint, out: &mut Outbox) -> bool {
        if !self.queue.is_ready(endpoint) || self.queue.is_suspect(endpoint) {
            return false;
        }
        let grants = self.queue.suspect(endpoint);
        self.granted(grants, out);
        self.list_is_stale = true;
        true
    }

    pub(super) fn restore(&mut self, endpoint: Endpoint, out: &mut Outbox) {
        if self.queue.is_suspect(endpoint) {
            if let Some(past) = self.history.any_mut() {
                past.failure = None;
            }
            let grants = self.queue.restore(endpoint);
            self.granted(grants, out);
            self.list_is_stale = true;
        }
    }

    pub(super) fn is_suspect(&self, endpoint: Endpoint) -> bool {
        self.queue.is_suspect(endpoint)
    }

    /// The ready endpoints that are set aside.
    pub(super) fn suspects(&self) -> Vec<Endpoint> {
        let suspects = self
            .queue
            .endpoints()
            .into_iter()
            .filter(|view| view.is_suspect);
        suspects.map(|view| view.endpoint).collect()
    }

    /// The lane of a worker to an endpoint.
    pub(super) fn lane(&mut self, worker: usize, thread: u64, endpoint: Endpoint) -> Arc<Lane> {
        let new = || Lane::new(thread, self.id.clone(), endpoint);
        Arc::clone(self.lanes.get_or_insert_with(endpoint, worker, new))
    }

    /// What follows each step: brings what all queues share up to date. Returns the list of endpoints that workers
    /// may use without asking, if it has changed since `is_open` was published.
    pub(super) fn settle(&mut self, is_open: bool, office: &Office) -> Option<Vec<Endpoint>> {
        let held = self.queue.parked_bytes();
        debug_assert!(self.reserved_bytes >= held, "holds bytes nobody reserved");
        office.give_back_bytes(self.reserved_bytes - held);
        self.reserved_bytes = held;
        office.count_parked(self.counted_parked, self.queue.parked());
        self.counted_parked = self.queue.parked();
        let stale = std::mem::take(&mut self.list_is_stale);
        let open_now = self.queue.is_open();
        if open_now == is_open && !(open_now && stale) {
            return None;
        }
        let mut list = Vec::new();
        if open_now {
            list.extend(self.queue.eligible());
            list.shrink_to_fit();
        }
        Some(list)
    }

    /// Whether no permit is in use, nor anything parked or ready.
    pub(super) fn is_idle(&self) -> bool {
        let lanes_are_idle = self.lanes.iter().all(|lane| lane.in_flight() == 0);
        lanes_are_idle && self.queue.parked() == 0 && self.queue.endpoints().is_empty()
    }

    pub(super) fn state(&self) -> Option<RevisionState> {
        if self.is_gone {
            return None;
        }
        let endpoints = self.endpoint_states();
        let past = self.history.any();
        let mut counters = past.counters;
        counters.granted_at_once += self.lanes.iter().map(|lane| lane.granted()).sum::<u64>();
        Some(RevisionState {
            id: self.id.clone(),
            spec: Arc::clone(&self.spec),
            parking: self.parking,
            in_flight: endpoints.iter().map(|endpoint| endpoint.in_flight).sum(),
            endpoints,
            parked: self.queue.parked(),
            most_parked: past.most_parked,
            parked_bytes: self.queue.parked_bytes(),
            counters,
            parked_seconds: past.parked_seconds.clone(),
            cold_start_seconds: past.cold_start_seconds.clone(),
            starting_since: past.starts.since(),
            usual_start: past.starts.usual(),
            failure: past
                .failure
                .as_ref()
                .map(|failure| Arc::clone(&failure.reason)),
        })
    }

    fn endpoint_states(&self) -> Vec<EndpointState> {
        let mut in_lanes: BTreeMap<Endpoint, u64> = BTreeMap::new();
        for lane in self.lanes.iter() {
            *in_lanes.entry(lane.endpoint()).or_default() += lane.in_flight();
        }
        let mut states: Vec<_> = self
            .queue
            .endpoints()
            .into_iter()
            .map(|view| EndpointState {
                endpoint: view.endpoint,
                in_flight: u64::from(view.in_use) + in_lanes.remove(&view.endpoint).unwrap_or(0),
                slots_in_use: view.in_use,
                is_ready: view.is_ready,
                is_suspect: view.is_suspect,
            })
            .collect();
        let left = in_lanes.into_iter().filter(|(_, in_flight)| *in_flight > 0);
        states.extend(left.map(|(endpoint, in_flight)| EndpointState {
            endpoint,
            in_flight,
            slots_in_use: 0,
            is_ready: false,
            is_suspect: false,
        }));
        states
    }

    fn open_lane(&mut self, asker: Asker) -> Arc<Lane> {
        let lanes: Vec<_> = self.queue.eligible().collect();
        let load = |index: usize| {
            let lane = self.lanes.get(lanes[index], asker.worker);
            lane.map_or(0, |lane| lane.in_flight())
        };
        let chosen = better_of_two(lanes.len(), asker.draw, load)
            .expect("open means that there is an endpoint");
        self.lane(asker.worker, asker.thread, lanes[chosen])
    }

    fn park(&mut self, ask: Ask, asker: Asker, office: &Office) -> Result<Decision, Refusal> {
        let now = Instant::now();
        self.may_park(ask, now, office)?;
        let place = Place {
            bytes: ask.bytes,
            client: ask.client,
            first_in_line: ask.first_in_line,
        };
        let waiter = Waiter {
            worker: asker.worker,
            slot: asker.slot,
            since: now,
        };
        let is_first = self.queue.parked() == 0;
        let most = if ask.first_in_line {
            usize::MAX // a promise was made when it was admitted
        } else {
            office.limits.total_bytes
        };
        let reserved = self.reserve_bytes(ask.bytes, most, office);
        let parked = reserved.and_then(|()| self.queue.park(place, waiter));
        let ticket = parked.map_err(|bound| self.queue_full(bound, now))?;
        let past = self.history.past();
        past.counters.parked_total += 1;
        let depth = self.queue.parked();
        past.most_parked = past.most_parked.max(depth);
        let (mut start, mut begins_start) = (None, false);
        if !self.queue.has_endpoints() {
            begins_start = past.starts.begin(now, is_first, || {
                let arrived = ask.arrived.unwrap_or(now).min(now);
                office.cold_starts.begin(self.id.clone(), arrived)
            });
            past.counters.cold_starts += u64::from(begins_start);
            start = past.starts.wait(depth);
        }
        Ok(Decision::Parked(Parked {
            ticket,
            since: now,
            depth,
            position: if ask.first_in_line { 1 } else { depth },
            start,
            begins_start,
        }))
    }

    fn may_park(&self, ask: Ask, now: Instant, office: &Office) -> Result<(), Refusal> {
        if self.parking == Parking::Never && !self.queue.has_endpoints() {
            return Err(Refusal::NoEndpoint);
        }
        if ask.only_if_up && !self.queue.has_endpoints() {
            return Err(Refusal::Asleep);
        }
        if let Some(failure) = &self.history.any().failure
            && now < failure.until
        {
            return Err(Refusal::StartFailed {
                reason: Arc::clone(&failure.reason),
                retry_after: whole_seconds(failure.until - now),
            });
        }
        // A request that was admitted once came before the drain began.
        if office.is_draining() && !ask.first_in_line {
            return Err(Refusal::Draining);
        }
        Ok(())
    }

    fn reserve_bytes(&mut self, bytes: usize, most: usize, office: &Office) -> Result<(), Bound> {
        if !office.reserve_bytes(bytes, most) {
            return Err(Bound::TotalBytes);
        }
        self.reserved_bytes += bytes;
        Ok(())
    }

    fn granted(&mut self, grants: Vec<Grant<Waiter>>, out: &mut Outbox) {
        if grants.is_empty() {
            return; // most releases: not even the clock is read
        }
        let now = Instant::now();
        let past = self.history.past();
        past.counters.released += grants.len() as u64;
        let since = grants.iter().map(|grant| grant.waiter.since);
        past.starts.release(since, now, self.queue.parked());
        for Grant { endpoint, waiter } in grants {
            past.parked_seconds
                .observe(now.duration_since(waiter.since));
            out.push((waiter, Ok(endpoint)));
        }
    }

    fn end_all(&mut self, refusal: &Refusal, out: &mut Outbox) {
        let now = Instant::now();
        for waiter in self.queue.end_all() {
            let past = self.history.past();
            past.parked_seconds
                .observe(now.duration_since(waiter.since));
            past.counters.refused.count(refusal);
            out.push((waiter, Err(refusal.clone())));
        }
    }

    fn end_those_who_may_not_wait(&mut self, out: &mut Outbox) {
        if self.parking == Parking::Never && !self.queue.has_endpoints() {
            self.end_all(&Refusal::NoEndpoint, out);
        }
    }

    /// Forgets lanes of endpoints that left, once neither a worker nor a permit knows them.
    fn forget_idle_lanes(&mut self) {
        let (queue, history) = (&self.queue, &mut self.history);
        self.lanes.retain(|lane| {
            // Exclusive access also shows us all that others counted before they let go of it.
            let is_known = queue.is_ready(lane.endpoint()) || Arc::get_mut(lane).is_none();
            if !is_known {
                history.past().counters.granted_at_once += lane.granted();
            }
            is_known
        });
    }
}
