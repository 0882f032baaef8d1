//! One worker: a thread with a processor and its queues.
//!
//! The loop: run tasks until the queues are empty or the budget is used up, turn the processor,
//! sleep in it if there is nothing to do. A yielding task goes to the back; a task that keeps
//! waking itself uses up the budget and the processor still gets its turn.
//!
//! A worker has two queues: `deque`, from which others steal, and `own`, for tasks that are pinned
//! to it. Where nobody steals, all tasks are pinned and the first stays empty.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_deque::Worker as Deque;
use overlapped_iomgr::Processor;
use overlapped_iomgr::hal::Wait;
use overlapped_iomgr::panics::log;
use slab::Slab;

use super::shared::Shared;
use super::stalls::Doing;
use super::task::{Line, Listed, Mail, Runnable};
use super::usage::Usage;

/// Polls between two turns of the processor.
const BUDGET: u32 = 61;

/// Every so many polls the common queue goes first, so that it cannot starve.
const INJECTED_FIRST: u64 = 31;

/// How long an idle worker sleeps that keeps watch over those that are not.
const WATCH: Duration = Duration::from_millis(2);

/// After so many milliseconds in which nobody has polled anything it sleeps until it is woken.
const QUIET: u64 = 32;

/// After so many in which the others have not come on, one that is not to run stands in for them.
const STUCK: u64 = 2;

/// Counted by the worker, readable by all; in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counts {
    polls: AtomicU64,
    turns: AtomicU64,
    sleeps: AtomicU64,
    stolen: AtomicU64,
    stalls: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
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
    /// Task polls that were reported as stalls; see [`Builder::report_stalls`].
    ///
    /// [`Builder::report_stalls`]: crate::Builder::report_stalls
    pub stalls: u64,
}

impl Counts {
    pub(super) fn read(&self) -> WorkerMetrics {
        WorkerMetrics {
            polls: self.polls.load(Ordering::Relaxed),
            turns: self.turns.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            stolen: self.stolen.load(Ordering::Relaxed),
            stalls: self.stalls.load(Ordering::Relaxed),
        }
    }

    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// By the thread that looks for stalls, and nobody else.
    pub(super) fn count_stall(&self) {
        bump(&self.stalls, 1);
    }
}

fn bump(counter: &AtomicU64, n: u64) {
    // One writer: no read-modify-write needed.
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    seat: usize,
    /// As in `shared`.
    stealing: bool,
    mail: Arc<Mail>,
    counts: Arc<Counts>,
    deque: Deque<Runnable>,
    own: Line,
    /// The tasks whose first poll was here and is not the last, so that the runtime's end finds
    /// them.
    tasks: RefCell<Slab<Listed>>,
    /// Tasks and futures whose turn it has been.
    ticks: Cell<u64>,
    /// The task being polled, for others to see.
    doing: Arc<Doing>,
    /// It has asked to go to the back of the queue.
    yielded: Cell<bool>,
    /// Polls since the last turn of the processor.
    spent: Cell<u32>,
    /// The millisecond in which it last looked whether it needs help, and what it saw.
    looked: Cell<u64>,
    usage: Cell<Usage>,
    /// How far each worker was when it had last come on, and the millisecond of that.
    seen: RefCell<Box<[(u64, u64)]>>,
    /// It is not to run what others may: see `concurrency`.
    aside: Cell<bool>,
}

thread_local! {
    static CURRENT: Cell<*const Worker> = const { Cell::new(ptr::null()) };
}

/// Says that the calling thread is this worker, until dropped.
pub(super) struct Entered<'a>(&'a Worker);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.doing.end();
        CURRENT.with(|c| c.set(ptr::null()));
    }
}

/// The calling thread's worker, if it is one.
#[inline]
pub(super) fn with_current<R>(f: impl FnOnce(&Worker) -> R) -> Option<R> {
    let current = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: set by `enter`, which borrows the worker until it is reset, on this thread.
    (!current.is_null()).then(|| f(unsafe { &*current }))
}

#[inline]
fn with_current_of<R>(shared: &Shared, f: impl FnOnce(&Worker) -> R) -> Option<R> {
    with_current(|worker| ptr::eq(&*worker.shared, shared).then(|| f(worker))).flatten()
}

