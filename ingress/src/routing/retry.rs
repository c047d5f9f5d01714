//! Whether a request whose attempt failed may be sent again.
//!
//! ```text
//! not started     nothing left us                      again, whatever the method
//! turned away     queue-proxy had no room              again, whatever the method, as long as it takes
//! maybe started   bytes left us, no response head      again if repeating is harmless and the body is at hand; else 502
//! response begun  the client has the head              never: the client must see the truncation
//! ```
//!
//! Which methods are harmless to repeat: RFC 9110 section 9.2.2. A [`Budget`] bounds what all requests of a worker may
//! cost together, so that a broken Revision does not multiply its load.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

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
            Progress::MaybeStartedOnKept if is_harmless_to_repeat(self.method) => COST_ON_KEPT,
            Progress::MaybeStarted if is_harmless_to_repeat(self.method) => COST_MAYBE_STARTED,
            Progress::MaybeStartedOnKept | Progress::MaybeStarted => {
                return Verdict::GiveUp(StatusCode::BAD_GATEWAY);
            }
        };
        let may_go = self.body != BodyState::Gone && self.attempts < budget.limits.max_attempts;
        if may_go && budget.spend(cost, now) {
            Verdict::SendAgain
        } else {
            Verdict::GiveUp(StatusCode::BAD_GATEWAY)
        }
    }
}

