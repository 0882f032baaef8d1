//! Short operations done on the spot, when that is cheaper and delays nobody.
//!
//! A ring costs a submission, a completion and often a task switch, which only a batch repays. So
//! when a thread has nothing else to run and nothing in flight, a small read is tried against the
//! page cache first (`RWF_NOWAIT`), and a small buffered write is simply made: the ring would hand
//! it to a kernel thread, at many times the cost. What is sent too, if nothing else is queued for the
//! kernel: a server that answers one request at a time has no batch, and what it sends is taken at once.
//! A large send is tried beside other work too, as long as it overtakes nothing that is queued.
//!
//! **Invariant.** An operation tried here either is finished, or has changed nothing but its own
//! buffer, so that the ring can do it from the start; but a send of all of something, of which the ring
//! then gets the rest (`UringHal::attempt`). That is why operations at the file's own
//! position are not read here: a short read would have moved it.

use std::ffi::{c_int, c_void};
use std::io;

use overlapped_iomgr::hal::Op;

use crate::hal::message;
use crate::hal::pool::outcome;

/// Longest read tried on the spot. Beyond, copying dominates and the ring costs little more.
const MAX_READ: u32 = 64 * 1024;
/// Longest write made on the spot; it may block on the journal or on throttling.
const MAX_WRITE: u32 = 64 * 1024;
/// Misses in a row before reads pause, and how many reads the first pause lasts.
const MISSES: u32 = 8;
const PAUSE: u32 = 32;

/// Tries operations on the spot, and less eagerly those that have been of no help.
#[derive(Default)]
pub(super) struct Inline {
    reads: Eager,
    receives: Eager,
}

/// Whether a kind of operation is tried.
#[derive(Default)]
struct Eager {
    misses: u32,
    /// Operations still to pass on without a try.
    skip: u32,
}

impl Eager {
    fn tries(&mut self) -> bool {
        self.skip = self.skip.saturating_sub(1);
        self.skip == 0
    }

    fn hit(&mut self) {
        self.misses = 0;
    }

    fn miss(&mut self) {
        self.misses += 1;
        if self.misses >= MISSES {
            self.skip = PAUSE << (self.misses - MISSES).min(5);
        }
    }
}

impl Inline {
    /// Tries `op`; `None`: it is the ring's.
    ///
    /// # Safety
    /// As for `Hal::submit`.
    #[inline(never)]
    pub(super) unsafe fn attempt(&mut self, op: &Op) -> Option<i32> {
        match *op {
            Op::Read { fd, buf, len, offset, inline: true } if len <= MAX_READ => {
                // Also turns away `u64::MAX`, the file's own position.
                let offset = libc::off_t::try_from(offset).ok()?;
                // SAFETY: promised by the caller.
                unsafe { self.read(fd, buf, len as usize, offset) }
            }
            Op::Write { fd, buf, len, offset, inline: true, through: false }
                if len <= MAX_WRITE =>
            {
                // SAFETY: promised by the caller.
                unsafe { write(fd, buf, len as usize, offset) }
            }
            // One that wants all to be sent may have to wait in the middle.
            Op::SendMsg { fd, msg, flags } if flags & libc::MSG_WAITALL == 0 => {
                let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: promised by the caller.
                let result = outcome(unsafe { message::send(fd, msg, flags) });
                (result != -libc::EAGAIN && result != -libc::EINTR).then_some(result)
            }
            Op::RecvMsg { fd, msg, flags, messages } if self.receives.tries() => {
                // SAFETY: promised by the caller.
                match unsafe { receive(fd, msg, flags | libc::MSG_DONTWAIT, messages) } {
                    none if none == -libc::EAGAIN => {
                        self.receives.miss();
                        None
                    }
                    result => {
                        self.receives.hit();
                        Some(result)
                    }
                }
            }
            _ => None,
        }
    }

    /// # Safety
    /// `buf` is valid for `len` bytes, and nobody else's.
    unsafe fn read(
        &mut self,
        fd: c_int,
        buf: *mut u8,
        len: usize,
        offset: libc::off_t,
    ) -> Option<i32> {
        if !self.reads.tries() {
            return None;
        }
        let mut filled = 0;
        loop {
            // SAFETY: `filled <= len`, and the kernel writes at most the rest.
            let n = unsafe {
                let iov = libc::iovec { iov_base: buf.add(filled).cast(), iov_len: len - filled };
                libc::preadv2(fd, &raw const iov, 1, offset + filled as i64, libc::RWF_NOWAIT)
            };
            if n < 0 {
                self.reads.miss();
                return None;
            }
            filled += n as usize;
            // A short read may end where the cache does, or the file: only 0 tells them apart.
            if n == 0 || filled == len {
                self.reads.hit();
                return Some(filled as i32);
            }
        }
    }
}

/// # Safety
/// `buf` is valid for `len` bytes.
unsafe fn write(fd: c_int, buf: *const u8, len: usize, offset: u64) -> Option<i32> {
    // SAFETY: promised by the caller.
    let n = unsafe {
        if offset == u64::MAX {
            libc::write(fd, buf.cast(), len)
        } else {
            libc::pwrite(fd, buf.cast(), len, libc::off_t::try_from(offset).ok()?)
        }
    };
    if n >= 0 {
        return Some(n as i32);
    }
    match io::Error::last_os_error().raw_os_error()? {
        // Nothing was written; the ring can wait.
        libc::EINTR | libc::EAGAIN => None,
        errno => Some(-errno),
    }
}

/// A `send` that does not wait.
///
/// # Safety
/// `len` bytes at `buf` are valid.
pub(super) unsafe fn send(fd: c_int, buf: *const u8, len: u32, flags: c_int) -> i32 {
    loop {
        let flags = flags | libc::MSG_NOSIGNAL;
        // SAFETY: promised by the caller.
        match outcome(unsafe { libc::send(fd, buf.cast(), len as usize, flags) }) {
            interrupted if interrupted == -libc::EINTR => {}
            result => return result,
        }
    }
}

/// A `recvmsg` that does not wait.
///
/// # Safety
/// `msg` is a valid `msghdr`, whose memory may be written.
pub(super) unsafe fn receive(fd: c_int, msg: *mut c_void, flags: c_int, messages: bool) -> i32 {
    loop {
        // SAFETY: promised by the caller.
        match outcome(unsafe { message::receive(fd, msg, flags, messages) }) {
            interrupted if interrupted == -libc::EINTR => {}
            result => return result,
        }
    }
}
