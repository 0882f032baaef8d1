//! The loop that moves a request: down from driver to driver, and up through their completion routines
//! (I-22 to I-24).
//!
//! ```text
//!   issue, resume ──▶ DOWN ──▶ dispatch ──┬─ passed on ──▶ DOWN, one further
//!                                         ├─ completed ──▶ FINISHED ──▶ routine … routine ──▶ top
//!                                         └─ kept, with the hardware: the loop ends, the request pends
//!   unwind, hardware ─▶ FINISHED ─────────────────────────────▶ ▲      │ retry: DOWN
//! ```
//!
//! A driver that passes a request on only says so ([`super::dispatch`]): the driver below is called when
//! its own dispatch has returned, or has another request move ([`let_go`]). So calls do not nest, however
//! deep the stack (Z-13); "pending" is a fact instead of a flag (a request pends exactly if it is neither
//! passed on nor finished when dispatch returns, I-14 to I-18); completion routines run on the issuer's
//! frame when a request is finished at once (I-27); a routine can retry without recursion; and the loop
//! knows whose code a panic has left.
//!
//! **Invariant.** All functions here run on the thread of the processor that owns the slot, except
//! [`resume`], which checks and sends mail. A request that is `Down` is its loop's, and nobody else moves
//! it, but for [`let_go`]. The loop may see a slot that has been freed by what it called, and even used
//! again: but not `Down` or `Finished`, which a request is only while a loop that has it is further up the
//! stack.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ptr::NonNull;

use super::dispatch::{clear_scratch, core, forget_lease, forward, note_result};
use super::finish::finalize;
use super::held::Resume;
use super::slot::{IoStatus, Phase, SlotPtr, control, flags};
use super::token::{Irp, Lower, Next, Unwinding};
use crate::hal;
use crate::panics::caught;
use crate::processor::Core;
use crate::serial::Turn;
use crate::stack::Device;
use crate::status::Status;

pub(super) const PANICKED: &str = "a driver panicked";

/// One run of the loop.
struct Travel<'a> {
    slot: SlotPtr,
    core: &'a Core,
    generation: u32,
    /// Whose code runs, or ran last.
    device: Cell<Option<NonNull<Device>>>,
    /// On the way up: the driver that finished it has been counted.
    up: Cell<bool>,
}

/// How a way up ends.
#[derive(PartialEq, Eq)]
enum Up {
    /// It is at the top.
    Top,
    /// A routine has kept it.
    Kept,
    /// A routine has sent it down again.
    Down,
}

impl<'a> Travel<'a> {
    /// # Safety
    /// As [`travel`].
    #[inline]
    unsafe fn new(slot: SlotPtr) -> Travel<'a> {
        // SAFETY: the caller's; slots stay readable as long as their core lives, even while free.
        let (core, generation) = unsafe { (core(slot), (*slot.0.as_ptr()).generation) };
        Travel { slot, core, generation, device: Cell::new(None), up: Cell::new(false) }
    }
}

/// Moves a request as far as it goes by itself, once `begin` has called a driver, if one is to be called
/// beside its way down and up. `true`: it is complete, at the top.
///
/// # Safety
/// The driver side is the caller's, on the thread of the slot's processor. A caller's frame, `Core::frame` or
/// turn keeps the file, and so the drivers.
#[inline]
unsafe fn travel(slot: SlotPtr, begin: impl FnOnce(&Travel<'_>)) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let travel = Travel::new(slot);
        let core = travel.core;
        let_go(core);
        let outer = core.travels.replace(Some(slot));
        let mut gone = caught(|| {
            begin(&travel);
            travel.go()
        });
        while gone.is_none() && travel.goes_on_after_panic() {
            gone = caught(|| travel.go());
        }
        core.travels.set(outer);
        gone.unwrap_or(false)
    }
}

