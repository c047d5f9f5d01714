//! The simulation: what happens, and the model it is checked against.

mod checks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{ContainerConcurrency, RevisionId, RevisionSpec};
use parkway_activator::throttler::{
    Admission, Ask, Parking, Permit, QueueLimits, Refusal, RevisionState, Throttler, Ticket, Worker,
};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_test::task::{Spawn, spawn};

const WORKERS: usize = 3;
const ENDPOINTS: u8 = 4;
const CLIENTS: u64 = 3;

/// Splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll() % count as u64).expect("below a usize")
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A number per request.
type Number = u64;

enum Phase {
    /// In its Revision's line.
    Parked,
    /// Granted or refused; its letter is in the worker's mailbox.
    Posted,
    /// The worker has delivered it; nobody has looked yet.
    Delivered(Ending),
    Running(Permit),
}

#[derive(Clone, Debug, PartialEq)]
enum Ending {
    Granted,
    Refused(&'static str),
}

struct Request {
    revision: usize,
    worker: usize,
    bytes: usize,
    client: Option<u64>,
    returned: bool,
    ticket: Option<Spawn<Ticket>>,
    was_polled: bool,
    phase: Phase,
}

struct Posted {
    number: Number,
    revision: usize,
    ending: Ending,
}

struct Revision {
    id: RevisionId,
    is_known: bool,
    concurrency: u32,
    ready: BTreeSet<Endpoint>,
    suspect: BTreeSet<Endpoint>,
    line: Vec<Number>,
    fails_until: Option<Instant>,
    released: u64,
    most_in_flight: u64,
    /// Slots in use after the last step.
    in_use: BTreeMap<Endpoint, u32>,
}

impl Revision {
    fn eligible(&self) -> impl Iterator<Item = Endpoint> {
        self.ready.difference(&self.suspect).copied()
    }

    fn in_use(&self, endpoint: Endpoint) -> u32 {
        self.in_use.get(&endpoint).copied().unwrap_or(0)
    }
}

pub(crate) struct Simulation<'r> {
    runtime: &'r Runtime,
    dice: Dice,
    limits: QueueLimits,
    limits_change: bool,
    throttler: Throttler,
    workers: Vec<Rc<Worker>>,
    pumps: Vec<Spawn<Pin<Box<dyn Future<Output = ()>>>>>,
    mailboxes: Vec<VecDeque<Posted>>,
    revisions: Vec<Revision>,
    requests: BTreeMap<Number, Request>,
    arrived: Number,
    ended: Number,
    posted: u64,
    /// How often a letter was put into an empty mailbox: only then may a worker sleep.
    first_letters: u64,
    is_draining: bool,
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)))
}

fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownRevision => "unknown",
        Refusal::QueueFull { .. } => "full",
        Refusal::StartFailed { .. } => "start failed",
        Refusal::RevisionGone => "gone",
        Refusal::NoEndpoint => "no endpoint",
        Refusal::Asleep => "asleep",
        Refusal::Draining => "draining",
    }
}

impl<'r> Simulation<'r> {
    pub(crate) fn new(seed: u64, runtime: &'r Runtime) -> Self {
        let mut dice = Dice(seed);
        // With one letter a turn the order of letters is known even if Revisions mix; with more, only for one.
        let release_batch = dice.one_of(&[1, 1, 2, 5]);
        let revisions = if release_batch == 1 { 3 } else { 1 };
        let limits = QueueLimits {
            depth: dice.one_of(&[2, 8, 30]),
            bytes: dice.one_of(&[300, 2_000]),
            total_bytes: dice.one_of(&[500, 3_000]),
            client_share: dice.one_of(&[None, NonZeroU8::new(40)]),
            release_window: NonZeroU32::new(dice.one_of(&[1, 3])).expect("not zero"),
            release_batch,
            ..QueueLimits::default()
        };
        let throttler = Throttler::new(limits.clone(), WORKERS);
        let worker = |index| Rc::new(throttler.worker_with_seed(index, seed ^ index as u64));
        let workers: Vec<_> = (0..WORKERS).map(worker).collect();
        let pump = |worker: &Rc<Worker>| {
            let worker = Rc::clone(worker);
            let pump: Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(async move { worker.run().await });
            let mut pump = spawn(pump);
            assert!(pump.poll().is_pending());
            pump
        };
        let revision = |index| Revision {
            id: RevisionId::new("sim", format!("rev-{index}")),
            is_known: false,
            concurrency: 0,
            ready: BTreeSet::new(),
            suspect: BTreeSet::new(),
            line: Vec::new(),
            fails_until: None,
            released: 0,
            most_in_flight: 0,
            in_use: BTreeMap::new(),
        };
        let mut simulation = Self {
            runtime,
            limits_change: dice.chance(50),
            limits,
            pumps: workers.iter().map(pump).collect(),
            workers,
            mailboxes: (0..WORKERS).map(|_| VecDeque::new()).collect(),
            revisions: (0..revisions).map(revision).collect(),
            throttler,
            requests: BTreeMap::new(),
            arrived: 0,
            ended: 0,
            posted: 0,
            first_letters: 0,
            is_draining: false,
            dice,
        };
        for index in 0..revisions {
            let concurrency = simulation.dice.one_of(&[0, 1, 2, 5]);
            simulation.upsert(index, concurrency);
        }
        simulation
    }

