//! A request in the hands of a filter's future.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use super::alarm::{Access, Alarm};
use super::call::Call;
use crate::buf::{IoBuf, IoBufMut, Lease};
use crate::companion::Companion;
use crate::irp::View;
use crate::irp::slot::flags;
use crate::major::minor;
use crate::processor::Settle;
use crate::status::Status;

/// The request that a filter's function is called with: its parameters and, by the methods of
/// [`View`], to which this derefs, a write's data.
///
/// While it is with the drivers below it is theirs: looking at it then panics. That can happen only
/// after a [`Forward`](super::Forward) has been dropped before it was done.
pub struct Io<'a> {
    call: NonNull<Call>,
    /// Not `Sync`: what it gives out need not be.
    scope: PhantomData<(&'a (), std::cell::Cell<()>)>,
}

// SAFETY: an address, used during a poll of the call, by the polling thread or by one it waits for: an
// `Io` cannot leave the future. It is one thread's at a time, for it is not `Sync`.
unsafe impl Send for Io<'_> {}

impl<'a> Io<'a> {
    pub(super) fn new(call: NonNull<Call>) -> Io<'a> {
        Io { call, scope: PhantomData }
    }

    pub(super) fn call(&self) -> NonNull<Call> {
        self.call
    }

    #[track_caller]
    fn in_hand(&self) -> &Call {
        // SAFETY: the call is there as long as the future, which has this.
        let call = unsafe { self.call.as_ref() };
        assert!(!call.is_away(), "the request is still with the drivers below");
        call
    }

    /// As [`Io::in_hand`], with the whole data.
    #[track_caller]
    fn whole(&self, for_writing: bool) -> &Call {
        let call = self.in_hand();
        let shared = call.made_alarm().is_some_and(|alarm| alarm.is_shared(!for_writing));
        assert!(!shared, "a part of the request's data is still handed out");
        call
    }

    /// That nothing is handed out which the drivers below may not have beside others.
    #[track_caller]
    #[inline]
    pub(super) fn expect_whole(&self) {
        // While it is below, what is asked for waits.
        // SAFETY: the call is there as long as the future, which has this.
        let alarm = unsafe { self.call.as_ref() }.made_alarm();
        if let Some(alarm) = alarm {
            assert!(!alarm.is_shared(true), "a part of the request's memory is still handed out");
        }
    }

    /// The first `n` bytes that a read has got, to be changed in place: one slice for each segment.
    /// Fewer if it has got fewer. Empty unless the request receives.
    ///
    /// # Panics
    /// When a part of the data is handed out.
    pub fn received_mut(&mut self, n: usize) -> impl Iterator<Item = &mut [u8]> {
        let slot = self.whole(true).slot();
        // SAFETY: in hand, and the only token, borrowed mutably; `readable` says what is filled.
        unsafe { View::of(slot).segments_mut(slot.readable(n)) }
    }

    /// Copies bytes into a read's memory, starting `skip` bytes into it; returns how many fitted. For
    /// filters that answer a read themselves. A read into a pool buffer has no memory before it has
    /// been forwarded: see [`Io::give`].
    ///
    /// # Panics
    /// When a part of the data is handed out.
    pub fn put(&mut self, skip: usize, bytes: &[u8]) -> usize {
        let slot = self.whole(true).slot();
        // SAFETY: in hand, and the only token, borrowed mutably.
        unsafe { View::of(slot).copy_in(skip, bytes) }
    }

    /// Answers a read into a pool buffer with this one, of which `len()` bytes are the data.
    ///
    /// # Panics
    /// When the request is not such a read, or a part of the data is handed out.
    pub fn give(&mut self, lease: Lease) {
        assert_eq!(self.minor(), minor::POOLED, "only pooled receives are given a lease");
        // SAFETY: in hand, and the only token, borrowed mutably.
        unsafe { self.whole(true).slot().give_lease(lease) };
    }

    /// Answers a read, of whichever kind: with as many of the bytes as fit, which is returned.
    ///
    /// # Panics
    /// When a part of the data is handed out.
    pub fn answer(&mut self, bytes: &[u8]) -> usize {
        if self.minor() != minor::POOLED {
            return self.put(0, bytes);
        }
        let most = if self.arg() == 0 { usize::MAX } else { self.arg() as usize };
        let n = bytes.len().min(most);
        self.give(Lease::from(bytes[..n].to_vec()));
        n
    }

    /// Says at which byte of its stream a read's data was found, of a filter that answers reads by
    /// itself: if the requester has left by then, the data is kept for later reads in this order.
    pub fn set_position(&mut self, position: u64) {
        let slot = *self.whole(true).slot();
        // SAFETY: in hand; every location up to the current one is initialised.
        unsafe {
            for i in 0..=(*slot.0.as_ptr()).cursor {
                (*slot.location(i)).offset = position;
            }
        }
    }

    /// Has `driver` told when the request's result is final: the requester has it, or it has left, and
    /// the result is kept or disposed of. For filters whose requests must not overtake one another on
    /// the way out, as reads of a stream must not. One for each request: another takes the place of the
    /// first, which is not told.
    pub fn until_settled(&mut self, driver: Arc<dyn Settle>) {
        assert!(Call::is_polled(self.call), "asked while the filter's function is polled");
        self.in_hand().tell_when_settled(driver);
    }

    /// Whether somebody is told already ([`Io::until_settled`]): the request has come down again, for
    /// what it was to get above ([`Status::DATA_ABOVE`]) was gone.
    pub fn is_awaited(&self) -> bool {
        let slot = self.in_hand().slot();
        // SAFETY: in hand.
        unsafe { (*slot.0.as_ptr()).flags.has(flags::HOOKED) }
    }

    /// Copies a write's bytes out, from `skip` bytes into them on; returns how many there were.
    pub fn copy_out(&self, mut skip: usize, mut into: &mut [u8]) -> usize {
        let before = into.len();
        for segment in self.segments() {
            let from = &segment[skip.min(segment.len())..];
            skip -= segment.len() - from.len();
            let n = from.len().min(into.len());
            into[..n].copy_from_slice(&from[..n]);
            into = &mut into[n..];
        }
        before - into.len()
    }

    /// What accompanies the request's data, if it is of this type, for changing.
    pub fn companion_mut<T: Companion>(&mut self) -> Option<&mut T> {
        // SAFETY: in hand, and the only token, borrowed mutably.
        unsafe { self.in_hand().slot().companion_mut() }
    }

    /// What the request carries besides data, if it is of this type, for changing: the answer to a query,
    /// once it has been forwarded. `None` as for [`View::payload`].
    pub fn payload_mut<T: 'static>(&mut self) -> Option<&mut T> {
        let slot = *self.in_hand().slot();
        // SAFETY: in hand, and the only token, borrowed mutably; the top location is initialised, and a
        // payload beside no data is nobody's buffer.
        unsafe {
            let is_data = !(*slot.location(0)).data.is_null();
            if is_data { None } else { (*slot.0.as_ptr()).payload.get_mut::<T>() }
        }
    }

    /// A part of a write's data as buffers, one for each segment that it is in: for requests elsewhere,
    /// or of this filter's own below ([`Next::request`](super::Next::request)). Nothing is copied; the
    /// request does not complete before they have been dropped.
    ///
    /// # Panics
    /// When the range is not in the data, or the request does not send.
    pub fn share(&self, range: Range<usize>) -> Vec<Shared> {
        assert!(self.major().sends(), "the request has no data to send");
        self.pieces(range, Access::Reading).into_iter().map(Shared).collect()
    }

    /// A part of a read's memory as buffers to be filled; else as [`Io::share`]. What has not been
    /// filled is zeroed before.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when it overlaps what is handed out already.
    ///
    /// # Panics
    /// When the range is not in the data, or the request does not receive into memory of its own.
    pub fn share_mut(&mut self, range: Range<usize>) -> Result<Vec<SharedMut>, Status> {
        let own = self.major().receives() && self.minor() != minor::POOLED;
        assert!(own, "the request has no memory of its own to fill");
        let call = self.in_hand();
        // SAFETY: in hand; what is zeroed is handed out to nobody, for it was not filled.
        unsafe { call.slot().zero_up_to(range.end) };
        let pieces = self.pieces(range, Access::Writing);
        if pieces.is_empty() {
            Err(Status::INVALID_PARAMETER)
        } else {
            Ok(pieces.into_iter().map(SharedMut).collect())
        }
    }

    /// Hands a range out; nothing if it clashes.
    fn pieces(&self, range: Range<usize>, access: Access) -> Vec<Piece> {
        self.in_hand();
        assert!(range.start <= range.end && range.end <= self.len(), "outside the data");
        // SAFETY: the call is there, and this is its thread or one it waits for.
        let alarm = unsafe { Call::alarm(self.call) };
        let mut pieces = Vec::new();
        let mut at = 0;
        for (start, len) in self.memory() {
            let (from, to) = (range.start.max(at), range.end.min(at + len));
            if from < to {
                if !alarm.share(from..to, access) {
                    return Vec::new();
                }
                // SAFETY: inside the segment.
                let start = unsafe { start.add(from - at) };
                pieces.push(Piece { start, range: from..to, access, alarm: alarm.clone() });
            }
            at += len;
        }
        pieces
    }
}

