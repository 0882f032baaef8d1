//! Cancel-safe queues: the way to park a request so that a cancel finds it.
//!
//! **Protocol.** Requests enter on their owner's thread (one that is parked from another thread is
//! mailed there first), which makes the cancel mark and the insertion ordered without X-4's dance:
//! a cancel before the insertion is seen by it, a cancel after it finds the request in the queue.
//! The queue's lock (`line.rs`) decides between a cancel and [`CancelSafeQueue::remove`]: whoever
//! unlinks the request owns it. There is no global lock: each queue has its own, held
//! for a few steps, whatever waits in it.

mod line;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::irp::held::{Held, Resume};
use crate::irp::slot::{IoStatus, Phase, Slot, SlotPtr, flags};
use crate::irp::travel;
use crate::processor::Core;
use crate::status::Status;
use line::{Entry, Line};

// SAFETY: a parked request is neither free nor finished, so that `link` is nobody else's; it is
// held by no driver, so that `resume` is not either; `parked` is only used here.
unsafe impl Entry for Slot {
    unsafe fn is_in(this: NonNull<Slot>) -> bool {
        // SAFETY: the caller's. Field by field: see `SlotPtr`.
        unsafe { (*this.as_ptr()).parked }
    }
    unsafe fn set_in(this: NonNull<Slot>, is_in: bool) {
        // SAFETY: as above; so for the others.
        unsafe { (*this.as_ptr()).parked = is_in };
    }
    unsafe fn next(this: NonNull<Slot>) -> *mut Slot {
        // SAFETY: as above.
        unsafe { (*this.as_ptr()).link }
    }
    unsafe fn set_next(this: NonNull<Slot>, next: *mut Slot) {
        // SAFETY: as above.
        unsafe { (*this.as_ptr()).link = next };
    }
    unsafe fn previous(this: NonNull<Slot>) -> *mut Slot {
        // SAFETY: as above.
        match unsafe { &(*this.as_ptr()).resume } {
            Resume::Parked(previous) => *previous,
            _ => unreachable!("nobody else uses it while the request is parked"),
        }
    }
    unsafe fn set_previous(this: NonNull<Slot>, previous: *mut Slot) {
        // SAFETY: as above.
        unsafe { (*this.as_ptr()).resume = Resume::Parked(previous) };
    }
}

/// The queue a parked IRP is in.
#[derive(Clone)]
pub(crate) struct Parking(Arc<Line<Slot>>);

impl Parking {
    /// Cancels `slot` if it is still in the queue.
    ///
    /// # Safety
    /// On the owner's thread; this is the slot's parking.
    pub(crate) unsafe fn cancel(&self, slot: SlotPtr) {
        // SAFETY: a slot enters on this thread only, and its parking is the queue it entered last.
        // Taking it out makes us the driver-side owner. X-15: outside the lock.
        unsafe {
            if self.0.take(slot.0) {
                finish(slot, Status::CANCELLED);
            }
        }
    }
}

unsafe fn finish(slot: SlotPtr, status: Status) {
    // SAFETY: the caller owns the driver side, on the owner's thread.
    unsafe {
        let core: &Core = (*slot.0.as_ptr()).core.as_ref();
        let _frame = core.frame();
        (*slot.0.as_ptr()).result = IoStatus { status, info: 0 };
        (*slot.0.as_ptr()).phase = Phase::Finished;
        travel::unwind(slot);
    }
}

/// The owner's half of [`CancelSafeQueue::insert`].
///
/// # Safety
/// On the owner's thread; the driver side comes with it.
pub(crate) unsafe fn park_here(slot: SlotPtr, parking: Parking) {
    // SAFETY: as above.
    unsafe {
        let header = slot.0.as_ptr();
        (*header).phase = Phase::Held;
        if (*header).flags.has(flags::CANCEL) {
            return finish(slot, Status::CANCELLED);
        }
        (*header).parking = Some(parking.clone());
        (*header).flags.set(flags::PARKED);
        if !parking.0.enter(slot.0) {
            finish(slot, Status::CANCELLED);
        }
    }
}

/// A FIFO of held requests in which a cancel finds them. Share it by reference or `Arc`.
///
/// Dropping it, or [`CancelSafeQueue::close`], completes what is parked with
/// [`Status::CANCELLED`].
pub struct CancelSafeQueue(Parking);

impl CancelSafeQueue {
    /// An empty queue.
    pub fn new() -> CancelSafeQueue {
        CancelSafeQueue(Parking(Arc::new(Line::new())))
    }

    /// Parks a request at the end. If it has been cancelled already, it completes at once with
    /// [`Status::CANCELLED`].
    pub fn insert(&self, held: Held) {
        held.park(self.0.clone());
    }

    /// Takes the oldest request out; it is not cancelable any more.
    pub fn remove(&self) -> Option<Held> {
        let slot = self.0.0.take_first()?;
        // SAFETY: taking it out made us the driver-side owner.
        Some(unsafe { Held::new(SlotPtr(slot)) })
    }

    /// Requests parked now.
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    /// Whether no request is parked now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes everything parked with [`Status::CANCELLED`], and whatever comes later too.
    pub fn close(&self) {
        self.0.0.close();
        while let Some(held) = self.remove() {
            held.complete(Status::CANCELLED, 0);
        }
    }
}

impl Default for CancelSafeQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for CancelSafeQueue {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for CancelSafeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelSafeQueue").field("len", &self.len()).finish()
    }
}
