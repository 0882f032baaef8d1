//! Memory for the futures of filters: chunks of a few sizes, kept by each processor.
//!
//! A call takes its chunk when it begins and gives it back when its request has unwound past it, to the
//! same processor, so in steady state nothing is allocated. Larger futures than the largest chunk come
//! from the heap, each time; [`heap_futures`] counts them. What a future makes while it runs, and may
//! drop anywhere, comes from the thread's own chunks ([`take`]).

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the chunks.
const SIZES: [usize; 4] = [256, 512, 1024, 4096];
/// Chunks are aligned to a cache line.
const ALIGN: usize = 64;
/// Chunks of each size that a processor keeps: 256 KiB. Reckoned here, for dividing takes as long as all the
/// rest of giving one back.
const KEPT: [usize; SIZES.len()] = [1024, 512, 256, 64];

static HEAP: AtomicU64 = AtomicU64::new(0);

/// How many calls of filters so far had a future too large for a pooled chunk (4 KiB less about a
/// hundred bytes), and took their memory from the heap. Boxing the large part of such a future, or
/// calling less inlined code from it, makes it smaller.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_iomgr::filter::heap_futures; } }
/// let before = overlapped::driver::heap_futures();
/// assert!(overlapped::driver::heap_futures() >= before);
/// ```
pub fn heap_futures() -> u64 {
    HEAP.load(Ordering::Relaxed)
}

thread_local! {
    static HERE: Arena = const { Arena::new() };
}

/// Memory of the size given from the calling thread's chunks, to be given back by [`give`].
pub(super) fn take(of: Size) -> NonNull<u8> {
    HERE.try_with(|arena| arena.take(of)).unwrap_or_else(|_| of.allocate())
}

/// Gives memory to the calling thread's chunks.
///
/// # Safety
/// It came from [`take`] on some thread, for the same size, and is nobody's any more.
pub(super) unsafe fn give(chunk: NonNull<u8>, of: Size) {
    // SAFETY: the caller's; where it was taken makes no difference. A thread that ends has no chunks.
    unsafe {
        let kept = HERE.try_with(|arena| arena.give(chunk, of));
        kept.unwrap_or_else(|_| of.free(chunk));
    }
}

/// A free chunk: its first word is the next one.
struct Free(*mut Free);

/// Of one size.
struct List {
    first: Cell<*mut Free>,
    len: Cell<usize>,
}

/// A processor's chunks.
pub(crate) struct Arena([List; SIZES.len()]);

impl Drop for Arena {
    fn drop(&mut self) {
        for (list, size) in self.0.iter().zip(SIZES) {
            while let Some(chunk) = list.pop() {
                // SAFETY: on the list: allocated by `take` with this layout, and nobody's.
                unsafe { dealloc(chunk.as_ptr(), layout(size)) };
            }
        }
    }
}

impl List {
    const fn new() -> List {
        List { first: Cell::new(ptr::null_mut()), len: Cell::new(0) }
    }

    #[inline]
    fn pop(&self) -> Option<NonNull<u8>> {
        let first = NonNull::new(self.first.get())?;
        // SAFETY: a free chunk holds its link, and is this list's alone.
        self.first.set(unsafe { (*first.as_ptr()).0 });
        self.len.set(self.len.get() - 1);
        Some(first.cast())
    }

    /// # Safety
    /// The chunk is nobody's any more.
    #[inline]
    unsafe fn push(&self, chunk: NonNull<u8>) {
        let chunk = chunk.cast::<Free>();
        // SAFETY: the caller's; every size has room for the link.
        unsafe { chunk.write(Free(self.first.get())) };
        self.first.set(chunk.as_ptr());
        self.len.set(self.len.get() + 1);
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("a power of two")
}

/// How much memory a value needs, known when the program is compiled.
#[derive(Clone, Copy)]
pub(super) struct Size {
    layout: Layout,
    /// The size that is right for it; none of them: the heap.
    class: usize,
}

impl Size {
    /// A value's, which is not of size 0.
    pub(super) const fn of<T>() -> Size {
        Size::new(Layout::new::<T>())
    }

    /// Of a layout whose size is not 0.
    pub(super) const fn new(layout: Layout) -> Size {
        let mut class = 0;
        while class < SIZES.len() && (SIZES[class] < layout.size() || ALIGN < layout.align()) {
            class += 1;
        }
        Size { layout, class }
    }

    /// As it comes from the heap.
    fn heap(self) -> Layout {
        SIZES.get(self.class).map_or(self.layout, |size| layout(*size))
    }

    fn allocate(self) -> NonNull<u8> {
        // SAFETY: the size is not 0.
        NonNull::new(unsafe { alloc(self.heap()) })
            .unwrap_or_else(|| handle_alloc_error(self.heap()))
    }

    /// # Safety
    /// `allocate` of the same size gave it, and it is nobody's any more.
    unsafe fn free(self, chunk: NonNull<u8>) {
        // SAFETY: the caller's.
        unsafe { dealloc(chunk.as_ptr(), self.heap()) };
    }
}

impl Arena {
    pub(crate) const fn new() -> Arena {
        Arena([const { List::new() }; SIZES.len()])
    }

    /// Memory of the size given, to be given back by [`Arena::give`].
    #[inline]
    pub(super) fn take(&self, of: Size) -> NonNull<u8> {
        match self.0.get(of.class) {
            Some(list) => list.pop().unwrap_or_else(|| of.allocate()),
            None => {
                HEAP.fetch_add(1, Ordering::Relaxed);
                of.allocate()
            }
        }
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// It came from [`Arena::take`], for the same size, and is nobody's any more.
    #[inline]
    pub(super) unsafe fn give(&self, chunk: NonNull<u8>, of: Size) {
        // SAFETY: the caller's.
        unsafe {
            match self.0.get(of.class) {
                Some(list) if list.len.get() < KEPT[of.class] => list.push(chunk),
                _ => of.free(chunk),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: usize, align: usize) -> Size {
        Size::new(Layout::from_size_align(bytes, align).unwrap())
    }

    #[test]
    fn chunks_come_back() {
        let (arena, small) = (Arena::new(), size(200, 8));
        let first = arena.take(small);
        // SAFETY: just taken.
        unsafe { arena.give(first, small) };
        assert_eq!(arena.take(small), first, "the one used last");
        // SAFETY: as above.
        unsafe { arena.give(first, small) };
    }

    #[test]
    fn what_is_too_large_is_counted() {
        for of in [size(5000, 8), size(128, 128)] {
            let (arena, before) = (Arena::new(), heap_futures());
            let memory = arena.take(of);
            assert!(heap_futures() > before);
            // SAFETY: just taken.
            unsafe { arena.give(memory, of) };
        }
    }

    #[test]
    fn a_processor_keeps_a_limited_number() {
        let (arena, of) = (Arena::new(), size(4096, 64));
        let all: Vec<_> = (0..KEPT[3] + 10).map(|_| arena.take(of)).collect();
        for chunk in all {
            // SAFETY: just taken.
            unsafe { arena.give(chunk, of) };
        }
        assert_eq!(arena.0[3].len.get(), KEPT[3]);
    }
}
