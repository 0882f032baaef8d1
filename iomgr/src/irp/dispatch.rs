//! The way of a request: down ([`issue`], [`skip`], [`forward`]), to the hardware and back
//! ([`to_hardware`], [`hardware_done`]), up ([`unwind`], I-22 to I-24) and out ([`finalize`], I-27
//! to I-34).
//!
//! **When unwinding happens.** A driver that completes inside dispatch only marks the IRP; the
//! completion routines run when the chain of dispatch calls has returned to [`issue`], on the same
//! stack frame (I-27). This bounds the stack, makes "pending" a fact instead of a flag (a request
//! pends exactly if dispatch returned before it was finished, I-14 to I-18), and lets a routine
//! retry without recursion. The order among the routines is NT's.
//!
//! **Invariant.** All functions here run on the thread of the processor that owns the slot, except
//! [`resume`] and [`release`], which check and send mail. Each takes the driver side of the slot
//! over from its caller and leaves it with a token, the hardware, or nobody (`Phase::Final`).

use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::held::Resume;
use super::slot::{IoStatus, Phase, Route, SlotPtr, control, flags};
use super::state::Completed;
use super::token::{Disposition, Irp, Late, Lower, Next, Outcome, Unwinding};
use super::{child, view::View};
use crate::hal::{self, Op, Token};
use crate::major::{Major, minor};
use crate::processor::Core;
use crate::stack::Device;
use crate::status::Status;

const PANICKED: &str = "a driver panicked";

fn token(slot: SlotPtr) -> Token {
    Token::new(slot.0.as_ptr() as u64)
}

unsafe fn core<'a>(slot: SlotPtr) -> &'a Core {
    // SAFETY: a core outlives its slots (see `processor`).
    unsafe { (*slot.0.as_ptr()).core.as_ref() }
}

/// Calls the driver of the current location.
#[inline]
unsafe fn call(slot: SlotPtr) -> Disposition {
    // SAFETY: the caller owns the driver side, and the stack is alive.
    unsafe {
        let device = slot.device();
        let blame = Blame { device, core: core(slot) };
        let disposition = device.driver().dispatch(Irp::new(slot), Lower { scope: PhantomData });
        mem::forget(blame);
        disposition
    }
}

/// Reports the driver whose code a panic leaves, if no driver below it has been.
struct Blame<'a> {
    device: &'a Device,
    core: &'a Core,
}

impl Drop for Blame<'_> {
    #[cold]
    fn drop(&mut self) {
        // The device is alive: the issuing call keeps the file, or an open `Frame` or turn does.
        if !self.core.blamed.replace(true) {
            self.device.report_bug(PANICKED, true);
        }
    }
}

/// Runs driver code. A panic is reported and leaves the request finished with an error.
#[inline]
unsafe fn guarded(slot: SlotPtr, run: impl FnOnce() -> Disposition) -> Outcome {
    // SAFETY: slots stay readable as long as their core lives, even while free.
    let before = unsafe { (*slot.0.as_ptr()).generation };
    match catch_unwind(AssertUnwindSafe(run)) {
        // A disposition says nothing by itself: a driver may return one that it got for another
        // request. If this one was completed and freed meanwhile, its phase is not `Finished`.
        // SAFETY: as above.
        Ok(_) if unsafe { (*slot.0.as_ptr()).phase } == Phase::Finished => Outcome::Finished,
        Ok(_) => Outcome::Pended,
        // SAFETY: as above; the generation says whether the request still exists.
        Err(_) => unsafe { after_panic(slot, before) },
    }
}

#[cold]
unsafe fn after_panic(slot: SlotPtr, generation: u32) -> Outcome {
    // SAFETY: see `guarded`.
    unsafe {
        core(slot).blamed.set(false);
        if !core(slot).is_live(slot, generation) {
            // The driver passed it on before it panicked, and it has completed since.
            return Outcome::Pended;
        }
        match (*slot.0.as_ptr()).phase {
            Phase::Finished => Outcome::Finished,
            // It was passed on before the panic: whoever has it finishes it.
            Phase::Hardware | Phase::Held | Phase::Final => Outcome::Pended,
            Phase::Driver => {
                (*slot.0.as_ptr()).result =
                    IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
                (*slot.0.as_ptr()).phase = Phase::Finished;
                Outcome::Finished
            }
        }
    }
}

