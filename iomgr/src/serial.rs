//! Synchronous file objects (I-35 to I-38): one request at a time, in the order of their arrival, and a
//! current offset that the I/O manager keeps.
//!
//! The current offset is asked for and set by requests too ([`minor::POSITION`]), which wait for their
//! turn as others do, and which this module answers itself. A close waits for nobody here: the requests
//! before it have been asked to end, and it waits below for those after it.
//!
//! **Invariant.** `busy` is set while a request has the file: from its turn to its final completion.
//! A request that finds it set parks, and looks again after it has; a request that ends clears it, and
//! then looks for one that is parked. Both sequentially consistent, so one of them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::csq::CancelSafeQueue;
use crate::file::FileObject;
use crate::irp::Held;
use crate::irp::slot::{IoStatus, Phase, SlotPtr, flags};
use crate::major::{Major, minor};
use crate::status::Status;
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

/// What becomes of a request that asks for its file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on.
    Now,
    /// It is finished.
    Answered,
    /// It waits.
    Later,
}

/// Whether a read or write goes by the current offset, and moves it. Appending writes do not: where
/// they have ended, the bottom driver says.
///
/// # Safety
/// The request counts on its file; on the owner's thread.
unsafe fn follows(slot: SlotPtr) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let file = (*slot.0.as_ptr()).file.expect("it counts on it").as_ref();
        file.is_seekable() && !((*slot.0.as_ptr()).major == Major::Write && file.appends())
    }
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

    /// Asks for the file. [`Turn::Later`]: the request is parked, and comes back by itself.
    ///
    /// # Safety
    /// The driver side is the caller's, at the top, on the owner's thread; on `Later` it is gone.
    pub(crate) unsafe fn enter(&self, slot: SlotPtr) -> Turn {
        if !self.busy.swap(true, Ordering::SeqCst) {
            // SAFETY: the caller's.
            return unsafe { self.begin(slot) };
        }
        // SAFETY: the caller's; the ownership goes to the queue.
        unsafe {
            (*slot.0.as_ptr()).phase = Phase::Held;
            self.waiting.insert(Held::new(slot));
        }
        if !self.busy.load(Ordering::SeqCst) {
            self.next();
        }
        Turn::Later
    }

    /// The request has the file: at once, or when it comes back from the queue.
    ///
    /// # Safety
    /// As [`Serial::enter`]; `busy` is set for it.
    pub(crate) unsafe fn begin(&self, slot: SlotPtr) -> Turn {
        // SAFETY: the caller's; the request counts on its file.
        unsafe {
            let header = slot.0.as_ptr();
            (*header).flags.set(flags::SERIAL);
            let top = slot.location(0);
            let info = match ((*header).major, (*top).minor) {
                (Major::Read | Major::Write, _) => {
                    if (*top).offset == CURRENT && follows(slot) {
                        (*top).offset = self.offset.load(Ordering::Relaxed);
                    }
                    return Turn::Now;
                }
                (Major::QueryInformation, minor::POSITION) => self.offset.load(Ordering::Relaxed),
                (Major::SetInformation, minor::POSITION) => {
                    self.offset.store((*top).arg, Ordering::Relaxed);
                    0
                }
                _ => return Turn::Now,
            };
            (*header).result = IoStatus { status: Status::SUCCESS, info: info as usize };
            (*header).phase = Phase::Finished;
            Turn::Answered
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
            if moves && !(*header).result.status.is_error() && follows(slot) {
                let end = (*slot.location(0)).offset.saturating_add((*header).result.info as u64);
                self.offset.store(end, Ordering::Relaxed);
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
            Some(held) => held.turn_has_come(),
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

impl FileObject {
    /// Makes the file object a synchronous one (I-35): its requests go one at a time, in the order of
    /// their arrival, and those that name no offset (`u64::MAX`) read and write at its current one,
    /// which each request leaves behind its last byte. To be called before the first request.
    ///
    /// `alertable`: APCs of a thread that waits for one of its requests cancel that request; the call
    /// returns when it is done (I-38).
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when it is synchronous already, or associated with a port (C-10).
    pub fn make_synchronous(&self, alertable: Alertable) -> Result<(), Status> {
        if self.port().is_some() {
            return Err(Status::INVALID_PARAMETER);
        }
        let serial = Box::new(Serial::new(alertable));
        self.serial.set(serial).map_err(|_| Status::INVALID_PARAMETER)
    }

    /// The current byte offset of a synchronous file object at this moment, whatever its requests are
    /// about to do; `None` of others (I-35). In turn with them: a query with [`minor::POSITION`].
    pub fn current_offset(&self) -> Option<u64> {
        self.serial().map(|serial| serial.offset.load(Ordering::Relaxed))
    }

    /// Bottom drivers: where a write to an appending file has ended, before it is completed. Without
    /// effect on a file object that is not synchronous.
    pub fn appended_up_to(&self, offset: u64) {
        if let Some(serial) = self.serial() {
            serial.offset.store(offset, Ordering::Relaxed);
        }
    }

    /// Whether it is synchronous.
    pub fn is_synchronous(&self) -> bool {
        self.serial().is_some()
    }

    #[inline]
    pub(crate) fn serial(&self) -> Option<&Serial> {
        self.serial.get().map(|serial| &**serial)
    }
}
