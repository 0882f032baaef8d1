//! A processor: one hardware backend, one IRP slab, one timer wheel, one mailbox, one thread.
//!
//! The thread that creates a [`Processor`] drives it with [`Processor::turn`]. Requests issued on
//! the thread belong to it from issue to final completion. Other threads reach it through its
//! [`ProcessorHandle`], whose mailbox (`remote.rs`) wakes it only if it sleeps.
//!
//! Runtime workers make their processors themselves. A plain thread gets one when it first issues
//! or waits (`thread.rs`), which is torn down when the thread ends. The thread drives it while
//! it waits; while it does something else, the keeper does (`keeper.rs`), and goes on with what outlives
//! the thread (`bequest.rs`). Such a processor belongs to
//! whoever holds its lock (`gate.rs`): where this module speaks of a processor's thread, that one is
//! meant.
//!
//! **Lifetime.** `Core` outlives every slot of its slab. It is freed when the processor has been
//! torn down *and* the last requester elsewhere has let go of its slot: see `orphans`. Tearing down
//! is: refuse new requests, cancel all, reap to zero, close the mailbox, and only then drop the
//! hardware. Past its deadline everything the hardware may still write to is leaked, never freed.

pub(crate) mod bequest;
mod busy;
mod drain;
mod gate;
mod keeper;
mod mailbox;
mod notice;
mod presence;
mod remote;
mod settle;
mod slots;
mod thread;
mod timers;
mod turn;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

pub(crate) use drain::Retired;
pub use remote::ProcessorHandle;
pub(crate) use remote::Remote;
pub use settle::Settle;
pub use thread::set_hardware_factory;
pub use timers::TimerId;

use crate::census::LiveRequest;
use crate::clock;
use crate::counters::{Counters, IrpCounts};
use crate::driver_counts;
use crate::file::{self, FileObject};
use crate::filter::Arena;
use crate::hal::{self, Hal, Op, Token};
use crate::irp::slab::Slab;
use crate::irp::slot::SlotPtr;
use crate::major::Major;
use crate::per_core;
use crate::status::Status;
use crate::wheel::Wheel;
use busy::CURRENT;
pub(crate) use busy::Here;
use drain::Drain;
use gate::{Gate, State};
use timers::Timer;

/// What may be ready at once between two turns, in pages of data: about 100 µs.
const INLINE_BUDGET: u32 = 128;

/// Who drives a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driven {
    /// A loop that always comes back to `turn`: a runtime's worker or `block_on`.
    Loop,
    /// A plain thread while it waits, and the keeper.
    Thread,
}

/// The state of a processor. Everything but `remote` and `orphans` belongs to its thread.
// In the order of use: what every request and every turn touch comes first. After a sleep no line of it is in
// the cache.
#[repr(C, align(64))]
pub(crate) struct Core {
    /// Its own address, as it was allocated: what slots keep, so that the last of them may free it.
    this: Cell<NonNull<Core>>,
    remote: Arc<Remote>,
    /// `None` once torn down.
    hal: RefCell<Option<Box<dyn Hal>>>,
    /// Milliseconds since the process's epoch, read once a turn.
    now: Cell<u64>,
    /// The request of the innermost loop of `irp::travel` that runs.
    pub(crate) travels: Cell<Option<SlotPtr>>,
    /// Operations that may still be done inline, and requests that may still be complete when they
    /// are first polled, before the next turn: a task whose requests never pend cannot keep the
    /// thread from its mail and from other tasks.
    inline_left: Cell<u32>,
    /// Nesting of `turn` and of the code it calls.
    depth: Cell<u32>,
    /// Nesting of [`busy::Frame`]s.
    frames: Cell<u32>,
    /// Nesting of calls into the processor, and loops that borrow it: it is not torn down before the
    /// outermost has returned.
    busy: Cell<u32>,
    driven: Cell<Driven>,
    /// A plain thread's: `Remote::gate` says who may touch it.
    gated: bool,
    /// Something is to be done when it is not busy: `doomed`, `drains`.
    due: Cell<bool>,
    /// Something else on this thread can run; see [`Processor::set_runnable`].
    runnable: Cell<bool>,
    stopping: Cell<bool>,
    /// Requests count as local on files; not any more once the teardown has begun to end it.
    pub(crate) counts_locally: Cell<bool>,
    /// The keeper watches it; see `gate::State::Kept`.
    kept: Cell<bool>,
    /// The keeper is wanted as soon as the thread is away.
    asked: Cell<bool>,
    /// The thread has ended; the keeper ends the processor when the last request has.
    bequeathed: Cell<bool>,
    /// Loops that a plain thread's processor is lent to.
    lent: Cell<u32>,
    slab: RefCell<Slab>,
    wheel: RefCell<Wheel<Timer>>,
    /// Files of other homes that requests have left meanwhile.
    left: RefCell<Vec<NonNull<FileObject>>>,
    /// Files that are closed while a driver of their stack may still be running; see [`busy::Frame`].
    #[expect(clippy::vec_box, reason = "frames on the stack still have their addresses")]
    graves: RefCell<Vec<Box<FileObject>>>,
    done: RefCell<Vec<hal::Completion>>,
    /// For the futures of filters.
    arena: Arena,
    counters: Counters,
    driver_counts: driver_counts::Counts,
    /// The teardown that waits until it is not busy.
    doomed: Cell<Option<Duration>>,
    /// Stacks that have been replaced, see `drain`.
    drains: RefCell<Vec<Drain>>,
    /// See `settle.rs`.
    hooks: RefCell<Vec<(SlotPtr, Arc<dyn Settle>)>>,
    /// The state of `random`.
    chance: Cell<u64>,
    /// While the processor lives: unused. Afterwards: slots whose requesters have not let go, plus
    /// one for the teardown itself.
    orphans: AtomicUsize,
}

