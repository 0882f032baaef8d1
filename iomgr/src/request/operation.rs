//! What a request does: [`Operation`], where its parameters go ([`Setup`]), and what its caller gets
//! ([`Done`]).

use crate::buf::{IoBuf, IoBufMut, Payload, Vectored};
use crate::companion::{self, Companion};
use crate::irp::RawSegment;
use crate::irp::slot::{IoStatus, Location, SlotPtr, WRITE_THROUGH};
use crate::major::{Major, minor};
use crate::status::Status;

/// An operation: what it asks for, and how its caller sees the result.
///
/// Applications use the ones this project defines; a driver with operations of its own implements
/// this for them.
pub trait Operation: Sized {
    /// What the caller gets.
    type Output;

    /// The major code. Asked once.
    fn major(&self) -> Major;

    /// Checks the parameters before anything else happens (I-39). Anything but success refuses the
    /// request with that status.
    fn check(&self) -> Status {
        Status::SUCCESS
    }

    /// Moves the operation into the request: parameters and payload.
    fn prepare(self, setup: &mut Setup<'_>);

    /// Makes the caller's result of a finished request.
    fn finish(done: &mut Done<'_>) -> Self::Output;

    /// Makes the caller's result of a request that was never issued.
    fn refuse(self, status: Status) -> Self::Output;
}

/// Where an operation's parameters go: the top stack location.
///
/// The data of a request is set at most once, last, and by the method that fits its major and
/// minor: the drivers below believe what the location says of it.
pub struct Setup<'a> {
    pub(super) location: &'a mut Location,
    pub(super) payload: &'a mut Payload,
    pub(super) companion: &'a mut Option<Box<dyn Companion>>,
    pub(super) major: Major,
}

impl Setup<'_> {
    /// Sets the minor code.
    ///
    /// # Panics
    /// When the data has been set; for [`minor::VECTORED`] of reads and writes, which the data sets by
    /// itself; and for [`minor::POOLED`] unless the major is [`Major::Read`].
    pub fn minor(&mut self, minor: u8) -> &mut Self {
        self.check_no_data();
        let carries = self.major.receives() || self.major.sends();
        assert!(minor != minor::VECTORED || !carries, "vectored data says so itself");
        assert!(minor != minor::POOLED || self.major == Major::Read, "only reads are pooled");
        self.location.minor = minor;
        self
    }

    #[track_caller]
    fn check_no_data(&self) {
        assert!(self.location.data.is_null(), "a request's data is set once, and last");
    }

    #[track_caller]
    fn check_data(&self, receives: bool) {
        self.check_no_data();
        let minor = self.location.minor;
        assert!(!matches!(minor, minor::VECTORED | minor::POOLED), "this minor has no such data");
        assert_eq!(self.major.receives(), receives, "data goes the way its major says");
    }

