//! First-in first-out lists of finished requests and of what users queue beside them.
//!
//! A request that is in such a list is linked through its own slot, so that queueing a completion
//! allocates nothing and cannot fail (I-1, C-15).

use std::marker::PhantomData;
use std::ptr;

use crate::irp::slot::{Slot, SlotPtr};

/// An entry of a [`Fifo`].
pub(crate) enum Entry<T> {
    /// A finished request, with the requester's reference to it.
    Irp(SlotPtr),
    /// What a user has queued.
    Own(Box<Own<T>>),
}

/// A user's entry.
#[repr(align(8))]
pub(crate) struct Own<T> {
    next: *mut Slot,
    pub(crate) content: T,
}

impl<T> Own<T> {
    pub(crate) fn new(content: T) -> Box<Own<T>> {
        Box::new(Own { next: ptr::null_mut(), content })
    }
}

// SAFETY: the link belongs to the list that the entry is in.
unsafe impl<T: Send> Send for Own<T> {}

/// A list of entries. Links are addresses of slots, or, with the lowest bit set, of [`Own`]s; the
/// list owns what it links.
pub(crate) struct Fifo<T> {
    first: *mut Slot,
    last: *mut Slot,
    len: usize,
    own: PhantomData<Box<Own<T>>>,
}

// SAFETY: entries are requesters' references to `DONE` slots, which may sit on any thread, and boxes.
unsafe impl<T: Send> Send for Fifo<T> {}

impl<T> Fifo<T> {
    pub(crate) const fn new() -> Fifo<T> {
        Fifo { first: ptr::null_mut(), last: ptr::null_mut(), len: 0, own: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an entry at the front: one that had been taken off it.
    pub(crate) fn push_front(&mut self, entry: Entry<T>) {
        let link = link_of(entry);
        // SAFETY: the entry is ours from here on, and so is its link.
        unsafe { *next_of::<T>(link) = self.first };
        self.first = link;
        if self.last.is_null() {
            self.last = link;
        }
        self.len += 1;
    }

    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<T>) {
        let link = link_of(entry);
        // SAFETY: as above.
        unsafe { *next_of::<T>(link) = ptr::null_mut() };
        if self.last.is_null() {
            self.first = link;
        } else {
            // SAFETY: in the list, so ours.
            unsafe { *next_of::<T>(self.last) = link };
        }
        self.last = link;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Entry<T>> {
        let link = self.first;
        if link.is_null() {
            return None;
        }
        // SAFETY: in the list, so ours.
        self.first = unsafe { *next_of::<T>(link) };
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        self.len -= 1;
        if link.addr() & 1 == 0 {
            let slot = ptr::NonNull::new(link).expect("not null");
            return Some(Entry::Irp(SlotPtr(slot)));
        }
        let own = link.map_addr(|address| address & !1).cast::<Own<T>>();
        // SAFETY: made by `Box::into_raw` in `push`, and just unlinked.
        Some(Entry::Own(unsafe { Box::from_raw(own) }))
    }
}

#[inline]
fn link_of<T>(entry: Entry<T>) -> *mut Slot {
    match entry {
        Entry::Irp(slot) => slot.0.as_ptr(),
        Entry::Own(own) => Box::into_raw(own).cast::<Slot>().map_addr(|address| address | 1),
    }
}

/// Where an entry's link is.
///
/// # Safety
/// The link's entry is alive, and the caller's.
#[inline]
unsafe fn next_of<T>(link: *mut Slot) -> *mut *mut Slot {
    // SAFETY: the caller's; the lowest bit says which it is.
    unsafe {
        if link.addr() & 1 == 0 {
            &raw mut (*link).link
        } else {
            &raw mut (*link.map_addr(|address| address & !1).cast::<Own<T>>()).next
        }
    }
}
