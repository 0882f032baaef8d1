//! Who may touch a plain thread's processor: the thread itself, or the keeper (`keeper.rs`), one at
//! a time.
//!
//! ```text
//!               the thread calls in
//!   all but GONE ───────────▶ INSIDE      the thread's, until its call returns
//!
//!   INSIDE ──▶ IDLE    the call returns; nothing is outstanding
//!   INSIDE ──▶ LEFT    the call returns; requests or timers are outstanding
//!   INSIDE ──▶ ASKED   the same, and the thread will not come back to look for them
//!   LEFT, ASKED ──▶ INSIDE ──▶ KEPT    the keeper has submitted all, and watches the hardware
//!   INSIDE ──▶ GONE    the processor has been torn down
//! ```
//!
//! **Invariant.** Everything that belongs to a processor's thread (`Core`, its slots, its hardware)
//! is touched only with the lock held; the thread takes it for the time of each call
//! (`Core::busy`), also while it sleeps in one. Whoever sends mail and finds the thread outside
//! tells the keeper (`notice.rs`); a thread that leaves looks at its mail *after* it has said so
//! (`presence.rs`). Both sequentially consistent, so one of them sees the other.
//!
//! Explored by loom in `tests/loom_mail.rs` of this crate.

use std::fmt;

use parking_lot::lock_api::RawReentrantMutex;
use parking_lot::{RawMutex, RawThreadId};

use super::presence::Presence;
pub(super) use super::presence::State;

pub(super) struct Gate {
    lock: RawReentrantMutex<RawMutex, RawThreadId>,
    presence: Presence,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { lock: RawReentrantMutex::INIT, presence: Presence::new() }
    }

    /// May be taken again by the thread that has it.
    #[inline]
    pub(super) fn lock(&self) {
        self.lock.lock();
    }

    pub(super) fn try_lock(&self) -> bool {
        self.lock.try_lock()
    }

    /// # Safety
    /// The calling thread has the lock; one of its `lock`s ends.
    #[inline]
    pub(super) unsafe fn unlock(&self) {
        // SAFETY: the caller's.
        unsafe { self.lock.unlock() }
    }

    /// Holding the lock.
    #[inline]
    pub(super) fn set(&self, state: State) {
        self.presence.set(state);
    }

    /// The state, and a number that changes with it.
    pub(super) fn look(&self) -> (State, u64) {
        self.presence.look()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.look()).finish()
    }
}
