//! Page-aligned buffers, as direct I/O and rings of buffers want them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of all buffers: a page, which is more than any block device asks for.
pub const ALIGNMENT: usize = 4096;

/// Zeroed, page-aligned, owned memory.
pub struct Buffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owns its memory alone, like a box.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of that many bytes.
    ///
    /// # Panics
    /// When the length is 0 or cannot be.
    pub fn new(len: usize) -> Buffer {
        assert!(len > 0, "a buffer holds something");
        let layout = Layout::from_size_align(len, ALIGNMENT).expect("a length that can be");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Buffer { start, layout }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with this size, and initialised with zeros.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
