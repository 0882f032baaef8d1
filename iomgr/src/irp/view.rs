//! What every holder of an IRP may read: parameters, data, file, cancel mark.

use std::slice;

use super::slot::{Phase, Slot, SlotPtr, WRITE_THROUGH, flags};
use crate::companion::Companion;
use crate::file::FileObject;
use crate::major::{Major, minor};

/// A driver's reading access to its request: the parameters of its own location.
///
/// Got by dereferencing [`crate::Irp`], [`crate::Unwinding`] or [`crate::Held`].
#[repr(transparent)]
pub struct View(SlotPtr);

impl View {
    pub(crate) fn of(slot: &SlotPtr) -> &View {
        // SAFETY: `View` is a transparent wrapper of `SlotPtr`. Whoever calls this holds a token,
        // which keeps the slot alive and is its only driver-side owner for the reference's life.
        unsafe { &*std::ptr::from_ref(slot).cast::<View>() }
    }

    /// The slot, whose fields the holder of the token may read (see `of`); not the whole, because
    /// the requester may be writing its waker.
    fn slot(&self) -> *const Slot {
        self.0.0.as_ptr()
    }

    fn location(&self) -> &super::slot::Location {
        // SAFETY: see `of`; the current location is initialised.
        unsafe { &*self.0.current() }
    }

    /// The operation.
    pub fn major(&self) -> Major {
        // SAFETY: as `slot` says.
        unsafe { (*self.slot()).major }
    }

    /// The operation's variant; see [`crate::minor`].
    pub fn minor(&self) -> u8 {
        self.location().minor
    }

    /// The open file the request is for.
    pub fn file(&self) -> &FileObject {
        // SAFETY: as `slot` says; the request counts on the file until its final completion.
        unsafe { (*self.slot()).file.expect("an IRP in flight has a file object").as_ref() }
    }

    /// Byte offset in the file; `u64::MAX` means the current position.
    pub fn offset(&self) -> u64 {
        self.location().offset
    }

    /// Bytes of data asked for.
    pub fn len(&self) -> usize {
        if self.minor() == minor::VECTORED {
            return self.raw_segments().map(|s| s.len).sum();
        }
        self.location().len as usize
    }

    /// Whether no data was asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The major's own parameter: `how` of a shutdown, the control code of a device control, ….
    pub fn arg(&self) -> u64 {
        self.location().arg
    }

    /// Whether it is a write that is to be on the medium when it completes
    /// ([`Setup::write_through`](crate::Setup::write_through)). A filter that forwards it, as it is or with
    /// other data, or that makes writes below for it ([`Next::request`](crate::filter::Next::request)), has
    /// nothing to see to; one that completes it without the drivers below says in its
    /// [limits](crate::Driver::limits) that it cannot do this.
    pub fn is_write_through(&self) -> bool {
        self.major() == Major::Write && self.arg() & WRITE_THROUGH != 0
    }

