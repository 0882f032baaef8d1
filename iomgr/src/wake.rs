//! Waking tasks, and dropping what requests carry: code of somebody else's, which may panic, and take
//! locks.

use std::any::Any;
use std::cell::RefCell;
use std::task::Waker;

use crate::panics::{caught, log};

/// What is left to do.
enum Later {
    Wake(Waker),
    Drop(Box<dyn Any>),
}

thread_local! {
    /// The keeper's: for when it has let go of the processor.
    static LATER: RefCell<Option<Vec<Later>>> = const { RefCell::new(None) };
}

/// Whether there is a later.
fn is_deferred() -> bool {
    LATER.try_with(|later| later.borrow().is_some()).unwrap_or(false)
}

fn defer(what: Later) {
    LATER.with(|later| later.borrow_mut().as_mut().expect("just looked").push(what));
}

/// Wakes a task. A panic of its waker is reported, and goes no further.
pub(crate) fn wake(waker: Waker) {
    if is_deferred() {
        defer(Later::Wake(waker));
    } else if caught(|| waker.wake()).is_none() {
        log(|| tracing::error!("a waker panicked"));
    }
}

/// What is to be dropped: the caller's to drop, unless that is deferred.
pub(crate) fn to_drop<T: 'static>(what: T) -> Option<T> {
    if is_deferred() {
        defer(Later::Drop(Box::new(what)));
        return None;
    }
    Some(what)
}

/// Runs `work`, and what it wants to wake and to drop only afterwards, by the return's drop: that may
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
        let left = LATER.with(|later| later.take());
        for what in left.into_iter().flatten() {
            match what {
                Later::Wake(waker) => wake(waker),
                Later::Drop(what) => {
                    if caught(|| drop(what)).is_none() {
                        log(|| {
                            tracing::error!("what a request carried panicked while it was dropped")
                        });
                    }
                }
            }
        }
    }
}
