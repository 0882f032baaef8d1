//! The memory of an IRP: a header, and one location per driver on its way.
//!
//! The header's first cache line is what a request without filters touches; the address of the
//! slot is the hardware's token. **Invariant:** everything except `state` belongs to the owner's
//! thread, with three exceptions that the protocol of [`super::state`] hands over: `result` and
//! `payload` go to the requester once the slot is `DONE`; the waker in `route` is the requester's
//! while it holds the `WAKER` bit; `result` is the driver's that holds the IRP as a
//! [`super::Held`] on another thread until it posts `FINISH`.

use std::any::TypeId;
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use super::held::Resume;
use super::state::State;
use super::view::View;
use crate::apc;
use crate::buf::{Lease, Payload};
use crate::companion::Companion;
use crate::csq::Parking;
use crate::file::FileObject;
use crate::major::Major;
use crate::port;
use crate::processor::Core;
use crate::request::Tell;
use crate::scope;
use crate::stack::{Device, Stack};
use crate::status::Status;
use crate::wheel::TimerKey;

/// Locations that an IRP of each size class has (I-5): most requests are small.
pub(crate) const CLASS_LOCATIONS: [usize; 3] = [3, 8, MAX_LOCATIONS];

/// Most drivers one request can pass: filters and bottom together.
pub const MAX_LOCATIONS: usize = 64;

/// Where an IRP's result goes. Exactly one (I-34).
pub(crate) enum Route {
    /// Nobody asks: driver-made requests, close by drop.
    None,
    /// A future; the waker of the task that polled it last, once it has been polled.
    Future(Option<Waker>),
    /// A completion port and the packet's key.
    Port(Arc<port::Shared>, u64),
    /// The port that the file is associated with when the request completes, and the packet's value
    /// (C-12).
    Associated {
        value: u64,
        /// The port has been asked ([`port::Shared::admit`]).
        admitted: bool,
    },
    /// A thread's APC queue, and what runs there.
    Apc(Box<dyn apc::Callback>),
    /// Whoever holds the status block looks at it (C-2).
    Block,
    /// A thread of the owner waits and drives the processor itself.
    Wait,
    /// A child: its parent counts it.
    Parent(SlotPtr),
    /// In a port's queue, with its key and value.
    Packet(u64, u64),
}

/// Where the driver side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// A token exists: in dispatch, or in a completion routine.
    Driver,
    /// Passed on: the driver of the current location is the next to be called.
    Down,
    /// The current location's driver has finished it; ready to unwind.
    Finished,
    /// With the hardware.
    Hardware,
    /// Held by a driver.
    Held,
    /// Final completion has begun.
    Final,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Driver | Phase::Down => "dispatching",
            Phase::Finished => "unwinding",
            Phase::Hardware => "hardware",
            Phase::Held => "held",
            Phase::Final => "complete",
        }
    }
}

/// The result so far (NT's IoStatus).
#[derive(Clone, Copy)]
pub(crate) struct IoStatus {
    pub status: Status,
    /// Bytes transferred, or what the major defines.
    pub info: usize,
}

/// One driver's view of the request: NT's stack location.
///
/// A filter that forwards gets a fresh copy for the driver below (I-8); a filter that skips passes
/// its own on (I-9). Control bits are those set by the driver *above*, for this location's
/// completion.
#[repr(C)]
pub(crate) struct Location {
    pub minor: u8,
    pub control: u8,
    /// Index in the route of the driver that owns this location.
    pub level: u8,
    /// That of the driver at which the request started.
    pub base: u8,
    /// Bytes at `data`; segments for vectored requests.
    pub len: u32,
    pub data: *mut u8,
    pub offset: u64,
    /// A parameter of the major's own.
    pub arg: u64,
    /// The owner's scratch, or the buffer lent to the drivers below. Dropped when unwound.
    pub scratch: Payload<3>,
}

impl Location {
    pub(crate) const EMPTY: Location = Location {
        minor: 0,
        control: 0,
        level: 0,
        base: 0,
        len: 0,
        data: ptr::null_mut(),
        offset: 0,
        arg: 0,
        scratch: Payload::empty(),
    };

