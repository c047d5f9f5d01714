//! Traffic shares, and the draws that make every hundred requests exact.
//!
//! A [`Dealer`] belongs to one worker. Instead of drawing at random it walks the hundred points in steps of
//! 61: as 61 and 100 have no common divisor, any hundred consecutive draws are a permutation, wherever one begins to
//! count; as 61/100 is close to the golden ratio, the draws of a share lie nearly evenly among the others, so
//! that no backend gets a run. Its memory is one number per path.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The distance of two consecutive draws of one path, in percentiles.
const STEP: u64 = 61;

/// A point drawn among the hundred of a path: 0 to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percentile(u8);

impl Percentile {
    /// The point `value`, or none from 100 on.
    pub fn try_new(value: u8) -> Option<Self> {
        (value < 100).then_some(Self(value))
    }

    /// The point as a number from 0 to 99.
    pub fn as_number(self) -> u8 {
        self.0
    }

    fn wrapping(value: u64) -> Self {
        let point = u8::try_from(value % 100).expect("a remainder of 100 fits");
        Self(point)
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The traffic shares of one path, which add up to 100.
///
/// Source: `IngressBackendSplit.Percent`, knative/networking
/// `pkg/apis/networking/v1alpha1/ingress_types.go`. A single split may leave its percentage out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits<B>(Box<[(u8, B)]>);

impl<B> Splits<B> {
    /// Checks the shares once, so that [`choose`](Self::choose) cannot fail.
    ///
    /// A share left out is 0; when it is the only one, it means all traffic.
    ///
    /// # Errors
    ///
    /// When there is no backend, or the shares do not add up to 100.
    pub fn try_new(mut shares: Vec<(u8, B)>) -> Result<Self, InvalidSplits> {
        if let [(percent @ 0, _)] = shares.as_mut_slice() {
            *percent = 100;
        }
        if shares.is_empty() {
            return Err(InvalidSplits::Empty);
        }
        match shares.iter().map(|(percent, _)| u32::from(*percent)).sum() {
            100 => Ok(Self(shares.into())),
            total => Err(InvalidSplits::NotAHundred(total)),
        }
    }

    /// One backend that gets all traffic.
    pub fn all_to(backend: B) -> Self {
        Self([(100, backend)].into())
    }

    /// The backend whose share covers `point`; a share of 0 covers none.
    pub fn choose(&self, point: Percentile) -> &B {
        let mut end = 0_u32;
        for (percent, backend) in &*self.0 {
            end += u32::from(*percent);
            if u32::from(point.0) < end {
                return backend;
            }
        }
        unreachable!("the shares add up to 100 and a percentile is less")
    }

    /// The backend that gets all traffic, if there is one: then nothing need be drawn.
    pub fn sole(&self) -> Option<&B> {
        self.0
            .iter()
            .find(|(percent, _)| *percent == 100)
            .map(|(_, backend)| backend)
    }

    /// The shares in their listed order, those of 0 percent included.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u8, &B)> {
        self.0.iter().map(|(percent, backend)| (*percent, backend))
    }
}

/// Why shares were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSplits {
    /// No backend at all.
    #[error("a path needs at least one split")]
    Empty,
    /// The sum is something else.
    #[error("the percentages add up to {0} instead of 100")]
    NotAHundred(u32),
}

/// What a path keeps when the configuration around it changes: the identity its draws are counted by.
///
/// Made of the names of the object, the rule's hosts and the path's matches, not of positions or shares, so that a
/// rollout in small steps continues the same hundred. Two paths that collide would share their draws: harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathKey(u64);

impl PathKey {
    /// The key of whatever hashes equal to `identity`; the same within one process.
    pub fn of(identity: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Draws the [`Percentile`]s of one worker: any hundred consecutive draws for a path are a permutation.
///
/// Remembers one number for each path drawn for since the last [`retain`](Self::retain), which the worker calls when it
/// takes up a new snapshot; so the table is bounded by the paths of the current snapshot and of those still in use.
#[derive(Debug, Default)]
pub struct Dealer {
    worker: u64,
    drawn: HashMap<PathKey, u64>,
}

impl Dealer {
    /// The dealer of the worker with this number; each begins elsewhere, so that a share of one percent is not the
    /// first choice of all workers at once.
    pub fn new(worker: u64) -> Self {
        Self {
            worker,
            drawn: HashMap::new(),
        }
    }

    /// Draws the next point of the path.
    pub fn deal(&mut self, path: PathKey) -> Percentile {
        let worker = self.worker;
        let next = self
            .drawn
            .entry(path)
            .or_insert_with(|| first(path, worker));
        let point = Percentile::wrapping(*next);
        *next = (*next + STEP) % 100;
        point
    }

    /// The point the next call of [`deal`](Self::deal) returns.
    pub fn peek(&self, path: PathKey) -> Percentile {
        Percentile::wrapping(
            self.drawn
                .get(&path)
                .copied()
                .unwrap_or_else(|| first(path, self.worker)),
        )
    }

    /// Chooses a backend of the path and draws only if there is a choice.
    pub fn choose<'s, B>(&mut self, path: PathKey, splits: &'s Splits<B>) -> &'s B {
        match splits.sole() {
            Some(backend) => backend,
            None => splits.choose(self.deal(path)),
        }
    }

