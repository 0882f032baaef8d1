//! The way of a request: down ([`issue`], [`skip`], [`forward`]), to the hardware and back
//! ([`to_hardware`], [`hardware_done`]), and up ([`unwind`], I-22 to I-24). How it ends is in
//! [`super::finish`].
//!
//! **When unwinding happens.** A driver that completes inside dispatch only marks the IRP; the
//! completion routines run when the chain of dispatch calls has returned to [`issue`], on the same
//! stack frame (I-27). This bounds the stack, makes "pending" a fact instead of a flag (a request
//! pends exactly if dispatch returned before it was finished, I-14 to I-18), and lets a routine
//! retry without recursion. The order among the routines is NT's.
//!
//! **Invariant.** All functions here run on the thread of the processor that owns the slot, except
//! [`resume`], which checks and sends mail. Each takes the driver side of the slot
//! over from its caller and leaves it with a token, the hardware, or nobody (`Phase::Final`).

use std::marker::PhantomData;
use std::mem;

use super::finish::finalize;
use super::held::Resume;
use super::slot::{IoStatus, Phase, SlotPtr, control, flags};
use super::token::{Disposition, Irp, Lower, Next, Outcome, Unwinding};
use crate::hal::{self, Op, Token};
use crate::major::{Major, minor};
use crate::panics::caught;
use crate::processor::Core;
use crate::serial::Turn;
use crate::stack::Device;
use crate::status::Status;

pub(super) const PANICKED: &str = "a driver panicked";

pub(super) fn token(slot: SlotPtr) -> Token {
    Token::new(slot.0.as_ptr() as u64)
}

