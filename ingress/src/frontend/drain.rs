//! How the connections of a worker hear that the drain begins.
//!
//! Each asks whenever it is woken, so asking must cost next to nothing: one look at a flag of the worker's own, and at
//! whether the task that will be woken is still the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

/// A worker's word that the drain has begun, and who wants to hear it.
#[derive(Debug, Default)]
pub(super) struct Drain {
    has_begun: Cell<bool>,
    /// As many as there are connections.
    listening: RefCell<Slab<Waker>>,
}

impl Drain {
    /// Tells everybody who listens now, and who will ask.
    pub(super) fn begin(&self) {
        self.has_begun.set(true);
        let listening = self.listening.take();
        // Outside the borrow: whoever is woken may ask at once.
        for (_, waker) in listening {
            waker.wake();
        }
    }
}

/// One who wants to hear; dropping it ends that.
#[derive(Debug)]
pub(super) struct Listener {
    drain: Rc<Drain>,
    key: Cell<Option<usize>>,
}

impl Listener {
    pub(super) fn new(drain: &Rc<Drain>) -> Self {
        Self {
            drain: Rc::clone(drain),
            key: Cell::new(None),
        }
    }

    /// Whether the drain has begun; the task is woken when it does.
    pub(super) fn has_begun(&self, cx: &Context<'_>) -> bool {
        if self.drain.has_begun.get() {
            return true;
        }
        let mut listening = self.drain.listening.borrow_mut();
        let known = self.key.get().and_then(|key| listening.get_mut(key));
        let replaced = match known {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.key.set(Some(listening.insert(cx.waker().clone())));
                None
            }
        };
        drop(listening);
        drop(replaced);
        false
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Once it has begun nobody is kept.
        let known = self.key.get().filter(|_| !self.drain.has_begun.get());
        let waker = known.and_then(|key| self.drain.listening.borrow_mut().try_remove(key));
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Debug, Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn everybody_who_asked_is_woken_once_and_who_asks_later_is_told() {
        let drain = Rc::new(Drain::default());
        let woken: [Arc<Woken>; 3] = std::array::from_fn(|_| Arc::default());
        let ask = |listener: &Listener, woken: &Arc<Woken>| {
            let waker = Waker::from(Arc::clone(woken));
            listener.has_begun(&Context::from_waker(&waker))
        };
        let [first, moved, gone, silent] = std::array::from_fn(|_| Listener::new(&drain));
        assert!(!ask(&first, &woken[0]));
        assert!(!ask(&first, &woken[0]));
        // A connection whose task is another one now.
        assert!(!ask(&moved, &woken[0]));
        assert!(!ask(&moved, &woken[1]));
        assert!(!ask(&gone, &woken[2]));
        drop(gone);
        assert_eq!(Arc::strong_count(&woken[2]), 1);

        drain.begin();

        let counts = woken
            .each_ref()
            .map(|woken| woken.0.load(Ordering::Relaxed));
        assert_eq!(counts, [1, 1, 0]);
        for listener in [&first, &moved, &silent] {
            assert!(ask(listener, &woken[2]));
        }
        drop((first, moved, silent));
        assert!(drain.listening.borrow().is_empty());
    }
}
