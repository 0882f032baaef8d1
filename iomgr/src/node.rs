//! First-in first-out lists of finished requests and of what users queue beside them.
//!
//! A request that is in such a list is linked through its own slot, so that queueing a completion
//! allocates nothing and cannot fail (I-1, C-15). What users queue lies in blocks of many, which are
//! links of the list too; requests that come while there is room in the last block lie there as well.
//! A list's owner keeps empty blocks for the next ones ([`Spare`]).

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use crate::irp::slot::{Slot, SlotPtr};

/// Entries of a block: of a port, which has the larger ones, just below 1 KiB of them.
const ROOM: usize = 30;

/// An entry of a [`Fifo`].
pub(crate) enum Entry<T> {
    /// A finished request, with the requester's reference to it.
    Irp(SlotPtr),
    /// What a user has queued.
    Own(T),
}

/// Entries, those from `begin` to `end`.
#[repr(C, align(8))]
pub(crate) struct Block<T> {
    next: *mut Slot,
    begin: usize,
    end: usize,
    entries: [MaybeUninit<Entry<T>>; ROOM],
}

// SAFETY: the link belongs to the list that the block is in.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: shared, it shows nothing.
unsafe impl<T: Send> Sync for Block<T> {}

impl<T> Block<T> {
    pub(crate) fn new() -> Box<Block<T>> {
        let entries = [const { MaybeUninit::uninit() }; ROOM];
        Box::new(Block { next: ptr::null_mut(), begin: 0, end: 0, entries })
    }
}

/// Empty blocks.
pub(crate) struct Spare<T> {
    first: *mut Block<T>,
    len: usize,
}

// SAFETY: a list of empty blocks, which it owns.
unsafe impl<T: Send> Send for Spare<T> {}

impl<T> Spare<T> {
    /// More are freed.
    const MOST: usize = 1024;

    #[inline]
    fn pop(&mut self) -> Option<NonNull<Block<T>>> {
        let block = NonNull::new(self.first)?;
        // SAFETY: in the list, so ours.
        self.first = unsafe { block.as_ref().next.cast() };
        self.len -= 1;
        Some(block)
    }

    /// # Safety
    /// The block is the caller's, and empty.
    #[inline]
    unsafe fn push(&mut self, block: NonNull<Block<T>>) {
        if self.len >= Self::MOST {
            // SAFETY: made by `Box::into_raw`, and the caller's.
            return drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
        // SAFETY: the caller's, and ours from here on.
        unsafe { (*block.as_ptr()).next = self.first.cast() };
        self.first = block.as_ptr();
        self.len += 1;
    }

    pub(crate) fn take(&mut self) -> Option<Box<Block<T>>> {
        // SAFETY: made by `Box::into_raw`, and just unlinked.
        self.pop().map(|block| unsafe { Box::from_raw(block.as_ptr()) })
    }

    pub(crate) fn add(&mut self, block: Box<Block<T>>) {
        // SAFETY: just handed over; a box's block is empty.
        unsafe { self.push(NonNull::from(Box::leak(block))) };
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Spare { first: ptr::null_mut(), len: 0 }
    }
}

impl<T> Drop for Spare<T> {
    fn drop(&mut self) {
        while let Some(block) = self.pop() {
            // SAFETY: made by `Box::into_raw`, and just unlinked.
            drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
    }
}

/// A list of entries. Links are addresses of slots, or, with the lowest bit set, of [`Block`]s that
/// are not empty; the list owns what it links. Its owner empties it: dropping it leaks.
pub(crate) struct Fifo<T> {
    first: *mut Slot,
    last: *mut Slot,
    len: usize,
    content: std::marker::PhantomData<Box<Block<T>>>,
}

// SAFETY: entries are requesters' references to `DONE` slots, which may sit on any thread, and boxes.
unsafe impl<T: Send> Send for Fifo<T> {}

impl<T> Fifo<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a finished request at the end.
    #[inline]
    fn push_irp(&mut self, slot: SlotPtr) {
        match self.last_with_room() {
            // SAFETY: there is room.
            Some(block) => unsafe { self.write(block, Entry::Irp(slot)) },
            None => {
                let link = slot.0.as_ptr();
                // SAFETY: the reference, and with it the link, is ours from here on.
                unsafe { (*link).link = ptr::null_mut() };
                self.link(link);
                self.len += 1;
            }
        }
    }

