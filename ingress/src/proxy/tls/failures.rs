//! Endpoints to which no secured connection can be made, and why: for metrics, the admin, the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::time::Instant;
use tracing::{info, warn};

use super::SecureError;

/// How many are remembered at once; when there are more, the one that failed longest ago is forgotten.
const REMEMBERED: usize = 256;

/// What has not failed again for so long is forgotten: the Pod is gone, or nobody wants it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Why no secured connection could be made, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// There is no certificate authority to trust.
    NoAuthority,
    /// A certificate out of its time.
    Expired,
    /// Somebody else's certificate.
    WrongName,
    /// A certificate that is not trusted.
    Untrusted,
    /// Not TLS 1.3, or not HTTP/2 inside it.
    Protocol,
    /// The connection broke off.
    Broken,
    /// It took too long.
    TimedOut,
}

/// All there are, in the order of their numbers.
const REASONS: [Reason; 7] = [
    Reason::NoAuthority,
    Reason::Expired,
    Reason::WrongName,
    Reason::Untrusted,
    Reason::Protocol,
    Reason::Broken,
    Reason::TimedOut,
];

impl Reason {
    /// As a metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAuthority => "no_authority",
            Self::Expired => "expired",
            Self::WrongName => "wrong_name",
            Self::Untrusted => "untrusted",
            Self::Protocol => "protocol",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
        }
    }
}

/// An endpoint to which no secured connection can be made.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whose it is.
    pub revision: RevisionId,
    /// Which.
    pub endpoint: Endpoint,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, for people.
    pub message: Arc<str>,
    /// How often, in a row.
    pub count: u64,
    /// When the first of these was, for this reason.
    pub since: Instant,
    /// When the last one was.
    pub last: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Failures {
    counts: [AtomicU64; REASONS.len()],
    /// As many as are remembered: who succeeds while there are none touches nothing else.
    remembered: AtomicUsize,
    by_endpoint: Mutex<BTreeMap<(RevisionId, Endpoint), Failure>>,
}

impl Failures {
    pub(super) fn failed(
        &self,
        revision: &RevisionId,
        endpoint: Endpoint,
        error: &SecureError,
        now: Instant,
    ) {
        let reason = error.reason();
        if let Some(count) = self.counts.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut known = self.by_endpoint.lock();
        forget_old(&mut known, now);
        let key = (revision.clone(), endpoint);
        let before = known.remove(&key).filter(|before| before.reason == reason);
        let is_new = before.is_none();
        let failure = Failure {
            revision: revision.clone(),
            endpoint,
            reason,
            message: error.to_string().into(),
            count: before.as_ref().map_or(1, |before| before.count + 1),
            since: before.map_or(now, |before| before.since),
            last: now,
        };
        known.insert(key, failure);
        if known.len() > REMEMBERED {
            let oldest = known.iter().min_by_key(|(_, failure)| failure.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                known.remove(&oldest);
            }
        }
        self.remembered.store(known.len(), Ordering::Release);
        drop(known);
        if is_new {
            warn!(%revision, %endpoint, reason = reason.as_str(), %error, "no secured connection to a Pod; it gets no requests");
        }
    }

    pub(super) fn succeeded(&self, revision: &RevisionId, endpoint: Endpoint) {
        if self.remembered.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut known = self.by_endpoint.lock();
        let before = known.remove(&(revision.clone(), endpoint));
        self.remembered.store(known.len(), Ordering::Release);
        drop(known);
        if let Some(before) = before {
            info!(%revision, %endpoint, failures = before.count, "secured connections to a Pod can be made again");
        }
    }

    /// The latest first.
    pub(super) fn all(&self, now: Instant) -> Vec<Failure> {
        if self.remembered.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut known = self.by_endpoint.lock();
        forget_old(&mut known, now);
        self.remembered.store(known.len(), Ordering::Release);
        let mut all: Vec<_> = known.values().cloned().collect();
        drop(known);
        all.sort_by_key(|failure| std::cmp::Reverse(failure.last));
        all
    }

    pub(super) fn counts(&self) -> Vec<(Reason, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        REASONS.into_iter().zip(counts).collect()
    }
}

fn forget_old(known: &mut BTreeMap<(RevisionId, Endpoint), Failure>, now: Instant) {
    known.retain(|_, failure| now.saturating_duration_since(failure.last) < FORGOTTEN_AFTER);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u16) -> Endpoint {
        Endpoint::secured(([10, 0, 0, 1], number).into())
    }

    fn expired() -> SecureError {
        SecureError::Expired("yesterday".to_owned())
    }

    #[test]
    fn a_failure_counts_until_it_is_over_or_another_and_is_forgotten_when_nobody_asks_any_more() {
        let (failures, id) = (Failures::default(), RevisionId::new("shop", "cart"));
        let start = Instant::now();
        failures.failed(&id, endpoint(1), &expired(), start);
        failures.failed(&id, endpoint(1), &expired(), start + Duration::from_secs(1));
        failures.failed(
            &id,
            endpoint(2),
            &SecureError::TimedOut,
            start + Duration::from_secs(2),
        );
        let all = failures.all(start + Duration::from_secs(2));
        let told: Vec<_> = all
            .iter()
            .map(|failure| (failure.endpoint, failure.count))
            .collect();
        assert_eq!(told, [(endpoint(2), 1), (endpoint(1), 2)]);
        assert_eq!(all[1].since, start);

        failures.failed(
            &id,
            endpoint(1),
            &SecureError::TimedOut,
            start + Duration::from_secs(3),
        );
        assert_eq!(failures.all(start + Duration::from_secs(3))[0].count, 1);
        failures.succeeded(&id, endpoint(1));
        assert_eq!(failures.all(start + Duration::from_secs(3)).len(), 1);
        assert!(failures.all(start + Duration::from_secs(62)).is_empty());
        let counted: Vec<_> = failures
            .counts()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, [(Reason::Expired, 2), (Reason::TimedOut, 2)]);
    }

    #[test]
    fn no_more_are_remembered_than_the_bound_says() {
        let (failures, id) = (Failures::default(), RevisionId::new("shop", "cart"));
        let start = Instant::now();
        for number in 0..=256_u16 {
            let now = start + Duration::from_millis(number.into());
            failures.failed(&id, endpoint(number), &expired(), now);
        }
        let all = failures.all(start);
        assert_eq!(all.len(), REMEMBERED);
        assert_eq!(
            all[REMEMBERED - 1].endpoint,
            endpoint(1),
            "the oldest has gone"
        );
    }

    #[test]
    fn each_reason_has_its_place() {
        for (place, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
