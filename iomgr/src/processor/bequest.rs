//! What outlives a plain thread: its requests that report to a port. The thread cancels the
//! others and waits for them, and leaves its processor to the keeper, which ends it when the last
//! request has ended.
//!
//! A ring's requests are tied to the thread that submitted them: once it is gone, the kernel gives some
//! of them back undone, at once or when it would go on with them. So what is with the hardware when the
//! thread ends is marked, and its driver submits it again, now as the keeper's.

use std::time::{Duration, Instant};

use super::busy::CURRENT;
use super::{Core, Processor, Remote};
use crate::hal::{self, Wait};
use crate::irp::slot::{Phase, Route, SlotPtr, flags};
use crate::major::Major;
use crate::panics::log;
use crate::request::Tell;

/// How long a thread that ends waits for the requests that it cancels.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thread that has a processor of its own ends.
pub(super) fn end_of_thread(processor: Processor) {
    let core = processor.core();
    // The keeper may be inside, and busy: nothing is looked at before it has left.
    let lock = Remote::enter(core.remote.clone());
    // A loop that has borrowed it has not given it back, and never will.
    if core.lent.get() == 0 && !core.is_busy() && core.leave_behind() {
        std::mem::forget(processor);
    } else {
        drop(processor);
    }
    drop(lock);
}

impl Core {
    /// Ends the requests that end with their thread. `true`: others are left, and the processor is the
    /// keeper's.
    fn leave_behind(&self) -> bool {
        let _busy = self.busy();
        // SAFETY: owner's thread; `cancel_where` and `any_live` ask for live slots.
        unsafe {
            if !self.any_live(|slot| survives(slot)) {
                return false;
            }
            self.cancel_where(|slot| ends(slot));
            let end = Instant::now() + PATIENCE;
            while self.any_live(|slot| ends(slot)) && Instant::now() < end {
                let news = || !self.any_live(|slot| ends(slot));
                if let Err(error) = self.turn(Wait::For(Duration::from_millis(50)), news) {
                    log(|| tracing::error!(%error, "the backend failed under a thread that ends"));
                    return false;
                }
            }
            if !self.any_live(|slot| survives(slot)) {
                return false;
            }
            for slot in self.live_slots() {
                if (*slot.0.as_ptr()).phase == Phase::Hardware {
                    (*slot.0.as_ptr()).flags.set(flags::BEQUEATHED);
                }
            }
        }
        self.bequeathed.set(true);
        self.asked.set(true);
        CURRENT.with(|current| current.set(std::ptr::null()));
        true
    }

    /// Has a processor end whose thread has, and whose requests have. For the keeper, which is inside;
    /// it ends as the keeper leaves.
    pub(super) fn end_bequest(&self) -> bool {
        let ends = self.bequeathed.get() && self.unfinished() == 0;
        if ends {
            self.stopping.set(true);
            self.doom(Duration::ZERO);
        }
        ends
    }

    fn any_live(&self, is: impl Fn(SlotPtr) -> bool) -> bool {
        self.live_slots().into_iter().any(is)
    }
}

/// it reports to a port, and has no event.
///
/// # Safety
/// Owner's thread; the slot is live.
unsafe fn survives(slot: SlotPtr) -> bool {
    // SAFETY: the caller's; a request counts on its file as long as the field is set, and a parent has
    // its slot as long as it has children.
    unsafe {
        let header = slot.0.as_ptr();
        if (*header).phase == Phase::Final || (*header).flags.has(flags::CANCEL) {
            return false;
        }
        let reports = match &(*header).route {
            Route::Port(..) => true,
            Route::Associated { .. } => {
                (*header).file.is_some_and(|file| file.as_ref().port().is_some())
            }
            Route::Parent(parent) => return survives(*parent),
            _ => false,
        };
        reports && !(*header).tell.as_ref().is_some_and(Tell::has_event)
    }
}

/// It is cancelled with its thread, and the thread waits for it.
///
/// # Safety
/// As [`survives`].
unsafe fn ends(slot: SlotPtr) -> bool {
    // SAFETY: the caller's.
    unsafe {
        (*slot.0.as_ptr()).phase != Phase::Final
            && !matches!(slot.major(), Major::Close | Major::Cleanup)
            && !survives(slot)
    }
}

/// The hardware reports of a request that it got from a thread that has ended since. The kernel says in
/// several ways that it has not done it because of that: [`Irp::is_given_back`](crate::Irp::is_given_back)
/// is to see it.
///
/// # Safety
/// The driver side is the caller's, on the owner's thread.
#[cold]
pub(crate) unsafe fn translate(slot: SlotPtr, done: &mut hal::Completion) {
    const ECANCELED: i32 = 125;
    const EINTR: i32 = 4;
    const EFAULT: i32 = 14;
    // SAFETY: the caller's.
    unsafe { (*slot.0.as_ptr()).flags.clear(flags::BEQUEATHED) };
    if matches!(-done.result, EINTR | EFAULT) {
        done.result = -ECANCELED;
    }
}
