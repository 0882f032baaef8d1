//! The end of a request: final completion ([`finalize`], I-27 to I-34), asking for it early
//! ([`cancel`], X-1), and the requester's departure ([`release`]).
//!
//! **Invariant.** As in [`super::dispatch`]: all runs on the owner's thread, except [`release`], which
//! checks and sends mail. After [`finalize`] the driver side is nobody's; who finds both sides
//! finished frees the slot ([`super::state`]).

use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

use super::child;
use super::dispatch::{core, token};
use super::slot::{IoStatus, Phase, Route, SlotPtr, flags};
use super::state::Completed;
use super::token::Late;
use super::travel::{PANICKED, mail, resume_here};
use super::view::View;
use crate::file::FileObject;
use crate::major::minor;
use crate::panics::{caught, log};
use crate::processor::{Core, Settle};
use crate::scope;
use crate::status::Status;
use crate::wake;

/// Final completion. `inline`: the issuing call is still on the stack and tells its caller itself.
#[inline]
pub(super) unsafe fn finalize(slot: SlotPtr, inline: bool) {
    // SAFETY: the driver side ends here; the requester's half is handed over by `state`.
    unsafe {
        let header = slot.0.as_ptr();
        (*header).phase = Phase::Final;
        clamp_information(slot);
        if (*header).flags.has(flags::ENDS_SPECIALLY) {
            return finalize_specially(slot, inline);
        }
        core(slot).count((*header).major, (*header).result.status);
        if inline {
            (*header).state.complete_inline();
            if (*header).flags.has(flags::SETTLE) {
                settle(slot);
            }
            return;
        }
        let completed = complete(slot);
        if matches!(completed, Completed::Free | Completed::FreeByMail) {
            dispose(slot);
        }
        settle_and_tell(slot, completed);
    }
}

/// Says that the result is there. A slot that its mail is to free is kept until [`settle_and_tell`]: what
/// runs meanwhile may have the mail read.
///
/// # Safety
/// As `finalize`.
#[inline]
unsafe fn complete(slot: SlotPtr) -> Completed {
    // SAFETY: the caller's.
    unsafe {
        let completed = (*slot.0.as_ptr()).state.complete();
        if completed == Completed::FreeByMail {
            (*slot.0.as_ptr()).flags.set(flags::AWAITS_MAIL);
        }
        completed
    }
}

/// Final completion of a request that more depends on than its requester.
#[inline(never)]
unsafe fn finalize_specially(slot: SlotPtr, inline: bool) {
    // SAFETY: as `finalize`.
    unsafe {
        let header = slot.0.as_ptr();
        let core = core(slot);
        if let Some(key) = (*header).timer.take() {
            core.cancel_deadline(key);
        }
        if (*header).flags.has(flags::TIMED_OUT) && (*header).result.status == Status::CANCELLED {
            (*header).result.status = Status::IO_TIMEOUT;
        }
        if (*header).flags.has(flags::SCOPED) {
            scope::left(slot);
        }
        if (*header).flags.has(flags::SERIAL)
            && let Some(file) = (*header).file
            && let Some(serial) = file.as_ref().serial()
        {
            serial.leave(slot);
        }
        let hooked = if (*header).flags.has(flags::HOOKED) { core.take_hook(slot) } else { None };
        core.count((*header).major, (*header).result.status);
        if (*header).flags.has(flags::DRAINS) {
            core.done_on_stack(slot);
        }
        if inline {
            (*header).state.complete_inline();
            // I-31: of an immediate error the issuing call's return is all that tells.
            if (*header).flags.has(flags::SIGNAL) && !(*header).result.status.is_error() {
                signal(slot);
            }
            if (*header).flags.has(flags::SETTLE) {
                settle(slot);
            }
            if let Some(driver) = hooked {
                tell_hooked(&driver);
            }
            return;
        }
        let completed = complete(slot);
        // After the status block, before packet or APC (I-28).
        if (*header).flags.has(flags::SIGNAL) {
            let generation = (*header).generation;
            let settles = (*header).file.filter(|_| (*header).flags.has(flags::SETTLE));
            let file = settles.map(|file| file.as_ref().handle());
            signal(slot);
            if !core.is_live(slot, generation) {
                // A waker, foreign code, has looked, found it done, and let go of it: from here on the
                // slot may be another request's.
                if let Some(file) = file {
                    settled(&file);
                }
                if let Some(driver) = hooked {
                    tell_hooked(&driver);
                }
                return;
            }
        }
        if matches!(completed, Completed::Free | Completed::FreeByMail) {
            dispose(slot);
        }
        if let Some(driver) = hooked {
            let generation = (*header).generation;
            tell_hooked(&driver);
            if !core.is_live(slot, generation) {
                // As below.
                return;
            }
        }
        settle_and_tell(slot, completed);
    }
}

