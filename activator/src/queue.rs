//! One Revision's admission state: who waits, and which slots are in use.
//!
//! Pure: no clock, no tasks, no locks. A request first asks for room ([`RevisionQueue::reserve`]); without room it
//! parks ([`RevisionQueue::park`]) and gets a [`TicketId`]. Whatever makes room (a request ended, an endpoint became
//! ready, a limit rose) returns the grants it made, in order of arrival and never more than there are free slots.
//! One rule carries everything, and is checked after each step: **while anything is parked, no endpoint has room**,
//! so that a newcomer cannot overtake.
//!
//! ```text
//!                 room                          release, set_endpoints,
//!   arrives ──reserve──▶ Slot(endpoint)         restore, configure
//!      │                     ▲                          │
//!      │ Full                └────────── Grant ◀────────┤
//!      ▼                                                │
//!     park ──▶ parked ─────────────────────────────────▶┘
//!      │          └──▶ cancel, end_all
//!      ▼
//!    Bound
//! ```
//!
//! A Revision without a limit has slots too, but only for what passes through the queue: as many per endpoint as its
//! `window` is wide, so that thousands parked do not fall on the first endpoint at once. While nothing is parked, such
//! a Revision is *open* ([`Room::Open`]) and requests need no slot.

mod invariants;
mod line;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::policy::{self, Policy};
use crate::revision::ContainerConcurrency;
use line::{Line, Spot};
use window::Window;

/// How much one Revision may park, and how it lets go.
///
/// What is sent again ([`Place::first_in_line`]) parks beyond these bounds, but counts for everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Requests parked at once.
    pub depth: usize,
    /// Bytes held by parked requests.
    pub bytes: usize,
    /// Percent of `depth` and of `bytes` that one client key may hold; at least one place. `None`: no such bound.
    pub client_share: Option<NonZeroU8>,
    /// Without a limit: how many requests released through the queue one endpoint works on at once, to begin with.
    pub release_window: NonZeroU32,
    /// … and at most, when its answers come as fast as if there were none beside them.
    pub widest_window: NonZeroU32,
}

/// Which bound kept a request from parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Bound {
    /// As many requests are parked as the Revision may park.
    #[error("as many requests as allowed are parked")]
    Depth,
    /// The Revision's parked requests hold as many bytes as they may.
    #[error("parked requests of the Revision hold as many bytes as allowed")]
    Bytes,
    /// All Revisions' parked requests together hold as many bytes as they may.
    #[error("parked requests of all Revisions hold as many bytes as allowed")]
    TotalBytes,
    /// The client already holds its share of the queue.
    #[error("the client holds its share of the queue")]
    ClientShare,
}

/// What [`RevisionQueue::reserve`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A slot of this endpoint, now taken: [`RevisionQueue::release`] it.
    Slot(Endpoint),
    /// No limit and nothing parked: any endpoint of [`RevisionQueue::eligible`], and nothing to give back.
    Open,
    /// None: park or give up.
    Full,
}

/// What a request brings when it parks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Bytes it holds while parked.
    pub bytes: usize,
    /// Whose share it counts against.
    pub client: Option<u64>,
    /// It was admitted before and is being sent again: it goes before all that were not, behind others like it, and
    /// parks however full the queue is.
    pub first_in_line: bool,
}

/// A parked request's place. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketId {
    returned: bool,
    spot: Spot,
}

/// A parked request may go: the endpoint's slot is taken for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant<W> {
    /// Where it goes; [`RevisionQueue::release`] this when it has ended.
    pub endpoint: Endpoint,
    /// Who it is.
    pub waiter: W,
}

/// One endpoint as the queue sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Its address.
    pub endpoint: Endpoint,
    /// Slots taken through this queue.
    pub in_use: u32,
    /// Slots it has; 0 when it has left.
    pub slots: u32,
    /// In the set of ready endpoints; otherwise it has left and its last requests have not ended.
    pub is_ready: bool,
    /// Set aside, because it refused a connection.
    pub is_suspect: bool,
}

