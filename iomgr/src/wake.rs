//! Waking tasks: wakers are code of somebody else's, which may panic, and take locks.

use std::cell::RefCell;
use std::task::Waker;

use crate::panics::caught;

thread_local! {
    /// The keeper's: wakers for when it has let go of the processor.
    static LATER: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Wakes a task. A panic of its waker is reported, and goes no further.
pub(crate) fn wake(waker: Waker) {
    let later = |later: &RefCell<Option<Vec<Waker>>>| match &mut *later.borrow_mut() {
        Some(list) => {
            list.push(waker.clone());
            true
        }
        None => false,
    };
    if LATER.try_with(later).unwrap_or(false) {
        return;
    }
    if caught(|| waker.wake()).is_none() {
        tracing::error!("a waker panicked");
    }
}

/// Runs `work`, and wakes what it wants to wake only afterwards, by the return's drop: a waker may
/// want a lock whose holder wants the processor that `work` has.
pub(crate) fn deferred<R>(work: impl FnOnce() -> R) -> (R, Deferred) {
    LATER.with(|later| later.replace(Some(Vec::new())));
    let deferred = Deferred;
    (work(), deferred)
}

/// See [`deferred`].
pub(crate) struct Deferred;

impl Drop for Deferred {
    fn drop(&mut self) {
        let wakers = LATER.with(|later| later.take());
        wakers.into_iter().flatten().for_each(wake);
    }
}
