//! What a route may ask for beyond what is always right: answers that are retried, and how long an attempt may take.
//!
//! An answer is never retried unless its route asks for it: in a cluster that is Knative's contract (knative/networking
//! `test/conformance/ingress/retry.go`). A gRPC answer is looked at only in its trailers-only form: once response headers have
//! come, a call is committed (grpc/proposal `A6-client-retries.md`, "When Retries are Valid").

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::Reason;

/// Attempts of one request, the first included, when a route asks for retries and does not say how many.
pub const ATTEMPTS: u32 = 3;
/// The most a route may ask for: what one request may have in any case.
pub const MOST_ATTEMPTS: u32 = 10;
/// The pause before the second attempt, when the route does not say.
pub const BACKOFF: Duration = Duration::from_millis(25);
/// The longest pause, when the route does not say.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// When requests of a route are sent again besides when that is always right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Statuses of answers that are retried; sorted.
    pub statuses: Box<[StatusCode]>,
    /// gRPC's codes of answers that are retried, as bits: `1 << 14` is `UNAVAILABLE`.
    pub grpc_codes: u32,
    /// Attempts of one request, the first included, as far as answers and slow attempts are concerned.
    pub attempts: u32,
    /// How long an attempt may take until its response head; none: as long as the request may.
    pub try_timeout: Option<Duration>,
    /// The pause before the second attempt. Each further one doubles it.
    pub backoff: Duration,
    /// The longest pause. An endpoint that asks for a longer one by `Retry-After` gets its way: its answer is passed on.
    pub longest_backoff: Duration,
    /// Methods that the route calls harmless to repeat, besides those that are (RFC 9110 section 9.2.2).
    pub methods: Box<[Method]>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            statuses: Box::default(),
            grpc_codes: 0,
            attempts: ATTEMPTS,
            try_timeout: None,
            backoff: BACKOFF,
            longest_backoff: LONGEST_BACKOFF,
            methods: Box::default(),
        }
    }
}

impl RetryPolicy {
    /// Why an answer is one that the route wants retried; nothing when it is not.
    pub fn unwanted(&self, status: StatusCode, headers: &HeaderMap) -> Option<Reason> {
        if self.statuses.binary_search(&status).is_ok() {
            return Some(Reason::Status);
        }
        if self.grpc_codes == 0 {
            return None;
        }
        let code: u32 = headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
        let bit = 1_u32.checked_shl(code)?;
        (self.grpc_codes & bit != 0).then_some(Reason::GrpcStatus)
    }

    /// Whether a request by this method may have its answer retried for this reason.
    ///
    /// Each gRPC call is a POST: a route that names gRPC's codes means calls.
    pub fn may_repeat(&self, method: &Method, reason: Reason) -> bool {
        reason == Reason::GrpcStatus || super::is_harmless_to_repeat(method, &self.methods)
    }

    /// How long to wait before the next attempt after so many; nothing when the endpoint asks for more than the route
    /// would wait.
    ///
    /// It doubles from attempt to attempt, and its second half is left to `draw`, so that requests that failed together do
    /// not come again together.
    pub fn pause(&self, attempts: u32, retry_after: RetryAfter, draw: u64) -> Option<Duration> {
        let doublings = attempts.saturating_sub(1).min(DOUBLINGS);
        let whole = self
            .backoff
            .saturating_mul(1 << doublings)
            .min(self.longest_backoff);
        let half = whole / 2;
        let jitter = half.mul_f64(fraction(draw));
        let asked = match retry_after {
            RetryAfter::NotSaid => Duration::ZERO,
            RetryAfter::Seconds(seconds) => Duration::from_secs(seconds),
            RetryAfter::Unclear => return None,
        };
        (asked <= self.longest_backoff).then(|| (half + jitter).max(asked))
    }
}

/// After so many doublings any pause is the longest.
const DOUBLINGS: u32 = 16;

