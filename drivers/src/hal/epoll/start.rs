//! Starting an operation: inline if it can be done without waiting, else to where it waits.

use std::ffi::c_int;
use std::io;

use mio::unix::SourceFd;
use mio::{Interest, Token as MioToken};
use overlapped_iomgr::hal::{Completion, Op, Token};

use super::attempt::{Tried, attempt, partial};
use super::table::{Entry, SIDES, Side};
use super::{EpollHal, INLINE, sys};
use crate::hal::pool::{Job, perform};

/// Largest read that is tried on the spot if the page cache has it: copying takes some µs.
const READ_INLINE: u32 = 64 * 1024;

/// Largest write to the page cache that is done on the spot if nobody else wants the thread.
const WRITE_INLINE: u32 = 16 * 1024;

impl EpollHal {
    /// [`Hal::submit`](overlapped_iomgr::hal::Hal::submit).
    ///
    /// # Safety
    /// As for that.
    pub(super) unsafe fn start(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        // SAFETY, of all calls below: the caller keeps `op`'s memory valid until the final
        // completion, and each call either finishes the operation or keeps it until then.
        match op {
            Op::RecvMsg { fd, msg, flags, messages } if flags & libc::MSG_DONTWAIT != 0 => {
                // SAFETY: as above.
                Some(unsafe { sys::recvmsg(fd, msg, flags, messages) })
            }
            Op::Send { fd, buf, len, flags } if flags & libc::MSG_DONTWAIT != 0 => {
                // SAFETY: as above.
                Some(unsafe { sys::send(fd, buf, len.min(sys::MOST), flags) })
            }
            Op::Recv { fd, .. } | Op::RecvPooled { fd, .. } | Op::RecvMsg { fd, .. } => {
                // SAFETY: as above.
                unsafe { self.start_socket(token, op, fd, Side::Read) }
            }
            Op::ReadStream { fd, .. } => {
                // SAFETY: as above.
                unsafe { self.start_socket(token, op, fd, Side::Read) }
            }
            Op::WriteStream { fd, .. } => {
                // SAFETY: as above.
                unsafe { self.start_socket(token, op, fd, Side::Write) }
            }
            Op::Send { fd, .. } | Op::SendMsg { fd, .. } => {
                // SAFETY: as above.
                unsafe { self.start_socket(token, op, fd, Side::Write) }
            }
            // SAFETY: as above.
            Op::Poll { fd, .. } => unsafe { self.start_socket(token, op, fd, Side::Poll) },
            Op::Read { fd, buf, len, offset, inline: true } if len <= READ_INLINE => {
                // SAFETY: as above.
                match unsafe { sys::read_cached(fd, buf, len, offset) } {
                    Some(result) => self.finish(token, result),
                    // SAFETY: as above.
                    None => unsafe { self.start_pooled(token, op) },
                }
            }
            Op::Write { len, inline: true, through: false, .. } if alone && len <= WRITE_INLINE => {
                // SAFETY: as above.
                let result = unsafe { perform(&op) };
                self.finish(token, result)
            }
            Op::Accept { fd } => match sys::set_nonblocking(fd, true) {
                error @ ..0 => self.finish(token, error),
                // SAFETY: as above.
                _ => unsafe { self.start_socket(token, op, fd, Side::Read) },
            },
            Op::Connect { fd, addr, len } => {
                let restore = match sys::set_nonblocking(fd, true) {
                    error @ ..0 => return self.finish(token, error),
                    changed => changed > 0,
                };
                // SAFETY: as above.
                let result = unsafe { sys::connect(fd, addr, len) };
                // SAFETY: as above.
                unsafe { self.start_connect(token, op, fd, result, restore) }
            }
            Op::Close { fd, .. } => {
                // Nobody should be waiting; if someone is, now or never.
                self.abort_all(fd);
                // SAFETY: as above.
                let result = unsafe { perform(&op) };
                self.table.refresh(fd);
                Some(result)
            }
            // SAFETY: as above.
            Op::Nop | Op::Shutdown { .. } => Some(unsafe { perform(&op) }),
            // SAFETY: as above.
            _ => unsafe { self.start_pooled(token, op) },
        }
    }

    /// # Safety
    /// As for [`EpollHal::start`].
    #[inline]
    unsafe fn start_socket(&mut self, token: Token, op: Op, fd: c_int, side: Side) -> Option<i32> {
        let mut entry = Entry { token, op, progress: 0, restore: false };
        if side != Side::Poll && self.table.first(fd, side).is_some() {
            self.abort_stale(fd);
            if self.table.first(fd, side).is_some() {
                // Its turn comes after theirs.
                self.enqueue(fd, side, entry);
                return None;
            }
        }
        if self.finds_nothing(fd, &op) {
            // A call would only say so.
            self.enqueue(fd, side, entry);
            return None;
        }
        // SAFETY: the caller's promise; a fresh entry has no progress.
        match unsafe { attempt(&op, &mut entry.progress, &mut self.buffers) } {
            Tried::Done(result) => {
                self.note_received(fd, &op, result);
                self.finish(token, result)
            }
            Tried::Received(lease) => {
                let result = lease.len() as i32;
                self.note_received(fd, &op, result);
                self.in_flight += 1;
                self.queue.push_back(Completion { token, result, lease: Some(lease) });
                None
            }
            Tried::Wait => match op {
                // A file: epoll tells nothing of it, and it waits for nobody else.
                Op::ReadStream { .. } | Op::WriteStream { .. }
                    if self.watch(fd) == Err(libc::EPERM) =>
                {
                    // SAFETY: as for this function.
                    unsafe { self.start_pooled(token, op) }
                }
                _ => self.park(fd, side, entry),
            },
            // SAFETY: as for this function.
            Tried::Block => unsafe { self.start_pooled(token, op) },
        }
    }

