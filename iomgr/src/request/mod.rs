//! Requests: what an application builds, and how the result reports.
//!
//! Building a [`Request`] and choosing its route are two acts. A request is inert until it is
//! awaited (`future.rs`), [waited for](Request::wait), or [posted](Request::post) to a port; then an
//! IRP is made on the calling thread's processor, the operation moves into it, and it is issued.
//! Exactly one result comes back by exactly one route (I-34).
//!
//! Reads next: `operation.rs`, what a request does; `issue.rs`, how it becomes an IRP; then
//! [`crate::irp`]'s `dispatch`, where the IRP goes.

mod apc;
mod block;
mod future;
mod issue;
mod operation;
mod routes;
mod tell;

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

pub use block::Block;
pub(crate) use issue::detached;
pub use operation::{Done, Operation, Setup};
pub use routes::{Cancel, Issued};
pub(crate) use tell::Tell;

use crate::file::{FileHandle, FileObject};
use crate::irp::View;
use crate::irp::slot::SlotPtr;
use crate::port::{CompletionPort, Rights};
use crate::stack::{Device, Stack};
use crate::status::Status;
use crate::wait::Event;

/// An operation on a file object, not issued yet.
///
/// It does nothing until its route is chosen, by which its one result will come (I-34): it is awaited,
/// [waited for](Request::wait) on a plain thread, [posted](Request::post) to a port, reports to the port
/// that its file [is associated with](Request::packet), [sets an event](Request::signal), [calls
/// back](Request::queue_apc), or is [looked at](Request::start). Then it is issued on the calling
/// thread's processor. [`Request::deadline`], [`Request::event`] and [`Request::tee`] come before that.
#[must_use = "a request does nothing unless awaited, waited for or posted"]
pub struct Request<'f, K> {
    // Beside the operation, so that only that moves when the request is issued. Dropped by `Drop`, at a
    // glance: there is nothing left of a request that has been issued.
    file: ManuallyDrop<Target<'f>>,
    extras: ManuallyDrop<Extras>,
    state: State<K>,
}

enum State<K> {
    Ready(K),
    Issued(SlotPtr),
    Done,
}

impl<K> State<K> {
    /// The operation of a request that is ready, which the caller has seen.
    #[inline(always)]
    fn take(&mut self) -> K {
        match std::mem::replace(self, State::Done) {
            State::Ready(operation) => operation,
            State::Issued(_) | State::Done => unreachable!("the caller has looked"),
        }
    }
}

/// What a request may have beside its operation.
#[derive(Default)]
struct Extras {
    deadline: Option<Instant>,
    tell: Option<Tell>,
    below: Option<Start>,
}

/// Where a driver's own request starts: below that driver, in the stack of the request it makes it for.
#[derive(Clone, Copy)]
struct Start {
    stack: NonNull<Stack>,
    device: NonNull<Device>,
    /// What it writes is to be on the medium when it completes, as what it writes it for.
    write_through: bool,
}

// SAFETY: addresses; whoever makes a request answers for them.
unsafe impl Send for Start {}

/// The file object of a request that is not issued; an issued one counts on it by itself.
enum Target<'f> {
    Borrowed(&'f FileObject),
    Owned(FileHandle),
    /// To be made when the request is issued. In two boxes, so that it costs the others nothing.
    New(Box<Make>),
    /// The request has been issued: it keeps the file object by itself.
    Gone,
}

type Make = Box<dyn FnOnce() -> Result<FileHandle, Status> + Send>;

