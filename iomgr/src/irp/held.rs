//! A request that a driver keeps for later.

use std::mem;
use std::ops::Deref;

use super::slot::{IoStatus, Slot, SlotPtr};
use super::token::On;
use super::travel;
use super::view::View;
use crate::csq::Parking;
use crate::status::Status;

/// How a held request goes on, when its owner's thread learns of it.
pub(crate) enum Resume {
    /// Unwind from the current location.
    Complete,
    /// To the driver below, with these control bits.
    Forward(u8),
    /// To the same driver's `dispatch` again.
    Dispatch,
    /// Its turn at a synchronous file object has come.
    Turn,
    /// Into this queue.
    Park(Parking),
    /// Not at all: it is parked, behind this one (`csq::line`).
    Parked(*mut Slot),
}

/// An IRP out of dispatch, held by a driver on any thread.
///
/// Dropping it completes the request with [`Status::DRIVER_INTERNAL_ERROR`] and is reported
/// (V-43). The work itself always happens on the thread of the processor that owns the request;
/// from other threads these methods send it there.
pub struct Held {
    slot: SlotPtr,
}

// SAFETY: a `Held` is the only driver-side owner; it reads and writes only what `slot.rs` grants to
// it on foreign threads, and posts through the mailbox.
unsafe impl Send for Held {}

impl Held {
    /// # Safety
    /// The caller gives up the only driver-side ownership.
    pub(crate) unsafe fn new(slot: SlotPtr) -> Held {
        Held { slot }
    }

    pub(crate) fn into_slot(self) -> SlotPtr {
        let slot = self.slot;
        mem::forget(self);
        slot
    }

    /// Copies bytes into a read's memory, starting `skip` bytes into it; returns how many fitted.
    /// For drivers that answer a read themselves.
    pub fn copy_in(&mut self, skip: usize, bytes: &[u8]) -> usize {
        // SAFETY: this is the only token, borrowed mutably.
        unsafe { View::of(&self.slot).copy_in(skip, bytes) }
    }

    /// Into the queue given.
    pub(crate) fn park(self, queue: Parking) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume(self.into_slot(), Resume::Park(queue)) };
    }

    /// Completes the request for the driver that holds it; the drivers above see it next.
    pub fn complete(self, status: Status, info: usize) {
        let slot = self.into_slot();
        // SAFETY: the only driver-side owner; `result` is ours until posted.
        unsafe {
            (*slot.0.as_ptr()).result = slot.of_driver(status, info);
            travel::resume(slot, Resume::Complete);
        }
    }

    /// Completes the request with success and a value for the requester to take.
    ///
    /// # Panics
    /// When the payload is the caller's own buffer; the request is then completed as dropped.
    pub fn complete_with<T: Send + 'static>(self, value: T) {
        // SAFETY: the only driver-side owner; payload and top location are the driver side's.
        unsafe {
            assert!((*self.slot.location(0)).data.is_null(), "the payload is the caller's buffer");
            // Dropped last: it may be foreign code.
            let payload = crate::buf::Payload::new(value);
            drop(mem::replace(&mut (*self.slot.0.as_ptr()).payload, payload));
        }
        self.complete(Status::SUCCESS, 0);
    }

    /// Gives the request to its driver's [`crate::Driver::dispatch`] once more.
    pub fn redispatch(self) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume(self.into_slot(), Resume::Dispatch) };
    }

    /// As [`Held::redispatch`], in the next turn of the request's processor, on its own thread too:
    /// requests that let each other go do not nest.
    pub fn redispatch_later(self) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume_later(self.into_slot(), Resume::Dispatch) };
    }

    /// The request's turn at its synchronous file object has come. It goes on in the next turn of its
    /// processor: requests that let each other go do not nest.
    pub(crate) fn turn_has_come(self) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume_later(self.into_slot(), Resume::Turn) };
    }

    /// Passes the request on to the driver below, as [`crate::Lower::forward`].
    pub fn forward(self, on: On) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume(self.into_slot(), Resume::Forward(on.0)) };
    }

    /// Passes the request on and forgets it, as [`crate::Lower::skip`].
    pub fn skip(self) {
        // SAFETY: the only driver-side owner.
        unsafe { travel::resume(self.into_slot(), Resume::Forward(0)) };
    }
}

impl Deref for Held {
    type Target = View;
    fn deref(&self) -> &View {
        View::of(&self.slot)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let slot = self.slot;
        // SAFETY: neither completed nor passed on, so still the only driver-side owner.
        unsafe {
            slot.device().report_bug("a held IRP was dropped", false);
            (*slot.0.as_ptr()).result = IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
            travel::resume(slot, Resume::Complete);
        }
    }
}
