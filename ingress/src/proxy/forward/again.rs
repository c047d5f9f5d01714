//! Whether an attempt ends the request, or is followed by another.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::time::Duration;

use http::request::Parts;
use http::{Method, header};
use tokio::time::Instant;
use tracing::debug;

use super::super::body::{Left, Replay};
use super::super::failure::{Failure, Named};
use super::super::pace::Pace;
use super::super::send::{Answered, SendError, is_our_shortage};
use super::super::sweep::Elapsed;
use super::super::turned_away;
use super::{Forwarder, Job};
use crate::routing::headers::HostMode;
use crate::routing::retry::{self, BodyState, Failed, Progress, RetryAfter, Verdict};
use crate::routing::rules::Target;

impl Forwarder {
    /// How long the client may be waited for with the body of this request. A call of gRPC may be a conversation in which
    /// the client says nothing for long, and so may what a CONNECT opens: they are not bounded by this.
    pub(super) fn pace(&self, head: &Parts) -> Option<Pace> {
        let rate = self.limits.body_rate?;
        let is_conversation = head.method == Method::CONNECT
            || head
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let pace = || Pace::new(self.sweep.alarm(), rate, self.limits.body_patience);
        (!is_conversation).then(pace)
    }

    /// Whether an answer may be one that is not passed on. For nearly all a look at the status, and at what is not there.
    pub(super) fn needs_a_look(&self, job: &Job, answered: &Answered) -> bool {
        self.may_be_turned_away(job, answered)
            || job.retry().is_some_and(|retry| {
                retry
                    .unwanted(answered.head.status, &answered.head.headers)
                    .is_some()
            })
    }

    /// Passes an answer on, unless queue-proxy had no room or the route wants the request sent again.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the answer.
    pub(super) async fn look(
        &self,
        job: &Job,
        mut answered: Answered,
        head: &Parts,
        body: Option<&Replay>,
    ) -> Result<Result<Box<Answered>, SendError>, Elapsed> {
        if self.may_be_turned_away(job, &answered) {
            let looking = turned_away::unless(answered, head.method.clone(), body.cloned());
            match self.sweep.within(job.due(), pin!(looking)).await? {
                Ok(passed) => answered = passed,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match self.wants_another(job, &answered, head, body) {
            None => Ok(Box::new(answered)),
            Some(unwanted) => {
                drop(answered);
                Err(retracted(body).unwrap_or(unwanted))
            }
        })
    }

    /// What to do instead of passing an answer on, if the route asks for it and all else allows it.
    fn wants_another(
        &self,
        job: &Job,
        answered: &Answered,
        head: &Parts,
        body: Option<&Replay>,
    ) -> Option<SendError> {
        let (status, headers) = (answered.head.status, &answered.head.headers);
        let retry = job.retry()?;
        let reason = retry.unwanted(status, headers)?;
        let failed = Failed {
            progress: Progress::ResponseBegun,
            method: &head.method,
            body: body_state(body),
            attempts: job.attempts,
            policy: Some(retry),
        };
        let pause = retry.pause(job.attempts, RetryAfter::of(headers), draw());
        let (due, now) = (job.due(), Instant::now());
        let mut budget = self.budget.borrow_mut();
        let pause = failed.decide_answer(retry, reason, pause, due, &mut budget, now)?;
        debug!(revision = %job.destination.id, %status, attempts = job.attempts, ?pause, "the route wants another answer");
        Some(SendError::Unwanted { pause, reason })
    }

    /// Whether queue-proxy may have said that it had no room.
    fn may_be_turned_away(&self, job: &Job, answered: &Answered) -> bool {
        turned_away::is_likely(&answered.head)
            && self.host_mode == HostMode::QueueProxy
            && matches!(job.destination.target, Target::Revision { .. })
    }

    /// The failure that ends the request, unless it may be sent again.
    pub(super) fn gives_up(
        &self,
        error: &SendError,
        head: &Parts,
        body: Option<&Replay>,
        job: &Job,
    ) -> Option<Failure> {
        match error {
            SendError::Client if body.is_some_and(Replay::is_too_slow) => {
                return Some(Failure::SlowBody);
            }
            SendError::Client => return Some(Failure::Incomplete),
            // It would be the same at any other endpoint.
            SendError::Connect(error) if is_our_shortage(error) => {
                return Some(Failure::OutOfFiles);
            }
            // That was decided when its answer was looked at.
            SendError::Unwanted { .. } => return None,
            _ => {}
        }
        let mut budget = self.budget.borrow_mut();
        let failed = Failed {
            progress: error.progress(),
            method: &head.method,
            body: body_state(body),
            attempts: job.attempts,
            policy: job.retry(),
        };
        match failed.decide(&mut budget, Instant::now()) {
            Verdict::SendAgain => None,
            _ if matches!(error, SendError::TurnedAway) => Some(Failure::TurnedAway),
            _ if matches!(error, SendError::TooSlow) => Some(Failure::RouteTimeout(Named::Try)),
            Verdict::GiveUp(_) | Verdict::Truncate => Some(Failure::BadGateway(error.to_string())),
        }
    }
}

/// How long the request waits before it asks for a permit again. An attempt that was turned away does not count.
pub(super) fn pause_before_next(job: &mut Job, error: &SendError) -> Option<Duration> {
    match error {
        SendError::TurnedAway => {
            job.observation.has_parked();
            let pause = retry::pause(job.turned_away);
            job.attempts = job.attempts.saturating_sub(1);
            job.turned_away = job.turned_away.saturating_add(1);
            Some(pause)
        }
        SendError::Unwanted { pause, .. } => Some(*pause),
        SendError::TooSlow | SendError::MaybeStarted(_) => {
            let retry = job.retry()?;
            retry.pause(job.attempts, RetryAfter::NotSaid, draw())
        }
        // Nobody parks requests for an ordinary Service, and nobody else would answer: its only Pod may be coming (back).
        // With all attempts it has about half a second for that. The first is repeated at once, at another endpoint.
        SendError::Connect(_) | SendError::NotStarted(_)
            if job.attempts > 1 && !matches!(job.destination.target, Target::Revision { .. }) =>
        {
            let before = u8::try_from(job.attempts - 2).unwrap_or(u8::MAX);
            Some(retry::pause(before))
        }
        _ => None,
    }
}

/// Takes a request's body back from an attempt that is over: what the client still sends is for the next one. An error when
/// the client has broken off.
fn retracted(body: Option<&Replay>) -> Option<SendError> {
    let body = body?;
    body.supersede();
    body.client_failed().then_some(SendError::Client)
}

fn body_state(body: Option<&Replay>) -> BodyState {
    match body.map(Replay::left) {
        None | Some(Left::Empty) => BodyState::Empty,
        Some(Left::Whole) => BodyState::Buffered,
        Some(Left::Gone) => BodyState::Gone,
    }
}

/// A random number: rare enough to ask for new keys each time.
fn draw() -> u64 {
    RandomState::new().hash_one(())
}
