//! Status values: 32 bits, NT's three classes, and errno without loss.
//!
//! A `Result<_, Errno>` cannot express what the I/O manager needs (rules 0.1): a *warning* is a
//! failure to completion routines (I-23 selects on [`Status::is_success`]) but is delivered, with
//! its data, like a success (I-30 selects on [`Status::is_error`]). So IRPs carry a [`Status`], and
//! only the edge of the crate turns it into [`io::Error`].
//!
//! # Layout
//!
//! ```text
//!  31 30 | 29       | 28       | 27 .. 16 | 15 .. 0
//!  class | customer | reserved | facility | code
//! ```
//!
//! NT's own values have the customer bit clear. An errno lives in a customer facility,
//! [`Status::FACILITY_ERRNO`], in the error class: `ENOENT` (2) is `0xE00E_0002`.
//!
//! **Invariant.** `Status` → `io::Error` → `Status` gives the same bits for every status.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// The result of a request, with NT's layout and NT's meaning of success (rules 0.1).
///
/// | class | top bits | [`is_success`](Status::is_success) | [`is_error`](Status::is_error) |
/// |---|---|---|---|
/// | success | 00 | yes | no |
/// | informational | 01 | yes | no |
/// | warning | 10 | **no** | **no** |
/// | error | 11 | no | yes |
///
/// The constants have NT's names without `STATUS_`, and NT's values.
///
/// ```
/// use overlapped_iomgr::Status;
/// let status = Status::BUFFER_OVERFLOW;
/// assert!(!status.is_success() && !status.is_error());
/// assert_eq!(format!("{status}"), "BUFFER_OVERFLOW (warning 0x80000005)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Status(u32);

/// The two top bits of a [`Status`] (rules 0.1). Outside this module it is called `StatusClass`, for
/// drivers have classes too.
///
/// ```
/// use overlapped_iomgr::{Status, StatusClass};
/// assert_eq!(Status::PENDING.class(), StatusClass::Success);
/// assert_eq!(StatusClass::Warning.to_string(), "warning");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Done, or under way ([`Status::PENDING`]).
    Success,
    /// Done, and there is something to tell.
    Informational,
    /// Not a success, yet delivered with its data: for instance a result cut short.
    Warning,
    /// Failed; nothing was transferred.
    Error,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Success => "success",
            Class::Informational => "informational",
            Class::Warning => "warning",
            Class::Error => "error",
        })
    }
}

impl Status {
    /// The facility of errno statuses (bits 27 to 16), under the customer bit.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::from_errno(5).facility(), Status::FACILITY_ERRNO);
    /// ```
    pub const FACILITY_ERRNO: u16 = 0x00E;

    /// Class error, customer bit, errno's facility, code 0.
    const ERRNO_BASE: u32 = 0b11 << 30 | 1 << 29 | (Self::FACILITY_ERRNO as u32) << 16;

    /// A status from its 32 bits. Every value is a status; drivers may define their own, which
    /// should have the customer bit (29) set.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::from_raw(0xC000_0120), Status::CANCELLED);
    /// ```
    pub const fn from_raw(bits: u32) -> Status {
        Status(bits)
    }

    /// The 32 bits.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::PENDING.raw(), 0x103);
    /// ```
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The error that an errno stands for. Takes the errno itself, not its negative.
    ///
    /// What is not an errno (zero, negative, above 65535) gives [`Status::UNSUCCESSFUL`]: still an
    /// error, so that a wrong sign can never turn a failure into a success.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::from_errno(2).raw(), 0xE00E_0002);
    /// assert_eq!(Status::from_errno(-2), Status::UNSUCCESSFUL);
    /// ```
    pub const fn from_errno(errno: i32) -> Status {
        if errno <= 0 || errno > 0xFFFF {
            return Status::UNSUCCESSFUL;
        }
        Status(Self::ERRNO_BASE | errno as u32)
    }