/// A token was dropped: finishes the request for its driver.
#[cold]
pub(crate) unsafe fn driver_bug(slot: SlotPtr, what: &'static str) {
    // SAFETY: the token's ownership of the driver side comes to us.
    unsafe {
        slot.device().report_bug(what, false);
        (*slot.0.as_ptr()).result = IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
        (*slot.0.as_ptr()).phase = Phase::Finished;
    }
}

/// Starts a prepared request at its top location. `true`: it is already complete (I-27), and its
/// route was not told.
#[inline]
pub(crate) unsafe fn issue(slot: SlotPtr) -> bool {
    // SAFETY: the caller made the slot and owns both sides of it. While dispatch runs, the
    // requester's reference keeps it alive.
    unsafe {
        match guarded(slot, || call(slot)) {
            Outcome::Finished if unwind_to_top(slot) => {
                finalize(slot, true);
                true
            }
            Outcome::Finished | Outcome::Pended => false,
        }
    }
}

/// Copies the current location to the next one, once (I-8).
pub(crate) unsafe fn prepare_next(slot: SlotPtr) {
    // SAFETY: the caller owns the driver side; the slab keeps one location more than the depth.
    unsafe {
        let header = slot.0.as_ptr();
        if (*header).flags.has(flags::NEXT_READY) {
            return;
        }
        (*header).flags.set(flags::NEXT_READY);
        let current = &*slot.location((*header).cursor);
        let next = current.copy_for_next(current.level + 1);
        *slot.location((*header).cursor + 1) = next;
    }
}

/// A pooled receive that goes down again gets another buffer: lets go of the one it has.
pub(crate) unsafe fn forget_lease(slot: SlotPtr) {
    // SAFETY: the caller owns the driver side; locations up to the cursor are initialised.
    unsafe {
        let header = slot.0.as_ptr();
        if (*slot.location(0)).minor != minor::POOLED || (*slot.location(0)).data.is_null() {
            return;
        }
        for i in 0..=(*header).cursor {
            let location = slot.location(i);
            (*location).data = std::ptr::null_mut();
            (*location).len = if (*location).arg == 0 { u32::MAX } else { (*location).arg as u32 };
        }
        // Dropped last: it may be foreign code.
        drop(mem::take(&mut (*header).payload));
    }
}

/// Whether there is a driver below the current location's.
unsafe fn has_lower(slot: SlotPtr) -> bool {
    // SAFETY: the caller owns the driver side.
    unsafe { (*slot.current()).level + 1 < (*slot.0.as_ptr()).depth }
}

/// Finishes a request that its driver sent below the bottom (V-13 cannot happen: depth is exact).
#[cold]
unsafe fn nothing_below(slot: SlotPtr) -> Disposition {
    // SAFETY: the caller owns the driver side.
    unsafe {
        (*slot.0.as_ptr()).flags.clear(flags::NEXT_READY);
        (*slot.0.as_ptr()).result = IoStatus { status: Status::INVALID_DEVICE_REQUEST, info: 0 };
        (*slot.0.as_ptr()).phase = Phase::Finished;
    }
    Disposition(())
}

/// I-9: the driver below gets this location.
#[inline]
pub(crate) unsafe fn skip(slot: SlotPtr) -> Disposition {
    // SAFETY: the caller passes the driver side on.
    unsafe {
        if !has_lower(slot) {
            return nothing_below(slot);
        }
        if (*slot.0.as_ptr()).flags.has(flags::NEXT_READY) {
            // The driver changed the next location, and then chose not to watch it.
            return forward(slot, 0);
        }
        (*slot.current()).level += 1;
        call(slot)
    }
}

/// I-7, I-10: the driver below gets a location of its own, with this driver's selectors.
#[inline]
pub(crate) unsafe fn forward(slot: SlotPtr, on: u8) -> Disposition {
    // SAFETY: the caller passes the driver side on.
    unsafe {
        if !has_lower(slot) {
            return nothing_below(slot);
        }
        prepare_next(slot);
        let header = slot.0.as_ptr();
        (*header).flags.clear(flags::NEXT_READY);
        (*header).cursor += 1;
        (*slot.current()).control = on;
        call(slot)
    }
}

/// The bottom hands the request to the hardware.
#[inline]
pub(crate) unsafe fn to_hardware(slot: SlotPtr, op: Op) -> Disposition {
    // SAFETY: the driver side goes to the hardware; `op`'s memory is the caller's promise.
    unsafe {
        let header = slot.0.as_ptr();
        if (*header).flags.has(flags::CANCEL) && (*header).major != Major::Close {
            // the cancel came while no hardware had it.
            (*header).result = IoStatus { status: Status::CANCELLED, info: 0 };
            (*header).phase = Phase::Finished;
            return Disposition(());
        }
        (*header).phase = Phase::Hardware;
        match core(slot).submit(token(slot), op) {
            None => Disposition(()),
            Some(result) => {
                let done = hal::Completion { token: token(slot), result, more: false, lease: None };
                note_result(slot, &done);
                slot.device().driver().hardware(Irp::new(slot), done)
            }
        }
    }
}

