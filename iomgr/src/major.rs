//! Major and minor function codes (O-20).

/// The operation an IRP asks for. The numbers are NT's where NT has the operation; socket
/// operations, which NT carries as device controls of its socket driver, have numbers of their own
/// above NT's last one (0x1B).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Major {
    /// Opens the file object. One per open (O-31).
    Create = 0x00,
    /// Last reference gone, every IRP finished (X-33).
    Close = 0x02,
    /// Data in.
    Read = 0x03,
    /// Data out.
    Write = 0x04,
    /// Attributes of the file.
    QueryInformation = 0x05,
    /// Length, names and other attributes.
    SetInformation = 0x06,
    /// To the medium (file), nothing (socket).
    Flush = 0x09,
    /// A directory's entries: listing them, making a directory among them.
    DirectoryControl = 0x0C,
    /// What file systems do with a file's data by themselves: holes, copies of ranges.
    FileSystemControl = 0x0D,
    /// Control codes with input and output buffers (S-1).
    DeviceControl = 0x0E,
    /// Last handle gone: what is queued is cancelled (X-33).
    Cleanup = 0x12,
    /// Who may do what: permission bits.
    SetSecurity = 0x15,
    /// Connects a socket.
    Connect = 0x1C,
    /// Takes one connection from a listener.
    Accept = 0x1D,
    /// Datagram out, with its address.
    SendTo = 0x1E,
    /// Datagram in, with its address.
    ReceiveFrom = 0x1F,
    /// Ends one or both directions of a socket.
    Shutdown = 0x20,
    /// Waits for readiness, once.
    Poll = 0x21,
    /// A driver's own operations, told apart by the minor code.
    Private = 0x22,
}

impl Major {
    /// One more than the largest code.
    pub(crate) const COUNT: usize = 0x23;

    /// Every major, in the order of the codes.
    pub const ALL: [Major; 19] = [
        Major::Create,
        Major::Close,
        Major::Read,
        Major::Write,
        Major::QueryInformation,
        Major::SetInformation,
        Major::Flush,
        Major::DirectoryControl,
        Major::FileSystemControl,
        Major::DeviceControl,
        Major::Cleanup,
        Major::SetSecurity,
        Major::Connect,
        Major::Accept,
        Major::SendTo,
        Major::ReceiveFrom,
        Major::Shutdown,
        Major::Poll,
        Major::Private,
    ];

    /// Whether the operation's data comes in.
    #[inline]
    pub(crate) fn receives(self) -> bool {
        // By number: requests are asked this a dozen times.
        const RECEIVE: u64 = 1 << Major::Read as u64 | 1 << Major::ReceiveFrom as u64;
        RECEIVE >> self as u64 & 1 != 0
    }

    /// Whether the operation's data goes out.
    #[inline]
    pub(crate) fn sends(self) -> bool {
        const SEND: u64 = 1 << Major::Write as u64 | 1 << Major::SendTo as u64;
        SEND >> self as u64 & 1 != 0
    }

    /// Whether the operation carries the user's bytes, so that a transforming filter that does not
    /// know it must refuse it rather than let it through.
    pub fn carries_data(self) -> bool {
        matches!(
            self,
            Major::Read
                | Major::Write
                | Major::SendTo
                | Major::ReceiveFrom
                | Major::FileSystemControl
                | Major::DeviceControl
                | Major::Private
        )
    }
}

/// A set of majors: what a driver hooks.
///
/// ```
/// # mod overlapped { pub use overlapped_iomgr as driver; }
/// use overlapped::driver::{Major, MajorSet};
/// let set = MajorSet::of(&[Major::Read, Major::Write]);
/// assert!(set.contains(Major::Read) && !set.contains(Major::Flush));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct MajorSet(u64);

impl MajorSet {
    /// No major: a driver that is never visited.
    pub const NONE: MajorSet = MajorSet(0);
    /// Every major, those added later included.
    pub const ALL: MajorSet = MajorSet(u64::MAX);

