//! The APC route: a callback on the issuing thread, at an alertable wait (C-4).

use std::marker::PhantomData;
use std::sync::Arc;

use super::issue::{admit, collect, launch};
use super::{Cancel, Extras, Operation, Request, Tell};
use crate::apc::{Admitted, Callback, Queue, mine};
use crate::file::FileObject;
use crate::irp::slot::{Route, SlotPtr};
use crate::processor::Core;
use crate::status::Status;

struct Call<K, F> {
    admitted: Admitted,
    run: F,
    operation: PhantomData<fn() -> K>,
}

impl<K: Operation, F: FnOnce(K::Output) + Send> Callback for Call<K, F> {
    fn queue(&self) -> &Arc<Queue> {
        self.admitted.queue()
    }

    unsafe fn run(self: Box<Self>, slot: SlotPtr) {
        // SAFETY: the caller's.
        (self.run)(unsafe { collect::<K>(slot) });
    }
}

impl<K: Operation + 'static> Request<'_, K> {
    /// Issues the request; its result will be given to `run` on this thread, at its first alertable
    /// wait after the request is done ([`crate::wait::sleep`] and its kin), behind the APCs queued
    /// before (C-4).
    ///
    /// If this thread ends first, `run` is dropped.
    ///
    /// # Errors
    /// A request that fails at once runs nothing (I-31): its result is the `Err`. So is
    /// [`Status::INVALID_PARAMETER`] on a file that is associated with a port, and with
    /// [`Request::tee`] (C-6);
    /// [`Status::QUOTA_EXCEEDED`] when about a million APCs of this thread have not run;
    /// [`Status::SHUTDOWN_IN_PROGRESS`] while this thread ends.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn queue_apc(
        mut self,
        run: impl FnOnce(K::Output) + Send + 'static,
    ) -> Result<Cancel, K::Output> {
        let no_port = |file: &FileObject, extras: &Extras| {
            let port = file.port().is_some() || extras.tell.as_ref().is_some_and(Tell::has_port);
            if port { Err(Status::INVALID_PARAMETER) } else { Ok(()) }
        };
        let (file, mut operation, mut extras) = self.unissued_if("given an APC", no_port)?;
        let admitted = match mine().and_then(Admitted::new) {
            Ok(admitted) => admitted,
            Err(status) => return Err(operation.take().expect("there").refuse(status)),
        };
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            let slot = match admit(core, &file, &operation, &extras) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: the slot is ours until it is issued.
            let cancel = unsafe { Cancel::of(core, slot) };
            let queue = admitted.queue().clone();
            let call = Call { admitted, run, operation: PhantomData::<fn() -> K> };
            let route = || Route::Apc(Box::new(call));
            if !launch(core, slot, &file, operation, route, &mut extras) {
                return Ok(cancel);
            }
            // SAFETY: complete, and the reference is ours; it goes to the queue, or ends here.
            unsafe {
                if (*slot.0.as_ptr()).result.status.is_error() {
                    return Err(collect::<K>(slot));
                }
                crate::irp::finish::leave_file(slot);
                queue.insert(slot);
            }
            Ok(cancel.of_nothing())
        });
        match outcome {
            Ok(result) => result,
            Err(status) => Err(operation.take().expect("not issued").refuse(status)),
        }
    }
}
