//! The crank: one turn reads the mail, submits, sleeps if it may, and hands out what completed.
//!
//! Completions are copied out of the hardware before any of them is acted on, so that completion
//! routines and wakers find it free to submit to (design, section 6). Panics in them are caught
//! where they are called (`irp::travel`).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::busy::CURRENT;
use super::{Core, Processor, ShutdownReport, timers};
use crate::clock;
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{Slot, SlotPtr};
use crate::irp::travel;
use crate::panics::{caught, log};

impl Processor {
    /// Does one turn: reads the mail, submits what is queued, waits for the hardware as `wait`
    /// allows, and completes requests and timers that are due. `ready` is asked once more, after
    /// other threads have been told that they must wake this one, whether there is work that
    /// forbids sleeping.
    ///
    /// Returns whether anything completed or fired.
    ///
    /// # Errors
    /// When the backend is broken.
    ///
    /// # Panics
    /// When called from inside a turn (a waker, a completion routine).
    pub fn turn(&self, wait: Wait, ready: impl FnOnce() -> bool) -> io::Result<bool> {
        self.core().turn_for(0, wait, ready)
    }
}

/// How many completions ahead a slot is fetched into the cache: with thousands of requests in
/// flight it is not there.
const PREFETCH: usize = 3;

/// Restores the nesting even if something unwinds.
struct Inside<'a>(&'a Core, u32);

impl<'a> Inside<'a> {
    /// `own`: see `do_what_is_due`.
    fn enter(core: &'a Core, own: u32) -> Inside<'a> {
        assert_eq!(core.depth.get(), 0, "a processor's turn was called from inside a turn");
        core.depth.set(1);
        Inside(core, own)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.depth.set(0);
        self.0.bury();
        self.0.do_what_is_due(self.1);
    }
}

impl Core {
    /// Reads the mail at once, for one who is refused what others may have given back by it. Answers no
    /// where that must wait for the next turn.
    #[cold]
    pub(crate) fn read_mail(&self) -> bool {
        if self.is_inside_turn() {
            return false;
        }
        let _inside = Inside::enter(self, 0);
        self.remote.read(self, false);
        true
    }

    /// As [`Processor::turn`], for a loop that uses the processor meanwhile, once.
    pub(crate) fn turn(&self, wait: Wait, ready: impl FnOnce() -> bool) -> io::Result<bool> {
        self.turn_for(1, wait, ready)
    }

