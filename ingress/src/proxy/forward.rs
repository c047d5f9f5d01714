//! From a permit to a response: one request to one endpoint after another until one answers.
//!
//! What has not been started is always sent again, what may have been started only if that does no harm, what has begun
//! to answer never unless its route asks for it; `routing::retry` decides, within a budget. An endpoint that refuses is
//! set aside. Between two attempts the request has no permit: it asks for one again, first in line, and may have to be
//! parked again. So does one that queue-proxy had no room for, which others that share the Pod have taken: it goes on
//! waiting instead of hearing so.

mod again;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Response, header};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::Protocol;
use parkway_activator::stats::InFlight;
use parkway_activator::throttler::{Admission, Ask, Permit, Throttler, Ticket, Worker};
use tokio::time::Instant;
use tracing::debug;

use self::again::pause_before_next;
use super::body::{BusyGuard, Replay, RequestBody, ResponseBody};
use super::deadlines::{Deadlines, Terms};
use super::destination::Destination;
use super::failure::Failure;
use super::head::PackedHead;
use super::held::{Held, Holds};
use super::observe::Observation;
use super::pool::{Http1Lease, Pool};
use super::send::{Answered, Attempt, SendError, send};
pub use super::sweep::Elapsed;
use super::sweep::{Alarm, Sweep};
use crate::config::Limits;
use crate::routing::headers;
use crate::routing::headers::{HostMode, Present};
use crate::routing::policy::RoutePolicy;
use crate::routing::retry::{Budget, RetryPolicy};

/// What forwarding needs of its worker.
#[derive(Debug)]
pub struct Forwarder {
    /// Hands out permits.
    pub throttle: Worker,
    /// To tell which endpoints refuse.
    pub throttler: Throttler,
    /// Deadlines.
    pub sweep: Sweep,
    /// Connections to endpoints.
    pub pool: Pool,
    /// How many requests may be sent again.
    pub budget: RefCell<Budget>,
    /// Who restores the Host that the client meant.
    pub host_mode: HostMode,
    /// Bounds.
    pub limits: Arc<Limits>,
}

/// One request on its way: what is known of it besides head and body.
#[derive(Debug)]
pub struct Job {
    /// Whose endpoints serve it.
    pub destination: Rc<Destination>,
    /// Its count for the autoscaler; `None` for an ordinary Service.
    pub in_flight: Option<InFlight>,
    /// When it may take no longer; `None` for an ordinary Service.
    pub deadlines: Option<Deadlines>,
    /// Which client it counts for in the queue, where shares are bounded.
    pub client: Option<u64>,
    /// What its endpoint is spoken to.
    pub protocol: Protocol,
    /// How often it was sent, and not turned away.
    pub attempts: u32,
    /// How often it was turned away by an endpoint without room; stops at the greatest number.
    pub turned_away: u8,
    /// Its client waits for a WebSocket on an HTTP/2 stream, and takes any success for one.
    pub must_switch: bool,
    /// How its message was framed, for a connection that is built anew.
    pub framing: Framing,
    /// What is written down when it ends.
    pub observation: Observation,
}

/// What of an HTTP/1 head concerns the connection and is not passed on, but is needed to replay it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    is_chunked: bool,
    closes: bool,
}

impl Framing {
    /// Notes the framing of a head as it came in.
    pub fn of(head: &Parts, present: Present) -> Self {
        if !present.has(Present::CONNECTION.and(Present::TRANSFER_ENCODING)) {
            return Self::default();
        }
        let mut options = head
            .headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok());
        Self {
            is_chunked: head.headers.contains_key(header::TRANSFER_ENCODING),
            closes: options.any(|value| {
                value
                    .split(',')
                    .any(|option| option.trim().eq_ignore_ascii_case("close"))
            }),
        }
    }

    /// The fields a replayed head needs besides those that are passed on.
    pub fn fields(self) -> &'static [u8] {
        match (self.is_chunked, self.closes) {
            (false, false) => b"",
            (true, false) => b"transfer-encoding: chunked\r\n",
            (false, true) => b"connection: close\r\n",
            (true, true) => b"transfer-encoding: chunked\r\nconnection: close\r\n",
        }
    }
}

