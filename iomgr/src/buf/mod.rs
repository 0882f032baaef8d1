//! Owned buffers: what a request may read from or write into while the kernel holds it.
//!
//! Between issue and final completion the buffer belongs to the request, because the kernel may read or
//! write it, so no future borrows one: a buffer is moved in, and comes back with the result, also with
//! a failed one ([`BufResult`]).
//!
//! - [`IoBuf`], [`IoBufMut`]: the contract. `Vec<u8>`, `Box<[u8]>` and `BytesMut` can be read into and
//!   written from; `&'static str`, `String`, `Bytes`, `Arc<[u8]>` and their like written from.
//! - [`Slice`]: a part of a buffer, as a buffer. [`AlignedBuf`]: memory fit for `O_DIRECT`.
//! - [`Lease`]: a buffer of the processor's own pool, which goes home when dropped.
//! - [`Payload`]: how the IRP keeps a buffer of any type in itself, without a box.
//!
//! # Where a read puts its bytes
//!
//! At the **start** of the buffer, up to [`IoBufMut::capacity`], never behind what it holds already:
//! as `read(2)` into an array does, and so that a buffer can be used again and again as it is. After
//! `n` bytes have arrived:
//!
//! | buffer | room for a read | `len()` afterwards |
//! |---|---|---|
//! | growable: `Vec<u8>`, `BytesMut` | capacity | `n`: the buffer *is* what was read |
//! | fixed: `Box<[u8]>`, `Box<[u8; N]>`, [`AlignedBuf`] | its length | unchanged; the rest keeps its bytes |
//! | [`Slice`] of either | its range | the range's part that is initialised; the rest keeps its bytes |
//!
//! A buffer without room is read into with 0 bytes, which looks like the end: `Vec::new()`, for one, and
//! all but the last of `vec![Vec::with_capacity(n); m]`, whose clones have no capacity.
//!
//! To append, read into a slice: `buf.slice_mut(len..)`. A failed read changes nothing that safe
//! code may rely on: `len()` stays, the bytes within capacity may be anything.

mod aligned;
mod erased;
mod error;
mod impls;
mod pool;
mod slice;
mod vectored;

use std::ops::RangeBounds;

pub use aligned::AlignedBuf;
pub use erased::Payload;
pub use error::{BufError, BufResult};
pub use pool::{BufferPool, Lease};
pub use slice::Slice;
pub use vectored::Vectored;

/// A buffer that a write can take its bytes from.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::buf::IoBuf;
/// fn bytes_to_send(buf: &impl IoBuf) -> usize {
///     buf.len()
/// }
/// assert_eq!(bytes_to_send(&"hello"), 5);
/// assert_eq!(bytes_to_send(&vec![0; 3]), 3);
/// ```
///
/// # Safety
///
/// The kernel reads the memory behind the compiler's back, while the handle (the value of this
/// type) is moved into the IRP, and from there perhaps to other threads. So, at all times:
///
/// 1. [`as_ptr`](IoBuf::as_ptr) is not null and points to [`len`](IoBuf::len) bytes, all
///    initialised and valid for reads.
/// 2. Pointer and length stay the same, and the memory stays valid, until the handle is dropped or
///    used through `&mut` (other than by [`IoBufMut::as_mut_ptr`]); in particular **while the
///    handle itself is moved**. So bytes inside the handle do not qualify: `[u8; N]` cannot
///    implement this, `Box<[u8; N]>` can.
/// 3. Nobody writes these bytes meanwhile. Shared ownership is fine (`Arc<[u8]>`), interior
///    mutability is not.
///
/// The address is stable, a *pointer* may not be: moving a `Box` ends the validity of pointers taken
/// before, as far as Rust's aliasing rules go. Take the pointer when the handle has reached the
/// place where it stays.
pub unsafe trait IoBuf: Send + 'static {
    /// The first byte.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// let buf = vec![1u8];
    /// let address = IoBuf::as_ptr(&buf);
    /// let moved = buf;
    /// assert_eq!(IoBuf::as_ptr(&moved), address);
    /// ```
    fn as_ptr(&self) -> *const u8;

    /// Number of initialised bytes.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert_eq!(IoBuf::len(&Vec::with_capacity(9)), 0);
    /// ```
    fn len(&self) -> usize;

    /// Whether there are no initialised bytes.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// assert!(IoBuf::is_empty(&""));
    /// ```
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part `range` of the initialised bytes as a buffer of its own, which gives the whole back
    /// with [`Slice::into_inner`]. For room that is not initialised yet, [`IoBufMut::slice_mut`].
    ///
    /// With this trait in scope, `bytes.slice(range)` on a `bytes::Bytes` means this method, for it
    /// takes `self`; the type's own is `Bytes::slice(&bytes, range)`.
    ///
    /// # Panics
    /// When the range is reversed or ends after [`len`](IoBuf::len).
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBuf;
    /// let part = "hello world".slice(6..);
    /// assert_eq!(&part[..], b"world");
    /// assert_eq!(part.into_inner(), "hello world");
    /// ```
    #[track_caller]
    fn slice(self, range: impl RangeBounds<usize>) -> Slice<Self>
    where
        Self: Sized,
    {
        let limit = self.len();
        Slice::new(self, range, limit)
    }
}

