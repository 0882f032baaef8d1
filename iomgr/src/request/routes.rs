//! The other routes: synchronous wait, and completion port; and cancelling by handle.

use std::any::TypeId;

use super::issue::{admit, begin, collect, launch};
use super::{Extras, Operation, Request, State, Target as FileRef};
use crate::apc;
use crate::file::FileObject;
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{Route, SlotPtr};
use crate::panics::log;
use crate::port::{self, CompletionPort, Rights};
use crate::processor::{Core, Driven, ProcessorHandle};
use crate::status::Status;
use crate::wait::Alertable;
use crate::wait::sleeper::Sleeper;

/// Cancels one request that has been issued, from any thread, any number of times. It does not wait,
/// and it does not say what happened: the request's own result is the only truth (X-5, Z-19).
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
    /// For a request that is about to be issued.
    ///
    /// # Safety
    /// The slot is of that core, and the caller's: as its issuer, or, on any thread, its requester.
    pub(super) unsafe fn of(core: &Core, slot: SlotPtr) -> Cancel {
        // SAFETY: the caller's.
        let generation = unsafe { (*slot.0.as_ptr()).generation };
        let owner = ProcessorHandle::new(core.remote().clone());
        Cancel { owner, slot: Some(Target { slot, generation }) }
    }

    /// For one that is done.
    pub(super) fn of_nothing(mut self) -> Cancel {
        self.slot = None;
        self
    }

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

/// A request issued by [`Request::packet`].
#[derive(Debug)]
pub enum Issued<T> {
    /// There will be one packet, or is one already.
    Packet(Cancel),
    /// It has succeeded at once, and the file skips the packet then
    /// ([`skip_packet_on_success`](crate::FileObject::skip_packet_on_success), C-17): this is its result.
    Done(T),
}

impl<'f, K: Operation> Request<'f, K> {
    /// The parts of a request that has not been issued, its file object made and its event reset. One
    /// that has been issued stays as it is: its drop lets go of it.
    ///
    /// # Errors
    /// The file object cannot be made, or is closed: the request's result.
    pub(super) fn unissued(
        &mut self,
        use_: &str,
    ) -> Result<(FileRef<'f>, Option<K>, Extras), K::Output> {
        self.unissued_if(use_, |_, _| Ok(()))
    }