/// What the hardware read is initialised now.
#[inline]
unsafe fn note_result(slot: SlotPtr, done: &hal::Completion) {
    // SAFETY: the driver side is ours; the rest is the promise of `Irp::submit`.
    unsafe {
        if (*slot.0.as_ptr()).major == Major::Read && done.result > 0 {
            slot.note_filled(done.result as usize);
        }
    }
}

/// The hardware reports.
pub(crate) unsafe fn hardware_done(slot: SlotPtr, done: hal::Completion) {
    // SAFETY: the token names a slot whose driver side the hardware had; final completions give it
    // back, the others lend a look at it.
    unsafe {
        if done.more {
            let device = slot.device();
            let view = View::of(&slot);
            let more = AssertUnwindSafe(|| device.driver().more(view.file(), done));
            if catch_unwind(more).is_err() {
                device.report_bug(PANICKED, true);
            }
            return;
        }
        note_result(slot, &done);
        let device = slot.device();
        let run = || {
            let blame = Blame { device, core: core(slot) };
            let disposition = device.driver().hardware(Irp::new(slot), done);
            mem::forget(blame);
            disposition
        };
        if guarded(slot, run) == Outcome::Finished {
            unwind(slot);
        }
    }
}

/// Completes a finished, pended request as far up as its drivers let it.
pub(crate) unsafe fn unwind(slot: SlotPtr) {
    // SAFETY: the driver side is ours.
    unsafe {
        if unwind_to_top(slot) {
            finalize(slot, false);
        }
    }
}

/// I-22 to I-24. `false`: a driver has it again.
#[inline]
unsafe fn unwind_to_top(slot: SlotPtr) -> bool {
    // SAFETY: the driver side is ours; locations up to the cursor are initialised.
    unsafe {
        let header = slot.0.as_ptr();
        while (*header).cursor > 0 {
            let below = slot.current();
            let on = (*below).control;
            // I-23d: the lower location is cleared before the routine runs.
            clear_scratch(slot);
            (*header).cursor -= 1;
            // Whatever the driver below had prepared is no business of this one's.
            (*header).flags.clear(flags::NEXT_READY);
            // I-23: the status selects, or the cancel mark (not the status) does.
            let success = (*header).result.status.is_success();
            let wanted = if success { control::SUCCESS } else { control::ERROR };
            let cancelled = (*header).flags.has(flags::CANCEL) && on & control::CANCEL != 0;
            if on & wanted == 0 && !cancelled {
                continue;
            }
            let above = (*header).result.status == Status::DATA_ABOVE;
            match run_routine(slot) {
                Next::Up => {}
                Next::Stop => return false,
                // A request that is to end would come back at once, and so for ever.
                Next::Again if (*header).flags.has(flags::CANCEL) => {
                    (*header).flags.clear(flags::NEXT_READY);
                    (*header).result = IoStatus { status: Status::CANCELLED, info: 0 };
                }
                // It would find the bytes above again.
                Next::Again if above => {
                    (*header).flags.clear(flags::NEXT_READY);
                    (*header).result = IoStatus { status: Status::DATA_ABOVE, info: 0 };
                }
                Next::Again => {
                    (*header).flags.clear(flags::NEXT_READY);
                    (*header).cursor += 1;
                    if guarded(slot, || call(slot)) == Outcome::Pended {
                        return false;
                    }
                }
            }
        }
        clear_scratch(slot);
        if (*header).result.status == Status::DATA_ABOVE { fetch_above(slot) } else { true }
    }
}

/// The request is to get what is kept above its stack. `false`: nothing was any more, so that it went
/// down again, and pends.
#[cold]
unsafe fn fetch_above(slot: SlotPtr) -> bool {
    // SAFETY: the driver side is ours, at the top; the request counts on its file.
    unsafe {
        let header = slot.0.as_ptr();
        let file = (*header).file.expect("in flight").as_ref();
        if (*header).major == Major::Read && file.late().serve(slot) {
            return true;
        }
        if (*header).major != Major::Read || (*header).flags.has(flags::CANCEL) {
            (*header).result = IoStatus { status: Status::CANCELLED, info: 0 };
            return true;
        }
        (*header).result = IoStatus { status: Status::SUCCESS, info: 0 };
        (*slot.location(0)).level = 0;
        forget_lease(slot);
        guarded(slot, || call(slot)) == Outcome::Finished && unwind_to_top(slot)
    }
}

