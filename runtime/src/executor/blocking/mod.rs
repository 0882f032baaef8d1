//! Threads for code that blocks: started on demand up to a limit, ended when idle. The code itself
//! is in `job.rs`.
//!
//! At the limit, jobs wait first in, first out. Beyond the queue's bound they are refused and not
//! held up: the caller is a task, whose thread must not block, and a job held up in a task would
//! take the memory that the bound is to save.

mod job;

use overlapped_iomgr::panics::log;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::task::JoinError;
pub(super) use job::prepare;

/// What the pool runs; see [`job::prepare`].
pub(super) trait Job: Send + Sync {
    /// Does the work. Panics are caught.
    fn run(&self);
    /// Drops the work and reports `why` in its place.
    fn refuse(&self, why: JoinError);
}

/// Settings of the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Most threads; at least 1.
    pub(super) limit: usize,
    /// Most jobs that wait for a thread.
    pub(super) queue: usize,
    /// How long an idle thread waits for another job.
    pub(super) keep_alive: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { limit: 512, queue: usize::MAX, keep_alive: Duration::from_secs(10) }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Arc<dyn Job>>,
    threads: usize,
    /// Threads that look for a job before they do anything else.
    free: usize,
    /// Threads so far, for their names.
    started: usize,
    closed: bool,
}

struct Inner {
    state: Mutex<State>,
    work: Condvar,
    gone: Condvar,
    settings: Settings,
    /// Prefix of the threads' names.
    name: String,
}

/// The pool behind `spawn_blocking`. Clones are the same pool.
#[derive(Clone)]
pub(super) struct Blocking(Arc<Inner>);

impl Blocking {
    /// A pool without threads.
    pub(super) fn new(settings: Settings, name: &str) -> Blocking {
        Blocking(Arc::new(Inner {
            state: Mutex::default(),
            work: Condvar::new(),
            gone: Condvar::new(),
            settings,
            name: format!("{name}-blocking"),
        }))
    }

    /// Has the job run on a thread of the pool, when one is free, or refuses it.
    pub(super) fn submit(&self, job: Arc<dyn Job>) {
        let settings = &self.0.settings;
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            return job.refuse(JoinError::cancelled());
        }
        let is_served = state.jobs.len() < state.free;
        if !is_served && state.threads == settings.limit {
            if state.jobs.len() - state.free >= settings.queue {
                drop(state);
                return job.refuse(JoinError::queue_full());
            }
            return state.jobs.push_back(job);
        }
        state.jobs.push_back(job);
        if is_served {
            drop(state);
            self.0.work.notify_one();
        } else if let Err(error) = self.0.start_thread(state) {
            self.no_thread(error);
        }
    }

    /// No thread can be started: the job waits for another, if there is one.
    #[cold]
    fn no_thread(&self, error: io::Error) {
        let mut state = self.0.lock();
        state.threads -= 1;
        state.free -= 1;
        if state.threads > 0 {
            return;
        }
        let refused = std::mem::take(&mut state.jobs);
        drop(state);
        log(|| tracing::error!(%error, "no thread can be started for blocking code"));
        refused.into_iter().for_each(|job| job.refuse(JoinError::no_thread()));
    }

    /// Refuses further jobs, and drops those that have not begun.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.jobs);
        drop(state);
        dropped.into_iter().for_each(|job| job.refuse(JoinError::cancelled()));
        self.0.work.notify_all();
    }

    /// Waits until the threads have gone, at most until `end`. Returns how many are left: they end
    /// by themselves. Only once it is closed.
    pub(super) fn wait(&self, end: Instant) -> usize {
        let mut state = self.0.lock();
        while state.threads > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.0.gone.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.threads
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run, and are dropped, outside the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> io::Result<()> {
        let name = format!("{}-{}", self.name, state.started);
        state.threads += 1;
        state.free += 1;
        state.started += 1;
        drop(state);
        let inner = self.clone();
        std::thread::Builder::new().name(name).spawn(move || inner.run()).map(drop)
    }

    /// A thread's life.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.free -= 1;
                drop(state);
                job.run();
                drop(job);
                state = self.lock();
                state.free += 1;
                continue;
            }
            if state.closed {
                break;
            }
            let (back, timeout) = self
                .work
                .wait_timeout_while(state, self.settings.keep_alive, |s| {
                    s.jobs.is_empty() && !s.closed
                })
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        state.free -= 1;
        drop(state);
        self.gone.notify_all();
    }
}
