//! The operations on a file's space and on ranges of its data: reserving, punching, hinting,
//! copying.

use std::fmt;
use std::io;

use overlapped_iomgr::{
    Done, FileObject, Major, Operation, RelatedFile, Setup, Status, Why, minor,
};

use super::ops::check_range;

fn check(offset: u64, len: u64) -> Status {
    usize::try_from(len).map_or(Status::OFFSET_OVERFLOW, |len| check_range(offset, len))
}

macro_rules! ranges {
    ($($type:ident = $major:ident $minor:ident;)*) => {$(
        impl Operation for $type {
            type Output = io::Result<()>;

            fn major(&self) -> Major {
                Major::$major
            }
            fn check(&self) -> Status {
                check(self.offset, self.len)
            }
            fn prepare(self, setup: &mut Setup<'_>) {
                setup.minor(minor::$minor).offset(self.offset).arg(self.len).payload(self);
            }
            fn finish(done: &mut Done<'_>) -> Self::Output {
                done.status().result(0).map(drop)
            }
            fn refuse(self, status: Status) -> Self::Output {
                Err(status.into())
            }
        }
    )*};
}

ranges! {
    Allocate = SetInformation ALLOCATION;
    ZeroData = FileSystemControl ZERO_DATA;
    ZeroRange = FileSystemControl ZERO_RANGE;
    Hint = SetInformation HINT;
}

/// Reserves space for a range of a file, whose length stays: writes there do not run out of space.
#[derive(Clone, Copy, Debug)]
pub struct Allocate {
    /// First byte.
    pub offset: u64,
    /// Bytes; not 0.
    pub len: u64,
}

/// Makes a range of a file zeroes and gives its space back. The file's length stays.
#[derive(Clone, Copy, Debug)]
pub struct ZeroData {
    /// First byte.
    pub offset: u64,
    /// Bytes; not 0.
    pub len: u64,
}

/// Makes a range of a file zeroes, whose space stays reserved. The file's length stays. Where a filter
/// does not know how, the I/O manager writes the zeroes.
#[derive(Clone, Copy)]
pub struct ZeroRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Kept for the driver: the descriptor, and that it is done in the second way.
    pub(crate) fd: i32,
    pub(crate) written: bool,
}

impl fmt::Debug for ZeroRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ZeroRange { offset, len, .. } = self;
        f.debug_struct("ZeroRange").field("offset", offset).field("len", len).finish()
    }
}

impl ZeroRange {
    /// `len` bytes, not 0, from the byte `offset` on.
    pub fn new(offset: u64, len: u64) -> ZeroRange {
        ZeroRange { offset, len, fd: -1, written: false }
    }
}

/// Says what use will be made of a range of a file.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    /// First byte.
    pub offset: u64,
    /// Bytes; 0 for all behind `offset`.
    pub len: u64,
    /// The use.
    pub advice: Advice,
}

/// What use will be made of a file's data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Advice {
    /// Nothing special: takes other advice back.
    Normal,
    /// Read in order: read ahead more.
    Sequential,
    /// Read here and there: do not read ahead.
    Random,
    /// Read soon: begin now.
    WillNeed,
    /// Not used soon: cached pages may go. Those not written to the medium yet stay.
    DontNeed,
    /// Used once only.
    NoReuse,
}

impl Advice {
    pub(crate) fn as_raw(self) -> i32 {
        match self {
            Advice::Normal => libc::POSIX_FADV_NORMAL,
            Advice::Sequential => libc::POSIX_FADV_SEQUENTIAL,
            Advice::Random => libc::POSIX_FADV_RANDOM,
            Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
            Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
            Advice::NoReuse => libc::POSIX_FADV_NOREUSE,
        }
    }
}

/// Takes a range of another file's data over, without bringing it to this process. Sent to the file
/// that gets it; yields the bytes taken over: fewer than asked for where the source ends, or the
/// system makes a pause.
///
/// [`Status::NOT_SUPPORTED`] when a filter of either file would have to see the data.
#[derive(Debug)]
pub struct CopyRange {
    pub(crate) source: RelatedFile,
    /// First byte in the source.
    pub(crate) from: u64,
    /// First byte in the target.
    pub(crate) to: u64,
    pub(crate) len: u64,
    /// Kept for the driver: the descriptors of source and target.
    pub(crate) fds: (i32, i32),
}

impl CopyRange {
    /// `len` bytes of `source` from the byte `from` on, to the byte `to` of the request's own file.
    ///
    /// Until the request has ended and its result has been taken, the source is not closed.
    pub fn new(source: &FileObject, from: u64, to: u64, len: u64) -> CopyRange {
        CopyRange { source: RelatedFile::new(source), from, to, len, fds: (-1, -1) }
    }

    /// The file that the data is taken from.
    pub fn source(&self) -> &FileObject {
        &self.source
    }

    /// First byte in the source, and bytes.
    pub fn range(&self) -> (u64, u64) {
        (self.from, self.len)
    }
}

impl Operation for CopyRange {
    type Output = io::Result<u64>;

    fn major(&self) -> Major {
        Major::FileSystemControl
    }
    fn check(&self) -> Status {
        let ranges = [check(self.from, self.len), check(self.to, self.len)];
        if let Some(overflow) = ranges.into_iter().find(|status| status.is_error()) {
            return overflow;
        }
        // The request does not travel the source's stack: only if nobody there minds.
        let source = self.source.stack();
        let mind = source
            .explain(Major::FileSystemControl)
            .any(|visit| visit.why != Why::Limits && visit.why != Why::Bottom);
        if mind { Status::NOT_SUPPORTED } else { Status::SUCCESS }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::COPY_RANGE).offset(self.to).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        Ok(done.status().result(done.info())? as u64)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
