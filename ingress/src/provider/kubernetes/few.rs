//! Sets that mostly have one member: sorted, without room to spare.

use std::slice;

/// A set as a sorted list. Of what there are tens of thousands, a tree's first node is most of what it would cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    pub(super) fn insert(&mut self, member: T) {
        if let Err(place) = self.0.binary_search(&member) {
            if self.0.len() < SMALL {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, member);
        }
    }

    pub(super) fn remove(&mut self, member: &T) {
        if let Ok(place) = self.0.binary_search(member) {
            self.0.remove(place);
        }
    }

    pub(super) fn contains(&self, member: &T) -> bool {
        self.0.binary_search(member).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }
}

/// Up to here each member is given its own room; from here on room doubles.
const SMALL: usize = 8;

impl<'f, T> IntoIterator for &'f Few<T> {
    type Item = &'f T;
    type IntoIter = slice::Iter<'f, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut members: Vec<T> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        members.shrink_to_fit();
        Self(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_there_once_and_in_order() {
        let mut set: Few<u32> = [3, 1, 3].into_iter().collect();
        for member in [2, 1, 9, 2] {
            set.insert(member);
        }
        set.remove(&9);
        set.remove(&7);
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(set.contains(&2) && !set.contains(&9) && !set.is_empty());
        assert_eq!(set, (1..=3).collect());
    }
}
