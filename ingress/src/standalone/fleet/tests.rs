use std::time::Duration;

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

fn endpoint(number: Number) -> Endpoint {
    Endpoint::new(([127, 0, 0, 1], u16::try_from(10_000 + number).unwrap()).into())
}

fn wanting(replicas: u32) -> Target {
    Target {
        replicas,
        generation: 0,
    }
}

/// A fleet whose processes are started and become ready as the test says.
struct World {
    fleet: Fleet,
    now: Instant,
    last: Number,
    busy: bool,
}

fn world() -> World {
    World {
        fleet: Fleet::default(),
        now: Instant::now(),
        last: 0,
        busy: true,
    }
}

impl World {
    fn plan(&mut self, target: Target) -> Plan {
        let busy = self.busy;
        let plan = self.fleet.plan(target, self.now, |_| !busy);
        for _ in 0..plan.start {
            self.last += 1;
            self.fleet
                .started(self.last, endpoint(self.last), target.generation, GRACE);
        }
        plan
    }

    fn ready(mut self, replicas: u32) -> Self {
        self.plan(wanting(replicas));
        for number in 1..=self.last {
            self.fleet.became_ready(number, self.now);
            self.after(Duration::from_millis(1));
        }
        self
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
    }

    fn draining(&self) -> Vec<Number> {
        let phases = self.fleet.phases();
        phases
            .filter(|(_, phase)| *phase == ReplicaPhase::Draining)
            .map(|(number, _)| number)
            .collect()
    }
}

#[test]
fn as_many_start_as_are_missing() {
    let mut world = world();
    assert_eq!(world.plan(wanting(3)).start, 3);
    assert_eq!(world.plan(wanting(3)), Plan::default());
    assert_eq!(world.plan(wanting(5)).start, 2);
}

#[test]
fn only_what_passed_its_probe_is_ready() {
    let mut world = world();
    world.plan(wanting(2));
    assert!(world.fleet.ready().is_empty());
    assert!(world.fleet.became_ready(2, world.now));
    assert_eq!(world.fleet.ready(), [endpoint(2)]);
}

#[test]
fn a_crash_loop_waits_longer_each_time() {
    let mut world = world();
    let mut waits = Vec::new();
    for number in 1..=5 {
        assert_eq!(world.plan(wanting(1)).start, 1, "start {number}");
        let Departure::FailedStart(wait) = world.fleet.ended(number, world.now) else {
            panic!("a start that ends is a failed one")
        };
        waits.push(wait.as_millis());
        if !wait.is_zero() {
            let plan = world.plan(wanting(1));
            assert_eq!((plan.start, plan.wake), (0, Some(world.now + wait)));
        }
        world.after(wait);
    }
    assert_eq!(waits, [0, 100, 200, 400, 800]);
}

#[test]
fn a_crash_loop_is_tried_by_one_process_and_joined_by_the_rest_when_that_is_ready() {
    let mut world = world();
    assert_eq!(world.plan(wanting(4)).start, 4);
    for number in 1..=4 {
        world.fleet.ended(number, world.now);
    }
    world.after(Duration::from_secs(10));

    assert_eq!(world.plan(wanting(4)).start, 1);
    assert_eq!(world.plan(wanting(4)).start, 0);
    world.fleet.became_ready(5, world.now);
    assert_eq!(world.plan(wanting(4)).start, 3);
}

#[test]
fn one_that_died_is_replaced_at_once() {
    let mut world = world().ready(2);
    assert_eq!(
        world.fleet.ended(1, world.now),
        Departure::Died(Duration::ZERO)
    );
    assert_eq!(world.fleet.ready(), [endpoint(2)]);
    assert_eq!(world.plan(wanting(2)).start, 1);
}

#[test]
fn starting_ones_go_first_and_then_those_ready_for_the_shortest_time() {
    let mut world = world().ready(3);
    world.plan(wanting(4));

    assert_eq!(world.plan(wanting(3)).stop, [4]);
    assert!(world.draining().is_empty());
    assert!(world.plan(wanting(1)).stop.is_empty());
    assert_eq!(world.draining(), [2, 3]);
    assert_eq!(world.fleet.ready(), [endpoint(1)]);
}

#[test]
fn a_busy_process_is_withdrawn_but_told_to_end_only_when_idle() {
    let mut world = world().ready(1);
    world.plan(wanting(0));
    assert!(world.fleet.ready().is_empty());

    world.after(DRAIN_SETTLE);
    let plan = world.plan(wanting(0));
    assert!(plan.stop.is_empty());

    world.now = plan.wake.unwrap();
    world.busy = false;
    assert_eq!(world.plan(wanting(0)).stop, [1]);
}

#[test]
fn an_idle_process_is_left_alone_until_what_was_on_its_way_has_arrived() {
    let mut world = world().ready(1);
    world.busy = false;
    let plan = world.plan(wanting(0));
    assert!(plan.stop.is_empty());
    assert_eq!(plan.wake, Some(world.now + DRAIN_SETTLE));
}

#[test]
fn a_process_that_stays_busy_is_told_to_end_when_the_grace_is_over() {
    let mut world = world().ready(1);
    let begun = world.now;
    let mut wake = world.plan(wanting(0)).wake;
    while let Some(at) = wake {
        world.now = at;
        let plan = world.plan(wanting(0));
        wake = plan.wake;
        assert_eq!(plan.stop.is_empty(), wake.is_some());
    }
    assert_eq!(world.now - begun, GRACE);
}

