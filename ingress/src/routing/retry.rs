//! Whether a request whose attempt failed may be sent again.
//!
//! ```text
//! not started     nothing left us                      again, whatever the method
//! turned away     queue-proxy had no room              again, whatever the method, as long as it takes
//! too slow        no head within the route's timeout   again like what may have started, as often as the route says; else 504
//! maybe started   bytes left us, no response head      again if repeating is harmless and the body is at hand; else 502
//! response begun  the client has the head              never: the client must see the truncation
//! ```
//!
//! Which methods are harmless to repeat: RFC 9110 section 9.2.2, and those that a route calls so. Answers are retried when
//! the route asks for it ([`RetryPolicy`]). A [`Budget`] bounds what all requests of a worker may
//! cost together, so that a broken Revision does not multiply its load.

mod asked;
use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

pub use self::asked::{
    ATTEMPTS, BACKOFF, GRPC_CODES, LONGEST_BACKOFF, MOST_ATTEMPTS, RetryAfter, RetryPolicy,
};

/// How far the failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was processed: connecting failed, the message came back unsent, `REFUSED_STREAM`, or `GOAWAY`
    /// below our stream.
    NotStarted,
    /// It arrived, and queue-proxy had no room for it: the workload has not seen it.
    TurnedAway,
    /// Something was written to a connection kept from an earlier request, and it ended without a response head: most
    /// likely the endpoint closed it while the request was on its way.
    MaybeStartedOnKept,
    /// Something was written, but no response head arrived.
    MaybeStarted,
    /// No response head arrived in the time that the route gives an attempt.
    TooSlow,
    /// The response head arrived and may have gone out.
    ResponseBegun,
}

/// What is left of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// There was none.
    Empty,
    /// All of it can be sent once more: it is in the replay buffer, or nothing of it was read yet.
    Buffered,
    /// Some of it left us for good.
    Gone,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Acquire a permit again and send it again.
    SendAgain,
    /// Answer with this status.
    GiveUp(StatusCode),
    /// The client has the head already: end the response so that it shows as incomplete.
    Truncate,
}

/// The failed attempt of one request.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'r> {
    /// How far it got.
    pub progress: Progress,
    /// The request's method.
    pub method: &'r Method,
    /// What is left of its body.
    pub body: BodyState,
    /// How many attempts were made, this one included, and without those that were turned away.
    pub attempts: u32,
    /// What the route asks for.
    pub policy: Option<&'r RetryPolicy>,
}

/// Why a request is sent again: what its attempts are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection could be made.
    Connect,
    /// The endpoint did not begin with it.
    NotTaken,
    /// queue-proxy had no room for it.
    TurnedAway,
    /// A connection kept from an earlier request ended.
    KeptLost,
    /// The connection ended before the response.
    Lost,
    /// The route's timeout of an attempt passed.
    TooSlow,
    /// The route wants answers of this status retried.
    Status,
    /// The route wants answers of this gRPC code retried.
    GrpcStatus,
}

impl Reason {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::NotTaken,
        Self::TurnedAway,
        Self::KeptLost,
        Self::Lost,
        Self::TooSlow,
        Self::Status,
        Self::GrpcStatus,
    ];

    /// Its name in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NotTaken => "not_taken",
            Self::TurnedAway => "turned_away",
            Self::KeptLost => "kept_lost",
            Self::Lost => "lost",
            Self::TooSlow => "too_slow",
            Self::Status => "status",
            Self::GrpcStatus => "grpc_status",
        }
    }
}

/// How long a request that was turned away, and before that `times` in a row, waits before it asks for a place again.
///
/// Long enough not to spin, short enough to be there when the endpoint has room: 5 ms doubling to 100 ms.
pub fn pause(times: u8) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << times.min(DOUBLINGS))
        .min(LONGEST_PAUSE)
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// After so many it is the longest.
const DOUBLINGS: u8 = 5;

