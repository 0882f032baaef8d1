//! The tokens a driver works with.
//!
//! **Invariant.** For every IRP in flight there is exactly one driver-side owner: one token
//! ([`Irp`], [`Unwinding`], [`Held`]), or the hardware, or the I/O manager between two of these.
//! Every method that ends a token's life takes it by value and changes `Slot::phase` to say who
//! comes next; a token that is dropped instead finishes the request with an error and is reported.

use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;

use super::dispatch;
use super::held::Held;
use super::slot::{IoStatus, Phase, Slot, SlotPtr, control, flags};
use super::view::View;
use crate::buf::{IoBuf, IoBufMut, Lease, Payload};
use crate::companion::Companion;
use crate::csq::CancelSafeQueue;
use crate::hal::Op;
use crate::major::minor;
use crate::status::Status;

/// What became of the token: the value `dispatch` must return, obtainable only by ending it.
#[must_use = "return it from `dispatch`"]
#[derive(Debug)]
pub struct Disposition(pub(crate) ());

/// What a completion routine decided: the value `completed` must return.
#[must_use = "return it from `completed`"]
#[derive(Debug)]
pub struct Completion(pub(crate) Next);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// On to the driver above.
    Up,
    /// MORE_PROCESSING_REQUIRED: somebody holds it (I-24f).
    Stop,
    /// Down again (I-42).
    Again,
}

/// Which outcomes call the completion routine (I-23).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct On(pub(crate) u8);

impl On {
    /// `NT_SUCCESS`: success and informational statuses.
    pub const SUCCESS: On = On(control::SUCCESS);
    /// Everything else: warnings too.
    pub const ERROR: On = On(control::ERROR);
    /// Cancel was requested, whatever the status.
    pub const CANCEL: On = On(control::CANCEL);
    /// Any outcome.
    pub const ALL: On = On(control::SUCCESS | control::ERROR | control::CANCEL);
}

impl std::ops::BitOr for On {
    type Output = On;
    fn bitor(self, other: On) -> On {
        On(self.0 | other.0)
    }
}

/// A request on its way down, owned by the driver whose `dispatch` received it.
///
/// It must end in one of these ways, each of which consumes it: [`Irp::complete`],
/// [`Lower::skip`], [`Lower::forward`], [`Irp::hold`] or [`Irp::park`], [`Irp::split`], and for
/// bottom drivers [`Irp::submit`]. Dropping it completes the request with
/// [`Status::DRIVER_INTERNAL_ERROR`] and is reported as a driver bug (V-43).
///
/// Reading access is through [`View`].
pub struct Irp<'a> {
    slot: SlotPtr,
    /// Neither `Send` nor longer-lived than the dispatch that lent it.
    scope: PhantomData<(&'a (), *mut ())>,
}

