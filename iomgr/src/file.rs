//! File objects: one per open (O-31).
//!
//! A [`FileObject`] knows its stack, its descriptor and its bottom driver's own context. It lives as
//! long as there are handles to it ([`FileHandle`]) or requests in flight on it; then, and only
//! then, it is closed: CLEANUP when the last handle goes, CLOSE when the last request has
//! gone too.
//!
//! **Counting.** Every request counts on its file, and two atomic operations for each would be
//! most of the cost of a fast one. So the count is biased: requests issued on the file's *home*
//! processor (where it was opened) use `local`, a plain number that only the home's thread touches;
//! requests of other processors and all handles use the atomic `uses`. **Invariant:** `uses` falls
//! to zero only on the home's thread, or, when the home is gone, wherever the last one leaves:
//! whoever would make it zero elsewhere sends its reference home instead. So the home, and nobody
//! else, sees the moment when both are zero. A home that goes turns what is left in `local` into
//! foreign requests first (`adopt_out`), so that afterwards one atomic decides.
//!
//! **Closing.** A descriptor is closed when no other request counts on its file any more, so that
//! none, wherever it waits, meets another file of the same number. A close that was asked for
//! while there are others waits for them in `closer`; `CLOSING` in `uses` makes every request that
//! leaves tell the home.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::hal::Wait;
use crate::irp::{Disposition, Held, Irp, Late};
use crate::late::Kept;
use crate::major::Major;
use crate::port;
use crate::processor::{Core, Driven, Remote};
use crate::request;
use crate::serial::Serial;
use crate::stack::Stack;
use crate::status::Status;
use crate::wait::{Alertable, Object, Signal};

/// In `uses`: one handle.
const HANDLE: u64 = 1;
/// In `uses`: one request of another processor.
const FOREIGN: u64 = 1 << 32;
const HANDLES: u64 = FOREIGN - 1;
/// In `uses`: a close waits for the requests to leave. Not a count.
const CLOSING: u64 = 1 << 63;

/// What the home's thread knows of the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    /// The descriptor is being closed, or is; there may be handles.
    Asked,
    /// The last handle has gone; requests may be left.
    Cleaned,
    /// The close request is on its way.
    Closing,
}

/// An open file, socket or the like. See the module's header.
pub struct FileObject {
    id: u64,
    name: Box<str>,
    stack: Arc<Stack>,
    fd: AtomicI32,
    context: Box<dyn Any + Send + Sync>,
    home: Arc<Remote>,
    uses: AtomicU64,
    local: AtomicU32,
    /// Most requests that may count on it.
    most: AtomicU32,
    /// How many of `local` have been asked to end: a cleanup that finds all asked need not look for
    /// them. Touched by the home's thread alone.
    asked: Cell<u32>,
    ending: Cell<Ending>,
    /// Its own address, as it was allocated: what handles and requests are given, so that the last
    /// of them may free it.
    this: NonNull<FileObject>,
    late: Kept,
    closer: Mutex<Closer>,
    /// The port it reports to, and with which key (C-10, C-11).
    port: OnceLock<(Arc<port::Shared>, u64)>,
    /// Made when somebody first waits for the object (C-7).
    signal: OnceLock<Signal>,
    /// `SKIP_*`, `WATCHED` and `OPEN`.
    modes: AtomicU8,
    /// Of a synchronous one (I-35).
    serial: OnceLock<Box<Serial>>,
}

/// In `modes`: there is a signal that requests keep up to date.
const WATCHED: u8 = 0x80;
/// In `modes`: open without a descriptor.
const OPEN: u8 = 0x40;
/// In `modes`: never signalled any more (C-18).
const SKIP_SET_EVENT: u8 = 2;
/// In `modes`: no packet for immediate success (C-17).
const SKIP_ON_SUCCESS: u8 = 1;

/// A close that was asked for.
#[derive(Default)]
enum Closer {
    #[default]
    None,
    /// It waits for other requests to leave.
    Waiting(Held),
    /// There are no others, and no more come to the hardware.
    Alone,
}

