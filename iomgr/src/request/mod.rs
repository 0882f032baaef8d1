//! Requests: what an application builds, and how the result reports.
//!
//! Building a [`Request`] and choosing its route are two acts. A request is inert until it is
//! awaited (`future.rs`), [waited for](Request::wait), or [posted](Request::post) to a port; then an
//! IRP is made on the calling thread's processor, the operation moves into it, and it is issued.
//! Exactly one result comes back by exactly one route (I-34).
//!
//! Reads next: [`crate::irp`]'s `dispatch`, where the IRP goes.

mod apc;
mod block;
mod future;
mod routes;

use std::ptr::NonNull;
use std::time::{Duration, Instant};

pub use block::Block;
pub use routes::{Cancel, Issued};

use crate::buf::{IoBuf, IoBufMut, Payload, Vectored};
use crate::companion::{self, Companion};
use crate::file::{self, FileHandle, FileObject};
use crate::irp::RawSegment;
use crate::irp::dispatch;
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Location, Phase, Route, SlotPtr, flags};
use crate::major::{Major, minor};
use crate::processor::Core;
use crate::scope;
use crate::status::Status;
use crate::wait::Event;

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
    location: &'a mut Location,
    payload: &'a mut Payload,
    companion: &'a mut Option<Box<dyn Companion>>,
    major: Major,
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

/// An operation on a file object, not issued yet. See the module's header.
///
/// Does nothing unless awaited, waited for or posted.
#[must_use = "a request does nothing unless awaited, waited for or posted"]
pub struct Request<'f, K> {
    state: State<'f, K>,
}

enum State<'f, K> {
    Ready(Target<'f>, K, Extras),
    Issued(SlotPtr),
    Done,
}

/// What a request may have beside its operation.
#[derive(Default)]
struct Extras {
    deadline: Option<Instant>,
    event: Option<Event>,
}

/// The file object of a request that is not issued; an issued one counts on it by itself.
enum Target<'f> {
    Borrowed(&'f FileObject),
    Owned(FileHandle),
    /// To be made when the request is issued. In two boxes, so that it costs the others nothing.
    New(Box<Make>),
}

type Make = Box<dyn FnOnce() -> Result<FileHandle, Status> + Send>;

impl Target<'_> {
    /// Makes the file object, if that is still to be done, on the thread that issues the request.
    #[inline]
    fn made(self) -> Result<Self, Status> {
        if let Target::New(make) = self { Self::make(make) } else { Ok(self) }
    }

    #[cold]
    fn make(make: Box<Make>) -> Result<Self, Status> {
        let file = make()?;
        // Its handle goes when the request has been issued, which must not cancel the request.
        file.leave_out_cleanup();
        Ok(Target::Owned(file))
    }
}

impl std::ops::Deref for Target<'_> {
    type Target = FileObject;
    #[inline]
    fn deref(&self) -> &FileObject {
        match self {
            Target::Borrowed(file) => file,
            Target::Owned(file) => file,
            Target::New(_) => unreachable!("made before it is looked at"),
        }
    }
}

// SAFETY: an issued request is a slot's address, whose protocol (`irp::state`) lets the requester
// sit on any thread; an operation that is not issued is sent only if it may be.
unsafe impl<K: Send> Send for Request<'_, K> {}

// The operation in a request is never pinned: it moves into the IRP.
impl<K> Unpin for Request<'_, K> {}

impl<'f, K: Operation> Request<'f, K> {
    /// Builds a request. Applications call the methods of files and sockets instead.
    pub fn new(file: &'f FileObject, operation: K) -> Self {
        Request { state: State::Ready(Target::Borrowed(file), operation, Extras::default()) }
    }

