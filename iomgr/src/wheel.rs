//! The timer wheel of one processor: deadlines in, expired items out, all in O(1).
//!
//! Plain data. It knows ticks (1 ms each) but no clock: the processor reads the clock once per turn
//! of its loop and hands the tick in.
//!
//! # How it works
//!
//! Read a tick as digits in base 64. An entry waits at the level of the highest digit in which its
//! deadline differs from [`Wheel::elapsed`], in the slot which that digit names. Six levels cover
//! 2^36 ticks (2.2 years); what differs above that waits on one overflow list.
//!
//! ```text
//!             elapsed = … 00 00 02 05        (base 64)
//!   deadline = … 00 00 02 09  → level 0, slot 9     exact
//!   deadline = … 00 00 07 01  → level 1, slot 7     re-sorted when elapsed reaches 07 00
//! ```
//!
//! **Invariants**, kept by [`Wheel::place`] and [`Wheel::pop_expired`]:
//! 1. An occupied slot at a level is greater than that level's digit of `elapsed`, for the digits
//!    above are equal and the deadline is later. So a level's next slot is its lowest one, and
//!    every entry of a level is due before every entry of the levels above it.
//! 2. `elapsed` never passes the start of an occupied slot: it stops there and empties the slot.
//! 3. Whatever is due at or before `elapsed` is on the ready list, first come first served. Equal
//!    deadlines fire in the order of insertion, since moving a list keeps its order.
//!
//! Entries live in a slab; lists are doubly linked by index. Freed places are reused, so nothing is
//! allocated once the largest population has been seen.

use std::num::NonZeroU64;

/// log2 of the slots per level.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;
/// log2 of the ticks that all levels together cover.
const SPAN_BITS: u32 = BITS * LEVELS as u32;

/// List numbers: 0 to 383 are level * 64 + slot, then these.
const READY: u16 = (LEVELS * SLOTS) as u16;
const OVERFLOW: u16 = READY + 1;
const LISTS: usize = OVERFLOW as usize + 1;
/// Not on a list: the place is free.
const FREE: u16 = u16::MAX;

/// No entry.
const NIL: u32 = u32::MAX;

/// Names an entry until it is removed or popped; afterwards it names nothing, for ever, even when
/// its place has been reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey(NonZeroU64);

impl TimerKey {
    fn new(index: u32, generation: u32) -> TimerKey {
        let bits = u64::from(generation) << 32 | u64::from(index);
        TimerKey(NonZeroU64::new(bits).expect("generations start at 1"))
    }

    fn index(self) -> usize {
        self.0.get() as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0.get() >> 32) as u32
    }
}

struct Entry<T> {
    deadline: u64,
    prev: u32,
    /// The next entry of the list, or the next free place.
    next: u32,
    generation: u32,
    list: u16,
    item: Option<T>,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

/// See the module's header.
// What is looked at when nothing waits comes first.
#[repr(C)]
pub(crate) struct Wheel<T> {
    /// Every tick up to here has been dealt with.
    elapsed: u64,
    len: usize,
    free: u32,
    /// Bit l: `slots[l]` is not zero.
    levels: u8,
    lists: Box<[List; LISTS]>,
    entries: Vec<Entry<T>>,
    /// Bit s of element l: list l * 64 + s is not empty.
    slots: [u64; LEVELS],
}

impl<T> Wheel<T> {
    /// An empty wheel at tick 0.
    pub(crate) fn new() -> Wheel<T> {
        Wheel {
            elapsed: 0,
            len: 0,
            free: NIL,
            levels: 0,
            slots: [0; LEVELS],
            lists: Box::new([EMPTY; LISTS]),
            entries: Vec::new(),
        }
    }

    /// Entries waiting, the expired but not yet popped ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item that expires at `deadline`; one in the past expires at the next
    /// [`Wheel::pop_expired`]. To move a deadline, remove and insert.
    ///
    /// # Panics
    /// With 2^32 - 1 entries in the wheel.
    #[inline]
    pub(crate) fn insert(&mut self, deadline: u64, item: T) -> TimerKey {
        let index = self.free;
        let index = if index == NIL {
            self.grow(deadline, item)
        } else {
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.deadline = deadline;
            entry.item = Some(item);
            index
        };
        self.len += 1;
        self.place(index);
        TimerKey::new(index, self.entries[index as usize].generation)
    }

