//! Operations to submission queue entries.

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use overlapped_iomgr::hal::Op;

use super::setup::Kernel;

pub(super) enum Encoded {
    Entry(Entry),
    /// The kernel has no such operation: a thread does it.
    Pool,
}

/// The group of the processor's own buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

pub(super) fn encode(op: &Op, kernel: &Kernel) -> Encoded {
    let fd = types::Fd;
    Encoded::Entry(match *op {
        Op::Nop => opcode::Nop::new().build(),
        Op::Read { fd: f, buf, len, offset, .. } => {
            opcode::Read::new(fd(f), buf, len).offset(offset).build()
        }
        Op::Write { fd: f, buf, len, offset, .. } => {
            opcode::Write::new(fd(f), buf, len).offset(offset).build()
        }
        Op::ReadV { fd: f, iov, count, offset } => {
            opcode::Readv::new(fd(f), iov.cast(), count).offset(offset).build()
        }
        Op::WriteV { fd: f, iov, count, offset } => {
            opcode::Writev::new(fd(f), iov.cast(), count).offset(offset).build()
        }
        Op::Recv { fd: f, buf, len, flags } => {
            opcode::Recv::new(fd(f), buf, len).flags(flags).build()
        }
        Op::RecvPooled { fd: f, len } => opcode::Recv::new(fd(f), std::ptr::null_mut(), len)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT),
        Op::Send { fd: f, buf, len, flags } => {
            opcode::Send::new(fd(f), buf, len).flags(flags | libc::MSG_NOSIGNAL).build()
        }
        Op::RecvMsg { fd: f, msg, flags } => {
            opcode::RecvMsg::new(fd(f), msg.cast()).flags(flags as u32).build()
        }
        Op::SendMsg { fd: f, msg, flags } => opcode::SendMsg::new(fd(f), msg.cast())
            .flags((flags | libc::MSG_NOSIGNAL) as u32)
            .build(),
        Op::AcceptMulti { fd: f } => {
            opcode::AcceptMulti::new(fd(f)).flags(libc::SOCK_CLOEXEC).build()
        }
        Op::Connect { fd: f, addr, len } => opcode::Connect::new(fd(f), addr.cast(), len).build(),
        Op::Shutdown { fd: f, how } => opcode::Shutdown::new(fd(f), how).build(),
        Op::Open { path, flags, mode } => opcode::OpenAt::new(fd(libc::AT_FDCWD), path)
            .flags(flags | libc::O_CLOEXEC)
            .mode(mode)
            .build(),
        Op::Close { fd: f } => {
            super::super::generation::note_close(f);
            opcode::Close::new(fd(f)).build()
        }
        Op::Sync { fd: f, data_only } => {
            let flags =
                if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
            opcode::Fsync::new(fd(f)).flags(flags).build()
        }
        Op::Stat { fd: f, out } => opcode::Statx::new(fd(f), c"".as_ptr(), out.cast())
            .flags(libc::AT_EMPTY_PATH)
            .mask(libc::STATX_BASIC_STATS | libc::STATX_BTIME)
            .build(),
        Op::SetLength { fd: f, len } if kernel.truncate => {
            opcode::Ftruncate::new(fd(f), len).build()
        }
        Op::Poll { fd: f, events } => opcode::PollAdd::new(fd(f), events).build(),
        _ => return Encoded::Pool,
    })
}