impl<'a> Irp<'a> {
    /// # Safety
    /// The caller is the IRP's only driver-side owner and gives the ownership up.
    pub(crate) unsafe fn new(slot: SlotPtr) -> Irp<'a> {
        // SAFETY: the caller owns the driver side.
        unsafe { (*slot.0.as_ptr()).phase = Phase::Driver };
        Irp { slot, scope: PhantomData }
    }

    pub(crate) fn into_slot(self) -> SlotPtr {
        let slot = self.slot;
        mem::forget(self);
        slot
    }

    pub(crate) fn slot(&self) -> SlotPtr {
        self.slot
    }

    /// See [`dispatch::forget_lease`].
    pub(crate) fn forget_lease(&mut self) {
        // SAFETY: the only driver-side owner.
        unsafe { dispatch::forget_lease(self.slot) };
    }

    /// The slot, field by field: this token is the only driver-side owner (module invariant), on
    /// the owner's thread, but the requester touches `state` and the waker meanwhile, so there must
    /// be no reference to the whole.
    pub(super) fn header(&mut self) -> *mut Slot {
        self.slot.0.as_ptr()
    }

    /// Completes the request with a status and the number of bytes transferred (or whatever the
    /// major defines as its information). The drivers above see it next (I-22).
    pub fn complete(mut self, status: Status, info: usize) -> Disposition {
        let slot = self.header();
        // SAFETY: as `header` says.
        unsafe {
            (*slot).result = self.slot.of_driver(status, info);
            (*slot).phase = Phase::Finished;
        }
        self.into_slot();
        Disposition(())
    }

    /// Keeps the request for later, on any thread. Prefer [`Irp::park`]: a held request hears of a
    /// cancel only by asking ([`View::is_cancelled`]).
    pub fn hold(mut self) -> (Held, Disposition) {
        // SAFETY: as `header` says.
        unsafe { (*self.header()).phase = Phase::Held };
        let slot = self.into_slot();
        // SAFETY: the ownership moves from this token to the new one.
        (unsafe { Held::new(slot) }, Disposition(()))
    }

    /// Parks the request in a queue where a cancel finds it.
    pub fn park(self, queue: &CancelSafeQueue) -> Disposition {
        let (held, disposition) = self.hold();
        queue.insert(held);
        disposition
    }

    /// Bottom drivers: hands the request to the processor's hardware. [`crate::Driver::hardware`]
    /// of the same driver gets the result, now or later.
    ///
    /// # Safety
    /// The memory that `op` names is owned by this IRP (its data, its payload) or lives until its
    /// completion by other means, and nobody else uses it in a conflicting way. If the request is a
    /// read that is not pooled, a positive result of `op`, unless that is [`Op::Poll`], means that so
    /// many bytes of its data, from the start, have been filled.
    pub unsafe fn submit(self, op: Op) -> Disposition {
        let slot = self.into_slot();
        // SAFETY: we own the driver side and pass it to the hardware; the caller answers for `op`.
        unsafe { dispatch::to_hardware(slot, op) }
    }

    /// Bottom drivers, in [`Driver::hardware`](crate::Driver::hardware): whether the hardware gives the
    /// operation back undone, although nobody has cancelled the request: it was
    /// [interrupted](crate::FileObject::interrupt), or the thread that had submitted it has ended
    /// . It is then to be submitted again.
    #[inline]
    pub fn is_given_back(&self, done: &crate::hal::Completion) -> bool {
        done.status() == Status::CANCELLED && !self.is_cancelled()
    }

    /// The parameters that the next driver down will see: a copy of this driver's (I-8), to be
    /// changed as wanted. Takes effect with [`Lower::forward`].
    #[expect(clippy::should_implement_trait, reason = "NT's word: the next stack location")]
    pub fn next(&mut self) -> NextLocation<'_> {
        // SAFETY: owner of the driver side; `prepare_next` checks the bound.
        unsafe { dispatch::prepare_next(self.slot) };
        NextLocation { slot: self.slot, scope: PhantomData }
    }

    /// Keeps a value in this driver's location until the request has unwound past it. Up to three
    /// words are stored in place. Replaces an earlier value.
    ///
    /// # Panics
    /// When a buffer has just been lent ([`NextLocation::lend`]), which is kept in the same place:
    /// lend a type of your own that holds the value too.
    pub fn set_scratch<T: Send + 'static>(&mut self, value: T) {
        // SAFETY: as in `header`; the location is the current driver's own.
        unsafe {
            let own = self.slot.current();
            let prepared = (*self.slot.0.as_ptr()).flags.has(flags::NEXT_READY);
            assert!(!prepared || (*own).control & control::LENT == 0, "a buffer is lent");
            (*own).control &= !control::LENT;
            if (*own).scratch.is_empty() {
                (&raw mut (*own).scratch).write(Payload::new(value));
            } else {
                // Dropped last: it may be foreign code.
                drop(mem::replace(&mut (*own).scratch, Payload::new(value)));
            }
        }
    }

    /// Copies bytes into a read's memory, starting `skip` bytes into it; returns how many fitted.
    /// For drivers that answer a read themselves.
    pub fn copy_in(&mut self, skip: usize, bytes: &[u8]) -> usize {
        // SAFETY: this is the only token, borrowed mutably.
        unsafe { View::of(&self.slot).copy_in(skip, bytes) }
    }

    /// Bottom drivers: the first `n` bytes that the hardware has put into a read's memory, segment by
    /// segment.
    pub fn received(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the only token; `readable` says how many bytes have been filled.
        unsafe { View::of(&self.slot).segments_mut(self.slot.readable(n)) }.map(|s| &*s)
    }

    /// Bottom drivers, for [`Major::Close`](crate::Major::Close): goes on when no other request is left on the file, so
    /// that none meets another file of the same descriptor. The driver has taken the descriptor from
    /// the file object before, keeps it in its scratch, and finds it there when the request comes to
    /// its `dispatch` once more.
    ///
    /// # Errors
    /// The disposition to return: it waits.
    pub fn when_alone(self) -> Result<Self, Disposition> {
        crate::file::FileObject::wait_until_alone(self)
    }

    /// Bottom drivers: asks for [`crate::Driver::settled`].
    pub fn notify_settled(&mut self) {
        // SAFETY: as `header` says.
        unsafe { (*self.header()).flags.set(flags::SETTLE) };
    }

    /// Bottom drivers: whether that has been asked for: the request has been here before, and a driver
    /// above has sent it down again.
    pub fn notifies_settled(&self) -> bool {
        // SAFETY: as in `header`; reading.
        unsafe { (*self.slot.0.as_ptr()).flags.has(flags::SETTLE) }
    }

    /// Whether the payload is the driver's to change: not if the data lies in it.
    fn payload_is_free(&self) -> bool {
        // SAFETY: as in `header`; reading.
        unsafe { (*self.slot.location(0)).data.is_null() }
    }

    /// Bottom drivers: puts a value into the request's payload for the requester to take, in place
    /// of what is there (which is dropped).
    ///
    /// # Panics
    /// When the payload is the caller's own buffer.
    pub fn set_payload<T: Send + 'static>(&mut self, value: T) {
        assert!(self.payload_is_free(), "the payload is the caller's buffer");
        // SAFETY: as `header` says.
        unsafe { (*self.header()).payload = Payload::new(value) };
    }

    /// Bottom drivers: the payload's value, if it is of this type.
    ///
    /// # Panics
    /// When the payload is the caller's own buffer.
    pub fn payload_mut<T: 'static>(&mut self) -> Option<&mut T> {
        assert!(self.payload_is_free(), "the payload is the caller's buffer");
        // SAFETY: as `header` says; borrowed as long as the token.
        unsafe { (*self.header()).payload.get_mut::<T>() }
    }

    /// What accompanies the request's data, if it is of this type, for changing.
    pub fn companion_mut<T: Companion>(&mut self) -> Option<&mut T> {
        // SAFETY: as `header` says; borrowed as long as the token.
        unsafe { self.slot.companion_mut() }
    }

    /// Bottom drivers: puts another companion in place of the one the request has; gives that back.
    pub fn set_companion(
        &mut self,
        companion: Option<Box<dyn Companion>>,
    ) -> Option<Box<dyn Companion>> {
        // SAFETY: as `header` says.
        unsafe { self.slot.set_companion(companion) }
    }

    /// Bottom drivers: gives the request what has come for an earlier one ([`Companion::take_over`]);
    /// drops it if the request has no companion.
    pub fn give_companion(&mut self, late: Box<dyn Companion>) {
        // SAFETY: as `header` says.
        unsafe { self.slot.give_companion(late) };
    }

    /// Bottom drivers: completes a pooled receive with the bytes in `lease`, which the requester
    /// gets and the drivers above see.
    ///
    /// # Panics
    /// When the request is not a pooled receive.
    pub fn complete_with_lease(self, lease: Lease) -> Disposition {
        assert_eq!(self.minor(), minor::POOLED, "only pooled receives end with a lease");
        let n = lease.len();
        // SAFETY: the only driver-side owner.
        unsafe { self.slot.give_lease(lease) };
        self.complete(Status::SUCCESS, n)
    }

    /// Bottom drivers: says at which byte of its stream a receive's data was found. Drivers above see
    /// it as [`View::offset`] on the way up, and so does [`crate::Driver::abandoned`].
    pub fn set_position(&mut self, position: u64) {
        let slot = self.slot;
        // SAFETY: every location up to the current one is initialised and ours.
        unsafe {
            for i in 0..=(*slot.0.as_ptr()).cursor {
                (*slot.location(i)).offset = position;
            }
        }
    }
}