    /// Whether the requester asked for the request to end early.
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: as `slot` says.
        unsafe { (*self.slot()).flags.has(flags::CANCEL) }
    }

    /// First byte and number of bytes (or of segments, for vectored requests), for bottom drivers
    /// that build an [`crate::hal::Op`].
    pub fn raw_data(&self) -> (*mut u8, u32) {
        (self.location().data, self.location().len)
    }

    /// The data of a write, segment by segment. Empty for operations that receive.
    pub fn segments(&self) -> Segments<'_> {
        if self.major().sends() || self.major() == Major::DeviceControl {
            Segments(self.raw_segments())
        } else {
            Segments(RawSegments { first: None, rest: [].iter() })
        }
    }

    fn raw_segments(&self) -> RawSegments<'_> {
        let location = self.location();
        if location.data.is_null() {
            RawSegments { first: None, rest: [].iter() }
        } else if location.minor == minor::VECTORED {
            // SAFETY: vectored requests keep `len` iovec-shaped elements at `data`, owned by the
            // payload (kept by `Vectored`).
            let array = unsafe {
                slice::from_raw_parts(location.data.cast::<RawSegment>(), location.len as usize)
            };
            RawSegments { first: None, rest: array.iter() }
        } else {
            let first = RawSegment { base: location.data, len: location.len as usize };
            RawSegments { first: Some(first), rest: [].iter() }
        }
    }

    /// The data's memory, piece by piece: first byte and bytes.
    pub(crate) fn memory(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        self.raw_segments().map(|s| (s.base, s.len))
    }

    /// The first `limit` bytes of the data, writable.
    ///
    /// # Safety
    /// The caller holds the request's only token, mutably for as long as the slices live if it
    /// writes; the first `limit` bytes are initialised.
    pub(crate) unsafe fn segments_mut(&self, limit: usize) -> impl Iterator<Item = &mut [u8]> {
        let mut left = limit;
        self.raw_segments().filter_map(move |s| {
            let n = s.len.min(left);
            left -= n;
            // SAFETY: the memory belongs to the request; segments do not overlap; the rest is the
            // caller's promise.
            (n > 0).then(|| unsafe { slice::from_raw_parts_mut(s.base, n) })
        })
    }

    /// See [`crate::Irp::copy_in`].
    ///
    /// # Safety
    /// The caller holds the request's only token, mutably.
    pub(crate) unsafe fn copy_in(&self, mut skip: usize, mut bytes: &[u8]) -> usize {
        if !self.major().receives() {
            return 0;
        }
        let (begin, mut copied) = (skip, 0);
        for s in self.raw_segments() {
            if skip >= s.len {
                skip -= s.len;
                continue;
            }
            let n = (s.len - skip).min(bytes.len());
            // SAFETY: inside the segment, which the request owns and the hardware does not have
            // (a token exists).
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), s.base.add(skip), n) };
            bytes = &bytes[n..];
            copied += n;
            skip = 0;
        }
        // SAFETY: a token exists; what lies before `begin` counts only if it was filled before.
        unsafe {
            if begin <= (*self.slot()).filled as usize {
                self.0.note_filled(begin + copied);
            }
        }
        copied
    }

    /// What the request carries besides data, if it is of this type: the parameters of operations
    /// that have more of them than a location holds (paths, for instance). `None` for a request
    /// whose payload is the caller's buffer.
    pub fn payload<T: 'static>(&self) -> Option<&T> {
        // SAFETY: as `slot` says; the top location is initialised, and the payload nobody else's as
        // long as there is a token.
        unsafe {
            let is_data = !(*self.0.location(0)).data.is_null();
            if is_data { None } else { (*self.slot()).payload.get_ref::<T>() }
        }
    }

    /// Whether anything accompanies the request's data.
    #[inline]
    pub fn has_companion(&self) -> bool {
        // SAFETY: as `slot` says.
        unsafe { (*self.slot()).flags.has(flags::ACCOMPANIED) }
    }

    /// What accompanies the request's data, if it is of this type.
    pub fn companion<T: Companion>(&self) -> Option<&T> {
        // SAFETY: as `of` says; borrowed as long as the token.
        unsafe { self.0.companion() }
    }

    /// What this driver keeps for the file: made, as the default, when it is first asked for on a file,
    /// dropped when the file is closed or the driver is detached from it. One value for each driver and
    /// file; the same whatever the processor.
    ///
    /// # Panics
    /// When the driver has asked for another type before.
    pub fn open_state<T: Default + Send + Sync + 'static>(&self) -> &T {
        let file = self.file();
        // SAFETY: see `slot`; nobody changes it while a token is there.
        if unsafe { (*self.slot()).phase } == Phase::Final {
            // The bottom's, which is told of a late result on whichever thread that is found: the stack that
            // the request has, and its place there, may be changed meanwhile by its owner. No file changes
            // its bottom.
            return file.open_state(file.stack().bottom());
        }
        // SAFETY: see `of`: the request is in flight, so that its stack has the device.
        file.open_state(unsafe { self.0.device() })
    }

    /// The value kept in this driver's location by [`crate::Irp::set_scratch`].
    pub fn scratch<T: 'static>(&self) -> Option<&T> {
        self.location().scratch.get_ref::<T>()
    }

    /// The buffer this driver lent to those below ([`crate::NextLocation::lend`]).
    pub fn lent<B: 'static>(&self) -> Option<&B> {
        self.scratch::<B>()
    }
}

/// One element of a vectored request, laid out as `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawSegment {
    pub base: *mut u8,
    pub len: usize,
}

/// The memory of a request's data, piece by piece.
struct RawSegments<'a> {
    first: Option<RawSegment>,
    rest: slice::Iter<'a, RawSegment>,
}

impl Iterator for RawSegments<'_> {
    type Item = RawSegment;
    fn next(&mut self) -> Option<RawSegment> {
        self.first.take().or_else(|| self.rest.next().copied())
    }
}

/// The segments of a write's data. See [`View::segments`].
pub struct Segments<'a>(RawSegments<'a>);

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        // SAFETY: a write's memory is initialised (the contract of `IoBuf`) and belongs to the
        // request, whose token the lifetime borrows.
        self.0.next().map(|s| unsafe { slice::from_raw_parts(s.base, s.len) })
    }
}
