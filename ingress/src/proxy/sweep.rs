//! All deadlines of a worker, looked after by one task.
//!
//! Nearly every deadline is set and taken back again: a request has one, and its answer comes long before. So setting and
//! taking back must cost next to nothing, and being on time to the millisecond is worth nothing. Deadlines are kept in
//! ticks of [`TICK`]: none is noticed early, and none more than a tick late (and the millisecond of the runtime's own
//! timer). Without deadlines the task sleeps until there is one.
//!
//! Setting a deadline allocates only while there are more of them than ever before. What one takes, some 50 bytes, is
//! bounded by what they belong to: connections, and requests that are parked or sent.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::wheel::{Key, Wheel};

#[cfg(test)]
mod tests;
mod wheel;

/// How exactly deadlines are kept.
pub const TICK: Duration = Duration::from_millis(TICK_MS as u64);
const TICK_MS: u32 = 10;

/// The deadlines of one worker. Cloning gives another handle.
#[derive(Clone)]
pub struct Sweep(Rc<Shared>);

struct Shared {
    /// Tick 0.
    start: Instant,
    wheel: RefCell<Wheel>,
    /// The tick that the task sleeps to.
    wakes_at: Cell<u64>,
    /// The task, while it sleeps.
    task: Cell<Option<Waker>>,
    /// How often the task has run.
    #[cfg(test)]
    rounds: Cell<u32>,
}

/// The deadline passed.
#[derive(Debug)]
pub struct Elapsed;

impl Sweep {
    /// No deadlines; `now` is not later than any that is ever set.
    pub fn new(now: Instant) -> Self {
        Self(Rc::new(Shared {
            start: now,
            wheel: RefCell::new(Wheel::new()),
            wakes_at: Cell::new(u64::MAX),
            task: Cell::new(None),
            #[cfg(test)]
            rounds: Cell::new(0),
        }))
    }

    /// An alarm that is not set.
    pub fn alarm(&self) -> Alarm {
        Alarm {
            sweep: self.clone(),
            key: None,
        }
    }

    /// Awaits `future`, no longer than `due`.
    ///
    /// # Errors
    ///
    /// When the deadline passed.
    pub async fn within<F: Future>(
        &self,
        due: Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        let mut alarm = self.alarm();
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => match due {
                Some(due) => alarm.poll_due(cx, due).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            },
        })
        .await
    }

    /// Wakes those whose deadlines pass. Never ends; without it no alarm goes off.
    pub async fn run(&self) {
        let shared = &self.0;
        let mut timer = std::pin::pin!(sleep_until(shared.start));
        let mut due = Vec::new();
        poll_fn(|cx| -> Poll<()> {
            loop {
                #[cfg(test)]
                shared.rounds.set(shared.rounds.get() + 1);
                let next = self.advance(Instant::now(), &mut due);
                // Outside the borrow: whoever is woken may run at once.
                due.drain(..).for_each(Waker::wake);
                shared.wakes_at.set(next.unwrap_or(u64::MAX));
                shared.task.set(Some(cx.waker().clone()));
                let Some(next) = next else {
                    return Poll::Pending;
                };
                let next = shared.instant(next);
                if timer.deadline() != next || timer.is_elapsed() {
                    timer.as_mut().reset(next);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Moves on to `now`; the tick to be woken at next, if there are deadlines.
    fn advance(&self, now: Instant, due: &mut Vec<Waker>) -> Option<u64> {
        let mut wheel = self.0.wheel.borrow_mut();
        wheel.advance(self.0.reached(now), due);
        wheel.next()
    }
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").finish_non_exhaustive()
    }
}

impl Shared {
    /// The first tick that is not before `due`: none is early.
    fn due_at(&self, due: Instant) -> u64 {
        let after = due.saturating_duration_since(self.start);
        let part = after.subsec_nanos().div_ceil(TICK_MS * 1_000_000);
        after.as_secs() * TICKS_PER_SECOND + u64::from(part)
    }

    /// The last tick that is not after `now`.
    fn reached(&self, now: Instant) -> u64 {
        let after = now.saturating_duration_since(self.start);
        let part = after.subsec_millis() / TICK_MS;
        after.as_secs() * TICKS_PER_SECOND + u64::from(part)
    }

    fn instant(&self, tick: u64) -> Instant {
        self.start + Duration::from_millis(tick.saturating_mul(u64::from(TICK_MS)))
    }
}

const TICKS_PER_SECOND: u64 = 1_000 / TICK_MS as u64;

/// Somebody's deadline, one at a time; dropping it takes it back.
#[derive(Debug)]
pub struct Alarm {
    sweep: Sweep,
    key: Option<Key>,
}

impl Alarm {
    /// Ready when `due` has passed; else the task is woken when it has. A deadline other than the last one replaces it.
    pub fn poll_due(&mut self, cx: &Context<'_>, due: Instant) -> Poll<()> {
        let shared = &*self.sweep.0;
        let due = shared.due_at(due);
        let mut wheel = shared.wheel.borrow_mut();
        if due <= wheel.now() {
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| wheel.insert());
        let replaced = wheel.set(key, due, cx.waker());
        drop(wheel);
        drop(replaced);
        if due < shared.wakes_at.get() {
            shared.wakes_at.set(due);
            if let Some(task) = shared.task.take() {
                task.wake();
            }
        }
        Poll::Pending
    }

    /// Takes the deadline back. Costs next to nothing, and so does setting it to later again.
    pub fn clear(&mut self) {
        if let Some(key) = self.key {
            self.sweep.0.wheel.borrow_mut().clear(key);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.sweep.0.wheel.borrow_mut().remove(key);
            drop(waker);
        }
    }
}
