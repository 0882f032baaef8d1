//! Who waits in a queue, in the order of arrival, and can leave from the middle.
//!
//! Entries are linked both ways through themselves: to enter allocates nothing, and whoever leaves,
//! from the front or from the middle, does so in a few steps, however many wait. **Invariant:** the
//! mark of an entry, whether it is in a line, is touched only with the lock held of the line that it
//! entered last, and its links too, which it has only while it is in. Whoever takes an entry out, and
//! nobody else, owns it.
//!
//! Explored by loom in `tests/loom_queues.rs` of this crate.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::ptr::{self, NonNull};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// What can wait in a [`Line`].
///
/// # Safety
/// The mark keeps what was written to it, and nobody else uses it; the same is true of the links
/// while the entry is in a line. A new entry is in none.
pub(crate) unsafe trait Entry {
    /// The mark.
    ///
    /// # Safety
    /// The entry is alive, and the caller holds the lock of the line that it entered last.
    unsafe fn is_in(this: NonNull<Self>) -> bool;
    /// Writes the mark.
    ///
    /// # Safety
    /// As [`Entry::is_in`].
    unsafe fn set_in(this: NonNull<Self>, is_in: bool);
    /// The one behind, or null.
    ///
    /// # Safety
    /// As [`Entry::is_in`], and it is in.
    unsafe fn next(this: NonNull<Self>) -> *mut Self;
    /// Writes that.
    ///
    /// # Safety
    /// As [`Entry::next`].
    unsafe fn set_next(this: NonNull<Self>, next: *mut Self);
    /// The one in front, or null.
    ///
    /// # Safety
    /// As [`Entry::next`].
    unsafe fn previous(this: NonNull<Self>) -> *mut Self;
    /// Writes that.
    ///
    /// # Safety
    /// As [`Entry::next`].
    unsafe fn set_previous(this: NonNull<Self>, previous: *mut Self);
}

struct Inner<N> {
    first: *mut N,
    last: *mut N,
    len: usize,
    closed: bool,
}

/// See the module's header.
pub(crate) struct Line<N>(Mutex<Inner<N>>);

// SAFETY: it uses entries only as `Entry` says, with the lock held.
unsafe impl<N> Send for Line<N> {}
// SAFETY: as above.
unsafe impl<N> Sync for Line<N> {}

impl<N: Entry> Line<N> {
    pub(crate) fn new() -> Line<N> {
        let (first, last) = (ptr::null_mut(), ptr::null_mut());
        Line(Mutex::new(Inner { first, last, len: 0, closed: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<N>> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries now.
    pub(crate) fn len(&self) -> usize {
        self.lock().len
    }

    /// To the end. `false`: the line is closed, and the entry still the caller's.
    ///
    /// # Safety
    /// The entry is the caller's, and stays alive until it is taken out.
    pub(crate) unsafe fn enter(&self, entry: NonNull<N>) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return false;
        }
        // SAFETY: the caller's until here; the last one is in the line.
        unsafe {
            N::set_in(entry, true);
            N::set_previous(entry, inner.last);
            N::set_next(entry, ptr::null_mut());
            match NonNull::new(inner.last) {
                Some(last) => N::set_next(last, entry.as_ptr()),
                None => inner.first = entry.as_ptr(),
            }
        }
        inner.last = entry.as_ptr();
        inner.len += 1;
        true
    }

    /// Takes the first one out: it is the caller's.
    pub(crate) fn take_first(&self) -> Option<NonNull<N>> {
        let mut inner = self.lock();
        let first = NonNull::new(inner.first)?;
        // SAFETY: it is in the line.
        unsafe { inner.unlink(first) };
        Some(first)
    }

    /// Takes that one out. `true`: it is the caller's. `false`: somebody else has taken it.
    ///
    /// # Safety
    /// The entry is alive, and this is the line that it entered last, if it entered any; it enters
    /// none meanwhile.
    pub(crate) unsafe fn take(&self, entry: NonNull<N>) -> bool {
        let mut inner = self.lock();
        // SAFETY: the caller's: so this is the lock.
        unsafe {
            let is_in = N::is_in(entry);
            if is_in {
                inner.unlink(entry);
            }
            is_in
        }
    }

    /// Nobody enters any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }
}

impl<N: Entry> Inner<N> {
    /// # Safety
    /// The entry is in the line, which is locked.
    unsafe fn unlink(&mut self, entry: NonNull<N>) {
        // SAFETY: its neighbours are in the line too.
        unsafe {
            let (next, previous) = (N::next(entry), N::previous(entry));
            match NonNull::new(previous) {
                Some(previous) => N::set_next(previous, next),
                None => self.first = next,
            }
            match NonNull::new(next) {
                Some(next) => N::set_previous(next, previous),
                None => self.last = previous,
            }
            N::set_in(entry, false);
        }
        self.len -= 1;
    }
}
