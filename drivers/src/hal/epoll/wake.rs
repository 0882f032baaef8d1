//! Ending a turn's sleep from another thread, with a system call only when it sleeps.
//!
//! ```text
//!            prepare_sleep            wake (writes the eventfd)
//!   AWAKE ────────────────▶ SLEEPING ────────────────▶ NOTIFIED
//!     ▲ │ wake (writes nothing)          woken            ▲ │
//!     │ └─────────────────────────────────────────────────┘ │
//!     └──────────────────── woken ──────────────────────────┘
//! ```
//!
//! **Invariant.** A `wake` that comes after one turn that may sleep has ended makes the next one
//! return: either it finds `SLEEPING` and writes the eventfd, or `prepare_sleep` finds `NOTIFIED`.

use std::sync::atomic::{AtomicU8, Ordering};

use mio::{Registry, Token, Waker};
use overlapped_iomgr::hal::Wake;
use overlapped_iomgr::panics::log;

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// The waker's own token; no descriptor has that number.
pub(super) const WAKE_TOKEN: Token = Token(usize::MAX);

pub(super) struct Wakeup {
    state: AtomicU8,
    waker: Waker,
}

impl Wakeup {
    pub(super) fn new(registry: &Registry) -> std::io::Result<Wakeup> {
        Ok(Wakeup { state: AtomicU8::new(AWAKE), waker: Waker::new(registry, WAKE_TOKEN)? })
    }

    /// Whether the owner may sleep. If so, it calls [`Wakeup::woken`] afterwards.
    pub(super) fn prepare_sleep(&self) -> bool {
        let sleeps = self
            .state
            .compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if !sleeps {
            self.woken();
        }
        sleeps
    }

    /// The turn will return: whatever wakes have come, it serves them.
    pub(super) fn woken(&self) {
        // A swap, not a store: it acquires what the wakers have written before they called.
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

impl Wake for Wakeup {
    fn wake(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
            && let Err(error) = self.waker.wake()
        {
            // An eventfd's write fails only when it is no eventfd any more.
            log(|| tracing::error!(%error, "cannot wake a processor"));
        }
    }
}
