//! The wheel against a list that is searched, and alarms on a paused clock.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;
use tokio::task::{LocalSet, spawn_local};

use super::*;

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert,
    Set {
        which: usize,
        after: u64,
    },
    Clear {
        which: usize,
    },
    Remove {
        which: usize,
    },
    Advance {
        by: u64,
    },
    /// To exactly when the wheel wants to be looked at.
    AdvanceToNext,
}

/// Mostly near, sometimes at the edges of levels and beyond their reach.
fn ticks() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..100_u64,
        0..10_000_u64,
        0..2 * (1_u64 << 24),
        (0..30_u32).prop_map(|bits| (1_u64 << bits) - 1),
        (0..30_u32).prop_map(|bits| 1_u64 << bits),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Insert),
        6 => (0..64_usize, ticks()).prop_map(|(which, after)| Step::Set { which, after }),
        1 => (0..64_usize).prop_map(|which| Step::Clear { which }),
        1 => (0..64_usize).prop_map(|which| Step::Remove { which }),
        2 => ticks().prop_map(|by| Step::Advance { by }),
        2 => Just(Step::AdvanceToNext),
    ]
}

/// What should be: each entry's deadline, if it has one.
struct Model {
    wheel: Wheel,
    entries: Vec<(Key, Arc<Woken>, Option<u64>)>,
}

impl Model {
    fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut model = Self {
            wheel: Wheel::new(),
            entries: Vec::new(),
        };
        for step in steps {
            model.take(step)?;
            prop_assert_eq!(model.wheel.len(), model.entries.len());
        }
        // Whatever is left fires in the end, in steps no longer than the wheel wants.
        while let Some(next) = model.wheel.next() {
            model.advance(next)?;
        }
        prop_assert!(model.entries.iter().all(|(_, _, due)| due.is_none()));
        for (key, _, _) in std::mem::take(&mut model.entries) {
            drop(model.wheel.remove(key));
        }
        prop_assert_eq!(model.wheel.len(), 0);
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let count = self.entries.len().max(1);
        match step {
            Step::Insert => {
                let key = self.wheel.insert();
                self.entries.push((key, Arc::default(), None));
            }
            Step::Set { which, after } => {
                let at = self.wheel.now() + 1 + after;
                if let Some((key, woken, due)) = self.entries.get_mut(which % count) {
                    let waker = Waker::from(Arc::clone(woken));
                    drop(self.wheel.set(*key, at, &waker));
                    *due = Some(at);
                }
            }
            Step::Clear { which } => {
                if let Some((key, _, due)) = self.entries.get_mut(which % count) {
                    self.wheel.clear(*key);
                    *due = None;
                }
            }
            Step::Remove { which } if !self.entries.is_empty() => {
                let (key, woken, _) = self.entries.swap_remove(which % count);
                drop(self.wheel.remove(key));
                prop_assert_eq!(Arc::strong_count(&woken), 1, "its waker is kept");
            }
            Step::Remove { .. } => {}
            Step::Advance { by } => self.advance(self.wheel.now() + by)?,
            Step::AdvanceToNext => {
                if let Some(next) = self.wheel.next() {
                    self.advance(next)?;
                }
            }
        }
        // Somebody has to look before the first deadline passes.
        let first = self.entries.iter().filter_map(|(_, _, due)| *due).min();
        let looks = self.wheel.next();
        prop_assert!(first.is_none_or(|first| looks.is_some_and(|next| next <= first)));
        prop_assert!(looks.is_none_or(|next| next > self.wheel.now()));
        Ok(())
    }

    fn advance(&mut self, now: u64) -> Result<(), TestCaseError> {
        let mut due = Vec::new();
        self.wheel.advance(now, &mut due);
        due.into_iter().for_each(Waker::wake);
        for (_, woken, due) in &mut self.entries {
            let passed = due.take_if(|due| *due <= now);
            prop_assert_eq!(woken.take(), usize::from(passed.is_some()));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn each_deadline_is_told_once_when_it_is_reached_and_not_before(
        steps in proptest::collection::vec(step(), 0..200)
    ) {
        Model::run(steps)?;
    }
}

#[test]
fn a_deadline_that_is_put_off_stays_where_it_is_until_its_slot_comes() {
    let mut wheel = Wheel::new();
    let key = wheel.insert();
    let waker = Waker::noop();
    drop(wheel.set(key, 100, waker));
    let next = wheel.next();
    for due in [101, 5_000, 1 << 40] {
        drop(wheel.set(key, due, waker));
        assert_eq!(wheel.next(), next, "it is not moved");
    }
    let mut due = Vec::new();
    wheel.advance(100, &mut due);
    assert!(due.is_empty());
    assert!(wheel.next() > next);
}

#[test]
fn a_slot_that_comes_a_whole_turn_later_comes_after_those_before_it() {
    let mut wheel = Wheel::new();
    let (late, soon) = (wheel.insert(), wheel.insert());
    drop(wheel.set(late, 1, Waker::noop()));
    drop(wheel.set(late, 1 << 24, Waker::noop()));
    wheel.advance(1, &mut Vec::new());
    drop(wheel.set(soon, 1 << 18, Waker::noop()));
    assert_eq!(wheel.next(), Some(1 << 18));
}

#[test]
fn memory_of_many_deadlines_is_freed_with_the_last_of_them() {
    let mut wheel = Wheel::new();
    let keys: Vec<_> = (0..5_000).map(|_| wheel.insert()).collect();
    for key in keys {
        drop(wheel.set(key, 7, Waker::noop()));
        drop(wheel.remove(key));
    }
    assert_eq!(wheel.capacity(), 0);
    assert_eq!(wheel.next(), None);
}

/// Runs `test` beside a sweep on a paused clock.
fn beside_a_sweep<T: Future>(test: impl FnOnce(Sweep) -> T) -> T::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let sweep = Sweep::new(Instant::now());
        let running = sweep.clone();
        spawn_local(async move { running.run().await });
        test(sweep).await
    })
}

