//! The word that says where a plain thread is; see `gate.rs`.

#[cfg(loom)]
use crate::loomed::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
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

/// The state, and how often it has changed.
pub(crate) struct Presence(AtomicU64);

impl Presence {
    pub(crate) fn new() -> Presence {
        Presence(AtomicU64::new(State::Idle as u64))
    }

    /// Holding the gate's lock.
    #[inline]
    pub(crate) fn set(&self, state: State) {
        let now = self.0.load(Ordering::Relaxed);
        // Before the caller looks at its mail; see `gate.rs`.
        self.0.swap(((now >> 3) + 1) << 3 | state as u64, Ordering::SeqCst);
    }

    /// The state, and a number that changes with it.
    pub(crate) fn look(&self) -> (State, u64) {
        let now = self.0.load(Ordering::SeqCst);
        (State::of(now), now >> 3)
    }
}
