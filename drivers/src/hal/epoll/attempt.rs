//! One try of an operation that may find its descriptor not ready.
//!
//! **Invariant.** [`Tried::Wait`] is returned only after the kernel has said "not ready", so that
//! readiness from then on gives an event. Bytes moved before that are in `progress`, and will be
//! part of the result whatever happens later.

use std::ffi::c_int;

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::hal::Op;

use super::buffers::Buffers;
use super::sys;
use crate::hal::pool;

/// What a try came to.
pub(super) enum Tried {
    /// The final result.
    Done(i32),
    /// The final result is the lease's length.
    Received(Lease),
    /// Not ready.
    Wait,
    /// Ready, but only a call that might block can tell how much there is.
    Block,
}

/// What one call moved, and whether the operation goes on.
fn moved(result: i32, progress: &mut u32, goes_on: impl FnOnce(u32) -> bool) -> Option<Tried> {
    match result {
        full if full == -libc::EAGAIN => Some(Tried::Wait),
        // The end, or an error: what was moved before counts more. The error will come again.
        ..=0 => Some(Tried::Done(partial(*progress, result))),
        n => {
            *progress += n as u32;
            if goes_on(*progress) { None } else { Some(Tried::Done(*progress as i32)) }
        }
    }
}

/// The result of an operation that ends early.
pub(super) fn partial(progress: u32, otherwise: i32) -> i32 {
    if progress > 0 { progress as i32 } else { otherwise }
}

/// Tries an operation, from where `progress` says it has got.
///
/// # Safety
/// The memory that `op` names is valid, and `progress` is 0 or was left by a try of the same.
pub(super) unsafe fn attempt(op: &Op, progress: &mut u32, buffers: &mut Buffers) -> Tried {
    // SAFETY, of all calls below: pointers and lengths come from `op`, and this function's caller
    // vouches for them; `progress` never exceeds the length.
    match *op {
        Op::Recv { fd, buf, len, flags } => {
            let len = len.min(sys::MOST);
            let all = flags & (libc::MSG_WAITALL | libc::MSG_PEEK) == libc::MSG_WAITALL;
            loop {
                let at = *progress;
                // SAFETY: as above.
                let n = unsafe { sys::recv(fd, buf.add(at as usize), len - at, flags) };
                let goes_on = |progress| all && progress < len && sys::is_stream(fd);
                if let Some(tried) = moved(n, progress, goes_on) {
                    return tried;
                }
            }
        }
        Op::ReadStream { fd, buf, len, own } => {
            // SAFETY: as above.
            match unsafe { sys::read_stream(fd, buf, len, own) } {
                // A FIFO that has had no writer yet: not its end, and to io_uring neither.
                Some(0) if pool::poll(fd, libc::POLLIN, 0) == 0 => Tried::Wait,
                result => stream(fd, libc::POLLIN, result),
            }
        }
        Op::WriteStream { fd, buf, len, own } => {
            // SAFETY: as above.
            stream(fd, libc::POLLOUT, unsafe { sys::write_stream(fd, buf, len, own) })
        }
        Op::RecvPooled { fd, len } => match buffers.receive(fd, len) {
            Ok(lease) => Tried::Received(lease),
            Err(full) if full == -libc::EAGAIN => Tried::Wait,
            Err(result) => Tried::Done(result),
        },
        // SAFETY: as above.
        Op::RecvMsg { fd, msg, flags, messages } => {
            // SAFETY: as above.
            once(unsafe { sys::recvmsg(fd, msg, flags, messages) })
        }
        Op::Send { fd, buf, len, flags } => {
            let len = len.min(sys::MOST);
            let all = flags & libc::MSG_WAITALL != 0;
            loop {
                let at = *progress;
                // SAFETY: as above.
                let n = unsafe { sys::send(fd, buf.add(at as usize), len - at, flags) };
                if let Some(tried) = moved(n, progress, |progress| all && progress < len) {
                    return tried;
                }
            }
        }
        Op::SendMsg { fd, msg, flags } => {
            let all = flags & libc::MSG_WAITALL != 0;
            loop {
                let n = match *progress {
                    // SAFETY: as above.
                    0 => unsafe { sys::sendmsg(fd, msg, flags) },
                    // SAFETY: as above.
                    skip => unsafe { sys::sendmsg_rest(fd, msg, flags, skip) },
                };
                // The end shows as a rest of 0 bytes.
                if let Some(tried) = moved(n, progress, |_| all) {
                    return tried;
                }
            }
        }
        // Begun already; an event alone does not mean that it has ended.
        Op::Connect { fd, .. } => match polled(fd, libc::POLLOUT) {
            Tried::Done(0..) => Tried::Done(pool::socket_error(fd)),
            other => other,
        },
        Op::Poll { fd, events } => polled(fd, events as i16),
        Op::Accept { fd } => once(sys::accept(fd)),
        // No other operation waits for readiness.
        _ => Tried::Done(-libc::ENOSYS),
    }
}

/// What a try on a stream came to that had to promise not to wait. `None`: it could not promise.
fn stream(fd: c_int, events: i16, result: Option<i32>) -> Tried {
    match result {
        Some(result) => once(result),
        None if pool::poll(fd, events, 0) == 0 => Tried::Wait,
        None => Tried::Block,
    }
}

fn once(result: i32) -> Tried {
    if result == -libc::EAGAIN { Tried::Wait } else { Tried::Done(result) }
}

fn polled(fd: c_int, events: i16) -> Tried {
    match pool::poll(fd, events, 0) {
        // The kernel passes over negative descriptors.
        0 if fd < 0 => Tried::Done(-libc::EBADF),
        0 => Tried::Wait,
        mask_or_error => Tried::Done(mask_or_error),
    }
}
