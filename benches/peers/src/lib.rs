//! The thread-per-core runtimes that `overlapped` is measured against, each set up as its
//! documentation advises for a busy thread on a recent kernel.
//!
//! A crate of its own, so that nobody who builds the project builds three other runtimes. The
//! programs have the command lines of those in `overlapped-benches`:
//!
//! - `others-echo`, `others-fileio`, `others-copy`: `--runtime monoio|compio|glommio`.
//! - `others-tasks`: what tasks and timers cost without I/O.

use std::future::Future;
use std::io;
use std::task::Poll;

use compio::driver::ProactorBuilder;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};

/// Entries of a ring. More than any row has operations that begin in one turn, as monoio cannot go
/// on without a free one.
const ENTRIES: u32 = 4096;

/// monoio on io_uring, with timers and with wakes from other threads. Completions do not interrupt
/// its thread, which has its largest effect on writes.
///
/// # Errors
/// When the ring cannot be set up.
pub fn monoio() -> io::Result<monoio::Runtime<TimeDriver<IoUringDriver>>> {
    let mut ring = monoio_io_uring::IoUring::builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(ENTRIES)
        .uring_builder(ring)
        .enable_timer()
        .build()
}

/// compio on io_uring, with the flags that it offers for rings of one thread.
///
/// # Errors
/// When the ring cannot be set up.
pub fn compio() -> io::Result<compio::runtime::Runtime> {
    let mut proactor = ProactorBuilder::new();
    proactor.capacity(ENTRIES).single_issuer(true).defer_taskrun(true);
    compio::runtime::Runtime::builder().with_proactor(proactor).build()
}

/// glommio with rings for as many operations as the deepest row has. Which core it runs on is the
/// harness's to say.
///
/// # Errors
/// When its rings cannot be set up, or too little memory may be locked.
pub fn glommio() -> io::Result<LocalExecutor> {
    Ok(LocalExecutorBuilder::new(Placement::Unbound).ring_depth(1024).make()?)
}

/// Goes to the back of the queue once: for runtimes that have no call for it.
pub fn yield_once() -> impl Future<Output = ()> + Send {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
