//! io_uring as a processor's hardware.
//!
//! One ring per processor, made and driven by its thread, so that every fast set-up flag applies
//! (`setup.rs`). [`Hal::submit`] encodes straight into the submission queue (`encode.rs`);
//! [`Hal::turn`] makes at most one `io_uring_enter` and copies completions out before anything acts
//! on them. Pooled receives pick their buffer in the kernel (`buffers.rs`).
//!
//! **Invariants.**
//! 1. An operation handed to us is in exactly one place: the backlog, the kernel, the thread pool,
//!    or the list of local completions; `in_flight` counts them all.
//! 2. `in_kernel` stays below the completion queue's capacity less a reserve, so that only
//!    multishot operations can make it overflow; the kernel keeps what overflows, and the next
//!    enter fetches it.
//! 3. A full submission queue makes operations wait in the backlog, in order. Cancels have a list
//!    of their own, which goes first, so that none is lost.

mod buffers;
mod encode;
mod setup;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, cqueue, opcode, types};
use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};

use self::buffers::Buffers;
use self::encode::{Encoded, encode};
use self::setup::Kernel;
use super::pool::{Job, Pool, Reply};

/// Settings of io_uring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UringConfig {
    /// Entries of the submission queue; the completion queue has eight times as many.
    pub entries: u32,
    /// Buffers for pooled receives, a power of two. Allocated at the first one.
    pub pool_buffers: u16,
    /// Bytes in each of them.
    pub pool_buffer_size: u32,
}

impl Default for UringConfig {
    fn default() -> Self {
        // 1 MiB in all: about the second-level cache, beyond which larger pools cost more than they
        // save (docs/benchmarks.md).
        UringConfig { entries: 256, pool_buffers: 64, pool_buffer_size: 16 * 1024 }
    }
}

/// Completion queue entries that are never promised to operations.
const RESERVE: usize = 64;
/// Completions handed out in one turn at the most.
const BATCH: usize = 256;

// Low bits of `user_data`; tokens have them clear.
const WAKE: u64 = 1;
const CANCEL: u64 = 2;

/// io_uring as a processor's hardware. See the module's header.
pub struct UringHal {
    // First, so that the ring closes before the memory it may still name goes.
    ring: IoUring,
    buffers: Buffers,
    kernel: &'static Kernel,
    backlog: VecDeque<Entry>,
    cancels: VecDeque<Entry>,
    local: Vec<Completion>,
    in_flight: usize,
    in_kernel: usize,
    limit: usize,
    wake: Arc<EventWake>,
    wake_armed: bool,
    reply: Arc<Reply>,
    /// Reads that found nothing in the page cache in a row: the inline try then pauses.
    misses: u32,
}

struct EventWake(OwnedFd);

