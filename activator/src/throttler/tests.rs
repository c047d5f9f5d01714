//! Hand-polled tests: the stage they play on.

mod admission;
mod ends;
mod starts;

use std::net::SocketAddr;
use std::pin::Pin;

use tokio_test::assert_pending;
use tokio_test::task::{Spawn, spawn};

use super::*;
use crate::revision::ContainerConcurrency;

const SECOND: Duration = Duration::from_secs(1);

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, last], 8012)))
}

fn id() -> RevisionId {
    RevisionId::new("default", "shop-00001")
}

fn spec(concurrency: u32) -> Arc<RevisionSpec> {
    Arc::new(RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        ..RevisionSpec::default()
    })
}

/// One Revision, one worker, and the worker's pump in hand.
struct Stage {
    throttler: Throttler,
    worker: std::rc::Rc<Worker>,
    pump: Spawn<Pin<Box<dyn Future<Output = ()>>>>,
}

fn stage_with(limits: QueueLimits, concurrency: u32) -> Stage {
    let throttler = Throttler::new(limits, 1);
    throttler.upsert(&id(), spec(concurrency), Parking::Allowed);
    let worker = std::rc::Rc::new(throttler.worker(0));
    let pumped = std::rc::Rc::clone(&worker);
    let pump: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { pumped.run().await });
    let mut pump = spawn(pump);
    assert_pending!(pump.poll());
    Stage {
        throttler,
        worker,
        pump,
    }
}

fn stage(concurrency: u32) -> Stage {
    stage_with(QueueLimits::default(), concurrency)
}

impl Stage {
    fn endpoints(&self, lasts: impl IntoIterator<Item = u8>) {
        self.throttler
            .set_endpoints(&id(), lasts.into_iter().map(endpoint).collect());
    }

    fn admit(&self) -> Admission {
        self.worker.admit(&id(), Ask::default())
    }

    fn granted(&self) -> Permit {
        match self.admit() {
            Admission::Granted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn parked(&self) -> Spawn<Ticket> {
        self.parked_with(Ask::default())
    }

    fn parked_with(&self, ask: Ask) -> Spawn<Ticket> {
        match self.worker.admit(&id(), ask) {
            Admission::Parked(ticket) => {
                let mut ticket = spawn(ticket);
                assert_pending!(ticket.poll());
                ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self) -> Refusal {
        self.refused_with(Ask::default())
    }

    fn refused_with(&self, ask: Ask) -> Refusal {
        match self.worker.admit(&id(), ask) {
            Admission::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the worker deliver, as often as it wants.
    fn pump(&mut self) {
        loop {
            assert_pending!(self.pump.poll());
            if !self.pump.is_woken() {
                return;
            }
        }
    }

    fn state(&self) -> RevisionState {
        self.throttler.revision_state(&id()).unwrap()
    }

    /// Nothing is parked, held or in flight.
    #[track_caller]
    fn assert_empty(&self) {
        let state = self.state();
        assert_eq!(
            (state.parked, state.parked_bytes, state.in_flight),
            (0, 0, 0)
        );
        assert_eq!(
            (self.throttler.parked(), self.throttler.parked_bytes()),
            (0, 0)
        );
        let counters = state.counters;
        assert_eq!(state.parked_seconds.count(), counters.parked_total);
    }
}
