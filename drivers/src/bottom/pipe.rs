//! Descriptors with readiness that are no sockets: pipes, terminals, counters (eventfd, timerfd); and
//! whatever stands in for a pipe as standard input or output.

use std::sync::Arc;

use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Late, Lower, Major, MajorSet, Stack, Status,
    minor,
};

use super::receiving::{Receives, receive, receive_privately, received};
use super::{close, close_now, own};
use crate::class::Receiver;
use crate::hal::system::Descriptor;

/// What the driver keeps per open.
#[derive(Default)]
pub struct PipeContext {
    receiver: Receiver,
    /// No other process shares the open file.
    own: bool,
}

impl PipeContext {
    /// `own`: no other process shares the open file, so that its mode is ours to change. `messages`:
    /// what one read takes belongs together, as a counter's eight bytes do.
    pub fn new(own: bool, messages: bool) -> PipeContext {
        let receiver = if messages { Receiver::of_messages() } else { Receiver::default() };
        PipeContext { receiver, own }
    }
}

/// The bottom driver of pipes and their like.
#[derive(Debug, Default)]
pub struct PipeDriver;

/// A request's scratch while the hardware waits for readiness on its behalf.
struct Polling;

fn context(file: &FileObject) -> &PipeContext {
    file.context().expect("file objects of this driver are made by `adopt_pipe`")
}

impl Receives for PipeDriver {
    fn receiver(file: &FileObject) -> &Receiver {
        &context(file).receiver
    }

    fn plain(file: &FileObject, fd: i32, buf: *mut u8, len: u32) -> Op {
        Op::ReadStream { fd, buf, len, own: context(file).own }
    }

    #[inline]
    fn submit(irp: Irp<'_>, fd: i32) -> Disposition {
        let (buf, len) = irp.raw_data();
        match irp.minor() {
            minor::NONE => {
                let op = Self::plain(irp.file(), fd, buf, len);
                // SAFETY: the data belongs to the request until it completes.
                unsafe { irp.submit(op) }
            }
            minor::POOLED if !context(irp.file()).receiver.has_messages() => {
                receive_privately::<Self>(irp)
            }
            // Completing it settles it.
            _ => irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        }
    }
}

/// Hands a request to the hardware, or ends it.
#[inline]
fn start(irp: Irp<'_>) -> Disposition {
    let fd = irp.file().fd();
    if irp.major() == Major::Close {
        return close(irp, true);
    }
    if fd < 0 {
        return irp.complete(Status::FILE_CLOSED, 0);
    }
    match (irp.major(), irp.minor()) {
        (Major::Read, _) => receive::<PipeDriver>(irp, fd),
        (Major::Write, minor::NONE | minor::ALL) => write(irp, fd),
        (Major::Poll, _) => {
            let events = irp.arg() as u32;
            // SAFETY: the operation names no memory.
            unsafe { irp.submit(Op::Poll { fd, events }) }
        }
        // Nothing is kept back; and it has no direction to end but by closing it.
        (Major::Flush | Major::Shutdown | Major::Cleanup, _) => irp.complete(Status::SUCCESS, 0),
        _ => irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
    }
}

impl Driver for PipeDriver {
    fn name(&self) -> &str {
        "pipe"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
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

    fn hardware(&self, mut irp: Irp<'_>, done: Completion) -> Disposition {
        let (major, fd) = (irp.major(), irp.file().fd());
        if irp.scratch::<Polling>().is_some() {
            irp.set_scratch(());
            if done.result >= 0 && fd >= 0 {
                // It is ready; or somebody else has been faster, and it waits once more.
                return if major == Major::Read { retry(irp, fd) } else { write(irp, fd) };
            }
        } else if done.result == -libc::EAGAIN && matches!(major, Major::Read | Major::Write) {
            // Somebody has made the open file non-blocking, which io_uring takes at its word.
            irp.set_scratch(Polling);
            let events = if major == Major::Read { libc::POLLIN } else { libc::POLLOUT } as u32;
            // SAFETY: the operation names no memory.
            return unsafe { irp.submit(Op::Poll { fd, events }) };
        }
        match major {
            Major::Read => received::<Self>(irp, done),
            Major::Write | Major::Poll if irp.is_given_back(&done) => start(irp),
            _ => irp.complete(done.status(), done.info()),
        }
    }

    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        if late.major() == Major::Read {
            context(file).receiver.abandoned(file, late);
        }
    }

    fn settled(&self, file: &FileObject) {
        context(file).receiver.settled();
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

fn write(irp: Irp<'_>, fd: i32) -> Disposition {
    let (data, len) = irp.raw_data();
    let own = context(irp.file()).own;
    // SAFETY: the data belongs to the request until it completes.
    unsafe { irp.submit(Op::WriteStream { fd, buf: data, len, own }) }
}

/// A receive that has waited for readiness.
fn retry(mut irp: Irp<'_>, fd: i32) -> Disposition {
    if irp.minor() == minor::POOLED {
        // Its buffer is made anew.
        irp.set_payload(());
    }
    PipeDriver::submit(irp, fd)
}

/// Makes a file object of a pipe's end, a counter, or the like.
///
/// # Errors
/// As [`adopt`](super::adopt).
pub fn adopt_pipe(
    stack: Arc<Stack>,
    name: &str,
    descriptor: impl Into<Descriptor>,
    context: PipeContext,
) -> Result<FileHandle, Status> {
    let messages = context.receiver.has_messages();
    let file = FileObject::new(stack, name, Box::new(context))?;
    if messages {
        file.set_messages();
    }
    own(&file, descriptor.into())?;
    Ok(file)
}

/// Whether there are bytes that came for reads which were dropped.
pub fn pipe_has_unread(file: &FileObject) -> bool {
    file.has_late() || context(file).receiver.has_unread()
}