/// A driver that has passed a request on does more before it returns: has another one move, or a turn done.
/// Those below get the first one now, so that it is not overtaken.
///
/// # Safety
/// On the processor's thread, which is busy.
#[inline]
pub(crate) unsafe fn let_go(core: &Core) {
    /// # Safety
    /// The request is `Down`; its own loop is further up the stack, and goes on with what is left.
    #[cold]
    unsafe fn descend(slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe {
            let travel = Travel::new(slot);
            while caught(|| travel.descend()).is_none() && travel.goes_on_after_panic() {}
        }
    }
    if let Some(slot) = core.travels.get() {
        // SAFETY: slots stay readable as long as their core lives; see the module's header.
        unsafe {
            if (*slot.0.as_ptr()).phase == Phase::Down {
                descend(slot);
            }
        }
    }
}

impl Travel<'_> {
    /// # Safety
    /// As [`travel`].
    #[inline]
    unsafe fn go(&self) -> bool {
        // SAFETY: the caller's; that a phase is the request's still, see the module's header. A
        // disposition says nothing by itself: a driver may return one that it got for another request.
        unsafe {
            let slot = self.slot;
            let header = slot.0.as_ptr();
            loop {
                if !self.up.get() {
                    self.descend();
                    if (*header).phase != Phase::Finished {
                        return false;
                    }
                    let status = (*header).result.status;
                    self.core.driver_counts().finished(slot.device().number(), status);
                    self.up.set(true);
                }
                match self.rise() {
                    Up::Top => return true,
                    Up::Kept => return false,
                    Up::Down => self.up.set(false),
                }
            }
        }
    }

    /// Calls driver after driver, as each passes the request on.
    ///
    /// # Safety
    /// As [`travel`].
    #[inline]
    unsafe fn descend(&self) {
        // SAFETY: the driver side is ours while the request is `Down`, and goes to the driver.
        unsafe {
            let is_down = || (*self.slot.0.as_ptr()).phase == Phase::Down;
            while is_down() {
                let device = self.called();
                self.core.driver_counts().saw(device.number());
                self.dispatch(device);
            }
        }
    }

    /// # Safety
    /// As [`travel`]; the device is what [`Travel::called`] has said.
    #[inline]
    unsafe fn dispatch(&self, device: &Device) {
        // SAFETY: the driver side is ours, and goes to the driver.
        _ = device.driver().dispatch(unsafe { Irp::new(self.slot) }, Lower { scope: PhantomData });
    }

    /// The device of the current location, whose code is about to run.
    #[inline]
    unsafe fn called(&self) -> &Device {
        // SAFETY: the driver side is ours.
        let device = unsafe { self.slot.device() };
        self.device.set(Some(NonNull::from(device)));
        device
    }

    /// Completes a finished request as far up as its drivers let it.
    #[inline]
    unsafe fn rise(&self) -> Up {
        // SAFETY: the driver side is ours; locations up to the cursor are initialised.
        unsafe {
            let slot = self.slot;
            let header = slot.0.as_ptr();
            while (*header).cursor > 0 {
                let on = (*slot.current()).control;
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
                let next = self.called().driver().completed(Unwinding::new(slot)).0;
                if !self.core.is_live(slot, self.generation) || (*header).phase != Phase::Finished {
                    // It has reclaimed the request: whoever holds it goes on, or has gone on.
                    return Up::Kept;
                }
                // Not the word of a completion that the driver got for another request.
                if next != Next::Again || !(*header).flags.has(flags::NEXT_READY) {
                    continue;
                }
                (*header).flags.clear(flags::NEXT_READY);
                if (*header).flags.has(flags::CANCEL) {
                    // It would come back at once, and so for ever.
                    (*header).result = IoStatus { status: Status::CANCELLED, info: 0 };
                } else if above {
                    // It would find the bytes above again.
                    (*header).result = IoStatus { status: Status::DATA_ABOVE, info: 0 };
                } else {
                    (*header).cursor += 1;
                    (*header).phase = Phase::Down;
                    return Up::Down;
                }
            }
            clear_scratch(slot);
            // A driver's own request is not at the top: its driver is to go up.
            let above = (*header).result.status == Status::DATA_ABOVE;
            if !above || (*header).flags.has(flags::BELOW) || fetch_above(slot) {
                Up::Top
            } else {
                Up::Down
            }
        }
    }

    /// A driver has panicked, which is reported. `false`: the request is not the loop's any more.
    #[cold]
    unsafe fn goes_on_after_panic(&self) -> bool {
        // SAFETY: see `travel`: the device is alive. The generation says whether the request is.
        unsafe {
            if let Some(device) = self.device.get() {
                device.as_ref().report_bug(PANICKED, true);
            }
            if !self.core.is_live(self.slot, self.generation) {
                // The driver passed it on before it panicked, and it has completed since.
                return false;
            }
            let header = self.slot.0.as_ptr();
            match (*header).phase {
                // It was passed on before the panic: whoever has it finishes it.
                Phase::Hardware | Phase::Held | Phase::Final => false,
                Phase::Down => true,
                Phase::Finished if !self.up.get() => true,
                Phase::Finished | Phase::Driver => {
                    (*header).result = IoStatus { status: Status::DRIVER_INTERNAL_ERROR, info: 0 };
                    (*header).phase = Phase::Finished;
                    true
                }
            }
        }
    }
}