/// A draw as a number from 0 to 1.
fn fraction(draw: u64) -> f64 {
    let bits = u32::try_from(draw >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

/// The names of gRPC's codes as annotations have them. Source: grpc/grpc `doc/statuscodes.md`.
pub const GRPC_CODES: [(&str, u32); 16] = [
    ("cancelled", 1),
    ("unknown", 2),
    ("invalid-argument", 3),
    ("deadline-exceeded", 4),
    ("not-found", 5),
    ("already-exists", 6),
    ("permission-denied", 7),
    ("resource-exhausted", 8),
    ("failed-precondition", 9),
    ("aborted", 10),
    ("out-of-range", 11),
    ("unimplemented", 12),
    ("internal", 13),
    ("unavailable", 14),
    ("data-loss", 15),
    ("unauthenticated", 16),
];

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What an answer says about when to come again.
///
/// Source: RFC 9110 section 10.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// Nothing.
    NotSaid,
    /// After so many seconds.
    Seconds(u64),
    /// A date, or nonsense: nobody waits for it here.
    Unclear,
}

impl RetryAfter {
    /// Reads it from an answer.
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::RETRY_AFTER) else {
            return Self::NotSaid;
        };
        let seconds = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        seconds.map_or(Self::Unclear, Self::Seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking_for(statuses: &[u16], codes: &[u32]) -> RetryPolicy {
        RetryPolicy {
            statuses: statuses
                .iter()
                .map(|status| StatusCode::from_u16(*status).unwrap())
                .collect(),
            grpc_codes: codes.iter().fold(0, |bits, code| bits | (1 << code)),
            ..RetryPolicy::default()
        }
    }

    fn grpc(code: &str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_STATUS, code.parse().unwrap())])
    }

    #[test]
    fn answers_are_retried_by_status_only_when_the_route_names_it() {
        let policy = asking_for(&[502, 503], &[]);
        let unwanted = |status| policy.unwanted(status, &HeaderMap::new());
        assert_eq!(
            unwanted(StatusCode::SERVICE_UNAVAILABLE),
            Some(Reason::Status)
        );
        assert_eq!(unwanted(StatusCode::INTERNAL_SERVER_ERROR), None);
        assert_eq!(unwanted(StatusCode::OK), None);
        assert_eq!(policy.unwanted(StatusCode::OK, &grpc("14")), None);
    }

    #[test]
    fn grpc_answers_are_retried_by_their_code_when_it_stands_in_the_head() {
        let policy = asking_for(&[], &[14, 8]);
        let unwanted = |code| policy.unwanted(StatusCode::OK, &grpc(code));
        assert_eq!(unwanted("14"), Some(Reason::GrpcStatus));
        assert_eq!(unwanted("8"), Some(Reason::GrpcStatus));
        for other in ["0", "13", "", "x", "32", "4294967310"] {
            assert_eq!(unwanted(other), None, "{other}");
        }
        assert_eq!(policy.unwanted(StatusCode::OK, &HeaderMap::new()), None);
    }

    #[test]
    fn a_post_is_repeated_only_when_the_route_says_so_or_it_is_a_call() {
        let careful = asking_for(&[503], &[14]);
        let bold = RetryPolicy {
            methods: [Method::POST].into(),
            ..careful.clone()
        };
        assert!(careful.may_repeat(&Method::GET, Reason::Status));
        assert!(!careful.may_repeat(&Method::POST, Reason::Status));
        assert!(careful.may_repeat(&Method::POST, Reason::GrpcStatus));
        assert!(bold.may_repeat(&Method::POST, Reason::Status));
        assert!(!bold.may_repeat(&Method::PATCH, Reason::Status));
    }

    #[test]
    fn pauses_double_to_the_longest_and_vary_by_half() {
        let policy = RetryPolicy {
            backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_millis(350),
            ..RetryPolicy::default()
        };
        let pause = |attempts, draw| {
            let pause = policy.pause(attempts, RetryAfter::NotSaid, draw).unwrap();
            pause.as_millis()
        };
        assert_eq!(
            [1, 2, 3, 4, 1_000].map(|attempts| pause(attempts, 0)),
            [50, 100, 175, 175, 175]
        );
        assert_eq!(
            [1, 2, 3].map(|attempts| pause(attempts, u64::MAX)),
            [100, 200, 350]
        );
        assert!((50..=100).contains(&pause(1, u64::MAX / 3)));
    }

    #[test]
    fn an_endpoint_is_given_the_time_it_asks_for_or_its_answer_is_passed_on() {
        let policy = RetryPolicy::default();
        let pause = |value: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
            policy.pause(1, RetryAfter::of(&headers), 0)
        };
        assert_eq!(pause("1"), Some(Duration::from_secs(1)));
        assert_eq!(pause("0"), Some(BACKOFF / 2));
        assert_eq!(pause("2"), None);
        assert_eq!(pause("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(pause("-1"), None);
        assert_eq!(RetryAfter::of(&HeaderMap::new()), RetryAfter::NotSaid);
    }
}
