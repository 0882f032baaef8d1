//! The status block route: the result is looked at when somebody cares to (C-2), or when an event
//! says that it is there (C-3).

use std::fmt;
use std::marker::PhantomData;

use super::issue::{admit, collect, launch};
use super::{Cancel, Operation, Request};
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::panics::log;
use crate::processor::{Core, Driven};
use crate::status::Status;
use crate::wait::Event;

/// A request that has been issued, and whose result is looked at (NT's IO_STATUS_BLOCK, and what
/// belongs to it).
///
/// Dropping it asks for cancellation and detaches, as with a future (C-41).
#[must_use = "dropping it cancels the request"]
pub struct Block<K: Operation> {
    slot: SlotPtr,
    cancel: Cancel,
    operation: PhantomData<fn() -> K>,
}

// SAFETY: a slot's address; its protocol (`irp::state`) lets the requester sit on any thread. What
// the request carries is `Send` (`Setup`).
unsafe impl<K: Operation> Send for Block<K> {}
// SAFETY: shared access reads the state word, and the result once it is final.
unsafe impl<K: Operation> Sync for Block<K> {}

impl<K: Operation> Block<K> {
    /// Whether the result is there. Once it is, data and result are final (C-2, D1).
    pub fn is_done(&self) -> bool {
        // SAFETY: the requester's reference is ours.
        let done = || unsafe { (*self.slot.0.as_ptr()).state.is_done() };
        if done() {
            return true;
        }
        // A plain thread that only ever looks has nobody else to drive its processor at once.
        Core::with_current(|core| {
            if core.driven() == Driven::Thread
                && !core.is_inside_turn()
                && let Err(error) = core.turn(Wait::No, || true)
            {
                log(|| tracing::error!(%error, "the backend failed under a plain thread"));
            }
        });
        done()
    }

    /// The status: [`Status::PENDING`] until the request is done.
    pub fn status(&self) -> Status {
        if self.is_done() {
            // SAFETY: `DONE`, and we are the requester.
            unsafe { (*self.slot.0.as_ptr()).result.status }
        } else {
            Status::PENDING
        }
    }

    /// Bytes transferred, or what the operation defines; 0 until the request is done.
    pub fn info(&self) -> usize {
        // SAFETY: as above.
        if self.is_done() { unsafe { (*self.slot.0.as_ptr()).result.info } } else { 0 }
    }

    /// Asks for an early end; see [`Cancel::cancel`].
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// As [`Block::cancel`], and says whether there was anything to cancel.
    ///
    /// # Errors
    /// [`Status::NOT_FOUND`]: the request is done.
    pub fn cancel_io_ex(&self) -> Result<(), Status> {
        // SAFETY: the requester's reference is ours.
        if unsafe { (*self.slot.0.as_ptr()).state.is_done() } {
            return Err(Status::NOT_FOUND);
        }
        self.cancel.cancel();
        Ok(())
    }

    /// What cancels the request from elsewhere.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The result, as awaiting the request would have given it; the block itself while the request
    /// is not done.
    pub fn take(self) -> Result<K::Output, Block<K>> {
        if !self.is_done() {
            return Err(self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so both are taken once; `DONE`, and the requester's reference
        // goes along.
        unsafe {
            drop(std::ptr::read(&this.cancel));
            Ok(collect::<K>(this.slot))
        }
    }
}

impl<K: Operation> Drop for Block<K> {
    fn drop(&mut self) {
        // SAFETY: the requester's reference ends here.
        unsafe { finish::release(self.slot) };
    }
}

impl<K: Operation> fmt::Debug for Block<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the requester's reference is ours.
        let done = unsafe { (*self.slot.0.as_ptr()).state.is_done() };
        f.debug_struct("Block").field("done", &done).finish_non_exhaustive()
    }
}

impl<K: Operation> Request<'_, K> {
    /// Issues the request; its result is looked at through the [`Block`] (C-2).
    ///
    /// # Errors
    /// A request that fails at once (I-31): its result is the `Err`.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn start(mut self) -> Result<Block<K>, K::Output> {
        let (file, mut operation, mut extras) = self.unissued("started")?;
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            let slot = match admit(core, &file, &operation, &extras) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: the slot is ours until it is issued.
            let cancel = unsafe { Cancel::of(core, slot) };
            if launch(core, slot, &file, operation, || Route::Block, &mut extras) {
                // SAFETY: complete, and the reference is ours.
                unsafe {
                    if (*slot.0.as_ptr()).result.status.is_error() {
                        return Err(collect::<K>(slot));
                    }
                }
            }
            Ok(Block { slot, cancel, operation: PhantomData })
        });
        match outcome {
            Ok(result) => result,
            Err(status) => Err(operation.take().expect("not issued").refuse(status)),
        }
    }

    /// Issues the request; the event is set when its result is there ([`Request::event`],
    /// [`Request::start`]).
    ///
    /// # Errors
    /// As [`Request::start`]; the event stays reset.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn signal(self, event: &Event) -> Result<Block<K>, K::Output> {
        self.event(event).start()
    }
}