// SAFETY: `ending` and `asked` are touched by the home's thread alone (module invariant), `this`
// never changes, and the rest is `Sync`.
unsafe impl Sync for FileObject {}
// SAFETY: as above.
unsafe impl Send for FileObject {}

/// Most requests of one file object, unless it says otherwise.
const REQUESTS: u32 = 1 << 20;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl FileObject {
    /// Makes a file object whose home is the calling thread's processor, not open yet (its
    /// descriptor is −1). `context` is the bottom driver's own, per open.
    ///
    /// # Errors
    /// [`Status::DEVICE_NOT_READY`] when the thread has no processor and none can be made,
    /// [`Status::SHUTDOWN_IN_PROGRESS`] when its runtime is ending.
    #[expect(clippy::new_ret_no_self, reason = "a file object exists only behind its handles")]
    pub fn new(
        stack: Arc<Stack>,
        name: &str,
        context: Box<dyn Any + Send + Sync>,
    ) -> Result<FileHandle, Status> {
        Core::with_or_create(|core| {
            core.check_running()?;
            let memory = Box::into_raw(Box::<FileObject>::new_uninit()).cast::<FileObject>();
            let this = NonNull::new(memory).expect("a box is never null");
            let file = FileObject {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                name: name.into(),
                stack,
                fd: AtomicI32::new(-1),
                context,
                home: core.remote().clone(),
                uses: AtomicU64::new(HANDLE),
                local: AtomicU32::new(0),
                most: AtomicU32::new(REQUESTS),
                asked: Cell::new(0),
                ending: Cell::new(Ending::Open),
                this,
                late: Kept::default(),
                closer: Mutex::default(),
                port: OnceLock::new(),
                signal: OnceLock::new(),
                modes: AtomicU8::new(0),
                serial: OnceLock::new(),
            };
            // SAFETY: just allocated for this.
            unsafe { memory.write(file) };
            Ok(FileHandle(this))
        })?
    }

    /// A number no other file object of this process ever had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it was opened as: a path, an address; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stack that requests on this file travel.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// The descriptor, or −1: while it is not open, and of what has none ([`FileObject::is_open`]).
    #[inline]
    pub fn fd(&self) -> i32 {
        self.fd.load(Ordering::Relaxed)
    }

    /// Bottom drivers: sets the descriptor once it is open; −1 once it is closed.
    ///
    /// # Safety
    /// The descriptor is the file object's own from now on, to use and to close; the one before is
    /// closed, or somebody else's again.
    pub unsafe fn set_fd(&self, fd: i32) {
        self.fd.store(fd, Ordering::Relaxed);
    }

    /// Whether it stands for something that is open: by a descriptor, or by [`FileObject::set_open`].
    /// Requests on one that does not are refused by its bottom driver, and it goes without cleanup and
    /// close.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.fd() >= 0 || self.modes.load(Ordering::Relaxed) & OPEN != 0
    }

    /// Bottom drivers whose files have no descriptor: says that it is open, when [`Major::Create`]
    /// succeeds; or closed, when [`Major::Close`] begins, before [`Irp::when_alone`]. Returns what it
    /// was before: of two closes one has closed it.
    pub fn set_open(&self, open: bool) -> bool {
        let before = match open {
            true => self.modes.fetch_or(OPEN, Ordering::AcqRel),
            false => self.modes.fetch_and(!OPEN, Ordering::AcqRel),
        };
        before & OPEN != 0
    }

    /// Limits the requests that count on the file object, about: those in flight, and those whose
    /// future, block or waiting thread has not taken the result (what is in a port, or is an APC that
    /// has not run, counts there). Beyond it they are refused at issue with
    /// [`Status::QUOTA_EXCEEDED`]; closing never is. About a million without this (S-19).
    ///
    /// Limits of a client with several files, in bytes too, are those of an
    /// [`IssuerScope`](crate::IssuerScope).
    pub fn limit_requests(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many requests count on the file object: see [`FileObject::limit_requests`].
    #[inline]
    pub fn requests(&self) -> u64 {
        let foreign = (self.uses.load(Ordering::Relaxed) & !CLOSING) / FOREIGN;
        u64::from(self.local.load(Ordering::Relaxed)) + foreign
    }

    /// Whether one more may be issued.
    #[inline]
    pub(crate) fn admit(&self, major: Major) -> Result<(), Status> {
        let full = self.requests() >= u64::from(self.most.load(Ordering::Relaxed));
        if full && major != Major::Close { Err(Status::QUOTA_EXCEEDED) } else { Ok(()) }
    }

    /// The bottom driver's context, if it is of this type.
    #[inline]
    pub fn context<T: Any>(&self) -> Option<&T> {
        self.context.downcast_ref::<T>()
    }

    /// Runs `work` on the home processor's thread: at once if that is the calling one. Gives it
    /// back when the home is gone.
    pub fn run_at_home(
        &self,
        work: impl FnOnce(&FileObject) + Send + 'static,
    ) -> Result<(), Status> {
        let mut work = Some(work);
        if self.home.here(|_| work.take().map(|work| work(self))).is_some() {
            return Ok(());
        }
        let (handle, work) = (self.handle(), work.take().expect("not run"));
        self.home.run(Box::new(move |_| work(&handle))).map_err(|_| Status::DELETE_PENDING)
    }

    /// Asks for an early end of every request on this file, on every processor. Does not wait.
    pub fn cancel_requests(&self) {
        let id = self.id;
        if self.has_foreign() {
            Remote::broadcast(move |core| core.cancel_file(id));
        } else if self.local.load(Ordering::Relaxed) > 0 {
            let here = self.home.here(|core| {
                if self.local.load(Ordering::Relaxed) > self.asked.get() {
                    core.cancel_file(id);
                }
            });
            if here.is_none() {
                // A home that is gone has no requests.
                let _ = self.home.run(Box::new(move |core| core.cancel_file(id)));
            }
        }
    }

    /// Cancels the requests that the calling thread has issued on this file, and waits until they are
    /// done. That there are none is a success too. For plain threads.
    ///
    /// # Errors
    /// [`Status::INVALID_HANDLE`] when the file is closed; [`Status::WOULD_DEADLOCK`] on a runtime's
    /// worker or inside a completion routine: there, use [`FileObject::cancel_io_ex`] or an
    /// [`IssuerScope`](crate::IssuerScope).
    pub fn cancel_io(&self) -> Result<(), Status> {
        if !self.is_open() {
            return Err(Status::INVALID_HANDLE);
        }
        Core::with_or_create(|core| {
            if core.driven() == Driven::Loop || core.is_inside_turn() {
                return Err(Status::WOULD_DEADLOCK);
            }
            core.cancel_file(self.id);
            while core.has_requests_on(self.id) {
                if let Err(error) = core.turn(Wait::Forever, || !core.has_requests_on(self.id)) {
                    tracing::error!(%error, "the backend failed under a waiting thread");
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            Ok(())
        })?
    }

    /// Cancels every request on this file, of all threads. Does not wait; each reports as ever,
    /// with whatever comes of it.
    ///
    /// # Errors
    /// [`Status::NOT_FOUND`]: there is none. A finished one whose future nobody has polled since counts
    /// as one.
    pub fn cancel_io_ex(&self) -> Result<(), Status> {
        if !self.has_foreign() && self.local.load(Ordering::Relaxed) == 0 {
            return Err(Status::NOT_FOUND);
        }
        self.cancel_requests();
        Ok(())
    }

    /// Bottom drivers: takes the hardware's requests of one major back, on every processor, without
    /// cancelling them: each comes to [`crate::Driver::hardware`] with [`Status::CANCELLED`] (or
    /// whatever it got before), and may be submitted again.
    pub fn interrupt(&self, major: Major) {
        let id = self.id;
        if self.has_foreign() {
            Remote::broadcast(move |core| core.interrupt_file(id, major));
        } else if self.home.here(|core| core.interrupt_file(id, major)).is_none() {
            // A home that is gone has no requests.
            let _ = self.home.run(Box::new(move |core| core.interrupt_file(id, major)));
        }
    }

    /// Bottom drivers of streams, in [`crate::Driver::abandoned`]: keeps the read's result for a later
    /// read to get. That read fetches it by completing with [`Status::DATA_ABOVE`]. `whole`: it is a
    /// message, not a part of a stream. The companion is taken.
    pub fn keep_late(&self, late: &mut Late<'_>, whole: bool) {
        self.late.keep(late, whole);
    }

    /// Whether anything is kept by [`FileObject::keep_late`].
    #[inline]
    pub fn has_late(&self) -> bool {
        self.late.any()
    }

    pub(crate) fn late(&self) -> &Kept {
        &self.late
    }

    /// Makes the file object a synchronous one (I-35): its requests go one at a time, in the order of
    /// their arrival, and those that name no offset (`u64::MAX`) read and write at its current one,
    /// which each request leaves behind its last byte. To be called before the first request.
    ///
    /// `alertable`: APCs of a thread that waits for one of its requests cancel that request; the call
    /// returns when it is done (I-38).
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when it is synchronous already, or associated with a port (C-10).
    pub fn make_synchronous(&self, alertable: Alertable) -> Result<(), Status> {
        if self.port.get().is_some() {
            return Err(Status::INVALID_PARAMETER);
        }
        let serial = Box::new(Serial::new(alertable));
        self.serial.set(serial).map_err(|_| Status::INVALID_PARAMETER)
    }

    /// The current byte offset of a synchronous file object; `None` of others (I-35).
    pub fn current_offset(&self) -> Option<u64> {
        self.serial().map(Serial::offset)
    }

    /// Sets the current byte offset.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when the file object is not synchronous.
    pub fn set_current_offset(&self, offset: u64) -> Result<(), Status> {
        self.serial().ok_or(Status::INVALID_PARAMETER)?.set_offset(offset);
        Ok(())
    }

    #[inline]
    pub(crate) fn serial(&self) -> Option<&Serial> {
        self.serial.get().map(|serial| &**serial)
    }

    /// C-10.
    pub(crate) fn associate(&self, port: Arc<port::Shared>, key: u64) -> Result<(), Status> {
        if self.serial().is_some() {
            return Err(Status::INVALID_PARAMETER);
        }
        self.port.set((port, key)).map_err(|_| Status::INVALID_PARAMETER)
    }

    /// The port it is associated with, and the key.
    pub(crate) fn port(&self) -> Option<(Arc<port::Shared>, u64)> {
        self.port.get().cloned()
    }

    /// From now on a request on this file that succeeds at once yields no packet: its result is the
    /// return of [`Request::packet`](crate::Request::packet) (C-17). Cannot be taken back (C-19).
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when the file object is synchronous (C-19).
    pub fn skip_packet_on_success(&self) -> Result<(), Status> {
        self.set_mode(SKIP_ON_SUCCESS)
    }

    fn set_mode(&self, mode: u8) -> Result<(), Status> {
        if self.serial().is_some() {
            return Err(Status::INVALID_PARAMETER);
        }
        self.modes.fetch_or(mode, Ordering::SeqCst);
        Ok(())
    }

    /// From now on the file object is not signalled any more when a request is done, and is not
    /// signalled at this moment; events of requests are set as ever (C-18). Cannot be taken back
    /// (C-19).
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when the file object is synchronous (C-19).
    pub fn skip_signal(&self) -> Result<(), Status> {
        self.set_mode(SKIP_SET_EVENT)?;
        if let Some(signal) = self.signal.get() {
            signal.reset();
        }
        Ok(())
    }

    pub(crate) fn skips_packet_on_success(&self) -> bool {
        self.modes.load(Ordering::Relaxed) & SKIP_ON_SUCCESS != 0
    }

    /// Whether requests must keep the signal up to date.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.modes.load(Ordering::Relaxed) & WATCHED != 0
    }

    /// A request has been issued (C-7).
    pub(crate) fn reset_signal(&self) {
        if let Some(signal) = self.signal.get() {
            signal.reset();
        }
    }

    /// A request is done.
    pub(crate) fn set_signal(&self) {
        if self.modes.load(Ordering::SeqCst) & SKIP_SET_EVENT == 0
            && let Some(signal) = self.signal.get()
        {
            signal.set();
        }
    }

    fn has_foreign(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & !CLOSING >= FOREIGN
    }

    fn closer(&self) -> MutexGuard<'_, Closer> {
        // Nothing in here panics while it holds the lock.
        self.closer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The close `irp` waits until no other request counts on the file; then it is dispatched again,
    /// or, if that is so already, given back. No further request reaches the hardware: the
    /// descriptor has been taken away before.
    pub(crate) fn wait_until_alone(irp: Irp<'_>) -> Result<Irp<'_>, Disposition> {
        // A request of another processor that is counted later sees by this that the descriptor is
        // gone (`enter`).
        let uses = irp.file().uses.fetch_or(CLOSING, Ordering::AcqRel);
        let is_alone = uses & !CLOSING < FOREIGN
            && irp.file().home.is_current()
            && irp.file().local.load(Ordering::Relaxed) == 1;
        let file = irp.file().handle();
        let (held, disposition) = {
            let mut closer = file.closer();
            if is_alone {
                *closer = Closer::Alone;
            }
            if matches!(*closer, Closer::Alone) {
                return Ok(irp);
            }
            let (held, disposition) = irp.hold();
            if matches!(*closer, Closer::Waiting(_)) {
                // Somebody else closes it already.
                (Some(held), disposition)
            } else {
                *closer = Closer::Waiting(held);
                (None, disposition)
            }
        };
        if let Some(held) = held {
            held.complete(Status::FILE_CLOSED, 0);
            return Err(disposition);
        }
        let at_home = |file: &FileObject| {
            if file.ending.get() == Ending::Open {
                file.ending.set(Ending::Asked);
            }
            file.let_closer_go(file.local.load(Ordering::Relaxed));
        };
        // What lives here is `file`, so that nothing is freed meanwhile.
        if file.run_at_home(at_home).is_err() {
            file.let_closer_go(0);
        }
        Err(disposition)
    }

    /// Lets a close go on if it is the only request. On the home's thread; or the home is gone.
    #[cold]
    fn let_closer_go(&self, local: u32) {
        let foreign = (self.uses.load(Ordering::Acquire) & !CLOSING) / FOREIGN;
        if foreign + u64::from(local) > 1 {
            return;
        }
        let held = {
            let mut closer = self.closer();
            match std::mem::replace(&mut *closer, Closer::Alone) {
                Closer::Waiting(held) => held,
                before => {
                    *closer = before;
                    return;
                }
            }
        };
        held.redispatch();
    }

    pub(crate) fn address(&self) -> NonNull<FileObject> {
        self.this
    }

    /// Another handle to this file object; only called while a handle or request keeps it.
    pub fn handle(&self) -> FileHandle {
        self.uses.fetch_add(HANDLE, Ordering::Relaxed);
        FileHandle(self.this)
    }
}

/// C-7: signalled when a request on the file that carries no event of its own is done, and not any
/// more when the next one is issued; before the first one, signalled. With several in flight it says
/// only that something is done.
///
/// Kept from the first wait on: before, it is taken to be signalled if no request is in flight.
impl Object for FileObject {
    fn signal(&self) -> &Signal {
        let signal = self.signal.get_or_init(|| {
            let idle = !self.has_foreign() && self.local.load(Ordering::Relaxed) == 0;
            let skips = self.modes.load(Ordering::SeqCst) & SKIP_SET_EVENT != 0;
            Signal::new(false, idle && !skips)
        });
        self.modes.fetch_or(WATCHED, Ordering::SeqCst);
        signal
    }
}

impl Object for FileHandle {
    fn signal(&self) -> &Signal {
        (**self).signal()
    }
}

impl fmt::Debug for FileObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileObject")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

/// A handle to a file object; clones share it, the last one to go closes it.
pub struct FileHandle(NonNull<FileObject>);

// SAFETY: `FileObject` is `Send + Sync`, and the count is atomic.
unsafe impl Send for FileHandle {}
// SAFETY: as above.
unsafe impl Sync for FileHandle {}

impl FileHandle {
    /// When the last handle goes, requests in flight will go on, and the last of them closes the
    /// file. On the home's thread, when nobody else knows the file yet.
    pub(crate) fn leave_out_cleanup(&self) {
        assert!(self.home.is_current(), "a request's own file object belongs to its issuer");
        self.ending.set(Ending::Cleaned);
    }
}

impl Deref for FileHandle {
    type Target = FileObject;
    #[inline]
    fn deref(&self) -> &FileObject {
        // SAFETY: this handle is counted.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for FileHandle {
    fn clone(&self) -> FileHandle {
        self.handle()
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        // The last handle must not simply be subtracted: see the module's invariant.
        let mut now = self.uses.load(Ordering::Relaxed);
        while now & HANDLES > 1 {
            match self.uses.compare_exchange_weak(
                now,
                now - HANDLE,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
        // SAFETY: the reference goes along.
        unsafe { send_home(self.0, HANDLE) };
    }
}

struct Parcel(NonNull<FileObject>);
// SAFETY: `FileObject` is `Send + Sync`; the parcel carries one counted reference.
unsafe impl Send for Parcel {}

/// Gives one reference of the given kind up, on the home's thread.
///
/// # Safety
/// The caller owns it.
unsafe fn send_home(file: NonNull<FileObject>, kind: u64) {
    // SAFETY: the reference keeps it.
    let home = unsafe { file.as_ref() }.home.clone();
    if home.is_current() {
        // SAFETY: on the home's thread, with the reference.
        Core::with_current(|core| unsafe { arrive(core, file, kind) });
        return;
    }
    let parcel = Parcel(file);
    let work = move |core: &Core| {
        let parcel = parcel;
        // SAFETY: `run` calls this on the home's thread.
        unsafe { arrive(core, parcel.0, kind) };
    };
    if home.run(Box::new(work)).is_err() {
        // SAFETY: the home is gone, and the reference is ours.
        unsafe { leave_without_home(file, kind) };
    }
}

/// Gives one reference up when the home is gone, or going: all are in `uses`, and whoever takes the
/// last one closes.
///
/// # Safety
/// The caller owns the reference.
unsafe fn leave_without_home(file: NonNull<FileObject>, kind: u64) {
    // SAFETY: the reference keeps the file until it is replaced by one of our own, which does until
    // it is given up.
    unsafe {
        let object = file.as_ref();
        object.uses.fetch_add(HANDLE, Ordering::Relaxed);
        if object.uses.fetch_sub(kind, Ordering::AcqRel) & CLOSING != 0 {
            object.let_closer_go(0);
        }
        if object.uses.fetch_sub(HANDLE, Ordering::AcqRel) & !CLOSING == HANDLE {
            close_without_home(file);
        }
    }
}

/// A reference has come home to die.
unsafe fn arrive(core: &Core, file: NonNull<FileObject>, kind: u64) {
    if !core.counts_locally.get() {
        // The home is going: others may be closing the file at this moment.
        // SAFETY: the caller's.
        return unsafe { leave_without_home(file, kind) };
    }
    // SAFETY: on the home's thread; the reference keeps the file until it is subtracted, and after
    // that, as only this thread can see zero, until `maybe_close`.
    unsafe {
        let object = file.as_ref();
        if kind == HANDLE
            && object.uses.load(Ordering::Acquire) & HANDLES == 1
            && matches!(object.ending.get(), Ending::Open | Ending::Asked)
        {
            object.ending.set(Ending::Cleaned);
            cleanup(object);
        }
        object.uses.fetch_sub(kind, Ordering::AcqRel);
        maybe_close(file);
    }
}

/// the last handle has gone; what is in flight ends early, filters that care are told.
fn cleanup(file: &FileObject) {
    file.cancel_requests();
    if file.is_open() && file.stack.hooks(Major::Cleanup) {
        request::detached(file.this, Major::Cleanup);
    }
}

unsafe fn maybe_close(file: NonNull<FileObject>) {
    // SAFETY: on the home's thread, which alone sees both counts (module invariant).
    unsafe {
        let object = file.as_ref();
        let local = object.local.load(Ordering::Relaxed);
        let uses = object.uses.load(Ordering::Acquire);
        if uses & CLOSING != 0 {
            object.let_closer_go(local);
        }
        if local != 0 || uses & !CLOSING != 0 {
            return;
        }
        if object.ending.get() == Ending::Closing || !object.is_open() {
            Core::free_file(Box::from_raw(file.as_ptr()));
            return;
        }
        object.ending.set(Ending::Closing);
        // `file` may be gone when this returns: the request was the last to leave.
        if !request::detached(file, Major::Close) {
            close_without_home(file);
        }
    }
}

unsafe fn close_without_home(file: NonNull<FileObject>) {
    // SAFETY: the last reference is ours, and there is no request: one was refused or none can be
    // made.
    unsafe {
        let object = file.as_ref();
        if object.is_open() {
            // The driver may make handles of its own.
            object.uses.fetch_add(HANDLE, Ordering::Relaxed);
            object.stack.bottom().driver().close_now(object);
            if object.uses.fetch_sub(HANDLE, Ordering::AcqRel) & !CLOSING != HANDLE {
                return;
            }
        }
        Core::free_file(Box::from_raw(file.as_ptr()));
    }
}

/// Counts a new request on the file. The result goes to [`leave`].
#[inline]
pub(crate) fn enter(file: &FileObject, core: &Core) -> bool {
    if file.home.is(core) {
        // No read-modify-write: only the home's thread writes it while the home lives.
        file.local.store(file.local.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    } else {
        enter_foreign(file);
        false
    }
}

/// Counts a request of another processor on the file.
#[inline]
pub(crate) fn enter_foreign(file: &FileObject) {
    // Acquire: see `wait_until_alone`.
    file.uses.fetch_add(FOREIGN, Ordering::Acquire);
}

/// A local request has been asked to end.
///
/// # Safety
/// On the home's thread; the request is counted by [`enter`] as local.
pub(crate) unsafe fn note_asked(file: NonNull<FileObject>) {
    // SAFETY: the count keeps the file.
    let asked = unsafe { &file.as_ref().asked };
    asked.set(asked.get() + 1);
}

/// Counts a request off. `asked`: [`note_asked`] was called for it.
///
/// # Safety
/// It was counted by [`enter`] with the given result, on this thread; or, not local, by
/// [`enter_foreign`].
#[inline]
pub(crate) unsafe fn leave(file: NonNull<FileObject>, local: bool, asked: bool) {
    // SAFETY: the count keeps the file until it is taken off; see `arrive`.
    unsafe {
        let object = file.as_ref();
        if local {
            object.local.store(object.local.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            if asked {
                object.asked.set(object.asked.get() - 1);
            }
            if object.ending.get() != Ending::Open {
                maybe_close(file);
            }
            return;
        }
        let mut now = object.uses.load(Ordering::Relaxed);
        // The last one, or one that a close waits for, goes home.
        while now != FOREIGN && now & CLOSING == 0 {
            match object.uses.compare_exchange_weak(
                now,
                now - FOREIGN,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
        send_home(file, FOREIGN);
    }
}

/// The home goes: a request that counts as local counts as foreign from now on.
///
/// # Safety
/// On the home's thread; the request was counted as local, and is not any more.
pub(crate) unsafe fn adopt_out(file: NonNull<FileObject>) {
    // SAFETY: the count keeps the file.
    let object = unsafe { file.as_ref() };
    object.uses.fetch_add(FOREIGN, Ordering::AcqRel);
    object.local.store(object.local.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
}
