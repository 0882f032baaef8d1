//! io_uring as a processor's hardware.
//!
//! ```text
//!   submit ─┬─ inline.rs: done on the spot ──────────────────────────▶ Some(result)
//!           ├─ encode.rs ─▶ outbox.rs ─▶ gate.rs: io_uring_enter ─▶ reap ─▶ Completion
//!           └─ no such opcode, or Op::Call ─▶ pool::Pool ─▶ Reply ────────▶ Completion
//! ```
//!
//! One ring per processor, made and driven by its thread (`setup.rs`). A turn makes one
//! `io_uring_enter`, or none, unless more is queued than the submission queue holds. Pooled
//! receives pick their buffer in the kernel (`buffers.rs`); other threads end a sleep through an
//! eventfd (`wake.rs`); the end of a sleep that is due again and again is an operation too (`alarm.rs`).
//!
//! **Invariants.**
//! - A user operation is in exactly one place: the outbox or the kernel, the thread pool, or
//!   `cancelled`. `in_flight` counts them all, and falls by one with each final completion.
//! - `user_data` is the token itself for user operations; entries of our own have a low bit set.
//! - Nothing the kernel may still write to is freed before the ring is closed with nothing in
//!   flight.
//!
//! Descriptors opened with `O_NONBLOCK` need a word; see `encode.rs`.

mod alarm;
mod buffers;
mod encode;
mod gate;
mod inline;
mod outbox;
mod setup;
#[cfg(test)]
mod tests;
mod wake;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue};
use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};

use self::alarm::Alarm;
use self::buffers::Buffers;
use self::encode::{encode, encode_common};
use self::gate::Gate;
use self::inline::Inline;
use self::outbox::Outbox;
use self::setup::{Kernel, Rung};
use self::wake::EventWake;
use super::generation;
use super::pool::{Job, Pool, Reply};

/// Low bits of `user_data` that mark our own entries; a token has them clear.
const TAGS: u64 = 7;
const TAG_CANCEL: u64 = 1;
const TAG_WAKE: u64 = 2;
const TAG_ALARM: u64 = 3;

/// Completions read in one turn at the most.
const BATCH: usize = 256;
/// Since 6.13 an enter runs about so many deferred completions and may leave more behind with the
/// kernel's flag down, so after that many the next turn looks again.
const KERNEL_BATCH: usize = 16;

/// Settings of io_uring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UringConfig {
    /// Entries of the submission queue: 8 to 32768. More operations than that between two turns
    /// wait and cost an extra system call.
    pub entries: u32,
    /// Entries of the completion queue, at least twice `entries`: about as many operations can be
    /// in flight before the bound must be raised.
    pub cq_entries: u32,
    /// Buffers for pooled receives. They are allocated at the first one, and cost memory as they
    /// are used.
    pub pool_buffers: u16,
    /// Bytes in each of them.
    pub pool_buffer_size: u32,
}

impl Default for UringConfig {
    fn default() -> Self {
        // As large as what one receive takes from a busy socket, as many as one turn may fill. They
        // cost address space only: those used last are used again first.
        let (pool_buffers, pool_buffer_size) = (1024, 64 * 1024);
        UringConfig { entries: 256, cq_entries: 4096, pool_buffers, pool_buffer_size }
    }
}

/// io_uring as a processor's hardware. See the module's header.
pub struct UringHal {
    // The order of fields is the order of teardown: registration, ring, then what it named.
    gate: Gate,
    ring: IoUring,
    outbox: Outbox,
    alarm: Alarm,
    kernel: Kernel,
    in_flight: usize,
    inline: Inline,
    buffers: Buffers,
    /// The last enter may have left deferred completions behind.
    look_again: bool,
    /// Among what is queued for the kernel there may be something that a send must not overtake.
    ordered: bool,
    /// Cancelled before they left; to be delivered by the next turn.
    cancelled: Vec<Token>,
    /// Of which so many bytes have been sent on the spot, and the rest is with the ring.
    begun: HashMap<Token, i32>,
    reply: Arc<Reply>,
    /// Operations with the thread pool.
    pooled: usize,
    wake: Arc<EventWake>,
}

