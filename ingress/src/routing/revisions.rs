//! The Revisions there are: where a request that names its Revision itself, at the activator ports, is looked up.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use parkway_activator::revision::{Hashed, RevisionId, RevisionMap, RevisionSpec};

/// All Revisions of one generation, and what each promises.
///
/// Cheap to clone, and cheap to change: a change copies one part in [`PARTS`] and shares the others with whoever holds
/// an older clone.
#[derive(Clone, Debug)]
pub struct Revisions(Vec<Arc<RevisionMap<Arc<RevisionSpec>>>>);

/// Into how many parts the table is split: with 10,000 Revisions a change copies some 150 entries.
pub const PARTS: usize = 64;

impl Revisions {
    /// What this Revision promises; `None`: there is no such Revision.
    pub fn get(&self, id: &RevisionId) -> Option<&Arc<RevisionSpec>> {
        self.0.get(part(id))?.get(id)
    }

    /// Makes a Revision known, or changes what it promises.
    pub fn insert(&mut self, id: RevisionId, spec: Arc<RevisionSpec>) {
        if let Some(part) = self.0.get_mut(part(&id)) {
            Arc::make_mut(part).insert(id, spec);
        }
    }

    /// Forgets a Revision.
    pub fn remove(&mut self, id: &RevisionId) {
        if let Some(part) = self.0.get_mut(part(id))
            && part.contains_key(id)
        {
            Arc::make_mut(part).remove(id);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.is_empty())
    }
}

/// The part that has this Revision, if it is there.
fn part(id: &RevisionId) -> usize {
    let hash = BuildHasherDefault::<Hashed>::default().hash_one(id);
    // The highest bits, because a part's own table goes by the lowest.
    usize::try_from(hash >> (u64::BITS - PARTS.ilog2())).unwrap_or_default()
}

impl Default for Revisions {
    fn default() -> Self {
        Self(vec![Arc::default(); PARTS])
    }
}

impl FromIterator<(RevisionId, Arc<RevisionSpec>)> for Revisions {
    fn from_iter<I: IntoIterator<Item = (RevisionId, Arc<RevisionSpec>)>>(all: I) -> Self {
        let mut revisions = Self::default();
        for (id, spec) in all {
            revisions.insert(id, spec);
        }
        revisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> RevisionId {
        RevisionId::new("shop", format!("cart-{number:05}"))
    }

    fn with(concurrency: u32) -> Arc<RevisionSpec> {
        Arc::new(RevisionSpec {
            concurrency: concurrency.into(),
            ..RevisionSpec::default()
        })
    }

    #[test]
    fn what_was_inserted_is_found_by_its_names_until_it_is_removed() {
        let mut revisions: Revisions = (0..1_000).map(|number| (id(number), with(1))).collect();
        assert_eq!(revisions.len(), 1_000);
        revisions.insert(id(7), with(2));
        revisions.remove(&id(8));
        revisions.remove(&id(1_000));

        assert_eq!(revisions.get(&id(7)), Some(&with(2)));
        assert_eq!(revisions.get(&id(8)), None);
        assert_eq!(revisions.get(&id(9)), Some(&with(1)));
        assert_eq!(revisions.len(), 999);
        assert!(!revisions.is_empty() && Revisions::default().is_empty());
    }

    #[test]
    fn a_change_is_not_seen_by_older_clones_and_copies_one_part() {
        let before: Revisions = (0..1_000).map(|number| (id(number), with(1))).collect();
        let mut after = before.clone();
        after.remove(&id(7));

        assert_eq!(before.get(&id(7)), Some(&with(1)));
        assert_eq!(after.get(&id(7)), None);
        let parts = before.0.iter().zip(&after.0);
        assert_eq!(
            parts
                .filter(|(one, other)| !Arc::ptr_eq(one, other))
                .count(),
            1
        );
    }
}
