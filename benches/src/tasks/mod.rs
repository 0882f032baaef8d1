//! What tasks and timers cost without I/O: the same work on any runtime.
//!
//! A contestant implements [`Runtime`] and calls [`Options::run`].

mod timers;
mod turn;
mod wakes;

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::contest::median;
use crate::cpu::ProcessClock;

/// What the contestants have in common. The futures are `Send` for those that move tasks between
/// threads; the others wrap theirs in [`Local`].
pub trait Runtime: Sized + 'static {
    /// A runtime for the calling thread, or with that many workers if it has such.
    ///
    /// # Errors
    /// When it cannot be set up.
    fn new(workers: usize) -> io::Result<Self>;

    /// Runs it until the future is done.
    fn block_on<F: Future>(&mut self, future: F) -> F::Output;

    /// Spawns a task; the future gives its output.
    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send;

    /// Lets other tasks run.
    fn yield_now() -> impl Future<Output = ()> + Send;

    /// Waits for the time given.
    fn sleep(limit: Duration) -> impl Future<Output = ()> + Send;
}

/// A future of a runtime that has one thread.
pub struct Local<F>(F);

impl<F> Local<F> {
    /// Calls it `Send`.
    ///
    /// # Safety
    /// It is polled and dropped on this thread only.
    pub unsafe fn new(future: F) -> Local<F> {
        Local(future)
    }
}

// SAFETY: never moved to another thread, as who made it has promised.
unsafe impl<F> Send for Local<F> {}

impl<F: Future> Future for Local<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the only field, which stays where it is.
        unsafe { self.map_unchecked_mut(|local| &mut local.0) }.poll(cx)
    }
}

/// A task's result without the error that no task here has.
pub struct Join<T>(pub T);

impl<T, V, E> Future for Join<T>
where
    T: Future<Output = Result<V, E>> + Unpin,
{
    type Output = V;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<V> {
        let joined = Pin::new(&mut self.0).poll(cx);
        joined.map(|result| result.unwrap_or_else(|_| panic!("no task fails here")))
    }
}

