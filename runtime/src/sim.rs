//! Simulation: a program runs on a machine that is made of memory, where time is virtual and every
//! accident is drawn from one seed.
//!
//! The I/O manager, drivers, filters, executor and the whole API are the real ones; only the hardware
//! under them is another. A [`Simulation`] with the same seed, faults and program goes the same way
//! each time, event by event, so a failure can be repeated: its seed is printed.
//!
//! ```
//! use overlapped::sim::{FaultPlan, Simulation};
//! use overlapped::{fs, net::{TcpListener, TcpStream}, time};
//!
//! // The connection may come to less at a time than was asked for, and what could be had at once is
//! // kept waiting now and then; but nothing fails.
//! let simulation = Simulation::new(42).faults(FaultPlan::rough());
//! let (sum, report) = simulation.run(async {
//!     let listener = TcpListener::bind("10.0.0.1:80").await?;
//!     overlapped::spawn(async move {
//!         let (stream, _) = listener.accept().await?;
//!         stream.write_all(vec![7; 100_000]).await?;
//!         std::io::Result::Ok(())
//!     });
//!     let stream = TcpStream::connect("10.0.0.1:80").await?;
//!     let ((), bytes) = stream.read_exact(Vec::with_capacity(100_000)).await?;
//!     time::sleep(time::Duration::from_secs(3600)).await;
//!     fs::write("/tmp/copy", bytes).await?;
//!     std::io::Result::Ok(fs::read("/tmp/copy").await?.iter().map(|&b| u64::from(b)).sum::<u64>())
//! });
//! assert_eq!(sum?, 700_000);
//! // An hour has passed in there, and here a moment.
//! assert!(report.virtual_time >= time::Duration::from_secs(3600));
//! assert!(report.left.is_nothing());
//! # std::io::Result::Ok(())
//! ```
//!
//! # What is there
//!
//! Files and directories in memory, with `/tmp` in an otherwise empty root; TCP, UDP and Unix sockets
//! on one machine that has every IP address; pipes. [`time`](crate::time) goes by the virtual clock,
//! whose present is [`time::now`](crate::time::now): the clock stands still while tasks run, and jumps
//! to what comes next when none can. There is one thread: [`spawn_blocking`](crate::spawn_blocking)
//! runs its code there, as a task. What a simulation does not have fails with
//! [`Unsupported`](std::io::ErrorKind::Unsupported): counters and timers of the system, signals,
//! standard streams, passed descriptors, FIFOs, names other than `localhost`, and anything made
//! outside of it (`from_std`) or meant for use outside (`into_std`). Descriptors are numbers of the
//! simulation's own, which the kernel does not know.
//!
//! A program that asks others for the time, for randomness or for threads is not the same each time.
//! `docs/simulation.md` has the details.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use overlapped_drivers::hal::Backend;
use overlapped_drivers::hal::sim::Simulator;
pub use overlapped_drivers::hal::sim::{Fault, FaultCounts, FaultPlan};

use crate::Builder;

/// How long, in virtual time, requests are given to end when the simulation does.
const END: Duration = Duration::from_secs(3600);

/// A simulation, before it runs. See the [module](self).
#[derive(Clone, PartialEq, Debug)]
#[must_use = "a simulation does nothing until it runs"]
pub struct Simulation {
    seed: u64,
    faults: FaultPlan,
    keep_trace: bool,
}

impl Simulation {
    /// Of this seed, without faults ([`FaultPlan::none`]).
    pub fn new(seed: u64) -> Simulation {
        Simulation { seed, faults: FaultPlan::none(), keep_trace: false }
    }

    /// What may go wrong. Can be changed on the way: [`set_faults`].
    pub fn faults(mut self, plan: FaultPlan) -> Simulation {
        self.faults = plan;
        self
    }

    /// Keeps the trace as text, for [`Report::trace`]: to see what happened, or where two runs part.
    pub fn keep_trace(mut self) -> Simulation {
        self.keep_trace = true;
        self
    }