    /// The errno, if the status was made from one.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::from_errno(11).errno(), Some(11));
    /// assert_eq!(Status::CANCELLED.errno(), None);
    /// ```
    pub const fn errno(self) -> Option<i32> {
        let code = self.0 & 0xFFFF;
        // Code 0 is no errno: `from_errno` never makes it, and `io::Error` would lose it.
        if self.0 & 0xFFFF_0000 == Self::ERRNO_BASE && code != 0 { Some(code as i32) } else { None }
    }

    /// The class.
    ///
    /// ```
    /// use overlapped_iomgr::{Status, StatusClass};
    /// assert_eq!(Status::CANCELLED.class(), StatusClass::Error);
    /// ```
    pub const fn class(self) -> Class {
        match self.0 >> 30 {
            0 => Class::Success,
            1 => Class::Informational,
            2 => Class::Warning,
            _ => Class::Error,
        }
    }

    /// `NT_SUCCESS`: class success or informational. What completion routines select on (I-23).
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert!(Status::TIMEOUT.is_success());
    /// assert!(!Status::NO_MORE_FILES.is_success());
    /// ```
    pub const fn is_success(self) -> bool {
        self.0 >> 31 == 0
    }

    /// Class warning: neither success nor error.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert!(Status::BUFFER_OVERFLOW.is_warning());
    /// ```
    pub const fn is_warning(self) -> bool {
        self.0 >> 30 == 0b10
    }

    /// `NT_ERROR`: class error. What final completion selects on (I-30).
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert!(Status::from_errno(5).is_error());
    /// ```
    pub const fn is_error(self) -> bool {
        self.0 >> 30 == 0b11
    }

    /// Bits 27 to 16: which component defined the code.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::CANCELLED.facility(), 0);
    /// ```
    pub const fn facility(self) -> u16 {
        (self.0 >> 16) as u16 & 0xFFF
    }

    /// What the caller of a request gets: `info` (bytes transferred, B-10) unless the status is an
    /// error. A warning is `Ok`, for its `info` counts valid bytes.
    ///
    /// # Errors
    /// Class error, converted as by `io::Error::from`.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// assert_eq!(Status::BUFFER_OVERFLOW.result(7).unwrap(), 7);
    /// assert_eq!(Status::from_errno(2).result(7).unwrap_err().raw_os_error(), Some(2));
    /// ```
    #[inline]
    pub fn result(self, info: usize) -> io::Result<usize> {
        if self.is_error() { Err(self.into()) } else { Ok(info) }
    }

