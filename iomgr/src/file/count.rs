//! Who counts on a file object: the biased count.
//!
//! Requests issued on the file's *home* processor (where it was opened) are counted in `local`, a
//! plain number that only the home's thread writes; requests of other processors and all handles
//! are counted in the atomic `uses`. **Invariant:** while the home lives, `uses` falls to zero only
//! on its thread: who would make it zero elsewhere, or would take the last handle, does not count
//! itself off ([`Count::drop_handle`], [`Count::drop_foreign`]), but sends its reference home, where
//! it is given up ([`Count::give_up`]). So the home, and nobody else, sees the moment when both
//! numbers are zero. A home that goes turns what is left in `local` into foreign requests first
//! ([`Count::adopt_out`]), and closes its mailbox after that; from then on one atomic decides, and
//! whoever takes the last reference closes the file, wherever it is ([`Count::give_up_alone`]).
//!
//! `CLOSING` in `uses` says that a close waits for the requests to leave (`closing.rs`): each that
//! leaves then goes home to tell, whether it is the last one or not.
//!
//! Explored by loom in `tests/loom_files.rs` of this crate.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const HANDLES: u64 = Kind::Foreign as u64 - 1;
/// Not a count.
const CLOSING: u64 = 1 << 63;

/// What is counted in `uses`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Kind {
    /// A handle.
    Handle = 1,
    /// A request of another processor.
    Foreign = 1 << 32,
}

/// The two numbers. See the module's header.
pub(crate) struct Count {
    uses: AtomicU64,
    local: AtomicU32,
}

impl Count {
    /// Of one handle.
    pub(crate) fn new() -> Count {
        Count { uses: AtomicU64::new(Kind::Handle as u64), local: AtomicU32::new(0) }
    }

    // Anywhere.

    /// One handle more; the caller has a reference.
    pub(crate) fn add_handle(&self) {
        let before = self.uses.fetch_add(Kind::Handle as u64, Ordering::Relaxed);
        if before & HANDLES > HANDLES / 2 {
            // Handles that are forgotten, not dropped: as with `Arc`, before the number runs over.
            std::process::abort();
        }
    }

    /// One handle more, if there is one; for those without a reference, who know by other means that the
    /// memory is there. The file is not closed for its last handle while there are handles, so that this
    /// keeps it as any other does.
    pub(crate) fn try_add_handle(&self) -> bool {
        let mut now = self.uses.load(Ordering::Relaxed);
        while now & HANDLES > 0 && now & HANDLES < HANDLES / 2 {
            let more = now + Kind::Handle as u64;
            match self.uses.compare_exchange_weak(now, more, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// One request of another processor more; the caller has a reference.
    #[inline]
    pub(crate) fn add_foreign(&self) {
        // Acquire: with `CLOSING`, it sees what was done to the file before the close waited.
        self.uses.fetch_add(Kind::Foreign as u64, Ordering::Acquire);
    }

    /// Counts a handle off, unless it is the last one. `false`: it must be sent home.
    pub(crate) fn drop_handle(&self) -> bool {
        self.subtract(Kind::Handle, |now| now & HANDLES > 1)
    }

    /// Counts a request of another processor off, unless nobody else is left or a close waits.
    /// `false`: it must be sent home.
    #[inline]
    pub(crate) fn drop_foreign(&self) -> bool {
        self.subtract(Kind::Foreign, |now| now != Kind::Foreign as u64 && now & CLOSING == 0)
    }

    #[inline]
    fn subtract(&self, kind: Kind, may: impl Fn(u64) -> bool) -> bool {
        let mut now = self.uses.load(Ordering::Relaxed);
        while may(now) {
            let less = now - kind as u64;
            // Release: what the caller did with the file comes before its end.
            match self.uses.compare_exchange_weak(now, less, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// A close is going to wait. Returns how many requests of other processors are counted, the close
    /// itself among them if it is one.
    pub(crate) fn set_closing(&self) -> u64 {
        // Release: see `add_foreign`.
        foreign(self.uses.fetch_or(CLOSING, Ordering::AcqRel))
    }

    /// Requests of other processors.
    pub(crate) fn foreign(&self) -> u64 {
        foreign(self.uses.load(Ordering::Acquire))
    }

    /// Whether a close waits, or has waited.
    pub(crate) fn is_closing(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & CLOSING != 0
    }

    /// Requests of the home, as far as the calling thread has heard.
    pub(crate) fn local(&self) -> u32 {
        self.local.load(Ordering::Relaxed)
    }

    // On the home's thread.

    /// One request of the home more.
    #[inline]
    pub(crate) fn add_local(&self) {
        // No read-modify-write: only the home's thread writes it while the home lives.
        self.local.store(self.local() + 1, Ordering::Relaxed);
    }

    /// One less.
    #[inline]
    pub(crate) fn drop_local(&self) {
        self.local.store(self.local() - 1, Ordering::Relaxed);
    }

    /// The home goes: a request that counted as local counts as foreign from now on.
    pub(crate) fn adopt_out(&self) {
        self.uses.fetch_add(Kind::Foreign as u64, Ordering::AcqRel);
        self.drop_local();
    }

    /// Whether one handle is left.
    pub(crate) fn is_last_handle(&self) -> bool {
        self.uses.load(Ordering::Acquire) & HANDLES == 1
    }

    /// Counts off a reference that has come home.
    pub(crate) fn give_up(&self, kind: Kind) {
        self.uses.fetch_sub(kind as u64, Ordering::AcqRel);
    }

    /// What is left.
    pub(crate) fn left(&self) -> Left {
        let uses = self.uses.load(Ordering::Acquire);
        Left { unused: uses & !CLOSING == 0 && self.local() == 0, closing: uses & CLOSING != 0 }
    }

    // When the home is gone, or going: everything is in `uses`.

    /// Counts off a reference; `closing` is called when a close waits. `true`: it was the last one,
    /// and the file is the caller's to close. The file is not closed by others before `closing` has
    /// returned.
    pub(crate) fn give_up_alone(&self, kind: Kind, closing: impl FnOnce()) -> bool {
        // The reference is replaced by a handle of our own.
        self.add_handle();
        if self.uses.fetch_sub(kind as u64, Ordering::AcqRel) & CLOSING != 0 {
            closing();
        }
        self.uses.fetch_sub(Kind::Handle as u64, Ordering::AcqRel) & !CLOSING == Kind::Handle as u64
    }
}

fn foreign(uses: u64) -> u64 {
    (uses & !CLOSING) / Kind::Foreign as u64
}

/// What the home sees of the count.
pub(crate) struct Left {
    /// Nobody counts any more: the file is the caller's to close.
    pub(crate) unused: bool,
    /// A close waits for requests to leave.
    pub(crate) closing: bool,
}