    /// Runs a future, and the tasks it spawns, until it is ready, and ends them all. Yields its output,
    /// and a report.
    ///
    /// Dropping what it yields is no part of the simulation any more: do not let files or sockets out.
    ///
    /// # Panics
    /// When nothing can happen any more and the future is not ready: it waits for what nobody does.
    /// Inside a simulation or a runtime; on a thread that has done I/O of its own. Panics of the future
    /// go through. All after the seed has been printed.
    ///
    /// ```
    /// use overlapped::sim::Simulation;
    /// use overlapped::time::{Duration, now, sleep};
    /// let (nap, report) = Simulation::new(1).run(async {
    ///     let start = now();
    ///     sleep(Duration::from_secs(24 * 3600)).await;
    ///     now() - start
    /// });
    /// assert_eq!(nap, Duration::from_secs(24 * 3600));
    /// assert_eq!(report.operations, 0);
    /// ```
    #[track_caller]
    pub fn run<F: Future>(self, future: F) -> (F::Output, Report) {
        let _blame = Blame(self.seed);
        let simulator = Simulator::new(self.seed, self.faults, self.keep_trace);
        let entered = simulator.enter();
        let runtime = Builder::new()
            .backend(Backend::Simulated)
            .build_local()
            .unwrap_or_else(|error| panic!("a simulation cannot begin: {error}"));
        let Some(output) = runtime.block_on(unless_stuck(&simulator, future)) else {
            let requests = crate::live_requests(Duration::ZERO).requests;
            let time = simulator.figures().elapsed;
            panic!(
                "the simulation is stuck after {time:?}: nothing can happen any more.\n\
                    What is in flight: {requests:#?}"
            );
        };
        let ended = runtime.shutdown(END);
        let figures = simulator.figures();
        drop(entered);
        let report = Report {
            seed: self.seed,
            operations: figures.operations,
            virtual_time: figures.elapsed,
            trace_hash: figures.trace_hash,
            trace: figures.trace,
            faults: figures.faults,
            tasks: ended.tasks,
            left: Left {
                requests: ended.leaked_requests + ended.unclaimed_requests,
                buffers: figures.buffers,
                descriptors: figures.descriptors,
            },
        };
        (output, report)
    }
}

/// The future's output; `None` if the simulation gets stuck before.
async fn unless_stuck<F: Future>(simulator: &Simulator, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        simulator.on_stuck(cx.waker().clone());
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if simulator.is_stuck() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Prints the seed if a panic leaves the simulation.
struct Blame(u64);

impl Drop for Blame {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation failed with the seed {}", self.0);
        }
    }
}

/// Changes the faults of the calling thread's simulation from here on: none while it is set up, say,
/// or while the result is looked at.
///
/// # Panics
/// Outside a simulation.
///
/// ```
/// use overlapped::sim::{FaultPlan, Simulation, set_faults};
/// let (failed, _) = Simulation::new(5).run(async {
///     overlapped::fs::write("/tmp/a", "there").await?;
///     set_faults(FaultPlan { io_errors: 1.0, ..FaultPlan::none() });
///     let failed = overlapped::fs::read("/tmp/a").await.is_err();
///     set_faults(FaultPlan::none());
///     overlapped::fs::remove_file("/tmp/a").await?;
///     std::io::Result::Ok(failed)
/// });
/// assert!(failed?);
/// # std::io::Result::Ok(())
/// ```
#[track_caller]
pub fn set_faults(plan: FaultPlan) {
    Simulator::current().expect("this thread is in no simulation").set_faults(plan);
}

/// How a simulation went.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Operations that reached the hardware.
    pub operations: u64,
    /// Virtual time that has passed.
    pub virtual_time: Duration,
    /// A hash of all that happened, in order, with its time and data: two runs that have the same went
    /// the same way.
    pub trace_hash: u64,
    /// The same as text, a line an event, if it was kept: the time in nanoseconds, what happened, and
    /// numbers that go with it.
    pub trace: Option<String>,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// Tasks that had not ended when the future was ready; they were dropped.
    pub tasks: usize,
    /// What is left behind.
    pub left: Left,
}

/// What a simulation left behind; all zero if nothing was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Left {
    /// IRPs: in flight still, or done and in somebody's hands.
    pub requests: usize,
    /// Buffers of the processor's pool that somebody has.
    pub buffers: usize,
    /// Descriptors that are open.
    pub descriptors: usize,
}

impl Left {
    /// Whether there is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Left::default()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left { requests, buffers, descriptors } = self;
        write!(f, "{requests} requests, {buffers} buffers, {descriptors} descriptors")
    }
}