    /// What the caller can do about it, for the statuses that are this project's own.
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Status::WOULD_DEADLOCK => "await the request instead of waiting for it",
            Status::OFFSET_OVERFLOW => "offset and length must stay below 2^63",
            Status::NUL_IN_NAME => "a name must not contain a NUL byte",
            Status::UNALIGNED => {
                "direct I/O needs offset, length and buffer to be multiples of the block size"
            }
            Status::SHUTDOWN_IN_PROGRESS => "the runtime is shutting down",
            Status::DELETE_PENDING => "the thread or runtime that it was made on has ended",
            Status::FILE_CLOSED => "it has been closed",
            Status::CANCELLED => "the request was cancelled",
            Status::IO_TIMEOUT => "the request's deadline has passed",
            Status::END_OF_FILE => "the end came before all that was asked for",
            Status::INSUFFICIENT_RESOURCES => "there is no memory for the request",
            Status::NOT_SUPPORTED => "a driver of the stack does not know the operation",
            Status::INVALID_DEVICE_REQUEST => "no driver of the stack knows the operation",
            Status::DRIVER_INTERNAL_ERROR => {
                "a driver dropped the request or panicked; see the log"
            }
            _ => return None,
        })
    }

    /// The nearest [`ErrorKind`]; [`ErrorKind::Other`] where std has none.
    ///
    /// [`Status::CANCELLED`] is `Other` on purpose: `Interrupted` would make std's loops
    /// (`read_exact`, `io::copy`) issue the cancelled request again.
    ///
    /// ```
    /// use overlapped_iomgr::Status;
    /// use std::io::ErrorKind;
    /// assert_eq!(Status::ACCESS_DENIED.kind(), ErrorKind::PermissionDenied);
    /// assert_eq!(Status::from_errno(2).kind(), ErrorKind::NotFound);
    /// ```
    pub fn kind(self) -> ErrorKind {
        match self.errno() {
            Some(errno) => io::Error::from_raw_os_error(errno).kind(),
            None => self.named_kind(),
        }
    }

    fn from_kind(kind: ErrorKind) -> Status {
        match kind {
            ErrorKind::NotFound => Status::NOT_FOUND,
            ErrorKind::PermissionDenied => Status::ACCESS_DENIED,
            ErrorKind::ConnectionRefused => Status::CONNECTION_REFUSED,
            ErrorKind::ConnectionReset => Status::CONNECTION_RESET,
            ErrorKind::ConnectionAborted => Status::CONNECTION_ABORTED,
            ErrorKind::NotConnected => Status::INVALID_CONNECTION,
            ErrorKind::HostUnreachable => Status::HOST_UNREACHABLE,
            ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Status::NETWORK_UNREACHABLE,
            ErrorKind::AddrInUse => Status::ADDRESS_ALREADY_EXISTS,
            ErrorKind::AddrNotAvailable => Status::INVALID_ADDRESS_COMPONENT,
            ErrorKind::BrokenPipe => Status::PIPE_BROKEN,
            ErrorKind::AlreadyExists => Status::OBJECT_NAME_COLLISION,
            ErrorKind::WouldBlock => Status::DEVICE_NOT_READY,
            ErrorKind::Interrupted => Status::RETRY,
            ErrorKind::NotADirectory => Status::NOT_A_DIRECTORY,
            ErrorKind::IsADirectory => Status::FILE_IS_A_DIRECTORY,
            ErrorKind::DirectoryNotEmpty => Status::DIRECTORY_NOT_EMPTY,
            ErrorKind::ReadOnlyFilesystem => Status::MEDIA_WRITE_PROTECTED,
            ErrorKind::StaleNetworkFileHandle => Status::FILE_INVALID,
            ErrorKind::InvalidInput | ErrorKind::ArgumentListTooLong => Status::INVALID_PARAMETER,
            ErrorKind::InvalidData => Status::DATA_ERROR,
            ErrorKind::TimedOut => Status::IO_TIMEOUT,
            ErrorKind::WriteZero => Status::UNEXPECTED_IO_ERROR,
            ErrorKind::StorageFull => Status::DISK_FULL,
            ErrorKind::NotSeekable => Status::INVALID_DEVICE_REQUEST,
            ErrorKind::QuotaExceeded => Status::QUOTA_EXCEEDED,
            ErrorKind::FileTooLarge => Status::FILE_TOO_LARGE,
            ErrorKind::ResourceBusy | ErrorKind::ExecutableFileBusy => Status::SHARING_VIOLATION,
            ErrorKind::Deadlock => Status::POSSIBLE_DEADLOCK,
            ErrorKind::CrossesDevices => Status::NOT_SAME_DEVICE,
            ErrorKind::TooManyLinks => Status::TOO_MANY_LINKS,
            ErrorKind::InvalidFilename => Status::OBJECT_NAME_INVALID,
            ErrorKind::Unsupported => Status::NOT_SUPPORTED,
            ErrorKind::UnexpectedEof => Status::END_OF_FILE,
            ErrorKind::OutOfMemory => Status::INSUFFICIENT_RESOURCES,
            _ => Status::UNSUCCESSFUL,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.errno()) {
            (Some(name), _) => write!(f, "{name} (")?,
            (None, Some(errno)) => write!(f, "{} (", io::Error::from_raw_os_error(errno))?,
            (None, None) => f.write_str("status (")?,
        }
        write!(f, "{} 0x{:08X})", self.class(), self.0)?;
        match self.hint() {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

/// A [`Status`] as the inner error of an [`io::Error`], for statuses that have no errno.
///
/// ```
/// use overlapped_iomgr::{Status, StatusError};
/// let error = std::io::Error::from(Status::CANCELLED);
/// let inner = error.get_ref().unwrap().downcast_ref::<StatusError>().unwrap();
/// assert_eq!(inner.0, Status::CANCELLED);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StatusError(pub Status);

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for StatusError {}

/// An errno becomes [`io::Error::from_raw_os_error`], without allocating. Any other status, of
/// whatever class, becomes an error of its [`Status::kind`] around a [`StatusError`].
impl From<Status> for io::Error {
    #[inline]
    fn from(status: Status) -> io::Error {
        match status.errno() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => boxed(status),
        }
    }
}

#[cold]
fn boxed(status: Status) -> io::Error {
    io::Error::new(status.named_kind(), StatusError(status))
}

/// The inverse of `io::Error::from(status)`. An error that was not made from a status becomes the
/// error status nearest to its kind, [`Status::UNSUCCESSFUL`] where NT has none near; its message
/// is lost. Never gives anything but an error for such a foreign one.
///
/// ```
/// use overlapped_iomgr::Status;
/// use std::io::{Error, ErrorKind};
/// assert_eq!(Status::from(&Error::from_raw_os_error(9)), Status::from_errno(9));
/// assert_eq!(Status::from(&Error::new(ErrorKind::TimedOut, "slow")), Status::IO_TIMEOUT);
/// ```
impl From<&io::Error> for Status {
    fn from(error: &io::Error) -> Status {
        if let Some(errno) = error.raw_os_error() {
            return Status::from_errno(errno);
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<StatusError>()) {
            Some(StatusError(status)) => *status,
            None => Status::from_kind(error.kind()),
        }
    }
}

/// As from a reference.
impl From<io::Error> for Status {
    fn from(error: io::Error) -> Status {
        Status::from(&error)
    }
}

/// One table for constant, name and kind, so that they cannot drift apart.
macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $bits:literal => $kind:ident;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($bits);)*

            /// NT's name without `STATUS_`, if the status is one of the constants here.
            ///
            /// ```
            /// use overlapped_iomgr::Status;
            /// assert_eq!(Status::PENDING.name(), Some("PENDING"));
            /// assert_eq!(Status::from_errno(1).name(), None);
            /// ```
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($bits => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            fn named_kind(self) -> ErrorKind {
                match self.0 {
                    $($bits => ErrorKind::$kind,)*
                    _ => ErrorKind::Other,
                }
            }

            #[cfg(test)]
            const NAMED: &[Status] = &[$(Status::$name),*];
        }
    };
}

