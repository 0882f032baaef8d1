//! Processors of plain threads: made at the first request, driven by the thread while it waits and
//! by the keeper otherwise, torn down when the thread ends, or left to the keeper.

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;

use super::{Driven, Processor, bequest};
use crate::hal::Hal;
use crate::panics::log;
use crate::status::Status;

type Factory = fn() -> io::Result<Box<dyn Hal>>;

static FACTORY: OnceLock<Factory> = OnceLock::new();

/// Says how the processors of plain threads get their hardware. The drivers' crate does this; the
/// first call counts.
///
/// # Safety
/// What the factory makes may be driven by several threads, one at a time, and dropped on any; it
/// can be watched ([`Hal::watch`]).
pub unsafe fn set_hardware_factory(factory: Factory) {
    let _ = FACTORY.set(factory);
}

/// The factory, once there is one.
pub(super) fn hardware() -> io::Result<Factory> {
    let missing = "nobody has said how threads get their hardware";
    FACTORY.get().copied().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, missing))
}

/// The thread's own, until it ends.
struct Own(Option<Processor>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(processor) = self.0.take() {
            bequest::end_of_thread(processor);
        }
    }
}

thread_local! {
    static OWN: RefCell<Own> = const { RefCell::new(Own(None)) };
}

#[cold]
pub(super) fn create() -> Result<(), Status> {
    let factory = FACTORY.get().ok_or(Status::DEVICE_NOT_READY)?;
    let processor = Processor::with_driver(factory, Driven::Thread).map_err(|error| {
        // A status cannot carry the words.
        log(|| tracing::error!(%error, "this thread cannot do I/O"));
        Status::from(&error)
    })?;
    OWN.try_with(|own| own.borrow_mut().0 = Some(processor)).map_err(|_| {
        // The thread is ending: the processor was dropped with the closure.
        Status::SHUTDOWN_IN_PROGRESS
    })
}