    /// The set of the majors given.
    pub const fn of(majors: &[Major]) -> MajorSet {
        let mut bits = 0;
        let mut i = 0;
        while i < majors.len() {
            bits |= 1 << majors[i] as u8;
            i += 1;
        }
        MajorSet(bits)
    }

    /// Whether `major` is in the set.
    pub const fn contains(self, major: Major) -> bool {
        self.0 & (1 << major as u8) != 0
    }
}

impl std::fmt::Debug for MajorSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(Major::ALL.iter().filter(|m| self.contains(**m))).finish()
    }
}

/// Minor codes of the operations this crate defines. A driver's own start at 0x80.
///
/// Those of [`Major::QueryInformation`] and [`Major::SetInformation`] are NT's information classes,
/// by NT's numbers; [`minor::NONE`] there means the attributes and the length of an open
/// file. Operations on names act on the file object's own directory if it is one that is open, else
/// on the working directory; what they name is in the request's payload ([`crate::View::payload`]).
pub mod minor {
    /// The plain form of an operation.
    pub const NONE: u8 = 0;
    /// Read or write: the data is an array of segments.
    pub const VECTORED: u8 = 1;
    /// Read: the data arrives in a leased pool buffer.
    pub const POOLED: u8 = 2;
    /// Read: the data stays in the socket (`MSG_PEEK`).
    pub const PEEK: u8 = 3;
    /// Flush: data only, not the file's times.
    pub const DATA_ONLY: u8 = 1;
    /// Write: the kernel goes on until all is sent (`MSG_WAITALL`).
    pub const ALL: u8 = 4;
    /// Read: only what is there already. Write to a socket: only what there is room for. `WouldBlock`
    /// if that is nothing (`MSG_DONTWAIT`).
    pub const NOW: u8 = 5;
    /// Set information: another name, in place of the old one (FileRenameInformation).
    pub const RENAME: u8 = 10;
    /// Set information: one more name (FileLinkInformation).
    pub const LINK: u8 = 11;
    /// Set information: takes a name away, and with the last one the file
    /// (FileDispositionInformation).
    pub const DISPOSITION: u8 = 13;
    /// Query and set information: the current byte offset of a synchronous file object
    /// (FilePositionInformation). The I/O manager answers these itself, in the request's turn (I-35).
    pub const POSITION: u8 = 14;
    /// Set information: space for a range, to be written later (FileAllocationInformation).
    pub const ALLOCATION: u8 = 19;
    /// Query and set information: what a symbolic link stands for (FileReparsePointInformation).
    pub const REPARSE_POINT: u8 = 33;
    /// Query information: the attributes behind a name, without opening it
    /// (FileNetworkOpenInformation, NtQueryFullAttributesFile).
    pub const FULL_ATTRIBUTES: u8 = 34;
    /// Set information: what use will be made of a range (FileIoPriorityHintInformation).
    pub const HINT: u8 = 43;
    /// Query information: the absolute name, without links (FileNormalizedNameInformation).
    pub const NORMALIZED_NAME: u8 = 48;
    /// Directory control: the next entries (IRP_MN_QUERY_DIRECTORY).
    pub const QUERY_DIRECTORY: u8 = 1;
    /// Directory control: makes a directory. NT opens one with a create request instead; here
    /// nothing is opened, so that creates and closes still balance (O-31).
    pub const MAKE_DIRECTORY: u8 = 0x40;
    /// File system control: zeroes for a range, whose space is given back (FSCTL_SET_ZERO_DATA).
    pub const ZERO_DATA: u8 = 0x32;
    /// File system control: zeroes for a range, whose space stays reserved. (NT's control makes a hole or
    /// not, as the file is a sparse one or not; here the requester says it.)
    pub const ZERO_RANGE: u8 = 0x34;
    /// File system control: takes a range of another file over (FSCTL_DUPLICATE_EXTENTS_TO_FILE).
    pub const COPY_RANGE: u8 = 0x33;
    /// The first code that is free for drivers outside this project.
    pub const DRIVER_DEFINED: u8 = 0x80;
}
