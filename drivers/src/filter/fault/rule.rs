//! Which requests go wrong, and how.

use std::ops::Range;

use overlapped_iomgr::{Major, MajorSet, Status};

/// How a request goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It fails with this error, and goes no further. (What is no error becomes
    /// [`Status::UNSUCCESSFUL`].)
    Error(Status),
    /// It waits until it is cancelled.
    Hang,
    /// A read or write moves fewer bytes than asked for, at least one. Not of messages.
    Short,
    /// A bit of the bytes is wrong: of what a read has got; of a copy of what a write sends.
    Corrupt,
    /// The connection breaks: the other side is told, and all requests on the socket that the filter sees
    /// from then on fail with [`Status::CONNECTION_RESET`]. Not of files with offsets.
    Reset,
}

/// A step of a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The request passes.
    Pass,
    /// It goes wrong.
    Do(Kind),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum What {
    Kind(Kind),
    Script(Vec<Step>),
    /// The status of reads, and a block's bytes.
    BadBlocks(Status, u64),
}

/// Which requests go wrong, and how. All that it says must hold: a rule begins with every read, write,
/// send and receive, and each method takes some away.
///
/// ```
/// # mod overlapped { pub use overlapped_iomgr::Status; pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::{Major, MajorSet}; } }
/// use overlapped::Status;
/// use overlapped::driver::filter::{Kind, Rule};
/// use overlapped::driver::{Major, MajorSet};
///
/// // Every third read of the first MiB fails, five times.
/// let io = Rule::new(Kind::Error(Status::IO_DEVICE_ERROR))
///     .on(MajorSet::of(&[Major::Read]))
///     .within(0..1 << 20)
///     .every(3)
///     .times(5);
/// // One block in ten thousand is bad until it is written.
/// let disk = Rule::bad_blocks(Status::DATA_ERROR, 512).rate(0.0001);
/// # _ = (io, disk);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    pub(super) what: What,
    pub(super) on: MajorSet,
    pub(super) range: Option<Range<u64>>,
    pub(super) after: u64,
    pub(super) first: u64,
    pub(super) every: u64,
    pub(super) rate: f64,
    pub(super) times: u64,
}

impl Rule {
    pub(super) const DATA: MajorSet =
        MajorSet::of(&[Major::Read, Major::Write, Major::SendTo, Major::ReceiveFrom]);

    fn of(what: What) -> Rule {
        let (after, first, every, times) = (0, u64::MAX, 1, u64::MAX);
        Rule { what, on: Self::DATA, range: None, after, first, every, rate: 1.0, times }
    }

    /// Of one kind.
    pub fn new(kind: Kind) -> Rule {
        Rule::of(What::Kind(kind))
    }

    /// Each request takes the next step; when there are none left, all pass.
    pub fn script(steps: impl IntoIterator<Item = Step>) -> Rule {
        Rule::of(What::Script(steps.into_iter().collect()))
    }

    /// Blocks of so many bytes (0 counts as 1) that cannot be read until all of one has been written.
    /// [`Rule::within`] says where they are, and [`Rule::rate`] how many of those, by chance: it depends on
    /// the seed and on the block, not on the order of requests. The rest does not apply.
    pub fn bad_blocks(error: Status, block: u64) -> Rule {
        Rule::of(What::BadBlocks(error, block.max(1)))
    }

    /// Only these operations. Cleanup and close never go wrong.
    pub fn on(mut self, majors: MajorSet) -> Rule {
        self.on = majors;
        self
    }

    /// Only requests that touch these bytes of a file. Streams and datagrams have no offsets, and are never
    /// within.
    pub fn within(mut self, bytes: Range<u64>) -> Rule {
        self.range = Some(bytes);
        self
    }

    /// Not the first so many.
    pub fn after(mut self, requests: u64) -> Rule {
        self.after = requests;
        self
    }

    /// Only the first so many (behind those of [`Rule::after`]).
    pub fn first(mut self, requests: u64) -> Rule {
        self.first = requests;
        self
    }

    /// Only every so manieth of the rest: the 3rd, 6th, 9th, …. 0 counts as 1.
    pub fn every(mut self, nth: u64) -> Rule {
        self.every = nth.max(1);
        self
    }

    /// Only so many of the rest, by chance: from 0 to 1.
    pub fn rate(mut self, rate: f64) -> Rule {
        self.rate = rate;
        self
    }

    /// At most so many faults.
    pub fn times(mut self, faults: u64) -> Rule {
        self.times = faults;
        self
    }

    /// At most one fault.
    pub fn once(self) -> Rule {
        self.times(1)
    }
}