impl Deref for Irp<'_> {
    type Target = View;
    fn deref(&self) -> &View {
        View::of(&self.slot)
    }
}

impl Drop for Irp<'_> {
    fn drop(&mut self) {
        // SAFETY: the token was neither completed nor passed on, so it still owns the driver side.
        unsafe { dispatch::driver_bug(self.slot, "an IRP was dropped") };
    }
}

/// The way to the driver below.
pub struct Lower<'a> {
    pub(crate) scope: PhantomData<&'a ()>,
}

impl Lower<'_> {
    /// Passes the request on and forgets it (I-9): the driver below gets this driver's own
    /// location, without what was kept in it, and no completion routine runs here.
    #[inline]
    pub fn skip(&self, irp: Irp<'_>) -> Disposition {
        // SAFETY: the token's ownership goes to the driver below.
        unsafe { dispatch::skip(irp.into_slot()) }
    }

    /// Passes the request on and asks for [`crate::Driver::completed`] to be called when it comes
    /// back with one of the outcomes given (I-10).
    #[inline]
    pub fn forward(&self, irp: Irp<'_>, on: On) -> Disposition {
        // SAFETY: the token's ownership goes to the driver below.
        unsafe { dispatch::forward(irp.into_slot(), on.0) }
    }
}

/// The location of the driver below, before it is called.
pub struct NextLocation<'a> {
    slot: SlotPtr,
    scope: PhantomData<&'a mut ()>,
}

