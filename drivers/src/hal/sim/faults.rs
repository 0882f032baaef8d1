//! The fault plan: what may go otherwise than well, how often; and how often it did.

use std::ops::Range;
use std::time::Duration;

use super::random::Random;

/// How a simulated machine behaves. Rates are probabilities, 0 to 1, each drawn from the seed.
///
/// ```
/// # mod overlapped { pub use overlapped_drivers::hal::sim; }
/// use overlapped::sim::FaultPlan;
/// let plan = FaultPlan { short_reads: 0.2, ..FaultPlan::none() };
/// assert_eq!(plan.io_errors, 0.0);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct FaultPlan {
    /// How long operations on files take.
    pub file_latency: Range<Duration>,
    /// How long operations on sockets and pipes take, once they can go on.
    pub network_latency: Range<Duration>,
    /// An operation takes a hundred times as long.
    pub slow: f64,
    /// What could be finished on the spot pends all the same (V-61).
    pub pending: f64,
    /// A read or receive brings fewer bytes than there are.
    pub short_reads: f64,
    /// A write or send takes fewer bytes than it could.
    pub short_writes: f64,
    /// An operation on a file or a name fails with `EIO`. One that closes has closed.
    pub io_errors: f64,
    /// A write or an allocation fails with `ENOSPC`.
    pub no_space: f64,
    /// A connection is reset as somebody sends or receives (`ECONNRESET`).
    pub resets: f64,
    /// A connection is refused (`ECONNREFUSED`).
    pub refusals: f64,
    /// There is no buffer for a pooled receive, or a datagram (`ENOBUFS`).
    pub no_buffers: f64,
    /// There is no descriptor for a file or connection (`EMFILE`).
    pub no_descriptors: f64,
    /// A UDP datagram is lost.
    pub lost_datagrams: f64,
    /// A UDP datagram comes twice.
    pub duplicated_datagrams: f64,
    /// A UDP datagram overtakes those that wait.
    pub reordered_datagrams: f64,
    /// A cancel finds its operation beyond recall: that goes on as if nothing had been asked.
    pub lost_cancels: f64,
    /// An operation on a file that is cancelled ends with `EINTR`, as one that a thread of the kernel
    /// did.
    pub interrupted_cancels: f64,
}

impl FaultPlan {
    /// Nothing fails. The order in which operations end, how long they take, and which of them pend
    /// still come from the seed.
    pub const fn none() -> FaultPlan {
        FaultPlan {
            file_latency: Duration::from_micros(5)..Duration::from_micros(200),
            network_latency: Duration::from_micros(10)..Duration::from_micros(500),
            slow: 0.0,
            pending: 0.5,
            short_reads: 0.0,
            short_writes: 0.0,
            io_errors: 0.0,
            no_space: 0.0,
            resets: 0.0,
            refusals: 0.0,
            no_buffers: 0.0,
            no_descriptors: 0.0,
            lost_datagrams: 0.0,
            duplicated_datagrams: 0.0,
            reordered_datagrams: 0.0,
            lost_cancels: 0.0,
            interrupted_cancels: 0.0,
        }
    }

    /// What a correct machine may do to a program: all is slow now and then, short, late and out of
    /// order, but nothing fails.
    pub const fn rough() -> FaultPlan {
        FaultPlan {
            slow: 0.02,
            short_reads: 0.2,
            short_writes: 0.2,
            no_buffers: 0.1,
            lost_cancels: 0.3,
            interrupted_cancels: 0.2,
            ..FaultPlan::none()
        }
    }

    /// As [`FaultPlan::rough`], and everything fails now and then.
    pub const fn hostile() -> FaultPlan {
        FaultPlan {
            io_errors: 0.02,
            no_space: 0.02,
            resets: 0.01,
            refusals: 0.05,
            no_descriptors: 0.02,
            lost_datagrams: 0.05,
            duplicated_datagrams: 0.05,
            reordered_datagrams: 0.1,
            ..FaultPlan::rough()
        }
    }
}

impl Default for FaultPlan {
    /// [`FaultPlan::none`].
    fn default() -> FaultPlan {
        FaultPlan::none()
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $(= $rate:ident)?;)*) => {
        /// What a simulation does to a program; see [`FaultPlan`] for those that have a rate.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Fault] = &[$(Fault::$name),*];

            fn rate(self, plan: &FaultPlan) -> f64 {
                match self {
                    $($(Fault::$name => plan.$rate,)?)*
                    _ => 0.0,
                }
            }
        }
    };
}

faults! {
    /// An operation took a hundred times as long.
    Slow = slow;
    /// What could have been finished on the spot pended.
    Pending = pending;
    /// A read or receive was short.
    ShortRead = short_reads;
    /// A write or send was short.
    ShortWrite = short_writes;
    /// `EIO`.
    IoError = io_errors;
    /// `ENOSPC`.
    NoSpace = no_space;
    /// `ECONNRESET`.
    Reset = resets;
    /// `ECONNREFUSED`.
    Refused = refusals;
    /// `ENOBUFS`.
    NoBuffers = no_buffers;
    /// `EMFILE`.
    NoDescriptors = no_descriptors;
    /// A datagram was lost.
    Lost = lost_datagrams;
    /// A datagram came twice.
    Duplicated = duplicated_datagrams;
    /// A datagram overtook another.
    Reordered = reordered_datagrams;
    /// A cancel found its operation beyond recall.
    CancelLost = lost_cancels;
    /// A cancel ended its operation with `EINTR`.
    CancelInterrupted = interrupted_cancels;
    /// A cancel ended its operation.
    CancelWon;
    /// A cancel came when its operation had happened, and its completion was on the way.
    CancelLate;
}

/// How often each happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> FaultCounts {
        FaultCounts([0; Fault::ALL.len()])
    }
}

impl FaultCounts {
    /// How often this one did.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    pub(super) fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }
}

/// Plan, chance and counts together.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) plan: FaultPlan,
    pub(super) random: Random,
    pub(super) counts: FaultCounts,
}

impl Fate {
    /// Whether it happens this time.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.random.chance(fault.rate(&self.plan));
        if strikes {
            self.counts.count(fault);
        }
        strikes
    }

    /// Fails with the errno if the fault strikes.
    pub(super) fn check(&mut self, fault: Fault, errno: i32) -> Result<(), i32> {
        if self.strikes(fault) { Err(errno) } else { Ok(()) }
    }

    /// How much of so many bytes is moved.
    pub(super) fn cut(&mut self, fault: Fault, len: usize) -> usize {
        if len > 1 && self.strikes(fault) { self.random.part(len) } else { len }
    }

    /// How long an operation takes, in nanoseconds.
    pub(super) fn latency(&mut self, network: bool) -> u64 {
        let plan = &self.plan;
        let range = if network { &plan.network_latency } else { &plan.file_latency };
        let latency = self.random.nanoseconds(range);
        if self.strikes(Fault::Slow) { latency.saturating_mul(100) } else { latency }
    }
}
