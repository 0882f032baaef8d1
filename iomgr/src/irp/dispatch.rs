//! What becomes of a request in a driver's hands: passed on ([`skip`], [`forward`]) or handed to the
//! hardware ([`to_hardware`]). Each leaves word of it in the request's phase; `super::travel` reads that
//! when the driver has returned.
//!
//! **Invariant.** All functions here run on the thread of the processor that owns the slot. Each takes
//! the driver side of the slot over from its caller and leaves it to the loop, the hardware, or nobody.

use std::mem;

use super::slot::{IoStatus, Phase, SlotPtr, control, flags};
use super::token::{Disposition, Irp};
use super::travel::PANICKED;
use crate::hal::{self, Op, Token};
use crate::major::{Major, minor};
use crate::panics::caught;
use crate::processor::Core;
use crate::status::Status;

pub(super) fn token(slot: SlotPtr) -> Token {
    Token::new(slot.0.as_ptr() as u64)
}

pub(super) unsafe fn core<'a>(slot: SlotPtr) -> &'a Core {
    // SAFETY: a core outlives its slots (see `processor`).
    unsafe { (*slot.0.as_ptr()).core.as_ref() }
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
        let (header, own) = (slot.0.as_ptr(), slot.current());
        let prepared = (*header).flags.has(flags::NEXT_READY);
        if prepared || (*own).level + 1 >= (*header).depth || !(*own).scratch.is_empty() {
            return skip_and_clear(slot);
        }
        (*own).level += 1;
        (*header).phase = Phase::Down;
        Disposition(())
    }
}

/// I-9, for a driver that has left something.
#[cold]
#[inline(never)]
unsafe fn skip_and_clear(slot: SlotPtr) -> Disposition {
    // SAFETY: as `skip`.
    unsafe {
        if (*slot.0.as_ptr()).flags.has(flags::NEXT_READY) {
            // The driver changed the next location, and then chose not to watch it.
            return forward(slot, 0);
        }
        if !has_lower(slot) {
            return nothing_below(slot);
        }
        // The driver below is not to take what this one has kept for its own.
        clear_scratch(slot);
        (*slot.current()).level += 1;
        (*slot.0.as_ptr()).phase = Phase::Down;
        Disposition(())
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
        (*slot.current().add(1)).control = on;
        (*header).cursor += 1;
        (*header).phase = Phase::Down;
        Disposition(())
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
pub(super) unsafe fn note_result(slot: SlotPtr, done: &hal::Completion) {
    // SAFETY: the driver side is ours; the rest is the promise of `Irp::submit`.
    unsafe {
        if (*slot.0.as_ptr()).fills && done.result > 0 {
            slot.note_filled(done.result as usize);
        }
    }
}

/// Drops what the driver of the current location kept there.
#[inline]
pub(super) unsafe fn clear_scratch(slot: SlotPtr) {
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
