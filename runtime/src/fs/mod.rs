//! Files.
//!
//! [`File`] reads and writes at offsets, or along a cursor of its own; every method that does I/O
//! gives its buffer back with the result, also with a failed one. Filters go on with
//! [`OpenOptions::filter`].

mod compat;
mod file;
mod options;

use std::io;
use std::path::Path;

pub use compat::Compat;
pub use file::{Cursor, File};
pub use options::{Metadata, OpenOptions};

/// Bytes of one step of [`copy`].
const CHUNK: usize = 128 * 1024;

/// Reads a whole file.
///
/// # Errors
/// Those of opening and reading.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::open(path).await?;
    let size = usize::try_from(file.metadata().await?.len()).map_err(io::Error::other)?;
    // One byte more than the size: the read that finds the end needs no other.
    let mut buf = Vec::with_capacity(size + 1);
    loop {
        if buf.len() == buf.capacity() {
            buf.reserve(CHUNK);
        }
        let at = buf.len();
        let (n, slice) = file.read_at(buf::tail(buf), at as u64).await?;
        buf = slice.into_inner();
        if n == 0 {
            return Ok(buf);
        }
    }
}

mod buf {
    use overlapped_iomgr::buf::{IoBufMut, Slice};

    /// The room behind what a vector holds.
    pub(super) fn tail(buf: Vec<u8>) -> Slice<Vec<u8>> {
        let (len, capacity) = (buf.len(), buf.capacity());
        buf.slice_mut(len..capacity)
    }
}

/// Writes a whole file: created if missing, replaced if there.
///
/// # Errors
/// Those of opening and writing, and of the final close.
pub async fn write(path: impl AsRef<Path>, contents: impl Into<Vec<u8>>) -> io::Result<()> {
    let file = File::create(path).await?;
    file.write_all_at(contents.into(), 0).await?;
    file.close().await
}

/// Copies a file's contents, with several reads and writes in flight; returns the bytes copied. The
/// copy gets the permission bits of the original.
///
/// # Errors
/// Those of opening, reading and writing; `InvalidInput` when the original is no regular file, or is
/// the copy itself: both before anything is changed. A copy that failed later leaves what it had
/// written.
pub async fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let from = File::open(from).await?;
    let original = from.metadata().await?;
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !original.is_file() {
        return refuse("the original is not a regular file");
    }
    let mode = original.mode();
    let to = OpenOptions::new().write(true).create(true).mode(mode).open(to).await?;
    let there = to.metadata().await?;
    if there.identity() == original.identity() {
        return refuse("a file cannot be copied to itself");
    }
    if there.len() > 0 {
        to.set_len(0).await?;
    }
    let copied = file::copy(&from, &to, CHUNK).await?;
    to.close().await?;
    Ok(copied)
}
