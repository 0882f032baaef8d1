//! What the schedule must know of each operation.

use overlapped_iomgr::hal::Op;

/// Its name in the trace.
pub(super) fn name(op: &Op) -> &'static str {
    match op {
        Op::Nop => "nop",
        Op::Read { .. } => "read",
        Op::Write { .. } => "write",
        Op::ReadV { .. } => "readv",
        Op::WriteV { .. } => "writev",
        Op::ReadStream { .. } => "read stream",
        Op::WriteStream { .. } => "write stream",
        Op::Recv { .. } => "recv",
        Op::RecvPooled { .. } => "recv pooled",
        Op::Send { .. } => "send",
        Op::RecvMsg { .. } => "recvmsg",
        Op::SendMsg { .. } => "sendmsg",
        Op::Accept { .. } => "accept",
        Op::Connect { .. } => "connect",
        Op::Shutdown { .. } => "shutdown",
        Op::Open { .. } => "open",
        Op::Close { .. } => "close",
        Op::Sync { .. } => "sync",
        Op::Stat { .. } => "stat",
        Op::StatPath { .. } => "stat path",
        Op::Rename { .. } => "rename",
        Op::Unlink { .. } => "unlink",
        Op::MakeDirectory { .. } => "mkdir",
        Op::Link { .. } => "link",
        Op::SymbolicLink { .. } => "symlink",
        Op::Allocate { .. } => "allocate",
        Op::Advise { .. } => "advise",
        Op::SetLength { .. } => "set length",
        Op::Poll { .. } => "poll",
        Op::Call { .. } => "call",
        _ => "?",
    }
}

/// The descriptor it is for, or −1.
pub(super) fn descriptor(op: &Op) -> i32 {
    match *op {
        Op::Read { fd, .. }
        | Op::Write { fd, .. }
        | Op::ReadV { fd, .. }
        | Op::WriteV { fd, .. }
        | Op::ReadStream { fd, .. }
        | Op::WriteStream { fd, .. }
        | Op::Recv { fd, .. }
        | Op::RecvPooled { fd, .. }
        | Op::Send { fd, .. }
        | Op::RecvMsg { fd, .. }
        | Op::SendMsg { fd, .. }
        | Op::Accept { fd }
        | Op::Connect { fd, .. }
        | Op::Shutdown { fd, .. }
        | Op::Close { fd, .. }
        | Op::Sync { fd, .. }
        | Op::Stat { fd, .. }
        | Op::Allocate { fd, .. }
        | Op::Advise { fd, .. }
        | Op::SetLength { fd, .. }
        | Op::Poll { fd, .. } => fd,
        Op::Open { at, .. }
        | Op::StatPath { at, .. }
        | Op::Rename { at, .. }
        | Op::Unlink { at, .. }
        | Op::MakeDirectory { at, .. }
        | Op::Link { at, .. }
        | Op::SymbolicLink { at, .. } => at,
        _ => -1,
    }
}

/// How much of what it asks for, for the trace.
pub(super) fn extent(op: &Op) -> u64 {
    match *op {
        Op::Read { len, offset, .. } | Op::Write { len, offset, .. } => {
            offset.rotate_left(32) ^ u64::from(len)
        }
        Op::ReadV { count, offset, .. } | Op::WriteV { count, offset, .. } => {
            offset.rotate_left(32) ^ u64::from(count)
        }
        Op::ReadStream { len, .. } | Op::WriteStream { len, .. } => u64::from(len),
        Op::Recv { len, .. } | Op::Send { len, .. } | Op::RecvPooled { len, .. } => u64::from(len),
        Op::Allocate { offset, len, .. } => offset.rotate_left(32) ^ len,
        Op::SetLength { len, .. } => len,
        Op::Poll { events, .. } => u64::from(events),
        _ => 0,
    }
}

/// Whether it is about sockets or pipes.
pub(super) fn is_of_network(op: &Op) -> bool {
    matches!(
        op,
        Op::ReadStream { .. }
            | Op::WriteStream { .. }
            | Op::Recv { .. }
            | Op::RecvPooled { .. }
            | Op::Send { .. }
            | Op::RecvMsg { .. }
            | Op::SendMsg { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Shutdown { .. }
            | Op::Poll { .. }
    )
}

/// Whether it is about files or names, where a thread of the kernel would do it.
pub(super) fn is_of_files(op: &Op) -> bool {
    !is_of_network(op) && !matches!(op, Op::Nop | Op::Close { .. } | Op::Call { .. })
}

/// Whether it may have its result where it is submitted. A lease has no way back from there, and a
/// call is for another thread.
pub(super) fn may_be_done_at_once(op: &Op, alone: bool) -> bool {
    match *op {
        Op::RecvPooled { .. } | Op::Call { .. } => false,
        Op::Read { inline, .. } | Op::Write { inline, .. } => alone && inline,
        Op::Close { now, .. } => now,
        _ => is_of_network(op),
    }
}

/// Whether it gives `EAGAIN` where others would wait.
pub(super) fn never_waits(op: &Op) -> bool {
    matches!(*op, Op::RecvMsg { flags, .. } | Op::Recv { flags, .. } | Op::Send { flags, .. }
        if flags & libc::MSG_DONTWAIT != 0)
}

/// Whether nobody can take it back: the kernel does it in no time.
pub(super) fn must_happen(op: &Op) -> bool {
    matches!(op, Op::Close { .. } | Op::Shutdown { .. })
}
