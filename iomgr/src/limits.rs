//! What a driver can take, and in which order drivers belong.

use std::fmt;

/// What a driver takes in reads and writes. The I/O manager sees to it: a driver that says it takes only
/// whole blocks gets only whole blocks, whatever the client asks for (B-7).
///
/// ```
/// # mod overlapped { pub use overlapped_iomgr::driver; }
/// use overlapped::driver::Limits;
/// let below = Limits::NONE;
/// let mine = Limits { block: 512, ..below };
/// assert!(mine.forbids_something_beside(&below));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Offsets and lengths are multiples of so many bytes, a power of two; 1: of none. Clients' other
    /// requests are widened: reads are cut out of whole blocks, writes read the blocks that they begin
    /// and end in first, under a lock of that range. The end of a file counts as filled with zeroes up
    /// to a whole block.
    pub block: u32,
    /// Most bytes of one read or write, a multiple of the block; more is split. `u32::MAX`: any number.
    pub most: u32,
    /// The data is in one piece: vectored requests are copied into one.
    pub one_piece: bool,
    /// Bytes that it likes requests to have, or multiples of them. For clients to know; nothing is made
    /// of it here.
    pub preferred: u32,
}

impl Limits {
    /// Anything goes.
    pub const NONE: Limits = Limits { block: 1, most: u32::MAX, one_piece: false, preferred: 1 };

    /// Whether a request may be forbidden by this that is allowed by the other.
    pub fn forbids_something_beside(&self, other: &Limits) -> bool {
        self.block > other.block || self.most < other.most || self.one_piece && !other.one_piece
    }
}

/// What filters are for, in the order in which they belong, top first. A stack in which two stand the
/// other way round works, and is warned of: encrypted bytes cannot be compressed, a cache above a retry
/// keeps failures from it, and so on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Group {
    /// Sees what clients do.
    Trace,
    /// Holds them back.
    Throttle,
    /// Looks at or changes what the bytes mean.
    Content,
    /// Tries again.
    Retry,
    /// Keeps copies.
    Cache,
    /// Makes fewer bytes of many.
    Compress,
    /// Makes them unreadable.
    Encrypt,
    /// Finds out when they have changed.
    Integrity,
    /// Makes whole blocks of parts.
    Align,
}

/// Two filters of a stack that stand the wrong way round; see [`Group`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutOfOrder {
    /// The one above, and what it is for.
    pub upper: (String, Group),
    /// The one below, which belongs above.
    pub lower: (String, Group),
}

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((upper, is), (lower, should)) = (&self.upper, &self.lower);
        write!(
            f,
            "the filter '{lower}' ({should:?}) stands below '{upper}' ({is:?}), and belongs above it"
        )
    }
}