impl UringHal {
    /// Sets a ring up for the calling thread, which must be the one that drives it.
    ///
    /// # Errors
    /// Those of the kernel: `EPERM` where a container or the administrator forbids io_uring,
    /// `ENOSYS`, `ENOMEM`, …; `Unsupported` before Linux 5.11.
    pub fn new(config: &UringConfig) -> io::Result<UringHal> {
        UringHal::with_rungs(config, &Rung::ALL)
    }

    /// Sets a ring up that several threads may drive, one at a time.
    ///
    /// # Errors
    /// As [`UringHal::new`].
    pub fn shared(config: &UringConfig) -> io::Result<UringHal> {
        UringHal::with_rungs(config, &Rung::SHARED)
    }

    fn with_rungs(config: &UringConfig, rungs: &[Rung]) -> io::Result<UringHal> {
        let (ring, rung) = setup::open(config, rungs)?;
        let kernel = Kernel::probe(&ring)?;
        let wake = Arc::new(EventWake::new()?);
        Ok(UringHal {
            gate: Gate::new(&ring, rung),
            outbox: Outbox::new(&ring, wake.raw_fd()),
            alarm: Alarm::new(&ring, rung),
            ring,
            kernel,
            in_flight: 0,
            inline: Inline::default(),
            buffers: Buffers::NotYet { count: config.pool_buffers, size: config.pool_buffer_size },
            look_again: false,
            ordered: false,
            cancelled: Vec::new(),
            begun: HashMap::new(),
            reply: Reply::new(wake.clone()),
            pooled: 0,
            wake,
        })
    }

    /// Hands over what ended without the ring.
    fn deliver_local(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        if !self.cancelled.is_empty() {
            let result = -libc::ECANCELED;
            done.extend(self.cancelled.drain(..).map(|token| Completion {
                token,
                result,
                lease: None,
            }));
        }
        let local = done.len();
        if self.pooled > 0 {
            self.reply.drain(done);
            self.pooled -= done.len() - local;
        }
        self.in_flight -= done.len() - before;
    }

    /// Enters the kernel if there is anything to submit, to fetch, or to wait for. Returns whether
    /// that got anywhere.
    fn enter(&mut self, sleep: bool, limit: Option<Duration>) -> io::Result<bool> {
        let sq = self.ring.submission();
        let queued = sq.len();
        let work = mem::take(&mut self.look_again) || sq.taskrun() || sq.cq_overflow();
        drop(sq);
        if queued == 0 && !work && !sleep {
            return Ok(true);
        }
        let taken = self.gate.enter(queued, sleep, limit)?;
        self.ordered &= !self.outbox.is_empty(&mut self.ring);
        Ok(taken > 0 || queued == 0)
    }

    /// Does an operation on the spot, when the thread has nothing else to run, or when it is urgent.
    /// The operation, or what is left of it, if that does not get anywhere.
    ///
    /// # Safety
    /// As for `Hal::submit`.
    unsafe fn attempt(&mut self, token: Token, op: Op) -> Result<i32, Op> {
        let urgent = op.is_urgent();
        // SAFETY: promised by the caller; what is left of the memory is the operation's.
        unsafe {
            match op {
                // What waits in the kernel may be overtaken there too.
                Op::Send { .. } if urgent && self.ordered => {}
                // A batch is better left to the ring.
                Op::Send { .. } | Op::SendMsg { .. }
                    if !urgent && !self.outbox.is_empty(&mut self.ring) => {}
                // So long that two results would not fit into one: the ring's.
                Op::Send { len, .. } if i32::try_from(len).is_err() => {}
                Op::Send { fd, buf, len, flags } if flags & libc::MSG_DONTWAIT == 0 => {
                    let all = flags & libc::MSG_WAITALL;
                    let sent = inline::send(fd, buf, len, flags & !all | libc::MSG_DONTWAIT);
                    if sent > 0 && (sent as u32) < len && all != 0 {
                        self.begun.insert(token, sent);
                        let (buf, len) = (buf.add(sent as usize), len - sent as u32);
                        return Err(Op::Send { fd, buf, len, flags });
                    }
                    if sent != -libc::EAGAIN {
                        return Ok(sent);
                    }
                }
                Op::SendMsg { .. } => return self.inline.attempt(&op).ok_or(op),
                Op::Read { .. } | Op::Write { .. } | Op::RecvMsg { .. } if self.in_flight == 0 => {
                    return self.inline.attempt(&op).ok_or(op);
                }
                _ => {}
            }
            Err(op)
        }
    }