    pub(crate) fn step(&mut self) {
        let revision = self.dice.below(self.revisions.len());
        match self.dice.below(1_000) {
            0..300 => self.arrive(revision, None),
            300..380 => self.hang_up(),
            380..520 => self.end_a_request(),
            520..550 => self.send_again(),
            550..700 => self.pump(),
            700..830 => self.look(),
            830..870 => self.grow(),
            870..915 => self.set_endpoints(revision),
            915..940 => self.suspect(revision),
            940..965 => self.restore(revision),
            965..975 => self.change(revision),
            975..980 => self.remove(revision),
            980..988 => self.fail_start(revision),
            988..999 => self.wait(),
            _ => self.drain(),
        }
        self.check();
    }

    /// Brings everything to an end, and looks whether anything remains.
    pub(crate) fn finish(&mut self) {
        for index in 0..self.revisions.len() {
            self.upsert(index, self.revisions[index].concurrency);
            let endpoints: BTreeSet<_> = (0..ENDPOINTS).map(endpoint).collect();
            self.publish(index, endpoints.clone());
            for endpoint in endpoints {
                self.revisions[index].suspect.remove(&endpoint);
                self.throttler.restore(&self.revisions[index].id, endpoint);
                self.check();
            }
        }
        for round in 0.. {
            assert!(round < 1_000, "{} requests never end", self.requests.len());
            for worker in 0..WORKERS {
                self.pump_worker(worker);
                self.check();
            }
            let numbers: Vec<_> = self.requests.keys().copied().collect();
            for number in numbers {
                match self.requests[&number].phase {
                    Phase::Delivered(_) => self.look_at(number),
                    Phase::Running(_) => self.end(number),
                    Phase::Parked | Phase::Posted => {}
                }
                self.check();
            }
            if self.requests.is_empty() && self.mailboxes.iter().all(VecDeque::is_empty) {
                break;
            }
        }
        assert_eq!(self.arrived, self.ended);
        assert_eq!(
            (self.throttler.parked(), self.throttler.parked_bytes()),
            (0, 0)
        );
        for state in self.throttler.state() {
            assert_eq!(
                (state.parked, state.parked_bytes, state.in_flight),
                (0, 0, 0)
            );
            assert!(state.endpoints.iter().all(|endpoint| endpoint.is_ready));
        }
    }

    // What happens.

    fn arrive(&mut self, revision: usize, again: Option<Endpoint>) {
        let ask = Ask {
            bytes: self.dice.below(120),
            client: self.dice.chance(60).then(|| self.dice.roll() % CLIENTS),
            avoid: again,
            first_in_line: again.is_some(),
            only_if_up: false,
            arrived: None,
        };
        let worker = self.dice.below(WORKERS);
        let number = self.arrived;
        self.arrived += 1;
        let (throttle, id) = (&self.workers[worker], &self.revisions[revision].id);
        // Newcomers go as they do in a worker: without asking if that is possible.
        let warm = again.is_none().then(|| throttle.admit_warm(id)).flatten();
        let admission = warm.map_or_else(|| throttle.admit(id, ask), Admission::Granted);
        let mut request = Request {
            revision,
            worker,
            bytes: ask.bytes,
            client: ask.client,
            returned: ask.first_in_line,
            ticket: None,
            was_polled: false,
            phase: Phase::Parked,
        };
        match admission {
            Admission::Granted(permit) => {
                self.check_granted_at_once(revision, &permit, ask);
                request.phase = Phase::Running(permit);
            }
            Admission::Parked(ticket) => {
                self.check_parked(revision, ask);
                request.ticket = Some(spawn(ticket));
                self.enter_line(revision, number, ask.first_in_line);
            }
            Admission::Refused(refusal) => {
                self.check_refused(revision, ask, &refusal);
                self.ended += 1;
                return;
            }
        }
        self.requests.insert(number, request);
        if self.dice.chance(80) {
            self.look_at(number);
        }
    }