impl NextLocation<'_> {
    fn location(&mut self) -> &mut super::slot::Location {
        // SAFETY: `Irp::next` prepared it, and the token it borrows from is the only owner.
        unsafe { &mut *self.slot.location((*self.slot.0.as_ptr()).cursor + 1) }
    }

    /// Changes the byte offset.
    pub fn set_offset(&mut self, offset: u64) -> &mut Self {
        self.location().offset = offset;
        self
    }

    /// Gives the drivers below other memory, in one piece.
    ///
    /// # Safety
    /// It is initialised, and theirs until the request has come back.
    pub(crate) unsafe fn set_memory(&mut self, start: *mut u8, len: u32) {
        let location = self.location();
        (location.data, location.len) = (start, len);
        if matches!(location.minor, minor::VECTORED | minor::POOLED) {
            location.minor = minor::NONE;
        }
    }

    /// Shortens the data, to so many bytes or, of a vectored request, segments. A longer length than
    /// the data's is cut to it. Of a receive into a pool buffer, which has no data yet, it is the most
    /// that is wanted, at least 1.
    pub fn set_len(&mut self, len: u32) -> &mut Self {
        let location = self.location();
        if location.minor == minor::POOLED {
            // What is with the buffer that it had, if it goes down again, does not count.
            let most = if location.arg == 0 { u32::MAX } else { location.arg as u32 };
            let len = most.min(len.max(1));
            (location.arg, location.len) = (u64::from(len), len);
            return self;
        }
        location.len = location.len.min(len);
        self
    }

    /// Gives the drivers below another buffer to take a write's bytes from, in place of the
    /// caller's. It lives in this driver's location until the request has unwound past it, where
    /// [`View::lent`] finds it; the caller's own buffer is back in place by then.
    ///
    /// # Panics
    /// When the request receives data: see [`NextLocation::lend_mut`].
    pub fn lend<B: IoBuf>(&mut self, buffer: B) -> &mut Self {
        // SAFETY: the token is the only owner.
        let major = unsafe { (*self.slot.0.as_ptr()).major };
        assert!(!major.receives(), "lend a mutable buffer");
        self.lend_with(buffer, |b| (b.as_ptr().cast_mut(), b.len()))
    }

    /// Gives the drivers below another buffer to receive into, up to its `len()`, in place of the
    /// caller's. Otherwise as [`NextLocation::lend`].
    pub fn lend_mut<B: IoBufMut>(&mut self, buffer: B) -> &mut Self {
        self.lend_with(buffer, |b| (b.as_mut_ptr(), b.len()))
    }

    fn lend_with<B: IoBuf>(
        &mut self,
        buffer: B,
        parts: impl FnOnce(&mut B) -> (*mut u8, usize),
    ) -> &mut Self {
        let slot = self.slot;
        // SAFETY: current location: ours. The buffer's bytes keep their address while the handle
        // stays in the scratch (the contract of `IoBuf`), until unwound; all are initialised.
        unsafe {
            let own = slot.current();
            // No pointer to what is replaced stays behind, whatever panics.
            (self.location().data, self.location().len) = (std::ptr::null_mut(), 0);
            (*own).control |= control::LENT;
            drop(mem::replace(&mut (*own).scratch, Payload::new(buffer)));
            let lent = (*own).scratch.get_mut::<B>().expect("just stored");
            let (start, len) = parts(lent);
            self.set_memory(start, u32::try_from(len).unwrap_or(u32::MAX));
        }
        self
    }
}

