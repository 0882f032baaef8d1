//! Sockets: streams (TCP, Unix), datagrams (UDP, Unix), and listeners.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Late, Lower, Major, MajorSet, Stack, Status,
    minor,
};

use super::receiving::{Receives, is_receive, receive, received};
use super::{close, close_now, describe_socket, own};
use crate::class::{Accepted, Envelope, Receiver};
use crate::hal::system::{self, Descriptor};

/// What the driver of sockets keeps per open.
#[derive(Default)]
pub struct StreamContext {
    receiver: Receiver,
}

/// The bottom driver of connected sockets that carry a stream.
#[derive(Debug, Default)]
pub struct StreamDriver;

fn stream(file: &FileObject) -> &StreamContext {
    file.context().expect("file objects of this driver are made by `adopt`")
}

impl Receives for StreamDriver {
    fn receiver(file: &FileObject) -> &Receiver {
        &stream(file).receiver
    }

    fn plain(_: &FileObject, fd: i32, buf: *mut u8, len: u32) -> Op {
        Op::Recv { fd, buf, len, flags: 0 }
    }

    #[inline]
    fn submit(mut irp: Irp<'_>, fd: i32) -> Disposition {
        let (data, len) = irp.raw_data();
        let minor = irp.minor();
        let flags = match minor {
            minor::PEEK => libc::MSG_PEEK,
            minor::NOW => libc::MSG_DONTWAIT,
            _ => 0,
        };
        let messages = Self::receiver(irp.file()).has_messages();
        let op = match minor {
            minor::POOLED if !messages => Op::RecvPooled { fd, len: irp.arg() as u32 },
            minor::NONE | minor::PEEK if !messages && !irp.has_companion() => {
                Op::Recv { fd, buf: data, len, flags }
            }
            // The header tells the address, or whether the message was longer.
            minor::NONE | minor::PEEK | minor::NOW | minor::VECTORED => {
                let msg = Envelope::receive(&mut irp);
                Op::RecvMsg { fd, msg, flags: flags | libc::MSG_CMSG_CLOEXEC, messages }
            }
            // Completing it settles it.
            _ => return irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        };
        // SAFETY: data and envelope belong to the request (payload, companion, or a buffer lent
        // by a driver above) until it completes.
        unsafe { irp.submit(op) }
    }
}

