//! Readiness as something that is held: whoever is not ready yet holds a [`Pending`], and the process is ready when
//! nobody does.

use std::sync::Arc;

use parking_lot::Mutex;

/// What the process still waits for.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<Mutex<Vec<&'static str>>>);

impl Ready {
    /// Not ready until the returned value is dropped. `what` is shown by `/readyz`.
    pub fn wait_for(&self, what: &'static str) -> Pending {
        self.0.lock().push(what);
        Pending {
            ready: self.clone(),
            what,
        }
    }

    /// What is still waited for; empty when ready.
    pub fn waits_for(&self) -> Vec<&'static str> {
        self.0.lock().clone()
    }
}

/// Keeps the process unready until dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the wait is over"]
pub struct Pending {
    ready: Ready,
    what: &'static str,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = self.ready.0.lock();
        if let Some(position) = waiting.iter().position(|what| *what == self.what) {
            waiting.swap_remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_wait_is_over() {
        let ready = Ready::default();
        let routes = ready.wait_for("routes");
        let listeners = ready.wait_for("listeners");
        drop(routes);
        assert_eq!(ready.waits_for(), ["listeners"]);
        drop(listeners);
        assert!(ready.waits_for().is_empty());
    }
}