impl Target<'_> {
    /// Lets go of a file object that is the request's own.
    #[inline]
    fn leave(&mut self) {
        if !matches!(self, Target::Borrowed(_)) {
            *self = Target::Gone;
        }
    }

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
            Target::New(_) | Target::Gone => {
                unreachable!("made, and not issued, when it is looked at")
            }
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
        Self::with(Target::Borrowed(file), operation)
    }

    /// Builds a request that keeps the file object by itself, and so may outlive its handles.
    pub fn owned(file: FileHandle, operation: K) -> Request<'static, K> {
        Request::with(Target::Owned(file), operation)
    }

    /// Builds a request on a file object of its own, which `make` makes when the request is issued,
    /// and which goes when the request has ended: how an operation that opens nothing (on a path,
    /// for instance) travels a stack. An error of `make` refuses the request.
    ///
    /// ```
    /// # mod overlapped { pub use overlapped_iomgr as driver; pub use overlapped_iomgr::*; }
    /// use overlapped::driver::{Done, FileObject, Major, Setup, Stack};
    /// use overlapped::{Operation, Request, Status};
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
        Request::with(Target::New(Box::new(Box::new(make))), operation)
    }

    #[inline]
    fn with(file: Target<'f>, operation: K) -> Self {
        let (file, extras) = (ManuallyDrop::new(file), ManuallyDrop::default());
        Request { file, extras, state: State::Ready(operation) }
    }

    /// Builds a driver's own request, which starts below that driver.
    ///
    /// # Safety
    /// For as long as this is not issued, the request `slot` is in flight, and the device, the driver's,
    /// has it or waits for it. It is issued on that request's processor.
    pub(crate) unsafe fn below(slot: SlotPtr, device: &Device, operation: K) -> Self {
        // SAFETY: the caller's: so its file, its stack and its device are there.
        let (file, start) = unsafe {
            let header = slot.0.as_ptr();
            let stack = (*header).stack.expect("in flight");
            let file = (*header).file.expect("in flight");
            let write_through = View::of(&slot).is_write_through();
            (file.as_ref(), Start { stack, device: NonNull::from(device), write_through })
        };
        let mut request = Self::with(Target::Borrowed(file), operation);
        request.extras.below = Some(start);
        request
    }

    /// Asks for an early end of a request that has been issued and that nobody has taken.
    pub(crate) fn cancel_issued(&self) {
        if let State::Issued(slot) = self.state {
            // SAFETY: an issued request holds the requester's reference.
            unsafe { Cancel::of((*slot.0.as_ptr()).core.as_ref(), slot) }.cancel();
        }
    }

    /// Asks for an early end after `limit` from now: the request is then cancelled, and its result
    /// is [`Status::IO_TIMEOUT`] (`ErrorKind::TimedOut`) unless it finished all the same (X-5).
    ///
    /// Without effect on a request that has been issued.
    pub fn deadline(mut self, limit: Duration) -> Self {
        // A limit too far to express is none.
        self.extras.deadline = crate::clock::now().checked_add(limit);
        self
    }

    /// Has the event set when the request is done, whatever its route (C-3, C-6): it is reset when the
    /// request is issued, and set after the result is there and before packet or APC (I-28). The file
    /// object is not signalled then (I-33). An error at once leaves it reset (I-31), as does a refusal; if
    /// the file object itself cannot be made, or is closed, the event is left alone (I-39).
    ///
    /// Without effect on a request that has been issued.
    pub fn event(mut self, event: &Event) -> Self {
        if let State::Ready(_) = self.state {
            self.extras.tell = Some(Tell::with_event(self.extras.tell.take(), event.clone()));
        }
        self
    }

    /// Has a copy of the result, status and information without the buffer, queued to a port as a packet
    /// with `key`, beside the request's route (C-6, C-40): a log, a counter, a watcher. The copy comes once,
    /// unless the request fails at once (I-31), after the event and before the route's own news (I-28);
    /// it comes also if the requester has left. [`Packet::into_output`](crate::Packet::into_output) has
    /// nothing to give of it.
    ///
    /// The port's limit counts it from the issue on: a request whose copy has no room is refused with
    /// [`Status::QUOTA_EXCEEDED`], and with [`Status::ACCESS_DENIED`] if the handle of the port may not
    /// be posted to. An APC and a port exclude each other all the same
    /// ([`Request::queue_apc`], [`Status::INVALID_PARAMETER`]).
    ///
    /// Without effect on a request that has been issued. The last port counts.
    ///
    /// ```
    /// # use overlapped_iomgr::{Done, FileObject, Major, Operation, Request, Setup, Stack, Status};
    /// # struct Bottom;
    /// # impl overlapped_iomgr::Driver for Bottom {
    /// #     fn name(&self) -> &str { "bottom" }
    /// #     fn hooks(&self) -> overlapped_iomgr::MajorSet { overlapped_iomgr::MajorSet::ALL }
    /// #     fn dispatch(&self, irp: overlapped_iomgr::Irp<'_>, _: overlapped_iomgr::Lower<'_>)
    /// #         -> overlapped_iomgr::Disposition { irp.complete(Status::SUCCESS, 0) }
    /// # }
    /// # struct Flush;
    /// # impl Operation for Flush {
    /// #     type Output = Status;
    /// #     fn major(&self) -> Major { Major::Flush }
    /// #     fn prepare(self, _: &mut Setup<'_>) {}
    /// #     fn finish(done: &mut Done<'_>) -> Status { done.status() }
    /// #     fn refuse(self, status: Status) -> Status { status }
    /// # }
    /// # let stack = Stack::new([], std::sync::Arc::new(Bottom)).unwrap();
    /// # let request = Request::on_its_own(|| FileObject::new(stack, "", Box::new(())), Flush);
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::CompletionPort;
    ///
    /// let watcher = CompletionPort::new();
    /// let request = request.tee(&watcher, 7);
    /// // No hardware here: no processor can be made.
    /// assert_eq!(request.wait(), Status::DEVICE_NOT_READY);
    /// assert_eq!(watcher.depth(), 0);
    /// ```
    pub fn tee(mut self, port: &CompletionPort, key: u64) -> Self {
        if let State::Ready(_) = self.state {
            let allowed = port.check(Rights::MODIFY);
            let (port, before) = (port.shared().clone(), self.extras.tell.take());
            self.extras.tell = Some(Tell::with_port(before, port, key, allowed));
        }
        self
    }
}
