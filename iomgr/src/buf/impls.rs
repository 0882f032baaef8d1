//! [`IoBuf`] and [`IoBufMut`] for the types of std and `bytes`.
//!
//! All keep their bytes on the heap or in static memory, so none moves with its handle.

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{IoBuf, IoBufMut};

/// `IoBuf` by the slice that a method of the type gives.
macro_rules! io_buf {
    ($($type:ty { $($generics:tt)* } as $by:ident;)*) => {$(
        // SAFETY: the bytes are a slice the handle owns or shares, outside the handle (module
        // header): initialised, in a place of its own, and changed only through `&mut`.
        unsafe impl<$($generics)*> IoBuf for $type {
            #[inline]
            fn as_ptr(&self) -> *const u8 {
                self.$by().as_ptr()
            }

            #[inline]
            fn len(&self) -> usize {
                self.$by().len()
            }
        }
    )*};
}

io_buf! {
    Vec<u8> {} as deref;
    String {} as as_bytes;
    Box<[u8]> {} as deref;
    Box<[u8; N]> { const N: usize } as as_slice;
    &'static [u8] {} as deref;
    &'static [u8; N] { const N: usize } as as_slice;
    &'static str {} as as_bytes;
    Arc<[u8]> {} as deref;
    Bytes {} as deref;
    BytesMut {} as deref;
}

// SAFETY: a `Vec` owns `capacity` bytes from its pointer; setting the length moves nothing.
unsafe impl IoBufMut for Vec<u8> {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity()
    }

    #[inline]
    unsafe fn set_len(&mut self, n: usize) {
        // SAFETY: the caller's promise is the one `Vec` asks for.
        unsafe { self.set_len(n) }
    }
}

// SAFETY: as for `Vec`; its bytes may be part of a shared allocation, but no other handle's part
// overlaps them.
unsafe impl IoBufMut for BytesMut {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        // The type has no such method, and `as_mut` gives a pointer good for `len` bytes only; the
        // spare capacity of an empty buffer is all of it.
        let len = self.len();
        // SAFETY: 0 bytes are always initialised.
        unsafe { self.set_len(0) };
        let start = self.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: nothing has been written since it had this length.
        unsafe { self.set_len(len) };
        start
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity()
    }

    #[inline]
    unsafe fn set_len(&mut self, n: usize) {
        // SAFETY: the caller's promise is the one `BytesMut` asks for.
        unsafe { self.set_len(n) }
    }
}

// SAFETY: a box owns its bytes; the length never changes.
unsafe impl IoBufMut for Box<[u8]> {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut().as_mut_ptr()
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.as_ref().len()
    }

    #[inline]
    unsafe fn set_len(&mut self, _n: usize) {}
}

// SAFETY: a box owns its bytes; the length never changes.
unsafe impl<const N: usize> IoBufMut for Box<[u8; N]> {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }

    #[inline]
    fn capacity(&self) -> usize {
        N
    }

    #[inline]
    unsafe fn set_len(&mut self, _n: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{AlignedBuf, Lease, Slice};

    /// What a driver does for a read: fills `bytes.len()` bytes and says so.
    fn read<B: IoBufMut>(mut buf: B, bytes: &[u8]) -> B {
        assert!(bytes.len() <= buf.capacity());
        // SAFETY: the capacity is valid for writes and checked; then so many are initialised.
        unsafe {
            buf.as_mut_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            buf.set_len(bytes.len());
        }
        buf
    }

    fn bytes<B: IoBuf>(buf: &B) -> Vec<u8> {
        // SAFETY: the contract of `IoBuf`.
        unsafe { std::slice::from_raw_parts(buf.as_ptr(), buf.len()) }.to_vec()
    }

    fn keeps_its_address<B: IoBuf>(buf: B) -> Vec<u8> {
        let (address, len) = (buf.as_ptr().addr(), buf.len());
        let moved = Box::new(buf);
        assert_eq!((moved.as_ptr().addr(), moved.len()), (address, len));
        assert_eq!(moved.is_empty(), len == 0);
        bytes(&*moved)
    }

    #[test]
    fn every_type_shows_its_bytes_and_keeps_its_address() {
        assert_eq!(keeps_its_address(b"abc".to_vec()), b"abc");
        assert_eq!(keeps_its_address(String::from("abc")), b"abc");
        assert_eq!(keeps_its_address(b"abc".to_vec().into_boxed_slice()), b"abc");
        assert_eq!(keeps_its_address(Box::new(*b"abc")), b"abc");
        assert_eq!(keeps_its_address(&b"abc"[..]), b"abc");
        assert_eq!(keeps_its_address("abc"), b"abc");
        assert_eq!(keeps_its_address(Arc::<[u8]>::from(&b"abc"[..])), b"abc");
        assert_eq!(keeps_its_address(Bytes::from_static(b"abc")), b"abc");
        assert_eq!(keeps_its_address(BytesMut::from(&b"abc"[..])), b"abc");
        assert_eq!(keeps_its_address(Lease::from(b"abc".to_vec())), b"abc");
        assert_eq!(keeps_its_address(AlignedBuf::new(3, 512)), [0; 3]);
        assert_eq!(keeps_its_address("xabcx".slice(1..4)), b"abc");
        assert_eq!(keeps_its_address(Vec::new()), b"");
        assert_eq!(keeps_its_address(Box::new([0u8; 0])), b"");
    }

    #[test]
    fn a_growable_buffer_becomes_what_was_read() {
        assert_eq!(read(Vec::with_capacity(8), b"abc"), b"abc");
        assert_eq!(read(b"longer".to_vec(), b"abc"), b"abc");
        assert_eq!(read(b"longer".to_vec(), b""), b"");
        assert_eq!(read(BytesMut::with_capacity(8), b"abc"), &b"abc"[..]);
        let mut second_half = BytesMut::from(&b"firstsecond"[..]);
        let first_half = second_half.split_to(5);
        assert_eq!(read(second_half, b"SEC"), &b"SEC"[..]);
        assert_eq!(first_half, &b"first"[..]);
    }

    #[test]
    fn a_fixed_buffer_keeps_its_length() {
        assert_eq!(&*read(b"longer".to_vec().into_boxed_slice(), b"abc"), b"abcger");
        assert_eq!(&*read(Box::new(*b"longer"), b"abc"), b"abcger");
        assert_eq!(&*read(AlignedBuf::new(5, 64), b"abc"), b"abc\0\0");
    }

    #[test]
    fn a_slice_keeps_the_rest() {
        let whole = read(b"0123456789".to_vec().slice(2..6), b"ab").into_inner();
        assert_eq!(whole, b"01ab456789");
        let boxed = read(Box::new(*b"0123456789").slice(8..), b"ab").into_inner();
        assert_eq!(&*boxed, b"01234567ab");
    }

    #[test]
    fn a_slice_of_spare_capacity_appends() {
        let mut vec = Vec::with_capacity(10);
        vec.extend_from_slice(b"0123");
        let part = read(vec.slice_mut(4..8), b"ab");
        assert_eq!(&part[..], b"ab");
        let vec = read(part.into_inner().slice_mut(2..), b"xyzxyz").into_inner();
        assert_eq!(vec, b"01xyzxyz");
        let nested: Slice<Slice<Vec<u8>>> = vec.slice_mut(4..9).slice_mut(4..);
        assert_eq!((nested.len(), nested.capacity()), (0, 1));
        assert_eq!(read(nested, b"!").into_inner().into_inner(), b"01xyzxyz!");
    }
}
