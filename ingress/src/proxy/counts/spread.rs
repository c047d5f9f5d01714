//! How values are spread over buckets.

/// Values counted by bucket: `N` buckets, the last of them without an upper bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread<const N: usize> {
    counts: [u64; N],
    sum: f64,
}

impl<const N: usize> Default for Spread<N> {
    fn default() -> Self {
        Self {
            counts: [0; N],
            sum: 0.0,
        }
    }
}

impl<const N: usize> Spread<N> {
    /// How many fell into each bucket, not cumulative.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them added up.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Counts one more, by the upper bounds of all buckets but the last.
    pub(super) fn add(&mut self, value: f64, bounds: &[f64]) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}
