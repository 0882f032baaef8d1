//! On glommio.

use std::future::Future;
use std::io;
use std::time::Duration;

use glommio::LocalExecutor;
use overlapped_benches::tasks::{Local, Runtime};

/// See `overlapped_bench_peers::glommio`.
pub struct Glommio(LocalExecutor);

impl Runtime for Glommio {
    fn new(_: usize) -> io::Result<Glommio> {
        overlapped_bench_peers::glommio().map(Glommio)
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.run(future)
    }

    fn spawn<F>(future: F) -> impl Future<Output = F::Output> + Send + Unpin
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        // SAFETY: its tasks stay on their thread.
        unsafe { Local::new(glommio::spawn_local(future)) }
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        // SAFETY: as above.
        unsafe { Local::new(async { glommio::executor().yield_now().await }) }
    }

    fn sleep(limit: Duration) -> impl Future<Output = ()> + Send {
        // SAFETY: as above.
        unsafe { Local::new(glommio::timer::sleep(limit)) }
    }
}