    /// Goes on after the call of `connect` gave `result`.
    ///
    /// # Safety
    /// As for [`EpollHal::start`].
    unsafe fn start_connect(
        &mut self,
        token: Token,
        op: Op,
        fd: c_int,
        result: i32,
        restore: bool,
    ) -> Option<i32> {
        let mut result = result;
        if result == -libc::EINPROGRESS {
            match self.watch(fd) {
                Ok(()) => {
                    let entry = Entry { token, op, progress: 0, restore };
                    self.enqueue(fd, Side::Write, entry);
                    return None;
                }
                Err(errno) => result = -errno,
            }
        }
        if restore {
            sys::set_nonblocking(fd, false);
        }
        if result == -libc::EAGAIN {
            // A Unix listener whose backlog is full gives no event when there is room again: only
            // a blocking call waits for that.
            // SAFETY: the caller's promise.
            return unsafe { self.start_pooled(token, op) };
        }
        self.finish(token, result)
    }

    /// # Safety
    /// As for [`EpollHal::start`].
    unsafe fn start_pooled(&mut self, token: Token, op: Op) -> Option<i32> {
        self.in_flight += 1;
        self.pooled += 1;
        // SAFETY: the caller keeps the memory valid until the final completion has been delivered,
        // which is after it has been drained.
        unsafe { self.pool.submit(Job { token, op, reply: self.reply.clone() }) };
        None
    }

    /// The operation is finished: says so inline, or beyond the bound by a completion.
    #[inline]
    fn finish(&mut self, token: Token, result: i32) -> Option<i32> {
        if self.inline < INLINE {
            self.inline += 1;
            return Some(result);
        }
        self.in_flight += 1;
        self.complete(token, result);
        None
    }

    /// Makes an operation wait whose try has just found the descriptor not ready; or ends it, if
    /// nothing would ever tell of readiness.
    fn park(&mut self, fd: c_int, side: Side, entry: Entry) -> Option<i32> {
        match self.watch(fd) {
            Ok(()) => {
                self.enqueue(fd, side, entry);
                None
            }
            Err(errno) => self.finish(entry.token, partial(entry.progress, -errno)),
        }
    }

    fn enqueue(&mut self, fd: c_int, side: Side, entry: Entry) {
        self.in_flight += 1;
        self.table.push(fd, side, entry);
    }

    /// Sees to it that the descriptor is in the epoll set. If it was not, and is ready by now, the
    /// kernel gives an event at once.
    fn watch(&mut self, fd: c_int) -> Result<(), i32> {
        if fd < 0 {
            return Err(libc::EBADF);
        }
        self.abort_stale(fd);
        if self.table.open(fd).registered {
            return Ok(());
        }
        let (registry, token) = (self.poll.registry(), MioToken(fd as usize));
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let registered = match registry.register(&mut SourceFd(&fd), token, interest) {
            // The number was said to be closed, and then was not: the close failed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                registry.reregister(&mut SourceFd(&fd), token, interest)
            }
            result => result,
        };
        registered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        self.table.registered(fd, sys::is_tcp(fd));
        Ok(())
    }

    /// The most bytes that an operation takes out of a stream; `None`: it takes none.
    #[inline]
    fn takes(&self, op: &Op) -> Option<u32> {
        match *op {
            Op::Recv { len, flags, .. } if flags & libc::MSG_PEEK == 0 => Some(len.min(sys::MOST)),
            Op::RecvPooled { len, .. } => Some(self.buffers.most(len)),
            _ => None,
        }
    }

    /// Whether it is known beforehand that the operation would find nothing.
    #[inline]
    pub(super) fn finds_nothing(&self, fd: c_int, op: &Op) -> bool {
        self.takes(op).is_some() && self.table.is_empty(fd)
    }

    /// Notes what a receive says of what is left.
    #[inline]
    pub(super) fn note_received(&mut self, fd: c_int, op: &Op, result: i32) {
        if let Some(most) = self.takes(op)
            && let Ok(n) = u32::try_from(result)
        {
            self.table.received(fd, n, most);
        }
    }

    /// If the number has been closed, and perhaps given to another file, ends those who waited for
    /// the old one, lest they be given the new one's bytes.
    #[inline]
    pub(super) fn abort_stale(&mut self, fd: c_int) {
        if self.table.is_stale(fd) {
            self.abort_all(fd);
            self.table.refresh(fd);
        }
    }

    /// Ends all who wait for the descriptor.
    fn abort_all(&mut self, fd: c_int) {
        for side in SIDES {
            while let Some(index) = self.table.first(fd, side) {
                let (_, entry) = self.table.remove(index);
                self.abort(fd, entry);
            }
        }
    }

    /// Ends an operation that has been taken out of the table.
    pub(super) fn abort(&mut self, fd: c_int, entry: Entry) {
        self.restore(fd, &entry);
        self.complete(entry.token, partial(entry.progress, -libc::ECANCELED));
    }

    /// Undoes what waiting needed.
    pub(super) fn restore(&mut self, fd: c_int, entry: &Entry) {
        // Not if the number may be another file's by now.
        if entry.restore && !self.table.is_stale(fd) {
            sys::set_nonblocking(fd, false);
        }
    }
}
