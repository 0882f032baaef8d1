//! Ending the ring's sleep from another thread: an eventfd with a standing poll in the ring.
//!
//! The poll is multishot, so every write to the eventfd makes a completion, although nobody ever
//! reads the counter; it cannot overflow in the life of a machine. Nothing that the kernel could
//! write to dangles when the ring closes.
//!
//! **Invariant.** While `pending` is set, a completion of the poll is coming or in the queue:
//! it is set before the write that causes one, and cleared when one is read. So a wake that finds it
//! set need not write. Both sides use a read-modify-write, hence what a thread published before
//! such a wake is seen by whoever acts on the turn that cleared it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use overlapped_iomgr::hal::Wake;

pub(super) struct EventWake {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl EventWake {
    pub(super) fn new() -> io::Result<EventWake> {
        // SAFETY: a plain system call, and the descriptor it returns is ours alone.
        let fd = unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
                fd if fd >= 0 => OwnedFd::from_raw_fd(fd),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        Ok(EventWake { fd, pending: AtomicBool::new(false) })
    }

    pub(super) fn raw_fd(&self) -> libc::c_int {
        self.fd.as_raw_fd()
    }

    /// A completion of the poll has been read.
    pub(super) fn clear(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// Empties the counter before the poll is armed again, lest it complete at once and for ever
    /// on kernels without multishot poll. A wake that comes in between is seen by the new poll.
    pub(super) fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes of our own. The descriptor does not block.
        unsafe { libc::read(self.raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Wake for EventWake {
    fn wake(&self) {
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of our own. It does not block, and can fail only when the counter is
        // full, in which case the poll has something to see.
        unsafe { libc::write(self.raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}
