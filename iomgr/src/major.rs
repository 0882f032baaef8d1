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
    /// Length and other attributes.
    SetInformation = 0x06,
    /// To the medium (file), nothing (socket).
    Flush = 0x09,
    /// Control codes with input and output buffers (S-1).
    DeviceControl = 0x0E,
    /// Last handle gone: what is queued is cancelled (X-33).
    Cleanup = 0x12,
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
    pub const ALL: [Major; 16] = [
        Major::Create,
        Major::Close,
        Major::Read,
        Major::Write,
        Major::QueryInformation,
        Major::SetInformation,
        Major::Flush,
        Major::DeviceControl,
        Major::Cleanup,
        Major::Connect,
        Major::Accept,
        Major::SendTo,
        Major::ReceiveFrom,
        Major::Shutdown,
        Major::Poll,
        Major::Private,
    ];

    /// Whether the operation's data comes in.
    pub(crate) fn receives(self) -> bool {
        matches!(self, Major::Read | Major::ReceiveFrom)
    }

    /// Whether the operation's data goes out.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Major::Write | Major::SendTo)
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
                | Major::DeviceControl
                | Major::Private
        )
    }
}

/// A set of majors: what a driver hooks.
///
/// ```
/// use overlapped_iomgr::{Major, MajorSet};
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
    /// Read: only what is there already; `WouldBlock` otherwise (`MSG_DONTWAIT`).
    pub const NOW: u8 = 5;
    /// The first code that is free for drivers outside this project.
    pub const DRIVER_DEFINED: u8 = 0x80;
}