/// A request on its way up, in the hands of a completion routine.
///
/// Ends as [`Unwinding::proceed`], [`Unwinding::reclaim`] or [`Unwinding::retry`], which alone
/// yield the [`Completion`] that the routine must return. Reading access
/// is through [`View`]; the location is the routine's own again (I-22.2).
pub struct Unwinding<'a> {
    slot: SlotPtr,
    scope: PhantomData<(&'a (), *mut ())>,
}

impl Unwinding<'_> {
    /// # Safety
    /// The caller is the IRP's only driver-side owner and gives the ownership up.
    pub(crate) unsafe fn new(slot: SlotPtr) -> Self {
        Unwinding { slot, scope: PhantomData }
    }

    /// As `Irp::header`.
    fn header(&mut self) -> *mut Slot {
        self.slot.0.as_ptr()
    }

    /// The status the drivers below gave.
    pub fn status(&self) -> Status {
        // SAFETY: as `Irp::header`; reading.
        unsafe { (*self.slot.0.as_ptr()).result.status }
    }

    /// The information the drivers below gave: bytes transferred for reads and writes.
    pub fn info(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.slot.0.as_ptr()).result.info }
    }

    /// Changes the result that the drivers above and the requester see.
    pub fn set_result(&mut self, status: Status, info: usize) {
        // SAFETY: as `header` says.
        unsafe { (*self.header()).result = self.slot.of_driver(status, info) };
    }

    /// The bytes that were read, to be changed in place: one slice for each segment, together
    /// [`Unwinding::info`] bytes long. Empty unless the request is a read that succeeded.
    pub fn received_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let info = if self.status().is_error() { 0 } else { self.info() };
        // SAFETY: the token's holder may look.
        let limit = unsafe { self.slot.readable(info) };
        // SAFETY: the hardware is done with the memory and filled `info` bytes of it; this token,
        // borrowed mutably, is the only one.
        unsafe { View::of(&self.slot).segments_mut(limit) }
    }

    /// Copies bytes into a read's memory, starting `skip` bytes into it; returns how many fitted.
    /// For drivers that answer a read themselves.
    pub fn copy_in(&mut self, skip: usize, bytes: &[u8]) -> usize {
        // SAFETY: this is the only token, borrowed mutably.
        unsafe { View::of(&self.slot).copy_in(skip, bytes) }
    }

    /// What accompanies the request's data, if it is of this type, for changing.
    pub fn companion_mut<T: Companion>(&mut self) -> Option<&mut T> {
        // SAFETY: as `Irp::header`; borrowed as long as the token.
        unsafe { self.slot.companion_mut() }
    }

    /// Lets the completion go on to the driver above.
    pub fn proceed(self) -> Completion {
        Completion(Next::Up)
    }

    /// Takes the request back (MORE_PROCESSING_REQUIRED, I-24f): the completion stops here, and
    /// goes on above this driver when the [`Held`] is completed.
    pub fn reclaim(mut self) -> (Held, Completion) {
        // SAFETY: as `header` says.
        unsafe { (*self.header()).phase = Phase::Held };
        let slot = self.slot;
        // SAFETY: the ownership moves to the new token.
        (unsafe { Held::new(slot) }, Completion(Next::Stop))
    }

    /// The parameters for a [`Unwinding::retry`]; see [`Irp::next`].
    #[expect(clippy::should_implement_trait, reason = "NT's word: the next stack location")]
    pub fn next(&mut self) -> NextLocation<'_> {
        // SAFETY: as in `Irp::next`.
        unsafe { dispatch::prepare_next(self.slot) };
        NextLocation { slot: self.slot, scope: PhantomData }
    }

    /// Sends the request down once more, with the same completion routine (I-42).
    pub fn retry(mut self, on: On) -> Completion {
        // SAFETY: owner of the driver side.
        unsafe {
            (*self.header()).result = IoStatus { status: Status::SUCCESS, info: 0 };
            dispatch::forget_lease(self.slot);
            dispatch::prepare_next(self.slot);
            (*self.slot.location((*self.slot.0.as_ptr()).cursor + 1)).control = on.0;
        }
        Completion(Next::Again)
    }
}

