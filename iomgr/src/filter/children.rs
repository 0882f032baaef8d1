//! Futures of one type that a filter's function drives at once, in one chunk of pooled memory
//! (`arena.rs`): however many there are, in steady state nothing is allocated for them.
//!
//! **Invariant.** The places before `len` are initialised. A future in one of them never moves until it
//! has been dropped: so they may be polled as pinned.

use std::alloc::Layout;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::arena::{self, Size};

/// See the module's header.
pub(super) struct Children<F: Future> {
    first: NonNull<Child<F>>,
    len: usize,
    room: usize,
    size: Size,
}

enum Child<F: Future> {
    Runs(F),
    Ended(F::Output),
    /// Whoever wanted the output has it.
    Taken,
}

// SAFETY: it owns the futures and the outputs, as a `Vec` of them would.
unsafe impl<F: Future<Output: Send> + Send> Send for Children<F> {}
// SAFETY: as above; by a shared reference, futures are only looked at.
unsafe impl<F: Future + Sync> Sync for Children<F> {}

impl<F: Future> Children<F> {
    /// Room for so many.
    ///
    /// # Panics
    /// When no memory can be that large.
    pub(super) fn with_room(children: usize) -> Children<F> {
        let layout = Layout::array::<Child<F>>(children).expect("they fit into memory");
        // Nobody's chunk is empty.
        let size = layout.size().max(1);
        let layout = Layout::from_size_align(size, layout.align()).expect("no larger");
        let size = Size::new(layout);
        Children { first: arena::take(size).cast(), len: 0, room: children, size }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn at(&mut self, place: usize) -> &mut Child<F> {
        assert!(place < self.len, "no such child");
        // SAFETY: initialised, and borrowed mutably.
        unsafe { self.first.add(place).as_mut() }
    }

    /// One more, in the next place.
    ///
    /// # Panics
    /// When there is no room.
    pub(super) fn push(&mut self, future: F) {
        assert!(self.len < self.room, "more children than there is room for");
        // SAFETY: inside the chunk, and nothing is there.
        unsafe { self.first.add(self.len).write(Child::Runs(future)) };
        self.len += 1;
    }

    /// One more, in the next place, or in one whose output has been taken.
    pub(super) fn put(&mut self, place: usize, future: F) {
        if place == self.len {
            return self.push(future);
        }
        *self.at(place) = Child::Runs(future);
    }

    /// The one in that place, if it has not ended.
    pub(super) fn running(&self, place: usize) -> Option<&F> {
        if place >= self.len {
            return None;
        }
        // SAFETY: initialised.
        match unsafe { self.first.add(place).as_ref() } {
            Child::Runs(future) => Some(future),
            _ => None,
        }
    }

    /// Polls the one in that place, unless it has ended before; its output, when it ends.
    pub(super) fn poll(&mut self, place: usize, cx: &mut Context<'_>) -> Poll<Option<&F::Output>> {
        let child = self.at(place);
        let Child::Runs(future) = child else { return Poll::Ready(None) };
        // SAFETY: it does not move (the module's invariant).
        match unsafe { Pin::new_unchecked(future) }.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(output) => {
                *child = Child::Ended(output);
                let Child::Ended(output) = child else { unreachable!("just written") };
                Poll::Ready(Some(output))
            }
        }
    }

    /// The output of the one in that place, once.
    pub(super) fn take(&mut self, place: usize) -> Option<F::Output> {
        let child = self.at(place);
        if matches!(child, Child::Runs(_)) {
            return None;
        }
        match mem::replace(child, Child::Taken) {
            Child::Ended(output) => Some(output),
            _ => None,
        }
    }
}

impl<F: Future> Drop for Children<F> {
    fn drop(&mut self) {
        /// Also when one of them panics.
        struct Free(NonNull<u8>, Size);
        impl Drop for Free {
            fn drop(&mut self) {
                // SAFETY: taken for this size; what was in it is gone.
                unsafe { arena::give(self.0, self.1) };
            }
        }
        let _free = Free(self.first.cast(), self.size);
        // SAFETY: initialised; nobody uses them any more.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).drop_in_place() };
    }
}