/// Starts a prepared request at its top location. `true`: it is already complete (I-27), and its
/// route was not told.
#[inline]
pub(crate) unsafe fn issue(slot: SlotPtr) -> bool {
    // SAFETY: the caller made the slot and owns both sides of it. While dispatch runs, the
    // requester's reference keeps it alive.
    unsafe {
        (*slot.0.as_ptr()).phase = Phase::Down;
        let complete = travel(slot, |_| {});
        if complete {
            finalize(slot, true);
        }
        complete
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
        go_on(slot, |travel| {
            _ = travel.called().driver().hardware(Irp::new(slot), done);
        });
    }
}

/// A pended request goes on as its phase says: up, when it is finished.
pub(crate) unsafe fn unwind(slot: SlotPtr) {
    // SAFETY: the driver side is ours.
    unsafe { go_on(slot, |_| {}) };
}

/// A request that pended goes on.
///
/// # Safety
/// As [`travel`].
#[inline]
unsafe fn go_on(slot: SlotPtr, begin: impl FnOnce(&Travel<'_>)) {
    // SAFETY: the caller's.
    unsafe {
        if travel(slot, begin) {
            finalize(slot, false);
        }
    }
}

/// The request is to get what is kept above its stack. `false`: nothing was any more, so that it goes
/// down again.
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
        (*header).phase = Phase::Down;
        false
    }
}

/// A held request goes on: here, or by mail on its owner's thread.
pub(crate) unsafe fn resume(slot: SlotPtr, how: Resume) {
    // SAFETY: the holder passes its ownership of the driver side on.
    unsafe {
        let core = core(slot);
        if core.is_current() {
            (*slot.0.as_ptr()).resume = how;
            let _busy = core.busy();
            resume_here(slot);
        } else {
            resume_later(slot, how);
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
        go_on(slot, |travel| travel.dispatch(travel.called()));
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
        let header = slot.0.as_ptr();
        match mem::replace(&mut (*header).resume, Resume::Complete) {
            Resume::Complete => (*header).phase = Phase::Finished,
            Resume::Forward(on) => {
                forget_lease(slot);
                _ = forward(slot, on);
            }
            Resume::Dispatch => {
                forget_lease(slot);
                return go_on_here(slot);
            }
            Resume::Turn => {
                let file = (*header).file.expect("in flight").as_ref();
                match file.serial().expect("parked there").begin(slot) {
                    Turn::Answered => {}
                    Turn::Now | Turn::Later => (*header).phase = Phase::Down,
                }
            }
            Resume::Park(queue) => return crate::csq::park_here(slot, queue),
            Resume::Parked(_) => unreachable!("whoever takes it out says what is to be done"),
        }
        unwind(slot);
    }
}
