//! Wait-completion packets: an event that reports to a port, once (C-32).

use std::fmt;
use std::sync::{Arc, PoisonError};

use super::packet::Posted;
use super::{CompletionPort, Rights, Shared};
use crate::node::Block;
use crate::status::Status;
use crate::sync::{Mutex, MutexGuard};
use crate::wait::{Event, Object, Reporter, Waiter};

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Armed {
        event: Event,
        waiter: u64,
        port: Arc<Shared>,
        key: u64,
        value: u64,
        /// Memory for the packet (I-1).
        block: Box<Block<Posted>>,
    },
    /// This packet has been queued.
    Queued { port: Arc<Shared>, posted: Posted },
}

#[derive(Default)]
struct Inner(Mutex<State>);

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Inner {
    fn report(&self) {
        let mut state = self.lock();
        if let State::Armed { port, key, value, block, .. } = std::mem::take(&mut *state) {
            let tag = port.lock().new_tag();
            let posted = Posted { key, value, info: 0, status: Status::SUCCESS, tag };
            *state = State::Queued { port: port.clone(), posted };
            drop(state);
            // It may wake a task, whose waker may look here.
            port.post_into(posted, block);
        }
    }
}

/// Binds an [`Event`] to a port once: when it is set, or is set already, a packet is queued, as if the
/// packet's maker had waited for it. To be bound again when the packet has been taken.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::wait::Event;
/// use overlapped::{CompletionPort, Status, WaitPacket};
/// use std::time::Duration;
///
/// let (event, port, packet) = (Event::auto(false), CompletionPort::new(), WaitPacket::new());
/// packet.associate(&event, &port, 1, 2)?;
/// assert!(port.remove(Some(Duration::ZERO)).is_err());
/// event.set();
/// let packet = port.remove(None).unwrap();
/// assert_eq!((packet.key(), packet.value(), packet.status()), (1, 2, Status::SUCCESS));
/// assert!(!event.is_set(), "an auto-reset event has been taken");
/// # Ok::<(), Status>(())
/// ```
///
/// For the readiness of a descriptor, post a request that waits for it.
#[derive(Default)]
pub struct WaitPacket(Arc<Inner>);

impl WaitPacket {
    /// A packet that is bound to nothing.
    pub fn new() -> WaitPacket {
        WaitPacket::default()
    }

    /// Binds the event to the port.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] while it is bound and its packet has not been queued;
    /// [`Status::ACCESS_DENIED`] when the handle of the port does not allow it.
    pub fn associate(
        &self,
        event: &Event,
        port: &CompletionPort,
        key: u64,
        value: u64,
    ) -> Result<(), Status> {
        port.check(Rights::MODIFY)?;
        let mut state = self.0.lock();
        if matches!(*state, State::Armed { .. }) {
            return Err(Status::INVALID_PARAMETER);
        }
        let reporter = self.0.clone();
        let left = event.signal().take_or_leave(|| Waiter::Report(reporter));
        let (event, waiter) = (event.clone(), left.unwrap_or(0));
        let (port, block) = (port.shared().clone(), port.shared().block());
        *state = State::Armed { event, waiter, port, key, value, block };
        drop(state);
        if left.is_none() {
            self.0.report();
        }
        Ok(())
    }

    /// Takes the binding back; with `remove_queued` also a packet that has been queued and not taken.
    /// `true`: no packet will come. `false`: it is in the queue, or has been taken.
    pub fn cancel(&self, remove_queued: bool) -> bool {
        let mut state = self.0.lock();
        match std::mem::take(&mut *state) {
            State::Idle => true,
            armed @ State::Armed { .. } => {
                let State::Armed { event, waiter, .. } = &armed else { unreachable!("just seen") };
                let taken_back = event.signal().forget(*waiter);
                if !taken_back {
                    // The signal has been taken for it: the report is on its way.
                    *state = armed;
                }
                taken_back
            }
            State::Queued { port, posted } => {
                let removed = remove_queued && port.remove_tagged(&posted);
                if !removed {
                    *state = State::Queued { port, posted };
                }
                removed
            }
        }
    }
}

impl Drop for WaitPacket {
    fn drop(&mut self) {
        self.cancel(false);
    }
}

impl fmt::Debug for WaitPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match *self.0.lock() {
            State::Idle => "idle",
            State::Armed { .. } => "armed",
            State::Queued { .. } => "queued",
        };
        f.debug_tuple("WaitPacket").field(&state).finish()
    }
}
