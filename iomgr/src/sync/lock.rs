//! A lock that is held for some dozens of instructions, as a port's nearly always is.
//!
//! Taking it is one read-modify-write and letting go a store, where a lock whose waiters sleep needs
//! a second one to learn of them. Who finds it taken looks again ([`relax`]).

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;
#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

use super::relax;

/// What says that the lock is taken.
pub struct Word(AtomicBool);

impl Word {
    /// Free.
    pub fn new() -> Word {
        Word(AtomicBool::new(false))
    }

    /// Takes it, if it is free.
    #[inline]
    pub fn try_take(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes it as soon as it is free.
    #[cold]
    pub fn wait(&self) {
        let mut looks = 0;
        // Looking only reads, and leaves the cache line with the holder.
        while self.0.load(Ordering::Relaxed) || !self.try_take() {
            relax(looks);
            looks += 1;
        }
    }

    /// Whoever has taken it lets go.
    #[inline]
    pub fn free(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// See the module's header. On cache lines of its own: beside it lies what other threads use.
/// The word lies before the content, so that whoever has fetched its cache line has what comes first of
/// the content as well.
#[repr(C, align(128))]
pub(crate) struct Lock<T> {
    word: Word,
    /// Has others wait: that they look in turns, for ever, is more than loom can explore.
    #[cfg(loom)]
    queue: loom::sync::Mutex<()>,
    content: UnsafeCell<T>,
}

// SAFETY: the content is reached through `Guard`s only, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) fn new(content: T) -> Lock<T> {
        Lock {
            word: Word::new(),
            #[cfg(loom)]
            queue: loom::sync::Mutex::new(()),
            content: UnsafeCell::new(content),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        #[cfg(loom)]
        let queue = self.queue.lock().expect("nobody panics");
        if !self.word.try_take() {
            self.word.wait();
        }
        Guard {
            lock: self,
            content: PhantomData,
            #[cfg(loom)]
            _queue: queue,
        }
    }
}

/// The lock, until it is dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    content: PhantomData<&'a mut T>,
    #[cfg(loom)]
    _queue: loom::sync::MutexGuard<'a, ()>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is ours.
        unsafe { &*self.lock.content.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is ours.
        unsafe { &mut *self.lock.content.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.word.free();
    }
}
