//! Locks of ranges of a file, for filters that read what they write only a part of.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Next;
use crate::status::Status;

/// Ranges of a file that are being written: of one that is locked alone, nobody else has a part.
///
/// A filter that keeps one for each open file ([`Filter::Open`](super::Filter::Open)) and reads, changes
/// and writes back whole blocks under it keeps neighbours from being put back to what they were.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_iomgr::filter::RangeLocks; } }
/// use overlapped::driver::RangeLocks;
/// use std::pin::pin;
/// use std::task::{Context, Poll, Waker};
///
/// let locks = RangeLocks::default();
/// let mut cx = Context::from_waker(Waker::noop());
/// let Poll::Ready(one) = pin!(locks.lock(0..4096, true)).poll(&mut cx) else { panic!("it is free") };
/// let mut other = pin!(locks.lock(4095..4096, false));
/// assert!(other.as_mut().poll(&mut cx).is_pending());
/// drop(one);
/// assert!(other.poll(&mut cx).is_ready());
/// ```
#[derive(Default)]
pub struct RangeLocks(Mutex<Held>);

#[derive(Default)]
struct Held {
    next: u64,
    /// With a number, and whether it is nobody else's.
    ranges: Vec<(u64, Range<u64>, bool)>,
    waiting: Vec<Waker>,
}

/// A range that is locked until this is dropped.
#[must_use = "the range is locked as long as this lives"]
pub struct RangeLock<'a>(&'a RangeLocks, u64);

impl RangeLocks {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing in here panics while it is locked, but for a waker's clone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else has a part of the range; or, unless it is to be had `alone`, nobody who
    /// has it alone. For who waits in no request's name; a filter's function has
    /// [`RangeLocks::lock_for`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has locked nothing.
    pub async fn lock(&self, range: Range<u64>, alone: bool) -> RangeLock<'_> {
        poll_fn(|cx| self.poll_lock(cx, &range, alone)).await
    }

    /// As [`RangeLocks::lock`], for a request: waits no longer when that is cancelled.
    ///
    /// # Errors
    /// [`Status::CANCELLED`].
    ///
    /// # Cancel safety
    /// As [`RangeLocks::lock`].
    pub async fn lock_for(
        &self,
        next: Next<'_>,
        range: Range<u64>,
        alone: bool,
    ) -> Result<RangeLock<'_>, Status> {
        poll_fn(|cx| match self.poll_lock(cx, &range, alone) {
            Poll::Ready(lock) => Poll::Ready(Ok(lock)),
            Poll::Pending if next.is_cancelled() => Poll::Ready(Err(Status::CANCELLED)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_lock(&self, cx: &Context<'_>, range: &Range<u64>, alone: bool) -> Poll<RangeLock<'_>> {
        let mut held = self.held();
        let clashes = held.ranges.iter().any(|(_, other, theirs)| {
            (alone || *theirs) && range.start < other.end && other.start < range.end
        });
        if clashes {
            if !held.waiting.iter().any(|other| other.will_wake(cx.waker())) {
                held.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let number = held.next;
        held.next += 1;
        held.ranges.push((number, range.clone(), alone));
        Poll::Ready(RangeLock(self, number))
    }
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut held = self.0.held();
            held.ranges.retain(|(number, ..)| *number != self.1);
            std::mem::take(&mut held.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for RangeLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeLocks").finish_non_exhaustive()
    }
}

impl fmt::Debug for RangeLock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeLock").finish_non_exhaustive()
    }
}
