//! The way of a receive through a bottom driver that keeps its stream whole with a [`Receiver`].

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{Companion, Disposition, FileObject, Irp, Major, Status, minor};

use crate::class::{Envelope, Receiver, Stashed, Turn};

/// What differs from one such driver to the next.
pub(super) trait Receives {
    /// The receiver of one of the driver's file objects.
    fn receiver(file: &FileObject) -> &Receiver;

    /// Hands a receive to the hardware. One that is completed instead is settled by that.
    fn submit(irp: Irp<'_>, fd: i32) -> Disposition;

    /// The operation that receives into plain memory.
    fn plain(file: &FileObject, fd: i32, buf: *mut u8, len: u32) -> Op;
}

/// Whether the operation is one for [`receive`] and [`received`].
#[inline]
pub(super) fn is_receive(major: Major) -> bool {
    matches!(major, Major::Read | Major::ReceiveFrom)
}

/// Bytes of the private buffer a pooled receive falls back to when the pool is empty, or its driver
/// has none.
const PRIVATE: u32 = 16 * 1024;

/// Asks the stream's receiver something about a receive.
#[inline]
fn look<D: Receives>(irp: &mut Irp<'_>, ask: impl FnOnce(&Receiver, &mut Irp<'_>) -> Turn) -> Turn {
    let receiver: *const Receiver = D::receiver(irp.file());
    // SAFETY: the file object, and its context with it, lives as long as the request counts on it;
    // the receiver is shared by reference only.
    ask(unsafe { &*receiver }, irp)
}

/// A receive on its way down.
#[inline]
pub(super) fn receive<D: Receives>(mut irp: Irp<'_>, fd: i32) -> Disposition {
    match look::<D>(&mut irp, Receiver::turn) {
        Turn::Skip(status) => irp.complete(status, 0),
        // Somebody else waits, for what is not there.
        Turn::Wait if irp.minor() == minor::NOW => irp.complete(Status::DEVICE_NOT_READY, 0),
        Turn::Wait => {
            let file = irp.file().handle();
            D::receiver(&file).park(irp)
        }
        turn => {
            irp.notify_settled();
            take_turn::<D>(turn, irp, fd)
        }
    }
}

/// Ends a receive that has the stream, or passes it to the hardware.
#[inline]
fn take_turn<D: Receives>(turn: Turn, mut irp: Irp<'_>, fd: i32) -> Disposition {
    match turn {
        Turn::Served(status, n, position) => {
            irp.set_position(position);
            irp.complete(status, n)
        }
        Turn::Leased(lease, position) => {
            irp.set_position(position);
            irp.complete_with_lease(lease)
        }
        Turn::Above => irp.complete(Status::DATA_ABOVE, 0),
        Turn::Go | Turn::Skip(_) | Turn::Wait => D::submit(irp, fd),
    }
}

/// The hardware is finished with a receive.
#[inline]
pub(super) fn received<D: Receives>(mut irp: Irp<'_>, done: Completion) -> Disposition {
    let (result, mut status) = (done.result, done.status());
    if irp.is_given_back(&done) {
        return interrupted::<D>(irp);
    }
    if result >= 0
        && let Some(opened) = Envelope::open(&mut irp)
    {
        // First of all: there may be descriptors in it.
        status = opened;
    }
    let receiver = D::receiver(irp.file());
    if result == 0 && !receiver.has_messages() {
        // Receives of no bytes never get here.
        receiver.end();
    } else if result >= 0 && irp.minor() != minor::PEEK {
        let position = receiver.received(result as usize);
        if irp.is_cancelled() || irp.file().has_late() {
            return stash::<D>(irp, done, status, position);
        }
        irp.set_position(position);
    }
    if result >= 0 && irp.file().has_late() {
        // The end, or what a peek has seen, comes after what is kept above.
        return above(irp);
    }
    if irp.minor() == minor::POOLED {
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
            return receive_privately::<D>(irp);
        }
    }
    irp.complete(status, result.max(0) as usize)
}

/// This is for a later receive: this one is cancelled, or has older bytes to fetch.
#[cold]
fn stash<D: Receives>(
    mut irp: Irp<'_>,
    mut done: Completion,
    status: Status,
    position: u64,
) -> Disposition {
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
    let companion = take_envelope(&mut irp);
    D::receiver(irp.file()).stash(Stashed { position, bytes, companion, status });
    let cancelled = irp.is_cancelled();
    irp.complete(if cancelled { Status::CANCELLED } else { Status::DATA_ABOVE }, 0)
}

/// What the message came in, if the request cares. It keeps an empty one: it may be sent down again.
fn take_envelope(irp: &mut Irp<'_>) -> Option<Box<dyn Companion>> {
    let envelope = irp.companion_mut::<Envelope>()?;
    let mut fresh = Box::<Envelope>::default();
    fresh.most_descriptors = envelope.most_descriptors;
    fresh.wants_segment_size = envelope.wants_segment_size;
    irp.set_companion(Some(fresh))
}

/// The receive has brought nothing of its own, and older bytes are kept above.
#[cold]
fn above(mut irp: Irp<'_>) -> Disposition {
    if irp.minor() == minor::POOLED {
        irp.set_payload(());
    }
    drop(take_envelope(&mut irp));
    irp.complete(Status::DATA_ABOVE, 0)
}

/// The receive was taken back because late bytes turned up (see [`Receiver::abandoned`]).
#[cold]
fn interrupted<D: Receives>(mut irp: Irp<'_>) -> Disposition {
    let fd = irp.file().fd();
    if irp.minor() == minor::POOLED {
        // A private buffer, if it had one, is not this try's.
        irp.set_payload(());
    }
    if fd < 0 {
        return irp.complete(Status::FILE_CLOSED, 0);
    }
    let turn = look::<D>(&mut irp, Receiver::look);
    take_turn::<D>(turn, irp, fd)
}

/// There is no pool, or it is empty: receive into a buffer of the request's own.
#[cold]
pub(super) fn receive_privately<D: Receives>(mut irp: Irp<'_>) -> Disposition {
    let most = match irp.arg() as u32 {
        0 => PRIVATE,
        most => most.min(PRIVATE),
    };
    let fd = irp.file().fd();
    irp.set_payload(Vec::<u8>::with_capacity(most as usize));
    let buf = irp.payload_mut::<Vec<u8>>().expect("just stored").as_mut_ptr();
    let op = D::plain(irp.file(), fd, buf, most);
    // SAFETY: the payload keeps the buffer until the request completes.
    unsafe { irp.submit(op) }
}
