//! A histogram of seconds with fixed buckets.

use std::time::Duration;

/// A histogram of seconds with fixed buckets: what `/metrics` shows of times parked and of cold starts. Up to ten seconds
/// the bounds are Knative's; a cold start may take minutes, so there are more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Self::BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Upper bounds of the buckets in seconds, inclusive; one more without bound follows.
    pub const BOUNDS: [f64; 19] = [
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0,
        30.0, 60.0, 120.0, 300.0,
    ];

    /// How many fell into each bucket, not cumulative; the last is the one without bound.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them added up.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Counts one more.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        for millis in [0, 5, 6, 300_000, 300_001] {
            histogram.observe(Duration::from_millis(millis));
        }

        assert_eq!(histogram.counts()[..2], [2, 1]);
        assert_eq!(histogram.counts()[18..], [1, 1]);
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.sum(), Duration::from_millis(600_012));
    }
}
