//! File objects: one per open (O-31).
//!
//! A [`FileObject`] knows its stack, its descriptor and its bottom driver's own context. It lives as
//! long as there are handles to it ([`FileHandle`]) or requests in flight on it; then, and only
//! then, it is closed: CLEANUP when the last handle goes, CLOSE when the last request has
//! gone too.
//!
//! How they are counted is in `count.rs`, how a close waits for requests in `closing.rs`, and what
//! comes of both in `rundown.rs`.

mod change;
mod closing;
mod context;
mod count;
mod opens;
mod rundown;

pub use rundown::FileHandle;
pub(crate) use rundown::{adopt_out, enter, enter_foreign, leave_foreign, leave_local, note_asked};

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use change::Changing;
pub use change::{Attachment, Change, ChangeError, Place};
use closing::Closer;
use context::Context;
use count::Count;
use opens::Opens;

use crate::hal::Wait;
use crate::instances::{self, Instances};
use crate::irp::{Held, Late};
use crate::late::Kept;
use crate::major::Major;
use crate::panics::log;
use crate::port;
use crate::processor::{Core, Driven, Remote};
use crate::serial::Serial;
use crate::stack::{Device, Stack};
use crate::status::Status;
use crate::wait::{Object, Signal};

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

/// An open file, socket or the like (O-31): what files and sockets of `overlapped` are handles of, and
/// what a driver sees as [`View::file`](crate::View::file).
///
/// It knows its stack, its descriptor and its bottom driver's own context. It lives as long as there
/// are handles of it ([`FileHandle`]) or requests in flight on it; then, and only then, it is closed
/// a cleanup request when the last handle goes, a close request when the last request has gone
/// too.
// What a request touches comes first, in about three cache lines: after a sleep none is in the cache. What
// the bottom and the filters keep for the file stands before the stack, for it is dropped before them.
#[repr(C)]
pub struct FileObject {
    fd: AtomicI32,
    /// Most requests that may count on it.
    most: AtomicU32,
    /// How many of the home's requests have been asked to end: a cleanup that finds all asked need
    /// not look for them. Touched by the home's thread alone.
    asked: Cell<u32>,
    ending: Cell<Ending>,
    /// `SKIP_*`, `SEEKABLE`, `APPENDS`, `MESSAGES`, `OPEN`, `CLEANED` and `WATCHED`.
    modes: AtomicU8,
    count: Count,
    home: Arc<Remote>,
    /// Its own address, as it was allocated: what handles and requests are given, so that the last
    /// of them may free it.
    this: NonNull<FileObject>,
    /// Of a synchronous one (I-35).
    pub(crate) serial: OnceLock<Box<Serial>>,
    context: Context,
    /// What filters keep for it. Goes before them.
    opens: OnceLock<Arc<Opens>>,
    stack: Changing,
    late: Kept,
    id: u64,
    name: Box<str>,
    closer: Closer<Held>,
    /// The port it reports to, and with which key (C-10, C-11).
    port: OnceLock<(Arc<port::Shared>, u64)>,
    /// Made when somebody first waits for the object (C-7).
    signal: OnceLock<Signal>,
    /// The lists that it is in, of filters that go on every stack.
    lists: Box<[Arc<Instances>]>,
}

#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(FileObject, id) <= 192);

