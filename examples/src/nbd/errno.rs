//! The protocol's errors.

use std::io::{self, ErrorKind};

use overlapped::Status;

/// An error of a request, as the protocol numbers them (and Linux does).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(u32);

impl Errno {
    /// Not allowed: a write to a read-only export.
    pub const PERM: Errno = Errno(1);
    /// The medium failed.
    pub const IO: Errno = Errno(5);
    /// No memory.
    pub const NOMEM: Errno = Errno(12);
    /// The request makes no sense.
    pub const INVAL: Errno = Errno(22);
    /// No space, or past the end.
    pub const NOSPC: Errno = Errno(28);
    /// Too much for one reply.
    pub const OVERFLOW: Errno = Errno(75);
    /// Not possible, or not fast.
    pub const NOTSUP: Errno = Errno(95);
    /// The server ends.
    pub const SHUTDOWN: Errno = Errno(108);

    /// The number on the wire.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// What a stack's error is for a client. All that the protocol has no number for is [`Errno::IO`].
    pub fn of(error: &io::Error) -> Errno {
        match Status::from(error) {
            Status::QUOTA_EXCEEDED => return Errno::NOMEM,
            Status::SHUTDOWN_IN_PROGRESS => return Errno::SHUTDOWN,
            status if status.errno() == Some(libc::EOVERFLOW) => return Errno::OVERFLOW,
            _ => {}
        }
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Errno::PERM,
            ErrorKind::OutOfMemory => Errno::NOMEM,
            ErrorKind::InvalidInput => Errno::INVAL,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Errno::NOSPC
            }
            ErrorKind::Unsupported => Errno::NOTSUP,
            _ => Errno::IO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_statuses_and_of_the_systems_errors() {
        for (status, errno) in [
            (Status::from_errno(libc::EIO), Errno::IO),
            (Status::from_errno(libc::EPERM), Errno::PERM),
            (Status::from_errno(libc::EACCES), Errno::PERM),
            (Status::from_errno(libc::EROFS), Errno::PERM),
            (Status::MEDIA_WRITE_PROTECTED, Errno::PERM),
            (Status::from_errno(libc::ENOSPC), Errno::NOSPC),
            (Status::from_errno(libc::EDQUOT), Errno::NOSPC),
            (Status::DISK_FULL, Errno::NOSPC),
            (Status::from_errno(libc::ENOMEM), Errno::NOMEM),
            (Status::QUOTA_EXCEEDED, Errno::NOMEM),
            (Status::from_errno(libc::EOVERFLOW), Errno::OVERFLOW),
            (Status::NOT_SUPPORTED, Errno::NOTSUP),
            (Status::from_errno(libc::EOPNOTSUPP), Errno::NOTSUP),
            (Status::SHUTDOWN_IN_PROGRESS, Errno::SHUTDOWN),
            // No reason to tell a client that its own request was wrong, or to come again.
            (Status::CRC_ERROR, Errno::IO),
            (Status::CANCELLED, Errno::IO),
            (Status::DRIVER_INTERNAL_ERROR, Errno::IO),
            (Status::from_errno(libc::EAGAIN), Errno::IO),
            (Status::END_OF_FILE, Errno::IO),
        ] {
            assert_eq!(Errno::of(&status.into()), errno, "{status}");
        }
    }
}