    #[cold]
    fn grow(&mut self, deadline: u64, item: T) -> u32 {
        let index = u32::try_from(self.entries.len()).ok().filter(|&index| index != NIL);
        let index = index.expect("a timer wheel holds at most 2^32 - 1 entries");
        let (prev, next, generation, list) = (NIL, NIL, 1, FREE);
        self.entries.push(Entry { deadline, prev, next, generation, list, item: Some(item) });
        index
    }

    /// Takes an entry out. `None` if it was removed or popped before.
    #[inline]
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index())?;
        if entry.generation != key.generation() || entry.list == FREE {
            return None;
        }
        let (list, prev, next) = (entry.list, entry.prev, entry.next);
        let ends = &mut self.lists[list as usize];
        if prev == NIL {
            ends.head = next;
        } else {
            self.entries[prev as usize].next = next;
        }
        if next == NIL {
            ends.tail = prev;
        } else {
            self.entries[next as usize].prev = prev;
        }
        if prev == NIL && next == NIL {
            self.mark_empty(list);
        }
        self.release(key.index() as u32)
    }

    /// The item of a waiting entry.
    pub(crate) fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index())?;
        if entry.generation == key.generation() { entry.item.as_mut() } else { None }
    }

    /// Takes out one entry whose deadline is at or before `now`; call it until it gives `None`.
    ///
    /// Entries come in order of deadline; equal ones, and those that were already due when they
    /// were inserted, in order of insertion. The caller may insert and remove between calls. An
    /// entry inserted with a deadline at or before `now` is popped by a later call, once; so a
    /// caller that does so each time should bound its loop.
    ///
    /// A `now` before an earlier one counts as that earlier one.
    pub(crate) fn pop_expired(&mut self, now: u64) -> Option<T> {
        loop {
            let head = self.lists[READY as usize].head;
            if head != NIL {
                let entry = &self.entries[head as usize];
                let next = entry.next;
                self.lists[READY as usize].head = next;
                if next == NIL {
                    self.lists[READY as usize].tail = NIL;
                } else {
                    self.entries[next as usize].prev = NIL;
                }
                return self.release(head);
            }
            match self.next_slot() {
                Some((start, list)) if start <= now => {
                    self.elapsed = if list == OVERFLOW { self.overflow_start(now) } else { start };
                    self.scatter(list);
                }
                // No occupied slot starts in between, so both other invariants stay true.
                _ => {
                    self.elapsed = self.elapsed.max(now);
                    return None;
                }
            }
        }
    }

    /// What is left to do at `now` if nothing waits; `false`: something does, and this was without effect.
    #[inline]
    pub(crate) fn skip_to(&mut self, now: u64) -> bool {
        let is_empty = self.len == 0;
        if is_empty {
            // All invariants speak of entries.
            self.elapsed = self.elapsed.max(now);
        }
        is_empty
    }

    /// When to call [`Wheel::pop_expired`] next; `None` when nothing waits.
    ///
    /// Never later than the earliest deadline (or, with something due already, than the `now` of
    /// the last pop). Exact within the running 64 ticks; further off it may be early, but at most
    /// once per level (each early call brings the entry a level down) and once per 2.2 years.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        if self.lists[READY as usize].head != NIL {
            return Some(self.elapsed);
        }
        self.next_slot().map(|(start, _)| start)
    }

    /// The occupied slot that comes next: its first tick and its list.
    #[inline]
    fn next_slot(&self) -> Option<(u64, u16)> {
        if self.levels != 0 {
            let level = self.levels.trailing_zeros();
            let slot = self.slots[level as usize].trailing_zeros();
            let shift = level * BITS;
            let above = self.elapsed >> (shift + BITS) << (shift + BITS);
            return Some((above | u64::from(slot) << shift, (level * SLOTS as u32 + slot) as u16));
        }
        // Nothing nearer is left, so the entries beyond the span are sorted again when the span
        // ends. That end is no overflow: they are due after it.
        (self.lists[OVERFLOW as usize].head != NIL)
            .then(|| (((self.elapsed >> SPAN_BITS) + 1) << SPAN_BITS, OVERFLOW))
    }

    /// The start of the span with the first deadline of the overflow list, or of the span of `now`
    /// if that is earlier: a long jump of the clock must not take one step per empty span. The
    /// levels are empty, so nothing is skipped.
    #[cold]
    fn overflow_start(&self, now: u64) -> u64 {
        let mut first = now;
        let mut index = self.lists[OVERFLOW as usize].head;
        while index != NIL {
            let entry = &self.entries[index as usize];
            first = first.min(entry.deadline);
            index = entry.next;
        }
        first >> SPAN_BITS << SPAN_BITS
    }

    /// Appends an entry, whose deadline is set, to the list where it belongs.
    #[inline]
    fn place(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let list = if deadline <= self.elapsed {
            READY
        } else {
            let level = (deadline ^ self.elapsed).ilog2() / BITS;
            if level < LEVELS as u32 {
                let slot = (deadline >> (level * BITS)) % SLOTS as u64;
                self.slots[level as usize] |= 1 << slot;
                self.levels |= 1 << level;
                (level * SLOTS as u32) as u16 + slot as u16
            } else {
                OVERFLOW
            }
        };
        let tail = std::mem::replace(&mut self.lists[list as usize].tail, index);
        if tail == NIL {
            self.lists[list as usize].head = index;
        } else {
            self.entries[tail as usize].next = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.prev = tail;
        entry.next = NIL;
        entry.list = list;
    }

    /// Empties a list and places each of its entries anew, in order.
    fn scatter(&mut self, list: u16) {
        let mut index = std::mem::replace(&mut self.lists[list as usize], EMPTY).head;
        self.mark_empty(list);
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.place(index);
            index = next;
        }
    }

    #[inline]
    fn mark_empty(&mut self, list: u16) {
        let (level, slot) = (list as usize / SLOTS, list as usize % SLOTS);
        if level < LEVELS {
            self.slots[level] &= !(1 << slot);
            if self.slots[level] == 0 {
                self.levels &= !(1 << level);
            }
        }
    }

    /// Frees the place of an entry that is off its list, and gives its item.
    #[inline]
    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.list = FREE;
        self.len -= 1;
        // A place whose generations are used up is never reused, so that no old key can name a new
        // entry: one place lost in 2^32 uses of it.
        if entry.generation != u32::MAX {
            entry.generation += 1;
            entry.next = self.free;
            self.free = index;
        }
        entry.item.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn drain<T>(wheel: &mut Wheel<T>, now: u64) -> Vec<T> {
        std::iter::from_fn(|| wheel.pop_expired(now)).collect()
    }

    #[test]
    fn fires_at_its_tick_on_every_level() {
        for level in 0..=10 {
            for deadline in [1 << (6 * level), (1 << (6 * level)) + 1, (3 << (6 * level)) - 1] {
                let mut wheel = Wheel::new();
                wheel.insert(deadline, ());
                assert_eq!(drain(&mut wheel, deadline - 1).len(), 0, "{deadline}");
                assert_eq!(drain(&mut wheel, deadline).len(), 1, "{deadline}");
                assert!(wheel.is_empty());
                assert_eq!(wheel.next_deadline(), None);
            }
        }
    }

    #[test]
    fn one_jump_pops_in_order_across_levels() {
        let mut wheel = Wheel::new();
        let deadlines = [u64::MAX, 1 << 40, 5000, 64, 63, 1, 0, 4096, 4095, 4097, 1 << 36, 65];
        for deadline in deadlines {
            wheel.insert(deadline, deadline);
        }
        let mut sorted = deadlines.to_vec();
        sorted.sort_unstable();
        assert_eq!(drain(&mut wheel, u64::MAX), sorted);
    }

    #[test]
    fn equal_deadlines_fire_in_order_of_insertion() {
        let mut wheel = Wheel::new();
        wheel.insert(5000, 1);
        wheel.insert(5000, 2);
        assert_eq!(wheel.pop_expired(4990), None);
        wheel.insert(5000, 3);
        assert_eq!(drain(&mut wheel, 5000), [1, 2, 3]);
    }

    #[test]
    fn a_sleeper_wakes_early_at_most_once_per_level() {
        for deadline in [1, 70, 4161, 300_000, 20_000_000, 1_234_567_890, 700_000_000_123] {
            let mut wheel = Wheel::new();
            wheel.insert(deadline, ());
            let mut early = 0;
            loop {
                let now = wheel.next_deadline().unwrap();
                assert!(now <= deadline);
                if wheel.pop_expired(now).is_some() {
                    assert_eq!(now, deadline);
                    break;
                }
                early += 1;
            }
            assert!(early <= LEVELS + (deadline >> SPAN_BITS) as usize, "{deadline}: {early}");
        }
    }

    #[test]
    fn keys_are_checked_by_generation() {
        let mut wheel = Wheel::new();
        let first = wheel.insert(10, 'a');
        *wheel.get_mut(first).unwrap() = 'b';
        assert_eq!(wheel.remove(first), Some('b'));
        let second = wheel.insert(10, 'c');
        assert_eq!(first.index(), second.index(), "the place is reused");
        assert_eq!((wheel.remove(first), wheel.get_mut(first)), (None, None));
        assert_eq!(wheel.pop_expired(10), Some('c'));
        assert_eq!(wheel.remove(second), None);
        assert_eq!(size_of::<Option<TimerKey>>(), 8);

        wheel.entries[0].generation = u32::MAX;
        let last = wheel.insert(10, 'd');
        assert_eq!(wheel.remove(last), Some('d'));
        assert_eq!((wheel.remove(last), wheel.get_mut(last)), (None, None));
        assert_ne!(wheel.insert(10, 'e').index(), last.index(), "used up");
    }

    #[test]
    fn inserting_while_popping() {
        let mut wheel = Wheel::new();
        wheel.insert(10, 0);
        wheel.insert(20, 1);
        assert_eq!(wheel.pop_expired(100), Some(0));
        wheel.insert(15, 2);
        wheel.insert(3, 3);
        assert_eq!(wheel.next_deadline(), Some(10), "something is due");
        assert_eq!(drain(&mut wheel, 100), [3, 2, 1]);
        wheel.insert(99, 4);
        assert_eq!(drain(&mut wheel, 0), [4], "the clock does not run back");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Remove(usize),
        Pop(u64, usize),
    }

    fn span() -> impl Strategy<Value = u64> {
        (0u32..42).prop_flat_map(|bits| 0..(1u64 << bits))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => span().prop_map(Step::Insert),
            2 => any::<usize>().prop_map(Step::Remove),
            2 => (span(), 0usize..6).prop_map(|(by, most)| Step::Pop(by, most)),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(
            start in any::<u32>(),
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut wheel = Wheel::new();
            let mut now = u64::from(start) << 8;
            prop_assert_eq!(wheel.pop_expired(now), None);
            // (tick at which it counts as due, number) → key.
            let mut model = BTreeMap::new();
            let mut keys = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(after) => {
                        // Sometimes in the past.
                        let deadline = (now + after).saturating_sub(1000);
                        let key = wheel.insert(deadline, number);
                        let due = (deadline.max(wheel.elapsed), number);
                        model.insert(due, key);
                        keys.push((due, key));
                    }
                    Step::Remove(pick) if !keys.is_empty() => {
                        let (due, key) = keys[pick % keys.len()];
                        let expected = model.remove(&due).map(|_| due.1);
                        prop_assert_eq!(wheel.get_mut(key).copied(), expected);
                        prop_assert_eq!(wheel.remove(key), expected);
                    }
                    Step::Remove(_) => {}
                    Step::Pop(by, most) => {
                        now += by;
                        for _ in 0..most {
                            let first = model.first_key_value().map(|(&due, _)| due);
                            let expected = first.filter(|due| due.0 <= now);
                            expected.map(|due| model.remove(&due));
                            prop_assert_eq!(wheel.pop_expired(now), expected.map(|due| due.1));
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let first = model.first_key_value().map(|(due, _)| due.0);
                let next = wheel.next_deadline();
                prop_assert_eq!(next.is_some(), first.is_some());
                prop_assert!(next <= first);
            }
            let rest: Vec<_> = model.into_keys().map(|due| due.1).collect();
            prop_assert_eq!(drain(&mut wheel, u64::MAX), rest);
        }
    }

    /// Not a test of speed, which depends on the machine: prints it.
    /// `cargo test --release wheel -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn insert_and_remove() {
        for population in [1u64, 1000, 100_000] {
            let mut wheel = Wheel::new();
            let mut keys: Vec<_> = (0..population).map(|n| wheel.insert(n + 1, n)).collect();
            let rounds = 20_000_000u64;
            let start = std::time::Instant::now();
            for n in 0..rounds {
                // A multiplicative hash: victims and deadlines without any order.
                let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                let key = &mut keys[(random % population) as usize];
                assert!(wheel.remove(*key).is_some());
                *key = wheel.insert(1 + random % 60_000, n);
            }
            let ns = start.elapsed().as_nanos() as f64 / rounds as f64;
            println!("{population} entries: {ns:.1} ns for insert + remove");
        }
    }
}