/// One Revision's queue with its endpoint slots. See the [module](self).
///
/// There may be tens of thousands that have neither endpoints nor anybody parked: then it owns nothing but itself.
#[derive(Debug)]
pub struct RevisionQueue<W> {
    bounds: Arc<QueueBounds>,
    concurrency: ContainerConcurrency,
    suspects_as_last_resort: bool,
    /// The ready ones, in address order.
    endpoints: Box<[Slots]>,
    /// Slots of endpoints that left while busy. They are still in use, should the endpoint come back.
    left: BTreeMap<Endpoint, u32>,
    /// Free slots of all eligible endpoints together.
    free: u64,
    /// All endpoints before this one are full.
    first_free: usize,
    /// Whose turn it is.
    turn: usize,
    /// Parked again after having been admitted before: they go first.
    returned: Line<Parked<W>>,
    newcomers: Line<Parked<W>>,
    bytes: usize,
    clients: BTreeMap<u64, Holding>,
}

#[derive(Debug)]
struct Slots {
    endpoint: Endpoint,
    in_use: u32,
    /// Counts without a limit.
    window: Window,
    is_suspect: bool,
    is_eligible: bool,
}

impl Slots {
    fn all(&self, concurrency: ContainerConcurrency) -> u32 {
        match concurrency {
            ContainerConcurrency::Unlimited => self.window.slots(),
            ContainerConcurrency::Limited(limit) => limit.get(),
        }
    }

    fn free(&self, concurrency: ContainerConcurrency) -> u32 {
        if self.is_eligible {
            self.all(concurrency).saturating_sub(self.in_use)
        } else {
            0
        }
    }
}

#[derive(Debug)]
struct Parked<W> {
    waiter: W,
    bytes: usize,
    client: Option<u64>,
}

/// What one client key holds of the queue.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    places: usize,
    bytes: usize,
}

impl<W> RevisionQueue<W> {
    /// A queue without endpoints. Queues may share their bounds.
    pub fn new(bounds: impl Into<Arc<QueueBounds>>, concurrency: ContainerConcurrency) -> Self {
        Self {
            bounds: bounds.into(),
            concurrency,
            suspects_as_last_resort: false,
            endpoints: Box::default(),
            left: BTreeMap::new(),
            free: 0,
            first_free: 0,
            turn: 0,
            returned: Line::new(),
            newcomers: Line::new(),
            bytes: 0,
            clients: BTreeMap::new(),
        }
    }

    /// Takes a free slot for an arriving request, at another endpoint than `avoid` if one has room.
    pub fn reserve(&mut self, avoid: Option<Endpoint>) -> Room {
        if self.is_open() {
            return Room::Open;
        }
        if self.concurrency == ContainerConcurrency::Unlimited {
            return Room::Full; // its slots are for the parked
        }
        let room = match self.choose(avoid) {
            Some(index) => Room::Slot(self.take(index)),
            None => Room::Full,
        };
        self.check_invariants();
        room
    }

    /// Parks a request for which there was no room.
    ///
    /// # Errors
    ///
    /// The first bound it would exceed; nothing has changed then. What is sent again exceeds none, unless its bytes
    /// cannot be counted any more ([`Bound::Bytes`]).
    pub fn park(&mut self, place: Place, waiter: W) -> Result<TicketId, Bound> {
        debug_assert!(
            self.free == 0 && !self.is_open(),
            "parks although there is room"
        );
        if !place.first_in_line {
            if self.parked() >= self.bounds.depth {
                return Err(Bound::Depth);
            }
            self.may_hold(place.client, 1, place.bytes)?;
        }
        self.hold(place.client, 1, place.bytes)?;
        let parked = Parked {
            waiter,
            bytes: place.bytes,
            client: place.client,
        };
        let line = self.line(place.first_in_line);
        let ticket = TicketId {
            returned: place.first_in_line,
            spot: line.push(parked),
        };
        self.check_invariants();
        Ok(ticket)
    }