/// The end of final completion: the bottom hears of it, and whoever is next.
///
/// # Safety
/// The slot is `DONE`, and not freed; what it was completed as says whose it is.
#[inline]
unsafe fn settle_and_tell(slot: SlotPtr, completed: Completed) {
    // SAFETY: the caller's.
    unsafe {
        if (*slot.0.as_ptr()).flags.has(flags::SETTLE) {
            let generation = (*slot.0.as_ptr()).generation;
            settle(slot);
            if !core(slot).is_live(slot, generation) {
                // Its requester has looked, found it done, and let go of it.
                return;
            }
        }
        match completed {
            Completed::Notify => notify(slot),
            Completed::Noticed => {}
            Completed::FreeByMail if (*slot.0.as_ptr()).flags.has(flags::AWAITS_MAIL) => {
                (*slot.0.as_ptr()).flags.clear(flags::AWAITS_MAIL);
            }
            Completed::Free | Completed::FreeByMail => free(slot),
        }
    }
}

/// Ends a prepared request that is not issued after all, inside the issuing call.
///
/// # Safety
/// The caller made the slot and owns both sides of it; it has been filled.
#[cold]
pub(crate) unsafe fn refuse(slot: SlotPtr, status: Status) {
    // SAFETY: the caller's.
    unsafe {
        (*slot.0.as_ptr()).result = IoStatus { status, info: 0 };
        finalize(slot, true);
    }
}

/// Ends a prepared request that the I/O manager has answered, inside the issuing call.
///
/// # Safety
/// As [`refuse`]; its result is there.
#[cold]
pub(crate) unsafe fn answer(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe { finalize(slot, true) };
}

/// Tells a filter that a request it asked this for has its final result, or is disposed of.
#[cold]
fn tell_hooked(driver: &Arc<dyn Settle>) {
    if caught(|| driver.settled()).is_none() {
        log(|| tracing::error!("a filter panicked when it was told that a request is settled"));
    }
}

/// Tells the bottom that a request it asked this for has its final result, or is disposed of.
unsafe fn settle(slot: SlotPtr) {
    // SAFETY: not freed and not counted off its file before the caller goes on.
    unsafe {
        if let Some(file) = (*slot.0.as_ptr()).file {
            settled(file.as_ref());
        }
    }
}

/// See [`settle`].
fn settled(file: &FileObject) {
    // SAFETY: on the thread of a processor that is busy.
    let bottom = unsafe { file.stack_here() }.bottom();
    if caught(|| bottom.driver().settled(file)).is_none() {
        bottom.report_bug(PANICKED, true);
    }
}

/// Disposes of a result that nobody takes.
#[inline]
unsafe fn dispose(slot: SlotPtr) {
    // SAFETY: the slot is `DONE` and the caller is, or stands for, its requester; the request still
    // counts on its file.
    unsafe {
        if !(*slot.0.as_ptr()).flags.has(flags::TAKEN) {
            dispose_of_result(slot);
        }
    }
}

#[cold]
unsafe fn dispose_of_result(slot: SlotPtr) {
    // SAFETY: as in `dispose`.
    unsafe {
        let header = slot.0.as_ptr();
        if matches!((*header).result.status, Status::CANCELLED | Status::IO_TIMEOUT) {
            return;
        }
        if (*header).flags.has(flags::BELOW) && (*header).major.receives() {
            // These bytes have not been through the drivers above: nobody at the top may get them.
            return;
        }
        if let Some(file) = (*header).file {
            let late = Late { slot, scope: PhantomData };
            // With a reference: on other threads nobody keeps the request's own, which may be changed.
            let stack = file.as_ref().stack();
            let bottom = stack.bottom();
            if caught(|| bottom.driver().abandoned(file.as_ref(), late)).is_none() {
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
            major if !major.receives() && !major.sends() => return,
            _ if (*header).result.info == 0 => return,
            major if major.receives() && (*top).minor != minor::POOLED => {
                let filled = (*header).filled as usize;
                if (*top).minor == minor::VECTORED {
                    filled
                } else {
                    filled.min((*top).len as usize)
                }
            }
            major if major.sends() && (*top).minor == minor::VECTORED => View::of(&slot).len(),
            _ => (*top).len as usize,
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
                wake::wake(waker);
            }
            Route::Port(port, key) => {
                leave_file(slot);
                (*header).route = Route::Packet(key, 0);
                port.insert(slot);
            }
            Route::Associated { value, admitted } => report(slot, value, admitted),
            Route::Apc(callback) => {
                leave_file(slot);
                let queue = callback.queue().clone();
                (*header).route = Route::Apc(callback);
                queue.insert(slot);
            }
            Route::Parent(parent) => child::child_done(parent, slot),
            Route::Future(None) | Route::None | Route::Wait | Route::Block | Route::Packet(..) => {}
        }
    }
}