/// How forwarding went.
#[derive(Debug)]
pub enum Outcome {
    /// An endpoint answers.
    Answered(Response<Held>),
    /// An endpoint switched protocols: after this response the connection's bytes are relayed.
    Switched(Response<Held>, Box<Tunnel>),
    /// No endpoint has answered and the request must wait again; its body is as it came.
    Parked(Box<Waiting>, RequestBody),
    /// The answer is ours.
    Failed(Failure, Observation),
}

/// A request that is parked.
#[derive(Debug)]
pub struct Waiting {
    /// What is known of it.
    pub job: Job,
    /// Its place.
    pub ticket: Ticket,
    /// Its head.
    pub head: PackedHead,
}

/// Both ends of a connection that switched protocols, on the endpoint's side.
#[derive(Debug)]
pub struct Tunnel {
    /// The endpoint's connection.
    pub upstream: Http1Lease,
    /// What the request holds until the tunnel ends.
    pub holds: Holds,
}

impl Job {
    /// When the request ends if no response head comes.
    pub fn due(&self) -> Option<Instant> {
        self.deadlines.as_ref().map(Deadlines::before_response)
    }

    /// What its route says about retries.
    fn retry(&self) -> Option<&RetryPolicy> {
        self.route()?.retry.as_ref()
    }

    fn route(&self) -> Option<&RoutePolicy> {
        Some(&self.terms()?.policy)
    }

    fn terms(&self) -> Option<&Terms> {
        self.deadlines.as_ref()?.route.as_deref()
    }

    /// Whether it wakes nobody.
    pub fn is_only_if_up(&self) -> bool {
        self.terms().is_some_and(|terms| terms.only_if_up)
    }

    /// How long its route gives connecting, in milliseconds.
    fn connect_ms(&self) -> Option<NonZeroU32> {
        let limit = self.route()?.timeouts.connect?;
        NonZeroU32::new(u32::try_from(limit.as_millis()).ok()?)
    }

    /// When an attempt that begins now ends if no response head comes.
    fn try_due(&self) -> Option<Instant> {
        let due = self.due();
        match self.retry().and_then(|retry| retry.try_timeout) {
            None => due,
            Some(limit) => due.into_iter().chain([Instant::now() + limit]).min(),
        }
    }

    /// What became of a request whose time is over, parked or not.
    pub fn late(&self, parked_since: Option<Instant>) -> Failure {
        match &self.deadlines {
            Some(deadlines) => deadlines.failure(parked_since, Instant::now()),
            None => Failure::TimedOut,
        }
    }

    /// Whether the request as a whole is late, not only one attempt.
    fn is_late(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Asks for a permit.
    pub fn ask(&self, bytes: usize, avoid: Option<Endpoint>) -> Ask {
        Ask {
            bytes,
            client: self.client,
            avoid,
            first_in_line: avoid.is_some(),
            only_if_up: self.is_only_if_up(),
            arrived: Some(self.observation.arrived()),
        }
    }
}

impl Waiting {
    /// When it has waited too long.
    pub fn due(&self) -> Option<Instant> {
        let since = self.ticket.parked_since();
        let deadlines = self.job.deadlines.as_ref();
        deadlines.map(|deadlines| deadlines.while_parked(since))
    }