    /// Lets a parked request hold `bytes` more.
    ///
    /// A ticket that is no longer parked holds nothing: then nothing happens.
    ///
    /// # Errors
    ///
    /// The first bound it would exceed; nothing has changed then.
    pub fn grow(&mut self, ticket: TicketId, bytes: usize) -> Result<(), Bound> {
        let Some(parked) = self.line(ticket.returned).get_mut(ticket.spot) else {
            return Ok(());
        };
        let client = parked.client;
        if bytes == 0 {
            return Ok(()); // also when what was sent again holds more than the bounds
        }
        self.may_hold(client, 0, bytes)?;
        self.hold(client, 0, bytes)?;
        if let Some(parked) = self.line(ticket.returned).get_mut(ticket.spot) {
            parked.bytes += bytes;
        }
        self.check_invariants();
        Ok(())
    }

    /// Takes a parked request out; `None` when it is no longer parked.
    pub fn cancel(&mut self, ticket: TicketId) -> Option<W> {
        let parked = self.line(ticket.returned).remove(ticket.spot)?;
        let waiter = self.let_go(parked);
        self.check_invariants();
        Some(waiter)
    }

    /// Takes everyone out, in order.
    pub fn end_all(&mut self) -> Vec<W> {
        let ended = std::iter::from_fn(|| self.next_parked()).collect();
        self.check_invariants();
        ended
    }

    /// A request has ended: its slot is free for the next one.
    pub fn release(&mut self, endpoint: Endpoint) -> Vec<Grant<W>> {
        self.let_slot_go(endpoint, |_| {})
    }

    /// The same without a limit, for a request whose answer has begun so long after it was released: the slot is needed
    /// no longer, and perhaps there are more of them now.
    pub fn release_answered(&mut self, endpoint: Endpoint, took: Duration) -> Vec<Grant<W>> {
        let widest = self.bounds.widest_window;
        self.let_slot_go(endpoint, |window| window.answered(took, widest))
    }

    /// The same for a request that takes its time, as all do now: it is not for want of breath, so one more may go.
    pub fn release_slow(&mut self, endpoint: Endpoint) -> Vec<Grant<W>> {
        let widest = self.bounds.widest_window;
        self.let_slot_go(endpoint, |window| window.widen(widest))
    }

    fn let_slot_go(
        &mut self,
        endpoint: Endpoint,
        learn: impl FnOnce(&mut Window),
    ) -> Vec<Grant<W>> {
        let concurrency = self.concurrency;
        match self.position(endpoint) {
            Ok(index) => {
                let slots = &mut self.endpoints[index];
                debug_assert!(
                    slots.in_use > 0,
                    "{endpoint} releases a slot it does not hold"
                );
                let before = slots.free(concurrency);
                slots.in_use = slots.in_use.saturating_sub(1);
                learn(&mut slots.window);
                self.free += u64::from(slots.free(concurrency) - before);
                self.first_free = self.first_free.min(index);
            }
            Err(_) => self.release_left(endpoint),
        }
        self.grants()
    }

    /// Replaces the set of ready endpoints.
    ///
    /// Those that stay keep their slots and their suspicion. Those that leave while busy are remembered, so that
    /// their old requests still hold slots if they come back.
    pub fn set_endpoints(&mut self, mut endpoints: Vec<Endpoint>) -> Vec<Grant<W>> {
        endpoints.sort_unstable();
        endpoints.dedup();
        let mut after = Vec::with_capacity(endpoints.len());
        for old in std::mem::take(&mut self.endpoints) {
            match endpoints.binary_search(&old.endpoint) {
                Ok(_) => after.push(old),
                Err(_) if old.in_use > 0 => {
                    self.left.insert(old.endpoint, old.in_use);
                }
                Err(_) => {}
            }
        }
        let stayed = after.len();
        for endpoint in endpoints {
            let is_new = after[..stayed]
                .binary_search_by_key(&endpoint, |slots| slots.endpoint)
                .is_err();
            if is_new {
                after.push(Slots {
                    endpoint,
                    in_use: self.left.remove(&endpoint).unwrap_or(0),
                    window: Window::new(self.bounds.release_window),
                    is_suspect: false,
                    is_eligible: true,
                });
            }
        }
        after.sort_unstable_by_key(|slots| slots.endpoint);
        self.endpoints = after.into();
        self.recount();
        self.grants()
    }