pub(super) unsafe fn core<'a>(slot: SlotPtr) -> &'a Core {
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

/// Calls the driver of the current location with a request that comes down to it.
#[inline]
unsafe fn visit(slot: SlotPtr) -> Disposition {
    // SAFETY: as `call`.
    unsafe {
        core(slot).driver_counts().saw(slot.device().number());
        call(slot)
    }
}

/// Counts a completion of the current location's driver.
#[inline]
unsafe fn count_finished(slot: SlotPtr) {
    // SAFETY: the driver side is ours.
    unsafe {
        let status = (*slot.0.as_ptr()).result.status;
        core(slot).driver_counts().finished(slot.device().number(), status);
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
    match caught(run) {
        // A disposition says nothing by itself: a driver may return one that it got for another
        // request. If this one was completed and freed meanwhile, its phase is not `Finished`.
        // SAFETY: as above.
        Some(_) if unsafe { (*slot.0.as_ptr()).phase } == Phase::Finished => Outcome::Finished,
        Some(_) => Outcome::Pended,
        // SAFETY: as above; the generation says whether the request still exists.
        None => unsafe { after_panic(slot, before) },
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
        match guarded(slot, || visit(slot)) {
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
    // SAFETY: the caller owns the driver side.
    unsafe {
        if !(*slot.0.as_ptr()).flags.has(flags::NEXT_READY) {
            (*slot.0.as_ptr()).flags.set(flags::NEXT_READY);
            // What was lent for an earlier pass, perhaps by a driver that skipped since, is back.
            (*slot.current()).control &= !control::LENT;
            copy_to_next(slot);
        }
    }
}

/// # Safety
/// The caller owns the driver side.
#[inline]
unsafe fn copy_to_next(slot: SlotPtr) {
    // SAFETY: the caller's; the slab keeps one location more than the depth. What is overwritten is
    // no value: who unwinds leaves the scratch empty.
    unsafe {
        let current = slot.current();
        current.add(1).write((*current).copy_for_next((*current).level + 1));
    }
}

/// A pooled receive that goes down again gets another buffer: lets go of the one it has.
pub(crate) unsafe fn forget_lease(slot: SlotPtr) {
    // SAFETY: the caller owns the driver side; locations up to the cursor are initialised, and the next
    // one is if it has been prepared.
    unsafe {
        let header = slot.0.as_ptr();
        if (*slot.location(0)).minor != minor::POOLED || (*slot.location(0)).data.is_null() {
            return;
        }
        let prepared = u8::from((*header).flags.has(flags::NEXT_READY));
        for i in 0..=(*header).cursor + prepared {
            let location = slot.location(i);
            if (*location).minor != minor::POOLED {
                // The next driver's, which has been lent memory.
                continue;
            }
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
        // The driver below is not to take what this one has kept for its own.
        clear_scratch(slot);
        (*slot.current()).level += 1;
        visit(slot)
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
        let header = slot.0.as_ptr();
        if (*header).flags.has(flags::NEXT_READY) {
            (*header).flags.clear(flags::NEXT_READY);
        } else {
            copy_to_next(slot);
        }
        (*header).cursor += 1;
        (*slot.current()).control = on;
        visit(slot)
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
        (*header).fills = (*header).major.receives() && !matches!(op, Op::Poll { .. });
        (*header).phase = Phase::Hardware;
        match core(slot).submit(token(slot), op) {
            None => Disposition(()),
            Some(result) => {
                let done = hal::Completion { token: token(slot), result, lease: None };
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
        if (*slot.0.as_ptr()).fills && done.result > 0 {
            slot.note_filled(done.result as usize);
        }
    }
}

/// The hardware reports.
pub(crate) unsafe fn hardware_done(slot: SlotPtr, mut done: hal::Completion) {
    // SAFETY: the token names a slot whose driver side the hardware had, and gives back.
    unsafe {
        if (*slot.0.as_ptr()).flags.has(flags::BEQUEATHED) {
            crate::processor::bequest::translate(slot, &mut done);
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
        count_finished(slot);
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
                    if guarded(slot, || visit(slot)) == Outcome::Pended {
                        return false;
                    }
                    count_finished(slot);
                }
            }
        }
        clear_scratch(slot);
        // A driver's own request is not at the top: its driver is to go up.
        let above = (*header).result.status == Status::DATA_ABOVE;
        if above && !(*header).flags.has(flags::BELOW) { fetch_above(slot) } else { true }
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
        if (*header).major.receives() && file.late().serve(slot) {
            return true;
        }
        if !(*header).major.receives() || (*header).flags.has(flags::CANCEL) {
            (*header).result = IoStatus { status: Status::CANCELLED, info: 0 };
            return true;
        }
        (*header).result = IoStatus { status: Status::SUCCESS, info: 0 };
        (*slot.location(0)).level = (*slot.location(0)).base;
        forget_lease(slot);
        guarded(slot, || visit(slot)) == Outcome::Finished && unwind_to_top(slot)
    }
}

/// Drops what the driver of the current location kept there.
#[inline]
unsafe fn clear_scratch(slot: SlotPtr) {
    // SAFETY: the driver side is ours.
    unsafe {
        let scratch = &raw mut (*slot.current()).scratch;
        if (*scratch).is_empty() {
            return;
        }
        // Foreign code, which has no way to the location.
        if caught(|| (*scratch).clear()).is_none() {
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
        let next = caught(|| device.driver().completed(Unwinding::new(slot)).0);
        if next.is_none() {
            device.report_bug(PANICKED, true);
        }
        if !core(slot).is_live(slot, generation) || (*header).phase != Phase::Finished {
            // It has reclaimed the request: whoever holds it goes on, or has gone on.
            return Next::Stop;
        }
        match next {
            // Not the word of a completion that the driver got for another request.
            Some(Next::Again) if (*header).flags.has(flags::NEXT_READY) => Next::Again,
            Some(_) => Next::Up,
            None => {
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
            let _busy = core.busy();
            resume_here(slot);
        } else if (*slot.0.as_ptr()).state.finish_remote() {
            mail(slot);
        }
    }
}

/// A request that its driver has kept goes on with the same driver, here.
///
/// # Safety
/// On the owner's thread; the driver side is the caller's.
pub(crate) unsafe fn go_on_here(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        let _frame = core(slot).frame();
        (*slot.0.as_ptr()).phase = Phase::Driver;
        if guarded(slot, || call(slot)) == Outcome::Finished {
            unwind(slot);
        }
    }
}

/// A held request goes on in its owner's next turn.
pub(crate) unsafe fn resume_later(slot: SlotPtr, how: Resume) {
    // SAFETY: the holder passes its ownership of the driver side on.
    unsafe {
        (*slot.0.as_ptr()).resume = how;
        if (*slot.0.as_ptr()).state.finish_remote() {
            mail(slot);
        }
    }
}

/// Mails the slot to its owner. `false`: the owner is gone.
pub(super) unsafe fn mail(slot: SlotPtr) -> bool {
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
            Resume::Turn => {
                (*slot.0.as_ptr()).phase = Phase::Driver;
                let file = (*slot.0.as_ptr()).file.expect("in flight").as_ref();
                match file.serial().expect("parked there").begin(slot) {
                    Turn::Answered => Outcome::Finished,
                    Turn::Now | Turn::Later => guarded(slot, || visit(slot)),
                }
            }
            Resume::Park(queue) => {
                crate::csq::park_here(slot, queue);
                Outcome::Pended
            }
            Resume::Parked(_) => unreachable!("whoever takes it out says what is to be done"),
        };
        if outcome == Outcome::Finished {
            unwind(slot);
        }
    }
}
