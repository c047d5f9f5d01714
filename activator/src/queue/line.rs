//! A line one can leave from the middle.
//!
//! First in, first out; leaving costs the same wherever one stands. A doubly linked list inside a slab, so there is
//! no allocation per entry and an entry is found by its index. Serial numbers keep an old [`Spot`] from naming
//! whoever stands there later.

use slab::Slab;

/// No neighbour.
const NONE: usize = usize::MAX;

/// Above this many entries an emptied line gives its memory back.
const KEPT_ENTRIES: usize = 64;

/// Where someone stands in a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    key: usize,
    serial: u64,
}

/// Most lines have never had anybody in them, and cost a pointer. What it points to stays from then on: serial numbers
/// are never used again.
#[derive(Debug)]
pub(super) struct Line<T>(Option<Box<Nodes<T>>>);

#[derive(Debug)]
struct Nodes<T> {
    nodes: Slab<Node<T>>,
    head: usize,
    tail: usize,
    next_serial: u64,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    serial: u64,
    before: usize,
    after: usize,
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |line| line.nodes.len())
    }

    pub(super) fn push(&mut self, value: T) -> Spot {
        self.0.get_or_insert_with(Box::default).push(value)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.as_mut()?.pop()
    }

    /// Takes out whoever stands at `spot`; `None` when they have left already.
    pub(super) fn remove(&mut self, spot: Spot) -> Option<T> {
        self.0.as_mut()?.remove(spot)
    }

    pub(super) fn get_mut(&mut self, spot: Spot) -> Option<&mut T> {
        self.0.as_mut()?.get_mut(spot)
    }

    /// Everyone, in no particular order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let nodes = self.0.iter().flat_map(|line| line.nodes.iter());
        nodes.map(|(_, node)| &node.value)
    }
}

impl<T> Default for Nodes<T> {
    fn default() -> Self {
        Self {
            nodes: Slab::new(),
            head: NONE,
            tail: NONE,
            next_serial: 0,
        }
    }
}

impl<T> Nodes<T> {
    fn push(&mut self, value: T) -> Spot {
        let serial = self.next_serial;
        self.next_serial += 1;
        let before = self.tail;
        let key = self.nodes.insert(Node {
            value,
            serial,
            before,
            after: NONE,
        });
        match self.nodes.get_mut(before) {
            Some(last) => last.after = key,
            None => self.head = key,
        }
        self.tail = key;
        Spot { key, serial }
    }

    fn pop(&mut self) -> Option<T> {
        let head = self.nodes.get(self.head)?;
        self.remove(Spot {
            key: self.head,
            serial: head.serial,
        })
    }

    fn remove(&mut self, spot: Spot) -> Option<T> {
        self.get_mut(spot)?;
        let node = self.nodes.remove(spot.key);
        match self.nodes.get_mut(node.before) {
            Some(before) => before.after = node.after,
            None => self.head = node.after,
        }
        match self.nodes.get_mut(node.after) {
            Some(after) => after.before = node.before,
            None => self.tail = node.before,
        }
        if self.nodes.is_empty() && self.nodes.capacity() > KEPT_ENTRIES {
            self.nodes = Slab::new();
        }
        Some(node.value)
    }

    fn get_mut(&mut self, spot: Spot) -> Option<&mut T> {
        let node = self.nodes.get_mut(spot.key)?;
        (node.serial == spot.serial).then_some(&mut node.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained<T>(line: &mut Line<T>) -> Vec<T> {
        std::iter::from_fn(|| line.pop()).collect()
    }

    #[test]
    fn leaves_in_order_of_arrival_whoever_left_before() {
        for leaver in 0..4 {
            let mut line = Line::new();
            let spots: Vec<_> = (0..4).map(|number| line.push(number)).collect();

            assert_eq!(line.remove(spots[leaver]), Some(leaver));

            let stayed: Vec<_> = (0..4).filter(|number| *number != leaver).collect();
            assert_eq!(drained(&mut line), stayed);
        }
    }

    #[test]
    fn old_spot_does_not_name_its_successor() {
        let mut line = Line::new();
        let old = line.push("old");
        assert_eq!(line.pop(), Some("old"));
        line.push("new");

        assert_eq!(line.remove(old), None);
        assert_eq!(drained(&mut line), ["new"]);
    }

    #[test]
    fn emptied_line_gives_its_memory_back() {
        let mut line = Line::new();
        for number in 0..10_000 {
            line.push(number);
        }
        assert_eq!(drained(&mut line).len(), 10_000);

        assert_eq!(line.0.as_ref().unwrap().nodes.capacity(), 0);
        let last = line.push(7);
        assert_eq!(line.remove(last), Some(7));
        assert_eq!(line.len(), 0);
    }
}
