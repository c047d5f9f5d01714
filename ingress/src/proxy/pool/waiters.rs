//! Requests that wait for a connection, in order of arrival.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::oneshot;

/// A line in which each waiter is handed what it waits for.
///
/// What is handed over must free itself when it is dropped, because a waiter may leave before it looks: that is how it
/// goes to the next in line.
#[derive(Debug)]
pub(super) struct Waiters<G>(RefCell<VecDeque<oneshot::Sender<G>>>);

impl<G> Default for Waiters<G> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<G> Waiters<G> {
    /// Joins the line at its end.
    pub(super) fn join(&self) -> oneshot::Receiver<G> {
        let (hand, receiver) = oneshot::channel();
        self.0.borrow_mut().push_back(hand);
        receiver
    }

    /// Takes the first in line that has not left.
    pub(super) fn next(&self) -> Option<oneshot::Sender<G>> {
        let mut waiters = self.0.borrow_mut();
        loop {
            let first = waiters.pop_front()?;
            if !first.is_closed() {
                return Some(first);
            }
        }
    }

    /// Whether nobody is in line; those that have left are forgotten.
    pub(super) fn is_empty(&self) -> bool {
        let mut waiters = self.0.borrow_mut();
        while waiters.front().is_some_and(oneshot::Sender::is_closed) {
            waiters.pop_front();
        }
        waiters.is_empty()
    }
}