    /// What became of it then.
    pub fn late(&self) -> Failure {
        self.job.late(Some(self.ticket.parked_since()))
    }
}

impl Forwarder {
    /// Sends the request to `permit`'s endpoint, and to others as long as that is right.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the request and frees all it holds.
    pub async fn forward(
        &self,
        mut job: Job,
        mut permit: Permit,
        mut head: Parts,
        body: RequestBody,
        busy: Option<BusyGuard>,
    ) -> Outcome {
        let is_upgrade = head.headers.contains_key(header::UPGRADE);
        let expects_continue = head.headers.contains_key(header::EXPECT);
        let body = (!body.is_empty())
            .then(|| Replay::new(body, self.limits.replay_bytes).paced(self.pace(&head)));
        if job.attempts == 0 && job.turned_away == 0 {
            let now = Instant::now();
            self.budget.borrow_mut().arrived(now);
            let terms = job.deadlines.as_mut();
            if let Some(terms) = terms.and_then(|deadlines| deadlines.route.as_mut()) {
                terms.first_sent = Some(now);
            }
        }
        loop {
            job.attempts += 1;
            let (endpoint, target) = (permit.endpoint(), &job.destination.target);
            headers::address(&mut head.headers, target, self.host_mode, endpoint);
            job.observation.attempt(endpoint, &mut head.headers);
            let connected = Cell::new(None);
            let follows = job.observation.follows_attempts();
            let attempt = Attempt {
                endpoint,
                revision: &job.destination.id,
                protocol: job.protocol,
                head: &head,
                body: body.as_ref(),
                is_upgrade,
                expects_continue,
                connect_ms: job.connect_ms(),
                connected: follows.then_some(&connected),
                must_switch: job.must_switch,
                observation: &job.observation,
            };
            let released = permit.waited().then(Instant::now);
            let sent = {
                // Pinned here and lent on: handed on by value it would lie in this future once for each layer.
                let sending = pin!(send(&self.pool, &self.limits, attempt));
                self.in_time(job.try_due(), &mut permit, released, sending)
                    .await
            };
            job.observation.connected(connected.get());
            let error = match sent {
                Err(Elapsed) if job.is_late() => {
                    return Outcome::Failed(job.late(None), job.observation);
                }
                Err(Elapsed) => SendError::TooSlow,
                Ok(Ok(answered)) if !self.needs_a_look(&job, &answered) => {
                    self.goes_on(&mut permit, released);
                    let alarm = self.sweep.alarm();
                    return answer(job, permit, alarm, answered, busy, body);
                }
                Ok(Ok(answered)) => {
                    // On the heap, and what comes of it too: rare.
                    let looked = Box::pin(self.look(&job, answered, &head, body.as_ref())).await;
                    match looked {
                        Err(Elapsed) => return Outcome::Failed(job.late(None), job.observation),
                        Ok(Ok(answered)) => {
                            self.goes_on(&mut permit, released);
                            let alarm = self.sweep.alarm();
                            return answer(job, permit, alarm, *answered, busy, body);
                        }
                        Ok(Err(error)) => error,
                    }
                }
                Ok(Err(error)) => error,
            };
            debug!(revision = %job.destination.id, endpoint = %permit.endpoint(), attempts = job.attempts, %error, "attempt failed");
            job.observation.attempt_failed(&error);
            let failed = permit.endpoint();
            if error.is_refusal() {
                self.throttler.suspect(&job.destination.id, failed);
            }
            if let Some(failure) = self.gives_up(&error, &head, body.as_ref(), &job) {
                return Outcome::Failed(failure, job.observation);
            }
            job.observation.retried(error.reason());
            // Kept by a request that was turned away: while it pauses, nobody else is sent to where there is no room.
            // Otherwise the slot goes to others while this request pauses and asks anew.
            let kept = matches!(error, SendError::TurnedAway).then_some(permit);
            let pause = pause_before_next(&mut job, &error);
            drop(error);
            match pause {
                None => drop(kept),
                Some(pause) => {
                    let paused = Box::pin(self.pause(&mut job, pause, kept)).await;
                    if let Err(Elapsed) = paused {
                        return Outcome::Failed(job.late(None), job.observation);
                    }
                }
            }
            let ask = job.ask(PackedHead::packed_len(&head), Some(failed));
            permit = match self.throttle.admit(&job.destination.id, ask) {
                Admission::Granted(permit) => permit,
                Admission::Refused(refusal) => {
                    return Outcome::Failed(refusal.into(), job.observation);
                }
                Admission::Parked(ticket) => {
                    let untouched = body
                        .as_ref()
                        .map_or(Some(RequestBody::Empty), Replay::take_untouched);
                    job.observation.waits_for(&ticket, &head);
                    if let Some(body) = untouched {
                        job.observation.has_parked();
                        let head = PackedHead::pack(&head);
                        return Outcome::Parked(Box::new(Waiting { job, ticket, head }), body);
                    }
                    match self.wait_in_place(&mut job, ticket).await {
                        Ok(permit) => permit,
                        Err(failure) => return Outcome::Failed(failure, job.observation),
                    }
                }
            };
        }
    }

