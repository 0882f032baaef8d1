//! Non-blocking system calls, with results as io_uring gives them: a count or the negated errno.
//!
//! None returns `-EINTR`. `-EAGAIN` means: not ready.

use std::ffi::{c_int, c_void};

use crate::hal::message;
use crate::hal::pool::{errno, outcome};

/// The most one operation transfers, by the kernel's own rule; so that a sum fits a result too.
pub(super) const MOST: u32 = 0x7fff_f000;

/// Segments of a message handed to the kernel at a time when a send has to go on in the middle.
const SEGMENTS: usize = 32;

fn again(mut call: impl FnMut() -> isize) -> i32 {
    loop {
        match outcome(call()) {
            interrupted if interrupted == -libc::EINTR => {}
            result => return result,
        }
    }
}

/// # Safety
/// `len` bytes at `buf` may be written.
pub(super) unsafe fn recv(fd: c_int, buf: *mut u8, len: u32, flags: c_int) -> i32 {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the caller vouches for the memory.
    again(|| unsafe { libc::recv(fd, buf.cast(), len as usize, flags) })
}

/// # Safety
/// `msg` is a valid `msghdr`, whose memory may be written.
pub(super) unsafe fn recvmsg(fd: c_int, msg: *mut c_void, flags: c_int, messages: bool) -> i32 {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the caller vouches for the memory.
    again(|| unsafe { message::receive(fd, msg, flags, messages) })
}

fn send_flags(flags: c_int) -> c_int {
    (flags & !libc::MSG_WAITALL) | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL
}

/// # Safety
/// `len` bytes at `buf` are valid.
pub(super) unsafe fn send(fd: c_int, buf: *const u8, len: u32, flags: c_int) -> i32 {
    // SAFETY: the caller vouches for the memory.
    again(|| unsafe { libc::send(fd, buf.cast(), len as usize, send_flags(flags)) })
}

/// # Safety
/// `msg` is a valid `msghdr`.
pub(super) unsafe fn sendmsg(fd: c_int, msg: *const c_void, flags: c_int) -> i32 {
    // SAFETY: the caller vouches for the memory.
    again(|| unsafe { message::send(fd, msg, send_flags(flags)) })
}

/// Sends what is left of a stream's message after its first `skip` bytes. 0: nothing is.
///
/// # Safety
/// `msg` is a valid `msghdr`.
pub(super) unsafe fn sendmsg_rest(fd: c_int, msg: *const c_void, flags: c_int, skip: u32) -> i32 {
    // SAFETY: the caller vouches for the header and the array it names.
    let segments = unsafe {
        let header = &*msg.cast::<libc::msghdr>();
        match header.msg_iovlen {
            0 => &[],
            #[allow(clippy::unnecessary_cast)] // Its type is the C library's choice.
            count => std::slice::from_raw_parts(header.msg_iov, count as usize),
        }
    };
    let mut rest = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEGMENTS];
    let (mut used, mut skip, mut room) = (0, skip as usize, (MOST - skip.min(MOST)) as usize);
    for segment in segments {
        let passed = skip.min(segment.iov_len);
        skip -= passed;
        let len = (segment.iov_len - passed).min(room);
        if len == 0 {
            continue;
        }
        // SAFETY: `passed` is less than the segment's length.
        let base = unsafe { segment.iov_base.cast::<u8>().add(passed) };
        rest[used] = libc::iovec { iov_base: base.cast(), iov_len: len };
        room -= len;
        used += 1;
        if used == SEGMENTS {
            break;
        }
    }
    if used == 0 {
        return 0;
    }
    // SAFETY: `msghdr` is plain numbers and pointers, for which zero is a value. Address and control
    // data have gone with the first part.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = rest.as_mut_ptr();
    header.msg_iovlen = used as _;
    // SAFETY: the header names `used` elements of `rest`, each a part of a valid segment.
    unsafe { sendmsg(fd, (&raw const header).cast(), flags) }
}

/// One segment, moved at the file's position by a call that may not wait; `None` where the kernel or
/// the file knows no such call.
fn without_waiting(call: impl Fn() -> isize) -> Option<i32> {
    match again(call) {
        unknown if [libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM].contains(&-unknown) => None,
        result => Some(result),
    }
}

/// Makes the open file non-blocking for good, if that is nobody else's affair, and does the call.
fn own_way(fd: c_int, own: bool, call: impl FnMut() -> isize) -> Option<i32> {
    match own.then(|| set_nonblocking(fd, true))? {
        error @ ..0 => Some(error),
        _ => Some(again(call)),
    }
}