statuses! {
    /// Waiting here would stop what is waited for: on a worker, or inside a completion routine.
    WOULD_DEADLOCK = 0xE00F_0002 => Deadlock;
    /// Offset and length reach past the largest offset a file can have.
    OFFSET_OVERFLOW = 0xE00F_0003 => InvalidInput;
    /// Direct I/O whose offset, length or memory is not aligned as the file system demands.
    UNALIGNED = 0xE00F_0004 => InvalidInput;
    /// The bytes a receive is to get are above it: kept from one that nobody waited for. The drivers
    /// between see this as an error; the requester gets the bytes.
    DATA_ABOVE = 0xE00F_0005 => Other;
    /// A path or name with a NUL byte, which the system would take for its end.
    NUL_IN_NAME = 0xE00F_0010 => InvalidInput;
    /// Done.
    SUCCESS = 0x0000_0000 => Other;
    /// A wait ended because an owner died with the object held.
    ABANDONED_WAIT_0 = 0x0000_0080 => Other;
    /// A wait ended because user APCs ran.
    USER_APC = 0x0000_00C0 => Other;
    /// A wait ended because the thread was alerted.
    ALERTED = 0x0000_0101 => Other;
    /// A wait ended because its time was up. A success; a request that ran out of time fails with
    /// [`Status::IO_TIMEOUT`].
    TIMEOUT = 0x0000_0102 => TimedOut;
    /// Under way: the result comes later. Never a final status (I-22).
    PENDING = 0x0000_0103 => WouldBlock;
    /// The name leads elsewhere: open again with the new name.
    REPARSE = 0x0000_0104 => Other;
    /// More results than fitted; ask again.
    MORE_ENTRIES = 0x0000_0105 => Other;
    /// A directory watch ended because its handle was closed.
    NOTIFY_CLEANUP = 0x0000_010B => Other;
    /// A directory watch lost events: read the directory again.
    NOTIFY_ENUM_DIR = 0x0000_010C => Other;
    /// The object was there already, and was opened.
    OBJECT_NAME_EXISTS = 0x4000_0000 => AlreadyExists;
    /// The buffer does not have the alignment asked for.
    DATATYPE_MISALIGNMENT = 0x8000_0002 => InvalidInput;
    /// The data was longer than the buffer; what fitted is valid (B-10).
    BUFFER_OVERFLOW = 0x8000_0005 => Other;
    /// The directory has no further entry.
    NO_MORE_FILES = 0x8000_0006 => Other;
    /// Only a part could be copied.
    PARTIAL_COPY = 0x8000_000D => Other;
    /// The device is in use.
    DEVICE_BUSY = 0x8000_0011 => ResourceBusy;
    /// The medium may have changed (I-29).
    VERIFY_REQUIRED = 0x8000_0016 => Other;
    /// The enumeration has no further entry.
    NO_MORE_ENTRIES = 0x8000_001A => Other;
    /// Failed, and there is no better status.
    UNSUCCESSFUL = 0xC000_0001 => Other;
    /// The operation exists but nobody wrote it.
    NOT_IMPLEMENTED = 0xC000_0002 => Unsupported;
    /// No such information class.
    INVALID_INFO_CLASS = 0xC000_0003 => InvalidInput;
    /// The length does not fit the information class.
    INFO_LENGTH_MISMATCH = 0xC000_0004 => InvalidInput;
    /// Memory that the caller may not use so.
    ACCESS_VIOLATION = 0xC000_0005 => InvalidInput;
    /// No such handle, or a handle of another kind.
    INVALID_HANDLE = 0xC000_0008 => InvalidInput;
    /// An argument is wrong.
    INVALID_PARAMETER = 0xC000_000D => InvalidInput;
    /// The device does not exist.
    NO_SUCH_DEVICE = 0xC000_000E => NotFound;
    /// The file does not exist.
    NO_SUCH_FILE = 0xC000_000F => NotFound;
    /// The device does not do this operation, or not in its present state.
    INVALID_DEVICE_REQUEST = 0xC000_0010 => Unsupported;
    /// A read at or past the end.
    END_OF_FILE = 0xC000_0011 => UnexpectedEof;
    /// A completion routine has taken the request back. Never a final status.
    MORE_PROCESSING_REQUIRED = 0xC000_0016 => Other;
    /// No memory.
    NO_MEMORY = 0xC000_0017 => OutOfMemory;
    /// Not permitted.
    ACCESS_DENIED = 0xC000_0022 => PermissionDenied;
    /// The buffer cannot hold the smallest result; nothing was written.
    BUFFER_TOO_SMALL = 0xC000_0023 => InvalidInput;
    /// The handle names an object of another type.
    OBJECT_TYPE_MISMATCH = 0xC000_0024 => InvalidInput;
    /// The name is malformed.
    OBJECT_NAME_INVALID = 0xC000_0033 => InvalidFilename;
    /// The name does not exist.
    OBJECT_NAME_NOT_FOUND = 0xC000_0034 => NotFound;
    /// The name exists already.
    OBJECT_NAME_COLLISION = 0xC000_0035 => AlreadyExists;
    /// A folder on the path does not exist.
    OBJECT_PATH_NOT_FOUND = 0xC000_003A => NotFound;
    /// The data is damaged.
    DATA_ERROR = 0xC000_003E => InvalidData;
    /// The checksum is wrong.
    CRC_ERROR = 0xC000_003F => InvalidData;
    /// Somebody has the file open in a way that forbids this.
    SHARING_VIOLATION = 0xC000_0043 => ResourceBusy;
    /// The opener's quota is used up (B-6).
    QUOTA_EXCEEDED = 0xC000_0044 => QuotaExceeded;
    /// Somebody holds a lock on the range.
    FILE_LOCK_CONFLICT = 0xC000_0054 => ResourceBusy;
    /// The file or device is being deleted.
    DELETE_PENDING = 0xC000_0056 => PermissionDenied;
    /// The caller lacks a privilege.
    PRIVILEGE_NOT_HELD = 0xC000_0061 => PermissionDenied;
    /// The medium is full.
    DISK_FULL = 0xC000_007F => StorageFull;
    /// The file on the other side is not the one that was opened any more.
    FILE_INVALID = 0xC000_0098 => StaleNetworkFileHandle;
    /// No memory, descriptors or slots.
    INSUFFICIENT_RESOURCES = 0xC000_009A => OutOfMemory;
    /// The medium is read-only.
    MEDIA_WRITE_PROTECTED = 0xC000_00A2 => ReadOnlyFilesystem;
    /// The device cannot take the request now; as in Winsock, "would block".
    DEVICE_NOT_READY = 0xC000_00A3 => WouldBlock;
    /// The pipe's other end is gone.
    PIPE_DISCONNECTED = 0xC000_00B0 => BrokenPipe;
    /// The request ran out of time.
    IO_TIMEOUT = 0xC000_00B5 => TimedOut;
    /// A folder where a file is needed.
    FILE_IS_A_DIRECTORY = 0xC000_00BA => IsADirectory;
    /// Not supported.
    NOT_SUPPORTED = 0xC000_00BB => Unsupported;
    /// Two files on different devices.
    NOT_SAME_DEVICE = 0xC000_00D4 => CrossesDevices;
    /// A bug in the I/O manager.
    INTERNAL_ERROR = 0xC000_00E5 => Other;
    /// The caller's buffer is not usable.
    INVALID_USER_BUFFER = 0xC000_00E8 => InvalidInput;
    /// An error nobody foresaw.
    UNEXPECTED_IO_ERROR = 0xC000_00E9 => Other;
    /// The folder is not empty.
    DIRECTORY_NOT_EMPTY = 0xC000_0101 => DirectoryNotEmpty;
    /// A file where a folder is needed.
    NOT_A_DIRECTORY = 0xC000_0103 => NotADirectory;
    /// Cancelled (X-5).
    CANCELLED = 0xC000_0120 => Other;
    /// The file object is closed.
    FILE_CLOSED = 0xC000_0128 => Other;
    /// Not a connected socket.
    INVALID_CONNECTION = 0xC000_0140 => NotConnected;
    /// The pipe broke.
    PIPE_BROKEN = 0xC000_014B => BrokenPipe;
    /// A bug in a driver.
    DRIVER_INTERNAL_ERROR = 0xC000_0183 => Other;
    /// The device's state does not allow the request.
    INVALID_DEVICE_STATE = 0xC000_0184 => Other;
    /// The device failed.
    IO_DEVICE_ERROR = 0xC000_0185 => Other;
    /// Waiting would never end.
    POSSIBLE_DEADLOCK = 0xC000_0194 => Deadlock;
    /// The address is not one of this machine's.
    INVALID_ADDRESS_COMPONENT = 0xC000_0207 => AddrNotAvailable;
    /// The address is in use.
    ADDRESS_ALREADY_EXISTS = 0xC000_020A => AddrInUse;
    /// The other side closed the connection.
    CONNECTION_DISCONNECTED = 0xC000_020C => ConnectionReset;
    /// The other side reset the connection.
    CONNECTION_RESET = 0xC000_020D => ConnectionReset;
    /// Not found.
    NOT_FOUND = 0xC000_0225 => NotFound;
    /// Do it again.
    RETRY = 0xC000_022D => Interrupted;
    /// The other side refused the connection.
    CONNECTION_REFUSED = 0xC000_0236 => ConnectionRefused;
    /// No route to the network.
    NETWORK_UNREACHABLE = 0xC000_023C => NetworkUnreachable;
    /// No route to the host.
    HOST_UNREACHABLE = 0xC000_023D => HostUnreachable;
    /// This side gave the connection up.
    CONNECTION_ABORTED = 0xC000_0241 => ConnectionAborted;
    /// Too many links.
    TOO_MANY_LINKS = 0xC000_0265 => TooManyLinks;
    /// The device is gone.
    DEVICE_REMOVED = 0xC000_02B6 => NotFound;
    /// The power state does not allow the request.
    POWER_STATE_INVALID = 0xC000_02D3 => Other;
    /// The runtime, or a processor of it, is going away.
    SHUTDOWN_IN_PROGRESS = 0xC000_02FE => Other;
    /// The file would be too large.
    FILE_TOO_LARGE = 0xC000_0904 => FileTooLarge;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_table_of_0_1() {
        for (status, class, success, error) in [
            (Status::SUCCESS, Class::Success, true, false),
            (Status::TIMEOUT, Class::Success, true, false),
            (Status::PENDING, Class::Success, true, false),
            (Status::OBJECT_NAME_EXISTS, Class::Informational, true, false),
            (Status::from_raw(0x7FFF_FFFF), Class::Informational, true, false),
            (Status::BUFFER_OVERFLOW, Class::Warning, false, false),
            (Status::from_raw(0xBFFF_FFFF), Class::Warning, false, false),
            (Status::CANCELLED, Class::Error, false, true),
            (Status::from_errno(1), Class::Error, false, true),
        ] {
            assert_eq!(status.class(), class, "{status}");
            assert_eq!(status.is_success(), success, "{status}");
            assert_eq!(status.is_error(), error, "{status}");
            assert_eq!(status.is_warning(), class == Class::Warning, "{status}");
            assert_eq!(status.result(3).is_err(), error, "{status}");
        }
    }

    #[test]
    fn every_errno_round_trips() {
        for errno in (1..=133).chain([4095, 0xFFFF]) {
            let status = Status::from_errno(errno);
            assert_eq!(status.errno(), Some(errno));
            let error = io::Error::from(status);
            assert_eq!(error.raw_os_error(), Some(errno));
            assert!(error.get_ref().is_none(), "an errno must not be boxed");
            assert_eq!(status.kind(), error.kind());
            assert_eq!(Status::from(&error), status);
            assert_eq!(Status::from(error), status);
        }
        for errno in [i32::MIN, -1, 0, 0x1_0000, i32::MAX] {
            assert_eq!(Status::from_errno(errno), Status::UNSUCCESSFUL);
        }
    }

    #[test]
    fn every_named_status_round_trips() {
        let odd = [0xE00E_0000, 0xFFFF_FFFF, 0x2000_0001, 0xE00F_0001].map(Status::from_raw);
        for &status in Status::NAMED.iter().chain(&odd) {
            let error = io::Error::from(status);
            assert_eq!(error.kind(), status.kind());
            assert_eq!(Status::from(&error), status);
        }
    }

    #[test]
    fn a_foreign_error_stays_an_error_of_its_kind() {
        for kind in Status::NAMED.iter().map(|status| status.kind()) {
            let status = Status::from(io::Error::new(kind, "custom"));
            assert!(status.is_error(), "{kind:?}");
            assert_eq!(status.kind(), kind);
            assert_eq!(Status::from(io::Error::from(kind)), status);
        }
        // NT has none of exactly these.
        use ErrorKind::*;
        for kind in [WriteZero, NotSeekable, ExecutableFileBusy, NetworkDown, ArgumentListTooLong] {
            assert!(Status::from(io::Error::from(kind)).is_error());
        }
    }

    #[test]
    fn names_and_text() {
        let text = "CANCELLED (error 0xC0000120): the request was cancelled";
        assert_eq!(Status::CANCELLED.to_string(), text);
        assert_eq!(Status::NO_SUCH_FILE.to_string(), "NO_SUCH_FILE (error 0xC000000F)");
        assert_eq!(format!("{:?}", Status::SUCCESS), "Status(SUCCESS (success 0x00000000))");
        assert_eq!(Status::from_raw(0xE123_0000).to_string(), "status (error 0xE1230000)");
        let text = Status::from_errno(2).to_string();
        assert!(text.contains("(os error 2)") && text.ends_with("(error 0xE00E0002)"), "{text}");
        assert_eq!(Status::default(), Status::SUCCESS);
    }
}