/// The work there is, and its usual number of rounds.
pub const WORK: [(&str, u64); 13] = [
    ("spawn-many", 1_000_000),
    ("spawn-one", 1_000_000),
    ("yield", 1_000_000),
    ("yield-many", 1_000_000),
    ("wake", 1_000_000),
    ("wake-threads", 10_000),
    ("wake-threads-busy", 100_000),
    ("wake-workers", 100_000),
    ("wake-workers-busy", 100_000),
    ("timers", 1_000_000),
    ("timers-first", 1_000_000),
    ("timers-many", 1_000_000),
    ("sleeps", 100_000),
];

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which contestant.
    pub runtime: String,
    /// Which of [`WORK`].
    pub work: String,
    /// Rounds of a batch.
    pub rounds: u64,
    /// Whether to wait for the end of the standard input before the only batch that counts.
    pub wait: bool,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// For what is not in it, or missing.
    pub fn from_args() -> Result<Options, lexopt::Error> {
        use lexopt::prelude::*;
        let (mut runtime, mut work) = (String::new(), String::new());
        let (mut rounds, mut wait) = (None, false);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => runtime = parser.value()?.string()?,
                Long("work") => work = parser.value()?.string()?,
                Long("rounds") => rounds = Some(parser.value()?.parse()?),
                Long("wait") => wait = true,
                other => return Err(other.unexpected()),
            }
        }
        let Some((_, usual)) = WORK.iter().find(|(name, _)| *name == work) else {
            let names = WORK.map(|(name, _)| name).join(", ");
            return Err(format!("--work: one of {names}, not '{work}'").into());
        };
        Ok(Options { runtime, work, rounds: rounds.unwrap_or(*usual).max(1), wait })
    }

    /// Does the work on a runtime, and prints a line of JSON: nanoseconds a round, the medians of
    /// some batches after one that does not count.
    ///
    /// # Errors
    /// When the runtime cannot be set up.
    ///
    /// # Panics
    /// When the work comes out wrong.
    pub fn run<R: Runtime>(&self, workers: usize) -> io::Result<()> {
        let mut bench = Bench { runtime: R::new(workers)? };
        let clock = ProcessClock::of(std::process::id())?;
        bench.batch(&self.work, self.rounds)?;
        let batches = if self.wait { 1 } else { 3 };
        if self.wait {
            println!("ready");
            io::stdout().flush()?;
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        let (mut wall, mut cpu, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batches {
            let (begin, before) = (Instant::now(), clock.ns()?);
            let lateness = bench.batch(&self.work, self.rounds)?;
            cpu.push((clock.ns()? - before) as f64 / self.rounds as f64);
            match lateness {
                // Nobody hurries while all sleep.
                Some(ns) => late.push(ns as f64),
                None => wall.push(begin.elapsed().as_nanos() as f64 / self.rounds as f64),
            }
        }
        let number = |values: &[f64]| Some(median(values)).filter(|value| !value.is_nan());
        println!(
            "{}",
            serde_json::json!({
                "rounds": self.rounds,
                "cpu_ns": number(&cpu),
                "wall_ns": number(&wall),
                "p99_late_ns": number(&late),
            })
        );
        Ok(())
    }
}

/// A runtime at work.
struct Bench<R> {
    runtime: R,
}

impl<R: Runtime> Bench<R> {
    /// One batch. For sleeps, how late they were at the 99th percentile, in nanoseconds.
    fn batch(&mut self, work: &str, rounds: u64) -> io::Result<Option<u64>> {
        match work {
            "spawn-one" => self.task(spawn_one::<R>(rounds)),
            "spawn-many" => self.task(spawn_many::<R>(rounds)),
            "yield" => self.task(yields::<R>(rounds)),
            "yield-many" => self.task(yield_many::<R>(rounds)),
            "wake" => self.task(wakes::two_tasks::<R>(rounds)),
            "wake-threads" => wakes::two_threads::<R>(rounds, false)?,
            "wake-threads-busy" => wakes::two_threads::<R>(rounds, true)?,
            "wake-workers" => self.task(wakes::two_workers::<R>(rounds, false)),
            "wake-workers-busy" => self.task(wakes::two_workers::<R>(rounds, true)),
            "timers" => self.task(timers::behind_another::<R>(rounds)),
            "timers-first" => self.task(timers::alone::<R>(rounds)),
            "timers-many" => self.task(timers::many::<R>(rounds)),
            "sleeps" => return Ok(Some(self.task(timers::sleeps::<R>(rounds)))),
            other => unreachable!("'{other}' was looked up"),
        }
        Ok(None)
    }

    /// Runs a future as a task, so that a multi-thread runtime works on a worker.
    fn task<F>(&mut self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.runtime.block_on(async move { R::spawn(future).await })
    }
}

async fn spawn_one<R: Runtime>(rounds: u64) {
    for i in 0..rounds {
        assert_eq!(R::spawn(async move { i }).await, i);
    }
}

async fn spawn_many<R: Runtime>(rounds: u64) {
    let mut tasks = Vec::with_capacity(1000);
    let (mut sum, mut expected) = (0, 0);
    for begin in (0..rounds).step_by(1000) {
        for i in begin..rounds.min(begin + 1000) {
            tasks.push(R::spawn(async move { i }));
            expected += i;
        }
        for task in tasks.drain(..) {
            sum += task.await;
        }
    }
    assert_eq!(sum, expected);
}

async fn yields<R: Runtime>(rounds: u64) {
    for _ in 0..rounds {
        R::yield_now().await;
    }
}

/// The same by 64 tasks in turn.
async fn yield_many<R: Runtime>(rounds: u64) {
    let tasks: Vec<_> = (0..64).map(|_| R::spawn(yields::<R>(rounds / 64))).collect();
    for task in tasks {
        task.await;
    }
}