    /// Puts an entry at the end: a user's into a spare block, if the last one is full.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<T>, spare: &mut Spare<T>) {
        let content = match entry {
            Entry::Irp(slot) => return self.push_irp(slot),
            Entry::Own(content) => content,
        };
        let block = self.last_with_room().unwrap_or_else(|| {
            let block = spare.pop().unwrap_or_else(|| NonNull::from(Box::leak(Block::new())));
            self.link_block(block);
            block
        });
        // SAFETY: there is room.
        unsafe { self.write(block, Entry::Own(content)) };
    }

    #[inline]
    fn last_with_room(&self) -> Option<NonNull<Block<T>>> {
        // SAFETY: in the list, so ours.
        block_of::<T>(self.last).filter(|block| unsafe { block.as_ref().end } < ROOM)
    }

    /// # Safety
    /// The block is the last one of this list, and there is room in it.
    #[inline]
    unsafe fn write(&mut self, block: NonNull<Block<T>>, entry: Entry<T>) {
        // SAFETY: the caller's.
        unsafe {
            let block = block.as_ptr();
            let end = (*block).end;
            (&raw mut (*block).entries).cast::<Entry<T>>().add(end).write(entry);
            (*block).end = end + 1;
        }
        self.len += 1;
    }

    /// Puts an entry at the front: one that had been taken off it.
    pub(crate) fn push_front(&mut self, entry: Entry<T>) {
        let mut front = Fifo::default();
        front.push(entry, &mut Spare::default());
        front.append(self);
        *self = front;
    }

    /// Moves all of the other list to the end of this one.
    #[inline]
    pub(crate) fn append(&mut self, other: &mut Fifo<T>) {
        if other.first.is_null() {
            return;
        }
        if self.first.is_null() {
            std::mem::swap(self, other);
            return;
        }
        // SAFETY: in the list, so ours.
        unsafe { *next_of::<T>(self.last) = other.first };
        self.last = other.last;
        self.len += other.len;
        *other = Fifo::default();
    }

    /// Takes the oldest entry. A block that it was the last of goes to the spare ones.
    #[inline]
    pub(crate) fn pop(&mut self, spare: &mut Spare<T>) -> Option<Entry<T>> {
        let slot = NonNull::new(self.first)?;
        self.len -= 1;
        let Some(block) = block_of::<T>(self.first) else {
            self.unlink_first();
            return Some(Entry::Irp(SlotPtr(slot)));
        };
        // SAFETY: in the list, so ours; what is between `begin` and `end` has been written, and is read
        // once.
        unsafe {
            let fields = block.as_ptr();
            let begin = (*fields).begin;
            let entry = (&raw const (*fields).entries).cast::<Entry<T>>().add(begin).read();
            (*fields).begin = begin + 1;
            if begin + 1 == (*fields).end {
                self.unlink_first();
                (*fields).begin = 0;
                (*fields).end = 0;
                spare.push(block);
            }
            Some(entry)
        }
    }

    fn link_block(&mut self, block: NonNull<Block<T>>) {
        // SAFETY: the block is ours from here on.
        unsafe { (*block.as_ptr()).next = ptr::null_mut() };
        self.link(block.as_ptr().cast::<Slot>().map_addr(|address| address | 1));
    }

    #[inline]
    fn link(&mut self, link: *mut Slot) {
        if self.last.is_null() {
            self.first = link;
        } else {
            // SAFETY: in the list, so ours.
            unsafe { *next_of::<T>(self.last) = link };
        }
        self.last = link;
    }

    #[inline]
    fn unlink_first(&mut self) {
        // SAFETY: in the list, so ours.
        self.first = unsafe { *next_of::<T>(self.first) };
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
    }
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        let content = std::marker::PhantomData;
        Fifo { first: ptr::null_mut(), last: ptr::null_mut(), len: 0, content }
    }
}

/// The block that a link leads to.
#[inline]
fn block_of<T>(link: *mut Slot) -> Option<NonNull<Block<T>>> {
    let block = link.map_addr(|address| address & !1).cast::<Block<T>>();
    if link.addr() & 1 == 0 { None } else { NonNull::new(block) }
}

/// Where an entry's link is.
///
/// # Safety
/// The link's entry is alive, and the caller's.
#[inline]
unsafe fn next_of<T>(link: *mut Slot) -> *mut *mut Slot {
    match block_of::<T>(link) {
        // SAFETY: the caller's; the lowest bit says which it is.
        Some(block) => unsafe { &raw mut (*block.as_ptr()).next },
        // SAFETY: as above.
        None => unsafe { &raw mut (*link).link },
    }
}
