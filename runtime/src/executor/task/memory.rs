//! Memory of tasks, kept by the thread that frees it for the next task of about that size.
//!
//! A task that does little costs less than a trip to the allocator and back. What a thread keeps is
//! bounded, and given back when the thread ends.
//!
//! **Invariant.** A block on a list has the layout of its list, is free, and its first word is the
//! next block.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Sizes are rounded up to multiples of this.
const STEP: usize = 64;
/// Blocks of up to so many steps are kept.
const CLASSES: usize = 8;
/// Bytes that each list may keep.
const KEPT: usize = 128 * 1024;
const ALIGN: usize = 16;

struct List {
    head: Cell<*mut u8>,
    room: Cell<usize>,
}

struct Lists([List; CLASSES]);

thread_local! {
    static LISTS: Lists = const {
        Lists([const { List { head: Cell::new(ptr::null_mut()), room: Cell::new(KEPT) } }; CLASSES])
    };
}

impl Drop for Lists {
    fn drop(&mut self) {
        for (class, list) in self.0.iter().enumerate() {
            let mut block = list.head.replace(ptr::null_mut());
            while !block.is_null() {
                // SAFETY: by the invariant; read before it is given back.
                unsafe {
                    let next = block.cast::<*mut u8>().read();
                    dealloc(block, layout_of(class));
                    block = next;
                }
            }
        }
    }
}

/// The list for that layout, if blocks like that are kept.
const fn class_of(layout: Layout) -> Option<usize> {
    let steps = layout.size().div_ceil(STEP);
    if steps >= 1 && steps <= CLASSES && layout.align() <= ALIGN { Some(steps - 1) } else { None }
}

const fn layout_of(class: usize) -> Layout {
    match Layout::from_size_align((class + 1) * STEP, ALIGN) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    }
}

/// Memory for a `T`, to be given back with [`free`].
#[inline]
pub(super) fn take<T>() -> NonNull<T> {
    let layout = const { Layout::new::<T>() };
    let class = const { class_of(Layout::new::<T>()) };
    let Some(class) = class else { return new_block(layout).cast() };
    let kept = LISTS.try_with(|lists| {
        let list = &lists.0[class];
        let block = NonNull::new(list.head.get())?;
        // SAFETY: by the invariant.
        list.head.set(unsafe { block.cast::<*mut u8>().read() });
        list.room.set(list.room.get() + layout_of(class).size());
        Some(block)
    });
    kept.ok().flatten().unwrap_or_else(|| new_block(layout_of(class))).cast()
}

#[inline(never)]
fn new_block(layout: Layout) -> NonNull<u8> {
    debug_assert!(layout.size() > 0);
    // SAFETY: a task is never of no size.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Gives memory back, on any thread.
///
/// # Safety
/// It comes from [`take`] of the same type, and nobody uses it any more.
#[inline]
pub(super) unsafe fn free<T>(memory: NonNull<T>) {
    let block = memory.cast::<u8>().as_ptr();
    let class = const { class_of(Layout::new::<T>()) };
    let Some(class) = class else {
        // SAFETY: allocated with that layout.
        return unsafe { dealloc(block, Layout::new::<T>()) };
    };
    let is_kept = LISTS.try_with(|lists| {
        let list = &lists.0[class];
        let size = layout_of(class).size();
        if list.room.get() < size {
            return false;
        }
        // SAFETY: the caller's, and large enough for a word.
        unsafe { block.cast::<*mut u8>().write(list.head.get()) };
        list.head.set(block);
        list.room.set(list.room.get() - size);
        true
    });
    if is_kept != Ok(true) {
        // SAFETY: allocated with that layout.
        unsafe { dealloc(block, layout_of(class)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks<T>(count: usize) -> Vec<NonNull<T>> {
        (0..count).map(|_| take::<T>()).collect()
    }

    fn free_all<T>(blocks: Vec<NonNull<T>>) {
        // SAFETY: each comes from `take` and is not used any more.
        blocks.into_iter().for_each(|block| unsafe { free(block) });
    }

    fn kept(class: usize) -> usize {
        LISTS.with(|lists| {
            let (mut count, mut block) = (0, lists.0[class].head.get());
            while !block.is_null() {
                count += 1;
                // SAFETY: by the invariant.
                block = unsafe { block.cast::<*mut u8>().read() };
            }
            assert_eq!(lists.0[class].room.get(), KEPT - count * layout_of(class).size());
            count
        })
    }

    #[test]
    fn what_was_freed_last_is_taken_first_for_any_type_of_the_size() {
        let first = take::<[u8; 65]>();
        free_all(vec![first]);
        let second = take::<[u64; 16]>();
        assert_eq!(first.addr(), second.addr());
        assert!(second.cast::<u128>().is_aligned());
        free_all(vec![second]);
        assert_eq!(kept(1), 1);
    }

    #[test]
    fn a_thread_keeps_so_much_and_no_more() {
        free_all(blocks::<[u8; 512]>(1000));
        assert_eq!(kept(7), KEPT / 512);
        free_all(blocks::<[u8; 512]>(1000));
        assert_eq!(kept(7), KEPT / 512);
    }

    #[test]
    fn large_and_strangely_aligned_ones_are_the_allocators() {
        #[repr(align(64))]
        struct Aligned(#[expect(dead_code, reason = "only its layout matters")] u8);
        let aligned = take::<Aligned>();
        assert!(aligned.is_aligned());
        free_all(vec![aligned]);
        free_all(blocks::<[u8; 513]>(3));
        assert_eq!((0..CLASSES).map(kept).sum::<usize>(), 0);
    }

    #[test]
    fn it_may_be_freed_anywhere_also_at_a_threads_end() {
        struct Late(NonNull<[u8; 100]>);
        // SAFETY: plain memory, in the hands of one thread at a time.
        unsafe impl Send for Late {}
        impl Drop for Late {
            fn drop(&mut self) {
                // SAFETY: taken, and freed once.
                unsafe { free(self.0) };
            }
        }
        thread_local!(static LATE: Cell<Option<Late>> = const { Cell::new(None) });
        let late = [(); 4].map(|()| Late(take()));
        std::thread::spawn(move || {
            // One is freed after the thread's lists, whichever goes first.
            let [a, b, c, d] = late;
            LATE.set(Some(a));
            drop(b);
            assert_eq!(kept(1), 1);
            drop((c, d));
        })
        .join()
        .unwrap();
        assert_eq!(kept(1), 0);
    }
}
