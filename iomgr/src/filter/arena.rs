//! Memory for the futures of filters: chunks of a few sizes, kept by each thread.
//!
//! A call takes its chunk when it begins and gives it back when its request has unwound past it,
//! nearly always on the same thread, so in steady state nothing is allocated. Larger futures than
//! the largest chunk come from the heap, each time; [`heap_futures`] counts them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the chunks.
const SIZES: [usize; 4] = [256, 512, 1024, 4096];
/// Chunks are aligned to a cache line.
const ALIGN: usize = 64;
/// Bytes of each size that a thread keeps.
const KEPT: usize = 256 << 10;

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

/// A free chunk: its first word is the next one.
struct Free(*mut Free);

/// Of one size.
struct List {
    first: Cell<*mut Free>,
    len: Cell<usize>,
}

struct Lists([List; SIZES.len()]);

impl Drop for Lists {
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

thread_local! {
    static LISTS: Lists = const { Lists([const { List::new() }; SIZES.len()]) };
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("a power of two")
}

/// The size that is right for a layout; none of them: the heap.
const fn size_class(of: Layout) -> usize {
    let mut class = 0;
    while class < SIZES.len() && (SIZES[class] < of.size() || ALIGN < of.align()) {
        class += 1;
    }
    class
}

fn allocate(of: Layout) -> NonNull<u8> {
    // SAFETY: no layout here has size 0: a call's header is in it.
    NonNull::new(unsafe { alloc(of) }).unwrap_or_else(|| handle_alloc_error(of))
}

/// Memory of the layout given, to be given back by [`give`]. It is not of size 0.
#[inline]
pub(super) fn take(of: Layout) -> NonNull<u8> {
    let class = size_class(of);
    if class == SIZES.len() {
        HEAP.fetch_add(1, Ordering::Relaxed);
        return allocate(of);
    }
    let kept = LISTS.try_with(|lists| lists.0[class].pop()).ok().flatten();
    kept.unwrap_or_else(|| allocate(layout(SIZES[class])))
}

/// Gives memory back.
///
/// # Safety
/// It came from [`take`] with the same layout, and is nobody's any more.
#[inline]
pub(super) unsafe fn give(chunk: NonNull<u8>, of: Layout) {
    let class = size_class(of);
    // SAFETY: the caller's.
    unsafe {
        if class == SIZES.len() {
            return dealloc(chunk.as_ptr(), of);
        }
        let kept = LISTS.try_with(|lists| {
            let room = lists.0[class].len.get() < KEPT / SIZES[class];
            if room {
                lists.0[class].push(chunk);
            }
            room
        });
        // The thread is ending, or has enough.
        if kept != Ok(true) {
            dealloc(chunk.as_ptr(), layout(SIZES[class]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back() {
        let small = Layout::from_size_align(200, 8).unwrap();
        let first = take(small);
        // SAFETY: just taken.
        unsafe { give(first, small) };
        assert_eq!(take(small), first, "the one used last");
        // SAFETY: as above.
        unsafe { give(first, small) };
    }

    #[test]
    fn what_is_too_large_is_counted() {
        for of in [Layout::from_size_align(5000, 8), Layout::from_size_align(128, 128)] {
            let of = of.unwrap();
            let before = heap_futures();
            let memory = take(of);
            assert!(heap_futures() > before);
            // SAFETY: just taken.
            unsafe { give(memory, of) };
        }
    }

    #[test]
    fn a_thread_keeps_a_limited_number() {
        let of = Layout::from_size_align(4096, 64).unwrap();
        let all: Vec<_> = (0..KEPT / 4096 + 10).map(|_| take(of)).collect();
        for chunk in all {
            // SAFETY: just taken.
            unsafe { give(chunk, of) };
        }
        LISTS.with(|lists| assert_eq!(lists.0[3].len.get(), KEPT / 4096));
    }
}
