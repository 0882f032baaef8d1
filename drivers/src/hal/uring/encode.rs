//! Operations as submission queue entries.
//!
//! **Non-blocking descriptors.** io_uring takes `O_NONBLOCK` at its word for [`Op::Read`],
//! [`Op::Write`] and their kin: such an operation on a pipe or socket that is not ready
//! completes with `-EAGAIN`. An entry is all that is left of an operation here, so it cannot be
//! tried again from here: the bottom driver submits [`Op::Poll`] and then the operation once more.
//!
//! Reads next: `outbox.rs`, where entries queue.

use std::ffi::c_int;
use std::ptr;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};
use overlapped_iomgr::hal::Op;

use super::buffers::GROUP;
use super::setup::Kernel;

/// A write's flags: every kernel with a ring knows this one.
#[inline(always)]
fn durable(through: bool) -> c_int {
    if through { libc::RWF_DSYNC } else { 0 }
}

/// The entry of one of the common operations, all of which every kernel with a ring at all has.
///
/// Always inlined and built field by field straight into the queue: a copy by way of the stack
/// costs more than all the rest of a submission.
#[inline(always)]
pub(super) fn encode_common(op: &Op) -> Option<Entry> {
    Some(match *op {
        Op::Nop => opcode::Nop::new().build(),
        Op::Read { fd, buf, len, offset, .. } => {
            opcode::Read::new(Fd(fd), buf, len).offset(offset).build()
        }
        Op::Write { fd, buf, len, offset, through, .. } => {
            opcode::Write::new(Fd(fd), buf, len).offset(offset).rw_flags(durable(through)).build()
        }
        Op::Recv { fd, buf, len, flags } => {
            opcode::Recv::new(Fd(fd), buf, len).flags(flags).build()
        }
        Op::RecvPooled { fd, len } => opcode::Recv::new(Fd(fd), ptr::null_mut(), len)
            .buf_group(GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT),
        Op::Send { fd, buf, len, flags } => {
            opcode::Send::new(Fd(fd), buf, len).flags(flags | libc::MSG_NOSIGNAL).build()
        }
        _ => return None,
    })
}

/// The entry of any operation; `None` when this kernel has none and a thread must do it.
pub(super) fn encode(op: &Op, kernel: &Kernel) -> Option<Entry> {
    if let Some(entry) = encode_common(op) {
        return Some(entry);
    }
    // Socket flags are a C int; the opcodes take them as u32.
    let nosignal = |flags: c_int| (flags | libc::MSG_NOSIGNAL) as u32;
    let entry = match *op {
        Op::ReadStream { fd, buf, len, .. } => {
            opcode::Read::new(Fd(fd), buf, len).offset(u64::MAX).build()
        }
        Op::WriteStream { fd, buf, len, .. } => {
            opcode::Write::new(Fd(fd), buf, len).offset(u64::MAX).build()
        }
        Op::ReadV { fd, iov, count, offset } => {
            opcode::Readv::new(Fd(fd), iov.cast(), count).offset(offset).build()
        }
        Op::WriteV { fd, iov, count, offset, through } => {
            let write = opcode::Writev::new(Fd(fd), iov.cast(), count);
            write.offset(offset).rw_flags(durable(through)).build()
        }
        Op::RecvMsg { fd, msg, flags, .. } => {
            opcode::RecvMsg::new(Fd(fd), msg.cast()).flags(flags as u32).build()
        }
        Op::SendMsg { fd, msg, flags } => {
            opcode::SendMsg::new(Fd(fd), msg.cast()).flags(nosignal(flags)).build()
        }
        Op::Accept { fd } => opcode::Accept::new(Fd(fd), ptr::null_mut(), ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        Op::Connect { fd, addr, len } => opcode::Connect::new(Fd(fd), addr.cast(), len).build(),
        Op::Shutdown { fd, how } => opcode::Shutdown::new(Fd(fd), how).build(),
        Op::Open { at, path, flags, mode } => {
            opcode::OpenAt::new(Fd(at), path).flags(flags | libc::O_CLOEXEC).mode(mode).build()
        }
        Op::Close { fd, .. } => opcode::Close::new(Fd(fd)).build(),
        Op::Sync { fd, data_only } => {
            let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
            opcode::Fsync::new(Fd(fd)).flags(flags).build()
        }
        Op::Stat { fd, out } => opcode::Statx::new(Fd(fd), c"".as_ptr(), out.cast())
            .flags(libc::AT_EMPTY_PATH)
            .mask(libc::STATX_BASIC_STATS | libc::STATX_BTIME)
            .build(),
        Op::StatPath { at, path, flags, out } => opcode::Statx::new(Fd(at), path, out.cast())
            .flags(flags)
            .mask(libc::STATX_BASIC_STATS | libc::STATX_BTIME)
            .build(),
        Op::Rename { at, from, to } => opcode::RenameAt::new(Fd(at), from, Fd(at), to).build(),
        Op::Unlink { at, path, flags } => opcode::UnlinkAt::new(Fd(at), path).flags(flags).build(),
        Op::MakeDirectory { at, path, mode } => {
            opcode::MkDirAt::new(Fd(at), path).mode(mode).build()
        }
        Op::Link { at, from, to, flags } => {
            opcode::LinkAt::new(Fd(at), from, Fd(at), to).flags(flags).build()
        }
        Op::SymbolicLink { at, target, path } => {
            opcode::SymlinkAt::new(Fd(at), target, path).build()
        }
        Op::Allocate { fd, mode, offset, len } => {
            opcode::Fallocate::new(Fd(fd), len).offset(offset).mode(mode).build()
        }
        // The entry's length has 32 bits; a thread's has more.
        Op::Advise { len, .. } if len > u64::from(u32::MAX) => return None,
        Op::Advise { fd, offset, len, advice } => {
            opcode::Fadvise::new(Fd(fd), len as libc::off_t, advice).offset(offset).build()
        }
        Op::SetLength { fd, len } => opcode::Ftruncate::new(Fd(fd), len).build(),
        Op::Poll { fd, events } => opcode::PollAdd::new(Fd(fd), events).build(),
        // `Call`, and what this file has not heard of.
        _ => return None,
    };
    kernel.has(entry.get_opcode()).then_some(entry)
}
