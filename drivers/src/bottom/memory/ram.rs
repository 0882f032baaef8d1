//! A file in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

use super::pages::Pages;
use super::{Bytes, Medium, answer, fill_zero};
use crate::class::{FileType, Metadata};

/// A file in memory. Every open of one `Memory` is of the same bytes; they go with the last file
/// object and `Arc` of it. What was never written reads as zeroes and takes no memory.
#[derive(Debug)]
pub struct Memory {
    pages: RwLock<Pages>,
    /// It has always had its length.
    fixed: bool,
    /// Its inode's number, as it were.
    id: u64,
}

impl Memory {
    /// An empty file, which grows as it is written to.
    pub fn new() -> Memory {
        Memory::with(Pages::default(), false)
    }

    /// A file of `len` zeroes that, as a disk, neither grows nor shrinks: writes beyond its end fail
    /// with `ENOSPC`, a change of its length with `EINVAL`, and being truncated when it is opened
    /// changes nothing.
    pub fn of_size(len: u64) -> Memory {
        Memory::with(Pages::of_len(len), true)
    }

    fn with(pages: Pages, fixed: bool) -> Memory {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Memory { pages: RwLock::new(pages), fixed, id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    // Held for the time of a copy. Nothing in here panics meanwhile.

    fn look(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl Medium for Memory {
    fn open(&self, flags: i32) -> Result<(), Status> {
        if flags & libc::O_TRUNC != 0 && !self.fixed {
            self.change().set_len(0)?;
        }
        Ok(())
    }

    fn read(&self, irp: &mut Irp<'_>, at: u64) -> Bytes {
        let wanted = irp.len();
        let pages = self.look();
        Ok(pages.read(at, wanted, |done, bytes, n| match bytes {
            Some(bytes) => _ = irp.copy_in(done, bytes),
            None => _ = fill_zero(irp, done, n),
        }))
    }

    fn write(&self, irp: &Irp<'_>, at: Option<u64>) -> Result<(u64, usize), Status> {
        let mut pages = self.change();
        let start = at.unwrap_or(pages.len());
        if irp.is_empty() {
            return Ok((start, 0));
        }
        let end = if self.fixed { pages.len() } else { i64::MAX as u64 };
        let mut room = end.saturating_sub(start).min(irp.len() as u64) as usize;
        if room == 0 {
            let errno = if self.fixed { libc::ENOSPC } else { libc::EFBIG };
            return Err(Status::from_errno(errno));
        }
        let mut done = 0;
        for segment in irp.segments() {
            let bytes = &segment[..segment.len().min(room)];
            let n = pages.write(start + done as u64, bytes);
            (done, room) = (done + n, room - n);
            if n < bytes.len() {
                break;
            }
        }
        if done == 0 { Err(Status::INSUFFICIENT_RESOURCES) } else { Ok((start, done)) }
    }

    fn metadata(&self) -> Metadata {
        let pages = self.look();
        let metadata = Metadata::of(FileType::regular(), 0o666);
        metadata.sized(pages.len(), pages.allocated()).numbered(self.id)
    }

    fn set_len(&self, len: u64) -> Result<(), Status> {
        if self.fixed {
            return Err(Status::from_errno(libc::EINVAL));
        }
        self.change().set_len(len)
    }

    fn zero(&self, at: u64, len: u64) -> Result<(), Status> {
        self.change().zero(at, len);
        Ok(())
    }
}

impl Driver for Memory {
    fn name(&self) -> &str {
        "memory"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { can: Capabilities::ALL, ..below }
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        answer(self, irp)
    }
}
