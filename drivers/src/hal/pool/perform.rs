//! Every operation as blocking system calls on the calling thread.
//!
//! **Invariant.** [`perform`] returns what io_uring would have returned: the system call's result,
//! or the negated errno; never `-EINTR`, and `-EAGAIN` only where it is no matter of readiness.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use overlapped_iomgr::hal::Op;
use overlapped_iomgr::panics::log;

// The 64-bit calls, by the names that this C library has for them.
#[cfg(target_env = "musl")]
use libc::{fallocate, ftruncate, posix_fadvise, pread, preadv, pwrite, pwritev, pwritev2};
#[cfg(not(target_env = "musl"))]
use libc::{
    fallocate64 as fallocate, ftruncate64 as ftruncate, posix_fadvise64 as posix_fadvise,
    pread64 as pread, preadv64 as preadv, pwrite64 as pwrite, pwritev64 as pwritev,
    pwritev64v2 as pwritev2,
};

use crate::hal::{generation, message};

/// The offset that means the file's own position.
const CURRENT: u64 = u64::MAX;

/// The most one call transfers, by the kernel's own rule; so that a sum fits a result too.
const MOST: usize = 0x7fff_f000;

pub(in crate::hal) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// A system call's result in our form.
pub(in crate::hal) fn outcome(returned: isize) -> i32 {
    if returned < 0 { -errno() } else { i32::try_from(returned).unwrap_or(i32::MAX) }
}

/// Repeats a system call that signals interrupt.
pub(crate) fn again(mut call: impl FnMut() -> isize) -> i32 {
    loop {
        match outcome(call()) {
            interrupted if interrupted == -libc::EINTR => {}
            result => return result,
        }
    }
}

/// Repeats a system call, with sleeps where the descriptor happens to be non-blocking.
fn waiting(fd: c_int, events: i16, mut call: impl FnMut() -> isize) -> i32 {
    loop {
        match again(&mut call) {
            full if full == -libc::EAGAIN => {
                let ready = poll(fd, events, -1);
                if ready < 0 {
                    return ready;
                }
            }
            result => return result,
        }
    }
}

/// `poll(2)` on one descriptor: its mask, 0 after the time limit, or the negated errno.
pub(in crate::hal) fn poll(fd: c_int, events: i16, milliseconds: c_int) -> i32 {
    let mut one = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid element that lives through the call.
    let ready = again(|| unsafe { libc::poll(&mut one, 1, milliseconds) } as isize);
    match ready {
        ..=0 => ready,
        // A negative descriptor is passed over by the kernel and never gets here.
        _ if one.revents & libc::POLLNVAL != 0 => -libc::EBADF,
        _ => i32::from(one.revents as u16),
    }
}

/// Writes so that it is on the medium: in one call, or, before Linux 4.7, in two.
///
/// # Safety
/// `count` segments at `iov` are valid.
unsafe fn write_through(fd: c_int, iov: *const libc::iovec, count: c_int, offset: u64) -> i32 {
    let write = |flags| {
        // The current position is -1 here too.
        // SAFETY: the caller's.
        waiting(fd, libc::POLLOUT, || unsafe { pwritev2(fd, iov, count, offset as i64, flags) })
    };
    match write(libc::RWF_DSYNC) {
        unknown if unknown == -libc::EOPNOTSUPP => {}
        result => return result,
    }
    let written = write(0);
    // SAFETY: a descriptor.
    let synced = again(|| unsafe { libc::fdatasync(fd) } as isize);
    if written >= 0 && synced < 0 { synced } else { written }
}

/// The pending error of a socket, cleared, as a result.
pub(in crate::hal) fn socket_error(fd: c_int) -> i32 {
    let mut error: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both out-parameters live through the call and have the sizes the call is told.
    let got = outcome(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut len)
    } as isize);
    if got < 0 { got } else { -error }
}