/// Gives something to the calling thread's worker, or back if it is none.
#[inline]
pub(super) fn give<T, R>(what: T, to: impl FnOnce(&Worker, T) -> R) -> Result<R, T> {
    let current = CURRENT.try_with(Cell::get).unwrap_or(ptr::null());
    // SAFETY: as in `with_current`.
    match unsafe { current.as_ref() } {
        Some(worker) => Ok(to(worker, what)),
        None => Err(what),
    }
}

/// Queues a task on the calling thread's worker, or gives it back if that may not run it.
#[inline]
pub(super) fn push_here(shared: &Shared, task: Runnable) -> Result<(), Runnable> {
    give(task, |worker, task| worker.accept(shared, task, Worker::push)).unwrap_or_else(Err)
}

/// As [`push_here`] for a new task.
#[inline]
pub(super) fn start_here(shared: &Shared, task: Runnable) -> Result<(), Runnable> {
    give(task, |worker, task| worker.accept(shared, task, Worker::start)).unwrap_or_else(Err)
}

/// The seat of the calling thread's worker, if it is one of that runtime.
pub(super) fn current_seat(shared: &Shared) -> Option<usize> {
    with_current_of(shared, |worker| worker.seat)
}

/// Sends the task being polled to the back of the queue when its poll returns, if it is this one.
#[inline]
pub(super) fn yield_if_running(task: *const ()) -> bool {
    with_current(|worker| {
        let is_running = ptr::eq(worker.doing.task(), task);
        if is_running {
            worker.yielded.set(true);
        }
        is_running
    })
    .unwrap_or(false)
}

