//! The deadlines themselves: a timing wheel of several levels, without a clock.
//!
//! A slot of the lowest level is one tick, a slot of any other one turn of the level below. A deadline lies at the level
//! where it first differs from now, moves down as its slot comes, and so costs at most one step per level however far
//! away it is. Setting one to later only notes it: it stays where it is and is put to its new place when its slot comes,
//! so that a deadline which is put off again and again costs a store. After G. Varghese and T. Lauck, "Hashed and
//! Hierarchical Timing Wheels", scheme 7.

use std::task::Waker;

use slab::Slab;

/// Slots of a level: as many as a word has bits.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 6;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// With ticks of 10 ms the levels reach 0.6 s, 41 s, 44 minutes and 46 hours; what is further away lies in the highest
/// and is looked at once in its turn.
const LEVELS: u32 = 4;

/// How far ahead there are slots, in ticks.
const REACH: u64 = 1 << (SLOT_BITS * LEVELS);

/// Stands for no deadline, as a tick that does not come.
const NEVER: u64 = u64::MAX;

/// The end of a list, or no place in one.
const NONE: u32 = u32::MAX;

/// Deadlines in ticks, each with the task that waits for it.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The latest tick that was reached: all deadlines up to it have fired.
    now: u64,
    levels: [Level; LEVELS as usize],
    entries: Slab<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// A bit for each slot that is not empty.
    occupied: u64,
    /// Each slot's first entry.
    firsts: [u32; SLOTS],
}

#[derive(Debug)]
struct Entry {
    due: u64,
    waker: Option<Waker>,
    /// Level and slot it lies in.
    place: Option<(u8, u8)>,
    previous: u32,
    next: u32,
}

/// An entry of a wheel, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

impl Wheel {
    pub(super) fn new() -> Self {
        let empty = Level {
            occupied: 0,
            firsts: [NONE; SLOTS],
        };
        Self {
            now: 0,
            levels: [empty; LEVELS as usize],
            entries: Slab::new(),
        }
    }

    /// The latest tick that was reached.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// An entry without a deadline.
    pub(super) fn insert(&mut self) -> Key {
        let key = self.entries.insert(Entry {
            due: NEVER,
            waker: None,
            place: None,
            previous: NONE,
            next: NONE,
        });
        Key(u32::try_from(key).unwrap_or(NONE))
    }

    /// Sets a deadline that has not been reached. What is returned is to be dropped when nothing is borrowed any more.
    pub(super) fn set(&mut self, key: Key, due: u64, waker: &Waker) -> Option<Waker> {
        let now = self.now;
        let entry = self.entries.get_mut(key.0 as usize)?;
        let is_same = entry.waker.as_ref().is_some_and(|old| old.will_wake(waker));
        let replaced = if is_same {
            None
        } else {
            entry.waker.replace(waker.clone())
        };
        let is_placed_early_enough = entry.place.is_some_and(|place| start_of(place, now) <= due);
        entry.due = due;
        if !is_placed_early_enough {
            self.unlink(key);
            self.link(key);
        }
        replaced
    }

    /// Takes a deadline back; the entry stays.
    pub(super) fn clear(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(key.0 as usize) {
            entry.due = NEVER;
        }
    }

    /// Ends an entry. What is returned is to be dropped when nothing is borrowed any more.
    pub(super) fn remove(&mut self, key: Key) -> Option<Waker> {
        self.unlink(key);
        let entry = self.entries.try_remove(key.0 as usize)?;
        if self.entries.is_empty() && self.entries.capacity() > KEPT {
            self.entries = Slab::new();
        }
        entry.waker
    }

    /// When there is something to do next: a deadline, or some that move a level down. Not before there is any deadline.
    pub(super) fn next(&self) -> Option<u64> {
        self.next_slot().map(|(_, start)| start)
    }

