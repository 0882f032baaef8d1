//! What an element's parameters may be.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use overlapped_iomgr::{Major, MajorSet, Status};

use super::error::{TextError, TextErrorKind};
use super::parse::{Piece, Text, Value};

/// A type that a parameter's value can be read as.
pub trait Parameter: Sized {
    /// What a value must be, behind "takes".
    const EXPECTED: &'static str;

    /// Reads a value. `None`: it is not one.
    fn read(value: &str) -> Option<Self>;
}

impl Parameter for String {
    const EXPECTED: &'static str = "text";
    fn read(value: &str) -> Option<String> {
        Some(value.to_owned())
    }
}

impl Parameter for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn read(value: &str) -> Option<PathBuf> {
        (!value.is_empty()).then(|| value.into())
    }
}

fn digits(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(hex) if !hex.starts_with('+') => u64::from_str_radix(hex, 16).ok(),
        None if !value.starts_with('+') => value.parse().ok(),
        _ => None,
    }
}

impl Parameter for u64 {
    const EXPECTED: &'static str = "a number";
    fn read(value: &str) -> Option<u64> {
        digits(value)
    }
}

impl Parameter for u32 {
    const EXPECTED: &'static str = "a number below 2^32";
    fn read(value: &str) -> Option<u32> {
        digits(value)?.try_into().ok()
    }
}

impl Parameter for u8 {
    const EXPECTED: &'static str = "a number from 0 to 255";
    fn read(value: &str) -> Option<u8> {
        digits(value)?.try_into().ok()
    }
}

impl Parameter for bool {
    const EXPECTED: &'static str = "yes or no";
    fn read(value: &str) -> Option<bool> {
        match value {
            "yes" | "true" | "on" | "1" => Some(true),
            "no" | "false" | "off" | "0" => Some(false),
            _ => None,
        }
    }
}

/// A probability, 0 to 1.
impl Parameter for f64 {
    const EXPECTED: &'static str = "a number from 0 to 1";
    fn read(value: &str) -> Option<f64> {
        value.parse().ok().filter(|rate| (0.0..=1.0).contains(rate))
    }
}

/// A number of bytes: digits, and K, M, G or T for powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl Parameter for Size {
    const EXPECTED: &'static str = "a number of bytes, such as 4096, 64K, 8M or 1G";
    fn read(value: &str) -> Option<Size> {
        let shift = match value.bytes().last()? {
            b'K' | b'k' => 10,
            b'M' | b'm' => 20,
            b'G' | b'g' => 30,
            b'T' | b't' => 40,
            _ => return digits(value).map(Size),
        };
        let number = digits(&value[..value.len() - 1])?;
        number.checked_mul(1 << shift).map(Size)
    }
}

/// A status: an errno by its name, `EIO`, `ENOSPC`, `ETIMEDOUT`, ….
impl Parameter for Status {
    const EXPECTED: &'static str = "an error's name, such as EIO or ENOSPC";
    fn read(value: &str) -> Option<Status> {
        let errno = match value {
            "EACCES" => libc::EACCES,
            "EAGAIN" => libc::EAGAIN,
            "EBUSY" => libc::EBUSY,
            "ECONNABORTED" => libc::ECONNABORTED,
            "ECONNREFUSED" => libc::ECONNREFUSED,
            "ECONNRESET" => libc::ECONNRESET,
            "EDQUOT" => libc::EDQUOT,
            "EFBIG" => libc::EFBIG,
            "EINTR" => libc::EINTR,
            "EINVAL" => libc::EINVAL,
            "EIO" => libc::EIO,
            "ENODATA" => libc::ENODATA,
            "ENOMEM" => libc::ENOMEM,
            "ENOSPC" => libc::ENOSPC,
            "EOPNOTSUPP" => libc::EOPNOTSUPP,
            "EPERM" => libc::EPERM,
            "EPIPE" => libc::EPIPE,
            "EROFS" => libc::EROFS,
            "ETIMEDOUT" => libc::ETIMEDOUT,
            _ => return None,
        };
        Some(Status::from_errno(errno))
    }
}

/// Operations, with `+` between several: `read`, `write`, `flush`, …, `all`.
impl Parameter for MajorSet {
    const EXPECTED: &'static str = "operations, such as read, write, flush, read+write or all";
    fn read(value: &str) -> Option<MajorSet> {
        let mut majors = Vec::new();
        for name in value.split('+') {
            majors.push(match name {
                "all" => return Some(MajorSet::ALL),
                "read" => Major::Read,
                "write" => Major::Write,
                "flush" => Major::Flush,
                "create" | "open" => Major::Create,
                "close" => Major::Close,
                "control" | "trim" | "zero" => Major::FileSystemControl,
                "query" => Major::QueryInformation,
                "set" => Major::SetInformation,
                "connect" => Major::Connect,
                "accept" => Major::Accept,
                "send" => Major::SendTo,
                "receive" => Major::ReceiveFrom,
                "shutdown" => Major::Shutdown,
                "directory" => Major::DirectoryControl,
                "device" => Major::DeviceControl,
                "cleanup" => Major::Cleanup,
                "security" => Major::SetSecurity,
                "poll" => Major::Poll,
                "private" => Major::Private,
                _ => return None,
            });
        }
        Some(MajorSet::of(&majors))
    }
}

