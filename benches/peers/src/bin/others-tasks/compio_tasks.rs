//! On compio.

use std::future::Future;
use std::io;
use std::time::Duration;

use overlapped_bench_peers::yield_once;
use overlapped_benches::tasks::{Join, Local, Runtime};

/// See `overlapped_bench_peers::compio`.
pub struct Compio(compio::runtime::Runtime);

impl Runtime for Compio {
    fn new(_: usize) -> io::Result<Compio> {
        overlapped_bench_peers::compio().map(Compio)
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        Join(compio::runtime::spawn(future))
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        // It has none of its own.
        yield_once()
    }

    fn sleep(limit: Duration) -> impl Future<Output = ()> + Send {
        // SAFETY: its tasks stay on their thread.
        unsafe { Local::new(compio::time::sleep(limit)) }
    }
}