/// Drops what the driver of the current location kept there.
#[inline]
unsafe fn clear_scratch(slot: SlotPtr) {
    // SAFETY: the driver side is ours.
    unsafe {
        if (*slot.current()).scratch.is_empty() {
            return;
        }
        let scratch = mem::take(&mut (*slot.current()).scratch);
        if catch_unwind(AssertUnwindSafe(|| drop(scratch))).is_err() {
            slot.device().report_bug(PANICKED, true);
        }
    }
}

/// Runs the completion routine of the current location's driver.
unsafe fn run_routine(slot: SlotPtr) -> Next {
    // SAFETY: as `unwind_to_top`; after a panic the generation says whether the request exists.
    unsafe {
        let header = slot.0.as_ptr();
        let generation = (*header).generation;
        let device = slot.device();
        let run = AssertUnwindSafe(|| device.driver().completed(Unwinding::new(slot)).0);
        let next = catch_unwind(run);
        if next.is_err() {
            device.report_bug(PANICKED, true);
        }
        if !core(slot).is_live(slot, generation) || (*header).phase != Phase::Finished {
            // It has reclaimed the request: whoever holds it goes on, or has gone on.
            return Next::Stop;
        }
        match next {
            // Not the word of a completion that the driver got for another request.
            Ok(Next::Again) if (*header).flags.has(flags::NEXT_READY) => Next::Again,
            Ok(_) => Next::Up,
            Err(_) => {
                (*header).result = IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
                Next::Up
            }
        }
    }
}

/// A held request goes on: here, or by mail on its owner's thread.
pub(crate) unsafe fn resume(slot: SlotPtr, how: Resume) {
    // SAFETY: the holder passes its ownership of the driver side on.
    unsafe {
        (*slot.0.as_ptr()).resume = how;
        let core = core(slot);
        if core.is_current() {
            resume_here(slot);
        } else if (*slot.0.as_ptr()).state.finish_remote() {
            mail(slot);
        }
    }
}

/// Mails the slot to its owner. `false`: the owner is gone.
unsafe fn mail(slot: SlotPtr) -> bool {
    // SAFETY: whoever set the `MAIL` bit keeps the slot, and with it the core, until it is pushed.
    // From then on the owner may free both before `push` has returned; so the mailbox is held.
    unsafe {
        let remote = core(slot).remote().clone();
        remote.push(slot)
    }
}

/// The owner's half of [`resume`].
pub(crate) unsafe fn resume_here(slot: SlotPtr) {
    // SAFETY: as `resume`, on the owner's thread.
    unsafe {
        let _frame = core(slot).frame();
        let outcome = match mem::replace(&mut (*slot.0.as_ptr()).resume, Resume::Complete) {
            Resume::Complete => {
                (*slot.0.as_ptr()).phase = Phase::Finished;
                Outcome::Finished
            }
            Resume::Forward(on) => {
                forget_lease(slot);
                (*slot.0.as_ptr()).phase = Phase::Driver;
                guarded(slot, || forward(slot, on))
            }
            Resume::Dispatch => {
                forget_lease(slot);
                (*slot.0.as_ptr()).phase = Phase::Driver;
                guarded(slot, || call(slot))
            }
            Resume::Park(queue) => {
                crate::csq::park_here(slot, queue);
                Outcome::Pended
            }
        };
        if outcome == Outcome::Finished {
            unwind(slot);
        }
    }
}

