//! What tasks and timers cost without I/O, ours and tokio's.
//!
//! `tasks --runtime overlapped|overlapped-mt|tokio|tokio-mt --work WORK [--rounds N] [--wait]`
//!
//! Prints a line of JSON with the nanoseconds a round. `-mt` has two workers. WORK is one of
//! `overlapped_benches::tasks::WORK`. `--wait` prints `ready` and begins when the standard input
//! ends.

use std::future::Future;
use std::io;
use std::time::Duration;

use overlapped_benches::tasks::{Join, Options, Runtime};

struct Ours(overlapped::LocalRuntime);
struct OursMt(overlapped::Runtime);
struct Tokio(tokio::runtime::Runtime);
struct TokioMt(tokio::runtime::Runtime);

macro_rules! tasks_of {
    ($($spawn:ident)::+, $($yield_now:ident)::+, $($sleep:ident)::+) => {
        fn block_on<F: Future>(&mut self, future: F) -> F::Output {
            self.0.block_on(future)
        }
        fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
        where
            F: Future + Send + 'static,
            F::Output: Send,
        {
            Join($($spawn)::+(future))
        }
        fn yield_now() -> impl Future<Output = ()> + Send {
            $($yield_now)::+()
        }
        fn sleep(limit: Duration) -> impl Future<Output = ()> + Send {
            $($sleep)::+(limit)
        }
    };
}

impl Runtime for Ours {
    fn new(_: usize) -> io::Result<Ours> {
        overlapped::Builder::new().build_local().map(Ours)
    }
    tasks_of!(overlapped::spawn, overlapped::yield_now, overlapped::time::sleep);
}

impl Runtime for OursMt {
    fn new(workers: usize) -> io::Result<OursMt> {
        overlapped::Builder::new().workers(workers).build().map(OursMt)
    }
    tasks_of!(overlapped::spawn, overlapped::yield_now, overlapped::time::sleep);
}

impl Runtime for Tokio {
    fn new(_: usize) -> io::Result<Tokio> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(Tokio)
    }
    tasks_of!(tokio::spawn, tokio::task::yield_now, tokio::time::sleep);
}

impl Runtime for TokioMt {
    fn new(workers: usize) -> io::Result<TokioMt> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(workers).enable_all().build().map(TokioMt)
    }
    tasks_of!(tokio::spawn, tokio::task::yield_now, tokio::time::sleep);
}

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| usage(&error));
    match options.runtime.as_str() {
        "overlapped" => options.run::<Ours>(1),
        "overlapped-mt" => options.run::<OursMt>(2),
        "tokio" => options.run::<Tokio>(1),
        "tokio-mt" => options.run::<TokioMt>(2),
        other => {
            let names = "overlapped, overlapped-mt, tokio or tokio-mt";
            usage(&format!("--runtime: {names}, not '{other}'"))
        }
    }
}

fn usage(error: &dyn std::fmt::Display) -> ! {
    eprintln!("{error}");
    std::process::exit(2);
}