/// Does the operation, however long it takes. A panic in [`Op::Call`] gives `-EIO`.
///
/// [`Op::RecvPooled`] has no pool here:
/// `-EOPNOTSUPP`.
///
/// # Safety
/// The memory that the operation names is valid and not used by anybody else in a conflicting way
/// until this returns.
pub unsafe fn perform(op: &Op) -> i32 {
    // SAFETY, of all calls below: descriptors are numbers, which the kernel checks; pointers and
    // lengths come from `op`, and this function's caller keeps them valid.
    match *op {
        Op::Nop => 0,
        Op::Read { fd, buf, len, offset, .. } => {
            let (buf, len) = (buf.cast::<c_void>(), len as usize);
            waiting(fd, libc::POLLIN, || match offset {
                // SAFETY: as above.
                CURRENT => unsafe { libc::read(fd, buf, len) },
                // SAFETY: as above.
                _ => unsafe { pread(fd, buf, len, offset as i64) },
            })
        }
        Op::Write { fd, buf, len, offset, through: true, .. } => {
            let one = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len as usize };
            // SAFETY: as above.
            unsafe { write_through(fd, &raw const one, 1, offset) }
        }
        Op::Write { fd, buf, len, offset, through: false, .. } => {
            let (buf, len) = (buf.cast::<c_void>(), len as usize);
            waiting(fd, libc::POLLOUT, || match offset {
                // SAFETY: as above.
                CURRENT => unsafe { libc::write(fd, buf, len) },
                // SAFETY: as above.
                _ => unsafe { pwrite(fd, buf, len, offset as i64) },
            })
        }
        Op::WriteV { fd, iov, count, offset, through: true } => {
            // SAFETY: as above.
            unsafe { write_through(fd, iov.cast(), count as c_int, offset) }
        }
        Op::ReadV { fd, iov, count, offset } => {
            let (iov, count) = (iov.cast::<libc::iovec>(), count as c_int);
            waiting(fd, libc::POLLIN, || match offset {
                // SAFETY: as above.
                CURRENT => unsafe { libc::readv(fd, iov, count) },
                // SAFETY: as above.
                _ => unsafe { preadv(fd, iov, count, offset as i64) },
            })
        }
        Op::WriteV { fd, iov, count, offset, through: false } => {
            let (iov, count) = (iov.cast::<libc::iovec>(), count as c_int);
            waiting(fd, libc::POLLOUT, || match offset {
                // SAFETY: as above.
                CURRENT => unsafe { libc::writev(fd, iov, count) },
                // SAFETY: as above.
                _ => unsafe { pwritev(fd, iov, count, offset as i64) },
            })
        }
        Op::ReadStream { fd, buf, len, .. } => waiting(fd, libc::POLLIN, || {
            // SAFETY: as above.
            unsafe { libc::read(fd, buf.cast(), len as usize) }
        }),
        Op::WriteStream { fd, buf, len, .. } => waiting(fd, libc::POLLOUT, || {
            // SAFETY: as above.
            unsafe { libc::write(fd, buf.cast(), len as usize) }
        }),
        Op::Recv { fd, buf, len, flags } => waiting(fd, libc::POLLIN, || {
            // SAFETY: as above.
            unsafe { libc::recv(fd, buf.cast(), len as usize, flags) }
        }),
        Op::RecvMsg { fd, msg, flags, messages } => waiting(fd, libc::POLLIN, || {
            // SAFETY: as above.
            unsafe { message::receive(fd, msg, flags, messages) }
        }),
        // SAFETY: as above.
        Op::Send { fd, buf, len, flags } => unsafe { send(fd, buf, len as usize, flags) },
        Op::SendMsg { fd, msg, flags } => waiting(fd, libc::POLLOUT, || {
            // SAFETY: as above.
            unsafe { message::send(fd, msg, flags | libc::MSG_NOSIGNAL) }
        }),
        Op::Accept { fd } => waiting(fd, libc::POLLIN, || {
            // SAFETY: a null address asks for none.
            let accepted = unsafe {
                libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
            };
            accepted as isize
        }),
        Op::Connect { fd, addr, len } => {
            // SAFETY: as above.
            match outcome(unsafe { libc::connect(fd, addr.cast(), len) } as isize) {
                // Either way it goes on by itself; calling again would be EALREADY.
                begun if begun == -libc::EINTR || begun == -libc::EINPROGRESS => {
                    let ready = poll(fd, libc::POLLOUT, -1);
                    if ready < 0 { ready } else { socket_error(fd) }
                }
                result => result,
            }
        }
        // SAFETY: a descriptor and a number.
        Op::Shutdown { fd, how } => outcome(unsafe { libc::shutdown(fd, how) } as isize),
        Op::Open { at, path, flags, mode } => again(|| {
            let flags = flags | libc::O_CLOEXEC | libc::O_LARGEFILE;
            // SAFETY: as above; the path ends with a NUL.
            unsafe { libc::openat(at, path, flags, mode) as isize }
        }),
        Op::Close { fd, .. } => {
            generation::note_close(fd);
            // SAFETY: `Op::Close` means that nobody uses the descriptor any more.
            match outcome(unsafe { libc::close(fd) } as isize) {
                // Linux has closed it. A second call could close somebody else's.
                interrupted if interrupted == -libc::EINTR => 0,
                result => result,
            }
        }
        // SAFETY: a descriptor.
        Op::Sync { fd, data_only: true } => again(|| unsafe { libc::fdatasync(fd) } as isize),
        // SAFETY: a descriptor.
        Op::Sync { fd, data_only: false } => again(|| unsafe { libc::fsync(fd) } as isize),
        Op::Stat { fd, out } => again(|| {
            let (flags, mask) = (libc::AT_EMPTY_PATH, libc::STATX_BASIC_STATS | libc::STATX_BTIME);
            // SAFETY: as above; the path is a literal.
            unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, out.cast()) as isize }
        }),
        // SAFETY, of the following: as above; paths end with a NUL.
        Op::StatPath { at, path, flags, out } => again(|| {
            let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
            // SAFETY: as above.
            unsafe { libc::statx(at, path, flags, mask, out.cast()) as isize }
        }),
        Op::Rename { at, from, to } => {
            // SAFETY: as above.
            again(|| unsafe { libc::renameat(at, from, at, to) } as isize)
        }
        Op::Unlink { at, path, flags } => {
            // SAFETY: as above.
            again(|| unsafe { libc::unlinkat(at, path, flags) } as isize)
        }
        Op::MakeDirectory { at, path, mode } => {
            // SAFETY: as above.
            again(|| unsafe { libc::mkdirat(at, path, mode) } as isize)
        }
        Op::Link { at, from, to, flags } => {
            // SAFETY: as above.
            again(|| unsafe { libc::linkat(at, from, at, to, flags) } as isize)
        }
        Op::SymbolicLink { at, target, path } => {
            // SAFETY: as above.
            again(|| unsafe { libc::symlinkat(target, at, path) } as isize)
        }
        Op::Allocate { fd, mode, offset, len } => {
            // SAFETY: a descriptor and numbers; the kernel refuses those that are negative.
            again(|| unsafe { fallocate(fd, mode, offset as i64, len as i64) } as isize)
        }
        Op::Advise { fd, offset, len, advice } => {
            // SAFETY: a descriptor and numbers. It returns its error.
            -unsafe { posix_fadvise(fd, offset as i64, len as i64, advice) }
        }
        Op::SetLength { fd, len } => match i64::try_from(len) {
            // SAFETY: a descriptor and a number.
            Ok(len) => again(|| unsafe { ftruncate(fd, len) } as isize),
            Err(_) => -libc::EFBIG,
        },
        // `poll` would pass over a negative descriptor and sleep for ever.
        Op::Poll { fd, .. } if fd < 0 => -libc::EBADF,
        Op::Poll { fd, events } => poll(fd, events as i16, -1),
        Op::Call { run, arg } => {
            // SAFETY: as above, for whatever `run` does with `arg`. Nothing that could be left
            // broken by a panic is in sight of the closure.
            match catch_unwind(AssertUnwindSafe(|| unsafe { run(arg) })) {
                Ok(result) => result,
                Err(payload) => {
                    report(payload);
                    -libc::EIO
                }
            }
        }
        Op::RecvPooled { .. } => -libc::EOPNOTSUPP,
        _ => -libc::ENOSYS,
    }
}

/// Sends, until all is sent if `MSG_WAITALL` asks for that.
///
/// # Safety
/// `len` bytes at `buf` are valid.
unsafe fn send(fd: c_int, buf: *const u8, len: usize, flags: c_int) -> i32 {
    let (all, flags) = (flags & libc::MSG_WAITALL != 0, flags & !libc::MSG_WAITALL);
    let len = len.min(MOST);
    let mut sent = 0;
    loop {
        let result = waiting(fd, libc::POLLOUT, || {
            // SAFETY: `sent <= len`, and the caller vouches for the bytes.
            unsafe { libc::send(fd, buf.add(sent).cast(), len - sent, flags | libc::MSG_NOSIGNAL) }
        });
        if result < 0 && sent == 0 {
            return result;
        }
        sent += result.max(0) as usize;
        if result <= 0 || !all || sent == len {
            return sent as i32;
        }
    }
}

fn report(payload: Box<dyn Any + Send>) {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    log(|| tracing::error!(panic = message.unwrap_or("(no text)"), "a blocking call panicked"));
    if message.is_none() {
        // A value of the user's, whose `drop` might panic in its turn.
        std::mem::forget(payload);
    }
}