/// Hands a stream's or a datagram socket's request to the hardware, or ends it.
#[inline]
fn start(mut irp: Irp<'_>) -> Disposition {
    let fd = irp.file().fd();
    if irp.major() == Major::Close {
        return close(irp, true);
    }
    if fd < 0 {
        return irp.complete(Status::FILE_CLOSED, 0);
    }
    let (data, len) = irp.raw_data();
    let minor = irp.minor();
    let op = match (irp.major(), minor) {
        (Major::Read | Major::ReceiveFrom, _) => return receive::<StreamDriver>(irp, fd),
        (Major::Write, minor::NONE) if !irp.has_companion() => {
            Op::Send { fd, buf: data, len, flags: 0 }
        }
        (Major::Write, minor::ALL) if !irp.has_companion() => {
            Op::Send { fd, buf: data, len, flags: libc::MSG_WAITALL }
        }
        (Major::Write, minor::NOW) if !irp.has_companion() => {
            Op::Send { fd, buf: data, len, flags: libc::MSG_DONTWAIT }
        }
        (Major::Write | Major::SendTo, minor::NONE | minor::ALL | minor::VECTORED) => {
            let msg = Envelope::send(&mut irp);
            Op::SendMsg { fd, msg, flags: 0 }
        }
        // Nothing is kept back that could be flushed.
        (Major::Flush | Major::Cleanup, _) => return irp.complete(Status::SUCCESS, 0),
        (Major::Shutdown, _) => Op::Shutdown { fd, how: irp.arg() as i32 },
        (Major::Poll, _) => Op::Poll { fd, events: irp.arg() as u32 },
        (Major::Connect, _) => {
            let address =
                irp.payload_mut::<Box<socket2::SockAddr>>().expect("put there by the operation");
            Op::Connect { fd, addr: address.as_ptr().cast(), len: address.len() }
        }
        _ => return irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
    };
    // SAFETY: data, envelope and address belong to the request until it completes.
    unsafe { irp.submit(op) }
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
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        start(irp)
    }

    #[inline]
    fn hardware(&self, irp: Irp<'_>, done: Completion) -> Disposition {
        if is_receive(irp.major()) {
            return received::<Self>(irp, done);
        }
        // Half a connect cannot be begun anew.
        if irp.is_given_back(&done) && irp.major() != Major::Connect {
            return start(irp);
        }
        irp.complete(done.status(), done.info())
    }

    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        if is_receive(late.major()) {
            stream(file).receiver.abandoned(file, late);
        }
    }

    fn settled(&self, file: &FileObject) {
        stream(file).receiver.settled();
    }

    fn describe(&self, file: &FileObject) -> String {
        describe_socket(file)
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

/// The bottom driver of sockets that carry messages, with or without addresses. A receive whose
/// buffer is too short for the message ends with [`Status::BUFFER_OVERFLOW`].
#[derive(Debug, Default)]
pub struct DatagramDriver;

impl Driver for DatagramDriver {
    fn name(&self) -> &str {
        "datagram"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Connect,
            Major::Read,
            Major::Write,
            Major::SendTo,
            Major::ReceiveFrom,
            Major::Flush,
            Major::Shutdown,
            Major::Poll,
            Major::Close,
        ])
    }

    fn limits(&self, below: Limits) -> Limits {
        Limits { messages: true, ..below }
    }

    #[inline]
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        StreamDriver.dispatch(irp, lower)
    }

    #[inline]
    fn hardware(&self, irp: Irp<'_>, done: Completion) -> Disposition {
        StreamDriver.hardware(irp, done)
    }

    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        StreamDriver.abandoned(file, late);
    }

    fn settled(&self, file: &FileObject) {
        StreamDriver.settled(file);
    }

    fn describe(&self, file: &FileObject) -> String {
        describe_socket(file)
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

/// Makes a file object of a socket that carries a stream: connected, or about to be.
///
/// # Errors
/// See [`FileObject::new`]; [`Status::NOT_SUPPORTED`]: the kernel's, in a simulation, or the other way
/// round. The socket is closed then.
pub fn adopt(
    stack: Arc<Stack>,
    name: &str,
    socket: impl Into<Descriptor>,
) -> Result<FileHandle, Status> {
    adopt_with(stack, name, socket.into(), StreamContext::default())
}

/// Makes a file object of a socket that carries messages.
///
/// # Errors
/// As [`adopt`].
pub fn adopt_datagram(
    stack: Arc<Stack>,
    name: &str,
    socket: impl Into<Descriptor>,
) -> Result<FileHandle, Status> {
    let context = StreamContext { receiver: Receiver::of_messages() };
    let file = adopt_with(stack, name, socket.into(), context)?;
    file.set_messages();
    Ok(file)
}

fn adopt_with(
    stack: Arc<Stack>,
    name: &str,
    socket: Descriptor,
    context: StreamContext,
) -> Result<FileHandle, Status> {
    let file = FileObject::new(stack, name, Box::new(context))?;
    own(&file, socket)?;
    Ok(file)
}

/// Whether a connected socket, or one of datagrams, carries messages; `None`: it is none.
pub(crate) fn carries_messages(file: &FileObject) -> Option<bool> {
    file.context::<StreamContext>().map(|context| context.receiver.has_messages())
}

/// Whether a socket has bytes or messages that came for receives which were dropped.
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
    /// Waiting accepts have been asked to look again, and no processor has begun with it: thousands
    /// that end in one turn ask once, for each time looks at all.
    asked: Arc<AtomicBool>,
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

/// Has the accepts that wait look again.
fn look_again(file: &FileObject) {
    let asked = listener(file).asked.clone();
    if !asked.swap(true, Ordering::SeqCst) {
        file.interrupt_later(Major::Accept, move || asked.store(false, Ordering::SeqCst));
    }
}

impl ListenerDriver {
    fn start(irp: Irp<'_>) -> Disposition {
        let fd = irp.file().fd();
        match irp.major() {
            Major::Close => close(irp, true),
            _ if fd < 0 => irp.complete(Status::FILE_CLOSED, 0),
            Major::Accept => Self::accept(irp),
            Major::Cleanup => irp.complete(Status::SUCCESS, 0),
            Major::Poll => {
                let events = irp.arg() as u32;
                // SAFETY: the operation names no memory.
                unsafe { irp.submit(Op::Poll { fd, events }) }
            }
            _ => irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        }
    }

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
                let socket = unsafe { Descriptor::from_raw(fd) };
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
        if irp.is_given_back(&done) {
            return Self::accept(irp);
        }
        if status.is_error() && others && system::of(irp.file().fd()).is_readable(irp.file().fd()) {
            // The system wakes one accept for a connection. It was this one, perhaps, which does not
            // take it.
            look_again(irp.file());
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
        Self::start(irp)
    }

    fn hardware(&self, irp: Irp<'_>, done: Completion) -> Disposition {
        match irp.major() {
            Major::Accept => Self::accepted(irp, done),
            _ if irp.is_given_back(&done) => Self::start(irp),
            _ => irp.complete(done.status(), done.info()),
        }
    }

    fn abandoned(&self, file: &FileObject, mut late: Late<'_>) {
        if late.major() == Major::Accept
            && let Some(Accepted(socket)) = late.take_payload::<Accepted>()
        {
            // It was the oldest when it was given away.
            listener(file).ready().push_front(socket);
            look_again(file);
        }
    }

    fn describe(&self, file: &FileObject) -> String {
        describe_socket(file)
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
/// As [`adopt`].
pub fn adopt_listener(
    stack: Arc<Stack>,
    connections: Arc<Stack>,
    name: &str,
    socket: impl Into<Descriptor>,
) -> Result<FileHandle, Status> {
    let context = ListenerContext {
        connections,
        ready: Mutex::default(),
        pending: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        asked: Arc::default(),
    };
    let file = FileObject::new(stack, name, Box::new(context))?;
    own(&file, socket.into())?;
    Ok(file)
}