    fn enter_line(&mut self, revision: usize, number: Number, returned: bool) {
        let line = &mut self.revisions[revision].line;
        let place = if returned {
            let newcomer = |number: &Number| !self.requests[number].returned;
            line.iter().position(newcomer).unwrap_or(line.len())
        } else {
            line.len()
        };
        line.insert(place, number);
    }

    fn hang_up(&mut self) {
        let Some(number) = self.any(|request| request.ticket.is_some()) else {
            return;
        };
        let request = self.requests.remove(&number).expect("it is there");
        match request.phase {
            Phase::Parked => self.revisions[request.revision]
                .line
                .retain(|other| *other != number),
            Phase::Posted | Phase::Delivered(_) => {} // whatever it was granted goes on
            Phase::Running(_) => unreachable!("has no ticket any more"),
        }
        drop(request.ticket);
        self.ended += 1;
    }

    fn end_a_request(&mut self) {
        if let Some(number) = self.any(|request| matches!(request.phase, Phase::Running(_))) {
            self.end(number);
        }
    }

    fn end(&mut self, number: Number) {
        let request = self.requests.remove(&number).expect("it is there");
        drop(request.phase);
        self.ended += 1;
    }

    /// A request that was not started goes back to the head of the line.
    fn send_again(&mut self) {
        let Some(number) = self.any(|request| matches!(request.phase, Phase::Running(_))) else {
            return;
        };
        let request = self.requests.remove(&number).expect("it is there");
        let Phase::Running(permit) = request.phase else {
            unreachable!("asked for above")
        };
        let endpoint = permit.endpoint();
        drop(permit);
        self.ended += 1;
        self.check();
        self.arrive(request.revision, Some(endpoint));
    }

    fn pump(&mut self) {
        let worker = self.dice.below(WORKERS);
        self.pump_worker(worker);
    }

    fn pump_worker(&mut self, worker: usize) {
        assert!(self.pumps[worker].poll().is_pending());
        let turn = self.limits.release_batch.min(self.mailboxes[worker].len());
        let delivered: Vec<_> = self.mailboxes[worker].drain(..turn).collect();
        for Posted { number, ending, .. } in delivered {
            let Some(request) = self.requests.get_mut(&number) else {
                continue;
            };
            let ticket = request.ticket.as_ref().expect("parked requests have one");
            assert!(
                ticket.is_woken() || !request.was_polled,
                "delivered, but not woken"
            );
            request.phase = Phase::Delivered(ending);
        }
    }

    fn look(&mut self) {
        if let Some(number) = self.any(|request| request.ticket.is_some()) {
            self.look_at(number);
        }
    }

    fn look_at(&mut self, number: Number) {
        let request = self.requests.get_mut(&number).expect("it is there");
        let Some(ticket) = &mut request.ticket else {
            return;
        };
        let looked = ticket.poll();
        request.was_polled = true;
        match (looked, &request.phase) {
            (std::task::Poll::Pending, Phase::Parked | Phase::Posted) => {}
            (std::task::Poll::Ready(Ok(permit)), Phase::Delivered(Ending::Granted)) => {
                assert!(permit.waited());
                request.ticket = None;
                request.phase = Phase::Running(permit);
            }
            (std::task::Poll::Ready(Err(refusal)), Phase::Delivered(Ending::Refused(expected))) => {
                assert_eq!(reason(&refusal), *expected);
                self.requests.remove(&number);
                self.ended += 1;
            }
            (looked, _) => panic!("{looked:?} does not fit"),
        }
    }

    fn grow(&mut self) {
        let bytes = self.dice.below(150);
        let Some(number) = self.any(|request| request.ticket.is_some()) else {
            return;
        };
        let total = self.throttler.parked_bytes();
        let request = self.requests.get_mut(&number).expect("it is there");
        let grown = request
            .ticket
            .as_mut()
            .expect("asked for above")
            .grow(bytes);
        let (revision, client) = (request.revision, request.client);
        match grown {
            Ok(()) if matches!(request.phase, Phase::Parked) => request.bytes += bytes,
            Ok(()) => {}
            Err(bound) => self.check_bound(bound, revision, client, 0, bytes, total),
        }
    }

    fn set_endpoints(&mut self, revision: usize) {
        let likely = self.dice.one_of(&[0, 30, 70, 100]);
        let endpoints = (0..ENDPOINTS)
            .filter(|_| self.dice.chance(likely))
            .map(endpoint)
            .collect();
        self.publish(revision, endpoints);
    }