/// In `modes`: there is a signal that requests keep up to date.
const WATCHED: u8 = 0x80;
/// In `modes`: open without a descriptor.
const OPEN: u8 = 0x40;
/// In `modes`: what it carries are messages.
const MESSAGES: u8 = 0x20;
/// In `modes`: the drivers have been told that the last handle has gone, or that it is being closed.
const CLEANED: u8 = 0x10;
/// In `modes`: never signalled any more (C-18).
const SKIP_SET_EVENT: u8 = 2;
/// In `modes`: no packet for immediate success (C-17).
const SKIP_ON_SUCCESS: u8 = 1;
/// In `modes`: its bytes have offsets.
const SEEKABLE: u8 = 4;
/// In `modes`: every write goes to the end.
const APPENDS: u8 = 8;

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
    /// descriptor is −1). `context` is the bottom driver's own, per open. Beside the filters of the stack it
    /// gets those that go on every stack ([`register_filter`](crate::register_filter)).
    ///
    /// # Errors
    /// [`Status::DEVICE_NOT_READY`] when the thread has no processor and none can be made,
    /// [`Status::SHUTDOWN_IN_PROGRESS`] when its runtime is ending; what
    /// [`register_filter`](crate::register_filter) says.
    #[expect(clippy::new_ret_no_self, reason = "a file object exists only behind its handles")]
    pub fn new(
        stack: Arc<Stack>,
        name: &str,
        context: Box<dyn Any + Send + Sync>,
    ) -> Result<FileHandle, Status> {
        // Drivers' code, before anything is to be undone.
        let (stack, instances) = instances::set_up(stack, name)?;
        let file = Self::with(stack, name, context, instances::lists(&instances))?;
        if !instances.is_empty() {
            instances::list(&file, instances);
        }
        Ok(file)
    }

    /// As [`FileObject::new`], of a file that is none of a program's: with these drivers alone.
    pub(crate) fn internal(stack: Arc<Stack>) -> Result<FileHandle, Status> {
        Self::with(stack, "", Box::new(()), Box::default())
    }

    fn with(
        stack: Arc<Stack>,
        name: &str,
        context: Box<dyn Any + Send + Sync>,
        lists: Box<[Arc<Instances>]>,
    ) -> Result<FileHandle, Status> {
        Core::with_or_create(|core| {
            core.check_running()?;
            let memory = Box::into_raw(Box::<FileObject>::new_uninit()).cast::<FileObject>();
            let this = NonNull::new(memory).expect("a box is never null");
            let file = FileObject {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                name: name.into(),
                stack: Changing::new(stack),
                fd: AtomicI32::new(-1),
                context: Context::new(context),
                home: core.remote().clone(),
                count: Count::new(),
                most: AtomicU32::new(REQUESTS),
                asked: Cell::new(0),
                ending: Cell::new(Ending::Open),
                this,
                late: Kept::default(),
                closer: Closer::new(),
                port: OnceLock::new(),
                signal: OnceLock::new(),
                modes: AtomicU8::new(0),
                opens: OnceLock::new(),
                serial: OnceLock::new(),
                lists,
            };
            // SAFETY: just allocated for this.
            unsafe { memory.write(file) };
            Ok(FileHandle::counted(this))
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
    /// succeeds; or closed, when [`Major::Close`] begins, before [`Irp::when_alone`](crate::Irp::when_alone). Returns what it
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
        u64::from(self.count.local()) + self.count.foreign()
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
        self.context.get()
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
        if self.count.foreign() > 0 {
            Remote::broadcast(move |core| core.cancel_file(id));
        } else if self.count.local() > 0 {
            let here = self.home.here(|core| {
                if self.count.local() > self.asked.get() {
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
                    log(|| tracing::error!(%error, "the backend failed under a waiting thread"));
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
        if self.count.foreign() == 0 && self.count.local() == 0 {
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
        if self.count.foreign() > 0 {
            Remote::broadcast(move |core| core.interrupt_file(id, major));
        } else if self.home.here(|core| core.interrupt_file(id, major)).is_none() {
            // A home that is gone has no requests.
            let _ = self.home.run(Box::new(move |core| core.interrupt_file(id, major)));
        }
    }

    /// As [`FileObject::interrupt`], in each processor's next turn. `begins` is called whenever one
    /// begins with it: requests that it gets from then on are not taken back.
    pub fn interrupt_later(&self, major: Major, begins: impl Fn() + Send + Sync + 'static) {
        let id = self.id;
        let work = move |core: &Core| {
            begins();
            core.interrupt_file(id, major);
        };
        if self.count.foreign() > 0 {
            Remote::broadcast(work);
        } else {
            // A home that is gone has no requests.
            let _ = self.home.run(Box::new(work));
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

    /// Bottom drivers: says that the file's bytes have offsets, so that reads and writes must name one
    /// unless the file object is synchronous (I-36). To be called when the file is opened. Streams,
    /// pipes and terminals have none.
    pub fn set_seekable(&self) {
        self.modes.fetch_or(SEEKABLE, Ordering::SeqCst);
    }

    /// Bottom drivers: says that every write goes to the end of the file, whatever offset it names. To
    /// be called when the file is opened.
    pub fn set_appends(&self) {
        self.modes.fetch_or(APPENDS, Ordering::SeqCst);
    }

    /// Bottom drivers: says that what one read or write carries is a message, which has bounds (a
    /// datagram, the bytes of a counter), so that no driver cuts it or joins two. To be called when the
    /// file object is made.
    pub fn set_messages(&self) {
        self.modes.fetch_or(MESSAGES, Ordering::SeqCst);
    }

    /// Whether what one read or write carries is a message ([`FileObject::set_messages`]).
    #[inline]
    pub fn has_messages(&self) -> bool {
        self.modes.load(Ordering::Relaxed) & MESSAGES != 0
    }

    /// Whether the file's bytes have offsets ([`FileObject::set_seekable`]).
    #[inline]
    pub fn is_seekable(&self) -> bool {
        self.modes.load(Ordering::Relaxed) & SEEKABLE != 0
    }

    /// Whether every write goes to the end of the file ([`FileObject::set_appends`]).
    #[inline]
    pub fn appends(&self) -> bool {
        self.modes.load(Ordering::Relaxed) & APPENDS != 0
    }

    /// What the driver keeps for this file.
    #[inline]
    pub(crate) fn open_state<T: Default + Send + Sync + 'static>(&self, device: &Device) -> &T {
        if size_of::<T>() == 0 && !std::mem::needs_drop::<T>() {
            std::mem::forget(T::default());
            // SAFETY: a value without bytes, which has been made and is not dropped.
            return unsafe { NonNull::dangling().as_ref() };
        }
        self.opens().get(device.key())
    }

    fn opens(&self) -> &Arc<Opens> {
        self.opens.get_or_init(|| Arc::new(Opens::new()))
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

    /// Whether it has been closed, or is being closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.count.is_closing()
    }

    pub(crate) fn address(&self) -> NonNull<FileObject> {
        self.this
    }

    /// Another handle to this file object; only called while a handle or request keeps it.
    pub fn handle(&self) -> FileHandle {
        self.count.add_handle();
        FileHandle::counted(self.this)
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
            let idle = self.count.foreign() == 0 && self.count.local() == 0;
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
            .field("stack", &self.stack())
            .finish_non_exhaustive()
    }
}
