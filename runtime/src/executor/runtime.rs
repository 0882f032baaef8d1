//! Runtimes: their threads, `block_on`, and their end.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_deque::Worker as Deque;
use overlapped_drivers::hal;
use overlapped_iomgr::panics::log;
use overlapped_iomgr::{LiveRequest, Processor, ShutdownReport};

use super::blocking::Blocking;
use super::builder::{Builder, Flavor};
use super::context::Scope;
use super::drive::{block_on_here, drive, make_processor};
use super::handle::{Handle, spawn_on};
use super::shared::Shared;
use super::stalls::Watch;
use super::task::JoinHandle;
use super::worker::Worker;
use crate::time::after;

/// What the end of a runtime left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeReport {
    /// Tasks that had not finished; their futures were dropped.
    pub tasks: usize,
    /// Requests still in flight at the deadline; their memory is leaked.
    pub leaked_requests: usize,
    /// What they are: operation, file, and the driver that has it.
    pub leaks: Vec<LiveRequest>,
    /// Requests that are done, and whose result somebody has not let go of.
    pub unclaimed_requests: usize,
    /// Blocking threads that still run; they end by themselves.
    pub blocking_threads: usize,
    /// Workers that did not come to an end in time: a task blocks them.
    pub stuck_workers: usize,
}

impl RuntimeReport {
    fn add(&mut self, left: ShutdownReport) {
        self.leaked_requests += left.leaked;
        self.leaks.extend(left.requests);
        self.unclaimed_requests += left.unclaimed;
    }
}

/// A multi-thread runtime. Dropping it is [`Runtime::shutdown`] with five seconds.
///
/// ```
/// let runtime = overlapped::Runtime::new_default()?;
/// let answer = runtime.block_on(async { overlapped::spawn(async { 42 }).await.unwrap() });
/// assert_eq!(answer, 42);
/// # std::io::Result::Ok(())
/// ```
pub struct Runtime {
    pub(super) shared: Arc<Shared>,
    workers: Vec<thread::JoinHandle<()>>,
    /// What each worker had to leak. In a lock only to be shared.
    reports: Mutex<mpsc::Receiver<ShutdownReport>>,
    deadline: Arc<Mutex<Instant>>,
    _watch: Option<Watch>,
}

impl Runtime {
    /// A runtime with the defaults of [`Builder`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new_default() -> io::Result<Runtime> {
        Builder::new().build()
    }

    pub(super) fn new(builder: Builder) -> io::Result<Runtime> {
        hal::install();
        let deques: Vec<_> = (0..builder.workers).map(|_| Deque::new_fifo()).collect();
        let stealers = deques.iter().map(Deque::stealer).collect();
        let sharded = builder.flavor == Flavor::Sharded;
        // With one worker there is nobody to steal from, and its queue can be a plain one.
        let stealing = !sharded && builder.workers > 1;
        let blocking = Blocking::new(builder.blocking, &builder.thread_name);
        let shared = Shared::new(stealers, stealing, blocking, builder.hardware.clone());
        let (ready_send, ready) = mpsc::channel();
        let (report_send, reports) = mpsc::channel();
        let deadline = Arc::new(Mutex::new(Instant::now()));
        let watch = begin_watch(&builder, &shared)?;
        let mut runtime = Runtime {
            shared,
            workers: Vec::new(),
            reports: Mutex::new(reports),
            deadline,
            _watch: watch,
        };
        for (seat, deque) in deques.into_iter().enumerate() {
            let shared = runtime.shared.clone();
            let config = builder.hardware.clone();
            let (ready, report) = (ready_send.clone(), report_send.clone());
            let deadline = runtime.deadline.clone();
            let body = move || {
                if sharded {
                    pin_to_core(seat);
                }
                let processor = match make_processor(&config) {
                    Ok(processor) => processor,
                    Err(error) => {
                        // It leaves nothing, for which the end would wait.
                        let _ = report.send(ShutdownReport::default());
                        return drop(ready.send(Err(error)));
                    }
                };
                shared.set_handle(seat, processor.handle());
                shared.begin_schedule(seat);
                let worker = Worker::new(shared, seat, deque);
                let _ = ready.send(Ok(()));
                let left = work(&worker, processor, &deadline);
                let _ = report.send(left);
            };
            let thread = thread::Builder::new()
                .name(format!("{}-{seat}", builder.thread_name))
                .spawn(body)?;
            runtime.workers.push(thread);
        }
        drop(ready_send);
        for _ in 0..builder.workers {
            // A worker that cannot begin says why; the others end with the runtime.
            ready.recv().unwrap_or_else(|_| Err(io::Error::other("a worker died at its start")))?;
        }
        Ok(runtime)
    }

    /// Runs a future on the calling thread, with the runtime's workers beside it, and returns its
    /// output. Requests awaited in it are driven by this thread.
    ///
    /// # Panics
    /// Inside a runtime's worker or another `block_on`: it would stop what it waits for. Await
    /// there. Also when the thread's hardware cannot be set up.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on_here(&self.shared, future)
    }

    /// The handle for spawning.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// As [`Handle::spawn`].
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn_on(&self.shared, future, Location::caller())
    }

    /// Ends the runtime: drops all tasks, cancels their requests, waits for those and for blocking
    /// code at most as long as `limit`, and reports what is left.
    pub fn shutdown(mut self, limit: Duration) -> RuntimeReport {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> RuntimeReport {
        let end = after(Instant::now(), limit);
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = end;
        let mut report = RuntimeReport { tasks: self.shared.task_count(), ..Default::default() };
        self.shared.stop();
        self.shared.blocking.close();
        report.blocking_threads = self.shared.blocking.wait(end);
        // A little longer than the workers give their requests.
        let patience = end + Duration::from_millis(200);
        let reports = self.reports.get_mut().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..self.workers.len() {
            let left = patience.saturating_duration_since(Instant::now());
            match reports.recv_timeout(left) {
                Ok(left) => report.add(left),
                Err(_) => report.stuck_workers += 1,
            }
        }
        self.shared.close();
        for worker in self.workers.drain(..) {
            // One that is stuck is left alone.
            if report.stuck_workers == 0 {
                let _ = worker.join();
            }
        }
        report
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let report = self.end(Duration::from_secs(5));
        if report.leaked_requests + report.stuck_workers > 0 {
            log(|| tracing::error!(?report, "the runtime did not end cleanly"));
        }
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Runtime>();
};

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

fn begin_watch(builder: &Builder, shared: &Arc<Shared>) -> io::Result<Option<Watch>> {
    let begin = |settings| Watch::begin(settings, shared.clone(), &builder.thread_name);
    builder.stalls.clone().map(begin).transpose()
}

/// A worker thread's life. Returns what it had to leak.
fn work(worker: &Worker, processor: Processor, deadline: &Mutex<Instant>) -> ShutdownReport {
    let _entered = worker.enter();
    let _scope = Scope::enter(worker.shared());
    while !worker.shared().is_stopping() {
        worker.round(&processor, || false);
    }
    worker.drop_tasks();
    let end = *deadline.lock().unwrap_or_else(PoisonError::into_inner);
    let left = processor.shutdown(end.saturating_duration_since(Instant::now()));
    worker.drop_tasks();
    left
}

fn pin_to_core(seat: usize) {
    // SAFETY: the set is plain bits, and the calls only read and write it.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&allowed), &mut allowed) != 0 {
            return;
        }
        let cores: Vec<usize> =
            (0..libc::CPU_SETSIZE as usize).filter(|&c| libc::CPU_ISSET(c, &allowed)).collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cores[seat % cores.len()], &mut one);
        // Not being allowed to is no error: the worker then runs where the system puts it.
        libc::sched_setaffinity(0, size_of_val(&one), &one);
    }
}