    /// Builds a request that keeps the file object by itself, and so may outlive its handles.
    pub fn owned(file: FileHandle, operation: K) -> Request<'static, K> {
        Request { state: State::Ready(Target::Owned(file), operation, Extras::default()) }
    }

    /// Builds a request on a file object of its own, which `make` makes when the request is issued,
    /// and which goes when the request has ended: how an operation that opens nothing (on a path,
    /// for instance) travels a stack. An error of `make` refuses the request.
    ///
    /// ```
    /// use overlapped_iomgr::{Done, FileObject, Major, Operation, Request, Setup, Stack, Status};
    /// # struct Bottom;
    /// # impl overlapped_iomgr::Driver for Bottom {
    /// #     fn name(&self) -> &str { "bottom" }
    /// #     fn hooks(&self) -> overlapped_iomgr::MajorSet { overlapped_iomgr::MajorSet::ALL }
    /// #     fn dispatch(&self, irp: overlapped_iomgr::Irp<'_>, _: overlapped_iomgr::Lower<'_>)
    /// #         -> overlapped_iomgr::Disposition { irp.complete(Status::SUCCESS, 0) }
    /// # }
    /// struct Remove;
    /// impl Operation for Remove {
    ///     type Output = Status;
    ///     fn major(&self) -> Major {
    ///         Major::SetInformation
    ///     }
    ///     fn prepare(self, _: &mut Setup<'_>) {}
    ///     fn finish(done: &mut Done<'_>) -> Status {
    ///         done.status()
    ///     }
    ///     fn refuse(self, status: Status) -> Status {
    ///         status
    ///     }
    /// }
    /// let stack = Stack::new([], std::sync::Arc::new(Bottom)).unwrap();
    /// let request = Request::on_its_own(|| FileObject::new(stack, "a/path", Box::new(())), Remove);
    /// // No hardware here: no processor can be made.
    /// assert_eq!(request.wait(), Status::DEVICE_NOT_READY);
    /// ```
    pub fn on_its_own(
        make: impl FnOnce() -> Result<FileHandle, Status> + Send + 'static,
        operation: K,
    ) -> Request<'static, K> {
        let file = Target::New(Box::new(Box::new(make)));
        Request { state: State::Ready(file, operation, Extras::default()) }
    }

    /// Asks for an early end after `limit` from now: the request is then cancelled, and its result
    /// is [`Status::IO_TIMEOUT`] (`ErrorKind::TimedOut`) unless it finished all the same (X-5).
    ///
    /// Without effect on a request that has been issued.
    pub fn deadline(mut self, limit: Duration) -> Self {
        if let State::Ready(_, _, extras) = &mut self.state {
            // A limit too far to express is none.
            extras.deadline = Instant::now().checked_add(limit);
        }
        self
    }

    /// Has the event set when the request is done, whatever its route (C-3, C-6): it is reset when the
    /// request is issued, and set after the result is there and before packet or APC (I-28). The file
    /// object is not signalled then (I-33). An error at once leaves it reset (I-31).
    ///
    /// Without effect on a request that has been issued.
    pub fn event(mut self, event: &Event) -> Self {
        if let State::Ready(_, _, extras) = &mut self.state {
            extras.event = Some(event.clone());
        }
        self
    }
}

/// Checks everything that can refuse a request, and takes a slot for it.
#[inline]
fn admit<K: Operation>(core: &Core, file: &FileObject, operation: &K) -> Result<SlotPtr, Status> {
    let checked = operation.check();
    if checked != Status::SUCCESS {
        return Err(checked);
    }
    core.check_running()?;
    let major = operation.major();
    file.admit(major)?;
    let scope = scope::current();
    if let Some(scope) = &scope {
        scope.enter()?;
    }
    let slot = core.alloc_slot(file.stack().route(major).len());
    let Some(slot) = slot else {
        if let Some(scope) = scope {
            scope.turn_back();
        }
        return Err(Status::INSUFFICIENT_RESOURCES);
    };
    // SAFETY: new and ours. `launch` takes it from here, so that slot and route fit whatever the
    // operation would answer next time.
    unsafe {
        (*slot.0.as_ptr()).major = major;
        if scope.is_some() {
            (*slot.0.as_ptr()).scope = scope;
            (*slot.0.as_ptr()).flags.set(flags::SCOPED);
        }
    }
    Ok(slot)
}

