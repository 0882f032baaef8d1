//! [`Slice`]: a part of a buffer, as a buffer.

use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};

use super::{IoBuf, IoBufMut};

/// A range of an owned buffer. Made by [`IoBuf::slice`] and [`IoBufMut::slice_mut`]; derefs to the
/// bytes of the range that are initialised.
///
/// A read into it leaves the bytes outside of the range, and those in it after the last one read, as
/// they were ([module documentation](super)).
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::buf::{IoBuf, Slice};
/// let part: Slice<Vec<u8>> = vec![1, 2, 3, 4].slice(1..=2);
/// assert_eq!(&part[..], [2, 3]);
/// assert_eq!((part.begin(), part.end()), (1, 3));
/// assert_eq!(part.into_inner(), [1, 2, 3, 4]);
/// ```
///
/// **Invariant.** `begin <= end`, `begin` is at most the buffer's length, and `end` at most its length
/// or capacity. Checked at construction; then nothing gives out `&mut` to the buffer, and
/// [`IoBufMut::set_len`] here never makes it shorter.
pub struct Slice<B> {
    buf: B,
    begin: usize,
    end: usize,
}

impl<B: IoBuf> Slice<B> {
    /// `limit` is the buffer's length or capacity: where an open range ends.
    #[track_caller]
    pub(super) fn new(buf: B, range: impl RangeBounds<usize>, limit: usize) -> Slice<B> {
        let after = |n: usize| n.checked_add(1).expect("slice bound overflows");
        let begin = match range.start_bound() {
            Bound::Included(&n) => n,
            Bound::Excluded(&n) => after(n),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&n) => after(n),
            Bound::Excluded(&n) => n,
            Bound::Unbounded => limit,
        };
        let len = buf.len();
        assert!(begin <= end, "slice starts at {begin} but ends at {end}");
        assert!(end <= limit, "slice ends at {end}, past the buffer's {limit} bytes");
        assert!(begin <= len, "slice starts at {begin}, past the {len} initialised bytes");
        Slice { buf, begin, end }
    }

    /// Where the range starts in the whole buffer.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert_eq!("hello".slice(1..).begin(), 1);
    /// ```
    pub fn begin(&self) -> usize {
        self.begin
    }

    /// Where it ends.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert_eq!("hello".slice(1..).end(), 5);
    /// ```
    pub fn end(&self) -> usize {
        self.end
    }

    /// The whole buffer, for looking.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert_eq!(*"hello".slice(1..).get_ref(), "hello");
    /// ```
    pub fn get_ref(&self) -> &B {
        &self.buf
    }

    /// The whole buffer back.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert_eq!("hello".slice(1..).into_inner(), "hello");
    /// ```
    pub fn into_inner(self) -> B {
        self.buf
    }
}

// SAFETY: a part of a buffer that keeps the contract, by the type's invariant.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    #[inline]
    fn as_ptr(&self) -> *const u8 {
        // SAFETY: begin <= len of the buffer (invariant), so this stays inside or at its end.
        unsafe { self.buf.as_ptr().add(self.begin) }
    }

    #[inline]
    fn len(&self) -> usize {
        self.buf.len().min(self.end) - self.begin
    }
}

// SAFETY: as above; the buffer below owns its capacity alone, and so this owns its part of it.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: begin <= len <= capacity of the buffer (invariant).
        unsafe { self.buf.as_mut_ptr().add(self.begin) }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.end - self.begin
    }

    #[inline]
    unsafe fn set_len(&mut self, n: usize) {
        let filled = self.begin + n;
        if filled > self.buf.len() {
            // SAFETY: the first `begin` bytes are initialised (invariant), the next n by the
            // caller's promise, and begin + n <= end <= capacity by the same promise.
            unsafe { self.buf.set_len(filled) };
        }
    }
}

impl<B: IoBuf> Deref for Slice<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the contract of `IoBuf`, which this type keeps.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), IoBuf::len(self)) }
    }
}

impl<B> fmt::Debug for Slice<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({}..{})", self.begin, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_every_form() {
        let text = "0123456789";
        assert_eq!(&text.slice(..)[..], b"0123456789");
        assert_eq!(&text.slice(3..)[..], b"3456789");
        assert_eq!(&text.slice(..3)[..], b"012");
        assert_eq!(&text.slice(..=3)[..], b"0123");
        assert_eq!(&text.slice((Bound::Excluded(3), Bound::Included(5)))[..], b"45");
        assert_eq!(&text.slice(10..)[..], b"");
        assert_eq!(&text.slice(2..8).slice(1..3)[..], b"34");
    }

    #[test]
    #[should_panic(expected = "slice ends at 4, past the buffer's 3 bytes")]
    fn past_the_end() {
        "abc".slice(1..4);
    }

    #[test]
    #[should_panic(expected = "slice starts at 2 but ends at 1")]
    fn reversed() {
        let (begin, end) = (2, 1);
        "abc".slice(begin..end);
    }

    #[test]
    #[should_panic(expected = "slice bound overflows")]
    fn overflowing() {
        "abc".slice(..=usize::MAX);
    }

    #[test]
    #[should_panic(expected = "slice starts at 4, past the 3 initialised bytes")]
    fn a_hole_before_the_range() {
        let mut vec = Vec::with_capacity(10);
        vec.extend_from_slice(b"abc");
        vec.slice_mut(4..);
    }

    #[test]
    fn spare_capacity_counts_for_slice_mut_only() {
        let mut vec = Vec::with_capacity(10);
        vec.extend_from_slice(b"abc");
        let part = vec.slice_mut(1..7);
        assert_eq!((&part[..], part.capacity()), (&b"bc"[..], 6));
        let vec = part.into_inner();
        assert_eq!(vec.slice(1..).end(), 3);
    }
}
