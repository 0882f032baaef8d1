//! The one way into the kernel: `io_uring_enter`, by the ring's registered descriptor where the
//! kernel has that.
//!
//! The `io-uring` crate keeps a registration in its `Submitter`, which borrows the ring and so
//! cannot live beside it in a struct. The two system calls are short enough to make here.
//!
//! **Invariant.** The registration is the driving thread's: made, used and undone on it. Left
//! behind it would keep the ring alive until the thread ends. A ring that several threads drive has
//! none.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring};

use super::setup::Rung;

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// How one ring is entered. Neither `Send` nor `Sync`: the registration belongs to one thread.
pub(super) struct Gate {
    ring_fd: libc::c_int,
    /// Index of the registered descriptor, or `ring_fd` itself.
    fd: libc::c_int,
    flags: EnterFlags,
    thread: PhantomData<*mut ()>,
}

impl Gate {
    /// Registers the ring's descriptor, if the kernel can and has one of this thread's few slots.
    pub(super) fn new(ring: &IoUring, rung: Rung) -> Gate {
        let ring_fd = ring.as_raw_fd();
        // GETEVENTS always: deferred work, and what overflowed, appear only in such an enter.
        let mut flags = EnterFlags::GETEVENTS;
        if ring.params().is_feature_no_iowait() {
            // A processor that waits for clients is idle, not held up by a disk.
            flags |= EnterFlags::NO_IOWAIT;
        }
        let mut update = Update { offset: u32::MAX, reserved: 0, data: ring_fd as u64 };
        let registered =
            rung.is_of_one_thread() && register(ring_fd, REGISTER_RING_FDS, &mut update);
        let fd = if registered {
            flags |= EnterFlags::REGISTERED_RING;
            update.offset as libc::c_int
        } else {
            ring_fd
        };
        Gate { ring_fd, fd, flags, thread: PhantomData }
    }

    /// Submits `queued` entries, and with `wait` sleeps until a completion is there, at most for
    /// `limit`.
    ///
    /// Returns how many entries the kernel has taken. What it has not taken stays queued; it may
    /// have been interrupted, or short of memory, or want its completions read first.
    ///
    /// # Errors
    /// When the ring is broken.
    #[inline]
    pub(super) fn enter(
        &self,
        queued: usize,
        wait: bool,
        limit: Option<Duration>,
    ) -> io::Result<usize> {
        let call = |flags: EnterFlags, arg: *const libc::c_void, size: usize| {
            // SAFETY: the ring is open (its owner owns this gate), `arg` is null or points to
            // `size` bytes that live across the call, and the entries in the queue are covered by
            // the promise of `Hal::submit`.
            unsafe {
                libc::syscall(
                    libc::SYS_io_uring_enter,
                    self.fd,
                    queued as u32,
                    u32::from(wait),
                    flags.bits(),
                    arg,
                    size,
                )
            }
        };
        let taken = match limit {
            Some(limit) if wait => {
                // Beyond a day it may as well wake up early; the kernel's time would overflow.
                let limit = Timespec::from(limit.min(Duration::from_secs(86_400)));
                let args = SubmitArgs::new().timespec(&limit);
                let flags = self.flags | EnterFlags::EXT_ARG;
                call(flags, (&raw const args).cast(), mem::size_of_val(&args))
            }
            _ => call(self.flags, ptr::null(), 0),
        };
        if taken >= 0 {
            return Ok(taken as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Time is over; a signal; completions first, please; out of memory for the moment.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(0),
            _ => Err(error),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.flags.contains(EnterFlags::REGISTERED_RING) {
            let mut update = Update { offset: self.fd as u32, reserved: 0, data: 0 };
            register(self.ring_fd, UNREGISTER_RING_FDS, &mut update);
        }
    }
}

fn register(ring_fd: libc::c_int, opcode: libc::c_uint, update: &mut Update) -> bool {
    // SAFETY: `update` is one `struct io_uring_rsrc_update`, valid across the call.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring_fd, opcode, ptr::from_mut(update), 1)
    };
    done == 1
}