    /// Adds what has been sent on the spot to what the kernel says of the rest.
    #[cold]
    fn add_begun(&mut self, done: &mut [Completion]) {
        for completion in done {
            if let Some(sent) = self.begun.remove(&completion.token) {
                // Bytes that have left are no error.
                completion.result = completion.result.max(0) + sent;
            }
        }
    }

    /// See [`Hal::turn`].
    fn look(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        let (may_sleep, limit) = match wait {
            Wait::No => (false, None),
            Wait::Forever => (true, None),
            Wait::For(limit) => (!limit.is_zero(), Some(limit)),
        };
        let before = done.len();
        self.deliver_local(done);
        self.buffers.refill();
        loop {
            self.outbox.fill(&mut self.ring);
            let stuck = self.outbox.stuck();
            let nothing = done.len() == before && self.ring.completion().is_empty();
            let sleeps = may_sleep && nothing && !stuck;
            let limit = limit.filter(|_| sleeps).and_then(|l| self.alarm.limit(&mut self.ring, l));
            let progress = self.enter(sleeps, limit)?;
            let woken = self.reap(done);
            if self.pooled > 0 {
                self.deliver_local(done);
            }
            if !stuck || woken || !progress || done.len() > before {
                return Ok(());
            }
            // More is queued than fits, and nothing has ended: submit the rest before sleeping.
            self.outbox.relent();
        }
    }

    /// Submits what is rare, or finds no room. `in_flight` counts it already.
    ///
    /// # Safety
    /// As for `Hal::submit`.
    #[inline(never)]
    unsafe fn submit_rest(&mut self, token: Token, op: Op) {
        if let Op::Close { fd, .. } = op {
            generation::note_close(fd);
        }
        if let Some(entry) = encode(&op, &self.kernel) {
            // SAFETY: promised by the caller.
            unsafe { self.outbox.push(&mut self.ring, entry.user_data(token.get())) };
        } else {
            self.pooled += 1;
            // SAFETY: promised by the caller; the completion is delivered from `reply`.
            unsafe { Pool::global().submit(Job { token, op, reply: self.reply.clone() }) };
        }
    }

