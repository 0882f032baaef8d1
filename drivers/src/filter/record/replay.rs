//! Logs, read and done again.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use overlapped_iomgr::{FileHandle, FileObject, Request, Stack, Status};

use super::layout::{Flags, LogEntry, LogError, SECTOR, parse_super};
use super::log::write_all;
use crate::bottom::{self, FileContext, FileDriver};
use crate::class::{Create, QueryInformation, Read, ZeroData};

/// A log of writes ([`Record`](super::Record), Linux's `log-writes`, QEMU's `blklogwrites`), which is done again
/// onto a file, from its begin, as far as wanted.
///
/// Onto a copy of what the recorded file was at the begin, that rebuilds what the medium held at each
/// moment. Every state that a crash right after a flush may leave, for instance:
///
/// ```no_run
/// # async fn check(_: &overlapped_iomgr::FileObject) {}
/// # async fn example(copy: &overlapped_iomgr::FileObject) -> std::io::Result<()> {
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::record::Replay;
///
/// let mut replay = Replay::open("writes.log").await?;
/// while replay.until_flush(copy).await? {
///     check(copy).await;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Functions that write onto a file may have done a part of an entry when they are dropped; called again,
/// they do that entry again, from its begin.
pub struct Replay {
    log: FileHandle,
    entries: u64,
    sector: u64,
    /// Bytes of the log.
    len: u64,
    /// The next entry, and where it is.
    next: u64,
    at: u64,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("entries", &self.entries)
            .field("sector", &self.sector)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The most that is copied at once, in bytes.
const PIECE: u64 = 1 << 20;

impl Replay {
    /// Opens a log.
    ///
    /// # Errors
    /// [`LogError::NotALog`], [`LogError::Version`], [`LogError::SectorSize`], and those of the file.
    pub async fn open(path: impl AsRef<Path>) -> Result<Replay, LogError> {
        let path = path.as_ref();
        let name = path.to_string_lossy();
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Status::NUL_IN_NAME)?;
        let stack = Stack::new([], FileDriver::shared()).map_err(|_| Status::INTERNAL_ERROR)?;
        crate::hal::install();
        let log = bottom::open(stack, &name, FileContext::new(false))?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let create = Request::new(&log, Create { path, flags, mode: 0 }).await;
        create.map_err(|error| Status::from(&error))?;
        let metadata = Request::new(&log, QueryInformation).await;
        let len = metadata.map_err(|error| Status::from(&error))?.len();
        let start = read(&log, 0, SECTOR as u64).await?;
        let (entries, sector) = parse_super(&start)?;
        Ok(Replay { log, entries, sector, len, next: 0, at: sector })
    }

    /// Entries of the log.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Entries that have been done.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Bytes of a sector: what the log's offsets and lengths are multiples of.
    pub fn sector_size(&self) -> u64 {
        self.sector
    }

    /// Begins anew. The target should be what it was at the begin.
    pub fn rewind(&mut self) {
        (self.next, self.at) = (0, self.sector);
    }

    /// The next entry, which is not done yet. `None` at the end.
    ///
    /// # Errors
    /// [`LogError::Damaged`], and those of the log's file.
    pub async fn peek(&self) -> Result<Option<LogEntry>, LogError> {
        if self.next >= self.entries {
            return Ok(None);
        }
        let sector = read(&self.log, self.at, self.sector).await?;
        if (sector.len() as u64) < self.sector {
            return Err(LogError::Damaged(self.next));
        }
        let entry = LogEntry::parse(self.next, &sector)?;
        let end = self.at.checked_add(self.sector).and_then(|at| at.checked_add(entry.data()));
        if end.is_none_or(|end| end > self.len) {
            return Err(LogError::Damaged(self.next));
        }
        Ok(Some(entry))
    }

    /// Leaves the next entry out. `None` at the end.
    ///
    /// # Errors
    /// As [`Replay::peek`].
    pub async fn skip(&mut self) -> Result<Option<LogEntry>, LogError> {
        let entry = self.peek().await?;
        if let Some(entry) = &entry {
            self.next += 1;
            self.at += self.sector + entry.data();
        }
        Ok(entry)
    }

    /// Does the next entry. `None` at the end.
    ///
    /// # Errors
    /// As [`Replay::peek`], and those of the file.
    pub async fn step(&mut self, onto: &FileObject) -> Result<Option<LogEntry>, LogError> {
        let Some(entry) = self.peek().await? else { return Ok(None) };
        let (offset, len) = (entry.offset, entry.len);
        if entry.flags.has(Flags::DISCARD) && len > 0 {
            discard(onto, offset, len).await?;
        } else {
            let mut done = 0;
            while done < len {
                let part = (len - done).min(PIECE);
                let bytes = read(&self.log, self.at + self.sector + done, part).await?;
                if (bytes.len() as u64) < part {
                    return Err(LogError::Damaged(self.next));
                }
                write_all(onto, bytes, offset + done).await?;
                done += part;
            }
        }
        self.next += 1;
        self.at += self.sector + entry.data();
        Ok(Some(entry))
    }

    /// Goes on until so many entries have been done. Whether there are so many.
    ///
    /// # Errors
    /// As [`Replay::step`].
    pub async fn until_entry(&mut self, entries: u64, onto: &FileObject) -> Result<bool, LogError> {
        while self.next < entries {
            if self.step(onto).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on until the next flush, or write that went to the medium at once, has been done. `false`: there
    /// is none any more, and all is done.
    ///
    /// # Errors
    /// As [`Replay::step`].
    pub async fn until_flush(&mut self, onto: &FileObject) -> Result<bool, LogError> {
        while let Some(entry) = self.step(onto).await? {
            if entry.flags.has(Flags::FLUSH) || entry.flags.has(Flags::FUA) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes on until the next mark of this name. `false`: there is none any more, and all is done.
    ///
    /// # Errors
    /// As [`Replay::step`].
    pub async fn until_mark(&mut self, name: &str, onto: &FileObject) -> Result<bool, LogError> {
        while let Some(entry) = self.step(onto).await? {
            if entry.name.as_deref() == Some(name) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// So many bytes, or fewer where the file ends.
async fn read(file: &FileObject, at: u64, len: u64) -> Result<Vec<u8>, LogError> {
    let len = len as usize;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let part = Vec::with_capacity(len - bytes.len());
        let done = Request::new(file, Read::at(part, at + bytes.len() as u64)).await;
        match done.map_err(|error| LogError::Io(error.status()))? {
            (0, _) => break,
            (n, part) => bytes.extend_from_slice(&part[..n.min(len - bytes.len())]),
        }
    }
    Ok(bytes)
}

/// Makes a range zeroes, as long as the file is.
async fn discard(file: &FileObject, offset: u64, len: u64) -> Result<(), LogError> {
    let zeroed = Request::new(file, ZeroData { offset, len }).await;
    let status = match zeroed {
        Ok(()) => return Ok(()),
        Err(error) => Status::from(&error),
    };
    let unsupported = [Status::NOT_SUPPORTED, Status::from_errno(libc::EOPNOTSUPP)];
    if !unsupported.contains(&status) {
        return Err(LogError::Io(status));
    }
    let metadata = Request::new(file, QueryInformation).await;
    let file_len = metadata.map_err(|error| Status::from(&error))?.len();
    let (mut at, end) = (offset, (offset + len).min(file_len));
    while at < end {
        let part = (end - at).min(PIECE);
        write_all(file, vec![0; part as usize], at).await?;
        at += part;
    }
    Ok(())
}
