//! Who waits for what: the operations that found their descriptor not ready, in order.
//!
//! ```text
//!   fds[fd] ─┬─ readers ──▶ entry ⇄ entry ⇄ …         entries: one slab, linked by index
//!            ├─ writers ──▶ entry                       by_token: for cancel
//!            └─ polls
//! ```
//!
//! **Invariants.**
//! - An entry is in exactly one list, and in `by_token`, from [`Table::push`] to [`Table::remove`];
//!   in steady state neither allocates.
//! - `registered` speaks of the file that had the descriptor's number at `generation`, and of no
//!   later one; whoever is about to trust it compares first ([`Table::is_stale`]).

use std::collections::HashMap;
use std::ffi::c_int;
use std::hash::{BuildHasherDefault, Hasher};

use overlapped_iomgr::hal::{Op, Token};

use crate::hal::generation;

/// End of a list.
const NIL: u32 = u32::MAX;

/// Which of a descriptor's lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// Retried in order when the descriptor becomes readable.
    Read,
    /// Retried in order when it becomes writable.
    Write,
    /// Polls: all are looked at whenever anything happens.
    Poll,
}

/// Every side.
pub(super) const SIDES: [Side; 3] = [Side::Read, Side::Write, Side::Poll];

/// An operation that waits.
pub(super) struct Entry {
    pub(super) token: Token,
    pub(super) op: Op,
    /// Bytes that have been transferred already, of an operation that wants all.
    pub(super) progress: u32,
    /// The descriptor was made non-blocking for this operation, and is to be made blocking again.
    pub(super) restore: bool,
}

struct Linked {
    entry: Entry,
    fd: c_int,
    side: Side,
    previous: u32,
    /// The next in the list, or the next free slot.
    next: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// What is known of a descriptor number.
pub(super) struct Descriptor {
    lists: [List; 3],
    generation: u32,
    /// In the epoll set.
    pub(super) registered: bool,
    /// A receive that does not fill its buffer leaves nothing behind, and what comes then gives an
    /// event: TCP that nothing else has been heard of.
    short_empties: bool,
    /// One has done so, and there has been no event since.
    emptied: bool,
}

/// Tokens are addresses: spread them by multiplication, no attacker chooses them.
#[derive(Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        // The map takes its tag from the top bits and its bucket from the low ones.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// See the module's header.
#[derive(Default)]
pub(super) struct Table {
    fds: Vec<Descriptor>,
    entries: Vec<Linked>,
    free: Vec<u32>,
    by_token: HashMap<Token, u32, BuildHasherDefault<TokenHasher>>,
}

impl Table {
    /// What is known of a number, if anything is.
    pub(super) fn get(&mut self, fd: c_int) -> Option<&mut Descriptor> {
        // A negative number becomes one that is far beyond the end.
        self.fds.get_mut(fd as usize)
    }

    /// What is known of the number of an open descriptor.
    ///
    /// The caller has just seen the kernel accept it, so the number is below the process's limit,
    /// and so is the length of the table.
    pub(super) fn open(&mut self, fd: c_int) -> &mut Descriptor {
        let index = usize::try_from(fd).expect("an open descriptor's number is not negative");
        while self.fds.len() <= index {
            let number = self.fds.len() as c_int;
            self.fds.push(Descriptor {
                lists: [List { first: NIL, last: NIL }; 3],
                generation: generation::current(number),
                registered: false,
                short_empties: false,
                emptied: false,
            });
        }
        &mut self.fds[index]
    }

    /// Whether the number has been closed since it was last looked at.
    pub(super) fn is_stale(&self, fd: c_int) -> bool {
        self.fds.get(fd as usize).is_some_and(|d| d.generation != generation::current(fd))
    }

    /// Makes what is known of the number that of a new file. The caller empties its lists.
    pub(super) fn refresh(&mut self, fd: c_int) {
        if let Some(descriptor) = self.get(fd) {
            descriptor.registered = false;
            (descriptor.short_empties, descriptor.emptied) = (false, false);
            descriptor.generation = generation::current(fd);
        }
    }

    /// The number is in the epoll set now; `is_tcp`: what it is.
    pub(super) fn registered(&mut self, fd: c_int, is_tcp: bool) {
        let descriptor = self.open(fd);
        (descriptor.registered, descriptor.short_empties) = (true, is_tcp);
    }

    /// An event has come; `usual`: of data, or of room for more.
    pub(super) fn heard(&mut self, fd: c_int, usual: bool) {
        if let Some(descriptor) = self.get(fd) {
            descriptor.emptied = false;
            // Its end, an error, or an urgent mark, at which receives stop: no event tells of what is
            // beyond that.
            descriptor.short_empties &= usual;
        }
    }