/// A runtime on one thread: everything runs there, nothing needs to be `Send`.
///
/// ```
/// let runtime = overlapped::Builder::new().build_local()?;
/// let rc = std::rc::Rc::new(1);
/// assert_eq!(runtime.block_on(async { overlapped::spawn_local(async move { *rc }).await.unwrap() }), 1);
/// # std::io::Result::Ok(())
/// ```
pub struct LocalRuntime {
    worker: Worker,
    processor: Option<Processor>,
    _watch: Option<Watch>,
}

impl LocalRuntime {
    pub(super) fn new(builder: Builder) -> io::Result<LocalRuntime> {
        let processor = make_processor(&builder.hardware)?;
        let deque = Deque::new_fifo();
        let blocking = Blocking::new(builder.blocking, &builder.thread_name);
        let shared = Shared::new(vec![deque.stealer()], false, blocking, builder.hardware.clone());
        shared.set_handle(0, processor.handle());
        let watch = begin_watch(&builder, &shared)?;
        let worker = Worker::new(shared, 0, deque);
        Ok(LocalRuntime { worker, processor: Some(processor), _watch: watch })
    }

    fn processor(&self) -> &Processor {
        self.processor.as_ref().expect("only the end takes it")
    }

    /// Runs a future, and the tasks it spawns, until it is ready.
    ///
    /// # Panics
    /// Inside another `block_on`.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let here = Location::caller();
        let _entered = self.worker.enter();
        let _scope = Scope::enter(self.worker.shared());
        self.worker.begin(here);
        drive(self.processor(), future, |main| {
            self.worker.round(self.processor(), || main.is_woken());
            self.worker.begin(here);
        })
    }

    /// The handle for spawning.
    pub fn handle(&self) -> Handle {
        Handle::new(self.worker.shared().clone())
    }

    /// As [`Runtime::shutdown`].
    pub fn shutdown(mut self, limit: Duration) -> RuntimeReport {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> RuntimeReport {
        let end = after(Instant::now(), limit);
        let shared = self.worker.shared().clone();
        let mut report = RuntimeReport { tasks: shared.task_count(), ..Default::default() };
        let _entered = self.worker.enter();
        let _scope = Scope::enter(&shared);
        shared.stop();
        self.worker.drop_tasks();
        shared.blocking.close();
        // Before blocking code is waited for: requests end soon, and need the time to do so.
        if let Some(processor) = self.processor.take() {
            let left = end.saturating_duration_since(Instant::now());
            report.add(processor.shutdown(left));
        }
        report.blocking_threads = shared.blocking.wait(end);
        self.worker.drop_tasks();
        shared.close();
        report
    }
}

impl Drop for LocalRuntime {
    fn drop(&mut self) {
        if self.processor.is_some() {
            let report = self.end(Duration::from_secs(5));
            if report.leaked_requests > 0 {
                log(|| tracing::error!(?report, "the runtime did not end cleanly"));
            }
        }
    }
}

impl fmt::Debug for LocalRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRuntime").finish_non_exhaustive()
    }
}

/// Runs a future, and the tasks it spawns, on the calling thread alone, until it is ready.
///
/// # Panics
/// Inside a runtime, or when the hardware cannot be set up.
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    match Builder::new().build_local() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => panic!("block_on cannot begin: {error}"),
    }
}
