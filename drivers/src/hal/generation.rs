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
//! Every number has a count of its own, in chunks made when first needed. Reads next:
//! `epoll::table`.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts in a chunk; few processes ever need a second one.
const CHUNK: usize = 1 << 16;

/// Enough for every positive number.
const CHUNKS: usize = (c_int::MAX as usize + 1) / CHUNK;

type Chunk = Box<[AtomicU32]>;

static GENERATION: [OnceLock<Chunk>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

/// Says that the descriptor is about to be closed. Must come before the close itself.
pub fn note_close(fd: c_int) {
    let Ok(number) = usize::try_from(fd) else { return };
    let chunk = GENERATION[number / CHUNK]
        .get_or_init(|| std::iter::repeat_with(AtomicU32::default).take(CHUNK).collect());
    // Release, with the Acquire below: whoever learns the number from a later open got it through
    // the kernel's descriptor table, whose lock orders the two.
    chunk[number % CHUNK].fetch_add(1, Ordering::Release);
}

/// The count of closes of this number. What was remembered under another count is about another
/// file.
pub fn current(fd: c_int) -> u32 {
    let Ok(number) = usize::try_from(fd) else { return 0 };
    match GENERATION[number / CHUNK].get() {
        Some(chunk) => chunk[number % CHUNK].load(Ordering::Acquire),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_changes_the_generation_of_its_number_only() {
        // Numbers no test opens.
        let (a, b, c) = (40_001, 40_002, 40_001 + (1 << 16));
        let before = (current(a), current(b), current(c));
        note_close(a);
        assert_ne!(current(a), before.0);
        assert_eq!((current(b), current(c)), (before.1, before.2));
    }

    #[test]
    fn strange_numbers_do_not_panic() {
        note_close(-1);
        note_close(c_int::MAX);
        assert_eq!(current(c_int::MIN), 0);
        assert_eq!(current(c_int::MAX), 1);
    }
}
