//! What `config-leader-election` says, and how Leases are named.
//!
//! Source: knative/pkg `leaderelection/config.go` (keys, defaults) and `leaderelection/context.go` (names).

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::super::names::go_duration;

/// `lease-duration` unless something else is said.
pub const LEASE_DURATION: Duration = Duration::from_secs(60);
/// `renew-deadline` unless something else is said.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(40);
/// `retry-period` unless something else is said.
pub const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// The most `buckets` that Knative allows. Parkway has one leader, however many are configured.
const MAX_BUCKETS: u32 = 10;
const PREFIX_KEY: &str = "map-lease-prefix.";

/// How leaders are elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// For how long a Lease that nobody renews is respected.
    pub lease_duration: Duration,
    /// For how long a leader that cannot renew goes on leading. Shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// How often a leader renews. Shorter than `renew_deadline`.
    pub retry_period: Duration,
    /// Other names for the beginnings of Leases' names.
    pub prefixes: BTreeMap<String, String>,
}

/// What is wrong with `config-leader-election`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidElection {
    /// Not a duration in Go's form, or zero.
    #[error("{key}: {value:?} is not a duration such as 15s")]
    Duration {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// Not a number of buckets.
    #[error("buckets: {0:?} is not a number from 1 to {MAX_BUCKETS}")]
    Buckets(String),
    /// Two leaders at once would be possible.
    #[error(
        "lease-duration {lease:?}, renew-deadline {renew:?}, retry-period {retry:?}: each has to be longer than the next"
    )]
    Order {
        /// `lease-duration`.
        lease: Duration,
        /// `renew-deadline`.
        renew: Duration,
        /// `retry-period`.
        retry: Duration,
    },
}

impl Default for ElectionConfig {
    fn default() -> Self {
        Self {
            lease_duration: LEASE_DURATION,
            renew_deadline: RENEW_DEADLINE,
            retry_period: RETRY_PERIOD,
            prefixes: BTreeMap::new(),
        }
    }
}

impl ElectionConfig {
    /// Reads the ConfigMap's data; the older spelling of keys too.
    ///
    /// # Errors
    ///
    /// When a value cannot be read, or two leaders at once would be possible.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, InvalidElection> {
        let duration = |key: &'static str, old: &str, default: Duration| {
            let Some(written) = data.get(key).or_else(|| data.get(old)) else {
                return Ok(default);
            };
            let read = go_duration(written).filter(|duration| !duration.is_zero());
            read.ok_or_else(|| InvalidElection::Duration {
                key,
                value: written.clone(),
            })
        };
        let lease = duration("lease-duration", "leaseDuration", LEASE_DURATION)?;
        let renew = duration("renew-deadline", "renewDeadline", RENEW_DEADLINE)?;
        let retry = duration("retry-period", "retryPeriod", RETRY_PERIOD)?;
        if !(lease > renew && renew > retry) {
            return Err(InvalidElection::Order {
                lease,
                renew,
                retry,
            });
        }
        if let Some(written) = data.get("buckets") {
            let buckets = written.parse().ok();
            if !buckets.is_some_and(|buckets: u32| (1..=MAX_BUCKETS).contains(&buckets)) {
                return Err(InvalidElection::Buckets(written.clone()));
            }
        }
        let prefixes = data.iter().filter_map(|(key, value)| {
            let old = key.strip_prefix(PREFIX_KEY)?;
            Some((old.to_owned(), value.clone()))
        });
        Ok(Self {
            lease_duration: lease,
            renew_deadline: renew,
            retry_period: retry,
            prefixes: prefixes.collect(),
        })
    }

    /// The name of a Lease: `COMPONENT.QUEUE.00-of-01` in small letters, the beginning replaced if so configured.
    pub fn lease_name(&self, component: &str, queue: &str) -> String {
        let prefix = format!("{component}.{queue}");
        let prefix = self
            .prefixes
            .get(&prefix)
            .filter(|to| !to.is_empty())
            .unwrap_or(&prefix);
        format!("{prefix}.00-of-01").to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &[(&str, &str)]) -> Result<ElectionConfig, InvalidElection> {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ElectionConfig::parse(&data.collect())
    }

    #[test]
    fn what_is_not_said_has_knatives_defaults() {
        let config = parse(&[("_example", "lease-duration: 5s"), ("buckets", "1")]).unwrap();
        assert_eq!(config, ElectionConfig::default());
        assert_eq!(config.lease_duration.as_secs(), 60);
        assert_eq!(config.renew_deadline.as_secs(), 40);
        assert_eq!(config.retry_period.as_secs(), 10);
    }

    #[test]
    fn durations_are_read_in_both_spellings() {
        let config = parse(&[
            ("lease-duration", "1m30s"),
            ("renewDeadline", "20s"),
            ("retry-period", "500ms"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.lease_duration.as_secs(), 90);
        assert_eq!(config.renew_deadline.as_secs(), 20);
        assert_eq!(config.retry_period.as_millis(), 500);
    }

    #[test]
    fn what_would_allow_two_leaders_is_refused() {
        assert!(matches!(
            parse(&[("renew-deadline", "60s")]),
            Err(InvalidElection::Order { .. })
        ));
        assert!(matches!(
            parse(&[("retry-period", "41s")]),
            Err(InvalidElection::Order { .. })
        ));
        assert!(matches!(
            parse(&[("lease-duration", "soon")]),
            Err(InvalidElection::Duration { .. })
        ));
        assert!(matches!(
            parse(&[("buckets", "11")]),
            Err(InvalidElection::Buckets(_))
        ));
    }

    #[test]
    fn leases_are_named_as_knatives_are() {
        let config = parse(&[("map-lease-prefix.parkway.B", "other")]).unwrap();
        assert_eq!(
            config.lease_name("parkway", "ingress.Status"),
            "parkway.ingress.status.00-of-01"
        );
        assert_eq!(config.lease_name("parkway", "B"), "other.00-of-01");
    }
}
