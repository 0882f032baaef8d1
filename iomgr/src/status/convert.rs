//! A status as an [`io::Error`], and back.

use std::error::Error;
use std::io::{self, ErrorKind};

use super::Status;

impl Status {
    /// The nearest [`ErrorKind`]; [`ErrorKind::Other`] where std has none.
    ///
    /// [`Status::CANCELLED`] is `Other` on purpose: `Interrupted` would make std's loops
    /// (`read_exact`, `io::copy`) issue the cancelled request again.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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

/// So that `?` works where a call reports by status. A status that is a success is nobody's error.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::Status;
///
/// fn fails() -> Result<(), Box<dyn std::error::Error>> {
///     Err(Status::QUOTA_EXCEEDED)?
/// }
/// assert_eq!(fails().unwrap_err().downcast_ref(), Some(&Status::QUOTA_EXCEEDED));
/// ```
impl Error for Status {}

/// An errno becomes [`io::Error::from_raw_os_error`], without allocating. Any other status, of
/// whatever class, becomes an error of its [`Status::kind`] around the status.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::Status;
/// let error = std::io::Error::from(Status::CANCELLED);
/// assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Status::CANCELLED));
/// ```
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
    io::Error::new(status.named_kind(), status)
}

/// The inverse of `io::Error::from(status)`. An error that was not made from a status becomes the
/// error status nearest to its kind, [`Status::UNSUCCESSFUL`] where NT has none near; its message
/// is lost. Never gives anything but an error for such a foreign one.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::Status;
/// use std::io::{Error, ErrorKind};
/// assert_eq!(Status::from(&Error::from_raw_os_error(9)), Status::from_errno(9));
/// assert_eq!(Status::from(&Error::new(ErrorKind::TimedOut, "slow")), Status::IO_TIMEOUT);
/// ```
impl From<&io::Error> for Status {
    fn from(error: &io::Error) -> Status {
        if let Some(errno) = error.raw_os_error() {
            return Status::from_errno(errno);
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Status>()) {
            Some(status) => *status,
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