impl Core {
    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// A number by chance (SplitMix64).
    pub(crate) fn random(&self) -> u64 {
        let state = self.chance.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.chance.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// See [`Hal::watch`].
    fn watch(&self) -> Option<i32> {
        self.hal.borrow_mut().as_mut().and_then(|hal| hal.watch())
    }

    pub(crate) fn driven(&self) -> Driven {
        self.driven.get()
    }

    /// Whether the caller was called by this processor's own turn.
    pub(crate) fn is_inside_turn(&self) -> bool {
        self.depth.get() > 0
    }

    /// Frees a file object, as soon as no driver of its stack can be running on this thread.
    pub(crate) fn free_file(file: Box<FileObject>) {
        let mut file = Some(file);
        Core::with_current(|core| {
            core.graves.borrow_mut().extend(file.take());
            core.bury();
        });
    }

    /// Counts a request off its file, as soon as no driver of its stack can be running on this thread: the
    /// home, which is elsewhere, does not see that when it frees the file.
    ///
    /// # Safety
    /// As [`file::leave_foreign`].
    #[inline]
    pub(crate) unsafe fn leave_foreign(&self, file: NonNull<FileObject>) {
        if self.may_run_drivers() {
            self.left.borrow_mut().push(file);
        } else {
            // SAFETY: the caller's.
            unsafe { file::leave_foreign(file) };
        }
    }

    /// Whether code of drivers may be on the stack whose file nobody there keeps.
    #[inline]
    fn may_run_drivers(&self) -> bool {
        self.frames.get() > 0 || self.depth.get() > 0
    }

    /// Leaves what [`Core::leave_foreign`] was given. No driver may be running.
    #[inline]
    fn leave_files(&self) {
        while !self.left.borrow().is_empty() {
            let file = self.left.borrow_mut().pop().expect("there is one");
            // SAFETY: the reference came with it.
            unsafe { file::leave_foreign(file) };
        }
    }

    /// Frees what [`Core::free_file`] was given, and leaves what [`Core::leave_foreign`] was, unless a driver
    /// may be running.
    #[inline]
    pub(crate) fn bury(&self) {
        if !self.may_run_drivers() {
            self.leave_files();
            // One by one, outside the borrow: dropping one runs code of drivers, which may close files.
            while !self.graves.borrow().is_empty() {
                let file = self.graves.borrow_mut().pop();
                drop(file);
            }
        }
    }

    pub(crate) fn check_running(&self) -> Result<(), Status> {
        if self.stopping.get() { Err(Status::SHUTDOWN_IN_PROGRESS) } else { Ok(()) }
    }

    /// # Safety
    /// As [`Hal::submit`].
    #[inline]
    pub(crate) unsafe fn submit(&self, token: Token, op: Op) -> Option<i32> {
        let mut hal = self.hal.borrow_mut();
        let hal = hal.as_mut().expect("requests are refused once the hardware is gone");
        let left = self.inline_left.get();
        // A timer, be it the request's own deadline, must not wait for a slow disk either.
        let alone = left > 0
            && (op.is_urgent()
                || !self.runnable.get() && (op.never_waits() || self.wheel.borrow().is_empty()));
        // SAFETY: the caller's.
        let result = unsafe { hal.submit(token, op, alone) };
        if alone && let Some(result) = result {
            let pages = result.max(1) as u32 / 4096;
            self.inline_left.set(left.saturating_sub(pages.max(1)));
        }
        result
    }

    #[inline]
    pub(crate) fn inline_left(&self) -> u32 {
        self.inline_left.get()
    }

    /// Something was ready at once, before which so much was left. `false`: the thread should turn
    /// before its requester goes on.
    #[inline]
    pub(crate) fn was_inline(&self, left: u32) -> bool {
        // Otherwise `submit` has counted it.
        if self.inline_left.get() == left {
            self.inline_left.set(left.saturating_sub(1));
        }
        // Where no loop comes back to turn, waiting for that would be for ever.
        left > 0 || self.driven() != Driven::Loop
    }

    pub(crate) fn cancel_hardware(&self, token: Token) {
        if let Some(hal) = self.hal.borrow_mut().as_mut() {
            hal.cancel(token);
        }
    }

    #[inline]
    pub(crate) fn count(&self, major: Major, status: Status) {
        self.counters.count(major, status);
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn irp_counts(&self) -> IrpCounts {
        self.slab.borrow().counts()
    }

    #[inline]
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(crate) fn driver_counts(&self) -> &driver_counts::Counts {
        &self.driver_counts
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }
}

/// Counts something other than a request that was ready when it was first polled: a task that goes
/// from one such thing to the next would never let others run. `false`: the calling thread's
/// processor should turn first; wake the task, and be pending once.
pub fn was_ready_at_once() -> bool {
    Core::with_current(|core| core.was_inline(core.inline_left())).unwrap_or(true)
}

/// A processor, in the hands of the thread that drives it. See the module's header.
///
/// One a thread. Dropping it is [`Processor::shutdown`] with a deadline of five seconds.
pub struct Processor {
    core: NonNull<Core>,
    /// The thread's own, lent to a loop: handed back at the end, not torn down.
    lent: bool,
    /// Bound to its thread.
    _thread: std::marker::PhantomData<*mut ()>,
}

/// What a processor's shutdown left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Requests that the hardware or a driver had not finished at the deadline. Their memory is
    /// leaked on purpose; 0 after a clean shutdown.
    pub leaked: usize,
    /// What they are: operation, file, and the driver that has it (S-19).
    pub requests: Vec<LiveRequest>,
    /// Requests that are done, and whose result somebody has not let go of: a packet, a status block,
    /// a future that was forgotten. Their memory goes when that happens.
    pub unclaimed: usize,
}

impl Processor {
    /// Makes the calling thread's processor, driven by a loop that always comes back to
    /// [`Processor::turn`]. A plain thread that has a processor of its own lends it to the loop.
    ///
    /// # Errors
    /// `AlreadyExists` when the thread drives a processor in a loop already; those of `hal`.
    pub fn new(hal: impl FnOnce() -> io::Result<Box<dyn Hal>>) -> io::Result<Processor> {
        let current = NonNull::new(CURRENT.with(Cell::get).cast_mut());
        // SAFETY: the thread's processor lives while `CURRENT` names it.
        match current.filter(|core| unsafe { core.as_ref() }.driven() == Driven::Thread) {
            Some(core) => {
                // SAFETY: as above; its memory stays as long as it is lent.
                let borrowed = unsafe { core.as_ref() };
                // Unlocked when it is handed back.
                borrowed.remote.gate().lock();
                borrowed.remote.gate().set(State::Inside);
                if borrowed.kept.replace(false) {
                    borrowed.remote.awake();
                }
                borrowed.driven.set(Driven::Loop);
                borrowed.lent.set(borrowed.lent.get() + 1);
                Ok(Processor { core, lent: true, _thread: std::marker::PhantomData })
            }
            None => Self::with_driver(hal, Driven::Loop),
        }
    }