    /// Sets an endpoint aside. It is not chosen until restored; requests it works on are left alone.
    pub fn suspect(&mut self, endpoint: Endpoint) -> Vec<Grant<W>> {
        self.set_suspect(endpoint, true)
    }

    /// Lets a suspect endpoint be chosen again.
    pub fn restore(&mut self, endpoint: Endpoint) -> Vec<Grant<W>> {
        self.set_suspect(endpoint, false)
    }

    /// Changes the limit, and whether suspect endpoints are used when there are no others.
    ///
    /// Where a lower limit finds more in use, nothing is granted until enough of it has ended.
    pub fn configure(
        &mut self,
        concurrency: ContainerConcurrency,
        suspects_as_last_resort: bool,
    ) -> Vec<Grant<W>> {
        self.concurrency = concurrency;
        self.suspects_as_last_resort = suspects_as_last_resort;
        self.recount();
        self.grants()
    }

    /// The limit per endpoint.
    pub fn concurrency(&self) -> ContainerConcurrency {
        self.concurrency
    }

    /// How many are parked.
    pub fn parked(&self) -> usize {
        self.returned.len() + self.newcomers.len()
    }

    /// How many bytes they hold.
    pub fn parked_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether requests need no slot: there is no limit, nothing is parked, and there is an endpoint.
    pub fn is_open(&self) -> bool {
        self.concurrency == ContainerConcurrency::Unlimited
            && self.parked() == 0
            && self.eligible().next().is_some()
    }

    /// Whether any endpoint is ready, suspect or not.
    pub fn has_endpoints(&self) -> bool {
        !self.endpoints.is_empty()
    }

    /// Whether the endpoint is ready but set aside.
    pub fn is_suspect(&self, endpoint: Endpoint) -> bool {
        self.position(endpoint)
            .is_ok_and(|index| self.endpoints[index].is_suspect)
    }

    /// Whether the endpoint is in the set of ready ones.
    pub fn is_ready(&self, endpoint: Endpoint) -> bool {
        self.position(endpoint).is_ok()
    }

    /// The endpoints that may be chosen, in address order.
    pub fn eligible(&self) -> impl Iterator<Item = Endpoint> {
        let eligible = self.endpoints.iter().filter(|slots| slots.is_eligible);
        eligible.map(|slots| slots.endpoint)
    }

