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
//! tells the keeper; a thread that leaves looks at its mail *after* it has said so. Both
//! sequentially consistent, so one of them sees the other.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::lock_api::RawReentrantMutex;
use parking_lot::{RawMutex, RawThreadId};

/// Where the thread is; see the module's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Inside,
    Idle,
    Left,
    Asked,
    Kept,
    Gone,
}

impl State {
    fn of(bits: u64) -> State {
        [State::Inside, State::Idle, State::Left, State::Asked, State::Kept, State::Gone]
            [(bits & 7) as usize]
    }
}

pub(super) struct Gate {
    lock: RawReentrantMutex<RawMutex, RawThreadId>,
    /// The state, and how often it has changed.
    presence: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { lock: RawReentrantMutex::INIT, presence: AtomicU64::new(State::Idle as u64) }
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
        let now = self.presence.load(Ordering::Relaxed);
        self.presence.swap(((now >> 3) + 1) << 3 | state as u64, Ordering::SeqCst);
    }

    /// The state, and a number that changes with it.
    pub(super) fn look(&self) -> (State, u64) {
        let now = self.presence.load(Ordering::SeqCst);
        (State::of(now), now >> 3)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.look()).finish()
    }
}
