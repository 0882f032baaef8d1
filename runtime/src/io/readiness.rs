//! Waiting for the readiness of descriptors whose I/O others do.

use std::fmt;
use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use overlapped_drivers::bottom::{self, PipeContext};
use overlapped_drivers::class::PollEvents;
use overlapped_drivers::hal::{self, system};
use overlapped_iomgr::{
    Done, FileHandle, FileObject, Major, Operation, Request, Setup, Stack, Status,
};

use super::plain_stack;

/// What a descriptor is, or is to be, ready for: `poll(2)`'s events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Events(u32);

impl Events {
    /// Reading does not wait: there is something, or the end, or an error.
    pub const READABLE: Events = Events(libc::POLLIN as u32);
    /// Writing does not wait.
    pub const WRITABLE: Events = Events(libc::POLLOUT as u32);
    /// There is something out of the ordinary (`POLLPRI`).
    pub const PRIORITY: Events = Events(libc::POLLPRI as u32);
    /// The other side writes no more (`POLLRDHUP`).
    pub const READ_CLOSED: Events = Events(libc::POLLRDHUP as u32);
    /// The other side is gone (`POLLHUP`). Always reported, asked for or not.
    pub const CLOSED: Events = Events(libc::POLLHUP as u32);
    /// There is an error (`POLLERR`). Always reported, asked for or not.
    pub const ERROR: Events = Events(libc::POLLERR as u32);

    /// Whether all of `events` are among these.
    ///
    /// ```
    /// use overlapped::io::Events;
    /// let both = Events::READABLE | Events::WRITABLE;
    /// assert!(both.contains(Events::WRITABLE) && !both.contains(Events::ERROR));
    /// ```
    pub const fn contains(self, events: Events) -> bool {
        self.0 & events.0 == events.0
    }

    /// `poll(2)`'s bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Events {
    type Output = Events;
    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Events::READABLE, "READABLE"),
            (Events::WRITABLE, "WRITABLE"),
            (Events::PRIORITY, "PRIORITY"),
            (Events::READ_CLOSED, "READ_CLOSED"),
            (Events::CLOSED, "CLOSED"),
            (Events::ERROR, "ERROR"),
        ];
        let set = names.into_iter().filter(|(event, _)| self.contains(*event));
        f.debug_set().entries(set.map(|(_, name)| format_args!("{name}").to_string())).finish()
    }
}

/// Waits until a descriptor is ready, for owners that do their I/O by themselves: a library's socket,
/// a device, an inotify instance.
///
/// Readiness says what was so at one moment. Somebody else may be faster: do the I/O without waiting
/// (`O_NONBLOCK`, `MSG_DONTWAIT`), and ask again when it would block. A regular file is always ready.
///
/// Works on a duplicate of the owner's descriptor, which it closes when dropped; the owner's own is
/// left alone.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use overlapped::io::Readiness;
/// overlapped::block_on(async {
///     let (mut a, b) = UnixStream::pair()?;
///     b.set_nonblocking(true)?;
///     let b = Readiness::new(b)?;
///     a.write_all(b"hello")?;
///     b.readable().await?;
///     let mut buf = [0; 9];
///     assert_eq!(b.get_ref().read(&mut buf)?, 5);
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Readiness<T> {
    owner: T,
    handle: FileHandle,
}

impl<T: AsFd> Readiness<T> {
    /// Watches the owner's descriptor.
    ///
    /// # Errors
    /// When descriptors are exhausted, when the runtime of this thread is ending, or the thread can
    /// have no processor.
    pub fn new(owner: T) -> io::Result<Readiness<T>> {
        Self::new_with(owner, plain_stack())
    }

    /// As [`Readiness::new`], with filters ([`pipe_stack_of`](super::pipe_stack_of)): they see
    /// [`Major::Poll`].
    ///
    /// # Errors
    /// As [`Readiness::new`].
    pub fn new_with(owner: T, stack: Arc<Stack>) -> io::Result<Readiness<T>> {
        hal::install();
        let own = system::here().duplicate(owner.as_fd().as_raw_fd())?;
        let handle = bottom::adopt_pipe(stack, "", own, PipeContext::new(false, false))?;
        Ok(Readiness { owner, handle })
    }
}

impl<T> Readiness<T> {
    /// Waits until reading would not wait.
    ///
    /// Takes nothing, so dropping it loses nothing.
    ///
    /// # Errors
    /// Those of the system.
    pub fn readable(&self) -> Request<'_, Poll> {
        self.poll(Events::READABLE)
    }

    /// Waits until writing would not wait.
    ///
    /// # Errors
    /// Those of the system.
    pub fn writable(&self) -> Request<'_, Poll> {
        self.poll(Events::WRITABLE)
    }

    /// Waits until any of the events is there (or [`Events::CLOSED`] or [`Events::ERROR`]); yields
    /// which of them are.
    ///
    /// # Errors
    /// Those of the system.
    pub fn poll(&self, events: Events) -> Request<'_, Poll> {
        Request::new(&self.handle, Poll(PollEvents(events.0)))
    }

    /// The owner.
    pub fn get_ref(&self) -> &T {
        &self.owner
    }

    /// The owner, for changing.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.owner
    }

    /// The owner back. Requests that are still in flight end by themselves.
    pub fn into_inner(self) -> T {
        self.handle.cancel_requests();
        self.owner
    }

    /// The file object, for building requests of one's own and for looking at its stack.
    pub fn object(&self) -> &FileObject {
        &self.handle
    }
}

/// The operation of [`Readiness::poll`]; yields the events.
#[derive(Debug)]
pub struct Poll(PollEvents);

impl Operation for Poll {
    type Output = io::Result<Events>;

    fn major(&self) -> Major {
        self.0.major()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        self.0.prepare(setup);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        PollEvents::finish(done).map(Events)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