/// Final completion. `inline`: the issuing call is still on the stack and tells its caller itself.
unsafe fn finalize(slot: SlotPtr, inline: bool) {
    // SAFETY: the driver side ends here; the requester's half is handed over by `state`.
    unsafe {
        let header = slot.0.as_ptr();
        let core = core(slot);
        (*header).phase = Phase::Final;
        if let Some(key) = (*header).timer.take() {
            core.cancel_deadline(key);
        }
        if (*header).flags.has(flags::TIMED_OUT) && (*header).result.status == Status::CANCELLED {
            (*header).result.status = Status::IO_TIMEOUT;
        }
        if (*header).result.status == Status::PENDING {
            slot.device().report_bug("a request was completed as pending", false);
            (*header).result = IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
        }
        clamp_information(slot);
        core.count((*header).major, (*header).result.status);
        if inline {
            (*header).state.complete_inline();
            if (*header).flags.has(flags::SETTLE) {
                settle(slot);
            }
            return;
        }
        let completed = (*header).state.complete();
        if matches!(completed, Completed::Free | Completed::FreeByMail) {
            dispose(slot, false);
        }
        if (*header).flags.has(flags::SETTLE) {
            let generation = (*header).generation;
            settle(slot);
            if !core.is_live(slot, generation) {
                // Its requester has looked, found it done, and let go of it.
                return;
            }
        }
        match completed {
            Completed::Notify => notify(slot),
            Completed::Noticed | Completed::FreeByMail => {}
            Completed::Free => free(slot),
        }
    }
}

/// Tells the bottom that a request it asked this for has its final result, or is disposed of.
unsafe fn settle(slot: SlotPtr) {
    // SAFETY: not freed and not counted off its file before the caller goes on.
    unsafe {
        if let (Some(file), Some(stack)) = ((*slot.0.as_ptr()).file, (*slot.0.as_ptr()).stack) {
            let bottom = stack.as_ref().bottom();
            let run = AssertUnwindSafe(|| bottom.driver().settled(file.as_ref()));
            if catch_unwind(run).is_err() {
                bottom.report_bug(PANICKED, true);
            }
        }
    }
}

/// Disposes of a result that nobody takes.
///
/// `unread`: it was there before the requester left.
unsafe fn dispose(slot: SlotPtr, unread: bool) {
    // SAFETY: the slot is `DONE` and the caller is, or stands for, its requester; the request still
    // counts on its file.
    unsafe {
        let header = slot.0.as_ptr();
        let status = (*header).result.status;
        let ended_early = matches!(status, Status::CANCELLED | Status::IO_TIMEOUT);
        if (*header).flags.has(flags::TAKEN) || ended_early {
            return;
        }
        if let (Some(file), Some(stack)) = ((*header).file, (*header).stack) {
            let late = Late { slot, unread, scope: PhantomData };
            let bottom = stack.as_ref().bottom();
            let run = AssertUnwindSafe(|| bottom.driver().abandoned(file.as_ref(), late));
            if catch_unwind(run).is_err() {
                bottom.report_bug(PANICKED, true);
            }
        }
    }
}

/// I-29, V-19: more bytes reported than asked for, or than were filled, is a driver bug, cut here.
#[inline]
unsafe fn clamp_information(slot: SlotPtr) {
    // SAFETY: as `finalize`.
    unsafe {
        let header = slot.0.as_ptr();
        let top = slot.location(0);
        let most = match (*header).major {
            Major::Read | Major::Write if (*header).result.info == 0 => return,
            Major::Read if (*top).minor != minor::POOLED => {
                let filled = (*header).filled as usize;
                if (*top).minor == minor::VECTORED {
                    filled
                } else {
                    filled.min((*top).len as usize)
                }
            }
            Major::Write if (*top).minor == minor::VECTORED => View::of(&slot).len(),
            Major::Read | Major::Write => (*top).len as usize,
            _ => return,
        };
        if (*header).result.info > most {
            if !(*header).result.status.is_error() {
                slot.device().report_bug("more bytes were reported than there are", false);
                if most == 0 {
                    // Cut to nothing it would look like the end of the file.
                    (*header).result.status = Status::DRIVER_INTERNAL_ERROR;
                }
            }
            (*header).result.info = most;
        }
    }
}

/// Tells the requester of a pended request.
unsafe fn notify(slot: SlotPtr) {
    // SAFETY: the slot is `DONE` and its requester has not left; only this thread frees it, so it
    // stays valid throughout.
    unsafe {
        let header = slot.0.as_ptr();
        match mem::replace(&mut (*header).route, Route::None) {
            Route::Future(Some(waker)) => {
                // A waker is foreign code.
                if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                    tracing::error!("a waker panicked");
                }
            }
            Route::Port(port, key) => {
                leave_file(slot);
                (*header).route = Route::Packet(key);
                port.insert_packet(slot);
            }
            Route::Parent(parent) => child::child_done(parent, slot),
            Route::Future(None) | Route::None | Route::Wait | Route::Packet(_) => {}
        }
    }
}

