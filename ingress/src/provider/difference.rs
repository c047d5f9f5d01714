//! How a list of shared values differs from what it was, by their places in memory.

use std::collections::HashMap;
use std::sync::Arc;

/// What became of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// For each member, its place before; none when it is new.
    pub(crate) before: Vec<Option<usize>>,
    /// Places before of those that are not there any more, in order.
    pub(crate) gone: Vec<usize>,
}

impl Difference {
    /// How `after` differs from `before`. What is the same at both ends is only compared, so that a small change of a
    /// long list costs little.
    pub(crate) fn between<T>(before: &[Arc<T>], after: &[Arc<T>]) -> Self {
        let is_same = |(one, other): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(one, other);
        let at_begin = before.iter().zip(after).take_while(is_same).count();
        let (old, new) = (&before[at_begin..], &after[at_begin..]);
        let from_end = old.iter().rev().zip(new.iter().rev());
        let at_end = from_end.take_while(is_same).count();
        let (old, new) = (&old[..old.len() - at_end], &new[..new.len() - at_end]);

        let places = old.iter().enumerate();
        let mut places: HashMap<*const T, usize> = places
            .map(|(place, value)| (Arc::as_ptr(value), at_begin + place))
            .collect();
        let mut difference = Self::default();
        difference.before.extend((0..at_begin).map(Some));
        let between = new.iter().map(|value| places.remove(&Arc::as_ptr(value)));
        difference.before.extend(between);
        let end = before.len() - at_end..before.len();
        difference.before.extend(end.map(Some));
        difference.gone.extend(places.into_values());
        difference.gone.sort_unstable();
        difference
    }

    /// The places of those that are new.
    pub(crate) fn added(&self) -> impl Iterator<Item = usize> {
        let places = self.before.iter().enumerate();
        places
            .filter(|(_, before)| before.is_none())
            .map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_member_finds_its_place_before(
            before in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
            after in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
            (old, new) in (0_usize..12, 0_usize..12),
        ) {
            let values: Vec<Arc<usize>> = (0..12).map(Arc::new).collect();
            let list = |numbers: &[usize]| numbers.iter().map(|number| Arc::clone(&values[*number])).collect::<Vec<_>>();
            let (before, after) = (list(&before[..old]), list(&after[..new]));

            let difference = Difference::between(&before, &after);

            let place = |value: &Arc<usize>| before.iter().position(|other| Arc::ptr_eq(value, other));
            let expected: Vec<_> = after.iter().map(place).collect();
            prop_assert_eq!(&difference.before, &expected);
            let gone = (0..before.len()).filter(|place| !expected.contains(&Some(*place)));
            prop_assert_eq!(&difference.gone, &gone.collect::<Vec<_>>());
        }
    }
}
