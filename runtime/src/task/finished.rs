//! The list of a [`JoinSet`](super::JoinSet)'s members that have ended: filled by the threads that
//! complete them, emptied by the set's owner.
//!
//! **Invariant.** A key is pushed once for each member, after its result can be taken; a waker that
//! is kept was kept by an owner that had found the list empty, and the push that follows takes it.
//! So no end is lost. Checked with loom in `models/tests/loom.rs` of this crate.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// See the module's header.
pub struct Finished(Mutex<List>);

#[derive(Default)]
struct List {
    keys: VecDeque<usize>,
    /// Of the owner, who waits.
    waker: Option<Waker>,
}

impl Finished {
    /// An empty list.
    pub fn new() -> Finished {
        Finished(Mutex::new(List::default()))
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Foreign code never runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has ended.
    pub fn push(&self, key: usize) {
        let waker = {
            let mut list = self.lock();
            list.keys.push_back(key);
            list.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The owner takes the member that ended first.
    pub fn pop(&self) -> Option<usize> {
        self.lock().keys.pop_front()
    }

    /// As [`Finished::pop`]; the owner's waker is kept while there is none.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(key) = self.pop() {
            return Poll::Ready(key);
        }
        // Cloning and dropping wakers is foreign code.
        let waker = cx.waker().clone();
        let old = {
            let mut list = self.lock();
            if let Some(key) = list.keys.pop_front() {
                return Poll::Ready(key);
            }
            list.waker.replace(waker)
        };
        drop(old);
        Poll::Pending
    }
}