    /// I-8: everything except routine and control goes down.
    pub(crate) fn copy_for_next(&self, level: u8) -> Location {
        Location { control: 0, level, scratch: Payload::empty(), ..*self }
    }
}

/// A write's `arg`: it is to be on the medium when it completes (NT's SL_WRITE_THROUGH).
pub(crate) const WRITE_THROUGH: u64 = 4;

/// I-23's selectors, as bits of `Location::control`.
pub(crate) mod control {
    pub const SUCCESS: u8 = 1;
    pub const ERROR: u8 = 2;
    pub const CANCEL: u8 = 4;
    /// Not a selector: the owner's scratch is a buffer it lent to the drivers below.
    pub const LENT: u8 = 8;
}

/// Marks of `Header::flags`.
pub(crate) mod flags {
    /// Cancel has been requested; never cleared.
    pub const CANCEL: u32 = 1;
    /// The deadline asked for the cancel.
    pub const TIMED_OUT: u32 = 2;
    /// The location below has been filled in by `Irp::next`.
    pub const NEXT_READY: u32 = 4;
    /// The bottom wants to hear when the result is final; see `Driver::settled`.
    pub const SETTLE: u32 = 8;
    /// A future asks: `route` may be written on its thread.
    pub const FUTURE: u32 = 16;
    /// The file's use is counted on its home processor.
    pub const LOCAL_USE: u32 = 32;
    /// The requester has read the result.
    pub const TAKEN: u32 = 64;
    /// In use; clear while on the free list.
    pub const LIVE: u32 = 128;
    /// There is a `tell`, or the file object is signalled when it is done.
    pub const SIGNAL: u32 = 256;
    /// It belongs to an issuer scope.
    pub const SCOPED: u32 = 512;
    /// It has its synchronous file object.
    pub const SERIAL: u32 = 1024;
    /// The hardware got it from a thread that has ended since; see `processor::bequest`.
    pub const BEQUEATHED: u32 = 2048;
    /// Held by a filter's call that waits, and is to be told of a cancel.
    pub const WAITS: u32 = 4096;
    /// Its stack has been replaced, and waits for it: see `processor::drain`.
    pub const DRAINS: u32 = 8192;
    /// A driver's own: it started below that.
    pub const BELOW: u32 = 16384;
    /// A filter wants to hear when the result is final; see `processor::settle`.
    pub const HOOKED: u32 = 32768;
    /// It has a deadline, whose timer runs.
    pub const TIMED: u32 = 1 << 16;
    /// It has been in a queue: there is a `parking`.
    pub const PARKED: u32 = 1 << 17;
    /// There is a `companion`.
    pub const ACCOMPANIED: u32 = 1 << 18;
    /// Its end is being told, and its mail, by which it would be freed, has not been read.
    pub const AWAITS_MAIL: u32 = 1 << 19;

    /// Final completion has more to do than to say so.
    pub const ENDS_SPECIALLY: u32 = TIMED | TIMED_OUT | SCOPED | SERIAL | HOOKED | DRAINS | SIGNAL;
    /// There is more to let go of than a result.
    pub const CARRIES: u32 = PARKED | SIGNAL | SCOPED | ACCOMPANIED;
}

/// The marks: written by the owner alone, read by a [`super::Held`] elsewhere too.
pub(crate) struct Flags(AtomicU32);

impl Flags {
    pub(crate) fn new(bits: u32) -> Flags {
        Flags(AtomicU32::new(bits))
    }
    /// Any of these.
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.0.load(Ordering::Relaxed) & bits != 0
    }
    pub(crate) fn set(&self, bit: u32) {
        self.0.store(self.0.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
    }
    pub(crate) fn clear(&self, bit: u32) {
        self.0.store(self.0.load(Ordering::Relaxed) & !bit, Ordering::Relaxed);
    }
}

