//! What can be wrong with an encrypted volume.

use std::fmt;

use openssl::error::ErrorStack;
use overlapped_iomgr::Status;

/// Why a volume cannot be used. Requests through the filter fail with the [`Status`] that it becomes;
/// [`Header::parse`](super::Header::parse) and [`Luks::format`](super::Luks::format) give it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LuksError {
    /// The file does not begin with a LUKS header. [`Status::UNRECOGNIZED_VOLUME`].
    NotLuks,
    /// It does, and what it says cannot be. [`Status::FILE_CORRUPT_ERROR`].
    Damaged(&'static str),
    /// It says something that is not supported here: another cipher, say. [`Status::NOT_SUPPORTED`].
    Unsupported(String),
    /// No key slot opens with this passphrase or key. [`Status::WRONG_PASSWORD`].
    WrongKey,
    /// No memory, or no thread, for the derivation of the key. [`Status::INSUFFICIENT_RESOURCES`].
    NoResources,
    /// The library for the cryptography failed. [`Status::DRIVER_INTERNAL_ERROR`].
    Cryptography(String),
    /// The file could not be read or written.
    Io(Status),
}

impl fmt::Display for LuksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LuksError::NotLuks => f.write_str("there is no LUKS header"),
            LuksError::Damaged(what) => write!(f, "the LUKS header is damaged: {what}"),
            LuksError::Unsupported(what) => write!(f, "LUKS volume not supported: {what}"),
            LuksError::WrongKey => f.write_str("no key slot opens with this passphrase or key"),
            LuksError::NoResources => f.write_str("no memory or thread to derive the key"),
            LuksError::Cryptography(what) => write!(f, "the cryptography failed: {what}"),
            LuksError::Io(status) => write!(f, "the volume cannot be read or written: {status}"),
        }
    }
}

impl std::error::Error for LuksError {}

impl From<LuksError> for Status {
    fn from(error: LuksError) -> Status {
        match error {
            LuksError::NotLuks => Status::UNRECOGNIZED_VOLUME,
            LuksError::Damaged(_) => Status::FILE_CORRUPT_ERROR,
            LuksError::Unsupported(_) => Status::NOT_SUPPORTED,
            LuksError::WrongKey => Status::WRONG_PASSWORD,
            LuksError::NoResources => Status::INSUFFICIENT_RESOURCES,
            LuksError::Cryptography(_) => Status::DRIVER_INTERNAL_ERROR,
            LuksError::Io(status) => status,
        }
    }
}

impl From<LuksError> for std::io::Error {
    fn from(error: LuksError) -> Self {
        std::io::Error::new(Status::from(error.clone()).kind(), error)
    }
}

impl From<Status> for LuksError {
    fn from(status: Status) -> LuksError {
        LuksError::Io(status)
    }
}

impl From<ErrorStack> for LuksError {
    fn from(error: ErrorStack) -> LuksError {
        LuksError::Cryptography(error.to_string())
    }
}
