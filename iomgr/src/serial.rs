//! Synchronous file objects (I-35 to I-38): one request at a time, in the order of their arrival, and a
//! current offset that the I/O manager keeps.
//!
//! **Invariant.** `busy` is set while a request has the file: from its turn to its final completion.
//! A request that finds it set parks, and looks again after it has; a request that ends clears it, and
//! then looks for one that is parked. Both sequentially consistent, so one of them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::csq::CancelSafeQueue;
use crate::irp::Held;
use crate::irp::slot::{Phase, SlotPtr, flags};
use crate::major::Major;
use crate::wait::Alertable;

/// An offset of a request that means the current one.
pub(crate) const CURRENT: u64 = u64::MAX;

/// What a synchronous file object has more than others.
pub(crate) struct Serial {
    pub(crate) alertable: Alertable,
    busy: AtomicBool,
    /// The current byte offset. Changed by the request that has the file.
    offset: AtomicU64,
    waiting: CancelSafeQueue,
}

impl Serial {
    pub(crate) fn new(alertable: Alertable) -> Serial {
        Serial {
            alertable,
            busy: AtomicBool::new(false),
            offset: AtomicU64::new(0),
            waiting: CancelSafeQueue::new(),
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    pub(crate) fn set_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Asks for the file. `false`: the request is parked, and comes back by itself.
    ///
    /// # Safety
    /// The driver side is the caller's, at the top, on the owner's thread; on `false` it is gone.
    pub(crate) unsafe fn enter(&self, slot: SlotPtr) -> bool {
        if !self.busy.swap(true, Ordering::SeqCst) {
            // SAFETY: the caller's.
            unsafe { self.begin(slot) };
            return true;
        }
        // SAFETY: the caller's; the ownership goes to the queue.
        unsafe {
            (*slot.0.as_ptr()).phase = Phase::Held;
            self.waiting.insert(Held::new(slot));
        }
        if !self.busy.load(Ordering::SeqCst) {
            self.next();
        }
        false
    }

    /// The request has the file: at once, or when it comes back from the queue.
    ///
    /// # Safety
    /// As [`Serial::enter`]; `busy` is set for it.
    pub(crate) unsafe fn begin(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe {
            (*slot.0.as_ptr()).flags.set(flags::SERIAL);
            let top = slot.location(0);
            if matches!((*slot.0.as_ptr()).major, Major::Read | Major::Write)
                && (*top).offset == CURRENT
            {
                (*top).offset = self.offset();
            }
        }
    }

    /// The request that has the file is done.
    ///
    /// # Safety
    /// The slot is finished, on the owner's thread, and counts on its file.
    pub(crate) unsafe fn leave(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe {
            let header = slot.0.as_ptr();
            (*header).flags.clear(flags::SERIAL);
            let moves = matches!((*header).major, Major::Read | Major::Write);
            if moves && !(*header).result.status.is_error() {
                let end = (*slot.location(0)).offset.saturating_add((*header).result.info as u64);
                self.set_offset(end);
            }
        }
        self.busy.store(false, Ordering::SeqCst);
        self.next();
    }

    /// Lets the oldest parked request go on, if nobody has the file.
    fn next(&self) {
        if self.waiting.is_empty() || self.busy.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.waiting.remove() {
            Some(held) => held.redispatch_later(),
            None => {
                self.busy.store(false, Ordering::SeqCst);
                // One may have come meanwhile, and seen it set.
                if !self.waiting.is_empty() {
                    self.next();
                }
            }
        }
    }
}
