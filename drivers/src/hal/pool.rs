//! A bounded pool of threads for operations that have no readiness: files, and calls that block.
//!
//! ```text
//!   Hal::submit ──▶ Pool::submit ──▶ queue ──▶ thread: perform ──▶ Reply ──▶ Reply::drain in turn
//! ```
//!
//! Threads are started when a job finds none idle, up to a bound, and end after some idle seconds.
//! Jobs beyond the bound wait in the queue, which is unbounded here because requests are bounded
//! where they are issued.
//!
//! **Invariants.**
//! - A job that has been submitted is in exactly one place: the queue, or the hands of one thread
//!   (a pool's, a canceller's, or the submitter's own). Whoever holds it pushes exactly one
//!   completion on its [`Reply`].
//! - While the queue holds jobs, a thread of the pool exists or is being started, and whoever fails
//!   to start the last one does the queued jobs itself. So a job is never stranded.
//!
//! Reads next: `perform.rs`, the system calls.

mod perform;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::hal::{Completion, Op, Token, Wake};
use overlapped_iomgr::panics::log;

pub(crate) use perform::again;
pub use perform::perform;
pub(super) use perform::{errno, outcome, poll, socket_error};

/// How long a thread stays without work.
const IDLE: Duration = Duration::from_secs(10);

/// One operation for the pool.
pub struct Job {
    /// The operation's name in its completion.
    pub token: Token,
    /// What to do.
    pub op: Op,
    /// Where the completion goes.
    pub reply: Arc<Reply>,
}

// SAFETY: what keeps a job on its thread is the raw pointers in `op`. The memory they name is not
// used by anybody else until the operation's completion has been delivered; whoever calls
// `Pool::submit` promises that.
unsafe impl Send for Job {}

impl Job {
    fn run(self) {
        // SAFETY: promised by the caller of `Pool::submit`; the completion is pushed below.
        let result = unsafe { perform(&self.op) };
        self.finish(result);
    }

    fn finish(self, result: i32) {
        self.reply.push(Completion { token: self.token, result, lease: None });
    }
}

/// Where one processor's completions from pools gather until its next turn.
pub struct Reply {
    wake: Arc<dyn Wake>,
    /// Length of `finished`, for a look without the lock.
    count: AtomicUsize,
    finished: Mutex<Vec<Completion>>,
}

impl Reply {
    /// Makes an empty list; `wake` is called when it becomes non-empty.
    pub fn new(wake: Arc<dyn Wake>) -> Arc<Reply> {
        Arc::new(Reply { wake, count: AtomicUsize::new(0), finished: Mutex::default() })
    }

    fn push(&self, completion: Completion) {
        let mut finished = lock(&self.finished);
        finished.push(completion);
        let first = finished.len() == 1;
        self.count.store(finished.len(), Ordering::Release);
        drop(finished);
        // Otherwise the one who pushed the first has woken the processor, or is about to, and it
        // drains all.
        if first {
            self.wake.wake();
        }
    }

    /// Moves what has finished to the end of `out`. One load when there is nothing.
    pub fn drain(&self, out: &mut Vec<Completion>) {
        if self.count.load(Ordering::Acquire) != 0 {
            let mut finished = lock(&self.finished);
            out.append(&mut finished);
            self.count.store(0, Ordering::Release);
        }
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that exist, those being started included.
    threads: usize,
    /// Threads being started, which have not looked at the queue yet.
    starting: usize,
    /// Threads in `wait`; one that has been notified counts until it runs.
    idle: usize,
}

struct Inner {
    state: Mutex<State>,
    work: Condvar,
    max_threads: usize,
    idle_time: Duration,
}

/// A handle on a pool; clones name the same one. See the module's header.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// The process's own pool: up to four threads per core and at least eight.
    pub fn global() -> &'static Pool {
        static GLOBAL: OnceLock<Pool> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            Pool::new((4 * cores).max(8))
        })
    }

    /// A pool of its own with at most `max_threads` threads, at least one. It starts none yet.
    pub fn new(max_threads: usize) -> Pool {
        Self::with_idle_time(max_threads, IDLE)
    }

    fn with_idle_time(max_threads: usize, idle_time: Duration) -> Pool {
        let (state, work) = Default::default();
        Pool { inner: Arc::new(Inner { state, work, max_threads: max_threads.max(1), idle_time }) }
    }

    /// Queues a job. Its completion comes by its [`Reply`], even before this returns.
    ///
    /// # Safety
    /// As for `Hal::submit`: the memory that the job's operation names stays valid, and is not used
    /// by anybody else in a conflicting way, until its completion has been drained.
    pub(crate) unsafe fn submit(&self, job: Job) {
        let mut state = self.inner.lock();
        state.queue.push_back(job);
        let start = state.queue.len() > state.idle + state.starting
            && state.threads < self.inner.max_threads;
        if start {
            state.threads += 1;
            state.starting += 1;
        }
        let notify = state.idle > 0;
        drop(state);
        if notify {
            self.inner.work.notify_one();
        }
        if start {
            self.inner.start();
        }
    }

    /// Takes back a job that no thread has begun; its completion is `-ECANCELED`. Returns whether
    /// there was one. A job that runs is not disturbed.
    pub(crate) fn cancel(&self, reply: &Arc<Reply>, token: Token) -> bool {
        let mut state = self.inner.lock();
        let ours = |job: &Job| job.token == token && Arc::ptr_eq(&job.reply, reply);
        let Some(job) = state.queue.iter().position(ours).and_then(|i| state.queue.remove(i))
        else {
            return false;
        };
        drop(state);
        job.finish(-libc::ECANCELED);
        true
    }

    #[cfg(test)]
    fn threads(&self) -> usize {
        self.inner.lock().threads
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("max_threads", &self.inner.max_threads).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Starts the thread that `submit` has counted.
    fn start(self: &Arc<Inner>) {
        let inner = Arc::clone(self);
        let started =
            thread::Builder::new().name("overlapped-pool".into()).spawn(move || inner.work());
        let Err(error) = started else { return };
        log(|| tracing::warn!(%error, "cannot start a thread for blocking operations"));
        let mut state = self.lock();
        state.threads -= 1;
        state.starting -= 1;
        // With other threads the jobs wait for those. With none, nobody else would ever do them.
        while state.threads == 0 {
            let Some(job) = state.queue.pop_front() else { break };
            drop(state);
            job.run();
            state = self.lock();
        }
    }

    /// The body of a thread.
    fn work(&self) {
        let mut state = self.lock();
        state.starting -= 1;
        loop {
            while let Some(job) = state.queue.pop_front() {
                drop(state);
                job.run();
                state = self.lock();
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, self.idle_time)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// No code of others runs under these locks, so a poisoned one still guards whole data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
