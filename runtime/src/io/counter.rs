//! Counters of the system: eventfd and timerfd.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use overlapped_drivers::bottom::{self, PipeContext};
use overlapped_drivers::class::{AddCount, TakeCount};
use overlapped_drivers::hal::{
    self,
    system::{self, Descriptor},
};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack};

use super::plain_stack;
use crate::net::stream::{descriptor_traits, handle_methods};

fn adopt(counter: Descriptor, stack: Arc<Stack>) -> io::Result<FileHandle> {
    hal::install();
    Ok(bottom::adopt_pipe(stack, "", counter, PipeContext::new(true, true))?)
}

/// A counter in the kernel (`eventfd`): writes add to it, reads take all of it.
///
/// Any thread or process that has the descriptor can add and take.
///
/// ```
/// overlapped::block_on(async {
///     let event = overlapped::io::EventFd::new(0)?;
///     event.write(2).await?;
///     event.write(3).await?;
///     assert_eq!(event.read().await?, 5);
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct EventFd {
    handle: FileHandle,
}

impl EventFd {
    /// A counter that begins with `value`.
    ///
    /// # Errors
    /// When descriptors are exhausted, when the runtime of this thread is ending, or the thread can
    /// have no processor.
    pub fn new(value: u32) -> io::Result<EventFd> {
        Self::with(value, 0, plain_stack())
    }

    /// As [`EventFd::new`]; each read takes 1 (`EFD_SEMAPHORE`).
    ///
    /// # Errors
    /// As [`EventFd::new`].
    pub fn semaphore(value: u32) -> io::Result<EventFd> {
        Self::with(value, libc::EFD_SEMAPHORE, plain_stack())
    }

    /// As [`EventFd::new`], with filters ([`pipe_stack_of`](super::pipe_stack_of)). They see the eight
    /// bytes of each read and write.
    ///
    /// # Errors
    /// As [`EventFd::new`].
    pub fn new_with(value: u32, stack: Arc<Stack>) -> io::Result<EventFd> {
        Self::with(value, 0, stack)
    }

    fn with(value: u32, flags: i32, stack: Arc<Stack>) -> io::Result<EventFd> {
        let counter = system::here().event(value, flags)?;
        Ok(EventFd { handle: adopt(counter, stack)? })
    }

    /// Adds to the counter; waits while that would take it beyond `u64::MAX - 1`.
    ///
    /// A write that is dropped may have happened or not.
    ///
    /// # Errors
    /// `InvalidInput` for `u64::MAX`.
    pub fn write(&self, value: u64) -> Request<'_, AddCount> {
        Request::new(&self.handle, AddCount(value))
    }

    /// Waits until the counter is not zero, and takes its value.
    ///
    /// Cancel-safe: what a read that was dropped has taken is the next read's (X-35).
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&self) -> Request<'_, TakeCount> {
        Request::new(&self.handle, TakeCount)
    }

    handle_methods!();
}

/// What a [`TimerFd`] goes by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Clock {
    /// Time that only goes on, and stands still while the system is suspended.
    Monotonic,
    /// Time that only goes on, also while the system is suspended.
    Boottime,
    /// The time of day.
    Realtime,
}

/// A timer of the system as a descriptor (`timerfd`), which can be given to others. For waiting in a
/// program, [`crate::time`] costs less.
///
/// ```
/// use std::time::Duration;
/// use overlapped::io::{Clock, TimerFd};
/// overlapped::block_on(async {
///     let timer = TimerFd::new(Clock::Monotonic)?;
///     timer.set(Duration::from_millis(1), None)?;
///     assert_eq!(timer.read().await?, 1);
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TimerFd {
    handle: FileHandle,
}

impl TimerFd {
    /// A timer that is not set.
    ///
    /// # Errors
    /// When descriptors are exhausted, when the runtime of this thread is ending, or the thread can
    /// have no processor.
    pub fn new(clock: Clock) -> io::Result<TimerFd> {
        let clock = match clock {
            Clock::Monotonic => libc::CLOCK_MONOTONIC,
            Clock::Boottime => libc::CLOCK_BOOTTIME,
            Clock::Realtime => libc::CLOCK_REALTIME,
        };
        let timer = system::here().timer(clock)?;
        Ok(TimerFd { handle: adopt(timer, plain_stack())? })
    }

    /// Sets the timer: it expires `after` from now (at once if that is zero) and then, if there is a
    /// `period`, again and again. What it was set to before is forgotten, and so are expirations that
    /// nobody has read.
    ///
    /// # Errors
    /// Those of the system: `InvalidInput` for a time too far.
    pub fn set(&self, after: Duration, period: Option<Duration>) -> io::Result<()> {
        // Zero would turn it off.
        let after = after.max(Duration::from_nanos(1));
        self.settime(after, period.map_or(Duration::ZERO, |p| p.max(Duration::from_nanos(1))))
    }

    /// Turns the timer off.
    ///
    /// # Errors
    /// Those of the system.
    pub fn unset(&self) -> io::Result<()> {
        self.settime(Duration::ZERO, Duration::ZERO)
    }

    fn settime(&self, value: Duration, interval: Duration) -> io::Result<()> {
        let timespec = |d: Duration| libc::timespec {
            tv_sec: d.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: d.subsec_nanos().into(),
        };
        let new = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(value) };
        system::of(self.handle.fd()).set_timer(self.handle.fd(), &new)
    }

    /// Waits until the timer has expired since it was set or read last; yields how often it has.
    ///
    /// Cancel-safe: what a read that was dropped has taken is the next read's (X-35).
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&self) -> Request<'_, TakeCount> {
        Request::new(&self.handle, TakeCount)
    }

    handle_methods!();
}

descriptor_traits!(EventFd, TimerFd);
