//! [`AlignedBuf`]: memory with an alignment, for `O_DIRECT` (B-7).

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use super::{IoBuf, IoBufMut};
use crate::status::Status;

/// A zeroed heap buffer of fixed length whose address is a multiple of `align`. Derefs to its bytes.
///
/// Files opened with `O_DIRECT` (NT: no intermediate buffering) want buffer address, length and file
/// offset to be multiples of the device's block size, mostly 512 or 4096 (B-7).
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::buf::AlignedBuf;
/// let mut block = AlignedBuf::new(8192, 4096);
/// assert!(block.as_ptr().addr().is_multiple_of(4096));
/// block[..5].copy_from_slice(b"hello");
/// assert_eq!(block.len(), 8192);
/// ```
///
/// **Invariant.** `start` is the start of an allocation of `layout`, all of it initialised; or, with
/// size 0, just an aligned address.
pub struct AlignedBuf {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owns its memory like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zero bytes at a multiple of `align`.
    ///
    /// # Panics
    /// When `align` is not a power of two, or there is no memory; see [`AlignedBuf::try_new`].
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::AlignedBuf;
    /// assert_eq!(&AlignedBuf::new(4, 512)[..], [0; 4]);
    /// ```
    #[track_caller]
    pub fn new(len: usize, align: usize) -> AlignedBuf {
        match AlignedBuf::try_new(len, align) {
            Ok(buf) => buf,
            Err(error) => panic!("no buffer of {len} bytes aligned to {align}: {error}"),
        }
    }

    /// As [`AlignedBuf::new`], for who can do without.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when `align` is not a power of two or the length too large for
    /// any buffer; [`Status::INSUFFICIENT_RESOURCES`] when there is no memory.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::AlignedBuf};
    /// let error = AlignedBuf::try_new(4096, 1000).unwrap_err();
    /// assert_eq!(Status::from(error), Status::INVALID_PARAMETER);
    /// ```
    pub fn try_new(len: usize, align: usize) -> io::Result<AlignedBuf> {
        let layout = Layout::from_size_align(len, align).map_err(|_| Status::INVALID_PARAMETER)?;
        let start = if len == 0 {
            ptr::without_provenance_mut(align)
        } else {
            // SAFETY: the size is not zero.
            unsafe { alloc_zeroed(layout) }
        };
        let start = NonNull::new(start).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        Ok(AlignedBuf { start, layout })
    }

    /// The alignment asked for.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::AlignedBuf;
    /// assert_eq!(AlignedBuf::new(0, 512).align(), 512);
    /// ```
    pub fn align(&self) -> usize {
        self.layout.align()
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.layout.size() != 0 {
            // SAFETY: allocated with this layout (invariant), and nothing uses it any more.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised memory of this size (invariant), borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes aligned to {})", self.layout.size(), self.align())
    }
}

// SAFETY: the bytes are on the heap, initialised (invariant), and change only through `&mut`.
unsafe impl IoBuf for AlignedBuf {
    #[inline]
    fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    #[inline]
    fn len(&self) -> usize {
        self.layout.size()
    }
}

// SAFETY: the allocation is this buffer's own; its length never changes.
unsafe impl IoBufMut for AlignedBuf {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.layout.size()
    }

    #[inline]
    unsafe fn set_len(&mut self, _n: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_its_alignment_and_is_zeroed() {
        for align in [1, 8, 512, 4096, 1 << 16] {
            for len in [0, 1, 4096, 5000] {
                let mut buf = AlignedBuf::new(len, align);
                assert!(IoBuf::as_ptr(&buf).addr().is_multiple_of(align));
                assert!(buf.iter().all(|&byte| byte == 0));
                buf.fill(7);
                assert_eq!((buf.len(), buf.align()), (len, align));
            }
        }
    }

    #[test]
    fn failure_is_an_error() {
        let status = |len, align| Status::from(AlignedBuf::try_new(len, align).unwrap_err());
        assert_eq!(status(1, 0), Status::INVALID_PARAMETER);
        assert_eq!(status(1, 3), Status::INVALID_PARAMETER);
        assert_eq!(status(usize::MAX, 8), Status::INVALID_PARAMETER);
        // More than the address space of any machine.
        if cfg!(not(miri)) {
            assert_eq!(status(1 << 62, 4096), Status::INSUFFICIENT_RESOURCES);
        }
    }

    #[test]
    #[should_panic(expected = "aligned to 3")]
    fn new_panics() {
        AlignedBuf::new(1, 3);
    }
}
