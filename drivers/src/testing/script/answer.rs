//! What a scripted bottom says to one request, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlapped_iomgr::{CancelSafeQueue, Disposition, Irp, Status};

/// What a [`Script`](super::Script) says to one request.
///
/// ```
/// # mod overlapped {
/// #     pub use overlapped_iomgr::Status;
/// #     pub mod driver { pub use overlapped_drivers::testing; }
/// # }
/// use overlapped::Status;
/// use overlapped::driver::testing::{Answer, Gate};
///
/// let gate = Gate::new();
/// let answers = [
///     Answer::bytes("hello"),                           // to a read
///     Answer::count(3),                                 // to a write: three bytes taken
///     Answer::status(Status::DATA_ERROR).pending(2),    // after two turns of the processor
///     Answer::bytes("later").when(&gate),               // when the test says so
///     Answer::never(),                                  // until it is cancelled
///     Answer::bytes("more").saying(Status::SUCCESS, 9), // a lie
/// ];
/// # _ = answers;
/// ```
#[derive(Clone, Debug)]
#[must_use = "an answer is given to a script"]
pub struct Answer {
    pub(super) bytes: Vec<u8>,
    /// `None`: success, and as many bytes as fit.
    pub(super) result: Option<(Status, usize)>,
    pub(super) turns: u32,
    pub(super) gate: Option<Gate>,
}

impl Answer {
    /// To a read: these bytes, or as many as were asked for. A stream's next read gets the rest.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Answer {
        Answer { bytes: bytes.into(), result: None, turns: 0, gate: None }
    }

    /// Success, and this as the information: so many bytes written, for instance.
    pub fn count(info: usize) -> Answer {
        Answer::bytes("").saying(Status::SUCCESS, info)
    }

    /// This status, and no bytes.
    pub fn status(status: Status) -> Answer {
        Answer::bytes("").saying(status, 0)
    }

    /// None: the request waits until it is cancelled.
    pub fn never() -> Answer {
        Answer::bytes("").when(&Gate::new())
    }

    /// With this status and information, whatever the bytes are.
    pub fn saying(mut self, status: Status, info: usize) -> Answer {
        self.result = Some((status, info));
        self
    }

    /// Not before the request's processor has turned so often: it pends (I-14).
    pub fn pending(mut self, turns: u32) -> Answer {
        self.turns = turns;
        self
    }

    /// Not before the gate is open: it pends until then.
    pub fn when(mut self, gate: &Gate) -> Answer {
        self.gate = Some(gate.clone());
        self
    }
}

/// Keeps answers back until the test [opens](Gate::open) it. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: AtomicBool,
    waiting: CancelSafeQueue,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets those that wait go on, and whoever comes later. From any thread.
    pub fn open(&self) {
        self.0.open.store(true, Ordering::SeqCst);
        while let Some(held) = self.0.waiting.remove() {
            held.redispatch();
        }
    }

    /// Requests that wait here now.
    pub fn waiting(&self) -> usize {
        self.0.waiting.len()
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Has a request wait; it comes back to its driver's `dispatch`.
    pub(super) fn wait(&self, irp: Irp<'_>) -> Disposition {
        let disposition = irp.park(&self.0.waiting);
        if self.is_open() {
            // It was opened meanwhile, by somebody who did not see this one.
            self.open();
        }
        disposition
    }
}