    /// Moves on to tick `now`, and puts the tasks whose deadlines are reached into `due`.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<Waker>) {
        while let Some((place, start)) = self.next_slot()
            && start <= now
        {
            self.now = self.now.max(start);
            let mut next = self.take(place);
            while let Some(entry) = self.entries.get_mut(next as usize) {
                let key = Key(next);
                next = entry.next;
                entry.place = None;
                if entry.due <= self.now {
                    due.extend(entry.waker.take());
                } else if entry.due != NEVER {
                    self.link(key);
                }
            }
        }
        self.now = self.now.max(now);
    }

    /// The first slot that is not empty, and the tick it begins with. Lower levels end before the next slot of higher
    /// ones begins.
    fn next_slot(&self) -> Option<((u8, u8), u64)> {
        for (level, Level { occupied, .. }) in (0..).zip(&self.levels) {
            if *occupied != 0 {
                // The current slot is over: what lies in it is a turn away.
                let first = u32::from(slot_at(level, self.now)) + 1;
                let ahead = occupied.rotate_right(first).trailing_zeros();
                let slot = u64::from(first + ahead) & SLOT_MASK;
                let place = (level, u8::try_from(slot).unwrap_or_default());
                return Some((place, start_of(place, self.now)));
            }
        }
        None
    }

    /// Empties a slot; the entries are still linked among each other.
    fn take(&mut self, (level, slot): (u8, u8)) -> u32 {
        let Some(level) = self.levels.get_mut(usize::from(level)) else {
            return NONE;
        };
        level.occupied &= !(1 << slot);
        let first = level.firsts.get_mut(usize::from(slot));
        first.map_or(NONE, |first| std::mem::replace(first, NONE))
    }

    /// Puts an entry that lies nowhere into the slot of its deadline.
    fn link(&mut self, key: Key) {
        let now = self.now;
        let Some(entry) = self.entries.get_mut(key.0 as usize) else {
            return;
        };
        // What is too far away is looked at again when the last slot in reach comes.
        let due = entry.due.clamp(now + 1, now + REACH - 1);
        let level = level_of(due, now);
        let slot = slot_at(level, due);
        let Some(Level { occupied, firsts }) = self.levels.get_mut(usize::from(level)) else {
            return;
        };
        let Some(first) = firsts.get_mut(usize::from(slot)) else {
            return;
        };
        *occupied |= 1 << slot;
        entry.place = Some((level, slot));
        entry.previous = NONE;
        entry.next = std::mem::replace(first, key.0);
        let second = entry.next;
        if let Some(second) = self.entries.get_mut(second as usize) {
            second.previous = key.0;
        }
    }

    /// Takes an entry out of its slot, if it lies in one.
    fn unlink(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key.0 as usize) else {
            return;
        };
        let Some((level, slot)) = entry.place.take() else {
            return;
        };
        let (previous, next) = (entry.previous, entry.next);
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = previous;
        }
        if let Some(previous) = self.entries.get_mut(previous as usize) {
            previous.next = next;
        } else if let Some(Level { occupied, firsts }) = self.levels.get_mut(usize::from(level))
            && let Some(first) = firsts.get_mut(usize::from(slot))
        {
            *first = next;
            if next == NONE {
                *occupied &= !(1 << slot);
            }
        }
    }

    /// How many entries there are, whether they have a deadline or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}

/// Entries whose memory is kept when there are none.
const KEPT: usize = 1_024;

/// The level of the highest digit in which `due` differs from `now`.
fn level_of(due: u64, now: u64) -> u8 {
    let highest = 63 - ((due ^ now) | 1).leading_zeros();
    let level = (highest / SLOT_BITS).min(LEVELS - 1);
    u8::try_from(level).unwrap_or_default()
}

/// The slot of a level that a tick belongs to.
fn slot_at(level: u8, tick: u64) -> u8 {
    let digit = (tick >> (SLOT_BITS * u32::from(level))) & SLOT_MASK;
    u8::try_from(digit).unwrap_or_default()
}

/// When a slot begins next. The current slot is over, so that it begins again in the next turn.
fn start_of((level, slot): (u8, u8), now: u64) -> u64 {
    let width = SLOT_BITS * u32::from(level);
    let turn = 1 << (width + SLOT_BITS);
    let start = (now & !(turn - 1)) + (u64::from(slot) << width);
    if start <= now { start + turn } else { start }
}