    /// A receive has taken `n` of up to `most` bytes.
    pub(super) fn received(&mut self, fd: c_int, n: u32, most: u32) {
        if let Some(descriptor) = self.get(fd) {
            descriptor.emptied = descriptor.short_empties && n > 0 && n < most;
        }
    }

    /// Whether there is nothing to receive, and an event will tell of what comes.
    pub(super) fn is_empty(&self, fd: c_int) -> bool {
        self.fds.get(fd as usize).is_some_and(|d| d.emptied) && !self.is_stale(fd)
    }

    /// The operation whose turn it is.
    pub(super) fn first(&self, fd: c_int, side: Side) -> Option<u32> {
        let first = self.fds.get(fd as usize)?.lists[side as usize].first;
        (first != NIL).then_some(first)
    }

    /// The operation after this one.
    pub(super) fn next(&self, index: u32) -> Option<u32> {
        let next = self.entries[index as usize].next;
        (next != NIL).then_some(next)
    }

    /// A waiting operation.
    pub(super) fn entry(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize].entry
    }

    /// Where the operation waits, if it does.
    pub(super) fn find(&self, token: Token) -> Option<u32> {
        self.by_token.get(&token).copied()
    }

    /// Appends an operation to a list of a number that [`Table::open`] has seen.
    pub(super) fn push(&mut self, fd: c_int, side: Side, entry: Entry) {
        let token = entry.token;
        let list = self.fds[fd as usize].lists[side as usize];
        let linked = Linked { entry, fd, side, previous: list.last, next: NIL };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = linked;
                index
            }
            None => {
                self.entries.push(linked);
                (self.entries.len() - 1) as u32
            }
        };
        let list = &mut self.fds[fd as usize].lists[side as usize];
        match std::mem::replace(&mut list.last, index) {
            NIL => list.first = index,
            last => self.entries[last as usize].next = index,
        }
        let before = self.by_token.insert(token, index);
        debug_assert!(before.is_none(), "a token of an operation in flight was used again");
    }

    /// Takes an operation out of its list; also says which descriptor it waited for.
    pub(super) fn remove(&mut self, index: u32) -> (c_int, Entry) {
        let Linked { fd, side, previous, next, .. } = self.entries[index as usize];
        let list = &mut self.fds[fd as usize].lists[side as usize];
        match previous {
            NIL => list.first = next,
            _ => self.entries[previous as usize].next = next,
        }
        let list = &mut self.fds[fd as usize].lists[side as usize];
        match next {
            NIL => list.last = previous,
            _ => self.entries[next as usize].previous = previous,
        }
        self.free.push(index);
        let Entry { token, op, progress, restore } = self.entries[index as usize].entry;
        self.by_token.remove(&token);
        (fd, Entry { token, op, progress, restore })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry { token: Token::new(n * 8), op: Op::Nop, progress: 0, restore: false }
    }

    fn tokens(table: &mut Table, fd: c_int, side: Side) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = table.first(fd, side);
        while let Some(index) = at {
            found.push(table.entry(index).token.get() / 8);
            at = table.next(index);
        }
        found
    }

    #[test]
    fn lists_keep_their_order_whatever_is_removed() {
        let mut table = Table::default();
        table.open(7);
        for n in 1..=5 {
            table.push(7, Side::Read, entry(n));
        }
        table.push(7, Side::Write, entry(9));
        for (gone, left) in [(3, vec![1, 2, 4, 5]), (1, vec![2, 4, 5]), (5, vec![2, 4])] {
            let index = table.find(Token::new(gone * 8)).unwrap();
            assert_eq!(table.remove(index).0, 7);
            assert!(table.find(Token::new(gone * 8)).is_none());
            assert_eq!(tokens(&mut table, 7, Side::Read), left);
        }
        table.push(7, Side::Read, entry(6));
        assert_eq!(tokens(&mut table, 7, Side::Read), [2, 4, 6]);
        assert_eq!(tokens(&mut table, 7, Side::Write), [9]);
        assert_eq!(table.entries.len(), 6, "a slot is used again");
    }

    #[test]
    fn numbers_out_of_range_are_unknown() {
        let mut table = Table::default();
        assert!(table.get(-1).is_none());
        assert!(table.first(-5, Side::Read).is_none());
        assert!(!table.is_stale(-1));
        table.refresh(-1);
    }

    #[test]
    fn a_close_makes_a_number_stale_until_refreshed() {
        let mut table = Table::default();
        // A number no test opens.
        table.open(45_001).registered = true;
        assert!(!table.is_stale(45_001));
        generation::note_close(45_001);
        assert!(table.is_stale(45_001));
        table.refresh(45_001);
        assert!(!table.is_stale(45_001));
        assert!(!table.open(45_001).registered);
    }
}