    /// As [`Request::unissued`], for a route that not every file object has (I-39: refused before the
    /// event is reset).
    pub(super) fn unissued_if(
        &mut self,
        use_: &str,
        may: impl FnOnce(&FileObject, &Extras) -> Result<(), Status>,
    ) -> Result<(FileRef<'f>, Option<K>, Extras), K::Output> {
        let (file, operation, mut extras) = self.parts(use_);
        let made = file.made().and_then(|file| {
            may(&file, &extras)?;
            begin(&file, &mut extras)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok((file, Some(operation), extras)),
            Err(status) => Err(operation.refuse(status)),
        }
    }

    fn parts(&mut self, use_: &str) -> (FileRef<'f>, K, Extras) {
        if !matches!(self.state, State::Ready(..)) {
            panic!("a request that has been polled cannot be {use_}");
        }
        let file = std::mem::replace(&mut *self.file, FileRef::Gone);
        (file, self.state.take(), std::mem::take(&mut *self.extras))
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
        let (file, mut operation, mut extras) = match self.unissued("waited for") {
            Ok(parts) => parts,
            Err(refused) => return refused,
        };
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            if core.driven() == Driven::Loop || core.is_inside_turn() {
                return Err(operation.refuse(Status::WOULD_DEADLOCK));
            }
            let slot = match admit(core, &file, &operation, &extras) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: the slot is ours until it is issued.
            let cancel = unsafe { Cancel::of(core, slot) };
            let inline = launch(core, slot, &file, operation, || Route::Wait, &mut extras);
            // I-38.
            let alerts = file.serial().is_some_and(|serial| serial.alertable == Alertable::Yes);
            let apcs = (!inline && alerts).then(|| apc::listen_at(&Sleeper::of(core)));
            let mut alerted = false;
            let alert = cancel.clone();
            let _cancellable = (!inline).then(|| apc::synchronous(cancel));
            // C-23: this thread does not run meanwhile.
            let _blocked = (!inline).then(port::blocked);
            // SAFETY: the reference is ours until `collect`, which finds the slot done.
            unsafe {
                let is_done = || (*slot.0.as_ptr()).state.is_done();
                while !is_done() {
                    if apcs.is_some() && !alerted && apc::is_queued() {
                        alerted = true;
                        alert.cancel();
                    }
                    // The turn's mail may end it; so may an APC that has come meanwhile.
                    let news = || is_done() || apcs.is_some() && !alerted && apc::is_queued();
                    if let Err(error) = core.turn(Wait::Forever, news) {
                        // Without its hardware the request cannot end; nor can this call.
                        log(
                            || tracing::error!(%error, "the backend failed under a waiting thread"),
                        );
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
                drop(apcs);
                let output = collect::<K>(slot);
                Ok((output, alerted))
            }
        });
        match outcome {
            Ok(Ok((output, alerted))) => {
                if alerted {
                    // Not with the processor in use.
                    apc::run();
                }
                output
            }
            Ok(Err(output)) => output,
            Err(status) => operation.take().expect("not issued").refuse(status),
        }
    }

    /// Issues the request; its result will be a packet with `key` in the port (C-5): exactly one,
    /// also when it completes at once with success (C-8).
    ///
    /// # Errors
    /// A request that fails at once yields no packet (I-31): its result, error and buffer, is the
    /// `Err`. [`Status::QUOTA_EXCEEDED`]: too many packets of the port have not been taken;
    /// [`Status::ACCESS_DENIED`]: the handle of the port may not be posted to.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn post(mut self, port: &CompletionPort, key: u64) -> Result<Cancel, K::Output>
    where
        K: 'static,
    {
        let (file, mut operation, mut extras) = self.unissued("posted")?;
        let allowed = port.check(Rights::MODIFY);
        let port = port.shared();
        let admission = match allowed.and_then(|()| port.admit()) {
            Ok(admission) => admission,
            Err(status) => return Err(operation.take().expect("there").refuse(status)),
        };
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            let slot = match admit(core, &file, &operation, &extras) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: slots are readable on their owner's thread, and this one is ours until it is
            // issued.
            let cancel = unsafe {
                (*slot.0.as_ptr()).operation = Some(TypeId::of::<K>);
                Cancel::of(core, slot)
            };
            let route = || Route::Port(port.clone(), key);
            if !launch(core, slot, &file, operation, route, &mut extras) {
                return Ok(cancel);
            }
            // SAFETY: complete, and the reference is ours; it goes to the packet, or ends here.
            unsafe {
                if (*slot.0.as_ptr()).result.status.is_error() {
                    return Err(collect::<K>(slot));
                }
                finish::leave_file(slot);
                (*slot.0.as_ptr()).route = Route::Packet(key, 0);
                port.insert(slot);
            }
            Ok(cancel.of_nothing())
        });
        let result = match outcome {
            Ok(result) => result,
            Err(status) => Err(operation.take().expect("not issued").refuse(status)),
        };
        if result.is_ok() {
            admission.keep();
        }
        result
    }

    /// Issues the request; its result will be a packet with `value` in the port that its file is
    /// associated with ([`CompletionPort::associate`]), with the key of the association (C-11).
    ///
    /// The port is looked up when the request completes (C-12): without one nobody hears of the
    /// result.
    ///
    /// # Errors
    /// As [`Request::post`].
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn packet(mut self, value: u64) -> Result<Issued<K::Output>, K::Output>
    where
        K: 'static,
    {
        let (file, mut operation, mut extras) = self.unissued("posted")?;
        let port = file.port().map(|(port, _)| port);
        let admission = match port.as_ref().map(|port| port.admit()).transpose() {
            Ok(admission) => admission,
            Err(status) => return Err(operation.take().expect("there").refuse(status)),
        };
        let admitted = admission.is_some();
        let outcome = Core::with_or_create(|core| {
            let operation = operation.take().expect("taken once");
            let slot = match admit(core, &file, &operation, &extras) {
                Ok(slot) => slot,
                Err(status) => return Err(operation.refuse(status)),
            };
            // SAFETY: as in `post`.
            let cancel = unsafe {
                (*slot.0.as_ptr()).operation = Some(TypeId::of::<K>);
                Cancel::of(core, slot)
            };
            let route = || Route::Associated { value, admitted };
            if !launch(core, slot, &file, operation, route, &mut extras) {
                return Ok(Issued::Packet(cancel));
            }
            // SAFETY: as in `post`.
            unsafe {
                let status = (*slot.0.as_ptr()).result.status;
                if status.is_error() {
                    return Err(collect::<K>(slot));
                }
                // D3: a warning has its packet all the same.
                if status.is_success() && file.skips_packet_on_success() {
                    return Ok(Issued::Done(collect::<K>(slot)));
                }
                finish::report(slot, value, admitted);
            }
            Ok(Issued::Packet(cancel.of_nothing()))
        });
        let result = match outcome {
            Ok(result) => result,
            Err(status) => Err(operation.take().expect("not issued").refuse(status)),
        };
        if let Some(admission) = admission
            && matches!(result, Ok(Issued::Packet(_)))
        {
            admission.keep();
        }
        result
    }

    /// What cancels the request, once its first poll has issued it; `None` before, and after it has
    /// given its result. Await the request further: its result says what has become of it, and
    /// gives the buffer back. (Dropping it instead cancels it too.)
    pub fn cancel_handle(&self) -> Option<Cancel> {
        let State::Issued(slot) = self.state else { return None };
        // SAFETY: an issued request holds the requester's reference, which keeps the slot from being
        // used anew and its processor's memory in place.
        Some(unsafe { Cancel::of((*slot.0.as_ptr()).core.as_ref(), slot) })
    }

    /// Ends the request without issuing it: the result that it has when `status` keeps it from
    /// being issued, buffer included.
    ///
    /// # Panics
    /// When the request has been polled.
    pub fn refuse(mut self, status: Status) -> K::Output {
        self.parts("refused").1.refuse(status)
    }
}
