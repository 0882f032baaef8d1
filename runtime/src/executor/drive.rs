//! Driving a future and a processor on one thread.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped_drivers::hal;
use overlapped_iomgr::hal::Wait;
use overlapped_iomgr::panics::log;
use overlapped_iomgr::{Processor, ProcessorHandle};

use super::context::Scope;
use super::shared::Shared;

/// Wakes the future of a `block_on`.
pub(super) struct MainWaker {
    woken: AtomicBool,
    processor: ProcessorHandle,
}

impl MainWaker {
    /// Whether the future is to be polled.
    #[inline]
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.processor.wake();
        }
    }
}

/// Polls `future` on this thread, and calls `between` between polls.
pub(super) fn drive<F: Future>(
    processor: &Processor,
    future: F,
    mut between: impl FnMut(&MainWaker),
) -> F::Output {
    let main = Arc::new(MainWaker { woken: AtomicBool::new(true), processor: processor.handle() });
    let waker = Waker::from(main.clone());
    let mut future = pin!(future);
    loop {
        if main.woken.swap(false, Ordering::SeqCst)
            && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        between(&main);
    }
}

/// Runs a future on a thread that is no worker, with the runtime's workers beside it.
#[track_caller]
pub(super) fn block_on_here<F: Future>(shared: &Arc<Shared>, future: F) -> F::Output {
    let processor = make_processor(&shared.hardware)
        .unwrap_or_else(|error| panic!("block_on cannot begin: {error}"));
    let _scope = Scope::enter(shared);
    drive(&processor, future, |main| {
        if let Err(error) = processor.turn(Wait::Forever, || main.is_woken()) {
            log(|| tracing::error!(%error, "the backend failed under `block_on`"));
            thread::sleep(Duration::from_millis(10));
        }
    })
}

#[track_caller]
pub(super) fn make_processor(config: &hal::Config) -> io::Result<Processor> {
    hal::install();
    let processor = Processor::new(|| hal::new(config))?;
    // A thread that has waited for requests has a processor already, on the backend of its choice.
    match config.backend {
        Some(asked) if asked.to_string() != processor.backend() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{asked} was asked for, and this thread has done I/O through {} before: begin on \
                 another thread",
                processor.backend()
            ),
        )),
        _ => Ok(processor),
    }
}
