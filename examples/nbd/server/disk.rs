//! The stack that is exported.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::driver::{Capabilities, Class};
use overlapped::fs::{Advice, File, OpenOptions};
use overlapped_examples::nbd::{Export, Extent, MAX_PAYLOAD};

/// Most extents of one answer; the client asks again for what is behind them.
const MAX_EXTENTS: usize = 4096;

/// An open stack of fixed size.
pub struct Disk {
    file: File,
    export: Arc<Export>,
    /// What the stack does without being given every byte.
    can: Capabilities,
    /// The file at the bottom, where its holes are those of the stack.
    map: Option<Arc<OwnedFd>>,
}

impl Disk {
    /// Opens what a stack's text says.
    ///
    /// # Errors
    /// Those of opening; what has no size.
    pub async fn open(stack: &str, read_only: bool) -> io::Result<Disk> {
        let file = OpenOptions::new().read(true).write(!read_only).open_stack(stack).await?;
        let metadata = file.metadata().await?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = format!("'{stack}' has no size: {kind:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let stack = file.object().stack();
        let limits = stack.limits();
        let preferred = limits.preferred.max(limits.block).max(4096);
        let export = Arc::new(Export {
            size: metadata.len(),
            read_only,
            preferred: preferred.checked_next_power_of_two().unwrap_or(1 << 31).min(MAX_PAYLOAD),
            fua: stack.can().has(Capabilities::WRITE_THROUGH),
            trim: limits.can.has(Capabilities::DISCARD),
            // Names only: parameters may be secret.
            description: stack.to_string(),
        });
        let map = (kind.is_file() && holes_are_the_files(&file))
            .then(|| file.as_fd().try_clone_to_owned());
        let map = map.transpose()?.map(Arc::new);
        Ok(Disk { file, export, can: limits.can, map })
    }

    /// What clients are told.
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// Flushes it, and closes it if nobody else has it.
    pub async fn close(this: Arc<Disk>) -> io::Result<()> {
        if !this.export.read_only {
            this.file.sync_all().await?;
        }
        match Arc::into_inner(this) {
            Some(disk) => disk.file.close().await,
            None => Ok(()),
        }
    }

    /// Reads all of a range that lies within the export.
    pub async fn read(&self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        let len = len as usize;
        let room = Vec::with_capacity(len).slice_mut(..len);
        let ((), data) = self.file.read_exact_at(room, offset).await?;
        Ok(data.into_inner())
    }

    /// Writes all of the data.
    pub async fn write(&self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(data, offset).await?;
        Ok(())
    }

    /// Writes all of the data, to the medium.
    pub async fn write_through(&self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        let (mut at, mut left) = (offset, data.slice(..));
        while !left.is_empty() {
            let (n, part) = self.file.write_through_at(left, at).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += n as u64;
            let begin = part.begin() + n;
            left = part.into_inner().slice(begin..);
        }
        Ok(())
    }

    /// Brings all that was written to the medium, whoever has written it.
    pub async fn flush(&self) -> io::Result<()> {
        self.file.sync_data().await
    }

    /// Advice, which a stack need not be able to take.
    pub async fn cache(&self, offset: u64, len: u32) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        supported(self.file.advise(offset, len.into(), Advice::WillNeed).await).map(drop)
    }

    /// What is trimmed may be anything afterwards: where a stack knows no holes, it stays as it is.
    pub async fn trim(&self, offset: u64, len: u32) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        supported(self.file.punch_hole(offset, len.into()).await).map(drop)
    }

    /// Makes a range zeroes: as a hole if it may be one; where the stack knows neither holes nor zeroes, by
    /// writing.
    ///
    /// # Errors
    /// Those of the stack; `Unsupported` if it was to be `fast`, and would have to be written.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u32,
        (no_hole, fast): (bool, bool),
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let may_be_hole = !no_hole && self.can.has(Capabilities::DISCARD);
        if may_be_hole && supported(self.file.punch_hole(offset, len.into()).await)? {
            return Ok(());
        }
        if fast && !self.can.has(Capabilities::ZERO) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.file.zero_range(offset, len.into()).await
    }

    /// Where data is and where holes are, from a byte on; at least one extent, and no byte behind the
    /// range.
    pub async fn extents(&self, offset: u64, len: u32, one: bool) -> io::Result<Vec<Extent>> {
        let Some(map) = self.map.clone() else { return Ok(vec![Extent::data(len)]) };
        let most = if one { 1 } else { MAX_EXTENTS };
        // The file system may have to read its own blocks for this.
        let found = overlapped::spawn_blocking(move || look(&map, offset, len, most)).await;
        found.map_err(|error| io::Error::other(error.to_string()))?
    }
}

/// Whether it was done; `false`: a driver, or the file system, does not know how.
fn supported(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether all that is above a file only looks: nothing changes bytes, or keeps some elsewhere.
fn holes_are_the_files(file: &File) -> bool {
    let stack = file.object().stack();
    let filters = stack.devices().len() - 1;
    file.as_raw_fd() >= 0
        && stack.devices().take(filters).all(|device| device.driver().class() == Class::Observe)
}

/// Looks for a file's extents.
fn look(file: &OwnedFd, offset: u64, len: u32, most: usize) -> io::Result<Vec<Extent>> {
    let end = offset + u64::from(len);
    let (mut at, mut extents) = (offset, Vec::new());
    while at < end && extents.len() < most {
        let data = seek(file, at, libc::SEEK_DATA)?.unwrap_or(end).min(end);
        if data > at {
            extents.push(Extent::hole((data - at) as u32));
            at = data;
        } else {
            let hole = seek(file, at, libc::SEEK_HOLE)?.unwrap_or(end).clamp(at + 1, end);
            extents.push(Extent::data((hole - at) as u32));
            at = hole;
        }
    }
    Ok(extents)
}

/// The first data, or the first hole, from a byte on. `None`: there is none.
fn seek(file: &OwnedFd, at: u64, whence: i32) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    // SAFETY: an open descriptor, and numbers. That the file's position moves is nobody's business:
    // requests name their offsets.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}