fn is_harmless_to_repeat(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
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
        let arrived: u64 = self.seconds.iter().map(|second| second.arrived).sum();
        let spent: u64 = self.seconds.iter().map(|second| second.spent).sum();
        let floor = u64::from(self.limits.floor_per_second) * WINDOW.as_secs() * COST_MAYBE_STARTED;
        let may_spend = spent + cost <= arrived * u64::from(self.limits.percent) + floor;
        if may_spend {
            self.second(now).spent += cost;
        }
        may_spend
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
mod tests {
    use super::*;

    const BAD_GATEWAY: Verdict = Verdict::GiveUp(StatusCode::BAD_GATEWAY);
    const ALL: [&str; 9] = [
        "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "BREW",
    ];

    fn decide(progress: Progress, method: &str, body: BodyState) -> Verdict {
        let method = method.parse().unwrap();
        let failed = Failed {
            progress,
            method: &method,
            body,
            attempts: 1,
        };
        failed.decide(&mut Budget::default(), Instant::now())
    }

    fn retries(budget: &mut Budget, progress: Progress, now: Instant) -> usize {
        let method = Method::GET;
        let failed = Failed {
            progress,
            method: &method,
            body: BodyState::Empty,
            attempts: 1,
        };
        (0..)
            .take_while(|_| failed.decide(budget, now) == Verdict::SendAgain)
            .count()
    }

    #[test]
    fn what_never_started_is_sent_again_whatever_the_method() {
        for method in ALL {
            assert_eq!(
                decide(Progress::NotStarted, method, BodyState::Empty),
                Verdict::SendAgain,
                "{method}"
            );
            assert_eq!(
                decide(Progress::NotStarted, method, BodyState::Buffered),
                Verdict::SendAgain,
                "{method}"
            );
        }
    }

    #[test]
    fn what_may_have_started_is_sent_again_only_if_repeating_is_harmless() {
        for (method, expected) in ALL.iter().zip(
            [
                [Verdict::SendAgain; 6].as_slice(),
                [BAD_GATEWAY; 3].as_slice(),
            ]
            .concat(),
        ) {
            assert_eq!(
                decide(Progress::MaybeStarted, method, BodyState::Empty),
                expected,
                "{method}"
            );
            assert_eq!(
                decide(Progress::MaybeStarted, method, BodyState::Buffered),
                expected,
                "{method}"
            );
        }
    }

    #[test]
    fn what_was_turned_away_is_sent_again_whatever_the_method_however_often_and_at_no_cost() {
        let now = Instant::now();
        let mut budget = Budget::default();
        for method in ALL {
            let method = method.parse().unwrap();
            let failed = Failed {
                progress: Progress::TurnedAway,
                method: &method,
                body: BodyState::Buffered,
                attempts: 10_000,
            };
            for _ in 0..1_000 {
                assert_eq!(failed.decide(&mut budget, now), Verdict::SendAgain);
            }
        }
        assert_eq!(retries(&mut budget, Progress::MaybeStarted, now), 100);
        assert_eq!(
            decide(Progress::TurnedAway, "GET", BodyState::Gone),
            Verdict::GiveUp(StatusCode::SERVICE_UNAVAILABLE)
        );
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 255]
            .map(|times| pause(times).as_millis())
            .into();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100, 100]);
    }

    #[test]
    fn end_of_a_kept_connection_is_decided_as_maybe_started() {
        for method in ALL {
            for body in [BodyState::Empty, BodyState::Buffered, BodyState::Gone] {
                assert_eq!(
                    decide(Progress::MaybeStartedOnKept, method, body),
                    decide(Progress::MaybeStarted, method, body),
                    "{method} {body:?}"
                );
            }
        }
    }

    #[test]
    fn endpoint_may_close_every_connection_it_keeps() {
        let now = Instant::now();
        let mut budget = Budget::default();
        let method = Method::GET;
        let failed = Failed {
            progress: Progress::MaybeStartedOnKept,
            method: &method,
            body: BodyState::Empty,
            attempts: 1,
        };
        for request in 0..10_000 {
            budget.arrived(now);
            assert_eq!(
                failed.decide(&mut budget, now),
                Verdict::SendAgain,
                "request {request}"
            );
        }
    }

    #[test]
    fn request_whose_body_is_gone_cannot_be_sent_again() {
        assert_eq!(
            decide(Progress::MaybeStarted, "PUT", BodyState::Gone),
            BAD_GATEWAY
        );
        assert_eq!(
            decide(Progress::NotStarted, "PUT", BodyState::Gone),
            BAD_GATEWAY
        );
    }

    #[test]
    fn response_that_began_is_never_repeated() {
        for method in ALL {
            assert_eq!(
                decide(Progress::ResponseBegun, method, BodyState::Empty),
                Verdict::Truncate,
                "{method}"
            );
        }
    }

    #[test]
    fn attempts_of_one_request_are_bounded() {
        let method = Method::GET;
        let mut budget = Budget::default();
        let verdict = |attempts, budget: &mut Budget| {
            let failed = Failed {
                progress: Progress::NotStarted,
                method: &method,
                body: BodyState::Empty,
                attempts,
            };
            failed.decide(budget, Instant::now())
        };
        assert_eq!(verdict(9, &mut budget), Verdict::SendAgain);
        assert_eq!(verdict(10, &mut budget), BAD_GATEWAY);
    }

    #[test]
    fn quiet_worker_may_spend_the_floor_of_a_window_and_no_more() {
        let now = Instant::now();
        let mut budget = Budget::default();
        assert_eq!(retries(&mut budget, Progress::MaybeStarted, now), 100);
        assert_eq!(
            retries(
                &mut budget,
                Progress::MaybeStarted,
                now + WINDOW - Duration::from_millis(1)
            ),
            0
        );
        assert_eq!(
            retries(&mut budget, Progress::MaybeStarted, now + WINDOW),
            100
        );
    }

    #[test]
    fn arrivals_raise_the_budget_by_their_share_and_only_within_the_window() {
        let now = Instant::now();
        let mut budget = Budget::default();
        for _ in 0..1000 {
            budget.arrived(now);
        }
        assert_eq!(retries(&mut budget, Progress::MaybeStarted, now), 100 + 200);
        assert_eq!(
            retries(&mut budget, Progress::MaybeStarted, now + WINDOW),
            100
        );
    }

    #[test]
    fn whole_queue_of_a_thousand_may_meet_a_refused_connection() {
        let mut budget = Budget::default();
        assert_eq!(
            retries(&mut budget, Progress::NotStarted, Instant::now()),
            1000
        );
    }

    #[test]
    fn memory_of_the_budget_is_bounded_by_the_window() {
        let start = Instant::now();
        let mut budget = Budget::default();
        for step in 0..10_000 {
            budget.arrived(start + Duration::from_millis(7) * step);
        }
        assert!(budget.seconds.len() <= 10, "{}", budget.seconds.len());
    }
}