    fn publish(&mut self, revision: usize, endpoints: BTreeSet<Endpoint>) {
        let model = &mut self.revisions[revision];
        let mut listed: Vec<_> = endpoints.iter().rev().copied().collect();
        listed.extend(endpoints.first());
        self.throttler.set_endpoints(&model.id, listed);
        if model.is_known {
            model
                .suspect
                .retain(|endpoint| endpoints.contains(endpoint));
            if !endpoints.is_empty() {
                model.fails_until = None;
            }
            model.ready = endpoints;
        }
        self.check();
    }

    fn suspect(&mut self, revision: usize) {
        let endpoint = endpoint(u8::try_from(self.dice.below(4)).expect("below four"));
        let model = &mut self.revisions[revision];
        self.throttler.suspect(&model.id, endpoint);
        if model.ready.contains(&endpoint) {
            model.suspect.insert(endpoint);
        }
        assert_eq!(
            self.throttler.is_suspect(&model.id, endpoint),
            model.suspect.contains(&endpoint)
        );
    }

    fn restore(&mut self, revision: usize) {
        let endpoint = endpoint(u8::try_from(self.dice.below(4)).expect("below four"));
        let model = &mut self.revisions[revision];
        self.throttler.restore(&model.id, endpoint);
        model.suspect.remove(&endpoint);
    }

    fn change(&mut self, revision: usize) {
        let model = &self.revisions[revision];
        let concurrency = if self.limits_change {
            self.dice.one_of(&[0, 1, 2, 5])
        } else {
            model.concurrency
        };
        self.upsert(revision, concurrency);
    }

    fn upsert(&mut self, revision: usize, concurrency: u32) {
        let model = &mut self.revisions[revision];
        let spec = RevisionSpec {
            concurrency: ContainerConcurrency::from(concurrency),
            ..RevisionSpec::default()
        };
        self.throttler
            .upsert(&model.id, Arc::new(spec), Parking::Allowed);
        model.concurrency = concurrency;
        if !model.is_known {
            model.is_known = true;
            let state = self.throttler.revision_state(&model.id).expect("known now");
            model.released = state.counters.released;
            // What ended while it was deleted; `check` compares with the permits that did not.
            model.in_use = slots(&state);
        }
        self.check();
    }

    fn remove(&mut self, revision: usize) {
        self.throttler.remove(&self.revisions[revision].id);
        if std::mem::replace(&mut self.revisions[revision].is_known, false) {
            self.end_line(revision, &Ending::Refused("gone"));
            let model = &mut self.revisions[revision];
            model.ready.clear();
            model.suspect.clear();
            model.fails_until = None;
        }
    }

    fn fail_start(&mut self, revision: usize) {
        let retry_in = Duration::from_millis(self.dice.roll() % 5_000);
        let id = self.revisions[revision].id.clone();
        self.throttler
            .start_failed(&id, "exit status 1".into(), retry_in);
        let model = &mut self.revisions[revision];
        if model.is_known && model.ready.is_empty() {
            model.fails_until = Some(Instant::now() + retry_in);
            self.end_line(revision, &Ending::Refused("start failed"));
        }
    }

    fn wait(&mut self) {
        let pause = Duration::from_millis(self.dice.roll() % 2_000);
        self.runtime.block_on(tokio::time::advance(pause));
    }

    fn drain(&mut self) {
        if self.dice.chance(10) {
            self.throttler.drain();
            self.is_draining = true;
        }
    }

    fn any(&mut self, which: impl Fn(&Request) -> bool) -> Option<Number> {
        let numbers: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, request)| which(request))
            .map(|(number, _)| *number)
            .collect();
        (!numbers.is_empty()).then(|| self.dice.one_of(&numbers))
    }

    // The model's own steps.

    fn end_line(&mut self, revision: usize, ending: &Ending) {
        for number in std::mem::take(&mut self.revisions[revision].line) {
            self.post(number, ending.clone());
        }
    }

    fn post(&mut self, number: Number, ending: Ending) {
        let request = self
            .requests
            .get_mut(&number)
            .expect("those in line are there");
        request.phase = Phase::Posted;
        self.posted += 1;
        let mailbox = &mut self.mailboxes[request.worker];
        self.first_letters += u64::from(mailbox.is_empty());
        mailbox.push_back(Posted {
            number,
            revision: request.revision,
            ending,
        });
    }
}

fn slots(state: &RevisionState) -> BTreeMap<Endpoint, u32> {
    let slots = state
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.endpoint, endpoint.slots_in_use));
    slots.collect()
}