/// A buffer that a read can fill. Where the bytes go: [module documentation](self).
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::buf::IoBufMut;
/// fn room(buf: &impl IoBufMut) -> usize {
///     buf.capacity()
/// }
/// assert_eq!(room(&vec![0; 16].into_boxed_slice()), 16);
/// assert!(room(&Vec::with_capacity(100)) >= 100);
/// ```
///
/// # Safety
///
/// Besides the contract of [`IoBuf`], at all times:
///
/// 1. [`as_mut_ptr`](IoBufMut::as_mut_ptr) gives the address that [`IoBuf::as_ptr`] gives, and the
///    [`capacity`](IoBufMut::capacity) bytes from there, at least [`IoBuf::len`], are valid for
///    writes and owned by this handle alone. They stay so under the same conditions.
/// 2. [`set_len`](IoBufMut::set_len) moves nothing and does not change the capacity.
pub unsafe trait IoBufMut: IoBuf {
    /// The first byte, for writing.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::{IoBuf, IoBufMut};
    /// let mut buf = Box::new([0u8; 4]);
    /// assert_eq!(IoBufMut::as_mut_ptr(&mut buf).cast_const(), IoBuf::as_ptr(&buf));
    /// ```
    fn as_mut_ptr(&mut self) -> *mut u8;

    /// How many bytes a read may put here, initialised or not.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::IoBufMut;
    /// assert_eq!(IoBufMut::capacity(&Box::new([0u8; 4])), 4);
    /// ```
    fn capacity(&self) -> usize;

    /// Tells the buffer that a read has put `n` bytes at its start.
    ///
    /// A growable buffer's length becomes `n`, be it more or less than before; a fixed one's does
    /// not change; a [`Slice`] makes the buffer below longer where needed, never shorter.
    ///
    /// # Safety
    /// `n` is at most [`capacity`](IoBufMut::capacity), and the first `n` bytes are initialised.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::{IoBuf, IoBufMut};
    /// let mut vec = vec![7u8; 8];
    /// let mut boxed = Box::new([7u8; 8]);
    /// // SAFETY: 3 bytes (indeed 8) are initialised in both.
    /// unsafe {
    ///     IoBufMut::set_len(&mut vec, 3);
    ///     IoBufMut::set_len(&mut boxed, 3);
    /// }
    /// assert_eq!((vec.len(), IoBuf::len(&boxed)), (3, 8));
    /// ```
    unsafe fn set_len(&mut self, n: usize);

    /// The part `range` of the buffer's *capacity*, for a read to fill. It must start within, or
    /// right after, the initialised bytes, so that none stay uninitialised in between.
    ///
    /// # Panics
    /// When the range is reversed, starts after [`IoBuf::len`] or ends after
    /// [`capacity`](IoBufMut::capacity).
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::buf::{IoBuf, IoBufMut};
    /// let mut line = Vec::with_capacity(64);
    /// line.extend_from_slice(b"GET ");
    /// let rest = line.slice_mut(4..64); // a read into this appends
    /// assert_eq!((rest.len(), rest.capacity()), (0, 60));
    /// assert_eq!(rest.into_inner(), b"GET ");
    /// ```
    #[track_caller]
    fn slice_mut(self, range: impl RangeBounds<usize>) -> Slice<Self>
    where
        Self: Sized,
    {
        let limit = self.capacity();
        Slice::new(self, range, limit)
    }
}
