//! How admissions reach a worker: in batches, with one wake per batch.
//!
//! Waking a sleeping thread for each request costs twenty times what the request costs. So whoever frees slots puts
//! all letters for a worker into its mailbox and wakes it once; until the worker has looked, nobody wakes it again.
//! A mailbox holds at most one letter per request that worker has parked.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::{Permit, Refusal};

/// What became of a parked request. A permit in a letter that nobody opens frees itself.
#[derive(Debug)]
pub(super) struct Letter {
    /// Which of the worker's parked requests.
    pub(super) slot: usize,
    pub(super) outcome: Result<Permit, Refusal>,
}

/// One worker's mailbox, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    letters: VecDeque<Letter>,
    /// Present while the worker sleeps.
    sleeper: Option<Waker>,
    closed: bool,
    traffic: Traffic,
}

/// How many letters were put into mailboxes, and how many wakes that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Parked requests whose end was sent to their worker: granted or refused.
    pub letters: u64,
    /// Wakes of workers; never more than letters.
    pub wakes: u64,
}

impl Mailbox {
    /// Puts letters in, in this order. Gives them back if nobody will ever look.
    #[must_use = "letters that come back hold permits"]
    pub(super) fn put(&self, letters: Vec<Letter>) -> Vec<Letter> {
        let sleeper = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return letters;
            }
            inner.traffic.letters += letters.len() as u64;
            inner.letters.extend(letters);
            let sleeper = inner.sleeper.take();
            inner.traffic.wakes += u64::from(sleeper.is_some());
            sleeper
        };
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Vec::new()
    }

    /// Moves up to `most` letters into `taken`. Pending while there are none.
    pub(super) fn poll_take(
        &self,
        cx: &Context<'_>,
        most: usize,
        taken: &mut Vec<Letter>,
    ) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.letters.is_empty() {
            let stale = inner.sleeper.replace(cx.waker().clone());
            drop(inner);
            drop(stale); // a waker is somebody else's code: not under the lock
            return Poll::Pending;
        }
        let count = inner.letters.len().min(most.max(1));
        taken.extend(inner.letters.drain(..count));
        Poll::Ready(())
    }

    pub(super) fn has_letters(&self) -> bool {
        !self.inner.lock().letters.is_empty()
    }

    /// Nobody will look any more. What is inside comes out, to be dropped.
    #[must_use = "letters hold permits"]
    pub(super) fn close(&self) -> VecDeque<Letter> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        std::mem::take(&mut inner.letters)
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.inner.lock().traffic
    }
}