impl Failed<'_> {
    /// Decides, and takes from the budget if the request is sent again.
    pub fn decide(self, budget: &mut Budget, now: Instant) -> Verdict {
        let cost = match self.progress {
            Progress::ResponseBegun => return Verdict::Truncate,
            // It waits as it would in our own queue: its deadline bounds it, and it pauses before each attempt.
            Progress::TurnedAway if self.body == BodyState::Gone => {
                return Verdict::GiveUp(StatusCode::SERVICE_UNAVAILABLE);
            }
            Progress::TurnedAway => return Verdict::SendAgain,
            Progress::NotStarted => COST_NOT_STARTED,
            Progress::MaybeStartedOnKept if self.is_harmless() => COST_ON_KEPT,
            Progress::MaybeStarted | Progress::TooSlow if self.is_harmless() => COST_MAYBE_STARTED,
            Progress::MaybeStartedOnKept | Progress::MaybeStarted | Progress::TooSlow => {
                return Verdict::GiveUp(self.status());
            }
        };
        let most = match (self.progress, self.policy) {
            (Progress::TooSlow, Some(policy)) => policy.attempts,
            _ => budget.limits.max_attempts,
        };
        let may_go = self.body != BodyState::Gone && self.attempts < most;
        if may_go && budget.spend(cost, now) {
            Verdict::SendAgain
        } else {
            Verdict::GiveUp(self.status())
        }
    }

    fn is_harmless(&self) -> bool {
        let more = self.policy.map_or(&[][..], |policy| &policy.methods);
        is_harmless_to_repeat(self.method, more)
    }

    fn status(&self) -> StatusCode {
        match self.progress {
            Progress::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Decides about an answer that the route wants retried for `reason`: how long to wait before the next attempt, which
    /// is then taken from the budget; nothing when the answer is to be passed on.
    ///
    /// `due` is when the request ends; a pause that does not end before is not begun.
    pub fn decide_answer(
        self,
        policy: &RetryPolicy,
        reason: Reason,
        pause: Option<Duration>,
        due: Option<Instant>,
        budget: &mut Budget,
        now: Instant,
    ) -> Option<Duration> {
        let pause = pause?;
        let may_go = policy.may_repeat(self.method, reason)
            && self.body != BodyState::Gone
            && self.attempts < policy.attempts
            && due.is_none_or(|due| now + pause < due);
        (may_go && budget.spend(COST_MAYBE_STARTED, now)).then_some(pause)
    }
}

/// `more` are the methods that a route calls so.
fn is_harmless_to_repeat(method: &Method, more: &[Method]) -> bool {
    let harmless = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ];
    harmless.contains(method) || more.contains(method)
}

/// What sending again may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// How many attempts one request may have, the first included. Default 10.
    pub max_attempts: u32,
    /// Requests sent again for each hundred that arrived within [`WINDOW`]. Default 20.
    pub percent: u32,
    /// Requests sent again per second on top, so that a quiet worker may retry too. Default 10.
    pub floor_per_second: u32,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            percent: 20,
            floor_per_second: 10,
        }
    }
}

/// How long an arrival counts.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Costs are in hundredths of a request sent again. An attempt that never started cost the endpoint nothing but a refused
/// connection, and a whole queue may meet one: it is charged a tenth.
const COST_MAYBE_STARTED: u64 = 100;
const COST_NOT_STARTED: u64 = 10;
/// A kept connection has answered before, so a Revision that answers nothing has none: there is at most one such loss for
/// each response, and an endpoint may close every connection it keeps.
const COST_ON_KEPT: u64 = 10;

/// What a worker may still send again: within any [`WINDOW`], a share of what arrived plus a floor.
///
/// The idea is that of Finagle's `RetryBudget` and tower-rs/tower `tower/src/retry/budget`. Memory: one entry for each second of
/// the window.
#[derive(Debug)]
pub struct Budget {
    limits: BudgetLimits,
    seconds: VecDeque<Second>,
}

#[derive(Debug)]
struct Second {
    began: Instant,
    arrived: u64,
    spent: u64,
}

impl Budget {
    /// A budget from which nothing was taken.
    pub fn new(limits: BudgetLimits) -> Self {
        Self {
            limits,
            seconds: VecDeque::new(),
        }
    }

    /// Counts a request that arrived; called once for each, not for each attempt.
    pub fn arrived(&mut self, now: Instant) {
        self.second(now).arrived += 1;
    }

    fn spend(&mut self, cost: u64, now: Instant) -> bool {
        self.second(now);
        let (may, spent) = self.account();
        let may_spend = spent + cost <= may;
        if may_spend {
            self.second(now).spent += cost;
        }
        may_spend
    }

    /// How many requests could be sent again now that may have been started.
    pub fn left(&mut self, now: Instant) -> u64 {
        self.second(now);
        let (may, spent) = self.account();
        may.saturating_sub(spent) / COST_MAYBE_STARTED
    }

    /// What may be spent within the window, and what has been.
    fn account(&self) -> (u64, u64) {
        let arrived: u64 = self.seconds.iter().map(|second| second.arrived).sum();
        let spent: u64 = self.seconds.iter().map(|second| second.spent).sum();
        let floor = u64::from(self.limits.floor_per_second) * WINDOW.as_secs() * COST_MAYBE_STARTED;
        (arrived * u64::from(self.limits.percent) + floor, spent)
    }

    /// The second `now` lies in, after those that no longer count are forgotten.
    fn second(&mut self, now: Instant) -> &mut Second {
        let counts = |second: &Second| now.saturating_duration_since(second.began) < WINDOW;
        while self.seconds.front().is_some_and(|second| !counts(second)) {
            self.seconds.pop_front();
        }
        let is_current =
            |second: &Second| now.saturating_duration_since(second.began) < Duration::from_secs(1);
        if !self.seconds.back().is_some_and(is_current) {
            self.seconds.push_back(Second {
                began: now,
                arrived: 0,
                spent: 0,
            });
        }
        self.seconds
            .back_mut()
            .expect("just pushed if there was none")
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BudgetLimits::default())
    }
}

#[cfg(test)]
mod tests;
