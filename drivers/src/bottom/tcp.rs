//! TCP (and any other socket) streams, and listeners.

use std::collections::VecDeque;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Late, Lower, Major, MajorSet, Stack, Status,
    minor,
};

use super::{close, close_now};
use crate::class::{Accepted, Receiver, Turn};

/// What the stream driver keeps per open.
#[derive(Debug, Default)]
pub struct StreamContext {
    receiver: Receiver,
}

/// The bottom driver of connected sockets that carry a stream.
#[derive(Debug, Default)]
pub struct StreamDriver;

/// Bytes of the private buffer a pooled receive falls back to when the pool is empty.
const PRIVATE: u32 = 16 * 1024;

fn stream(file: &FileObject) -> &StreamContext {
    file.context().expect("file objects of this driver are made by `adopt`")
}

/// Asks the stream's receiver something about a receive.
#[inline]
fn look(irp: &mut Irp<'_>, ask: impl FnOnce(&Receiver, &mut Irp<'_>) -> Turn) -> Turn {
    let receiver: *const Receiver = &stream(irp.file()).receiver;
    // SAFETY: the file object, and its context with it, lives as long as the request counts on it;
    // the receiver is shared by reference only.
    ask(unsafe { &*receiver }, irp)
}

impl StreamDriver {
    fn receive(&self, mut irp: Irp<'_>, fd: i32) -> Disposition {
        match look(&mut irp, Receiver::turn) {
            Turn::Skip(status) => irp.complete(status, 0),
            Turn::Wait => {
                let file = irp.file().handle();
                stream(&file).receiver.park(irp)
            }
            turn => {
                irp.notify_settled();
                self.take_turn(turn, irp, fd)
            }
        }
    }

    /// Ends a receive that has the stream, or passes it to the hardware.
    #[inline]
    fn take_turn(&self, turn: Turn, mut irp: Irp<'_>, fd: i32) -> Disposition {
        match turn {
            Turn::Served(n, position) => {
                irp.set_position(position);
                irp.complete(Status::SUCCESS, n)
            }
            Turn::Leased(lease, position) => {
                irp.set_position(position);
                irp.complete_with_lease(lease)
            }
            Turn::Above => irp.complete(Status::DATA_ABOVE, 0),
            Turn::Go | Turn::Skip(_) | Turn::Wait => self.submit_receive(irp, fd),
        }
    }

    fn submit_receive(&self, mut irp: Irp<'_>, fd: i32) -> Disposition {
        let (data, len) = irp.raw_data();
        let op = match irp.minor() {
            minor::NONE => Op::Recv { fd, buf: data, len, flags: 0 },
            minor::PEEK => Op::Recv { fd, buf: data, len, flags: libc::MSG_PEEK },
            minor::POOLED => Op::RecvPooled { fd, len: irp.arg() as u32 },
            minor::VECTORED => {
                irp.set_scratch(Message::new(data.cast(), len));
                let message = irp.scratch::<Message>().expect("just stored");
                Op::RecvMsg { fd, msg: message.as_ptr(), flags: 0 }
            }
            // Completing it settles it.
            _ => return irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        };
        // SAFETY: data and message belong to the request (payload, scratch, or a buffer lent by a
        // driver above) until it completes.
        unsafe { irp.submit(op) }
    }
}

