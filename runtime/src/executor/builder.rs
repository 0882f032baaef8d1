//! Settings of a runtime.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use overlapped_drivers::hal::{Backend, Config};

use super::blocking::Settings;
use super::runtime::{LocalRuntime, Runtime};
use super::stalls::{self, Stall};
#[cfg(doc)]
use super::worker::WorkerMetrics;

/// How a [`Runtime`]'s workers share tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flavor {
    /// Tasks may run on any worker; idle workers steal.
    #[default]
    Stealing,
    /// Tasks stay on the worker they were spawned on, and each worker on a processor core of its
    /// own.
    Sharded,
}

/// Settings of a runtime: of a [`Runtime`] with several workers ([`Builder::build`]), or of a
/// [`LocalRuntime`] on the calling thread ([`Builder::build_local`]), for which the number of
/// workers and the flavor mean nothing.
///
/// ```
/// use overlapped::{Builder, Flavor};
/// let runtime = Builder::new().workers(2).flavor(Flavor::Sharded).build()?;
/// assert_eq!(runtime.block_on(async { 1 + 1 }), 2);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) workers: usize,
    pub(super) flavor: Flavor,
    pub(super) hardware: Config,
    pub(super) blocking: Settings,
    pub(super) thread_name: String,
    pub(super) stalls: Option<stalls::Settings>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The defaults: one worker for each core, stealing, the backend that the kernel allows, at
    /// most 512 blocking threads.
    pub fn new() -> Builder {
        Builder {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            flavor: Flavor::default(),
            hardware: Config::default(),
            blocking: Settings::default(),
            thread_name: "overlapped".into(),
            stalls: None,
        }
    }

    /// Number of workers of a [`Runtime`]; 0 means 1. Default: what
    /// [`available_parallelism`](std::thread::available_parallelism) says.
    ///
    /// Workers that steal do not all run when they make each other, or those they serve, wait for cores
    /// and fewer get as much done: the others keep what is bound to them, and stand in for one that a
    /// task keeps for milliseconds.
    pub fn workers(mut self, workers: usize) -> Builder {
        self.workers = workers.max(1);
        self
    }

    /// How the workers share tasks. Default: [`Flavor::Stealing`].
    pub fn flavor(mut self, flavor: Flavor) -> Builder {
        self.flavor = flavor;
        self
    }

    /// Asks for a backend. Default: `OVERLAPPED_BACKEND`, then what the kernel allows.
    pub fn backend(mut self, backend: Backend) -> Builder {
        self.hardware.backend = Some(backend);
        self
    }

    /// All settings of the hardware.
    pub fn hardware(mut self, hardware: Config) -> Builder {
        self.hardware = hardware;
        self
    }

    /// Most threads that [`crate::spawn_blocking`] may start; 0 means 1. Default: 512.
    pub fn blocking_limit(mut self, limit: usize) -> Builder {
        self.blocking.limit = limit.max(1);
        self
    }

    /// Most pieces of blocking code that may wait while all threads are busy; further ones are
    /// refused (see [`crate::spawn_blocking`]). Default: no bound.
    pub fn blocking_queue(mut self, bound: usize) -> Builder {
        self.blocking.queue = bound;
        self
    }

    /// How long an idle thread for blocking code waits for more before it ends. Default: 10 s.
    pub fn blocking_keep_alive(mut self, limit: Duration) -> Builder {
        self.blocking.keep_alive = limit;
        self
    }

    /// Prefix of the threads' names, "overlapped" by default: `overlapped-0` is the first worker,
    /// `overlapped-blocking-0` the first thread for blocking code. The system keeps 15 bytes.
    pub fn thread_name(mut self, name: impl Into<String>) -> Builder {
        self.thread_name = name.into();
        self
    }

    /// Has workers watched: one that does not come back from a task's poll for as long as
    /// `threshold` is reported through `tracing`, counted in [`WorkerMetrics::stalls`], and told to
    /// `hook`; and again each time the duration has doubled. A threshold below a millisecond means
    /// one. Default: nobody is watched.
    ///
    /// Such a task holds up the I/O and the timers of its worker, and the tasks that are bound to
    /// it. The others that wait in its queue are left to another worker, which is woken now if all
    /// were asleep. Blocking code belongs into [`spawn_blocking`](crate::spawn_blocking).
    ///
    /// The watch is a thread that looks at all workers four times in each threshold; the workers
    /// pay nothing for it. It calls `hook`, which should not block.
    ///
    /// ```
    /// use overlapped::Builder;
    /// use std::time::Duration;
    /// let (report, reported) = std::sync::mpsc::channel();
    /// let hook = move |stall: &overlapped::Stall| drop(report.send(stall.to_string()));
    /// let runtime = Builder::new().report_stalls(Duration::from_millis(5), hook).build()?;
    /// let task = runtime.spawn(async move {
    ///     // Blocks, as no task should, until the report has come.
    ///     reported.recv().unwrap()
    /// });
    /// let report = runtime.block_on(task).unwrap();
    /// assert!(report.contains("has kept worker"), "{report}");
    /// # std::io::Result::Ok(())
    /// ```
    pub fn report_stalls(
        mut self,
        threshold: Duration,
        hook: impl Fn(&Stall) + Send + Sync + 'static,
    ) -> Builder {
        let threshold = threshold.max(Duration::from_millis(1));
        self.stalls = Some(stalls::Settings { threshold, hook: Arc::new(hook) });
        self
    }

    /// A multi-thread runtime.
    ///
    /// # Errors
    /// When a thread cannot be started or its hardware cannot be set up.
    pub fn build(self) -> io::Result<Runtime> {
        Runtime::new(self)
    }

    /// A runtime on the calling thread alone.
    ///
    /// # Errors
    /// When the hardware cannot be set up; `AlreadyExists` inside another runtime.
    pub fn build_local(self) -> io::Result<LocalRuntime> {
        LocalRuntime::new(self)
    }
}