/// The slot's header; `class`'s locations follow it in memory.
#[repr(C, align(64))]
pub(crate) struct Slot {
    // First line: every request touches these.
    pub state: State,
    pub flags: Flags,
    pub phase: Phase,
    /// It is in the queue of `parking`, whose lock this belongs to.
    pub parked: bool,
    pub class: u8,
    pub major: Major,
    /// Index of the current location.
    pub cursor: u8,
    /// Locations in use by this request: the length of its route.
    pub depth: u8,
    /// The hardware's present operation puts as many bytes into the data as it reports.
    pub fills: bool,
    pub generation: u32,
    /// Bytes of a read's memory, from its start, that somebody has filled: more is never reported,
    /// because the rest may be uninitialised. Counts the memory of the top location only; buffers
    /// lent to the drivers below are initialised when they are lent.
    pub filled: u32,
    pub result: IoStatus,
    pub core: NonNull<Core>,
    pub file: Option<NonNull<FileObject>>,
    pub stack: Option<NonNull<Stack>>,
    /// The major's devices, top first; points into `stack`.
    pub devices: *const NonNull<Device>,
    /// Free list, a packet in a port's queue (I-1), or a cancel-safe queue: one at a time.
    pub link: *mut Slot,
    /// The mailbox list.
    pub mail: UnsafeCell<*mut Slot>,
    pub route: Route,
    pub payload: Payload,
    pub timer: Option<TimerKey>,
    /// Tick of the issue, for the age shown in listings.
    pub issued: u64,
    /// The queue a held IRP was parked in last, so that a cancel finds it.
    pub parking: Option<Parking>,
    /// What a driver on another thread wants done with the IRP it held; or its place in a queue.
    pub resume: Resume,
    /// Children not finished, plus one while the parent still makes them.
    pub children: u32,
    /// Bytes charged to the issuer scope.
    pub charge: u32,
    /// What was posted, for the packet's reader. A function, which is a third of its result's size.
    pub operation: Option<fn() -> TypeId>,
    /// Whom it tells when it is done, beside its route (C-3, C-40).
    pub tell: Option<Tell>,
    /// The issuer scope, until it is done.
    pub scope: Option<Arc<scope::Inner>>,
    /// See [`crate::companion`].
    pub companion: Option<Box<dyn Companion>>,
}

/// A slot by address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotPtr(pub NonNull<Slot>);

// SAFETY: an address only; every access goes through the protocol of `state`, which says who may.
unsafe impl Send for SlotPtr {}

impl SlotPtr {
    /// Asks for the slot at an address to be in the cache soon.
    #[inline]
    pub(crate) fn prefetch(address: usize) {
        // Header and top location, except what few requests use.
        for line in [0, 64, 128, size_of::<Slot>()] {
            crate::cache::prefetch(ptr::without_provenance(address + line));
        }
    }

    // What the owner's thread may ask of any live slot. Field by field: the requester may be at the
    // state word, or be writing its waker.

    /// The id of the request's file object.
    ///
    /// # Safety
    /// Owner's thread; the slot is live.
    pub(crate) unsafe fn file_id(self) -> Option<u64> {
        // SAFETY: the caller's; a request counts on its file as long as the field is set.
        unsafe { (*self.0.as_ptr()).file.map(|file| file.as_ref().id()) }
    }

    /// The operation.
    ///
    /// # Safety
    /// Owner's thread; the slot is live.
    pub(crate) unsafe fn major(self) -> Major {
        // SAFETY: the caller's.
        unsafe { (*self.0.as_ptr()).major }
    }

    /// The location with the given index.
    ///
    /// # Safety
    /// `index` is below the class's number of locations, and the caller is the one who may touch
    /// the slot (module invariant).
    pub(crate) unsafe fn location(self, index: u8) -> *mut Location {
        // SAFETY: the slab lays `CLASS_LOCATIONS[class]` locations out behind the header.
        unsafe {
            debug_assert!(
                usize::from(index) < CLASS_LOCATIONS[usize::from((*self.0.as_ptr()).class)]
            );
            self.0.as_ptr().add(1).cast::<Location>().add(usize::from(index))
        }
    }

