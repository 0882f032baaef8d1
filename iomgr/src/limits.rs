//! What a driver can take, and in which order drivers belong.

use std::fmt;

/// What a driver takes in reads and writes, and what it can do beside them. The I/O manager sees to it: a
/// driver that says it takes only whole blocks gets only whole blocks, whatever the client asks for (B-7).
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
    /// Most bytes of one read or write, a multiple of the block; more is split. A message is not: one that
    /// is longer is refused when it is written, as by the system (`EMSGSIZE`). `u32::MAX`: any number.
    pub most: u32,
    /// The data is in one piece: vectored requests are copied into one.
    pub one_piece: bool,
    /// Bytes that it likes requests to have, or multiples of them. For clients to know; nothing is made
    /// of it here.
    pub preferred: u32,
    /// What one read or write carries is a message, which has bounds: those of datagram sockets do. Composes
    /// upward as the rest: a filter that makes messages of a stream sets it.
    pub messages: bool,
    /// What it does beside reading and writing. A filter takes away what it does not pass on.
    pub can: Capabilities,
}

impl Limits {
    /// Anything goes, and nothing more than that. What a bottom starts from.
    pub const NONE: Limits = Limits {
        block: 1,
        most: u32::MAX,
        one_piece: false,
        preferred: 1,
        messages: false,
        can: Capabilities::NONE,
    };

    /// Whether a request may be forbidden by this that is allowed by the other.
    pub fn forbids_something_beside(&self, other: &Limits) -> bool {
        self.block > other.block || self.most < other.most || self.one_piece && !other.one_piece
    }
}

/// What a driver can do with ranges of a file beside reading and writing them: a set.
///
/// What a filter takes away of what is below it, the I/O manager does in its place where it can, right
/// above that filter: zeroes are written, and a write that is to be durable is followed by a flush.
/// [`Stack::can`](crate::Stack::can) says what is left to clients.
///
/// ```
/// # mod overlapped { pub use overlapped_iomgr::driver; }
/// use overlapped::driver::Capabilities;
/// let disk = Capabilities::ZERO.with(Capabilities::DISCARD);
/// assert!(disk.has(Capabilities::ZERO) && !disk.has(Capabilities::ALL));
/// assert_eq!(disk.without(Capabilities::ZERO), Capabilities::DISCARD);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Nothing.
    pub const NONE: Capabilities = Capabilities(0);
    /// A range becomes zeroes without being written ([`minor::ZERO_RANGE`](crate::minor::ZERO_RANGE)).
    pub const ZERO: Capabilities = Capabilities(1);
    /// A range's space is given back ([`minor::ZERO_DATA`](crate::minor::ZERO_DATA)). Nobody can do it in a
    /// driver's place.
    pub const DISCARD: Capabilities = Capabilities(2);
    /// A write is on the medium when it completes ([`Setup::write_through`](crate::Setup::write_through)).
    pub const WRITE_THROUGH: Capabilities = Capabilities(4);
    /// All of them.
    pub const ALL: Capabilities = Capabilities(7);

    /// Whether all of the other's are here.
    pub const fn has(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and the other's.
    pub const fn with(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// These, but none of the other's.
    pub const fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Those that are in both.
    pub(crate) const fn common(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// Their names.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Capabilities::ZERO, "zero"),
            (Capabilities::DISCARD, "discard"),
            (Capabilities::WRITE_THROUGH, "write-through"),
        ];
        all.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, name)| name)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
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
