//! Tasks in the order in which a worker runs them, linked through themselves.
//!
//! **Invariant.** A task in a line is in no other queue. So it is alive, by the executor's reference, and its
//! link is the line's.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::Ordering;

use super::{Header, Runnable};

/// A worker's own queue: first in, first out. It never allocates, and to queue a task touches only that
/// one and the last.
pub(in super::super) struct Line {
    first: Cell<*mut Header>,
    /// Of no meaning while there is no first.
    last: Cell<*mut Header>,
}

impl Line {
    pub(in super::super) fn new() -> Line {
        Line { first: Cell::new(ptr::null_mut()), last: Cell::new(ptr::null_mut()) }
    }

    #[inline]
    pub(in super::super) fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    #[inline]
    pub(in super::super) fn push(&self, task: Runnable) {
        let task = ManuallyDrop::new(task).0;
        // SAFETY: the invariant, of the task that comes in and of the last one.
        unsafe {
            task.as_ref().link.store(ptr::null_mut(), Ordering::Relaxed);
            if self.first.get().is_null() {
                self.first.set(task.as_ptr());
            } else {
                (*self.last.get()).link.store(task.as_ptr(), Ordering::Relaxed);
            }
        }
        self.last.set(task.as_ptr());
    }

    /// Takes the first, and asks for the next one to be in the cache soon: with thousands of tasks it is
    /// not there.
    #[inline]
    pub(in super::super) fn pop(&self) -> Option<Runnable> {
        let first = ptr::NonNull::new(self.first.get())?;
        // SAFETY: the invariant.
        let next = unsafe { first.as_ref() }.link.load(Ordering::Relaxed);
        self.first.set(next);
        super::prefetch(next);
        Some(Runnable(first))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        while let Some(task) = self.pop() {
            drop(task);
        }
    }
}
