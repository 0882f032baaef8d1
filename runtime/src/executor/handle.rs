//! A runtime as its users hold it: spawning, and `block_on` beside it.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use overlapped_drivers::hal::Backend;

use super::blocking::prepare;
use super::drive::block_on_here;
#[cfg(doc)]
use super::runtime::LocalRuntime;
use super::shared::Shared;
use super::task::{self, JoinError, JoinHandle, Plain};
use super::worker::{self, Worker, WorkerMetrics};

/// A runtime, from anywhere: spawns its tasks, runs futures beside it. Clones are the same; a handle
/// does not keep the runtime from ending.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// Starts a task on a runtime.
#[inline]
pub(super) fn spawn_on<F>(
    shared: &Shared,
    future: F,
    spawned: &'static Location<'static>,
) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_outcome(shared, Plain { future }, spawned)
}

/// As [`spawn_on`] with the calling thread's worker.
#[inline]
pub(super) fn spawn_here<F>(
    worker: &Worker,
    future: F,
    spawned: &'static Location<'static>,
) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let seat = if worker.shared().stealing { None } else { Some(worker.seat()) };
    // SAFETY: the future is `Send`.
    let (task, handle) = unsafe { task::new(Plain { future }, seat, spawned) };
    worker.start(task);
    handle
}

/// Starts a task whose future may also find that there is no value.
#[inline]
fn spawn_outcome<F, T>(
    shared: &Shared,
    future: F,
    spawned: &'static Location<'static>,
) -> JoinHandle<T>
where
    F: Future<Output = Result<T, JoinError>> + Send + 'static,
    T: Send + 'static,
{
    let seat = if shared.stealing { None } else { Some(shared.pick_seat()) };
    // SAFETY: the future is `Send`.
    let (task, handle) = unsafe { task::new(future, seat, spawned) };
    shared.start(task);
    handle
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Handle {
        Handle(shared)
    }

    /// The runtime that the calling thread is in.
    ///
    /// # Panics
    /// Outside a runtime: on threads of `spawn_blocking` and of one's own. Pass them a handle.
    ///
    /// ```
    /// overlapped::block_on(async {
    ///     let handle = overlapped::Handle::current();
    ///     let worker = std::thread::spawn(move || handle.spawn(async { 42 }));
    ///     let task = overlapped::spawn_blocking(move || worker.join().unwrap()).await.unwrap();
    ///     assert_eq!(task.await.unwrap(), 42);
    /// });
    /// ```
    #[track_caller]
    pub fn current() -> Handle {
        super::context::current()
    }

    /// Starts a task, on the calling worker if it is one of this runtime's, otherwise on any. On a
    /// runtime that is ending, the handle yields a cancelled [`JoinError`].
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn_on(&self.0, future, Location::caller())
    }

    #[track_caller]
    pub(super) fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let shared = &self.0;
        let seat = worker::current_seat(shared)
            .expect("`spawn_local` needs a worker's thread: call it in a task or a local runtime");
        // SAFETY: pinned to the calling worker.
        let (task, handle) = unsafe { task::new(Plain { future }, Some(seat), Location::caller()) };
        shared.start(task);
        handle
    }

    /// Runs blocking code on a thread of its own kind; see [`crate::spawn_blocking`].
    #[track_caller]
    pub fn spawn_blocking<T, F>(&self, work: F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (job, outcome) = prepare(work);
        if self.0.hardware.backend == Some(Backend::Simulated) {
            // There is one thread, and no time for others: it runs there when its turn comes.
            drop(self.spawn(async move { job.run() }));
        } else {
            self.0.blocking.submit(job);
        }
        spawn_outcome(&self.0, outcome, Location::caller())
    }

    /// Runs a future on the calling thread, which drives its requests and timers, with the runtime's
    /// workers beside it, and returns its output. What it spawns runs on the workers: with a
    /// [`LocalRuntime`]'s handle, that is while that runtime's own thread is in `block_on`. On a
    /// runtime that has ended, what it spawns is cancelled.
    ///
    /// # Panics
    /// Inside a runtime, and on the thread of a [`LocalRuntime`]: await there, or call
    /// [`LocalRuntime::block_on`]. Also when the thread's hardware cannot be set up.
    ///
    /// ```
    /// let runtime = overlapped::Runtime::new_default()?;
    /// let handle = runtime.handle();
    /// let other = std::thread::spawn(move || {
    ///     handle.block_on(async { overlapped::spawn(async { 42 }).await.unwrap() })
    /// });
    /// assert_eq!(other.join().unwrap(), 42);
    /// # std::io::Result::Ok(())
    /// ```
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on_here(&self.0, future)
    }

    /// What each worker has done so far.
    pub fn metrics(&self) -> Vec<WorkerMetrics> {
        self.0.seats.iter().map(|seat| seat.counts.read()).collect()
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.0.task_count()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("workers", &self.0.seats.len()).finish_non_exhaustive()
    }
}
