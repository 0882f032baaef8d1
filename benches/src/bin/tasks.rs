//! What a task costs, without I/O: spawning and joining, yielding, waking.
//!
//! `tasks --runtime overlapped|overlapped-mt|tokio|tokio-mt --work spawn-one|spawn-many|yield|wake
//! [--rounds N]`
//!
//! Prints nanoseconds a round, the best of five batches.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Instant;

/// What the contestants have in common.
trait Runtime: 'static {
    fn block_on<F: Future>(&self, future: F) -> F::Output;
    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send;
    fn yield_now() -> impl Future<Output = ()> + Send;
}

struct Ours(overlapped::LocalRuntime);
struct OursMt(overlapped::Runtime);
struct Tokio(tokio::runtime::Runtime);

macro_rules! overlapped_tasks {
    () => {
        fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
        where
            F: Future + Send + 'static,
            F::Output: Send,
        {
            Join(overlapped::spawn(future))
        }
        fn yield_now() -> impl Future<Output = ()> + Send {
            overlapped::yield_now()
        }
    };
}

struct Join<T>(T);

impl<T: Future<Output = Result<V, E>> + Unpin, V, E: std::fmt::Debug> Future for Join<T> {
    type Output = V;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Self::Output> {
        pin!(&mut self.0).poll(cx).map(|result| result.expect("no task fails here"))
    }
}

impl Runtime for Ours {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
    overlapped_tasks!();
}

impl Runtime for OursMt {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
    overlapped_tasks!();
}

impl Runtime for Tokio {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        Join(tokio::spawn(future))
    }
    fn yield_now() -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }
}

/// A turn that goes back and forth between two tasks.
#[derive(Default)]
struct Turn(Mutex<(u64, Option<Waker>)>);

impl Turn {
    /// Waits until the count has the parity given, then adds one.
    fn pass(&self, parity: u64) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(move |cx| {
            let mut turn = self.0.lock().expect("nobody panics");
            if turn.0 % 2 != parity {
                turn.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            turn.0 += 1;
            let other = turn.1.take();
            drop(turn);
            if let Some(other) = other {
                other.wake();
            }
            Poll::Ready(())
        })
    }
}

async fn work<R: Runtime>(what: &str, rounds: u64) {
    match what {
        "spawn-one" => {
            for i in 0..rounds {
                assert_eq!(R::spawn(async move { i }).await, i);
            }
        }
        "spawn-many" => {
            let sum = Arc::new(AtomicU64::new(0));
            let mut tasks = Vec::with_capacity(1000);
            for i in 0..rounds / 1000 {
                for j in 0..1000 {
                    tasks.push(R::spawn(async move { i + j }));
                }
                for task in tasks.drain(..) {
                    sum.fetch_add(task.await, Ordering::Relaxed);
                }
            }
        }
        "yield" => {
            for _ in 0..rounds {
                R::yield_now().await;
            }
        }
        "wake" => {
            let turn = Arc::new(Turn::default());
            let other = turn.clone();
            let task = R::spawn(async move {
                for _ in 0..rounds {
                    other.pass(1).await;
                }
            });
            for _ in 0..rounds {
                turn.pass(0).await;
            }
            task.await;
        }
        other => panic!("--work: spawn-one, spawn-many, yield or wake, not '{other}'"),
    }
}

fn measure<R: Runtime>(runtime: R, what: &str, rounds: u64) {
    let what: &'static str = what.to_owned().leak();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        // In a task, so that a multi-thread runtime works on a worker.
        runtime.block_on(async move { R::spawn(work::<R>(what, rounds)).await });
        best = best.min(begin.elapsed().as_nanos() as f64 / rounds as f64);
    }
    println!("{best:.1} ns");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use lexopt::prelude::*;
    let (mut runtime, mut what, mut rounds) = (String::new(), String::new(), 1_000_000);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("runtime") => runtime = parser.value()?.string()?,
            Long("work") => what = parser.value()?.string()?,
            Long("rounds") => rounds = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    match runtime.as_str() {
        "overlapped" => measure(Ours(overlapped::Builder::new().build_local()?), &what, rounds),
        "overlapped-mt" => {
            measure(OursMt(overlapped::Builder::new().workers(2).build()?), &what, rounds);
        }
        "tokio" => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            measure(Tokio(builder.enable_all().build()?), &what, rounds);
        }
        "tokio-mt" => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            measure(Tokio(builder.worker_threads(2).enable_all().build()?), &what, rounds);
        }
        other => return Err(format!("--runtime: not '{other}'").into()),
    }
    Ok(())
}