    /// Awaits an attempt, no longer than `due`. A request that was parked, and released then, makes room for the next one
    /// when its response begins, or here when that takes long and others are not answered either.
    async fn in_time<F: Future>(
        &self,
        due: Option<Instant>,
        permit: &mut Permit,
        released: Option<Instant>,
        mut sending: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        let mut alarm = self.sweep.alarm();
        let mut goes_on = released.map(|released| released + self.throttle.release_patience());
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(sent));
            }
            while let Some(pace) = goes_on
                && due.is_none_or(|due| pace < due)
            {
                if alarm.poll_due(cx, pace).is_pending() {
                    return Poll::Pending;
                }
                goes_on = self.throttle.takes_its_time(permit);
            }
            match due {
                Some(due) => alarm.poll_due(cx, due).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The response of a request has begun that was released then: if it was parked, others may go.
    fn goes_on(&self, permit: &mut Permit, released: Option<Instant>) {
        if let Some(released) = released {
            self.throttle.has_answered(permit, released.elapsed());
        }
    }

    /// Waits for a permit inside a request whose body has been read already.
    async fn wait_in_place(&self, job: &mut Job, ticket: Ticket) -> Result<Permit, Failure> {
        job.observation.waits();
        let since = ticket.parked_since();
        let due = { job.deadlines.as_ref() }.map(|deadlines| deadlines.while_parked(since));
        let granted = self.sweep.within(due, pin!(ticket)).await;
        job.observation.goes_on();
        match granted {
            Ok(granted) => granted.map_err(Failure::Refused),
            Err(Elapsed) => Err(job.late(Some(since))),
        }
    }

    /// Lets a moment pass in which the request has been begun with by nobody; the permit is kept until then.
    async fn pause(
        &self,
        job: &mut Job,
        pause: Duration,
        kept: Option<Permit>,
    ) -> Result<(), Elapsed> {
        let paused = self
            .sweep
            .within(job.due(), pin!(tokio::time::sleep(pause)))
            .await;
        job.observation.goes_on();
        drop(kept);
        paused
    }
}

/// Puts the response together with what its request holds.
fn answer(
    job: Job,
    permit: Permit,
    alarm: Alarm,
    answered: Answered,
    busy: Option<BusyGuard>,
    upload: Option<Replay>,
) -> Outcome {
    let Job {
        in_flight,
        deadlines,
        mut observation,
        ..
    } = job;
    let Answered {
        mut head,
        body,
        carrier,
        upgraded,
    } = answered;
    let now = Instant::now();
    observation.answered(head.status, now);
    headers::edit_response(&mut head.headers, head.status);
    observation.tell_start(&mut head.headers);
    if let Some(upload) = &upload {
        upload.forget();
        // Answered without having been asked for its body: whether the client sends it is its choice (RFC 9110 section
        // 10.1.1), so where its next request would begin nobody knows.
        if upload.is_untouched() {
            upload.abandon();
            head.headers
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let holds = Holds {
        permit: Some(permit),
        in_flight,
        carrier,
        alarm: deadlines.is_some().then_some(alarm),
        deadlines,
        last_write: now,
        observation,
        busy,
        upload,
    };
    if let Some(upstream) = upgraded {
        let response = Response::from_parts(head, Held::bare(ResponseBody::Empty));
        return Outcome::Switched(response, Box::new(Tunnel { upstream, holds }));
    }
    Outcome::Answered(Response::from_parts(head, Held::new(body, holds)))
}

/// Awaits `future`, no longer than `due`, with a timer of its own: for what is rare and lasts.
///
/// # Errors
///
/// When the deadline passed.
pub async fn within<F: Future>(due: Option<Instant>, future: F) -> Result<F::Output, Elapsed> {
    match due {
        None => Ok(future.await),
        Some(due) => tokio::time::timeout_at(due, future)
            .await
            .map_err(|_elapsed| Elapsed),
    }
}
