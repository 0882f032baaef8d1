//! Packets: what a port gives.

use std::any::TypeId;
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::ptr::{self, NonNull};

use crate::buf::Payload;
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Phase, Route, Slot, SlotPtr, flags};
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

/// Of finished requests.
const REQUEST: Tag = NonZeroU32::MIN;
/// Of packets without a name.
pub(super) const UNTAGGED: Tag = REQUEST.saturating_add(1);
/// Of copies of results, which count as outstanding until they are taken, as a request's own packet
/// does.
pub(super) const COPY: Tag = UNTAGGED.saturating_add(1);

impl Posted {
    /// Whether it is that tagged one. (Tags come round after four thousand million.)
    pub(super) fn is(&self, other: &Posted) -> bool {
        (self.tag, self.key, self.value) == (other.tag, other.key, other.value)
    }
}

/// What a packet consists of, whichever it is: words that are moved in registers. As an enumeration it would
/// go through memory, in pieces of other sizes than it was written in, for which a processor waits.
///
/// A request's have its requester's reference: they are moved, and become a packet once.
pub(super) struct Parts {
    key: u64,
    value: u64,
    /// A request's slot, or the information of what was posted.
    rest: *mut Slot,
    status: Status,
    tag: Tag,
}

const _: () = assert!(size_of::<Packet>() == 32);

// SAFETY: a slot in it is `DONE`, and may sit on any thread.
unsafe impl Send for Parts {}

impl Parts {
    /// A finished request, with the requester's reference.
    #[inline]
    pub(super) fn request(slot: SlotPtr) -> Parts {
        let rest = slot.0.as_ptr();
        Parts { key: 0, value: 0, rest, status: Status::SUCCESS, tag: REQUEST }
    }

    #[inline]
    pub(super) fn posted(posted: Posted) -> Parts {
        let Posted { key, value, info, status, tag } = posted;
        Parts { key, value, rest: ptr::without_provenance_mut(info), status, tag }
    }

    pub(super) fn of(entry: Entry<Posted>) -> Parts {
        match entry {
            Entry::Irp(slot) => Parts::request(slot),
            Entry::Own(posted) => Parts::posted(posted),
        }
    }

    pub(super) fn into_entry(self) -> Entry<Posted> {
        match self.slot() {
            Some(slot) => Entry::Irp(slot),
            None => {
                let Parts { key, value, rest, status, tag } = self;
                Entry::Own(Posted { key, value, info: rest.addr(), status, tag })
            }
        }
    }

    /// Reads field by field, as it was written: a wider read of what has just been written waits until that
    /// has reached the cache.
    ///
    /// # Safety
    /// There is one.
    #[inline]
    pub(super) unsafe fn read(from: *const Parts) -> Parts {
        // SAFETY: the caller's.
        unsafe {
            Parts {
                key: ptr::read_volatile(&raw const (*from).key),
                value: ptr::read_volatile(&raw const (*from).value),
                rest: ptr::read_volatile(&raw const (*from).rest),
                status: ptr::read_volatile(&raw const (*from).status),
                tag: ptr::read_volatile(&raw const (*from).tag),
            }
        }
    }

    #[inline]
    fn slot(&self) -> Option<SlotPtr> {
        if self.tag == REQUEST { NonNull::new(self.rest).map(SlotPtr) } else { None }
    }

    /// Whether it counts as outstanding until it is taken.
    #[inline]
    pub(super) fn is_admitted(&self) -> bool {
        self.tag == REQUEST || self.tag == COPY
    }
}

/// A finished request, the copy of a result ([`crate::Request::tee`]), or a posted packet, taken from a
/// port.
pub struct Packet(Parts);

impl Packet {
    /// A request's reference, the requester's, goes to the packet.
    #[inline]
    pub(super) fn of(parts: Parts) -> Packet {
        Packet(parts)
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    pub(super) fn into_parts(self) -> Parts {
        let this = ManuallyDrop::new(self);
        // SAFETY: read once, for the packet is not dropped.
        unsafe { ptr::read(&raw const this.0) }
    }

    #[inline]
    fn result(&self) -> IoStatus {
        match self.0.slot() {
            // SAFETY: `DONE`, and we are the requester.
            Some(slot) => unsafe { (*slot.0.as_ptr()).result },
            None => IoStatus { status: self.0.status, info: self.0.rest.addr() },
        }
    }

    #[inline]
    fn key_and_value(&self) -> (u64, u64) {
        match self.0.slot() {
            // SAFETY: as above.
            Some(slot) => match unsafe { &(*slot.0.as_ptr()).route } {
                Route::Packet(key, value) => (*key, *value),
                _ => unreachable!("set when the packet was queued"),
            },
            None => (self.0.key, self.0.value),
        }
    }

    /// The key: of the file's association with the port (C-11), or given when the request or packet
    /// was posted.
    #[inline]
    pub fn key(&self) -> u64 {
        self.key_and_value().0
    }

    /// The value given to [`crate::Request::packet`] or [`crate::CompletionPort::post`]; 0 for requests
    /// posted with [`crate::Request::post`], and for copies.
    #[inline]
    pub fn value(&self) -> u64 {
        self.key_and_value().1
    }

    /// The request's status.
    #[inline]
    pub fn status(&self) -> Status {
        self.result().status
    }

    /// Bytes transferred, or what the operation defines.
    #[inline]
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
        let slot = self.0.slot().expect("a posted packet, or a copy, has no request");
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
        // SAFETY: as above.
        unsafe { (*self.0.slot()?.0.as_ptr()).payload.take() }
    }
}

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.0.slot() {
            // SAFETY: `DONE`, and we are the requester, whose reference ends here.
            unsafe { end(slot) };
        }
    }
}

/// By value: a packet whose address is not taken stays in registers.
///
/// # Safety
/// The slot is `DONE`, and the requester's reference the caller's, who gives it up.
#[inline(never)]
unsafe fn end(slot: SlotPtr) {
    // SAFETY: the caller's. What was not taken is dropped here, on this thread, because its owner cannot put
    // it back any more.
    unsafe {
        let payload: Payload = std::mem::take(&mut (*slot.0.as_ptr()).payload);
        (*slot.0.as_ptr()).flags.set(flags::TAKEN);
        finish::release(slot);
        drop(wake::to_drop(payload));
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