#[test]
fn a_withdrawn_process_is_taken_back_instead_of_starting_one() {
    let mut world = world().ready(2);
    world.plan(wanting(0));
    assert_eq!(world.draining(), [1, 2]);

    assert_eq!(world.plan(wanting(1)).start, 0);
    assert_eq!(
        world.fleet.ready(),
        [endpoint(1)],
        "the one with the warmest caches"
    );
    assert_eq!(world.plan(wanting(3)).start, 1);
    assert_eq!(world.fleet.ready(), [endpoint(1), endpoint(2)]);
}

#[test]
fn a_process_told_to_end_is_not_taken_back() {
    let mut world = world().ready(1);
    world.busy = false;
    world.plan(wanting(0));
    world.after(DRAIN_SETTLE);
    assert_eq!(world.plan(wanting(0)).stop, [1]);
    assert_eq!(world.plan(wanting(1)).start, 1);
    assert_eq!(world.fleet.ended(1, world.now), Departure::Expected);
}

#[test]
fn the_old_workload_serves_until_the_new_one_is_ready() {
    let mut world = world().ready(2);
    let edited = Target {
        replicas: 2,
        generation: 1,
    };

    assert_eq!(world.plan(edited).start, 2);
    assert_eq!(world.fleet.ready(), [endpoint(1), endpoint(2)]);
    world.fleet.became_ready(3, world.now);
    world.plan(edited);
    assert_eq!(world.fleet.ready(), [endpoint(1), endpoint(3)]);
    world.fleet.became_ready(4, world.now);
    world.plan(edited);
    assert_eq!(world.fleet.ready(), [endpoint(3), endpoint(4)]);
    assert_eq!(world.draining(), [1, 2]);
}

#[test]
fn the_old_workload_goes_on_when_the_new_one_cannot_start() {
    let mut world = world().ready(1);
    let edited = Target {
        replicas: 1,
        generation: 1,
    };
    world.plan(edited);
    world.fleet.ended(2, world.now);
    world.plan(edited);
    assert_eq!(world.fleet.ready(), [endpoint(1)]);
    assert!(world.fleet.has_hope());
}

#[test]
fn an_overdue_start_is_told_to_end_and_counts_as_failed() {
    let mut world = world();
    world.plan(wanting(1));
    assert_eq!(
        world.fleet.overdue(1, world.now),
        Departure::FailedStart(Duration::ZERO)
    );
    assert!(!world.fleet.has_hope());
    assert!(!world.fleet.became_ready(1, world.now));
    assert_eq!(world.fleet.ended(1, world.now), Departure::Expected);
}

#[derive(Clone, Debug)]
enum Happens {
    Scaled(u32),
    Edited,
    Ready(usize),
    Ended(usize),
    Overdue(usize),
    Busy(bool),
    Later(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..5_u32).prop_map(Happens::Scaled),
        Just(Happens::Edited),
        (0..8_usize).prop_map(Happens::Ready),
        (0..8_usize).prop_map(Happens::Ready),
        (0..8_usize).prop_map(Happens::Ended),
        (0..8_usize).prop_map(Happens::Overdue),
        any::<bool>().prop_map(Happens::Busy),
        (0..20_000_u64).prop_map(Happens::Later),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_more_live_than_wanted_and_in_the_end_as_many(
        story in proptest::collection::vec(happens(), 0..120)
    ) {
        let mut world = world();
        let mut target = wanting(0);
        for happening in story {
            let numbers: Vec<_> = world.fleet.phases().map(|(number, _)| number).collect();
            let pick = |index: usize| numbers.get(index % numbers.len().max(1)).copied();
            match happening {
                Happens::Scaled(replicas) => target.replicas = replicas,
                Happens::Edited => {
                    target.generation += 1;
                    world.fleet.forgive();
                }
                Happens::Ready(index) => drop(pick(index).map(|it| world.fleet.became_ready(it, world.now))),
                Happens::Ended(index) => drop(pick(index).map(|it| world.fleet.ended(it, world.now))),
                Happens::Overdue(index) => drop(pick(index).map(|it| world.fleet.overdue(it, world.now))),
                Happens::Busy(busy) => world.busy = busy,
                Happens::Later(millis) => world.after(Duration::from_millis(millis)),
            }
            let ready_before = world.fleet.ready().len();
            let plan = world.plan(target);
            check(&world, target, &plan, ready_before);
        }
        settle(&mut world, target);
    }
}

fn check(world: &World, target: Target, plan: &Plan, ready_before: usize) {
    let wanted = target.replicas as usize;
    let live = |it: &&Replica| it.is_live() && it.generation == target.generation;
    assert!(world.fleet.replicas.values().filter(live).count() <= wanted);
    assert!(
        world.fleet.ready().len() >= ready_before.min(wanted),
        "a plan takes none that is needed"
    );
    for number in &plan.stop {
        assert!(matches!(
            world.fleet.replicas[number].state,
            State::Stopping
        ));
    }
    assert!(
        plan.wake.is_none_or(|wake| wake > world.now),
        "a plan is done when it is made"
    );
}

/// Time passes, processes end when told and become ready when started: what is wanted comes true.
fn settle(world: &mut World, target: Target) {
    world.busy = false;
    for _ in 0..4 {
        world.after(Duration::from_secs(60));
        world.plan(target);
        let phases: Vec<_> = world.fleet.phases().collect();
        for (number, phase) in phases {
            match phase {
                ReplicaPhase::Starting => drop(world.fleet.became_ready(number, world.now)),
                ReplicaPhase::Stopping => drop(world.fleet.ended(number, world.now)),
                ReplicaPhase::Ready | ReplicaPhase::Draining => {}
            }
        }
    }
    let wanted = target.replicas as usize;
    assert_eq!(
        (world.fleet.ready().len(), world.fleet.replicas.len()),
        (wanted, wanted)
    );
}
