//! Packets: what a port gives.

use std::any::TypeId;
use std::fmt;

use crate::buf::Payload;
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Phase, Route, SlotPtr, flags};
use crate::request::{Done, Operation};
use crate::status::Status;

/// What [`crate::CompletionPort::post`] queues: opaque values, passed through unchanged (C-14).
#[derive(Clone, Copy)]
pub(super) struct Posted {
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) result: IoStatus,
    /// Names it among those queued; 0 for no name.
    pub(super) tag: u64,
    /// It counts as outstanding until it is taken, as a request's own packet does.
    pub(super) admitted: bool,
}

enum Content {
    Irp(SlotPtr),
    Posted(Posted),
}

/// A finished request, the copy of a result ([`crate::Request::tee`]), or a posted packet, taken from a
/// port.
pub struct Packet(Content);

// SAFETY: a packet is the requester of a `DONE` slot, which may sit on any thread.
unsafe impl Send for Packet {}

impl Packet {
    /// The requester's reference goes to the packet.
    pub(super) fn of_irp(slot: SlotPtr) -> Packet {
        Packet(Content::Irp(slot))
    }

    pub(super) fn of_post(posted: Posted) -> Packet {
        Packet(Content::Posted(posted))
    }

    pub(super) fn into_entry(self) -> Result<SlotPtr, Posted> {
        let entry = match &self.0 {
            Content::Irp(slot) => Ok(*slot),
            Content::Posted(posted) => Err(*posted),
        };
        std::mem::forget(self);
        entry
    }

    /// Whether it counts as outstanding until it is taken.
    pub(super) fn is_admitted(&self) -> bool {
        match &self.0 {
            Content::Irp(_) => true,
            Content::Posted(posted) => posted.admitted,
        }
    }

    fn result(&self) -> IoStatus {
        match &self.0 {
            // SAFETY: `DONE`, and we are the requester.
            Content::Irp(slot) => unsafe { (*slot.0.as_ptr()).result },
            Content::Posted(posted) => posted.result,
        }
    }

    fn key_and_value(&self) -> (u64, u64) {
        match &self.0 {
            // SAFETY: as above.
            Content::Irp(slot) => match unsafe { &(*slot.0.as_ptr()).route } {
                Route::Packet(key, value) => (*key, *value),
                _ => unreachable!("set when the packet was queued"),
            },
            Content::Posted(posted) => (posted.key, posted.value),
        }
    }

    /// The key: of the file's association with the port (C-11), or given when the request or packet
    /// was posted.
    pub fn key(&self) -> u64 {
        self.key_and_value().0
    }

    /// The value given to [`crate::Request::packet`] or [`crate::CompletionPort::post`]; 0 for requests
    /// posted with [`crate::Request::post`], and for copies.
    pub fn value(&self) -> u64 {
        self.key_and_value().1
    }

    /// The request's status.
    pub fn status(&self) -> Status {
        self.result().status
    }

    /// Bytes transferred, or what the operation defines.
    pub fn info(&self) -> usize {
        self.result().info
    }

    /// The request's result, as awaiting it would have given it: `K` is the operation that was
    /// posted.
    ///
    /// # Panics
    /// When the packet is of another operation, is the copy of a result, or was made by
    /// [`crate::CompletionPort::post`].
    #[track_caller]
    pub fn into_output<K: Operation + 'static>(self) -> K::Output {
        let Content::Irp(slot) = self.0 else {
            panic!("a posted packet, or a copy, has no request")
        };
        // SAFETY: `DONE`, and we are the requester: result and payload are ours until `self` goes.
        unsafe {
            let header = slot.0.as_ptr();
            debug_assert_eq!((*header).phase, Phase::Final);
            assert!(
                (*header).operation.is_some_and(|id| id() == TypeId::of::<K>()),
                "the packet is not of the operation {}",
                std::any::type_name::<K>()
            );
            (*header).flags.set(flags::TAKEN);
            let mut payload = std::mem::take(&mut (*header).payload);
            let mut done = Done::new(slot, &mut payload);
            drop(self);
            K::finish(&mut done)
        }
    }

    /// The request's buffer or other payload, if it is of this type.
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        match &self.0 {
            // SAFETY: as above.
            Content::Irp(slot) => unsafe { (*slot.0.as_ptr()).payload.take() },
            Content::Posted(_) => None,
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if let Content::Irp(slot) = &self.0 {
            // SAFETY: the requester's reference ends here; what was not taken is dropped first, on
            // this thread, because its owner cannot put it back any more.
            unsafe {
                let payload: Payload = std::mem::take(&mut (*slot.0.as_ptr()).payload);
                (*slot.0.as_ptr()).flags.set(flags::TAKEN);
                finish::release(*slot);
                drop(payload);
            }
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("key", &self.key())
            .field("value", &self.value())
            .field("status", &self.status())
            .field("info", &self.info())
            .finish()
    }
}