    /// Moves completions out of the queue. No code of others runs meanwhile. Returns whether a wake
    /// was among them.
    fn reap(&mut self, done: &mut Vec<Completion>) -> bool {
        let mut woken = false;
        let mut ended = 0;
        let cancels_wait = self.outbox.cancels_wait();
        let queue = self.ring.completion();
        let count = queue.len().min(BATCH);
        done.reserve(count);
        for cqe in queue.take(BATCH) {
            let (data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
            if data & TAGS != 0 {
                // What became of a cancel does not matter: the operation's own result tells (X-5).
                if data == TAG_ALARM {
                    woken = true;
                    self.alarm.rang();
                } else if data == TAG_WAKE {
                    woken = true;
                    self.wake.clear();
                    if !cqueue::more(flags) {
                        self.wake.drain();
                        self.outbox.wake_ended();
                    }
                }
                continue;
            }
            ended += 1;
            if cancels_wait {
                self.outbox.forget_cancel(data);
            }
            let token = Token::new(data);
            match cqueue::buffer_select(flags) {
                // Not `push`, which may grow and for that builds the whole completion elsewhere
                // first; copying it back costs as much as the rest of this loop.
                None => {
                    let end = &mut done.spare_capacity_mut()[0];
                    end.write(Completion { token, result, lease: None });
                    // SAFETY: the element was there (`reserve` above), and is written now.
                    unsafe { done.set_len(done.len() + 1) };
                }
                Some(id) => {
                    self.buffers.complete(id, Completion { token, result, lease: None }, done)
                }
            }
        }
        self.outbox.ended(ended);
        self.in_flight -= ended;
        self.look_again = count >= KERNEL_BATCH;
        woken
    }
}

// SAFETY: completions are the kernel's, for entries that carry the tokens submitted; `in_flight` counts
// them, and the crate's modules keep what they name.
unsafe impl Hal for UringHal {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        let op = if alone {
            // SAFETY: promised by the caller.
            match unsafe { self.attempt(token, op) } {
                Ok(result) => return Some(result),
                Err(op) => op,
            }
        } else {
            op
        };
        if let Op::Close { fd, now: true } = op {
            return Some(super::close(fd));
        }
        if matches!(op, Op::RecvPooled { .. }) && !self.buffers.ready(&self.ring) {
            return Some(-libc::ENOBUFS);
        }
        if let Op::RecvMsg { fd, msg, flags, messages } = op
            && flags & libc::MSG_DONTWAIT != 0
        {
            // Waits for nobody, so a trip through the ring would only cost more.
            // SAFETY: promised by the caller.
            return Some(unsafe { inline::receive(fd, msg, flags, messages) });
        }
        if let Op::Send { fd, buf, len, flags } = op
            && flags & libc::MSG_DONTWAIT != 0
        {
            // As above.
            // SAFETY: promised by the caller.
            return Some(unsafe { inline::send(fd, buf, len, flags) });
        }
        self.in_flight += 1;
        self.ordered |= !matches!(op, Op::Recv { .. } | Op::RecvPooled { .. } | Op::Read { .. });
        if let Some(mut sq) = self.outbox.room(&mut self.ring)
            && let Some(entry) = encode_common(&op)
        {
            // SAFETY: promised by the caller.
            let pushed = unsafe { sq.push(&entry.user_data(token.get())) };
            debug_assert!(pushed.is_ok(), "there was room");
            self.outbox.sent();
        } else {
            // SAFETY: promised by the caller.
            unsafe { self.submit_rest(token, op) };
        }
        None
    }

    fn cancel(&mut self, token: Token) {
        // A job's completion comes through `reply`, whether or not it was still queued.
        if self.pooled > 0 && Pool::global().cancel(&self.reply, token) {
            return;
        }
        if self.outbox.cancel(&mut self.ring, token.get()) {
            self.cancelled.push(token);
        }
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        let result = self.look(wait, done);
        if !self.begun.is_empty() {
            self.add_begun(&mut done[before..]);
        }
        result
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wake_handle(&self) -> Arc<dyn Wake> {
        self.wake.clone()
    }

    fn watch(&mut self) -> Option<i32> {
        Some(self.ring.as_raw_fd())
    }
}

impl fmt::Debug for UringHal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringHal").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Drop for UringHal {
    fn drop(&mut self) {
        generation::note_close(self.ring.as_raw_fd());
        if self.in_flight == 0 {
            self.buffers.unregister(&self.ring);
            return;
        }
        debug_assert!(std::thread::panicking(), "a ring was dropped with operations in flight");
        // Closing is not a barrier: a receive may still fill one of our buffers. They are leaked;
        // memory of others' the owner should have kept by leaking this object.
        mem::forget(mem::replace(&mut self.buffers, Buffers::Refused));
    }
}
