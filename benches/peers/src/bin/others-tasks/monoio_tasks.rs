//! On monoio.

use std::future::Future;
use std::io;
use std::time::Duration;

use monoio::IoUringDriver;
use monoio::time::TimeDriver;
use overlapped_bench_peers::yield_once;
use overlapped_benches::tasks::{Local, Runtime};

/// See `overlapped_bench_peers::monoio`.
pub struct Monoio(monoio::Runtime<TimeDriver<IoUringDriver>>);

impl Runtime for Monoio {
    fn new(_: usize) -> io::Result<Monoio> {
        overlapped_bench_peers::monoio().map(Monoio)
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        // SAFETY: its tasks stay on their thread.
        unsafe { Local::new(monoio::spawn(future)) }
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        // It has none of its own.
        yield_once()
    }

    fn sleep(limit: Duration) -> impl Future<Output = ()> + Send {
        // SAFETY: as above.
        unsafe { Local::new(monoio::time::sleep(limit)) }
    }
}
