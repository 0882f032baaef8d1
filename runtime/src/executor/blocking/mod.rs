//! Threads for code that blocks: started on demand up to a limit, ended when idle.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Inner {
    state: Mutex<State>,
    work: Condvar,
    gone: Condvar,
    limit: usize,
}

/// The pool behind `spawn_blocking`. Clones are the same pool.
#[derive(Clone)]
pub(super) struct Blocking(Arc<Inner>);

/// How long an idle thread waits for another job.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Jobs run outside the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job catches its own panic (see `spawn_blocking`).
                job();
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (back, timeout) = self
                .work
                .wait_timeout_while(state, KEEP_ALIVE, |s| s.jobs.is_empty() && !s.closed)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.gone.notify_all();
    }
}

impl Blocking {
    pub(super) fn new(limit: usize) -> Blocking {
        Blocking(Arc::new(Inner {
            state: Mutex::default(),
            work: Condvar::new(),
            gone: Condvar::new(),
            limit: limit.max(1),
        }))
    }

    /// Runs `job` on a thread of the pool, when one is free. `false`: the pool is closed, or no
    /// thread can be had at all; the job was dropped.
    pub(super) fn submit(&self, job: Job) -> bool {
        let mut state = self.0.lock();
        if state.closed {
            return false;
        }
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= self.0.limit {
            drop(state);
            self.0.work.notify_one();
            return true;
        }
        state.threads += 1;
        drop(state);
        let inner = self.0.clone();
        let thread = std::thread::Builder::new().name("overlapped-blocking".into());
        if let Err(error) = thread.spawn(move || inner.run()) {
            let mut state = self.0.lock();
            state.threads -= 1;
            if state.threads == 0 {
                tracing::error!(%error, "no thread can be started for blocking code");
                let job = state.jobs.pop_back();
                drop(state);
                drop(job);
                return false;
            }
        }
        true
    }

    /// Refuses further jobs, drops those that have not begun, and waits for the others, at most
    /// until `end`. Returns how many threads still run: they end by themselves.
    pub(super) fn close(&self, end: Instant) -> usize {
        let mut state = self.0.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.jobs);
        drop(state);
        drop(dropped);
        self.0.work.notify_all();
        let mut state = self.0.lock();
        while state.threads > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            if left.is_zero() {
                break;
            }
            state = self.0.gone.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.threads
    }
}