impl Driver for StreamDriver {
    fn name(&self) -> &str {
        "stream"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Connect,
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::Shutdown,
            Major::Poll,
            Major::Close,
        ])
    }

    #[inline]
    fn dispatch(&self, mut irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        let fd = irp.file().fd();
        if irp.major() == Major::Close {
            return close(irp, true);
        }
        if fd < 0 {
            return irp.complete(Status::FILE_CLOSED, 0);
        }
        let (data, len) = irp.raw_data();
        let op = match (irp.major(), irp.minor()) {
            (Major::Read, _) => return self.receive(irp, fd),
            (Major::Write, minor::NONE) => Op::Send { fd, buf: data, len, flags: 0 },
            (Major::Write, minor::ALL) => Op::Send { fd, buf: data, len, flags: libc::MSG_WAITALL },
            (Major::Write, minor::VECTORED) => {
                irp.set_scratch(Message::new(data.cast(), len));
                let message = irp.scratch::<Message>().expect("just stored");
                Op::SendMsg { fd, msg: message.as_ptr(), flags: 0 }
            }
            // Nothing is kept back that could be flushed.
            (Major::Flush, _) => return irp.complete(Status::SUCCESS, 0),
            (Major::Shutdown, _) => Op::Shutdown { fd, how: irp.arg() as i32 },
            (Major::Poll, _) => Op::Poll { fd, events: irp.arg() as u32 },
            (Major::Connect, _) => {
                let address = irp
                    .payload_mut::<Box<socket2::SockAddr>>()
                    .expect("put there by the operation");
                Op::Connect { fd, addr: address.as_ptr().cast(), len: address.len() }
            }
            _ => return irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        };
        // SAFETY: data, message and address belong to the request until it completes.
        unsafe { irp.submit(op) }
    }

    #[inline]
    fn hardware(&self, mut irp: Irp<'_>, done: Completion) -> Disposition {
        let (result, status) = (done.result, done.status());
        if irp.major() == Major::Read && status == Status::CANCELLED && !irp.is_cancelled() {
            return self.interrupted(irp);
        }
        if irp.major() == Major::Read && result > 0 && irp.minor() != minor::PEEK {
            let position = stream(irp.file()).receiver.received(result as usize);
            if irp.is_cancelled() || irp.file().has_late() {
                return Self::stash(irp, done, position);
            }
            irp.set_position(position);
        } else if irp.major() == Major::Read && result == 0 {
            // Receives of no bytes never get here.
            stream(irp.file()).receiver.end();
        }
        if irp.major() == Major::Read && irp.minor() == minor::POOLED {
            if let Some(lease) = done.lease {
                return irp.complete_with_lease(lease);
            }
            if let Some(mut private) = irp.payload_mut::<Vec<u8>>().map(std::mem::take) {
                if result > 0 {
                    // SAFETY: the kernel has filled `result` bytes, no more than the capacity.
                    unsafe { private.set_len(result as usize) };
                    return irp.complete_with_lease(Lease::from(private));
                }
            } else if result == -libc::ENOBUFS {
                return self.receive_privately(irp);
            }
        }
        irp.complete(status, result.max(0) as usize)
    }

    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        if late.major() == Major::Read {
            stream(file).receiver.abandoned(file, &late);
        }
    }

    fn settled(&self, file: &FileObject) {
        stream(file).receiver.settled();
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

impl StreamDriver {
    /// These bytes are for a later receive: this one is cancelled, or has older ones to fetch.
    #[cold]
    fn stash(mut irp: Irp<'_>, mut done: Completion, position: u64) -> Disposition {
        let n = done.result as usize;
        let bytes = if let Some(lease) = done.lease.take() {
            lease.to_vec()
        } else if irp.minor() == minor::POOLED {
            let mut private = irp.payload_mut::<Vec<u8>>().map(std::mem::take).unwrap_or_default();
            debug_assert!(private.capacity() >= n, "no lease, so a buffer of its own");
            // SAFETY: the kernel has filled `n` bytes, no more than the capacity.
            unsafe { private.set_len(n.min(private.capacity())) };
            private
        } else {
            irp.received(n).flatten().copied().collect()
        };
        stream(irp.file()).receiver.stash(position, bytes);
        let cancelled = irp.is_cancelled();
        irp.complete(if cancelled { Status::CANCELLED } else { Status::DATA_ABOVE }, 0)
    }

    /// The receive was taken back because late bytes turned up (see [`Receiver::abandoned`]).
    #[cold]
    fn interrupted(&self, mut irp: Irp<'_>) -> Disposition {
        let fd = irp.file().fd();
        if irp.minor() == minor::POOLED {
            // A private buffer, if it had one, is not this try's.
            irp.set_payload(());
        }
        if fd < 0 {
            return irp.complete(Status::FILE_CLOSED, 0);
        }
        let turn = look(&mut irp, Receiver::look);
        self.take_turn(turn, irp, fd)
    }

    /// The pool is empty: receive into a buffer of the request's own.
    #[cold]
    fn receive_privately(&self, mut irp: Irp<'_>) -> Disposition {
        let most = match irp.arg() as u32 {
            0 => PRIVATE,
            most => most.min(PRIVATE),
        };
        let fd = irp.file().fd();
        irp.set_payload(Vec::<u8>::with_capacity(most as usize));
        let buf = irp.payload_mut::<Vec<u8>>().expect("just stored").as_mut_ptr();
        // SAFETY: the payload keeps the buffer until the request completes.
        unsafe { irp.submit(Op::Recv { fd, buf, len: most, flags: 0 }) }
    }
}

/// A `msghdr` on the heap: its address goes to the kernel while the request moves about.
struct Message(Box<libc::msghdr>);

// SAFETY: the pointers in it name the request's own segments.
unsafe impl Send for Message {}

impl Message {
    fn new(segments: *mut libc::iovec, count: u32) -> Message {
        // SAFETY: `msghdr` is plain numbers and pointers, for which zero is a value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_iov = segments;
        header.msg_iovlen = count as usize;
        Message(header)
    }

    fn as_ptr(&self) -> *mut std::ffi::c_void {
        (&raw const *self.0).cast_mut().cast()
    }
}

/// Makes a file object of a socket: connected, or about to be.
///
/// # Errors
/// See [`FileObject::new`]; the socket is closed then.
pub fn adopt(stack: Arc<Stack>, name: &str, socket: OwnedFd) -> Result<FileHandle, Status> {
    let file = FileObject::new(stack, name, Box::<StreamContext>::default())?;
    // SAFETY: ours, and now the file object's.
    unsafe { file.set_fd(socket.into_raw_fd()) };
    Ok(file)
}

/// Whether a stream has bytes that came for receives which were dropped.
pub fn has_unread(file: &FileObject) -> bool {
    file.has_late() || stream(file).receiver.has_unread()
}

/// What the listener's driver keeps per open.
pub struct ListenerContext {
    /// The stack of the connections.
    connections: Arc<Stack>,
    /// Connections that came for accepts which nobody waits for any more, oldest first.
    ready: Mutex<VecDeque<FileHandle>>,
    /// Accepts with the hardware.
    pending: AtomicUsize,
    /// No more connections are taken: the socket goes to somebody else.
    stopped: AtomicBool,
}

/// The bottom driver of listening sockets.
///
/// Each accept waits in the hardware of its own processor, so that none depends on what another
/// thread does.
///
/// **Invariant.** A connection is in the kernel's backlog, in `ready`, or in one accept's payload.
/// An accept that completes for nobody puts its connection into `ready`, so accepting is cancel-safe
/// . Whenever a connection may be there that no waiting accept has been woken for, those that
/// wait are taken back from the hardware, and look again.
#[derive(Debug, Default)]
pub struct ListenerDriver;

fn listener(file: &FileObject) -> &ListenerContext {
    file.context().expect("file objects of this driver are made by `adopt_listener`")
}

impl ListenerContext {
    fn ready(&self) -> MutexGuard<'_, VecDeque<FileHandle>> {
        // Nothing in here panics while it holds the lock.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ListenerDriver {
    fn accept(mut irp: Irp<'_>) -> Disposition {
        if irp.is_cancelled() {
            return irp.complete(Status::CANCELLED, 0);
        }
        let fd = irp.file().fd();
        let context = listener(irp.file());
        // Counted before it looks: see `stop_accepting`.
        context.pending.fetch_add(1, Ordering::SeqCst);
        let first = context.ready().pop_front();
        if first.is_none() && fd >= 0 && !context.stopped.load(Ordering::SeqCst) {
            // SAFETY: the operation names no memory.
            return unsafe { irp.submit(Op::Accept { fd }) };
        }
        context.pending.fetch_sub(1, Ordering::SeqCst);
        match first {
            Some(socket) => {
                irp.set_payload(Accepted(socket));
                irp.complete(Status::SUCCESS, 0)
            }
            None => irp.complete(Status::FILE_CLOSED, 0),
        }
    }

    fn accepted(mut irp: Irp<'_>, done: Completion) -> Disposition {
        let context = listener(irp.file());
        let status = match done.result {
            fd @ 0.. => {
                // SAFETY: the hardware has just given us this descriptor.
                let socket = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
                // An error means that the runtime is ending: the connection is closed.
                match adopt(context.connections.clone(), "", socket) {
                    Ok(socket) => {
                        irp.set_payload(Accepted(socket));
                        Status::SUCCESS
                    }
                    Err(status) => status,
                }
            }
            _ => done.status(),
        };
        let others = listener(irp.file()).pending.fetch_sub(1, Ordering::SeqCst) > 1;
        if status == Status::CANCELLED && !irp.is_cancelled() {
            return Self::accept(irp);
        }
        if status.is_error() && others && crate::hal::is_readable(irp.file().fd()) {
            // The system wakes one accept for a connection. It was this one, perhaps, which does not
            // take it.
            irp.file().interrupt(Major::Accept);
        }
        irp.complete(status, 0)
    }
}

impl Driver for ListenerDriver {
    fn name(&self) -> &str {
        "listener"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Accept, Major::Close, Major::Poll])
    }

    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        let fd = irp.file().fd();
        match irp.major() {
            Major::Close => close(irp, true),
            _ if fd < 0 => irp.complete(Status::FILE_CLOSED, 0),
            Major::Accept => Self::accept(irp),
            Major::Poll => {
                let events = irp.arg() as u32;
                // SAFETY: the operation names no memory.
                unsafe { irp.submit(Op::Poll { fd, events }) }
            }
            _ => irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        }
    }

    fn hardware(&self, irp: Irp<'_>, done: Completion) -> Disposition {
        match irp.major() {
            Major::Accept => Self::accepted(irp, done),
            _ => irp.complete(done.status(), done.info()),
        }
    }

    fn abandoned(&self, file: &FileObject, mut late: Late<'_>) {
        if late.major() == Major::Accept
            && let Some(Accepted(socket)) = late.take_payload::<Accepted>()
        {
            // It was the oldest when it was given away.
            listener(file).ready().push_front(socket);
            file.interrupt(Major::Accept);
        }
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

/// Has a listener take no more connections from the system. `true`: it takes none any more.
pub fn stop_accepting(file: &FileObject) -> bool {
    let context = listener(file);
    if !context.stopped.swap(true, Ordering::SeqCst) {
        file.cancel_requests();
    }
    context.pending.load(Ordering::SeqCst) == 0
}

/// The connections that a listener has taken from the system for accepts to come.
pub fn take_ready(file: &FileObject) -> Vec<FileHandle> {
    listener(file).ready().drain(..).collect()
}

/// Makes a file object of a listening socket whose connections get the stack given.
///
/// # Errors
/// See [`FileObject::new`]; the socket is closed then.
pub fn adopt_listener(
    stack: Arc<Stack>,
    connections: Arc<Stack>,
    name: &str,
    socket: OwnedFd,
) -> Result<FileHandle, Status> {
    let context = ListenerContext {
        connections,
        ready: Mutex::default(),
        pending: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    };
    let file = FileObject::new(stack, name, Box::new(context))?;
    // SAFETY: ours, and now the file object's.
    unsafe { file.set_fd(socket.into_raw_fd()) };
    Ok(file)
}
