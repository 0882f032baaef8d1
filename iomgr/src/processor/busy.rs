//! Who uses a processor, and what waits until nobody does.
//!
//! A thread finds its processor in `CURRENT`, and uses it for the time of a call ([`Busy`]); if it is a
//! plain thread's, with its lock (`gate.rs`), and says when it goes whether anything is left for the
//! keeper. A teardown waits for the outermost use to end, as do files for the drivers that may still be
//! running ([`Frame`]).

use std::cell::Cell;
use std::ops::Deref;
use std::ptr;
use std::time::Duration;

use super::gate::State;
use super::{Core, Driven, keeper, thread, turn};
use crate::hal::Wait;
use crate::panics::log;
use crate::status::Status;

/// Driver code may run, on this processor's thread, for a request that nobody's stack frame keeps:
/// one that goes on after it pended. If that code completes the request, the file it belongs to,
/// and with it the stack and the driver itself, may have no other owner. So as long as a frame or a
/// turn is open, files that close are kept.
pub(crate) struct Frame<'a>(&'a Core);

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.0.frames.set(self.0.frames.get() - 1);
        self.0.bury();
        self.0.do_what_is_due(0);
    }
}

/// Somebody uses the processor; see `Core::busy`.
pub(crate) struct Busy<'a>(&'a Core);

impl Drop for Busy<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        if self.0.gated {
            self.0.leave();
        } else {
            self.0.do_what_is_due(0);
        }
    }
}

/// The calling thread's processor, which it uses.
pub(crate) struct Here(Busy<'static>);

impl Deref for Here {
    type Target = Core;
    #[inline]
    fn deref(&self) -> &Core {
        self.0.0
    }
}

thread_local! {
    pub(super) static CURRENT: Cell<*const Core> = const { Cell::new(ptr::null()) };
}

impl Core {
    /// The calling thread's processor, if it has one.
    #[inline]
    pub(crate) fn here() -> Option<Here> {
        let current = CURRENT.with(Cell::get);
        // SAFETY: `CURRENT` is set by `Processor::new` and cleared by its teardown, on this thread, which
        // waits while it is busy: as long as what is returned is there, which does not leave the thread, for
        // it is not `Send`.
        unsafe { current.as_ref() }.map(|core| Here(core.busy()))
    }

    /// Uses the calling thread's processor, if it has one.
    #[inline]
    pub(crate) fn with_current<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
        Self::here().map(|core| f(&core))
    }

    /// Whether the calling thread is a plain one whose processor, if it has one, has nothing to do and is
    /// not in use. Only what others send may change that.
    #[inline]
    pub(crate) fn is_idle_here() -> bool {
        let current = CURRENT.with(Cell::get);
        if current.is_null() {
            return true;
        }
        // SAFETY: as in `here`: it is torn down on this thread; and what is looked at is anybody's.
        let core = unsafe { &*current };
        core.gated && core.remote.presence().0 == State::Idle
    }

    #[inline]
    pub(crate) fn busy(&self) -> Busy<'_> {
        if self.gated {
            self.enter();
        }
        self.busy.set(self.busy.get() + 1);
        Busy(self)
    }

    /// A plain thread, or the keeper, comes in.
    fn enter(&self) {
        let gate = self.remote.gate();
        gate.lock();
        if self.busy.get() == 0 {
            gate.set(State::Inside);
            if self.kept.replace(false) {
                self.remote.awake();
            }
        }
    }

    /// It goes, one `enter` back.
    fn leave(&self) {
        if self.due.get() {
            let (remote, doomed) = (self.remote.clone(), self.doomed.get().is_some());
            self.do_what_is_due(0);
            if doomed {
                // SAFETY: locked by `enter`.
                return unsafe { remote.gate().unlock() };
            }
        }
        if self.busy.get() == 0 && self.lent.get() == 0 {
            self.look_back();
        }
        // SAFETY: locked by `enter`.
        unsafe { self.remote.gate().unlock() };
    }

    /// Says whether anything is left that somebody must see to.
    pub(super) fn look_back(&self) {
        let gate = self.remote.gate();
        if self.kept.get() {
            return gate.set(State::Kept);
        }
        if !self.is_outstanding() {
            gate.set(State::Idle);
            if self.remote.is_empty() {
                return;
            }
        }
        if self.asked.replace(false) {
            gate.set(State::Asked);
            keeper::call();
        } else {
            gate.set(State::Left);
            keeper::notice();
        }
    }

    /// A plain thread has issued a request whose result it will not look for here: submits it, and
    /// has the keeper see to it.
    #[inline]
    pub(crate) fn pass_on(&self) {
        if self.driven() == Driven::Thread && !self.is_inside_turn() {
            self.ask_keeper();
        }
    }

    #[cold]
    fn ask_keeper(&self) {
        self.asked.set(true);
        if let Err(error) = self.turn(Wait::No, || true) {
            log(|| tracing::error!(%error, "the backend failed under a plain thread"));
        }
    }

    /// Whether there are requests, timers or mail.
    pub(super) fn is_outstanding(&self) -> bool {
        self.live() > 0 || !self.wheel.borrow().is_empty() || !self.remote.is_empty()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.get() > 0 || self.frames.get() > 0 || self.depth.get() > 0
    }

    /// Has it torn down when it is not busy.
    pub(super) fn doom(&self, deadline: Duration) {
        self.doomed.set(Some(deadline));
        self.due.set(true);
    }

    /// Does what waits until the processor is not busy. `own`: uses of the processor that are the
    /// caller's own, and have no driver on the stack.
    #[inline]
    pub(super) fn do_what_is_due(&self, own: u32) {
        if self.due.get()
            && self.frames.get() == 0
            && self.depth.get() == 0
            && self.busy.get() <= own
        {
            self.do_it();
        }
    }

    #[cold]
    fn do_it(&self) {
        self.report_drains();
        if self.is_busy() {
            return;
        }
        self.due.set(false);
        if let Some(deadline) = self.doomed.take() {
            // SAFETY: the processor was given up to `doomed`; nobody uses it.
            unsafe { turn::shutdown(self.this.get(), deadline) };
        }
    }

    /// The calling thread's processor; a plain thread gets one now.
    #[inline]
    pub(crate) fn here_or_create() -> Result<Here, Status> {
        if CURRENT.with(Cell::get).is_null() {
            thread::create()?;
        }
        Self::here().ok_or(Status::DEVICE_NOT_READY)
    }

    /// Uses the calling thread's processor; a plain thread gets one now.
    #[inline]
    pub(crate) fn with_or_create<R>(f: impl FnOnce(&Core) -> R) -> Result<R, Status> {
        Self::here_or_create().map(|core| f(&core))
    }

    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        ptr::eq(CURRENT.with(Cell::get), self)
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        self.frames.set(self.frames.get() + 1);
        Frame(self)
    }
}