    /// Sets the byte offset; `u64::MAX` is the current position.
    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.location.offset = offset;
        self
    }

    /// Sets the major's own parameter.
    pub fn arg(&mut self, arg: u64) -> &mut Self {
        self.location.arg = arg;
        self
    }

    /// Says that a write is to be on the medium when it completes: its data, and what is needed to read it
    /// back (NT's SL_WRITE_THROUGH). It is refused with [`Status::NOT_SUPPORTED`] where the stack has no such
    /// writes ([`Stack::can`](crate::Stack::can)).
    ///
    /// # Panics
    /// When the major is not [`Major::Write`].
    pub fn write_through(&mut self) -> &mut Self {
        assert_eq!(self.major, Major::Write, "only writes are written through");
        self.location.arg |= WRITE_THROUGH;
        self
    }

    /// Limits the bytes of a request whose data is not known yet (pooled receives).
    ///
    /// # Panics
    /// When the data has been set.
    pub fn limit(&mut self, len: u32) -> &mut Self {
        self.check_no_data();
        self.location.len = len;
        self
    }

    /// Gives the request a value to carry; [`Done::take`] has it back.
    ///
    /// # Panics
    /// When the data has been set: it is what the request carries.
    pub fn payload<T: Send + 'static>(&mut self, value: T) -> &mut Self {
        self.check_no_data();
        *self.payload = Payload::new(value);
        self
    }

    /// Sends a companion of the data along; [`Done::companion`] has it back.
    pub fn companion<T: Companion>(&mut self, companion: Box<T>) -> &mut Self {
        *self.companion = Some(companion);
        self
    }

    /// Gives the request a buffer whose bytes go out.
    ///
    /// # Panics
    /// When there is data already, or the major is [`Major::Read`] or [`Major::ReceiveFrom`].
    pub fn data_out<B: IoBuf>(&mut self, buffer: B) -> &mut Self {
        self.check_data(false);
        *self.payload = Payload::new(buffer);
        // Taken where the handle stays: see the contract of `IoBuf`.
        let buffer = self.payload.get_ref::<B>().expect("just stored");
        self.location.data = buffer.as_ptr().cast_mut();
        // Lengths beyond 4 GiB are cut: a short write is an ordinary result.
        self.location.len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        self
    }

    /// Gives the request a buffer to fill.
    ///
    /// # Panics
    /// When there is data already, or the major is neither [`Major::Read`] nor
    /// [`Major::ReceiveFrom`].
    pub fn data_in<B: IoBufMut>(&mut self, buffer: B) -> &mut Self {
        self.check_data(true);
        *self.payload = Payload::new(buffer);
        let buffer = self.payload.get_mut::<B>().expect("just stored");
        self.location.data = buffer.as_mut_ptr();
        self.location.len = u32::try_from(buffer.capacity()).unwrap_or(u32::MAX);
        self
    }

    /// Gives the request several buffers whose bytes go out, one after the other.
    ///
    /// # Panics
    /// As [`Setup::data_out`].
    pub fn vectored_out<B: IoBuf>(&mut self, buffers: Vec<B>) -> &mut Self {
        self.check_data(false);
        self.segments(Vectored::new(buffers, |b| RawSegment {
            base: b.as_ptr().cast_mut(),
            len: b.len(),
        }))
    }

    /// Gives the request several buffers to fill, one after the other.
    ///
    /// # Panics
    /// As [`Setup::data_in`].
    pub fn vectored_in<B: IoBufMut>(&mut self, buffers: Vec<B>) -> &mut Self {
        self.check_data(true);
        self.segments(Vectored::new(buffers, |b| RawSegment {
            base: b.as_mut_ptr(),
            len: b.capacity(),
        }))
    }

    fn segments<B: Send + 'static>(&mut self, vectored: Vectored<B>) -> &mut Self {
        *self.payload = Payload::new(vectored);
        // As in `data_out`: a box that moves ends the validity of pointers taken before.
        let vectored = self.payload.get_mut::<Vectored<B>>().expect("just stored");
        (self.location.data, self.location.len) = vectored.array();
        self.location.minor = minor::VECTORED;
        self
    }
}

/// A finished request, as its requester sees it.
pub struct Done<'a> {
    result: IoStatus,
    filled: usize,
    payload: &'a mut Payload,
    companion: Option<Box<dyn Companion>>,
}

impl Done<'_> {
    /// # Safety
    /// The slot is `DONE` and the caller its requester; `payload` was or is the slot's.
    #[inline]
    pub(crate) unsafe fn new(slot: SlotPtr, payload: &mut Payload) -> Done<'_> {
        // SAFETY: the caller's; major and top location are the requester's to read by now.
        let (result, filled, companion) = unsafe {
            let header = slot.0.as_ptr();
            let result = (*header).result;
            let in_place = (*header).major.receives() && (*slot.location(0)).minor != minor::POOLED;
            let filled = if in_place { (*header).filled as usize } else { 0 };
            (result, result.info.min(filled), slot.set_companion(None))
        };
        Done { result, filled, payload, companion }
    }

    /// The final status.
    pub fn status(&self) -> Status {
        self.result.status
    }

    /// Bytes transferred, or what the major defines.
    pub fn info(&self) -> usize {
        self.result.info
    }

    /// Bytes at the start of the request's buffer that it has filled, at most [`Done::info`]: what an
    /// operation may tell [`IoBufMut::set_len`]. 0 for requests that fill none.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Takes the payload.
    ///
    /// # Panics
    /// When it is not of this type: operation and driver disagree.
    pub fn take<T: 'static>(&mut self) -> T {
        self.payload.take().expect("the payload is what the operation or its driver put there")
    }

    /// Takes the companion that the operation sent along, or that came in its place, if it is of this
    /// type.
    pub fn companion<T: Companion>(&mut self) -> Option<Box<T>> {
        companion::downcast(self.companion.take()?)
    }

    /// Takes the payload if it is of this type.
    pub fn try_take<T: 'static>(&mut self) -> Option<T> {
        self.payload.take()
    }
}