async fn goes_off(alarm: &mut Alarm, due: Instant) {
    poll_fn(|cx| alarm.poll_due(cx, due)).await;
}

#[test]
fn an_alarm_goes_off_at_most_a_tick_late_and_never_early() {
    beside_a_sweep(async |sweep: Sweep| {
        let mut alarm = sweep.alarm();
        for after_us in [1, 999, 10_000, 10_001, 640_000, 123_456_789, 86_400_000_000] {
            let due = Instant::now() + Duration::from_micros(after_us);
            goes_off(&mut alarm, due).await;
            let late = Instant::now().checked_duration_since(due);
            let late = late.unwrap_or_else(|| panic!("early: {after_us} µs"));
            assert!(late <= TICK + RUNTIMES, "{after_us} µs: late by {late:?}");
        }
    });
}

/// The runtime's timer rounds up to the next millisecond.
const RUNTIMES: Duration = Duration::from_millis(1);

#[test]
fn a_deadline_that_has_passed_already_is_noticed_within_a_tick() {
    beside_a_sweep(async |sweep: Sweep| {
        tokio::time::advance(Duration::from_secs(1_000)).await;
        let now = Instant::now();
        goes_off(&mut sweep.alarm(), now - Duration::from_secs(999)).await;
        assert!(now.elapsed() <= TICK + RUNTIMES);
        goes_off(&mut sweep.alarm(), now - Duration::from_secs(2_000)).await;
        assert!(now.elapsed() <= TICK + RUNTIMES);
    });
}

#[test]
fn a_later_deadline_is_kept_and_an_earlier_one_too() {
    beside_a_sweep(async |sweep: Sweep| {
        let mut alarm = sweep.alarm();
        let start = Instant::now();
        let set = |alarm: &mut Alarm, after| {
            let cx = Context::from_waker(Waker::noop());
            assert!(alarm.poll_due(&cx, start + after).is_pending());
        };
        set(&mut alarm, Duration::from_secs(10));
        set(&mut alarm, Duration::from_secs(20));
        goes_off(&mut alarm, start + Duration::from_secs(30)).await;
        assert_eq!(start.elapsed().as_secs(), 30);

        set(&mut alarm, Duration::from_secs(600));
        goes_off(&mut alarm, start + Duration::from_secs(40)).await;
        assert_eq!(start.elapsed().as_secs(), 40);
    });
}

#[test]
fn nobody_is_woken_by_an_alarm_that_is_cleared_or_dropped() {
    beside_a_sweep(async |sweep: Sweep| {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let due = Instant::now() + Duration::from_secs(1);
        let (mut cleared, mut dropped) = (sweep.alarm(), sweep.alarm());
        for alarm in [&mut cleared, &mut dropped] {
            assert!(
                alarm
                    .poll_due(&Context::from_waker(&waker), due)
                    .is_pending()
            );
        }
        cleared.clear();
        drop(dropped);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(woken.take(), 0);

        goes_off(&mut cleared, Instant::now() + Duration::from_secs(1)).await;
        drop(cleared);
        assert_eq!(sweep.0.wheel.borrow().len(), 0);
    });
}

#[test]
fn a_sweep_without_deadlines_does_not_wake_up() {
    beside_a_sweep(async |sweep: Sweep| {
        tokio::task::yield_now().await;
        let before = sweep.0.rounds.get();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(sweep.0.rounds.get(), before);

        // Set and taken back: once in vain, then never again.
        for _ in 0..1_000 {
            let mut alarm = sweep.alarm();
            let due = Instant::now() + Duration::from_secs(300);
            let cx = Context::from_waker(Waker::noop());
            assert!(alarm.poll_due(&cx, due).is_pending());
        }
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert!(
            sweep.0.rounds.get() <= before + 3,
            "{}",
            sweep.0.rounds.get()
        );
    });
}

#[test]
fn an_answer_in_time_leaves_nothing_and_one_that_does_not_come_is_given_up() {
    beside_a_sweep(async |sweep: Sweep| {
        let due = Instant::now() + Duration::from_secs(5);
        let answered = sweep
            .within(Some(due), pin!(tokio::time::sleep(Duration::from_secs(4))))
            .await;
        assert!(answered.is_ok());
        assert_eq!(sweep.0.wheel.borrow().len(), 0);

        assert!(
            sweep
                .within(Some(due), pin!(pending::<()>()))
                .await
                .is_err()
        );
        assert!(Instant::now() >= due);

        let unbounded = pin!(tokio::time::sleep(Duration::from_secs(4)));
        assert!(sweep.within(None, unbounded).await.is_ok());
    });
}

#[test]
fn thousands_of_alarms_go_off_in_their_order() {
    beside_a_sweep(async |sweep: Sweep| {
        let start = Instant::now();
        let ended = Rc::new(RefCell::new(BTreeMap::new()));
        let tasks: Vec<_> = (0..5_000_u64)
            .map(|number| {
                let (sweep, ended) = (sweep.clone(), Rc::clone(&ended));
                spawn_local(async move {
                    // In no order, over ten minutes.
                    let after = Duration::from_millis(number * 7_919 % 600_000);
                    goes_off(&mut sweep.alarm(), start + after).await;
                    ended.borrow_mut().insert(after, start.elapsed());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        for (after, took) in &*ended.borrow() {
            assert!(
                took >= after && *took <= *after + TICK + RUNTIMES,
                "{after:?}: {took:?}"
            );
        }
        assert_eq!(sweep.0.wheel.borrow().len(), 0);
    });
}