    fn with_driver(
        hal: impl FnOnce() -> io::Result<Box<dyn Hal>>,
        driven: Driven,
    ) -> io::Result<Processor> {
        if !CURRENT.with(Cell::get).is_null() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this thread already drives a processor (is this inside a runtime?)",
            ));
        }
        // The last requests pass drivers too; the processor may go with the thread.
        per_core::hold();
        let hal = hal()?;
        let seed = hal.seed();
        let gated = driven == Driven::Thread;
        let core = Box::new(Core {
            this: Cell::new(NonNull::dangling()),
            remote: Remote::new(hal.wake_handle(), hal.name(), gated.then(Gate::new)),
            driven: Cell::new(driven),
            gated,
            kept: Cell::new(false),
            asked: Cell::new(false),
            bequeathed: Cell::new(false),
            hal: RefCell::new(Some(hal)),
            slab: RefCell::new(Slab::new()),
            arena: Arena::new(),
            wheel: RefCell::new(Wheel::new()),
            now: Cell::new(timers::tick_of(clock::now())),
            runnable: Cell::new(false),
            stopping: Cell::new(false),
            inline_left: Cell::new(INLINE_BUDGET),
            depth: Cell::new(0),
            frames: Cell::new(0),
            graves: RefCell::default(),
            left: RefCell::default(),
            counts_locally: Cell::new(true),
            busy: Cell::new(0),
            due: Cell::new(false),
            doomed: Cell::new(None),
            drains: RefCell::default(),
            hooks: RefCell::default(),
            lent: Cell::new(0),
            travels: Cell::new(None),
            done: RefCell::new(Vec::with_capacity(256)),
            chance: Cell::new(seed),
            counters: Counters::default(),
            driver_counts: driver_counts::Counts::default(),
            orphans: AtomicUsize::new(0),
        });
        let core = NonNull::from(Box::leak(core));
        // SAFETY: just made.
        unsafe {
            core.as_ref().this.set(core);
            core.as_ref().remote.attach(core);
        }
        if gated {
            // SAFETY: as above.
            keeper::announce(unsafe { &core.as_ref().remote });
        }
        CURRENT.with(|c| c.set(core.as_ptr()));
        Ok(Processor { core, lent: false, _thread: std::marker::PhantomData })
    }

    fn core(&self) -> &Core {
        // SAFETY: freed only after `shutdown`, which consumes the processor.
        unsafe { self.core.as_ref() }
    }

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        self.core().remote.backend()
    }

    /// The handle for other threads.
    pub fn handle(&self) -> ProcessorHandle {
        ProcessorHandle::new(self.core().remote.clone())
    }

    /// Tells drivers whether other work waits on this thread: if not, a short operation may be done
    /// inline, because it delays nobody.
    pub fn set_runnable(&self, runnable: bool) {
        self.core().runnable.set(runnable);
    }

    /// Whether so much was ready at once since the last turn that it is time for the next one.
    #[inline]
    pub fn should_turn(&self) -> bool {
        self.core().inline_left() == 0
    }

    /// The time of the last turn, in milliseconds since a moment of the process's.
    #[inline]
    pub fn now(&self) -> u64 {
        self.core().now()
    }

    /// The time, as in [`Processor::now`].
    pub fn read_clock(&self) -> u64 {
        timers::tick_of(clock::now())
    }

    /// Requests in use on this processor.
    pub fn live(&self) -> usize {
        self.core().live()
    }

    /// Refuses new requests, cancels all that are in flight and waits for them, at most until
    /// `deadline` has passed; then closes the hardware. What is still in flight by then is leaked
    /// with everything the hardware could write to.
    pub fn shutdown(self, deadline: Duration) -> ShutdownReport {
        if self.lent {
            return ShutdownReport::default();
        }
        let core = self.core;
        std::mem::forget(self);
        // SAFETY: ownership came from `self`.
        unsafe { give_up(core, deadline) }
    }
}

