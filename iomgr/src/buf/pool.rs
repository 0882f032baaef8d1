//! A processor's pool of receive buffers, and the lease on one of them.
//!
//! An idle connection should hold no buffer: a pooled receive takes one only when data is there.
//! The hardware picks a buffer (io_uring from a provided-buffer ring, epoll by hand), the reader
//! gets a [`Lease`], and dropping the lease, on whatever thread, sends the buffer home.
//!
//! **Invariant.** A buffer id is in exactly one of three places: with the hardware, in one live
//! `Lease`, or on the returned list. Ids travel hardware → lease in [`BufferPool::lease`] (owner
//! thread), lease → list in `Lease::drop` (any thread), list → hardware in
//! [`BufferPool::pop_returned`] (owner thread). Pool and leases share the memory by `Arc`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::IoBuf;

/// End of the returned list.
const NIL: u32 = u32::MAX;

/// Bytes between two buffers. Without them the beginnings of large buffers, which is all that small
/// messages touch, would share a few sets of the cache.
const GAP: usize = 64;

/// A cache line: where the first buffer begins.
const LINE: usize = 64;

/// What pool and leases share.
struct Shared {
    /// As it was allocated, with `layout`.
    allocated: NonNull<u8>,
    layout: Layout,
    /// The first buffer, inside of it.
    memory: NonNull<u8>,
    size: u32,
    /// Head of the list of returned ids; `next[id]` links it. Pushed from anywhere, taken whole by
    /// the owner, so there is no ABA.
    returned: AtomicU32,
    next: Box<[AtomicU32]>,
}

// SAFETY: `memory` is plain bytes, each touched only by the holder of its id (module invariant).
unsafe impl Send for Shared {}
// SAFETY: as above; the list is made of atomics.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated in `BufferPool::new` with this layout; the last `Arc` is gone, so no
        // lease points into it, and the hardware gave its ids up before the pool was dropped.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) };
    }
}

/// Buffers of one size, owned by one processor. Each is with the hardware, in one [`Lease`], or on its
/// way home.
pub struct BufferPool {
    shared: Arc<Shared>,
    /// Head of the list taken from `returned` and not handed out yet.
    home: u32,
}

impl BufferPool {
    /// Allocates `count` buffers of `size` bytes, zeroed. What is never filled costs address space
    /// only. `None` when there is no memory.
    ///
    /// # Panics
    /// When `count` or `size` is zero or their product overflows.
    pub fn new(count: u16, size: u32) -> Option<BufferPool> {
        assert!(count > 0 && size > 0, "a pool needs buffers");
        let stride = (size as usize).checked_add(GAP).expect("pool size overflows");
        let bytes = usize::from(count).checked_mul(stride).expect("pool size overflows");
        // Aligned by hand: of an allocator that is asked for more than its natural alignment, Rust's
        // `alloc_zeroed` takes plain memory and clears it, which touches every page.
        let room = bytes.checked_add(LINE).expect("pool size overflows");
        let layout = Layout::from_size_align(room, 16).expect("pool size overflows");
        // SAFETY: the layout has a size that is not zero (both factors were checked above).
        let allocated = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skipped = allocated.as_ptr().align_offset(LINE).min(LINE);
        // SAFETY: at most `LINE`, which `room` has beyond the buffers.
        let memory = unsafe { allocated.add(skipped) };
        let next = (0..count).map(|_| AtomicU32::new(NIL)).collect();
        let returned = AtomicU32::new(NIL);
        let shared = Arc::new(Shared { allocated, layout, memory, size, returned, next });
        Some(BufferPool { shared, home: NIL })
    }

    /// Number of buffers.
    pub fn count(&self) -> u16 {
        self.shared.next.len() as u16
    }

    /// Bytes in each buffer.
    pub fn size(&self) -> u32 {
        self.shared.size
    }

