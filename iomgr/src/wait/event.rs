//! Events: NT's notification and synchronization events.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Alertable, Object, Signal, Waited, Waiter, wait_any};
use crate::status::Status;

/// An event, on or off, that threads and tasks can wait for and requests can set (C-3). Clones are
/// the same event.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::wait::Event;
///
/// let event = Event::auto(false);
/// event.set();
/// assert_eq!(event.wait(None), Ok(true));
/// assert!(!event.is_set(), "the wait has taken the signal");
/// ```
#[derive(Clone)]
pub struct Event(Arc<Signal>);

impl Event {
    /// A manual-reset event (NT's notification event): once set it satisfies every wait until it is
    /// reset.
    pub fn manual(set: bool) -> Event {
        Event(Arc::new(Signal::new(false, set)))
    }

    /// An auto-reset event (NT's synchronization event): it satisfies one wait, which resets it.
    pub fn auto(set: bool) -> Event {
        Event(Arc::new(Signal::new(true, set)))
    }

    /// Sets it. Returns whether it was set before.
    pub fn set(&self) -> bool {
        self.0.set()
    }

    /// Resets it. Returns whether it was set before.
    pub fn reset(&self) -> bool {
        self.0.reset()
    }

    /// Whether it is set; takes nothing.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Waits on this thread until it is set, driving the thread's processor meanwhile; `None`: without
    /// limit. `false`: the time is over.
    ///
    /// # Errors
    /// [`Status::WOULD_DEADLOCK`] on a runtime's worker or inside a completion routine, unless the
    /// limit is zero: there, await [`Event::signalled`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Status> {
        Ok(wait_any(&[self], timeout, Alertable::No)? == Waited::Object(0))
    }

    /// Waits in a task until it is set.
    ///
    /// Cancel-safe: a future that is dropped has taken no signal.
    pub fn signalled(&self) -> Signalled {
        Signalled { event: self.clone(), left: None }
    }
}

impl Event {
    /// Its address, which owns it.
    pub(crate) fn into_raw(self) -> NonNull<Signal> {
        NonNull::new(Arc::into_raw(self.0).cast_mut()).expect("an `Arc` is never null")
    }

    /// The event again.
    ///
    /// # Safety
    /// The address is one of [`Event::into_raw`], which owns it no more.
    pub(crate) unsafe fn from_raw(raw: NonNull<Signal>) -> Event {
        // SAFETY: the caller's.
        Event(unsafe { Arc::from_raw(raw.as_ptr()) })
    }
}

impl Object for Event {
    fn signal(&self) -> &Signal {
        &self.0
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("auto", &self.0.auto).field("set", &self.is_set()).finish()
    }
}

/// The future of [`Event::signalled`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Signalled {
    event: Event,
    left: Option<u64>,
}

impl Future for Signalled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(id) = self.left.take() {
            self.event.0.forget(id);
        }
        // Foreign code: not with the lock held.
        let waker = cx.waker().clone();
        self.left = self.event.0.take_or_leave(|| Waiter::Task(waker));
        if self.left.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        if let Some(id) = self.left.take() {
            self.event.0.forget(id);
        }
    }
}