/// Tears a processor down, or has that done when it is not busy any more.
///
/// # Safety
/// The caller owns the processor and gives it up; on its thread.
unsafe fn give_up(core: NonNull<Core>, deadline: Duration) -> ShutdownReport {
    // SAFETY: the caller's.
    unsafe {
        let _lock = core.as_ref().gated.then(|| Remote::enter(core.as_ref().remote.clone()));
        if core.as_ref().is_busy() {
            // Called from a driver, a waker, an operation: they return into the processor.
            core.as_ref().stopping.set(true);
            core.as_ref().doom(deadline);
            return ShutdownReport::default();
        }
        turn::shutdown(core, deadline)
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        if self.lent {
            let core = self.core();
            let remote = core.remote.clone();
            if core.hal.borrow().is_some() {
                core.driven.set(Driven::Thread);
                core.lent.set(core.lent.get() - 1);
                if core.lent.get() == 0 && core.busy.get() == 0 {
                    core.look_back();
                }
            } else {
                // The thread's own is gone already, and has left us the memory.
                // SAFETY: the reference counted for this loan.
                unsafe { Core::drop_orphans(self.core, 1) };
            }
            // SAFETY: locked when it was lent.
            return unsafe { remote.gate().unlock() };
        }
        // SAFETY: as in `shutdown`.
        unsafe { give_up(self.core, Duration::from_secs(5)) };
    }
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor").field("backend", &self.backend()).finish_non_exhaustive()
    }
}