impl Wake for EventWake {
    fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: an eventfd of our own, and eight bytes to write. It cannot block: nobody writes
        // 2^64 wakes, and the descriptor is non-blocking anyway.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl UringHal {
    /// Sets a ring up for the calling thread, which must be the one that drives it.
    ///
    /// # Errors
    /// Those of `io_uring_setup`: `EPERM` where a container forbids it, `ENOSYS`, `ENOMEM`, and
    /// `Unsupported` for kernels that lack what every operation needs.
    pub fn new(config: &UringConfig) -> io::Result<UringHal> {
        let ring = setup::ring(config.entries)?;
        let kernel = setup::kernel(&ring)?;
        // SAFETY: a plain system call; the descriptor, if there is one, is ours.
        let wake = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Arc::new(EventWake(OwnedFd::from_raw_fd(fd)))
        };
        let capacity = ring.params().cq_entries() as usize;
        Ok(UringHal {
            buffers: Buffers::new(config.pool_buffers, config.pool_buffer_size),
            kernel,
            backlog: VecDeque::with_capacity(64),
            cancels: VecDeque::with_capacity(16),
            local: Vec::with_capacity(16),
            in_flight: 0,
            in_kernel: 0,
            limit: capacity.saturating_sub(RESERVE).max(capacity / 2),
            reply: Reply::new(wake.clone()),
            wake,
            wake_armed: false,
            misses: 0,
            ring,
        })
    }

    /// Puts an entry into the submission queue; `false`: it is full even after a submit.
    fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the memory the entry names is the promise of `Hal::submit`, or none.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        // Makes room; completions are not looked at here.
        if let Err(error) = self.ring.submit() {
            tracing::debug!(%error, "the submission queue is full and the kernel takes nothing");
        }
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn start(&mut self, entry: Entry) {
        if self.backlog.is_empty() && self.in_kernel < self.limit && self.push(&entry) {
            self.in_kernel += 1;
        } else {
            self.backlog.push_back(entry);
        }
    }

    /// Moves what waits here into the submission queue.
    fn refill(&mut self) {
        while let Some(entry) = self.cancels.pop_front() {
            if !self.push(&entry) {
                self.cancels.push_front(entry);
                return;
            }
        }
        if !self.wake_armed {
            let poll =
                opcode::PollAdd::new(types::Fd(self.wake.0.as_raw_fd()), libc::POLLIN as u32);
            self.wake_armed = self.push(&poll.multi(true).build().user_data(WAKE));
        }
        while self.in_kernel < self.limit {
            let Some(entry) = self.backlog.pop_front() else { return };
            if !self.push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
            self.in_kernel += 1;
        }
    }

    /// One enter at the most.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let result = match wait {
            Wait::No => {
                let sq = self.ring.submission();
                let (queued, work) = (sq.len(), sq.taskrun() || sq.cq_overflow());
                drop(sq);
                // Rings of the oldest kind, which have no flag for deferred work, defer none.
                if queued == 0 && !work {
                    return Ok(());
                }
                // With deferred task work, completions appear only in an enter that asks for them.
                const GETEVENTS: u32 = 1;
                // SAFETY: no argument is passed; the queue's entries are the promise of `submit`.
                unsafe {
                    self.ring.submitter().enter::<libc::sigset_t>(queued as u32, 0, GETEVENTS, None)
                }
            }
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::For(limit) => {
                // Beyond a day it may as well wake up early.
                let limit = limit.min(Duration::from_secs(86_400));
                let limit = types::Timespec::from(limit);
                self.ring
                    .submitter()
                    .submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time is over; a signal came; completions must be taken first; memory is
                // short for the moment. What was not submitted stays queued.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        for cqe in self.ring.completion().take(BATCH) {
            let (data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
            let more = cqueue::more(flags);
            match data & 7 {
                0 => {}
                WAKE => {
                    self.wake_armed = more;
                    continue;
                }
                // The cancelled operation's own completion is the only truth.
                _ => continue,
            }
            if !more {
                self.in_kernel -= 1;
                self.in_flight -= 1;
            }
            let lease = cqueue::buffer_select(flags).and_then(|id| self.buffers.take(id, result));
            done.push(Completion { token: Token::new(data), result, more, lease });
        }
    }

    /// Tries to do an operation on the spot, nobody else having anything to do on this thread.
    fn inline(&mut self, op: &Op) -> Option<i32> {
        match *op {
            Op::Read { fd, buf, len, offset, inline: true } if len <= 64 * 1024 => {
                if self.misses >= 8 {
                    // Nothing was cached of late: try only now and then.
                    self.misses = if self.misses >= 72 { 4 } else { self.misses + 1 };
                    return None;
                }
                let iov = libc::iovec { iov_base: buf.cast(), iov_len: len as usize };
                let offset = libc::off_t::try_from(offset).ok()?;
                // SAFETY: the memory is the promise of `Hal::submit`.
                let n = unsafe { libc::preadv2(fd, &iov, 1, offset, libc::RWF_NOWAIT) };
                // A short read may end at what is cached, not at the file's end: the ring decides.
                if n == len as isize {
                    self.misses = 0;
                    return Some(n as i32);
                }
                self.misses += u32::from(n < 0);
                None
            }
            // The ring would hand a buffered write to a kernel thread, at many times the cost. It
            // may block, and delays nobody: nothing else is in flight or runnable here.
            Op::Write { fd, buf, len, offset, inline: true } if len <= 16 * 1024 => {
                let offset = libc::off_t::try_from(offset).ok()?;
                // SAFETY: as above.
                let n = unsafe { libc::pwrite(fd, buf.cast(), len as usize, offset) };
                Some(if n < 0 { -io::Error::last_os_error().raw_os_error()? } else { n as i32 })
            }
            _ => None,
        }
    }
}

impl Hal for UringHal {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    #[inline]
    unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        if alone
            && self.in_flight == 0
            && let Some(result) = self.inline(&op)
        {
            return Some(result);
        }
        if let Op::RecvPooled { .. } = op
            && !self.buffers.ready(&self.ring)
        {
            return Some(-libc::ENOBUFS);
        }
        match encode(&op, self.kernel) {
            Encoded::Entry(entry) => self.start(entry.user_data(token.get())),
            // SAFETY: the memory is the promise of our caller.
            Encoded::Pool => unsafe {
                Pool::global().submit(Job { token, op, reply: self.reply.clone() });
            },
        }
        self.in_flight += 1;
        None
    }

    fn cancel(&mut self, token: Token) {
        let queued = |e: &Entry| e.get_user_data() == token.get();
        if let Some(at) = self.backlog.iter().position(queued) {
            self.backlog.remove(at);
            let result = -libc::ECANCELED;
            self.local.push(Completion { token, result, more: false, lease: None });
            return;
        }
        if Pool::global().cancel(&self.reply, token) {
            return;
        }
        let mut entry = opcode::AsyncCancel::new(token.get()).build().user_data(CANCEL);
        if self.ring.params().is_feature_skip_cqe_on_success() {
            entry = entry.flags(Flags::SKIP_SUCCESS);
        }
        if !self.cancels.is_empty() || !self.push(&entry) {
            self.cancels.push_back(entry);
        }
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        self.buffers.refill();
        self.refill();
        self.in_flight -= self.local.len();
        done.append(&mut self.local);
        let before = done.len();
        self.reply.drain(done);
        self.in_flight -= done.len() - before;
        let wait = if done.is_empty() { wait } else { Wait::No };
        let entered = self.enter(wait);
        self.reap(done);
        let before = done.len();
        self.reply.drain(done);
        self.in_flight -= done.len() - before;
        entered
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wake_handle(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }
}

impl Drop for UringHal {
    fn drop(&mut self) {
        debug_assert_eq!(self.in_flight, 0, "the processor reaps to zero, or leaks the hardware");
    }
}
