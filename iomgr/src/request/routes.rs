//! The other routes: synchronous wait, and completion port; and cancelling by handle.

use std::any::TypeId;
use std::time::Instant;

use super::{Operation, Request, State, Target as FileRef, admit, collect, launch};
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::port::CompletionPort;
use crate::processor::{Core, Driven, ProcessorHandle};
use crate::status::Status;

/// Cancels one posted request, from any thread, any number of times. It does not wait, and it does
/// not say what happened: the request's own result is the only truth (X-5, Z-19).
#[derive(Clone, Debug)]
pub struct Cancel {
    owner: ProcessorHandle,
    slot: Option<Target>,
}

#[derive(Clone, Copy)]
struct Target {
    slot: SlotPtr,
    generation: u32,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Target(..)")
    }
}

impl Cancel {
    /// Asks for an early end. Without effect on a request that has completed.
    pub fn cancel(&self) {
        let Some(target) = self.slot else { return };
        let work = move |core: &Core| {
            let target = target;
            // SAFETY: on the owner's thread, whose slots stay readable; the generation says whether
            // it still is that request.
            unsafe {
                if core.is_live(target.slot, target.generation) {
                    finish::cancel(target.slot);
                }
            }
        };
        self.owner.on_core(Box::new(work));
    }
}

impl<'f, K: Operation> Request<'f, K> {
    /// The parts of a request that has not been issued. One that has stays as it is: its drop lets
    /// go of it.
    fn unissued(&mut self, use_: &str) -> (FileRef<'f>, Option<K>, Option<Instant>) {
        if !matches!(self.state, State::Ready { .. }) {
            panic!("a request that has been polled cannot be {use_}");
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ready { file, operation, deadline } => (file, Some(operation), deadline),
            State::Issued(_) | State::Done => unreachable!("just looked"),
        }
    }

    /// Issues the request and waits for its result on this thread, driving the thread's processor
    /// meanwhile (C-1).
    ///
    /// # Errors
    /// Those of the operation, and [`Status::WOULD_DEADLOCK`] when called where waiting would stop
    /// what it waits for: on a runtime's worker, or inside a completion routine. There, await it.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn wait(mut self) -> K::Output {
        let (file, mut operation, deadline) = self.unissued("waited for");
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            if core.driven() == Driven::Loop || core.is_inside_turn() {
                return operation.refuse(Status::WOULD_DEADLOCK);
            }
            let slot = match admit(core, &file, &operation) {
                Ok(slot) => slot,
                Err(status) => return operation.refuse(status),
            };
            launch(core, slot, &file, operation, Route::Wait, deadline);
            // SAFETY: the reference is ours until `collect`, which finds the slot done.
            unsafe {
                while !(*slot.0.as_ptr()).state.is_done() {
                    if let Err(error) = core.turn(Wait::Forever, || false) {
                        // Without its hardware the request cannot end; nor can this call.
                        tracing::error!(%error, "the backend failed under a waiting thread");
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
                collect::<K>(slot)
            }
        });
        match outcome {
            Ok(output) => output,
            Err(status) => operation.take().expect("not issued").refuse(status),
        }
    }

    /// Issues the request; its result will be a packet with `key` in the port (C-5): exactly one,
    /// also when it completes at once with success (C-8).
    ///
    /// # Errors
    /// A request that fails at once yields no packet (I-31): its result, error and buffer, is the
    /// `Err`.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn post(mut self, port: &CompletionPort, key: u64) -> Result<Cancel, K::Output>
    where
        K: 'static,
    {
        let (file, mut operation, deadline) = self.unissued("posted");
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            let route = Route::Port(port.reference(), key);
            let owner = ProcessorHandle::new(core.remote().clone());
            let slot = match admit(core, &file, &operation) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: slots are readable on their owner's thread, and this one is ours until it is
            // issued.
            let generation = unsafe {
                (*slot.0.as_ptr()).operation = Some(TypeId::of::<K>());
                (*slot.0.as_ptr()).generation
            };
            if !launch(core, slot, &file, operation, route, deadline) {
                return Ok(Cancel { owner, slot: Some(Target { slot, generation }) });
            }
            // SAFETY: complete, and the reference is ours; it goes to the packet, or ends here.
            unsafe {
                if (*slot.0.as_ptr()).result.status.is_error() {
                    return Err(collect::<K>(slot));
                }
                finish::leave_file(slot);
                (*slot.0.as_ptr()).route = Route::Packet(key);
                port.insert_packet(slot);
            }
            Ok(Cancel { owner, slot: None })
        });
        match outcome {
            Ok(result) => result,
            Err(status) => Err(operation.take().expect("not issued").refuse(status)),
        }
    }
}
