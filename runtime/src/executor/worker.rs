//! One worker: a thread with a processor and its queues.
//!
//! The loop: run tasks until the queues are empty or the budget is used up, turn the processor,
//! sleep in it if there is nothing to do. A yielding task goes to the back; a task that keeps
//! waking itself uses up the budget and the processor still gets its turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_deque::Worker as Deque;
use overlapped_iomgr::Processor;
use overlapped_iomgr::hal::Wait;

use super::shared::Shared;
use super::task::Runnable;

/// Polls between two turns of the processor.
const BUDGET: u32 = 61;

/// Every so many polls the common queue goes first, so that it cannot starve.
const INJECTED_FIRST: u64 = 31;

/// Counted by the worker, readable by all.
#[derive(Default)]
pub(super) struct Counts {
    polls: AtomicU64,
    turns: AtomicU64,
    sleeps: AtomicU64,
    stolen: AtomicU64,
}

/// What one worker has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerMetrics {
    /// Task polls.
    pub polls: u64,
    /// Turns of the processor.
    pub turns: u64,
    /// Turns that were allowed to sleep.
    pub sleeps: u64,
    /// Times it took tasks from another worker.
    pub stolen: u64,
}

impl Counts {
    pub(super) fn read(&self) -> WorkerMetrics {
        WorkerMetrics {
            polls: self.polls.load(Ordering::Relaxed),
            turns: self.turns.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            stolen: self.stolen.load(Ordering::Relaxed),
        }
    }
}

fn bump(counter: &AtomicU64, n: u64) {
    // One writer: no read-modify-write needed.
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    seat: usize,
    deque: Deque<Runnable>,
    pinned: RefCell<VecDeque<Runnable>>,
    ticks: Cell<u64>,
}

thread_local! {
    static CURRENT: Cell<*const Worker> = const { Cell::new(std::ptr::null()) };
}

/// Says that the calling thread is this worker, until dropped.
pub(super) struct Entered<'a>(
    #[expect(dead_code, reason = "keeps the worker borrowed")] &'a Worker,
);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with(|c| c.set(std::ptr::null()));
    }
}

#[inline]
fn with_current<R>(shared: &Shared, f: impl FnOnce(&Worker) -> R) -> Option<R> {
    let current = CURRENT.try_with(Cell::get).unwrap_or(std::ptr::null());
    if current.is_null() {
        return None;
    }
    // SAFETY: set by `enter`, which borrows the worker until it is reset, on this thread.
    let worker = unsafe { &*current };
    std::ptr::eq(&*worker.shared, shared).then(|| f(worker))
}

/// Queues on the calling thread's worker, if it is one of the task's runtime.
#[inline]
pub(super) fn push_local(runnable: Runnable) -> Result<(), Runnable> {
    let shared = Arc::as_ptr(runnable.metadata().shared());
    let mut runnable = Some(runnable);
    // SAFETY: the runnable is still here, and its metadata keeps `shared`; `with_current` compares
    // addresses and goes on with the worker's own reference.
    with_current(unsafe { &*shared }, |worker| {
        let had_work = !worker.deque.is_empty();
        worker.deque.push(runnable.take().expect("once"));
        if had_work {
            // More than this worker can run at once: somebody may come and steal.
            worker.shared.wake_one();
        }
    });
    runnable.map_or(Ok(()), Err)
}

/// Queues on the worker given, if that is the calling thread.
#[inline]
pub(super) fn push_pinned(
    shared: &Shared,
    seat: usize,
    runnable: Runnable,
) -> Result<(), Runnable> {
    let mut runnable = Some(runnable);
    with_current(shared, |worker| {
        if worker.seat == seat {
            worker.pinned.borrow_mut().push_back(runnable.take().expect("once"));
        }
    });
    runnable.map_or(Ok(()), Err)
}

pub(super) fn current_seat(shared: &Shared) -> Option<usize> {
    with_current(shared, |worker| worker.seat)
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, seat: usize, deque: Deque<Runnable>) -> Worker {
        Worker { shared, seat, deque, pinned: RefCell::default(), ticks: Cell::new(0) }
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        CURRENT.with(|c| c.set(self));
        Entered(self)
    }

    fn has_local(&self) -> bool {
        !self.pinned.borrow().is_empty() || !self.deque.is_empty()
    }

    fn next(&self) -> Option<Runnable> {
        let tick = self.ticks.get() + 1;
        self.ticks.set(tick);
        if tick.is_multiple_of(INJECTED_FIRST) {
            self.shared.take_inbox(self.seat, &mut *self.pinned.borrow_mut());
            if self.shared.stealing
                && let Some(runnable) = self.shared.take_injected(&self.deque)
            {
                return Some(runnable);
            }
        }
        // A function, so that the borrow ends before anything else is tried.
        let pinned = || self.pinned.borrow_mut().pop_front();
        if !self.shared.stealing {
            return pinned().or_else(|| {
                self.shared.take_inbox(self.seat, &mut *self.pinned.borrow_mut());
                pinned()
            });
        }
        // Pinned tasks and others take turns.
        let local = if tick.is_multiple_of(2) {
            pinned().or_else(|| self.deque.pop())
        } else {
            self.deque.pop().or_else(pinned)
        };
        local.or_else(|| {
            self.shared.take_inbox(self.seat, &mut *self.pinned.borrow_mut());
            pinned().or_else(|| self.shared.take_injected(&self.deque))
        })
    }

    /// Runs tasks within the budget. Returns whether there may be more.
    pub(super) fn run_tasks(&self, processor: &Processor) -> bool {
        let mut polls = 0;
        let more = loop {
            if polls == BUDGET {
                break true;
            }
            let Some(runnable) = self.next() else { break false };
            processor.set_runnable(self.has_local());
            runnable.run();
            polls += 1;
        };
        processor.set_runnable(more);
        if polls > 0 {
            bump(&self.shared.seats[self.seat].counts.polls, u64::from(polls));
        }
        more
    }

    fn steal(&self) -> bool {
        if !self.shared.stealing || self.shared.seats.len() == 1 {
            return false;
        }
        self.shared.set_searching(true);
        let found = self.shared.steal(self.seat, &self.deque);
        self.shared.set_searching(false);
        let Some(runnable) = found else { return false };
        bump(&self.shared.seats[self.seat].counts.stolen, 1);
        self.deque.push(runnable);
        true
    }

    /// One round: tasks, then the processor. `awake`: do not sleep.
    pub(super) fn round(&self, processor: &Processor, awake: impl Fn() -> bool) {
        let counts = &self.shared.seats[self.seat].counts;
        let busy = self.run_tasks(processor) || awake() || self.steal();
        bump(&counts.turns, 1);
        let turned = if busy {
            processor.turn(Wait::No, || true)
        } else {
            bump(&counts.sleeps, 1);
            self.shared.go_idle(self.seat);
            let turned =
                processor.turn(Wait::Forever, || awake() || self.shared.has_work_for(self.seat));
            self.shared.leave_idle(self.seat);
            turned
        };
        if let Err(error) = turned {
            tracing::error!(%error, "the backend failed under a worker");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Drops what is queued here, until no task is left or nothing is queued any more. Only while
    /// the runtime ends.
    pub(super) fn drop_tasks(&self) {
        loop {
            self.shared.wake_all_tasks();
            let mut dropped = false;
            while let Some(runnable) =
                self.next().or_else(|| self.shared.steal(self.seat, &self.deque))
            {
                // Dropping it drops the task's future, and cancels its requests.
                drop(runnable);
                dropped = true;
            }
            if !dropped {
                return;
            }
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