impl Deref for Io<'_> {
    type Target = View;
    fn deref(&self) -> &View {
        View::of(self.in_hand().slot())
    }
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").finish_non_exhaustive()
    }
}

/// A part of a request's memory, handed out. **Invariant:** the request does not complete before this
/// is dropped, and of two that overlap neither is for writing.
struct Piece {
    start: *mut u8,
    range: Range<usize>,
    access: Access,
    alarm: Arc<Alarm>,
}

// SAFETY: owned memory, as by a box (invariant); the alarm is anybody's.
unsafe impl Send for Piece {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Piece {}

impl Drop for Piece {
    fn drop(&mut self) {
        self.alarm.unshare(&self.range, self.access);
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant; the bytes are a write's, or have been zeroed.
        unsafe { std::slice::from_raw_parts(self.start, self.range.len()) }
    }
}

/// A part of a write's data; see [`Io::share`]. Derefs to the bytes.
pub struct Shared(Piece);

/// A part of a read's memory; see [`Io::share_mut`]. Derefs to the bytes.
pub struct SharedMut(Piece);

// SAFETY: the memory is the request's, which waits for this; it does not move with the handle; nobody
// writes it meanwhile (`Piece`).
unsafe impl IoBuf for Shared {
    fn as_ptr(&self) -> *const u8 {
        self.0.start
    }
    fn len(&self) -> usize {
        self.0.range.len()
    }
}

// SAFETY: as above; all of it is initialised.
unsafe impl IoBuf for SharedMut {
    fn as_ptr(&self) -> *const u8 {
        self.0.start
    }
    fn len(&self) -> usize {
        self.0.range.len()
    }
}

// SAFETY: as above, and nobody else has the bytes (`Piece`).
unsafe impl IoBufMut for SharedMut {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.start
    }
    fn capacity(&self) -> usize {
        self.0.range.len()
    }
    unsafe fn set_len(&mut self, _: usize) {}
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Deref for SharedMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl std::ops::DerefMut for SharedMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, for writing, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.start, self.0.range.len()) }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.0.range).finish()
    }
}

impl fmt::Debug for SharedMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedMut").field(&self.0.range).finish()
    }
}