    /// The current location.
    ///
    /// # Safety
    /// As [`SlotPtr::location`].
    pub(crate) unsafe fn current(self) -> *mut Location {
        // SAFETY: the cursor is below the depth, which is at most the class's number.
        unsafe { self.location((*self.0.as_ptr()).cursor) }
    }

    /// The hardware, or a driver, has filled the current location's memory up to `end`.
    ///
    /// # Safety
    /// As [`SlotPtr::location`]; it is true.
    #[inline]
    pub(crate) unsafe fn note_filled(self, end: usize) {
        // SAFETY: the caller's.
        unsafe {
            let header = self.0.as_ptr();
            if (*self.current()).data == (*self.location(0)).data {
                let end = u32::try_from(end).unwrap_or(u32::MAX);
                (*header).filled = (*header).filled.max(end);
            }
        }
    }

    /// Bytes from the start of the current location's memory that are initialised, given that the
    /// drivers below reported `info`.
    ///
    /// # Safety
    /// As [`SlotPtr::location`].
    pub(crate) unsafe fn readable(self, info: usize) -> usize {
        // SAFETY: the caller's.
        unsafe {
            let header = self.0.as_ptr();
            if !(*header).major.receives() {
                0
            } else if (*self.current()).data == (*self.location(0)).data
                && (*self.current()).minor != crate::minor::POOLED
            {
                info.min((*header).filled as usize)
            } else {
                info
            }
        }
    }

    /// Makes a buffer of the pool a pooled receive's data, for the drivers above to see and the
    /// requester to get.
    ///
    /// # Safety
    /// The driver side is the caller's; the request is a pooled receive.
    pub(crate) unsafe fn give_lease(self, lease: Lease) {
        // SAFETY: the caller's. Every location up to the current one is initialised (I-23: routines of
        // the drivers above look at their own locations).
        unsafe {
            let header = self.0.as_ptr();
            for i in 0..=(*header).cursor {
                let location = self.location(i);
                (*location).data = lease.as_ptr().cast_mut();
                (*location).len = lease.len() as u32;
            }
            // What is replaced is dropped last: it may be foreign code.
            drop(std::mem::replace(&mut (*header).payload, Payload::new(lease)));
        }
    }

    /// Zeroes what has not been filled of a read's memory, up to byte `end` of it.
    ///
    /// # Safety
    /// The driver side is the caller's, and the request not a pooled receive.
    pub(crate) unsafe fn zero_up_to(self, end: usize) {
        // SAFETY: the caller's: the memory is the request's.
        unsafe {
            if (*self.current()).data != (*self.location(0)).data {
                // Lent by a driver above: initialised.
                return;
            }
            let (view, filled) = (View::of(&self), (*self.0.as_ptr()).filled as usize);
            let mut at = 0;
            for (start, len) in view.memory() {
                let (from, to) = (filled.max(at), end.min(at + len));
                if from < to {
                    start.add(from - at).write_bytes(0, to - from);
                }
                at += len;
            }
            self.note_filled(end.min(at));
        }
    }

    /// What the current location's driver says has come of the request (I-22): that it is pending is no
    /// result.
    ///
    /// # Safety
    /// The driver side is the caller's.
    #[inline]
    pub(crate) unsafe fn of_driver(self, status: Status, info: usize) -> IoStatus {
        if status == Status::PENDING {
            // SAFETY: the caller's.
            unsafe { self.device() }.report_bug("a request was completed as pending", false);
            return IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
        }
        IoStatus { status, info }
    }

    /// The device that owns the current location.
    ///
    /// # Safety
    /// As [`SlotPtr::location`]; the slot is in flight, so that its file keeps its stack alive.
    pub(crate) unsafe fn device<'a>(self) -> &'a Device {
        // SAFETY: `level` is an index into the route that `devices` points to (kept by dispatch),
        // and the stack lives as long as the request counts on its file.
        unsafe {
            let level = (*self.current()).level;
            (*(*self.0.as_ptr()).devices.add(usize::from(level))).as_ref()
        }
    }
}

/// Four cache lines: each more would be paid for with every request's locations.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() <= 256);
