//! Packets: what a port gives.

use std::any::TypeId;
use std::fmt;
use std::num::NonZeroU32;

use crate::buf::Payload;
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Phase, Route, flags};
use crate::node::Entry;
use crate::request::{Done, Operation};
use crate::status::Status;
use crate::wake;

/// What [`crate::CompletionPort::post`] queues: opaque values, passed through unchanged (C-14).
#[derive(Clone, Copy)]
pub(super) struct Posted {
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) info: usize,
    pub(super) status: Status,
    /// What it is, or its name among those queued. Small, and never 0: as many packets as a port may
    /// have should not take more memory than they need.
    pub(super) tag: Tag,
}

pub(super) type Tag = NonZeroU32;

/// Of packets without a name.
pub(super) const UNTAGGED: Tag = NonZeroU32::MIN;
/// Of copies of results, which count as outstanding until they are taken, as a request's own packet
/// does.
pub(super) const COPY: Tag = UNTAGGED.saturating_add(1);

const _: () = assert!(size_of::<Packet>() == 32);

impl Posted {
    /// Whether it is that tagged one. (Tags come round after four thousand million.)
    pub(super) fn is(&self, other: &Posted) -> bool {
        (self.tag, self.key, self.value) == (other.tag, other.key, other.value)
    }
}

/// See [`Packet::is_admitted`].
#[inline]
pub(super) fn is_admitted(entry: &Entry<Posted>) -> bool {
    match entry {
        Entry::Irp(_) => true,
        Entry::Own(posted) => posted.tag == COPY,
    }
}

/// A finished request, the copy of a result ([`crate::Request::tee`]), or a posted packet, taken from a
/// port.
pub struct Packet(Entry<Posted>);

// SAFETY: a packet is the requester of a `DONE` slot, which may sit on any thread.
unsafe impl Send for Packet {}

impl Packet {
    /// A request's reference, the requester's, goes to the packet.
    #[inline]
    pub(super) fn of(entry: Entry<Posted>) -> Packet {
        Packet(entry)
    }

    pub(super) fn into_entry(self) -> Entry<Posted> {
        let this = std::mem::ManuallyDrop::new(self);
        match this.0 {
            Entry::Irp(slot) => Entry::Irp(slot),
            Entry::Own(posted) => Entry::Own(posted),
        }
    }

    /// Whether it counts as outstanding until it is taken.
    pub(super) fn is_admitted(&self) -> bool {
        is_admitted(&self.0)
    }

    fn result(&self) -> IoStatus {
        match &self.0 {
            // SAFETY: `DONE`, and we are the requester.
            Entry::Irp(slot) => unsafe { (*slot.0.as_ptr()).result },
            Entry::Own(posted) => IoStatus { status: posted.status, info: posted.info },
        }
    }

    fn key_and_value(&self) -> (u64, u64) {
        match &self.0 {
            // SAFETY: as above.
            Entry::Irp(slot) => match unsafe { &(*slot.0.as_ptr()).route } {
                Route::Packet(key, value) => (*key, *value),
                _ => unreachable!("set when the packet was queued"),
            },
            Entry::Own(posted) => (posted.key, posted.value),
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
        let Entry::Irp(slot) = self.0 else { panic!("a posted packet, or a copy, has no request") };
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
            Entry::Irp(slot) => unsafe { (*slot.0.as_ptr()).payload.take() },
            Entry::Own(_) => None,
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if let Entry::Irp(slot) = &self.0 {
            // SAFETY: the requester's reference ends here; what was not taken is dropped first, on
            // this thread, because its owner cannot put it back any more.
            unsafe {
                let payload: Payload = std::mem::take(&mut (*slot.0.as_ptr()).payload);
                (*slot.0.as_ptr()).flags.set(flags::TAKEN);
                finish::release(*slot);
                drop(wake::to_drop(payload));
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
