//! Which endpoints are ours when several Parkways share a Revision.
//!
//! Two algorithms that all replicas must agree on, and agree with Knative's: [`choose_subset`] picks which of many
//! serve a target (activators of a Revision, the autoscaler that owns a bucket), [`assign_slice`] shares a limited
//! Revision's endpoints out among those.

use std::collections::{BTreeMap, BTreeSet};

/// Slots on the circle of hashes.
const UNIVERSE: u64 = 2048;
const START_SALT: &str = "start-angle-salt";
const STEP_SALT: &str = "step-angle-salt";

/// The `count` of `items` that serve `target`; all when there are no more than that.
///
/// The same for the same set, whatever its order. Source: `ChooseSubset`, knative/pkg `hash/hash.go`.
pub fn choose_subset<'a>(
    items: impl IntoIterator<Item = &'a str>,
    count: usize,
    target: &str,
) -> BTreeSet<&'a str> {
    let items: BTreeSet<_> = items.into_iter().collect();
    if count >= items.len() {
        return items;
    }
    let pool: Vec<_> = place_on_circle(&items, target).into_iter().collect();
    let mut angle = hash_of(&[target, START_SALT]) % UNIVERSE;
    let step = hash_of(&[target, STEP_SALT]) % UNIVERSE;
    let mut is_chosen = vec![false; pool.len()];
    for _ in 0..count.min(pool.len()) {
        let mut index = pool.partition_point(|(slot, _)| *slot < angle) % pool.len();
        while is_chosen[index] {
            index = (index + 1) % pool.len(); // ends: fewer are chosen than there are
        }
        is_chosen[index] = true;
        angle = (angle + step) % UNIVERSE;
    }
    let chosen = pool
        .into_iter()
        .zip(is_chosen)
        .filter(|(_, is_chosen)| *is_chosen);
    chosen.map(|((_, item), _)| item).collect()
}

/// The endpoints that replica `index` of `replicas` sends requests to: all of them if it does not know its place.
///
/// `endpoints` are in order. Endpoints left over after equal shares go to the first replicas, one each; with more
/// replicas than endpoints several replicas share one. Source: `assignSlice`, knative/serving
/// `pkg/activator/net/throttler.go`.
pub fn assign_slice<T: Clone>(endpoints: &[T], index: Option<usize>, replicas: usize) -> Vec<T> {
    let count = endpoints.len();
    let Some(index) = index.filter(|index| *index < replicas) else {
        return endpoints.to_vec();
    };
    if count <= 1 || replicas <= 1 {
        return endpoints.to_vec();
    }
    if replicas > count {
        return vec![endpoints[index % count].clone()];
    }
    let share = count / replicas;
    let left_over = count % replicas;
    let mut mine = endpoints[index * share..(index + 1) * share].to_vec();
    if index < left_over {
        mine.push(endpoints[count - left_over + index].clone());
    }
    mine
}

/// Puts each item into a slot of its own, as long as there are slots.
fn place_on_circle<'a>(items: &BTreeSet<&'a str>, target: &str) -> BTreeMap<u64, &'a str> {
    let mut circle = BTreeMap::new();
    for item in items {
        if circle.len() as u64 == UNIVERSE {
            break; // Knative's algorithm would search for ever
        }
        let mut hash = hash_of(&[item, target]);
        while circle.contains_key(&(hash % UNIVERSE)) {
            // The hash of everything hashed so far with this hash written behind it.
            hash = continue_hash(hash, &format!("{hash:x}"));
        }
        circle.insert(hash % UNIVERSE, *item);
    }
    circle
}

/// FNV-1a, 64 bits, of the texts one after the other.
fn hash_of(texts: &[&str]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    texts
        .iter()
        .fold(OFFSET, |hash, text| continue_hash(hash, text))
}

fn continue_hash(hash: u64, text: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let add = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    text.bytes().fold(hash, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(items: &[&'static str], count: usize, target: &str) -> Vec<&'static str> {
        choose_subset(items.iter().copied(), count, target)
            .into_iter()
            .collect()
    }

    #[test]
    fn hash_is_fnv_1a() {
        assert_eq!(hash_of(&[""]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_of(&["a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash_of(&["foo", "bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn subsets_are_those_knative_chooses() {
        let planets = ["sun", "moon", "mars", "mercury"];
        assert_eq!(chosen(&planets, 2, "a target!"), ["mercury", "moon"]);
        assert_eq!(
            chosen(&planets, 3, "something else entirely"),
            ["mars", "mercury", "sun"]
        );
        let tasks = ["task1", "task2", "task3", "task4", "task5"];
        assert_eq!(chosen(&tasks, 2, "my-key1"), ["task3", "task4"]);
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        assert_eq!(
            chosen(&addresses, 2, "hello-00001"),
            ["10.0.0.4", "10.0.0.5"]
        );
    }

    #[test]
    fn bucket_owners_are_those_knative_chooses() {
        let buckets = [
            "autoscaler-bucket-00-of-03",
            "autoscaler-bucket-01-of-03",
            "autoscaler-bucket-02-of-03",
        ];
        assert_eq!(
            chosen(&buckets, 1, "default/hello-00001"),
            ["autoscaler-bucket-00-of-03"]
        );
        assert_eq!(
            chosen(&buckets, 1, "ns1/a-00001"),
            ["autoscaler-bucket-02-of-03"]
        );
    }

    #[test]
    fn order_does_not_matter_and_enough_means_all() {
        let one = ["a", "b", "c", "d"];
        let other = ["d", "b", "a", "c", "a"];
        assert_eq!(chosen(&one, 2, "x"), chosen(&other, 2, "x"));
        assert_eq!(chosen(&other, 4, "x"), one);
        assert_eq!(chosen(&[], 2, "x"), [""; 0]);
        assert_eq!(chosen(&one, 0, "x"), [""; 0]);
    }

    #[test]
    fn more_items_than_slots_are_no_endless_search() {
        let items: Vec<_> = (0..3_000).map(|number| number.to_string()).collect();

        assert_eq!(
            choose_subset(items.iter().map(String::as_str), 5, "x").len(),
            5
        );
        let nearly_all = choose_subset(items.iter().map(String::as_str), 2_999, "x");
        assert_eq!(nearly_all.len(), 2_048, "as many as there are slots");
    }

    #[test]
    fn shares_are_equal_and_what_is_left_over_goes_to_the_first() {
        let endpoints = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(assign_slice(&endpoints, Some(0), 3), [1, 2, 7]);
        assert_eq!(assign_slice(&endpoints, Some(1), 3), [3, 4, 8]);
        assert_eq!(assign_slice(&endpoints, Some(2), 3), [5, 6]);
    }

    #[test]
    fn who_does_not_know_its_place_or_is_alone_uses_all() {
        assert_eq!(assign_slice(&[1, 2], None, 2), [1, 2]);
        assert_eq!(assign_slice(&[1, 2], Some(0), 1), [1, 2]);
        assert_eq!(assign_slice(&[1], Some(5), 9), [1]);
        assert_eq!(
            assign_slice(&[1, 2, 3, 4], Some(2), 2),
            [1, 2, 3, 4],
            "a stale place"
        );
        assert_eq!(assign_slice::<u8>(&[], Some(0), 2), [0; 0]);
    }

    #[test]
    fn with_more_replicas_than_endpoints_several_share_one() {
        let shares: Vec<_> = (0..5)
            .map(|index| assign_slice(&['a', 'b'], Some(index), 5))
            .collect();
        assert_eq!(shares.concat(), ['a', 'b', 'a', 'b', 'a']);
    }
}