/// asks for an early end. Owner's thread. Returns whether there was anything to ask for.
pub(crate) unsafe fn cancel(slot: SlotPtr) -> bool {
    // SAFETY: the slot is in use and ours to look at; nothing is taken from its holder.
    unsafe {
        let header = slot.0.as_ptr();
        if (*header).phase == Phase::Final || (*header).flags.has(flags::CANCEL) {
            return false;
        }
        (*header).flags.set(flags::CANCEL);
        if let Some(file) = (*header).file
            && (*header).flags.has(flags::LOCAL_USE)
        {
            crate::file::note_asked(file);
        }
        if (*header).children > 0 {
            // It waits for its children, and may be gone when the last of them is.
            child::cancel_children(slot);
            return true;
        }
        match (*header).phase {
            Phase::Hardware => core(slot).cancel_hardware(token(slot)),
            Phase::Held => {
                if let Some(parking) = (*header).parking.clone() {
                    parking.cancel(slot);
                }
            }
            Phase::Driver | Phase::Finished | Phase::Final => {}
        }
        true
    }
}

/// Asks the hardware for a request back, without marking it as cancelled. Owner's thread.
pub(crate) unsafe fn interrupt(slot: SlotPtr) {
    // SAFETY: the slot is in use and ours to look at; nothing is taken from its holder.
    unsafe {
        if (*slot.0.as_ptr()).phase == Phase::Hardware {
            core(slot).cancel_hardware(token(slot));
        }
    }
}

/// The requester lets go. Drops what it did not take, asks for an early end of what is in flight.
pub(crate) unsafe fn release(slot: SlotPtr) {
    // SAFETY: the requester's reference ends here.
    unsafe {
        let state = &(*slot.0.as_ptr()).state;
        let core = core(slot);
        if core.is_current() {
            let _busy = core.busy();
            if state.release_local() {
                dispose(slot, true);
                free(slot);
            } else {
                cancel(slot);
            }
        } else if state.release_remote(|| dispose(slot, true)) && !mail(slot) && state.is_done() {
            Core::free_orphan(slot);
        }
        // Otherwise its owner frees it; or its owner was torn down without it, and the hardware may
        // still write to its buffer: it leaks.
    }
}

/// Lets go of a request that nobody waits for, without asking for an early end.
pub(crate) unsafe fn forget(slot: SlotPtr) {
    // SAFETY: the requester's reference ends here, on the owner's thread.
    unsafe {
        if (*slot.0.as_ptr()).state.release_local() {
            dispose(slot, true);
            free(slot);
        }
    }
}

/// Mail for a slot, read by its owner.
pub(crate) unsafe fn read_mail(slot: SlotPtr) {
    // SAFETY: mail keeps the slot alive until here.
    unsafe {
        let mail = (*slot.0.as_ptr()).state.take_mail();
        if mail.finish {
            let generation = (*slot.0.as_ptr()).generation;
            resume_here(slot);
            // If it completed, the state word saw the requester's departure and freed the slot.
            if !mail.parting || !core(slot).is_live(slot, generation) {
                return;
            }
            if !(*slot.0.as_ptr()).state.is_done() {
                cancel(slot);
            }
        } else if mail.parting {
            if mail.done { free(slot) } else { _ = cancel(slot) }
        }
    }
}

/// Counts the request off its file.
pub(crate) unsafe fn leave_file(slot: SlotPtr) {
    // SAFETY: owner's thread; the file is counted until here.
    unsafe {
        let header = slot.0.as_ptr();
        (*header).stack = None;
        if let Some(file) = (*header).file.take() {
            let local = (*header).flags.has(flags::LOCAL_USE) && core(slot).counts_locally.get();
            crate::file::leave(file, local, (*header).flags.has(flags::CANCEL));
        }
    }
}

/// Frees a slot that is `DONE` and has no requester; what it still carries is dropped.
unsafe fn free(slot: SlotPtr) {
    // SAFETY: both sides are finished, on the owner's thread.
    unsafe {
        let header = slot.0.as_ptr();
        let payload = mem::take(&mut (*header).payload);
        let route = mem::replace(&mut (*header).route, Route::None);
        (*header).parking = None;
        leave_file(slot);
        core(slot).free_slot(slot);
        // Last, because dropping them may run code of the user's, which may panic.
        if !payload.is_empty() && catch_unwind(AssertUnwindSafe(|| drop(payload))).is_err() {
            tracing::error!("a buffer or result panicked while it was dropped");
        }
        if !matches!(route, Route::None) && catch_unwind(AssertUnwindSafe(|| drop(route))).is_err()
        {
            tracing::error!("a waker panicked while it was dropped");
        }
    }
}
