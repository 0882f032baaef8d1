//! The close that waits for the other requests.
//!
//! A descriptor is closed when no other request counts on its file any more, so that none, wherever
//! it waits, meets another file of the same number. **Invariant:** one close goes on, once:
//! the first to ask; others are refused. It goes on when it is the only request that counts, seen by
//! the home, or by anybody when the home is gone; it is looked for whenever a request leaves.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// A close that was asked for.
enum State<H> {
    Open,
    /// It waits for other requests to leave.
    Waiting(H),
    /// There are no others, and no more come to the hardware.
    Alone,
}

/// The close of a file object; `H` is a held request.
pub(crate) struct Closer<H>(Mutex<State<H>>);

/// What becomes of a close, `R` before and `H` after it is held.
pub(crate) enum Asked<R, H> {
    /// It is the only request: it goes on.
    GoesOn(R),
    /// It is given out by [`Closer::let_go`] when it is.
    Waits,
    /// Another one waits.
    Refused(H),
}

impl<H> Closer<H> {
    pub(crate) fn new() -> Closer<H> {
        Closer(Mutex::new(State::Open))
    }

    fn lock(&self) -> MutexGuard<'_, State<H>> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `irp` asks to close the file. `alone`: it is the only request. `hold` is called if it is not;
    /// what is held waits, or comes back when the close is refused.
    pub(crate) fn ask<R>(&self, irp: R, alone: bool, hold: impl FnOnce(R) -> H) -> Asked<R, H> {
        let mut state = self.lock();
        if alone {
            *state = State::Alone;
        }
        match *state {
            State::Alone => Asked::GoesOn(irp),
            State::Waiting(_) => Asked::Refused(hold(irp)),
            State::Open => {
                *state = State::Waiting(hold(irp));
                Asked::Waits
            }
        }
    }

    /// The close that waits, if it is the only one of so many requests: it goes on. On the home's
    /// thread; or the home is gone.
    pub(crate) fn let_go(&self, requests: u64) -> Option<H> {
        if requests > 1 {
            return None;
        }
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Alone) {
            State::Waiting(held) => Some(held),
            before => {
                *state = before;
                None
            }
        }
    }
}
