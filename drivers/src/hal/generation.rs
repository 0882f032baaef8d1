//! Which *file* a descriptor number means, told apart over time.
//!
//! A descriptor number is reused as soon as it is closed, on whatever thread. An epoll set forgets
//! a closed file by itself, but the processor that owns the set does not hear of it, and would wait
//! for ever on a number that it believes registered. So every close, of every backend, is counted
//! here first, by number, and whoever remembers something about a number remembers the count too.
//!
//! **Invariant.** [`note_close`] is called *before* the descriptor is closed. Then whoever is given
//! the same number by a later open sees a count that differs from the one before. Closing behind
//! this module's back (dropping an `OwnedFd` that has been used for I/O here) breaks it.
//!
//! Numbers beyond the table share counts. A count may thus change without a close, which costs the
//! observer a needless registration and nothing else. Reads next: `epoll::table`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts kept apart; a power of two. Untouched pages of it cost no memory.
const SLOTS: usize = 1 << 16;

static GENERATION: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

fn slot(fd: c_int) -> &'static AtomicU32 {
    &GENERATION[fd as usize & (SLOTS - 1)]
}

/// Says that the descriptor is about to be closed. Must come before the close itself.
pub fn note_close(fd: c_int) {
    // Release, with the Acquire below: whoever learns the number from a later open got it through
    // the kernel's descriptor table, whose lock orders the two.
    slot(fd).fetch_add(1, Ordering::Release);
}

/// The count of closes of this number. What was remembered under another count is about another
/// file.
pub fn current(fd: c_int) -> u32 {
    slot(fd).load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_changes_the_generation_of_its_number_only() {
        // Numbers no test opens.
        let (a, b) = (40_001, 40_002);
        let before = (current(a), current(b));
        note_close(a);
        assert_ne!(current(a), before.0);
        assert_eq!(current(b), before.1);
    }

    #[test]
    fn strange_numbers_do_not_panic() {
        note_close(-1);
        note_close(c_int::MAX);
        current(c_int::MIN);
    }
}
