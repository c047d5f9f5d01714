//! What must hold after each step.

use std::collections::{BTreeMap, BTreeSet};

use parkway_activator::endpoint::Endpoint;
use parkway_activator::throttler::{Ask, Bound, Permit, Refusal, RevisionState};
use tokio::time::Instant;

use super::{CLIENTS, Ending, Phase, Request, Simulation, slots};

impl Simulation<'_> {
    pub(super) fn check_granted_at_once(&self, revision: usize, permit: &Permit, ask: Ask) {
        let model = &self.revisions[revision];
        assert!(model.is_known);
        assert!(model.line.is_empty(), "a newcomer overtakes");
        assert!(
            model
                .eligible()
                .any(|endpoint| endpoint == permit.endpoint())
        );
        assert!(!permit.waited());
        assert_eq!(permit.revision(), &model.id);
        if ask.avoid == Some(permit.endpoint()) {
            let others = model.eligible().filter(|other| *other != permit.endpoint());
            let has_room =
                |other| model.concurrency == 0 || model.in_use(other) < model.concurrency;
            assert!(!others.into_iter().any(has_room), "another had room");
        }
    }

    pub(super) fn check_parked(&self, revision: usize, ask: Ask) {
        let model = &self.revisions[revision];
        assert!(model.is_known);
        assert!(!self.is_draining || ask.first_in_line);
        assert!(
            model
                .fails_until
                .is_none_or(|until| until <= Instant::now())
        );
        let has_room =
            |endpoint| model.concurrency == 0 || model.in_use(endpoint) < model.concurrency;
        let room = model.eligible().any(has_room);
        assert!(
            !room || (model.concurrency == 0 && !model.line.is_empty()),
            "parked although there is room"
        );
    }

    pub(super) fn check_refused(&self, revision: usize, ask: Ask, refusal: &Refusal) {
        let model = &self.revisions[revision];
        match refusal {
            Refusal::UnknownRevision => assert!(!model.is_known),
            Refusal::StartFailed { .. } => {
                assert!(
                    model
                        .fails_until
                        .is_some_and(|until| until > Instant::now())
                );
            }
            Refusal::Draining => assert!(self.is_draining && !ask.first_in_line),
            Refusal::QueueFull { bound, .. } => {
                assert!(!ask.first_in_line, "was admitted once, and is lost");
                let total = self.throttler.parked_bytes();
                self.check_bound(*bound, revision, ask.client, 1, ask.bytes, total);
            }
            Refusal::RevisionGone | Refusal::NoEndpoint | Refusal::Asleep => {
                panic!("{refusal}: not for newcomers")
            }
        }
    }

    /// The bound is really reached.
    pub(super) fn check_bound(
        &self,
        bound: Bound,
        revision: usize,
        client: Option<u64>,
        places: usize,
        bytes: usize,
        total: usize,
    ) {
        let (held_places, held_bytes) = self.held(revision, |_| true);
        match bound {
            Bound::Depth => assert!(held_places >= self.limits.depth),
            Bound::Bytes => assert!(held_bytes + bytes > self.limits.bytes),
            Bound::TotalBytes => assert!(total + bytes > self.limits.total_bytes),
            Bound::ClientShare => {
                let (most_places, most_bytes) = self.client_bounds().expect("shares are on");
                let (held_places, held_bytes) =
                    self.held(revision, |request| request.client == client);
                assert!(held_places + places > most_places || held_bytes + bytes > most_bytes);
            }
        }
    }

    /// Places and bytes one client may hold.
    fn client_bounds(&self) -> Option<(usize, usize)> {
        let percent = usize::from(self.limits.client_share?.get());
        let places = (self.limits.depth * percent / 100).max(1);
        Some((places, self.limits.bytes * percent / 100))
    }

    fn held(&self, revision: usize, which: impl Fn(&Request) -> bool) -> (usize, usize) {
        let line = self.revisions[revision]
            .line
            .iter()
            .map(|number| &self.requests[number]);
        let held: Vec<_> = line
            .filter(|request| which(request))
            .map(|request| request.bytes)
            .collect();
        (held.len(), held.iter().sum())
    }

    pub(super) fn check(&mut self) {
        for revision in 0..self.revisions.len() {
            if let Some(state) = self.throttler.revision_state(&self.revisions[revision].id) {
                assert!(self.revisions[revision].is_known);
                self.follow_grants(revision, &state);
                self.check_bounds(revision, &state);
                self.check_slots(revision, &state);
                self.check_in_flight(revision, &state);
                self.revisions[revision].in_use = slots(&state);
            } else {
                assert!(!self.revisions[revision].is_known);
            }
        }
        self.check_all();
    }

    /// Those at the head of the line have been granted as many slots as the throttler says.
    fn follow_grants(&mut self, revision: usize, state: &RevisionState) {
        let model = &mut self.revisions[revision];
        let granted = state.counters.released - model.released;
        model.released = state.counters.released;
        let granted = usize::try_from(granted).expect("few");
        let granted: Vec<_> = model.line.drain(..granted).collect();
        for number in granted {
            self.post(number, Ending::Granted);
        }
    }

    /// All counts are exact; the bounds hold for newcomers, and what was sent again is bounded by what was in flight.
    fn check_bounds(&mut self, revision: usize, state: &RevisionState) {
        let (places, bytes) = self.held(revision, |_| true);
        assert_eq!((state.parked, state.parked_bytes), (places, bytes));
        let model = &mut self.revisions[revision];
        model.most_in_flight = model.most_in_flight.max(state.in_flight);
        let excess = places.saturating_sub(self.limits.depth) as u64;
        assert!(excess <= model.most_in_flight, "sent again from nowhere");
        let (places, bytes) = self.held(revision, |request| !request.returned);
        assert!(places <= self.limits.depth && bytes <= self.limits.bytes);
        if let Some((most_places, most_bytes)) = self.client_bounds() {
            for client in 0..CLIENTS {
                let of_client =
                    |request: &Request| request.client == Some(client) && !request.returned;
                let (places, bytes) = self.held(revision, of_client);
                assert!(places <= most_places && bytes <= most_bytes, "client share");
            }
        }
        let counters = state.counters;
        assert_eq!(
            state.parked_seconds.count(),
            counters.parked_total - state.parked as u64
        );
    }

    /// No endpoint got a slot above the limit, and none has room while somebody is parked.
    fn check_slots(&self, revision: usize, state: &RevisionState) {
        let model = &self.revisions[revision];
        let limit = match model.concurrency {
            0 => self.limits.release_window.get(),
            limit => limit,
        };
        let now = slots(state);
        for (endpoint, in_use) in &now {
            let has_grown = *in_use > model.in_use(*endpoint);
            assert!(
                !has_grown || *in_use <= limit,
                "{endpoint} has {in_use} of {limit}"
            );
        }
        if !model.line.is_empty() {
            let full = |endpoint| now.get(&endpoint).copied().unwrap_or(0) >= limit;
            assert!(model.eligible().all(full), "parked although there is room");
        }
        let ready = |state: &RevisionState| -> BTreeSet<_> {
            let ready = state.endpoints.iter().filter(|endpoint| endpoint.is_ready);
            ready.map(|endpoint| endpoint.endpoint).collect()
        };
        assert_eq!(ready(state), model.ready);
        let suspect = state
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_suspect);
        assert_eq!(
            suspect
                .map(|endpoint| endpoint.endpoint)
                .collect::<BTreeSet<_>>(),
            model.suspect
        );
    }

    /// The throttler counts the permits that there are: running, delivered or on their way.
    fn check_in_flight(&self, revision: usize, state: &RevisionState) {
        let mut running: BTreeMap<Endpoint, u64> = BTreeMap::new();
        let mut running_in_slots: BTreeMap<Endpoint, u32> = BTreeMap::new();
        let mut delivered = 0;
        for request in self
            .requests
            .values()
            .filter(|request| request.revision == revision)
        {
            match &request.phase {
                Phase::Running(permit) => {
                    *running.entry(permit.endpoint()).or_default() += 1;
                    if permit.waited() {
                        *running_in_slots.entry(permit.endpoint()).or_default() += 1;
                    }
                }
                Phase::Delivered(Ending::Granted) => delivered += 1,
                Phase::Parked | Phase::Posted | Phase::Delivered(Ending::Refused(_)) => {}
            }
        }
        let posted = self.mailboxes.iter().flatten();
        let posted =
            posted.filter(|posted| posted.revision == revision && posted.ending == Ending::Granted);
        let on_their_way = delivered + posted.count() as u64;
        assert_eq!(
            state.in_flight,
            running.values().sum::<u64>() + on_their_way
        );
        for (endpoint, running) in &running {
            let found = state
                .endpoints
                .iter()
                .find(|found| found.endpoint == *endpoint);
            let found = found.expect("busy endpoints are shown");
            assert!(found.in_flight >= *running && found.in_flight <= running + on_their_way);
            assert!(found.slots_in_use >= running_in_slots.get(endpoint).copied().unwrap_or(0));
            let limit = u64::from(self.revisions[revision].concurrency);
            assert!(
                limit == 0 || self.limits_change || *running <= limit,
                "more run than may"
            );
        }
    }

    fn check_all(&self) {
        let parked = |which: fn(&Request) -> bool| {
            let held = (0..self.revisions.len()).map(|revision| self.held(revision, which));
            held.fold((0, 0), |all, held| (all.0 + held.0, all.1 + held.1))
        };
        let counted = (self.throttler.parked(), self.throttler.parked_bytes());
        assert_eq!(counted, parked(|_| true));
        let (_, newcomers_hold) = parked(|request| !request.returned);
        assert!(newcomers_hold <= self.limits.total_bytes);
        let traffic = self.throttler.traffic();
        assert_eq!(traffic.letters, self.posted);
        assert!(traffic.wakes <= traffic.letters);
        assert!(
            traffic.wakes <= self.first_letters,
            "woken again before it has looked"
        );
        for (mailbox, pump) in self.mailboxes.iter().zip(&self.pumps) {
            assert!(
                mailbox.is_empty() || pump.is_woken(),
                "letters that nobody will deliver"
            );
        }
    }
}
