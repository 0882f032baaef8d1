//! What the workers of one runtime share: the common queue, the mail to each, and who sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_deque::{Injector, Steal, Stealer};
use overlapped_drivers::hal;
use overlapped_iomgr::ProcessorHandle;

use super::blocking::Blocking;
use super::concurrency::{Concurrency, Schedule};
use super::stalls::Doing;
use super::task::{Listed, Mail, Runnable};
use super::worker::{self, Counts};

/// One worker as the others see it.
pub(super) struct Seat {
    pub(super) stealer: Stealer<Runnable>,
    /// Tasks that must run on this worker, woken elsewhere.
    pub(super) mail: Arc<Mail>,
    handle: OnceLock<ProcessorHandle>,
    idle: AtomicBool,
    pub(super) counts: Arc<Counts>,
    pub(super) doing: Arc<Doing>,
    /// Empty: not begun, or the system does not tell.
    schedule: OnceLock<Schedule>,
    /// Tasks on this worker's list that have ended elsewhere.
    ended: Mutex<Vec<Listed>>,
    has_ended: AtomicBool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        ended.drain(..).for_each(Listed::leave);
    }
}

pub(super) struct Shared {
    pub(super) seats: Box<[Seat]>,
    injector: Injector<Runnable>,
    /// Tasks may run on any worker.
    pub(super) stealing: bool,
    idle: AtomicUsize,
    searching: AtomicUsize,
    /// One of the idle workers keeps watch; see [`Shared::keep_watch`].
    watched: AtomicBool,
    pub(super) concurrency: Concurrency,
    next_seat: AtomicUsize,
    stopping: AtomicBool,
    /// The workers have gone: nothing is queued any more.
    closed: AtomicBool,
    /// Tasks begun by threads that are no workers.
    begun: AtomicU64,
    pub(super) blocking: Blocking,
    /// For the processors of threads that are no workers.
    pub(super) hardware: hal::Config,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Foreign code never runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        stealers: Vec<Stealer<Runnable>>,
        stealing: bool,
        blocking: Blocking,
        hardware: hal::Config,
    ) -> Arc<Shared> {
        let seat = |stealer| Seat {
            stealer,
            mail: Arc::default(),
            handle: OnceLock::new(),
            idle: AtomicBool::new(false),
            counts: Arc::default(),
            doing: Arc::default(),
            schedule: OnceLock::new(),
            ended: Mutex::default(),
            has_ended: AtomicBool::new(false),
        };
        Arc::new(Shared {
            concurrency: Concurrency::new(stealers.len()),
            seats: stealers.into_iter().map(seat).collect(),
            injector: Injector::new(),
            stealing,
            idle: AtomicUsize::new(0),
            searching: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            next_seat: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            blocking,
            hardware,
        })
    }

    pub(super) fn set_handle(&self, seat: usize, handle: ProcessorHandle) {
        let _ = self.seats[seat].handle.set(handle);
    }

    /// By the worker itself.
    pub(super) fn begin_schedule(&self, seat: usize) {
        if let Some(schedule) = Schedule::of_this_thread() {
            let _ = self.seats[seat].schedule.set(schedule);
        }
    }

    /// Decides anew how many workers are to run, where tasks are stolen, if it is time for that: by the time
    /// of the caller's last turn, which costs nothing, and then by the clock.
    #[inline]
    pub(super) fn adjust(&self, now: u64, clock: impl FnOnce() -> u64) {
        if self.concurrency.is_due(now) {
            let workers = self.seats.iter().map(|seat| (seat.schedule.get(), seat.counts.polls()));
            if self.concurrency.look(clock, workers) {
                // One that is to run again may have tasks to take.
                self.wake_one();
            }
        }
    }

    /// Whether some are not to run: then nobody but one of those may come in time.
    pub(super) fn is_reduced(&self) -> bool {
        self.concurrency.allowed() < self.seats.len()
    }

    /// Whether a worker is one of those that are to run.
    #[inline]
    pub(super) fn is_allowed(&self, seat: usize) -> bool {
        seat < self.concurrency.allowed()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The workers have gone.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for seat in &self.seats {
            seat.mail.close(Self::too_late);
        }
        while !self.injector.is_empty() {
            drop(self.injector.steal().success());
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for seat in &self.seats {
            if let Some(handle) = seat.handle.get() {
                // Wakes it even if it is about to sleep: the work is in its mailbox.
                handle.run(|| ());
            }
        }
    }

    // Tasks.

    /// Queues a new task, or drops it if the runtime is ending.
    #[inline]
    pub(super) fn start(&self, task: Runnable) {
        if let Err(task) = worker::start_here(self, task) {
            self.start_elsewhere(task);
        }
    }

    #[inline(never)]
    fn start_elsewhere(&self, task: Runnable) {
        if self.is_stopping() {
            return drop(task);
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.schedule(task);
    }

    /// Tasks that have not ended. A moment's view, while they run.
    pub(super) fn task_count(&self) -> usize {
        let of = |counter: fn(&Counts) -> &AtomicU64| -> u64 {
            self.seats.iter().map(|seat| counter(&seat.counts).load(Ordering::Relaxed)).sum()
        };
        // Ends first: what begins meanwhile must not look like an end too many.
        let ended = of(|counts| &counts.ended);
        let begun = of(|counts| &counts.begun) + self.begun.load(Ordering::Relaxed);
        begun.saturating_sub(ended) as usize
    }

    /// A task on another worker's list has ended.
    pub(super) fn unlist(&self, seat: usize, task: Listed) {
        let seat = &self.seats[seat];
        lock(&seat.ended).push(task);
        seat.has_ended.store(true, Ordering::Release);
    }

    /// Calls `f` for the tasks of a worker's list that have ended elsewhere.
    #[inline]
    pub(super) fn take_ended(&self, seat: usize, f: impl FnMut(Listed)) {
        let seat = &self.seats[seat];
        if seat.has_ended.load(Ordering::Acquire) {
            seat.has_ended.store(false, Ordering::Relaxed);
            let list = std::mem::take(&mut *lock(&seat.ended));
            list.into_iter().for_each(f);
        }
    }

    // Queues.

    /// Queues a task for another worker, or for all.
    pub(super) fn schedule(&self, task: Runnable) {
        match task.pinned() {
            None => {
                self.injector.push(task);
                if self.closed.load(Ordering::SeqCst) {
                    // Nobody comes for it any more. Its future may be dropped anywhere.
                    while !self.injector.is_empty() {
                        drop(self.injector.steal().success());
                    }
                } else {
                    self.wake_one();
                }
            }
            Some(seat) => {
                let target = &self.seats[seat];
                if let Err(task) = target.mail.push(task) {
                    return Self::too_late(task);
                }
                if let Some(handle) = target.handle.get() {
                    handle.wake();
                }
            }
        }
    }

    /// A pinned task whose worker is gone. Unless that has ended it, its future is leaked: it may
    /// not be `Send`. One that has never run comes from another thread, and so is.
    fn too_late(task: Runnable) {
        if task.is_complete() || task.is_new() {
            drop(task);
        } else {
            std::mem::forget(task);
        }
    }

    /// The worker for a new task that stays where it is put.
    pub(super) fn pick_seat(&self) -> usize {
        worker::current_seat(self)
            .unwrap_or_else(|| self.next_seat.fetch_add(1, Ordering::Relaxed) % self.seats.len())
    }

    pub(super) fn take_injected(
        &self,
        own: &crossbeam_deque::Worker<Runnable>,
    ) -> Option<Runnable> {
        loop {
            match self.injector.steal_batch_and_pop(own) {
                Steal::Success(runnable) => return Some(runnable),
                Steal::Empty => return None,
                Steal::Retry => {}
            }
        }
    }

    pub(super) fn steal(
        &self,
        thief: usize,
        own: &crossbeam_deque::Worker<Runnable>,
    ) -> Option<Runnable> {
        let n = self.seats.len();
        for i in 1..n {
            let seat = &self.seats[(thief + i) % n];
            loop {
                match seat.stealer.steal_batch_and_pop(own) {
                    Steal::Success(runnable) => return Some(runnable),
                    Steal::Empty => break,
                    Steal::Retry => {}
                }
            }
        }
        None
    }

    /// Whether a worker that is about to sleep must not; `all`: tasks that are anybody's are its too.
    pub(super) fn has_work_for(&self, seat: usize, all: bool) -> bool {
        self.is_stopping() || !self.seats[seat].mail.is_empty() || (all && self.has_common(seat))
    }

    /// Whether there are tasks that any worker may run, on no worker's queue or another's.
    pub(super) fn has_common(&self, seat: usize) -> bool {
        self.stealing && (!self.injector.is_empty() || self.has_stealable(seat))
    }

    /// Whether some worker beside this one has tasks that others may run.
    pub(super) fn has_stealable(&self, seat: usize) -> bool {
        self.seats.iter().enumerate().any(|(at, other)| at != seat && !other.stealer.is_empty())
    }

    // Sleep.

    pub(super) fn go_idle(&self, seat: usize) {
        self.seats[seat].idle.store(true, Ordering::SeqCst);
        self.idle.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn leave_idle(&self, seat: usize) {
        if self.seats[seat].idle.swap(false, Ordering::SeqCst) {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[inline]
    pub(super) fn has_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0
    }

    // Watch: tasks may wait behind a poll that lasts, on a worker that has asked nobody for help,
    // because most polls are short. So one of the idle workers does not sleep for long.

    /// An idle worker offers to keep watch. `true`: it does, until [`Shared::end_watch`].
    pub(super) fn keep_watch(&self) -> bool {
        !self.watched.swap(true, Ordering::SeqCst)
    }

    pub(super) fn end_watch(&self) {
        self.watched.store(false, Ordering::SeqCst);
    }

    /// Whether somebody will come to see that the tasks which the caller has queued are run.
    pub(super) fn is_watched(&self) -> bool {
        // A watch that ends says so, and then looks at the queues before it sleeps. Both in one order,
        // so one of them sees the other.
        fence(Ordering::SeqCst);
        self.watched.load(Ordering::Relaxed)
    }

    /// For each worker, whether it is in a task's poll, and a number that differs when it has come on.
    pub(super) fn activity(&self) -> impl Iterator<Item = (bool, u64)> {
        self.seats.iter().map(|seat| {
            let poll = seat.doing.poll();
            (poll != 0, seat.counts.polls().wrapping_add(poll))
        })
    }

    pub(super) fn set_searching(&self, searching: bool) {
        if searching {
            self.searching.fetch_add(1, Ordering::SeqCst);
        } else {
            self.searching.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Wakes one sleeping worker, unless one is already looking for work: waking a thread costs as
    /// much as several reads. `false`: nobody was woken.
    #[inline]
    pub(super) fn wake_one(&self) -> bool {
        self.idle.load(Ordering::SeqCst) > 0
            && self.searching.load(Ordering::SeqCst) == 0
            && self.wake_idle()
    }

    #[inline(never)]
    fn wake_idle(&self) -> bool {
        let (allowed, others) = self.seats.split_at(self.concurrency.allowed());
        // One that is not to run keeps watch, and stands in if the others do not come on.
        self.wake_of(allowed) || (!self.is_watched() && self.wake_of(others))
    }

    fn wake_of(&self, seats: &[Seat]) -> bool {
        for seat in seats {
            if seat.idle.load(Ordering::Relaxed) && seat.idle.swap(false, Ordering::SeqCst) {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                if let Some(handle) = seat.handle.get() {
                    handle.wake();
                }
                return true;
            }
        }
        false
    }
}