    fn turn_for(&self, own: u32, wait: Wait, ready: impl FnOnce() -> bool) -> io::Result<bool> {
        let _inside = Inside::enter(self, own);
        // SAFETY: on the processor's thread, which is in a turn.
        unsafe { travel::let_go(self) };
        self.inline_left.set(super::INLINE_BUDGET);
        self.remote.read(self, false);
        if self.frames.get() == 0 && self.busy.get() <= own {
            // Somebody may be waiting for what the mail has asked for, or ended, while this sleeps.
            self.leave_files();
            if self.due.get() {
                self.report_drains();
            }
        }

        let wait = self.bounded_by_timers(wait);
        let sleeps = wait != Wait::No;
        let roused = sleeps && (!self.remote.prepare_sleep() || ready());
        let mut done = self.done.take();
        let result = match self.hal.borrow_mut().as_mut() {
            Some(hal) if roused => {
                hal.roused();
                hal.turn(Wait::No, &mut done)
            }
            Some(hal) => hal.turn(wait, &mut done),
            None => Err(io::Error::other("the processor has been shut down")),
        };
        if sleeps {
            self.remote.awake();
        }
        self.now.set(timers::tick_of(clock::now()));

        let mut active = !done.is_empty();
        let mut drain = done.drain(..);
        while let Some(completion) = drain.next() {
            if let Some(later) = drain.as_slice().get(PREFETCH) {
                SlotPtr::prefetch(later.token.get() as usize);
            }
            let slot =
                std::ptr::with_exposed_provenance_mut::<Slot>(completion.token.get() as usize);
            // SAFETY: tokens are the addresses of slots handed to the hardware (`dispatch::token`
            // exposes them), each back once for good.
            unsafe {
                travel::hardware_done(SlotPtr(NonNull::new_unchecked(slot)), completion);
            }
        }
        drop(drain);
        self.done.replace(done);
        active |= self.fire_timers();
        result.map(|()| active)
    }
}

/// See [`Processor::shutdown`].
///
/// # Safety
/// The caller owns the processor and gives it up; on its thread.
pub(super) unsafe fn shutdown(core_ptr: NonNull<Core>, deadline: Duration) -> ShutdownReport {
    // SAFETY: not freed before the end of this function.
    let core = unsafe { core_ptr.as_ref() };
    let end = clock::now() + deadline;
    core.stopping.set(true);
    // Close requests are still accepted and close at once; see `request::detached`.
    for slot in core.live_slots() {
        // SAFETY: owner's thread; `cancel` looks at the phase, and a slot freed meanwhile is not
        // live (its generation may have changed, its memory has not).
        unsafe {
            if (*slot.0.as_ptr()).flags.has(crate::irp::slot::flags::LIVE) {
                finish::cancel(slot);
            }
        }
    }
    while core.unfinished() > 0 && clock::now() < end {
        let left = end.saturating_duration_since(clock::now()).min(Duration::from_millis(50));
        if let Err(error) = core.turn(Wait::For(left), || core.unfinished() == 0) {
            log(|| tracing::error!(%error, "the backend failed while shutting down"));
            break;
        }
    }
    let leaked = core.unfinished();
    let mut requests = Vec::new();
    if leaked > 0 {
        requests = crate::census::list_unfinished(core);
        log(|| {
            tracing::error!(
                leaked,
                ?requests,
                "requests did not end in time; their memory is leaked"
            )
        });
    }
    // Wakers in timers run code of the user's when dropped.
    let timers = core.take_timers();
    if caught(|| drop(timers)).is_none() {
        log(|| tracing::error!("a waker panicked while it was dropped"));
    }
    core.counts_locally.set(false);
    core.slab.borrow().for_each_live(|slot| {
        // SAFETY: owner's thread; a live slot's file is counted until it is taken.
        unsafe {
            let header = slot.0.as_ptr();
            if (*header).flags.has(crate::irp::slot::flags::LOCAL_USE)
                && let Some(file) = (*header).file
            {
                crate::file::adopt_out(file);
            }
        }
    });
    let lent = core.lent.get() as usize;
    core.orphans.store(core.live() + 1 + lent, Ordering::SeqCst);
    let before = core.live();
    core.remote.read(core, true);
    core.end_drains(leaked > 0);
    let unclaimed = core.live().saturating_sub(leaked);
    let released = before - core.live();
    core.driver_counts().retire();
    CURRENT.with(|c| c.set(std::ptr::null()));
    core.remote.detach();
    if core.gated {
        core.remote.gate().set(super::State::Gone);
        super::keeper::notice();
    }
    let hal = core.hal.take();
    if leaked > 0 {
        // Closing is not a barrier: the hardware may go on writing. Nothing is freed.
        std::mem::forget(hal);
    } else {
        drop(hal);
        // SAFETY: the slots freed by the mail above, and the teardown's own reference.
        unsafe { Core::drop_orphans(core_ptr, released + 1) };
    }
    ShutdownReport { leaked, requests, unclaimed }
}

impl Core {
    /// Requests whose driver side is not finished.
    pub(super) fn unfinished(&self) -> usize {
        let mut n = 0;
        self.slab.borrow().for_each_live(|slot| {
            // SAFETY: live slots of this thread's slab.
            n += usize::from(unsafe { (*slot.0.as_ptr()).phase } != crate::irp::slot::Phase::Final);
        });
        n
    }
}