/// A key or passphrase: as it stands, or, behind `@`, the content of a file, all of it. Its `Debug` does
/// not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Parameter for Secret {
    const EXPECTED: &'static str = "a secret, or @ and the path of a file that can be read";
    fn read(value: &str) -> Option<Secret> {
        match value.strip_prefix('@') {
            Some(path) => std::fs::read(path).ok().map(Secret),
            None => Some(Secret(value.as_bytes().to_vec())),
        }
    }
}

/// An element's parameters, to be taken one by one by whoever makes it. Those that are left over are an
/// error, which lists those that were asked for.
#[derive(Debug)]
pub struct Parameters<'a> {
    text: &'a Text,
    piece: &'a Piece,
    element: &'static str,
    taken: Vec<bool>,
    asked: Vec<&'static str>,
}

impl<'a> Parameters<'a> {
    pub(super) fn new(text: &'a Text, piece: &'a Piece, element: &'static str) -> Self {
        Parameters { text, piece, element, taken: vec![false; piece.values.len()], asked: vec![] }
    }

    /// A parameter that may be left out.
    ///
    /// # Errors
    /// A value of another kind; the parameter given twice.
    pub fn optional<T: Parameter>(&mut self, key: &'static str) -> Result<Option<T>, TextError> {
        self.asked.push(key);
        let mut found: Option<&Value> = None;
        for (value, taken) in self.piece.values.iter().zip(&mut self.taken) {
            if let Some((name, at)) = &value.key
                && name == key
            {
                if found.is_some() {
                    let kind = TextErrorKind::Twice { key: key.to_owned() };
                    return Err(self.text.error(at.clone(), kind));
                }
                found = Some(value);
                *taken = true;
            }
        }
        found.map(|value| self.read(key, value)).transpose()
    }

    /// A parameter that has a value if it is left out.
    ///
    /// # Errors
    /// As [`Parameters::optional`].
    pub fn or<T: Parameter>(&mut self, key: &'static str, default: T) -> Result<T, TextError> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// As [`Parameters::optional`]; and its absence.
    pub fn required<T: Parameter>(&mut self, key: &'static str) -> Result<T, TextError> {
        let missing = TextErrorKind::Missing { element: self.element, key };
        self.optional(key)?.ok_or_else(|| self.text.error(self.piece.at.clone(), missing))
    }

    /// The value that stands without a key; or, as well, with this one.
    ///
    /// # Errors
    /// As [`Parameters::required`].
    pub fn main<T: Parameter>(&mut self, key: &'static str) -> Result<T, TextError> {
        let bare = self.piece.values.iter().position(|value| value.key.is_none());
        match bare {
            Some(at) => {
                self.asked.push(key);
                self.taken[at] = true;
                self.read(key, &self.piece.values[at])
            }
            None => self.required(key),
        }
    }

    fn read<T: Parameter>(&self, key: &str, value: &Value) -> Result<T, TextError> {
        T::read(&value.value).ok_or_else(|| self.bad(key, value.at.clone(), T::EXPECTED))
    }

    fn bad(&self, key: &str, at: Range<usize>, expected: &str) -> TextError {
        let (key, expected) = (key.to_owned(), expected.to_owned());
        self.text.error(at, TextErrorKind::BadValue { key, expected })
    }

    /// An error about the value of a parameter that has been taken: what it takes, or what is wrong.
    pub fn error(&self, key: &str, expected: &str) -> TextError {
        let is_it = |v: &&Value| v.key.as_ref().is_some_and(|(name, _)| name == key);
        let value = self.piece.values.iter().find(is_it);
        let at = value.map_or(self.piece.at.clone(), |value| value.at.clone());
        self.bad(key, at, expected)
    }

    /// An error about the whole element.
    pub fn refuse(&self, why: impl fmt::Display) -> TextError {
        let kind = TextErrorKind::Refused { element: self.element, why: why.to_string() };
        self.text.error(self.piece.at.clone(), kind)
    }

    pub(super) fn finish(self) -> Result<(), TextError> {
        let left = self.piece.values.iter().zip(&self.taken).find(|(_, taken)| !**taken);
        let Some((value, _)) = left else { return Ok(()) };
        let (key, at) = match &value.key {
            Some((key, at)) => (key.clone(), at.clone()),
            None => (value.value.clone(), value.at.clone()),
        };
        let kind =
            TextErrorKind::UnknownParameter { element: self.element, key, known: self.asked };
        Err(self.text.error(at, kind))
    }
}
