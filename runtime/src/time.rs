//! Time: sleeping, ticking, and limits on other futures.
//!
//! Timers live on the wheel of the processor whose thread polls them, to the millisecond, never
//! early; making one and dropping it makes no system call.
//!
//! All this goes by [`now`], the thread's clock. In a simulation ([`crate::sim`]) that is a virtual one.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
pub use std::time::{Duration, Instant};

pub use overlapped_iomgr::clock::now;
use overlapped_iomgr::{TimerId, was_ready_at_once};
use pin_project_lite::pin_project;

/// Waits until `limit` from now has passed.
///
/// Cancel-safe: dropping it takes the timer off.
///
/// ```
/// use overlapped::time::{Duration, sleep};
/// overlapped::block_on(sleep(Duration::from_millis(2)));
/// ```
pub fn sleep(limit: Duration) -> Sleep {
    sleep_until(after(now(), limit))
}

/// A moment later by `limit`; one too far to express is about 30 years later.
pub(crate) fn after(at: Instant, limit: Duration) -> Instant {
    at.checked_add(limit).unwrap_or_else(|| at + Duration::from_secs(1 << 30))
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// The future of [`sleep`].
///
/// # Panics
/// When polled on a thread that drives no processor.
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerId>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the end.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.take_off();
    }

    fn take_off(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.remove();
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &self.timer
            && timer.update(cx.waker())
        {
            return Poll::Pending;
        }
        let is_new = self.timer.is_none();
        // Not on this processor's wheel: new, fired, or the task has moved.
        self.take_off();
        self.timer = TimerId::insert(self.deadline, cx.waker());
        if self.timer.is_none() {
            if is_new && !was_ready_at_once() {
                // One after the other, such sleeps would starve everything else.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.take_off();
    }
}

/// The time given to [`timeout`] is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has passed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

/// Gives a future at most `limit` from now; it is dropped then.
///
/// For a single request, [`Request::deadline`](crate::Request::deadline) does the same and gives
/// the buffer back.
///
/// # Errors
/// [`Elapsed`].
///
/// ```
/// use overlapped::time::{Duration, timeout};
/// overlapped::block_on(async {
///     let never = std::future::pending::<()>();
///     assert!(timeout(Duration::from_millis(2), never).await.is_err());
/// });
/// ```
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(limit) }
}

/// As [`timeout`], until `deadline`.
///
/// # Errors
/// [`Elapsed`].
///
/// ```
/// use overlapped::time::{Duration, Instant, timeout_at};
/// overlapped::block_on(async {
///     let deadline = Instant::now() + Duration::from_secs(10);
///     // One deadline for several steps.
///     assert_eq!(timeout_at(deadline, async { 1 }).await, Ok(1));
///     assert_eq!(timeout_at(deadline, async { 2 }).await, Ok(2));
/// });
/// ```
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until(deadline) }
}

pin_project! {
    /// The future of [`timeout`].
    #[must_use = "futures do nothing unless awaited"]
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed(())))
    }
}

/// What an [`Interval`] does about ticks it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissedTicks {
    /// Ticks at once, as often as were missed.
    #[default]
    Burst,
    /// Ticks at once, and then every period from there.
    Delay,
    /// Ticks at once, and then on the old grid.
    Skip,
}

/// Ticks now, and then once every period.
///
/// # Panics
/// When the period is zero.
pub fn interval(period: Duration) -> Interval {
    interval_at(now(), period)
}

/// Ticks at `start`, and then once every period. One in the past has missed ticks; see
/// [`Interval::missed_ticks`].
///
/// # Panics
/// When the period is zero.
///
/// ```
/// use overlapped::time::{Duration, Instant, interval_at};
/// overlapped::block_on(async {
///     let start = Instant::now() + Duration::from_millis(3);
///     assert_eq!(interval_at(start, Duration::from_secs(60)).tick().await, start);
///     assert!(Instant::now() >= start);
/// });
/// ```
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval's period cannot be zero");
    Interval { sleep: sleep_until(start), period, missed: MissedTicks::default() }
}

/// Regular ticks; see [`interval`].
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
    missed: MissedTicks,
}

impl Interval {
    /// Sets what becomes of missed ticks.
    pub fn missed_ticks(mut self, missed: MissedTicks) -> Interval {
        self.missed = missed;
        self
    }

    /// Waits for the next tick and returns when it was due. Cancel-safe.
    ///
    /// ```
    /// use overlapped::time::{Duration, interval};
    /// overlapped::block_on(async {
    ///     let mut ticks = interval(Duration::from_millis(2));
    ///     let first = ticks.tick().await;
    ///     assert!(ticks.tick().await >= first + Duration::from_millis(2));
    /// });
    /// ```
    pub async fn tick(&mut self) -> Instant {
        (&mut self.sleep).await;
        let due = self.sleep.deadline();
        let now = now();
        let one_later = after(due, self.period);
        let next = match self.missed {
            MissedTicks::Burst => one_later,
            MissedTicks::Delay if now > one_later => after(now, self.period),
            MissedTicks::Skip => {
                let late = now.saturating_duration_since(due).as_nanos();
                let periods = late / self.period.as_nanos() + 1;
                let periods = u32::try_from(periods).unwrap_or(u32::MAX);
                after(due, self.period.saturating_mul(periods))
            }
            MissedTicks::Delay => one_later,
        };
        self.sleep.reset(next);
        due
    }
}
