//! `sendmsg` and `recvmsg`, by cheaper calls where these do the same.
//!
//! Most messages are one piece of memory, an address, and nothing else: all that `sendto` and
//! `recvfrom` know. Those copy no header and no array from and to the program, which costs a small
//! message a fifth of all (see `docs/benchmarks.md`).

use std::ffi::{c_int, c_void};

/// The one segment of a message without control messages.
fn only_segment(header: &libc::msghdr) -> Option<libc::iovec> {
    // SAFETY: a valid header's array has so many elements.
    (header.msg_iovlen == 1 && header.msg_controllen == 0).then(|| unsafe { *header.msg_iov })
}

/// As `sendmsg`.
///
/// # Safety
/// `msg` is a valid `msghdr`.
pub(super) unsafe fn send(fd: c_int, msg: *const c_void, flags: c_int) -> isize {
    // SAFETY: the caller's; the kernel only reads.
    unsafe {
        let header = &*msg.cast::<libc::msghdr>();
        match only_segment(header) {
            Some(data) => {
                let (name, len) = (header.msg_name.cast(), header.msg_namelen);
                libc::sendto(fd, data.iov_base, data.iov_len, flags, name, len)
            }
            None => libc::sendmsg(fd, header, flags),
        }
    }
}

/// As `recvmsg`. `messages`: the socket is no stream.
///
/// # Safety
/// `msg` is a valid `msghdr`, whose memory may be written.
pub(super) unsafe fn receive(fd: c_int, msg: *mut c_void, flags: c_int, messages: bool) -> isize {
    // SAFETY: the caller's.
    unsafe {
        let header = &mut *msg.cast::<libc::msghdr>();
        let Some(data) = only_segment(header).filter(|_| messages) else {
            return libc::recvmsg(fd, header, flags);
        };
        // Of a message that is cut, the whole length: there is no other sign. (Of a stream, it would
        // throw the bytes away.)
        let flags = flags | libc::MSG_TRUNC;
        let (name, len) = (header.msg_name.cast(), &raw mut header.msg_namelen);
        let n = libc::recvfrom(fd, data.iov_base, data.iov_len, flags, name, len);
        if n < 0 {
            return n;
        }
        let cut = n as usize > data.iov_len;
        header.msg_flags = if cut { libc::MSG_TRUNC } else { 0 };
        n.min(data.iov_len as isize)
    }
}
