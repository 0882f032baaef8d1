//! The calling thread's clock: the system's monotonic one or, in a simulation, a virtual one.
//!
//! Whatever measures time for requests and tasks asks [`now`]. Virtual time is an [`Instant`] too: a
//! simulation begins at the epoch below, the same for all of a process's simulations and exact to the
//! nanosecond, so that timers fall into the same ticks in each of them.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

thread_local! {
    /// The time, where it is virtual.
    static VIRTUAL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What timers count their milliseconds from.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// The time by the calling thread's clock: [`Instant::now`], or virtual inside a simulation.
///
/// ```
/// let before = std::time::Instant::now();
/// # mod overlapped { pub use overlapped_iomgr::clock as time; }
/// assert!(overlapped::time::now() >= before);
/// ```
#[inline]
pub fn now() -> Instant {
    match VIRTUAL.get() {
        None => Instant::now(),
        Some(at) => at,
    }
}

/// Makes the calling thread's clock a virtual one, which stands still but for [`Virtual::advance`],
/// until this is dropped. For simulated hardware.
///
/// ```
/// use overlapped_iomgr::clock::{self, Virtual};
/// use std::time::Duration;
/// let clock = Virtual::begin();
/// let start = clock::now();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock::now() - start, Duration::from_secs(3600));
/// ```
#[derive(Debug)]
pub struct Virtual {
    before: Option<Instant>,
    /// Bound to its thread.
    thread: PhantomData<*mut ()>,
}

impl Virtual {
    /// Begins at the epoch.
    pub fn begin() -> Virtual {
        Virtual { before: VIRTUAL.replace(Some(epoch())), thread: PhantomData }
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        VIRTUAL.set(Some(now() + by));
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        VIRTUAL.set(self.before);
    }
}