/// Reads what a stream has. `None`: only a call that may block can tell.
///
/// # Safety
/// `len` bytes at `buf` may be written.
pub(super) unsafe fn read_stream(fd: c_int, buf: *mut u8, len: u32, own: bool) -> Option<i32> {
    let iov = libc::iovec { iov_base: buf.cast(), iov_len: len.min(MOST) as usize };
    // SAFETY: one element, which lives through the call.
    without_waiting(|| unsafe { libc::preadv2(fd, &iov, 1, -1, libc::RWF_NOWAIT) }).or_else(|| {
        // SAFETY: the caller vouches for the memory.
        own_way(fd, own, || unsafe { libc::read(fd, iov.iov_base, iov.iov_len) })
    })
}

/// Writes what a stream takes. `None`: only a call that may block can tell.
///
/// # Safety
/// `len` bytes at `buf` are valid.
pub(super) unsafe fn write_stream(fd: c_int, buf: *const u8, len: u32, own: bool) -> Option<i32> {
    let iov = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len.min(MOST) as usize };
    // SAFETY: one element, which lives through the call.
    without_waiting(|| unsafe { libc::pwritev2(fd, &iov, 1, -1, libc::RWF_NOWAIT) }).or_else(|| {
        // SAFETY: the caller vouches for the memory.
        own_way(fd, own, || unsafe { libc::write(fd, iov.iov_base, iov.iov_len) })
    })
}

/// Accepts one connection: its descriptor, blocking and close-on-exec.
pub(super) fn accept(fd: c_int) -> i32 {
    let (none, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: null pointers ask for no address.
    again(|| unsafe { libc::accept4(fd, none, no_length, libc::SOCK_CLOEXEC) } as isize)
}

/// # Safety
/// `len` bytes at `addr` are valid.
pub(super) unsafe fn connect(fd: c_int, addr: *const c_void, len: u32) -> i32 {
    // SAFETY: the caller vouches for the memory. Not repeated when interrupted: a non-blocking
    // connect does not sleep, and if it did, it would go on by itself.
    match outcome(unsafe { libc::connect(fd, addr.cast(), len) } as isize) {
        interrupted if interrupted == -libc::EINTR => -libc::EINPROGRESS,
        result => result,
    }
}

/// Makes a descriptor (for all who share its open file) non-blocking or blocking: 1 if it was not
/// so before, 0 if it was.
pub(super) fn set_nonblocking(fd: c_int, on: bool) -> i32 {
    // SAFETY: a descriptor and numbers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return -errno();
    }
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted == flags {
        return 0;
    }
    // SAFETY: a descriptor and numbers.
    match outcome(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) } as isize) {
        0.. => 1,
        error => error,
    }
}

/// Whether a socket carries a stream of bytes, so that one operation may take several parts.
pub(super) fn is_stream(fd: c_int) -> bool {
    option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// Whether it is a TCP socket.
pub(super) fn is_tcp(fd: c_int) -> bool {
    option(fd, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

/// A socket option that is a number.
fn option(fd: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: both out-parameters live through the call and have the sizes the call is told.
    let got =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut len) };
    (got == 0).then_some(value)
}

/// Reads what the page cache has of a file; `None` if only a call that may block can tell.
///
/// # Safety
/// `len` bytes at `buf` may be written.
pub(super) unsafe fn read_cached(fd: c_int, buf: *mut u8, len: u32, offset: u64) -> Option<i32> {
    let mut done = 0;
    loop {
        let at = match offset {
            u64::MAX => -1,
            _ => libc::off_t::try_from(offset.checked_add(u64::from(done))?).ok()?,
        };
        // SAFETY: `done <= len`, and the caller vouches for the memory.
        let base = unsafe { buf.add(done as usize) };
        let iov = libc::iovec { iov_base: base.cast(), iov_len: (len - done) as usize };
        // SAFETY: one element, which lives through the call.
        match outcome(unsafe { libc::preadv2(fd, &iov, 1, at, libc::RWF_NOWAIT) }) {
            // The position has moved: what there is, is the result.
            n @ 0.. if offset == u64::MAX => return Some(n),
            // The end of the file.
            0 => return Some(done as i32),
            n @ 1.. => {
                done += n as u32;
                // A short read is the end or a page that is not there; the next call tells.
                if done == len {
                    return Some(done as i32);
                }
            }
            error => {
                // Not cached; not known to the file system, the kernel, a seccomp filter. Whatever
                // it is, the pool's plain read will say.
                let blocking =
                    [libc::EAGAIN, libc::EINTR, libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM];
                return if done > 0 || blocking.contains(&-error) { None } else { Some(error) };
            }
        }
    }
}