/// C-12: to the port that the file is associated with now. Without one nobody hears of it.
///
/// # Safety
/// The slot is `DONE`, and the caller is, or stands for, its requester; on the owner's thread.
pub(crate) unsafe fn report(slot: SlotPtr, value: u64, admitted: bool) {
    // SAFETY: the caller's; the request counts on its file until `leave_file`.
    unsafe {
        let port = (*slot.0.as_ptr()).file.and_then(|file| file.as_ref().port());
        leave_file(slot);
        match port {
            Some((port, key)) => {
                if !admitted {
                    port.admit_late();
                }
                (*slot.0.as_ptr()).route = Route::Packet(key, value);
                port.insert(slot);
            }
            None => release(slot),
        }
    }
}

/// I-28: whom the request tells beside its route, which comes after this.
#[cold]
unsafe fn signal(slot: SlotPtr) {
    // SAFETY: owner's thread; the request counts on its file.
    unsafe {
        let header = slot.0.as_ptr();
        let file = (*header).file.map(|file| file.as_ref());
        match ((*header).tell.take(), file) {
            (Some(tell), file) => tell.tell(file, (*header).result),
            (None, Some(file)) => file.set_signal(),
            (None, None) => {}
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
        if (*header).cursor > 0 {
            crate::filter::tell_above(slot);
        }
        if (*header).children > 0 {
            // It waits for its children, and may be gone when the last of them is.
            child::cancel_children(slot);
            return true;
        }
        match (*header).phase {
            Phase::Hardware => core(slot).cancel_hardware(token(slot)),
            Phase::Held if (*header).flags.has(flags::WAITS) => crate::filter::tell(slot),
            Phase::Held => {
                if let Some(parking) = (*header).parking.clone() {
                    parking.cancel(slot);
                }
            }
            Phase::Driver | Phase::Down | Phase::Finished | Phase::Final => {}
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
                dispose(slot);
                free(slot);
            } else {
                cancel(slot);
            }
        } else if state.release_remote(|| dispose(slot)) && !mail(slot) && state.is_done() {
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
            dispose(slot);
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
            if !mail.done {
                cancel(slot);
            } else if (*slot.0.as_ptr()).flags.has(flags::AWAITS_MAIL) {
                // Its end is being told, further up the stack, and frees it.
                (*slot.0.as_ptr()).flags.clear(flags::AWAITS_MAIL);
            } else {
                free(slot);
            }
        }
    }
}

/// Counts the request off its file.
#[inline(always)]
pub(crate) unsafe fn leave_file(slot: SlotPtr) {
    // SAFETY: owner's thread; the file is counted until here.
    unsafe {
        let header = slot.0.as_ptr();
        if (*header).flags.has(flags::DRAINS) {
            core(slot).done_on_stack(slot);
        }
        (*header).stack = None;
        if let Some(file) = (*header).file.take() {
            let local = (*header).flags.has(flags::LOCAL_USE) && core(slot).counts_locally.get();
            if local {
                crate::file::leave_local(file, (*header).flags.has(flags::CANCEL));
            } else {
                core(slot).leave_foreign(file);
            }
        }
    }
}

/// Frees a slot that is `DONE` and has no requester; what it still carries is dropped.
///
/// # Safety
/// Both sides are finished, on the owner's thread.
#[inline]
pub(crate) unsafe fn free(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        let header = slot.0.as_ptr();
        let routed = !matches!((*header).route, Route::None | Route::Future(None));
        if (*header).flags.has(flags::CARRIES) || !(*header).payload.is_empty() || routed {
            return free_all(slot);
        }
        // Most have nothing left: their results have been taken, and nobody has waited.
        leave_file(slot);
        core(slot).free_slot(slot);
    }
}

/// # Safety
/// As [`free`].
#[inline(never)]
unsafe fn free_all(slot: SlotPtr) {
    // SAFETY: the caller's.
    unsafe {
        let header = slot.0.as_ptr();
        let payload = mem::take(&mut (*header).payload);
        let companion = slot.set_companion(None);
        let route = mem::replace(&mut (*header).route, Route::None);
        (*header).parking = None;
        (*header).tell = None;
        if (*header).flags.has(flags::SCOPED) {
            scope::reaped(slot);
        }
        leave_file(slot);
        core(slot).free_slot(slot);
        // Last, because dropping them may run code of the user's, which may panic.
        if !payload.is_empty() {
            discard(payload, "a buffer or result panicked while it was dropped");
        }
        if companion.is_some() {
            discard(companion, "a request's companion panicked while it was dropped");
        }
        if !matches!(route, Route::None | Route::Future(None)) {
            discard(route, "a waker panicked while it was dropped");
        }
    }
}

/// Drops what is somebody else's; `problem` is what to say if that panics.
fn discard<T: 'static>(what: T, problem: &str) {
    if let Some(what) = wake::to_drop(what)
        && caught(|| drop(what)).is_none()
    {
        log(|| tracing::error!("{problem}"));
    }
}
