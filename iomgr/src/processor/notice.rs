//! How the keeper learns that it is wanted.
//!
//! **Invariant.** Whoever needs the keeper makes that to be seen first (`gate.rs`), and then looks
//! whether it is awake; the keeper says that it is not any more, and then looks whether anybody
//! needs it. Both sequentially consistent, so one of them sees the other: an awake keeper looks at
//! everybody before it sleeps, and one that is not is woken, by one of those who want it.
//!
//! Explored by loom in `tests/loom_mail.rs` of this crate.

#[cfg(loom)]
use crate::loomed::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the keeper is awake, or has been told to be.
pub(crate) struct Notice(AtomicBool);

impl Notice {
    /// Nobody is awake.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Notice {
        Notice(AtomicBool::new(false))
    }

    /// Nobody is awake.
    #[cfg(loom)]
    pub(crate) fn new() -> Notice {
        Notice(AtomicBool::new(false))
    }

    #[inline]
    pub(crate) fn is_awake(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Somebody needs the keeper. `true`: the caller is the one to wake it.
    #[inline]
    pub(crate) fn wakes(&self) -> bool {
        !self.is_awake() && !self.0.swap(true, Ordering::SeqCst)
    }

    /// It could not be woken: the next is to try.
    #[cold]
    pub(crate) fn failed(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// The keeper is going to sleep, unless somebody is `wanted` for. Before it does, it looks at
    /// [`Notice::is_awake`] again, when it can be woken.
    pub(crate) fn sleeps(&self, wanted: impl FnOnce() -> bool) -> bool {
        self.0.store(false, Ordering::SeqCst);
        let wanted = wanted();
        if wanted {
            self.0.store(true, Ordering::SeqCst);
        }
        !wanted
    }
}
