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
        policy: None,
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
        policy: None,
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
            policy: None,
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
        policy: None,
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
            policy: None,
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

fn asked(method: &Method, attempts: u32, body: BodyState, budget: &mut Budget) -> Option<Duration> {
    let now = Instant::now();
    let policy = RetryPolicy::default();
    let failed = Failed {
        progress: Progress::ResponseBegun,
        method,
        body,
        attempts,
        policy: Some(&policy),
    };
    let pause = Some(Duration::from_secs(1));
    let due = Some(now + Duration::from_secs(2));
    failed.decide_answer(&policy, Reason::Status, pause, due, budget, now)
}

#[test]
fn an_answer_is_retried_within_attempts_body_method_and_budget() {
    let pause = Some(Duration::from_secs(1));
    let mut budget = Budget::default();
    let whole = BodyState::Buffered;
    assert_eq!(asked(&Method::PUT, 1, whole, &mut budget), pause);
    assert_eq!(asked(&Method::PUT, 2, whole, &mut budget), pause);
    assert_eq!(asked(&Method::PUT, 3, whole, &mut budget), None);
    assert_eq!(asked(&Method::POST, 1, whole, &mut budget), None);
    assert_eq!(asked(&Method::PUT, 1, BodyState::Gone, &mut budget), None);

    let none = BudgetLimits {
        percent: 0,
        floor_per_second: 0,
        ..BudgetLimits::default()
    };
    assert_eq!(asked(&Method::PUT, 1, whole, &mut Budget::new(none)), None);
}

#[test]
fn an_answer_is_passed_on_when_its_retry_would_come_too_late() {
    let (now, policy) = (Instant::now(), RetryPolicy::default());
    let failed = Failed {
        progress: Progress::ResponseBegun,
        method: &Method::GET,
        body: BodyState::Empty,
        attempts: 1,
        policy: Some(&policy),
    };
    let decide = |pause_ms, due_ms| {
        let pause = Some(Duration::from_millis(pause_ms));
        let due = Some(now + Duration::from_millis(due_ms));
        failed.decide_answer(
            &policy,
            Reason::Status,
            pause,
            due,
            &mut Budget::default(),
            now,
        )
    };
    assert!(decide(10, 11).is_some());
    assert!(decide(10, 10).is_none());
}

#[test]
fn a_slow_attempt_is_repeated_as_often_as_the_route_says_and_then_504() {
    let policy = RetryPolicy {
        attempts: 2,
        methods: [Method::POST].into(),
        ..RetryPolicy::default()
    };
    let decide = |method, attempts| {
        let failed = Failed {
            progress: Progress::TooSlow,
            method: &method,
            body: BodyState::Empty,
            attempts,
            policy: Some(&policy),
        };
        failed.decide(&mut Budget::default(), Instant::now())
    };
    let too_late = Verdict::GiveUp(StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(decide(Method::GET, 1), Verdict::SendAgain);
    assert_eq!(decide(Method::POST, 1), Verdict::SendAgain);
    assert_eq!(decide(Method::PATCH, 1), too_late);
    assert_eq!(decide(Method::GET, 2), too_late);
}
