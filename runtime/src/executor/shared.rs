//! What the workers of one runtime share: the common queue, the inboxes, who sleeps, and the list
//! of all tasks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use crossbeam_deque::{Injector, Steal, Stealer};
use overlapped_iomgr::ProcessorHandle;
use slab::Slab;

use super::blocking::Blocking;
use super::task::Runnable;
use super::worker::{self, Counts};

/// A task's place in the list of tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    shard: u32,
    key: u32,
}

impl Default for Ticket {
    /// The ticket of a task that was refused: on no list.
    fn default() -> Self {
        Ticket { shard: 0, key: u32::MAX }
    }
}

/// One worker as the others see it.
pub(super) struct Seat {
    pub(super) stealer: Stealer<Runnable>,
    /// Tasks that must run on this worker, woken elsewhere.
    inbox: Mutex<Vec<Runnable>>,
    has_inbox: AtomicBool,
    handle: OnceLock<ProcessorHandle>,
    idle: AtomicBool,
    pub(super) counts: Counts,
    /// Wakers of the tasks spawned here, so that the end of the runtime finds them all.
    tasks: Mutex<Slab<Option<Waker>>>,
}

pub(super) struct Shared {
    pub(super) seats: Box<[Seat]>,
    injector: Injector<Runnable>,
    /// Tasks may run on any worker.
    pub(super) stealing: bool,
    idle: AtomicUsize,
    searching: AtomicUsize,
    next_seat: AtomicUsize,
    stopping: AtomicBool,
    /// The workers have gone: nothing is queued any more.
    closed: AtomicBool,
    pub(super) blocking: Blocking,
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
    ) -> Arc<Shared> {
        let seat = |stealer| Seat {
            stealer,
            inbox: Mutex::default(),
            has_inbox: AtomicBool::new(false),
            handle: OnceLock::new(),
            idle: AtomicBool::new(false),
            counts: Counts::default(),
            tasks: Mutex::default(),
        };
        Arc::new(Shared {
            seats: stealers.into_iter().map(seat).collect(),
            injector: Injector::new(),
            stealing,
            idle: AtomicUsize::new(0),
            searching: AtomicUsize::new(0),
            next_seat: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            blocking,
        })
    }

    pub(super) fn set_handle(&self, seat: usize, handle: ProcessorHandle) {
        let _ = self.seats[seat].handle.set(handle);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
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

    /// Puts a new task on the list. `None`: the runtime is ending.
    pub(super) fn register_task(&self) -> Option<Ticket> {
        let shard = worker::current_seat(self).unwrap_or(0);
        let mut tasks = lock(&self.seats[shard].tasks);
        if self.is_stopping() {
            return None;
        }
        let key = tasks.insert(None);
        Some(Ticket { shard: shard as u32, key: key as u32 })
    }

    pub(super) fn set_task_waker(&self, ticket: Ticket, waker: Waker) {
        lock(&self.seats[ticket.shard as usize].tasks)[ticket.key as usize] = Some(waker);
    }

    pub(super) fn forget_task(&self, ticket: Ticket) {
        let waker = {
            let mut tasks = lock(&self.seats[ticket.shard as usize].tasks);
            tasks.try_remove(ticket.key as usize)
        };
        drop(waker);
    }

    pub(super) fn wake_task(&self, ticket: Ticket) {
        let waker = {
            let tasks = lock(&self.seats[ticket.shard as usize].tasks);
            tasks.get(ticket.key as usize).cloned().flatten()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes every task there is; with `is_stopping` set, waking one is dropping it.
    pub(super) fn wake_all_tasks(&self) {
        for seat in &self.seats {
            let wakers: Vec<_> =
                lock(&seat.tasks).iter().filter_map(|(_, waker)| waker.clone()).collect();
            for waker in wakers {
                waker.wake();
            }
        }
    }

    pub(super) fn task_count(&self) -> usize {
        self.seats.iter().map(|seat| lock(&seat.tasks).len()).sum()
    }

    // Queues.

    /// Queues a task that may run anywhere.
    #[inline]
    pub(super) fn schedule(runnable: Runnable) {
        let Err(runnable) = worker::push_local(runnable) else { return };
        // A clone, because the task may run, end and let go of its own as soon as it is queued.
        let shared = runnable.metadata().shared().clone();
        if shared.closed.load(Ordering::SeqCst) {
            // Dropping it drops the task's future.
            return drop(runnable);
        }
        shared.injector.push(runnable);
        shared.wake_one();
    }

    /// Queues a task that must run on one worker.
    #[inline]
    pub(super) fn schedule_on(&self, seat: usize, runnable: Runnable) {
        if let Err(runnable) = worker::push_pinned(self, seat, runnable) {
            if self.closed.load(Ordering::SeqCst) {
                // Its future may be dropped on its own thread only, which is gone.
                return std::mem::forget(runnable);
            }
            let target = &self.seats[seat];
            lock(&target.inbox).push(runnable);
            target.has_inbox.store(true, Ordering::SeqCst);
            if let Some(handle) = target.handle.get() {
                handle.wake();
            }
        }
    }

    /// The worker for a new task that stays where it is put.
    pub(super) fn pick_seat(&self) -> usize {
        worker::current_seat(self)
            .unwrap_or_else(|| self.next_seat.fetch_add(1, Ordering::Relaxed) % self.seats.len())
    }

    pub(super) fn take_inbox(&self, seat: usize, into: &mut impl Extend<Runnable>) {
        let seat = &self.seats[seat];
        if seat.has_inbox.load(Ordering::Acquire) {
            let list = {
                let mut inbox = lock(&seat.inbox);
                seat.has_inbox.store(false, Ordering::Relaxed);
                std::mem::take(&mut *inbox)
            };
            into.extend(list);
        }
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

    /// Whether a worker that is about to sleep must not.
    pub(super) fn has_work_for(&self, seat: usize) -> bool {
        self.is_stopping()
            || self.seats[seat].has_inbox.load(Ordering::SeqCst)
            || (self.stealing
                && (!self.injector.is_empty() || self.seats.iter().any(|s| !s.stealer.is_empty())))
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

    pub(super) fn set_searching(&self, searching: bool) {
        if searching {
            self.searching.fetch_add(1, Ordering::SeqCst);
        } else {
            self.searching.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Wakes one sleeping worker, unless one is already looking for work: waking a thread costs as
    /// much as several reads.
    #[inline]
    pub(super) fn wake_one(&self) {
        if self.idle.load(Ordering::SeqCst) == 0 || self.searching.load(Ordering::SeqCst) > 0 {
            return;
        }
        for seat in &self.seats {
            if seat.idle.load(Ordering::Relaxed) && seat.idle.swap(false, Ordering::SeqCst) {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                if let Some(handle) = seat.handle.get() {
                    handle.wake();
                }
                return;
            }
        }
    }
}
