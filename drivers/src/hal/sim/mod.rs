//! A simulated machine as a processor's hardware: files and a network in memory, a virtual clock, and
//! a schedule, faults and cancels that are drawn from one seed. The same seed, plan and program give
//! the same run, event by event.
//!
//! ```text
//!   SimHal ──▶ engine: stages of operations, agenda, cancels ──▶ perform: one try, with its faults
//!                 │                                                 │
//!                 ├─▶ trace                                         ├─▶ memory: the operation's
//!                 └─▶ faults, random                                └─▶ world: files, names, sockets
//!   System ──────────────────────── system.rs ─────────────────────────▶ world
//! ```
//!
//! A [`Simulator`] is one simulation. It belongs to one thread, on which it is
//! [entered](Simulator::enter); then the backend [`Simulated`](super::Backend::Simulated) is to be had
//! there. What is asked of the system besides requests reaches it by [`super::system`].
//!
//! **Invariant.** Nothing here depends on addresses, real time, other threads, or the order of a hash
//! map. The engine is borrowed for one function at a time, and never while code of others runs.
//!
//! Reads next: `engine.rs`.

mod buffers;
mod engine;
mod faults;
mod hal;
mod memory;
mod numbers;
mod ops;
mod perform;
mod random;
mod system;
#[cfg(test)]
mod tests;
mod trace;
mod world;

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use overlapped_iomgr::clock::Virtual;
use overlapped_iomgr::hal::Hal;

use engine::Engine;
pub use faults::{Fault, FaultCounts, FaultPlan};

struct Inner {
    engine: RefCell<Engine>,
    /// While it is entered.
    clock: RefCell<Option<Virtual>>,
}

/// One simulation; clones are the same. See the module's header.
#[derive(Clone)]
pub struct Simulator(Rc<Inner>);

thread_local! {
    static CURRENT: RefCell<Option<Simulator>> = const { RefCell::new(None) };
}

/// What a simulation has come to so far.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Figures {
    /// Operations that reached the hardware.
    pub operations: u64,
    /// Virtual time that has passed.
    pub elapsed: Duration,
    /// A hash of all that happened, in order, with its time and data.
    pub trace_hash: u64,
    /// The same as text, a line an event, if it was kept.
    pub trace: Option<String>,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// Descriptors that are open.
    pub descriptors: usize,
    /// Buffers of the processor's pool that readers have.
    pub buffers: usize,
    /// Operations that have not completed.
    pub in_flight: usize,
}

/// A thread is in a simulation until this is dropped.
#[derive(Debug)]
pub struct Entered(Option<Simulator>);

impl Simulator {
    /// A simulation that has not begun. `keep_trace`: also as text.
    pub fn new(seed: u64, plan: FaultPlan, keep_trace: bool) -> Simulator {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let engine = RefCell::new(Engine::new(seed, plan, number, keep_trace));
        Simulator(Rc::new(Inner { engine, clock: RefCell::new(None) }))
    }

    /// Puts the calling thread into the simulation: the machine and the clock are its own from here.
    ///
    /// # Panics
    /// When the thread is in one already.
    pub fn enter(&self) -> Entered {
        assert!(Simulator::current().is_none(), "the thread is in a simulation already");
        CURRENT.set(Some(self.clone()));
        *self.0.clock.borrow_mut() = Some(Virtual::begin());
        Entered(Some(self.clone()))
    }

    /// The simulation that the calling thread is in.
    pub fn current() -> Option<Simulator> {
        // A thread that ends is in none.
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// Whether a descriptor's number is one of this simulation's.
    pub fn has_made(&self, fd: RawFd) -> bool {
        self.engine().machine.numbers.index(fd).is_ok()
    }

    /// Changes the faults from here on.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.engine().machine.fate.plan = plan;
    }

    /// Has the waker woken if nothing can happen any more: nothing is in flight that could end by
    /// itself, no timer is set, and nobody is runnable.
    pub fn on_stuck(&self, waker: Waker) {
        let before = self.engine().on_stuck.replace(waker);
        // With nothing borrowed.
        drop(before);
    }

    /// Whether that is so.
    pub fn is_stuck(&self) -> bool {
        self.engine().stuck
    }

    /// What it has come to so far.
    pub fn figures(&self) -> Figures {
        let engine = &mut *self.engine();
        Figures {
            operations: engine.submitted,
            elapsed: Duration::from_nanos(engine.now()),
            trace_hash: engine.trace.hash(),
            trace: engine.trace.text().map(str::to_owned),
            faults: engine.machine.fate.counts.clone(),
            descriptors: engine.machine.world.open_descriptors(),
            buffers: engine.machine.buffers.lent(),
            in_flight: engine.in_flight(),
        }
    }

    fn engine(&self) -> RefMut<'_, Engine> {
        self.0.engine.borrow_mut()
    }

    fn advance(&self, by: Duration) {
        if let Some(clock) = &*self.0.clock.borrow() {
            clock.advance(by);
        }
    }

    fn get_stuck(&self) {
        let waker = {
            let mut engine = self.engine();
            engine.stuck = true;
            engine.on_stuck.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let simulator = self.0.take();
        let _ = CURRENT.try_with(|current| current.take());
        if let Some(simulator) = simulator {
            *simulator.0.clock.borrow_mut() = None;
        }
    }
}

/// The hardware of the calling thread's simulation.
///
/// # Errors
/// `Unsupported` when it is in none.
pub(super) fn hardware() -> io::Result<Box<dyn Hal>> {
    let nowhere = "the simulated backend is to be had in a simulation only: see `overlapped::sim`";
    let nowhere = || io::Error::new(io::ErrorKind::Unsupported, nowhere);
    Ok(Box::new(hal::SimHal::new(Simulator::current().ok_or_else(nowhere)?)))
}
