//! The average of a metric over a window that moves with time.
//!
//! Values go into buckets of one second, where they add up: several reporters of one Revision sum. Source:
//! knative/serving `pkg/autoscaler/aggregation/bucketing.go`.

use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// How the buckets of a window become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Each second weighs the same. Seconds without a report count as 0.
    #[default]
    Linear,
    /// The newest second weighs most, each one before it a fixed share less.
    WeightedExponential,
}

/// One value a second for as many seconds as the window is long.
///
/// Memory is 8 bytes a second; the longest window is an hour.
#[derive(Clone, Debug)]
pub struct Window {
    origin: Instant,
    aggregation: Aggregation,
    /// A ring: the second `s` is at `s` modulo the length.
    buckets: Vec<f64>,
    /// First and last second that have a value, counted from `origin`.
    written: Option<(u64, u64)>,
}

impl Window {
    /// An empty window of `span`, rounded up to whole seconds, at least one. Seconds begin at `origin`.
    pub fn new(origin: Instant, span: Duration, aggregation: Aggregation) -> Self {
        Self {
            origin,
            aggregation,
            buckets: vec![0.0; buckets(span)],
            written: None,
        }
    }

    /// Adds to the second of `now`. What is older than the window is left out.
    pub fn record(&mut self, now: Instant, value: f64) {
        let second = self.second(now);
        self.written = match self.written {
            None => Some((second, second)),
            Some((_, last)) if second >= last + self.len() => {
                self.buckets.fill(0.0);
                Some((second, second))
            }
            Some((first, last)) if second > last => {
                for passed in last + 1..=second {
                    *self.bucket(passed) = 0.0;
                }
                Some((first, second))
            }
            Some((first, last)) if second + self.len() > last => Some((first.min(second), last)),
            Some(_) => return,
        };
        *self.bucket(second) += value;
    }

    /// The average at `now`; 0 when the window saw nothing.
    pub fn average(&self, now: Instant) -> f64 {
        let Some((first, last)) = self.written else {
            return 0.0;
        };
        let now = self.second(now).max(last);
        if now - last >= self.len() {
            return 0.0;
        }
        match self.aggregation {
            Aggregation::Linear => self.linear(first, last, now),
            Aggregation::WeightedExponential => self.weighted(last, now),
        }
    }

    /// Changes how long the window is and how it averages; the newest seconds are kept.
    pub fn reshape(&mut self, span: Duration, aggregation: Aggregation) {
        self.aggregation = aggregation;
        let length = buckets(span);
        if length == self.buckets.len() {
            return;
        }
        let mut reshaped = Self::new(self.origin, span, aggregation);
        if let Some((first, last)) = self.written {
            let kept = self.len().min(reshaped.len());
            for second in oldest(last, kept)..=last {
                *reshaped.bucket(second) = self.value(second);
            }
            reshaped.written = Some((first.max(oldest(last, self.len())), last));
        }
        *self = reshaped;
    }

    /// The mean of the seconds from the first to the last report that are inside the window.
    fn linear(&self, first: u64, last: u64, now: u64) -> f64 {
        let begin = first.max(oldest(now, self.len()));
        let sum: f64 = (begin..=last).map(|second| self.value(second)).sum();
        to_six_digits(sum / as_float(last - begin + 1))
    }

    fn weighted(&self, last: u64, now: u64) -> f64 {
        let alpha = smoothing(self.buckets.len());
        let silent = as_float(now - last);
        let mut weight = alpha * (1.0 - alpha).powf(silent);
        let mut average = 0.0;
        for second in (oldest(now, self.len())..=last).rev() {
            average += self.value(second) * weight;
            weight *= 1.0 - alpha;
        }
        average
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }

    fn len(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn index(&self, second: u64) -> usize {
        usize::try_from(second % self.len()).expect("less than the length")
    }

    fn value(&self, second: u64) -> f64 {
        self.buckets[self.index(second)]
    }

    fn bucket(&mut self, second: u64) -> &mut f64 {
        let index = self.index(second);
        &mut self.buckets[index]
    }
}

/// The first of `length` seconds that end with `last`.
fn oldest(last: u64, length: u64) -> u64 {
    (last + 1).saturating_sub(length)
}

fn buckets(span: Duration) -> usize {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    usize::try_from(seconds.max(1)).unwrap_or(usize::MAX)
}

/// The weight of the newest second: such that the whole window carries 99.99 %, and at least 0.2.
fn smoothing(buckets: usize) -> f64 {
    (1.0 - 0.0001_f64.powf(1.0 / as_float(buckets as u64))).max(0.2)
}

fn to_six_digits(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[expect(
    clippy::cast_precision_loss,
    reason = "seconds of a window and of a process are far below 2⁵³"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}