impl Deref for Unwinding<'_> {
    type Target = View;
    fn deref(&self) -> &View {
        View::of(&self.slot)
    }
}

/// A result that came after its requester had gone; see [`crate::Driver::abandoned`].
pub struct Late<'a> {
    pub(crate) slot: SlotPtr,
    pub(crate) scope: PhantomData<(&'a (), *mut ())>,
}

impl Late<'_> {
    /// The final status.
    pub fn status(&self) -> Status {
        // SAFETY: final completion or release hands the slot to us alone for the call.
        unsafe { (*self.slot.0.as_ptr()).result.status }
    }

    /// Bytes transferred.
    pub fn info(&self) -> usize {
        // SAFETY: final completion or release hands the slot to us alone for the call.
        unsafe { (*self.slot.0.as_ptr()).result.info }
    }

    /// Takes the payload's value, if it is of this type and not the buffer of the request's data.
    pub fn take_payload<T: 'static>(&mut self) -> Option<T> {
        // SAFETY: as above; what `received` shows stays in place.
        unsafe {
            let is_free = (*self.slot.location(0)).data.is_null();
            if is_free { (*self.slot.0.as_ptr()).payload.take::<T>() } else { None }
        }
    }

    /// Takes the companion.
    pub fn take_companion(&mut self) -> Option<Box<dyn Companion>> {
        // SAFETY: as above.
        unsafe { self.slot.set_companion(None) }
    }

    /// The bytes that were received, segment by segment.
    pub fn received(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: as in `Unwinding::received_mut`, for reading.
        unsafe { View::of(&self.slot).segments_mut(self.slot.readable(self.info())) }.map(|s| &*s)
    }
}

impl Deref for Late<'_> {
    type Target = View;
    fn deref(&self) -> &View {
        View::of(&self.slot)
    }
}
