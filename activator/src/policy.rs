//! Which endpoint gets the next request.
//!
//! Three policies, chosen by the Revision's concurrency as Knative's activator chooses them (knative/serving
//! `pkg/activator/net/throttler.go`, `lb_policy.go`): low limits fill the first endpoints so that the others can go
//! away, higher limits go round, and without a limit the better of two random endpoints wins. All are pure: what an
//! endpoint can take comes in as a closure, chance as an argument.

use std::ops::Range;

use crate::revision::ContainerConcurrency;

/// Up to this concurrency endpoints are filled in address order; above it they take turns.
pub const FIRST_AVAILABLE_MAX: u32 = 3;

/// How endpoints are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first with room, in address order: concurrency 1 to 3.
    FirstAvailable,
    /// In turn, skipping full ones: concurrency above 3.
    RoundRobin,
    /// Two at random, the one with fewer requests in flight: no limit.
    BetterOfTwo,
}

impl Policy {
    /// The policy of a concurrency.
    pub fn of(concurrency: ContainerConcurrency) -> Self {
        match concurrency {
            ContainerConcurrency::Unlimited => Self::BetterOfTwo,
            ContainerConcurrency::Limited(limit) if limit.get() <= FIRST_AVAILABLE_MAX => {
                Self::FirstAvailable
            }
            ContainerConcurrency::Limited(_) => Self::RoundRobin,
        }
    }
}

/// 64 random bits: enough for one choice of two endpoints and a coin toss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `count`, from the lower half of the bits.
    fn first(self, count: usize) -> usize {
        scale(self.0 & 0xffff_ffff, count)
    }

    /// A number below `count`, from the upper half of the bits.
    fn second(self, count: usize) -> usize {
        scale(self.0 >> 32, count)
    }

    /// Heads or tails: parity, so that it hardly depends on the other two.
    fn coin(self) -> bool {
        self.0.count_ones().is_multiple_of(2)
    }
}

/// The first index of `range` that has room.
pub fn first_available(mut range: Range<usize>, has_room: impl Fn(usize) -> bool) -> Option<usize> {
    range.find(|index| has_room(*index))
}

/// The first index with room, from `start` upwards and round to it again.
pub fn round_robin(count: usize, start: usize, has_room: impl Fn(usize) -> bool) -> Option<usize> {
    (start..count)
        .chain(0..start.min(count))
        .find(|index| has_room(*index))
}

/// The less loaded of two different indices drawn at random; a coin decides between equals.
///
/// `None` when there is nothing to choose from.
pub fn better_of_two(count: usize, draw: Draw, load: impl Fn(usize) -> u64) -> Option<usize> {
    if count < 2 {
        return count.checked_sub(1);
    }
    let one = draw.first(count);
    let mut other = draw.second(count - 1);
    if other >= one {
        other += 1;
    }
    let other_is_better = match load(one).cmp(&load(other)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => draw.coin(),
        std::cmp::Ordering::Greater => true,
    };
    Some(if other_is_better { other } else { one })
}

/// Maps 32 random bits onto `0..count`.
fn scale(bits: u64, count: usize) -> usize {
    let product = u128::from(bits) * (count as u128);
    usize::try_from(product >> 32).expect("less than count, because bits are less than 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_decides_the_policy() {
        let of = |number: u32| Policy::of(ContainerConcurrency::from(number));

        assert_eq!(of(0), Policy::BetterOfTwo);
        assert_eq!(of(1), Policy::FirstAvailable);
        assert_eq!(of(3), Policy::FirstAvailable);
        assert_eq!(of(4), Policy::RoundRobin);
    }

    #[test]
    fn round_robin_goes_round_and_skips_the_full() {
        let has_room = |index| index != 2;

        assert_eq!(round_robin(4, 1, has_room), Some(1));
        assert_eq!(round_robin(4, 2, has_room), Some(3));
        assert_eq!(round_robin(4, 4, has_room), Some(0));
        assert_eq!(round_robin(4, 2, |_| false), None);
        assert_eq!(round_robin(0, 0, |_| true), None);
    }

    #[test]
    fn better_of_two_compares_both_when_there_are_two() {
        for bits in [0, 1, u64::MAX, 0x8000_0000_0000_0000, 0x0000_0000_ffff_ffff] {
            assert_eq!(better_of_two(2, Draw(bits), |index| [5, 4][index]), Some(1));
            assert_eq!(better_of_two(2, Draw(bits), |index| [4, 5][index]), Some(0));
        }
    }

    #[test]
    fn better_of_two_takes_what_there_is() {
        assert_eq!(better_of_two(0, Draw(7), |_| 0), None);
        assert_eq!(better_of_two(1, Draw(7), |_| 9), Some(0));
    }

    #[test]
    fn a_coin_decides_between_equals() {
        let chosen: Vec<_> = (0..64_u64)
            .filter_map(|bit| better_of_two(2, Draw(1 << bit), |_| 3))
            .chain((0..64_u64).filter_map(|bit| better_of_two(2, Draw(3 << bit), |_| 3)))
            .collect();

        assert!(chosen.contains(&0));
        assert!(chosen.contains(&1));
    }

    #[test]
    fn every_endpoint_is_drawn_about_as_often() {
        let mut state = 1_u64;
        let mut hits = [0_u32; 5];
        for _ in 0..50_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let draw = Draw(state ^ (state >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            hits[better_of_two(5, draw, |_| 0).unwrap()] += 1;
        }

        assert!(
            hits.iter().all(|count| (9_000..11_000).contains(count)),
            "{hits:?}"
        );
    }
}
