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
//! The values are in `codes.rs`, what they are as [`io::Error`]s in `convert.rs`.
//!
//! **Invariant.** `Status` → `io::Error` → `Status` gives the same bits for every status.

mod codes;
mod convert;

use std::fmt;
use std::io;

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
/// # use overlapped_iomgr as overlapped;
/// use overlapped::Status;
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
/// # use overlapped_iomgr as overlapped;
/// use overlapped::{Status, StatusClass};
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
    /// assert_eq!(Status::from_errno(5).facility(), Status::FACILITY_ERRNO);
    /// ```
    pub const FACILITY_ERRNO: u16 = 0x00E;

    /// Class error, customer bit, errno's facility, code 0.
    const ERRNO_BASE: u32 = 0b11 << 30 | 1 << 29 | (Self::FACILITY_ERRNO as u32) << 16;

    /// A status from its 32 bits. Every value is a status; drivers may define their own, which
    /// should have the customer bit (29) set.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
    /// assert_eq!(Status::from_raw(0xC000_0120), Status::CANCELLED);
    /// ```
    pub const fn from_raw(bits: u32) -> Status {
        Status(bits)
    }

    /// The 32 bits.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, StatusClass};
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
    /// assert!(Status::TIMEOUT.is_success());
    /// assert!(!Status::NO_MORE_FILES.is_success());
    /// ```
    pub const fn is_success(self) -> bool {
        self.0 >> 31 == 0
    }

    /// Class warning: neither success nor error.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
    /// assert!(Status::BUFFER_OVERFLOW.is_warning());
    /// ```
    pub const fn is_warning(self) -> bool {
        self.0 >> 30 == 0b10
    }

    /// `NT_ERROR`: class error. What final completion selects on (I-30).
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
    /// assert!(Status::from_errno(5).is_error());
    /// ```
    pub const fn is_error(self) -> bool {
        self.0 >> 30 == 0b11
    }

    /// Bits 27 to 16: which component defined the code.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::Status;
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
            Status::QUOTA_EXCEEDED => "a limit is reached: take results before issuing more",
            Status::INVALID_PARAMETER => {
                "what was asked for does not go together, or not with this file; see the call's errors"
            }
            Status::NOT_SUPPORTED => "a driver of the stack does not know the operation",
            Status::INVALID_DEVICE_REQUEST => "no driver of the stack knows the operation",
            Status::DRIVER_INTERNAL_ERROR => {
                "a driver dropped the request or panicked; see the log"
            }
            _ => return None,
        })
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

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