/// Moves the operation into an admitted slot and issues it. `true`: complete already (I-27), and
/// nobody was told.
#[inline]
fn launch<K: Operation>(
    core: &Core,
    slot: SlotPtr,
    file: &FileObject,
    operation: K,
    route: Route,
    extras: Extras,
) -> bool {
    // SAFETY: the slot is new and ours; the file is alive, and counted from here to `leave_file`.
    unsafe {
        let major = (*slot.0.as_ptr()).major;
        fill(core, slot, file.address(), major, route);
        let location = &mut *slot.location(0);
        let payload = &mut (*slot.0.as_ptr()).payload;
        let undo = Undo(slot);
        let mut companion = None;
        operation.prepare(&mut Setup { location, payload, companion: &mut companion, major });
        std::mem::forget(undo);
        slot.set_companion(companion);
        if (*slot.0.as_ptr()).flags.has(flags::SCOPED) && !scope::admits(slot) {
            finish::refuse(slot, Status::QUOTA_EXCEEDED);
            return true;
        }
        if let Some(deadline) = extras.deadline {
            core.set_deadline(slot, deadline);
        }
        if extras.event.is_some() || file.is_watched() {
            expect_signal(slot, file, extras.event);
        }
        if let Some(serial) = file.serial()
            && !serial.enter(slot)
        {
            return false;
        }
        dispatch::issue(slot)
    }
}

/// C-3, C-7: what will be signalled is reset.
#[cold]
unsafe fn expect_signal(slot: SlotPtr, file: &FileObject, event: Option<Event>) {
    match &event {
        Some(event) => _ = event.reset(),
        None => file.reset_signal(),
    }
    // SAFETY: the caller's: not issued yet, so ours.
    unsafe {
        (*slot.0.as_ptr()).event = event;
        (*slot.0.as_ptr()).flags.set(flags::SIGNAL);
    }
}

/// Frees a filled slot whose operation panics before it is issued.
struct Undo(SlotPtr);

impl Drop for Undo {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: both sides are the issuer's; nobody else knows the slot.
        unsafe {
            let header = self.0.0.as_ptr();
            (*header).phase = Phase::Final;
            scope::left(self.0);
            (*header).state.complete_inline();
            (*header).flags.set(flags::TAKEN);
            finish::release(self.0);
        }
    }
}

/// Fills a new slot's header and its top location.
///
/// # Safety
/// The slot is new and the caller's; the file is alive.
#[inline]
unsafe fn fill(core: &Core, slot: SlotPtr, file: NonNull<FileObject>, major: Major, route: Route) {
    // SAFETY: the caller's.
    unsafe {
        let object = file.as_ref();
        let devices = object.stack().route(major);
        let header = &mut *slot.0.as_ptr();
        header.phase = Phase::Driver;
        header.major = major;
        header.cursor = 0;
        header.depth = devices.len() as u8;
        header.result = IoStatus { status: Status::SUCCESS, info: 0 };
        header.file = Some(file);
        header.stack = Some(NonNull::from(&**object.stack()));
        header.devices = devices.as_ptr();
        if matches!(route, Route::Future(_)) {
            header.flags.set(flags::FUTURE);
        }
        header.route = route;
        if file::enter(object, core) {
            header.flags.set(flags::LOCAL_USE);
        }
        let top = slot.location(0);
        (*top).minor = minor::NONE;
        (*top).control = 0;
        (*top).level = 0;
        (*top).len = 0;
        (*top).data = std::ptr::null_mut();
        (*top).offset = 0;
        (*top).arg = 0;
    }
}

/// Takes the result of a slot that is `DONE`, and lets go of it.
///
/// # Safety
/// The caller is the slot's requester and gives its reference up.
#[inline]
unsafe fn collect<K: Operation>(slot: SlotPtr) -> K::Output {
    /// Lets go even if `finish` panics.
    struct Release(SlotPtr);
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: the requester's reference ends here.
            unsafe {
                (*self.0.0.as_ptr()).flags.set(flags::TAKEN);
                finish::release(self.0);
            }
        }
    }
    let release = Release(slot);
    // SAFETY: a `DONE` slot's result and payload are the requester's.
    let mut done = unsafe { Done::new(slot, &mut (*release.0.0.as_ptr()).payload) };
    K::finish(&mut done)
}

/// Issues a request that nobody waits for, on the file's home, from its top. `false`: refused; the
/// file is untouched. Otherwise the file may be gone when this returns.
pub(crate) fn detached(file: NonNull<FileObject>, major: Major) -> bool {
    Core::with_current(|core| {
        if core.check_running().is_err() {
            return false;
        }
        // SAFETY: the caller says that the file is alive; it is counted as soon as it is filled in.
        unsafe {
            let depth = file.as_ref().stack().route(major).len();
            let Some(slot) = core.alloc_slot(depth) else { return false };
            fill(core, slot, file, major, Route::None);
            dispatch::issue(slot);
            finish::forget(slot);
        }
        core.pass_on();
        true
    })
    .unwrap_or(false)
}