/// The address of the task that the calling thread polls.
pub(super) fn running() -> Option<NonZeroUsize> {
    with_current(|worker| NonZeroUsize::new(worker.doing.task().addr())).flatten()
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, seat: usize, deque: Deque<Runnable>) -> Worker {
        let doing = shared.seats[seat].doing.clone();
        let seen = shared.seats.iter().map(|_| (0, 0)).collect();
        let (mail, counts) = (shared.seats[seat].mail.clone(), shared.seats[seat].counts.clone());
        Worker {
            stealing: shared.stealing,
            shared,
            seat,
            mail,
            counts,
            deque,
            own: Line::new(),
            tasks: RefCell::default(),
            ticks: Cell::new(0),
            doing,
            yielded: Cell::new(false),
            spent: Cell::new(0),
            looked: Cell::new(0),
            usage: Cell::new(Usage::now()),
            seen: RefCell::new(seen),
            aside: Cell::new(false),
        }
    }

    #[track_caller]
    pub(super) fn enter(&self) -> Entered<'_> {
        // It would be nobody's when the inner one has ended.
        assert!(CURRENT.get().is_null(), "`block_on` was called inside a runtime");
        CURRENT.set(self);
        Entered(self)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn seat(&self) -> usize {
        self.seat
    }

    #[inline]
    fn accept(
        &self,
        shared: &Shared,
        task: Runnable,
        how: impl FnOnce(&Worker, Runnable),
    ) -> Result<(), Runnable> {
        if ptr::eq(&*self.shared, shared) && task.pinned().is_none_or(|seat| seat == self.seat) {
            how(self, task);
            Ok(())
        } else {
            Err(task)
        }
    }

    /// Queues a new task that this worker may run, or drops it if the runtime is ending.
    #[inline]
    pub(super) fn start(&self, task: Runnable) {
        if self.shared.is_stopping() {
            return drop(task);
        }
        bump(&self.counts.begun, 1);
        self.push(task);
    }

    // For tasks; see `task`.

    pub(super) fn list(&self, task: Listed) -> u32 {
        // More tasks than that would not fit any memory.
        self.tasks.borrow_mut().insert(task) as u32
    }

    pub(super) fn unlist(&self, key: u32) {
        self.tasks.borrow_mut().remove(key as usize);
    }

    pub(super) fn count_ended(&self) {
        bump(&self.counts.ended, 1);
    }

    /// A task's turn, or that of the future of a `block_on`: what runs from here was spawned there.
    #[inline]
    pub(super) fn begin(&self, spawned: &'static Location<'static>) {
        let tick = self.ticks.get() + 1;
        self.ticks.set(tick);
        self.doing.begin(tick, spawned);
    }

    #[inline]
    pub(super) fn set_running(&self, task: *const ()) {
        self.doing.set_task(task);
    }

    /// The poll is over. Returns whether the task goes to the back of the queue.
    #[inline]
    pub(super) fn take_yielded(&self) -> bool {
        self.doing.set_task(ptr::null());
        self.yielded.replace(false)
    }

    /// Queues a task that this worker may run.
    #[inline]
    pub(super) fn push(&self, task: Runnable) {
        if task.pinned().is_some() { self.own.push(task) } else { self.push_shared(task) }
    }

    fn push_shared(&self, task: Runnable) {
        if self.aside.get() {
            return self.shared.schedule(task);
        }
        // More than this worker can run at once, and the task being polled may go on for long:
        // somebody may come and steal. For what a turn has made runnable see `ask_for_help`.
        let needs_help = !self.doing.task().is_null() && !self.deque.is_empty();
        self.deque.push(task);
        if needs_help {
            self.shared.wake_one();
        }
    }

    // The loop.

    fn has_local(&self) -> bool {
        !self.own.is_empty() || (self.stealing && !self.deque.is_empty())
    }

    #[inline]
    fn take_mail(&self) {
        self.mail.take(|task| self.own.push(task));
    }

    #[inline]
    fn next(&self) -> Option<Runnable> {
        self.take_mail();
        if !self.stealing {
            return self.own.pop();
        }
        let tick = self.ticks.get();
        if tick.is_multiple_of(INJECTED_FIRST)
            && let Some(task) = self.take_injected()
        {
            return Some(task);
        }
        // Pinned tasks and others take turns.
        let local = if tick.is_multiple_of(2) {
            self.own.pop().or_else(|| self.deque.pop())
        } else {
            self.deque.pop().or_else(|| self.own.pop())
        };
        local.or_else(|| self.take_injected())
    }

    fn take_injected(&self) -> Option<Runnable> {
        if self.aside.get() { None } else { self.shared.take_injected(&self.deque) }
    }

    /// Runs tasks within the budget, or until `awake` when one has run. Returns whether there may be
    /// more.
    // The loop and the polls in one function: what surrounds a task's poll costs as much as a short
    // poll.
    #[inline(never)]
    fn run_tasks(&self, processor: &Processor, awake: impl Fn() -> bool) -> bool {
        let before = self.spent.get();
        let mut polls = before;
        // It may be time for a turn already, through the future of a local runtime's `block_on`;
        // the tasks must not pay for that.
        let was_spent = processor.should_turn();
        let mut settled = !self.stealing || self.ask_for_help(|| processor.now());
        let more = loop {
            if polls >= BUDGET || (!was_spent && processor.should_turn()) {
                break true;
            }
            let Some(task) = self.next() else { break false };
            processor.set_runnable(self.has_local());
            task.run(self);
            polls += 1;
            if awake() {
                break self.has_local();
            }
            // Now and then: it is a look at the clock.
            if !settled && (polls - before).is_power_of_two() {
                settled = self.ask_for_help(|| processor.read_clock());
            }
        };
        self.doing.end();
        processor.set_runnable(more);
        self.spent.set(polls);
        if polls > before {
            bump(&self.counts.polls, u64::from(polls - before));
        }
        more
    }

    /// Wakes another worker if turns have made more runnable than this one can run: if tasks wait here,
    /// and this thread has hardly slept since it was asked last. To wake a thread, and to hand over
    /// what has its requests here, costs more than to go on with it. If a poll lasts all the same,
    /// whoever keeps watch comes by itself. `false`: it may be worth to ask again later.
    #[inline]
    fn ask_for_help(&self, now: impl FnOnce() -> u64) -> bool {
        if self.deque.len() < 2 || !self.shared.has_idle() {
            return false;
        }
        if !self.shared.is_watched() {
            return self.shared.wake_one();
        }
        let now = now();
        // It is a system call: once a millisecond.
        self.looked.replace(now) != now && self.is_overloaded() && self.shared.wake_one()
    }

    /// Whether this thread has hardly slept since the last call.
    fn is_overloaded(&self) -> bool {
        let now = Usage::now();
        now.is_overloaded_since(self.usage.replace(now))
    }

    fn steal(&self) -> bool {
        if !self.stealing || self.aside.get() || !self.shared.has_stealable(self.seat) {
            return false;
        }
        self.shared.set_searching(true);
        let found = self.shared.steal(self.seat, &self.deque);
        self.shared.set_searching(false);
        let Some(task) = found else { return false };
        bump(&self.counts.stolen, 1);
        self.deque.push(task);
        true
    }

    /// One round: tasks, then the processor. `awake`: do not sleep; the future that the thread
    /// drives beside is polled next, and the processor has its turn when the budget is used up.
    pub(super) fn round(&self, processor: &Processor, awake: impl Fn() -> bool) {
        if self.stealing {
            self.shared.adjust(processor.now(), || processor.read_clock());
            let allowed = self.shared.is_allowed(self.seat);
            self.aside.set(!allowed && !self.stands_in(processor.now()));
        }
        let more = self.run_tasks(processor, &awake);
        // The future's poll, as one of a task.
        let spent = self.spent.get() + 1;
        if awake() && spent < BUDGET && !processor.should_turn() {
            self.spent.set(spent);
            return;
        }
        self.spent.set(0);
        let busy = more || awake() || self.steal();
        self.shared.take_ended(self.seat, |task| self.unlist_ended(task));
        bump(&self.counts.turns, 1);
        let turned =
            if busy { processor.turn(Wait::No, || true) } else { self.sleep(processor, awake) };
        if let Err(error) = turned {
            log(|| tracing::error!(%error, "the backend failed under a worker"));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn sleep(&self, processor: &Processor, awake: impl Fn() -> bool) -> io::Result<bool> {
        bump(&self.counts.sleeps, 1);
        self.shared.go_idle(self.seat);
        let needed = self.stealing && self.is_watch_needed(processor.now());
        let watches = needed && self.shared.keep_watch();
        let wait = if watches { Wait::For(WATCH) } else { Wait::Forever };
        // The turn reads the mail first, which may make tasks of this worker runnable.
        // One that may sleep for long looks whether there is something that nobody comes for.
        let all = !self.aside.get() || !needed;
        let has_work = || awake() || self.has_local() || self.shared.has_work_for(self.seat, all);
        let turned = processor.turn(wait, has_work);
        self.shared.leave_idle(self.seat);
        if watches {
            self.shared.end_watch();
            // It has tasks of its own now, or will take one, and may be kept by that itself.
            let kept = self.has_local() && self.shared.has_stealable(self.seat);
            let takes = !self.aside.get() && self.shared.is_reduced();
            if kept || takes && self.shared.has_common(self.seat) {
                self.shared.wake_one();
            }
        }
        turned
    }

    /// Looks at each worker: calls `f` with its seat, whether it polls a task, and for how many milliseconds
    /// it has not come on.
    fn look_beside(&self, now: u64, mut f: impl FnMut(usize, bool, u64)) {
        let mut seen = self.seen.borrow_mut();
        for (seat, ((polling, at), seen)) in self.shared.activity().zip(&mut *seen).enumerate() {
            if seen.0 != at {
                *seen = (at, now);
            }
            f(seat, polling, now.saturating_sub(seen.1));
        }
    }

    /// Whether another worker polls tasks, or has of late.
    fn is_watch_needed(&self, now: u64) -> bool {
        let mut needed = false;
        self.look_beside(now, |seat, polling, still| {
            needed |= seat != self.seat && (polling || still < QUIET);
        });
        needed
    }

    /// Whether tasks wait, and one of those that are to run is kept by its task, or none comes on.
    fn stands_in(&self, now: u64) -> bool {
        let (mut kept, mut all_still) = (false, true);
        self.look_beside(now, |seat, polling, still| {
            if self.shared.is_allowed(seat) {
                kept |= polling && still >= STUCK;
                all_still &= still >= STUCK;
            }
        });
        (kept || all_still) && self.shared.has_common(self.seat)
    }

    fn unlist_ended(&self, task: Listed) {
        // SAFETY: the worker's thread, and its list.
        unsafe { task.unlist(self) };
    }

    /// Drops the tasks that are queued or listed here, until none is left that this thread may
    /// drop. Only while the runtime ends.
    pub(super) fn drop_tasks(&self) {
        self.aside.set(false);
        loop {
            let mut dropped = false;
            while let Some(task) = self.next().or_else(|| self.shared.steal(self.seat, &self.deque))
            {
                // Drops the task's future, and cancels its requests.
                task.cancel(self);
                dropped = true;
            }
            self.shared.take_ended(self.seat, |task| self.unlist_ended(task));
            // A copy: dropping a future runs code of the user's, and ends tasks.
            let listed: Vec<u32> = self.tasks.borrow().iter().map(|(key, _)| key as u32).collect();
            for key in listed {
                let task = self.tasks.borrow().get(key as usize).copied();
                // SAFETY: the worker's thread, and its list. (A key used anew meanwhile is a task
                // that is to end as well.)
                dropped |= task.is_some_and(|task| unsafe { task.close(self) });
            }
            if !dropped {
                return;
            }
        }
    }
}
