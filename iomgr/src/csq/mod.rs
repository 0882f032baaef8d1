//! Cancel-safe queues: the way to park a request so that a cancel finds it.
//!
//! **Protocol.** Requests enter on their owner's thread (one that is parked from another thread is
//! mailed there first), which makes the cancel mark and the insertion ordered without X-4's dance:
//! a cancel before the insertion is seen by it, a cancel after it finds the request in the queue.
//! The queue's lock decides between a cancel and [`CancelSafeQueue::remove`]: whoever unlinks the
//! request owns it. There is no global lock.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::irp::Held;
use crate::irp::dispatch;
use crate::irp::slot::{IoStatus, Phase, SlotPtr, flags};
use crate::processor::Core;
use crate::status::Status;

#[derive(Default)]
struct Inner {
    list: VecDeque<SlotPtr>,
    closed: bool,
}

/// The queue a parked IRP is in.
#[derive(Clone)]
pub(crate) struct Parking(Arc<Mutex<Inner>>);

impl Parking {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels `slot` if it is still in the queue.
    ///
    /// # Safety
    /// On the owner's thread.
    pub(crate) unsafe fn cancel(&self, slot: SlotPtr) {
        let mut inner = self.lock();
        let Some(at) = inner.list.iter().position(|&s| s == slot) else { return };
        inner.list.remove(at);
        drop(inner);
        // SAFETY: unlinking it made us the driver-side owner. X-15: outside the lock.
        unsafe { finish(slot, Status::CANCELLED) };
    }
}

unsafe fn finish(slot: SlotPtr, status: Status) {
    // SAFETY: the caller owns the driver side, on the owner's thread.
    unsafe {
        let core: &Core = (*slot.0.as_ptr()).core.as_ref();
        let _frame = core.frame();
        (*slot.0.as_ptr()).result = IoStatus { status, info: 0 };
        (*slot.0.as_ptr()).phase = Phase::Finished;
        dispatch::unwind(slot);
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
        let mut inner = parking.lock();
        if inner.closed {
            drop(inner);
            return finish(slot, Status::CANCELLED);
        }
        inner.list.push_back(slot);
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
        CancelSafeQueue(Parking(Arc::default()))
    }

    /// Parks a request at the end. If it has been cancelled already, it completes at once with
    /// [`Status::CANCELLED`].
    pub fn insert(&self, held: Held) {
        held.park(self.0.clone());
    }

    /// Takes the oldest request out; it is not cancelable any more.
    pub fn remove(&self) -> Option<Held> {
        let slot = self.0.lock().list.pop_front()?;
        // SAFETY: unlinking it made us the driver-side owner.
        Some(unsafe { Held::new(slot) })
    }

    /// Requests parked now.
    pub fn len(&self) -> usize {
        self.0.lock().list.len()
    }

    /// Whether no request is parked now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes everything parked with [`Status::CANCELLED`], and whatever comes later too.
    pub fn close(&self) {
        self.0.lock().closed = true;
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
