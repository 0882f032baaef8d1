//! The way to the kernel: submission queue, backlog, and the cancels that go first.
//!
//! ```text
//!   Hal::submit ──▶ submission queue ──▶ io_uring_enter
//!        └── no room, or too much in flight ──▶ backlog ──▶ (next fill)
//!   Hal::cancel ──▶ submission queue (slots kept free for it), else cancels ──▶ (next fill)
//! ```
//!
//! **Invariants.**
//! - Operations reach the kernel in the order of their submission: none overtakes the backlog.
//! - A cancel follows its operation into the queue, and is dropped when the operation ends while
//!   the cancel still waits here; so it never meets another operation of the same token.
//! - `in_kernel` counts operations in the queue or in the kernel and stays within `limit`, so that
//!   completions fit the completion queue; the reserve is for cancels, wakes, and the extra
//!   completions of multishot operations (which the kernel ends rather than overflow).
//!
//! The limit is soft. Operations that wait for ever, such as a receive on each of thousands of idle
//! connections, must not keep others out; [`Outbox::relent`] raises it when all below it wait. What
//! then overflows the kernel keeps (`NODROP`), and the next enter fetches.

use overlapped_iomgr::panics::log;
use std::collections::VecDeque;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, SubmissionQueue, opcode, types};

use super::{TAG_CANCEL, TAG_WAKE, setup};

/// What a cancelled entry in the backlog becomes; no token has this value (low bits).
const DEAD: u64 = u64::MAX;

pub(super) struct Outbox {
    backlog: VecDeque<Entry>,
    /// Tokens to cancel.
    cancels: VecDeque<u64>,
    cancel_flags: Flags,
    in_kernel: usize,
    limit: usize,
    /// Slots of the submission queue that operations may fill.
    op_slots: usize,
    /// The wake descriptor's poll is in the queue or in the kernel.
    wake_armed: bool,
    wake_fd: libc::c_int,
}

impl Outbox {
    pub(super) fn new(ring: &IoUring, wake_fd: libc::c_int) -> Outbox {
        let (sq, cq) = (ring.params().sq_entries() as usize, ring.params().cq_entries() as usize);
        Outbox {
            backlog: VecDeque::with_capacity(2 * sq),
            cancels: VecDeque::with_capacity(64),
            cancel_flags: setup::silent(ring),
            in_kernel: 0,
            limit: cq - cq / 8,
            op_slots: sq - (sq / 16).max(2),
            wake_armed: false,
            wake_fd,
        }
    }

    /// The submission queue, if an operation may go there now. The caller pushes one entry and says
    /// so with [`Outbox::sent`].
    #[inline(always)]
    pub(super) fn room<'r>(&self, ring: &'r mut IoUring) -> Option<SubmissionQueue<'r>> {
        if !self.backlog.is_empty() || self.in_kernel >= self.limit {
            return None;
        }
        let sq = ring.submission();
        (sq.len() < self.op_slots).then_some(sq)
    }

    /// Whether all that was submitted has reached the kernel.
    #[inline]
    pub(super) fn is_empty(&self, ring: &mut IoUring) -> bool {
        self.backlog.is_empty() && ring.submission().is_empty()
    }

    /// One entry was pushed to the queue that [`Outbox::room`] lent.
    #[inline(always)]
    pub(super) fn sent(&mut self) {
        self.in_kernel += 1;
    }

    /// Queues an operation's entry, here if it must be.
    ///
    /// # Safety
    /// As for `Hal::submit`: what the entry names stays valid until its final completion.
    pub(super) unsafe fn push(&mut self, ring: &mut IoUring, entry: Entry) {
        if let Some(mut sq) = self.room(ring) {
            // SAFETY: promised by the caller.
            if unsafe { sq.push(&entry) }.is_ok() {
                self.sent();
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// Asks for an operation's end. `true`: it had not left, and now never will.
    pub(super) fn cancel(&mut self, ring: &mut IoUring, token: u64) -> bool {
        if let Some(entry) = self.backlog.iter_mut().find(|e| e.get_user_data() == token) {
            // Not removed: shifting would make tearing down a long backlog quadratic.
            *entry = opcode::Nop::new().build().user_data(DEAD);
            self.drop_dead();
            return true;
        }
        self.cancels.push_back(token);
        self.send_cancels(ring);
        false
    }

    /// Fills the submission queue with what waits: cancels, the wake's poll, operations.
    pub(super) fn fill(&mut self, ring: &mut IoUring) {
        self.send_cancels(ring);
        if !self.wake_armed {
            let poll = opcode::PollAdd::new(types::Fd(self.wake_fd), libc::POLLIN as u32);
            let poll = poll.multi(true).build().user_data(TAG_WAKE);
            // SAFETY: names no memory; the descriptor outlives the ring.
            self.wake_armed = unsafe { ring.submission().push(&poll) }.is_ok();
        }
        if self.backlog.is_empty() {
            return;
        }
        let mut sq = ring.submission();
        while self.in_kernel < self.limit && sq.len() < self.op_slots {
            let Some(entry) = self.backlog.pop_front() else { return };
            if entry.get_user_data() == DEAD {
                continue;
            }
            // SAFETY: promised to `push` when the entry came.
            if unsafe { sq.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                return;
            }
            self.in_kernel += 1;
        }
    }

    fn send_cancels(&mut self, ring: &mut IoUring) {
        if self.cancels.is_empty() {
            return;
        }
        let mut sq = ring.submission();
        while let Some(token) = self.cancels.pop_front() {
            let entry = opcode::AsyncCancel::new(token).build();
            let entry = entry.user_data(TAG_CANCEL).flags(self.cancel_flags);
            // SAFETY: names no memory.
            if unsafe { sq.push(&entry) }.is_err() {
                self.cancels.push_front(token);
                return;
            }
        }
    }

    fn drop_dead(&mut self) {
        while self.backlog.front().is_some_and(|entry| entry.get_user_data() == DEAD) {
            self.backlog.pop_front();
        }
    }

    /// Whether any cancel still waits here, so that [`Outbox::forget_cancel`] has work.
    #[inline]
    pub(super) fn cancels_wait(&self) -> bool {
        !self.cancels.is_empty()
    }

    /// The operation has ended: a cancel of it must not meet the token's next owner.
    #[cold]
    pub(super) fn forget_cancel(&mut self, token: u64) {
        self.cancels.retain(|&waiting| waiting != token);
    }

    /// The final completions of so many operations have been read.
    #[inline]
    pub(super) fn ended(&mut self, operations: usize) {
        self.in_kernel -= operations;
    }

    /// The wake's poll has ended and must be armed again.
    pub(super) fn wake_ended(&mut self) {
        self.wake_armed = false;
    }

    /// Something waits that the submission queue or the limit keeps back.
    #[inline]
    pub(super) fn stuck(&self) -> bool {
        !self.backlog.is_empty() || !self.cancels.is_empty() || !self.wake_armed
    }

    /// Everything in flight waits, and something else is kept out by the limit: lets it in.
    pub(super) fn relent(&mut self) {
        if self.in_kernel >= self.limit && !self.backlog.is_empty() {
            self.limit *= 2;
            log(|| {
                tracing::debug!(self.limit, "more operations in flight than the queue was made for")
            });
        }
    }
}