    /// Forgets the paths that are no more; the others continue where they were.
    pub fn retain(&mut self, mut is_known: impl FnMut(PathKey) -> bool) {
        self.drawn.retain(|path, _| is_known(*path));
    }
}

/// Where a worker begins: one step further than the worker before it.
fn first(path: PathKey, worker: u64) -> u64 {
    (path.0 % 100 + (worker % 100) * STEP) % 100
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn path(name: &str) -> PathKey {
        PathKey::of(&name)
    }

    fn shares() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..=100, 0..9).prop_map(|cuts| {
            let mut cuts: Vec<u8> = cuts.into_iter().chain([0, 100]).collect();
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
        })
    }

    #[test]
    fn shares_that_do_not_add_up_to_a_hundred_are_refused() {
        assert_eq!(Splits::<()>::try_new(vec![]), Err(InvalidSplits::Empty));
        assert_eq!(
            Splits::try_new(vec![(60, 'a'), (41, 'b')]),
            Err(InvalidSplits::NotAHundred(101))
        );
        assert_eq!(
            Splits::try_new(vec![(0, 'a'), (0, 'b')]),
            Err(InvalidSplits::NotAHundred(0))
        );
        assert_eq!(
            Splits::try_new(vec![(50, 'a')]),
            Err(InvalidSplits::NotAHundred(50))
        );
        assert_eq!(
            Splits::try_new(vec![(255, 'a'), (101, 'b')]),
            Err(InvalidSplits::NotAHundred(356))
        );
    }

    #[test]
    fn single_split_without_a_percentage_gets_everything() {
        assert_eq!(Splits::try_new(vec![(0, 'a')]), Ok(Splits::all_to('a')));
        assert_eq!(Splits::try_new(vec![(100, 'a')]), Ok(Splits::all_to('a')));
    }

    #[test]
    fn draws_of_an_even_split_make_no_runs() {
        let splits = Splits::try_new(vec![(50, 'a'), (50, 'b')]).unwrap();
        let mut dealer = Dealer::new(0);
        let drawn: String = (0..200)
            .map(|_| *dealer.choose(path("p"), &splits))
            .collect();
        assert!(!drawn.contains("aaa") && !drawn.contains("bbb"), "{drawn}");
    }

    #[test]
    fn every_stretch_of_ten_draws_is_close_to_the_shares() {
        let splits = Splits::try_new(vec![(20, 'a'), (80, 'b')]).unwrap();
        let mut dealer = Dealer::new(3);
        let drawn: Vec<char> = (0..300)
            .map(|_| *dealer.choose(path("p"), &splits))
            .collect();
        for stretch in drawn.windows(10) {
            let share = stretch.iter().filter(|c| **c == 'a').count();
            assert!((1..=3).contains(&share), "{stretch:?}");
        }
    }

    #[test]
    fn workers_do_not_begin_at_the_same_point() {
        let first: BTreeSet<_> = (0..100)
            .map(|worker| Dealer::new(worker).peek(path("p")))
            .collect();
        assert_eq!(first.len(), 100);
    }

    #[test]
    fn forgotten_paths_leave_and_the_others_continue() {
        let mut dealer = Dealer::new(0);
        for _ in 0..7 {
            dealer.deal(path("stays"));
            dealer.deal(path("leaves"));
        }
        let next = dealer.peek(path("stays"));

        dealer.retain(|key| key == path("stays"));

        assert_eq!(dealer.drawn.len(), 1);
        assert_eq!(dealer.deal(path("stays")), next);
    }

    #[test]
    fn path_with_one_backend_is_not_remembered() {
        let mut dealer = Dealer::new(0);
        assert_eq!(*dealer.choose(path("p"), &Splits::all_to('a')), 'a');
        assert!(dealer.drawn.is_empty());
    }

    proptest! {
        #[test]
        fn any_hundred_consecutive_draws_match_the_shares_exactly(
            shares in shares(), worker in 0_u64..64, skipped in 0_usize..250, name in "[a-z]{1,8}",
        ) {
            let backends = shares.iter().copied().enumerate().map(|(i, percent)| (percent, i)).collect();
            let splits = Splits::try_new(backends).unwrap();
            let mut dealer = Dealer::new(worker);
            for _ in 0..skipped {
                dealer.deal(path(&name));
            }
            let mut counts = vec![0_u8; shares.len()];
            for _ in 0..100 {
                counts[*splits.choose(dealer.deal(path(&name)))] += 1;
            }
            prop_assert_eq!(counts, shares);
        }

        #[test]
        fn draws_for_one_path_do_not_depend_on_another(others in prop::collection::vec(any::<bool>(), 1..300)) {
            let (mut alone, mut beside) = (Dealer::new(1), Dealer::new(1));
            for other in others {
                if other {
                    beside.deal(path("other"));
                } else {
                    prop_assert_eq!(alone.deal(path("ours")), beside.deal(path("ours")));
                }
            }
        }
    }
}