    /// First byte of buffer `id`, for handing the buffer to the hardware.
    ///
    /// # Panics
    /// When there is no such buffer.
    pub fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count(), "no such buffer");
        // SAFETY: id < count, so the offset is inside the one allocation.
        unsafe { self.shared.memory.as_ptr().add(usize::from(id) * (self.size() as usize + GAP)) }
    }

    /// Makes the lease on buffer `id`, of which the first `len` bytes hold data.
    ///
    /// # Safety
    /// The hardware has just given `id` up: it is in no lease, not on the returned list, and the
    /// hardware will not write to it until [`BufferPool::pop_returned`] names it again.
    ///
    /// # Panics
    /// When `len` exceeds a buffer.
    pub unsafe fn lease(&mut self, id: u16, len: u32) -> Lease {
        assert!(len <= self.size());
        let start = NonNull::new(self.address(id)).expect("inside an allocation");
        Lease { start, offset: 0, len, home: Home::Pool(self.shared.clone(), id) }
    }

    /// The next buffer that has come home, for the hardware to use again.
    pub fn pop_returned(&mut self) -> Option<u16> {
        if self.home == NIL {
            if self.shared.returned.load(Ordering::Relaxed) == NIL {
                return None;
            }
            // Acquire pairs with the Release push in `Lease::drop`: the last reader's accesses to
            // the buffer happen before the hardware writes it again.
            self.home = self.shared.returned.swap(NIL, Ordering::Acquire);
        }
        let id = self.home;
        self.home = self.shared.next[id as usize].load(Ordering::Relaxed);
        Some(id as u16)
    }
}

enum Home {
    Pool(Arc<Shared>, u16),
    /// A private buffer, for when the pool was empty.
    Heap(usize),
}

/// Received bytes in a buffer that goes home when this is dropped. Derefs to the bytes.
///
/// A lease is an owned buffer like any other: it can be sent with a write, kept, or passed to
/// another thread. Keeping many starves the pool, which then falls back to private buffers.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::buf::Lease;
/// let lease = Lease::from(b"hello".to_vec());
/// assert_eq!(&lease[..], b"hello");
/// ```
pub struct Lease {
    start: NonNull<u8>,
    offset: u32,
    len: u32,
    home: Home,
}

// SAFETY: a lease is the only owner of its buffer (module invariant); the list it returns to is
// made of atomics.
unsafe impl Send for Lease {}
// SAFETY: shared access only reads bytes.
unsafe impl Sync for Lease {}

impl Lease {
    /// Forgets the first `n` bytes.
    ///
    /// # Panics
    /// When the lease holds fewer.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len as usize, "advance past the end of a lease");
        self.offset += n as u32;
        self.len -= n as u32;
    }

    /// Keeps the first `n` bytes at most.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(u32::try_from(n).unwrap_or(u32::MAX));
    }
}

impl From<Vec<u8>> for Lease {
    /// A private buffer as a lease.
    ///
    /// # Panics
    /// When the buffer is larger than 4 GiB.
    fn from(vec: Vec<u8>) -> Lease {
        let mut vec = ManuallyDrop::new(vec);
        let (len, capacity) = (vec.len(), vec.capacity());
        let start = NonNull::new(vec.as_mut_ptr()).expect("a Vec's pointer is never null");
        let narrow = |n| u32::try_from(n).expect("a lease is at most 4 GiB");
        Lease { start, offset: 0, len: narrow(len), home: Home::Heap(capacity) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &self.home {
            Home::Heap(capacity) => {
                // SAFETY: these are the parts of the `Vec` taken apart in `from`; length 0 is
                // always initialised.
                drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), 0, *capacity) });
            }
            Home::Pool(shared, id) => {
                let mut head = shared.returned.load(Ordering::Relaxed);
                loop {
                    shared.next[usize::from(*id)].store(head, Ordering::Relaxed);
                    match shared.returned.compare_exchange_weak(
                        head,
                        u32::from(*id),
                        Ordering::Release,
                        Ordering::Relaxed,
                    ) {
                        Ok(_) => break,
                        Err(now) => head = now,
                    }
                }
            }
        }
    }
}

impl Deref for Lease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: offset + len <= capacity, all of it initialised (zeroed or received), and the
        // lease is the buffer's only owner.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().add(self.offset as usize),
                self.len as usize,
            )
        }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.as_ptr().add(self.offset as usize),
                self.len as usize,
            )
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len).finish_non_exhaustive()
    }
}

// SAFETY: the bytes live on the heap and do not move with the handle; `len` of them are
// initialised (see `deref`).
unsafe impl IoBuf for Lease {
    fn as_ptr(&self) -> *const u8 {
        self.deref().as_ptr()
    }
    fn len(&self) -> usize {
        self.len as usize
    }
}
