//! Whether a thread that waits has been told to look again.
//!
//! **Invariant.** A teller first makes its news visible, then tells, then ends the sleep; the sleeper
//! begins *before* it looks, and asks once more when it is about to sleep. So no news is slept through,
//! and one that is told of what it has seen already looks once too often at worst. Checked with loom
//! in `tests/loom_ports.rs`.

use std::sync::atomic::Ordering;

use crate::sync::AtomicBool;

/// See the module's header.
pub struct Told(AtomicBool);

impl Told {
    /// Of a thread that has not been told.
    pub fn new() -> Told {
        Told(AtomicBool::new(false))
    }

    /// Sleeper: it is about to look.
    pub fn begin(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Anyone, whose news is visible.
    pub fn tell(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Sleeper: whether it has been told since it began.
    pub fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
