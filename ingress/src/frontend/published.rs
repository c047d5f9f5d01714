//! What requests are routed by, as it is handed from a provider to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::routing::revisions::Revisions;
use crate::routing::table::RouteSnapshot;

/// What requests are routed by at one moment: everything that must agree.
#[derive(Debug)]
pub(super) struct Current {
    /// The rules, for the gateway's entrances.
    pub(super) routes: RouteSnapshot,
    /// The Revisions, for the activator's ports.
    pub(super) revisions: Revisions,
}

/// The current routes and Revisions; the holder of [`RoutePublisher`] is the only one who changes them.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Published>);

#[derive(Debug)]
struct Published {
    generation: AtomicU64,
    current: ArcSwap<Current>,
}

/// Publishes routes and Revisions to all workers.
#[derive(Debug)]
pub struct RoutePublisher(Routes);

impl RoutePublisher {
    /// A publisher of `first`, and what readers hold. There are no Revisions yet.
    pub fn new(first: RouteSnapshot) -> (Self, Routes) {
        let routes = Routes(Arc::new(Published {
            generation: AtomicU64::new(first.generation()),
            current: ArcSwap::from_pointee(Current {
                routes: first,
                revisions: Revisions::default(),
            }),
        }));
        (Self(routes.clone()), routes)
    }

    /// Makes these what new requests are routed by; running ones keep theirs.
    ///
    /// Workers look again when the generation is another: one that is published for the Revisions alone needs a new one,
    /// too ([`RouteSnapshot::for_generation`]).
    pub fn publish(&self, routes: RouteSnapshot, revisions: Revisions) {
        let generation = routes.generation();
        let published = &self.0.0;
        published
            .current
            .store(Arc::new(Current { routes, revisions }));
        published.generation.store(generation, Ordering::Release);
    }
}

impl Routes {
    /// The routes of this moment.
    pub fn current(&self) -> RouteSnapshot {
        self.0.current.load().routes.clone()
    }

    /// The routes and Revisions of this moment.
    pub(super) fn load(&self) -> Arc<Current> {
        self.0.current.load_full()
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}