    /// All endpoints: the ready ones in address order, then those that left while busy, likewise.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let ready = self.endpoints.iter().map(|slots| EndpointView {
            endpoint: slots.endpoint,
            in_use: slots.in_use,
            slots: slots.all(self.concurrency),
            is_ready: true,
            is_suspect: slots.is_suspect,
        });
        let left = self.left.iter().map(|(endpoint, in_use)| EndpointView {
            endpoint: *endpoint,
            in_use: *in_use,
            slots: 0,
            is_ready: false,
            is_suspect: false,
        });
        ready.chain(left).collect()
    }

    /// Grants free slots to whoever is next, until one of the two runs out.
    fn grants(&mut self) -> Vec<Grant<W>> {
        let mut grants = Vec::new();
        while self.parked() > 0
            && let Some(index) = self.choose(None)
            && let Some(waiter) = self.next_parked()
        {
            let endpoint = self.take(index);
            grants.push(Grant { endpoint, waiter });
        }
        self.check_invariants();
        grants
    }

    /// An endpoint with room. O(1) when there is none, and when the last one found has more.
    fn choose(&mut self, avoid: Option<Endpoint>) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let elsewhere = avoid.and_then(|avoid| self.find(|slots| slots.endpoint != avoid));
        elsewhere.or_else(|| {
            let found = self.find(|_| true)?;
            if Policy::of(self.concurrency) == Policy::FirstAvailable {
                self.first_free = found;
            }
            Some(found)
        })
    }

    fn find(&self, may: impl Fn(&Slots) -> bool) -> Option<usize> {
        let count = self.endpoints.len();
        let has_room = |index: usize| {
            let slots = &self.endpoints[index];
            slots.free(self.concurrency) > 0 && may(slots)
        };
        match Policy::of(self.concurrency) {
            Policy::FirstAvailable => policy::first_available(self.first_free..count, has_room),
            // What is released in one go is spread evenly; there is nothing to draw lots about.
            Policy::RoundRobin | Policy::BetterOfTwo => {
                policy::round_robin(count, self.turn, has_room)
            }
        }
    }

    /// Takes a slot of an endpoint that has room.
    fn take(&mut self, index: usize) -> Endpoint {
        let slots = &mut self.endpoints[index];
        slots.in_use += 1;
        self.free -= 1;
        self.turn = index + 1;
        slots.endpoint
    }

    fn release_left(&mut self, endpoint: Endpoint) {
        let Some(in_use) = self.left.get_mut(&endpoint) else {
            debug_assert!(false, "{endpoint} releases a slot it does not hold");
            return;
        };
        *in_use -= 1;
        if *in_use == 0 {
            self.left.remove(&endpoint);
        }
    }

    fn set_suspect(&mut self, endpoint: Endpoint, is_suspect: bool) -> Vec<Grant<W>> {
        if let Ok(index) = self.position(endpoint) {
            self.endpoints[index].is_suspect = is_suspect;
            self.recount();
        }
        self.grants()
    }

    fn position(&self, endpoint: Endpoint) -> Result<usize, usize> {
        self.endpoints
            .binary_search_by_key(&endpoint, |slots| slots.endpoint)
    }

    /// After the set, a suspicion or the limit changed.
    fn recount(&mut self) {
        let no_other = self.endpoints.iter().all(|slots| slots.is_suspect);
        let use_suspects = self.suspects_as_last_resort && no_other;
        self.free = 0;
        for slots in &mut self.endpoints {
            slots.is_eligible = use_suspects || !slots.is_suspect;
            self.free += u64::from(slots.free(self.concurrency));
        }
        self.first_free = 0;
    }

    fn line(&mut self, returned: bool) -> &mut Line<Parked<W>> {
        if returned {
            &mut self.returned
        } else {
            &mut self.newcomers
        }
    }

    fn next_parked(&mut self) -> Option<W> {
        let parked = self.returned.pop().or_else(|| self.newcomers.pop())?;
        Some(self.let_go(parked))
    }

    /// Whether so many more places and bytes are within the bounds of bytes and of the client.
    fn may_hold(&self, client: Option<u64>, places: usize, bytes: usize) -> Result<(), Bound> {
        let exceeds = |held: usize, more, most| held.checked_add(more).is_none_or(|all| all > most);
        if exceeds(self.bytes, bytes, self.bounds.bytes) {
            return Err(Bound::Bytes);
        }
        if let (Some(client), Some(percent)) = (client, self.bounds.client_share) {
            let held = self.clients.get(&client).copied().unwrap_or_default();
            let most_places = share(self.bounds.depth, percent).max(1);
            if exceeds(held.places, places, most_places)
                || exceeds(held.bytes, bytes, share(self.bounds.bytes, percent))
            {
                return Err(Bound::ClientShare);
            }
        }
        Ok(())
    }

    /// Counts places and bytes in, or changes nothing if there is no such number.
    fn hold(&mut self, client: Option<u64>, places: usize, bytes: usize) -> Result<(), Bound> {
        self.bytes = self.bytes.checked_add(bytes).ok_or(Bound::Bytes)?;
        if let (Some(client), Some(_)) = (client, self.bounds.client_share) {
            let held = self.clients.entry(client).or_default();
            held.places += places;
            held.bytes += bytes; // no more than all hold
        }
        Ok(())
    }

    /// Counts out what a request held that is no longer parked.
    fn let_go(&mut self, parked: Parked<W>) -> W {
        self.bytes -= parked.bytes;
        if let Some(client) = parked.client
            && let Some(held) = self.clients.get_mut(&client)
        {
            held.places -= 1;
            held.bytes -= parked.bytes;
            if held.places == 0 {
                self.clients.remove(&client);
            }
        }
        parked.waiter
    }
}

fn share(whole: usize, percent: NonZeroU8) -> usize {
    let part = whole as u128 * u128::from(percent.get()) / 100;
    usize::try_from(part).unwrap_or(usize::MAX).min(whole)
}
