//! Files, directories and their names.
//!
//! [`File`] reads and writes at offsets, any number of requests at a time. A position that moves along is
//! a reader's or writer's own ([`Cursor`]), or one that all who have the file share, and whose requests
//! go one after the other ([`OpenOptions::synchronous`]). Every method that does I/O gives its buffer
//! back with the result, also with a failed one. Filters go on with [`OpenOptions::filter`].
//!
//! The functions on paths build [`Request`](crate::Request)s, as the methods of files do: await them,
//! [wait](crate::Request::wait) for them on a plain thread, or [post](crate::Request::post) them to a
//! port. Through filters they go on a [`Volume`]. Paths are copied into the request; one with a NUL
//! byte is refused ([`Status::NUL_IN_NAME`](crate::Status::NUL_IN_NAME), `InvalidInput`). **A request on
//! a path that is dropped is cancelled**: it may have happened or not, and nothing is left behind.
//!
//! ```
//! # overlapped::block_on(async {
//! # let dir = std::env::temp_dir().join(format!("overlapped-fs-{}", std::process::id()));
//! use overlapped::fs;
//! fs::create_dir_all(dir.join("in/box")).await?;
//! fs::write(dir.join("in/box/draft"), "hello").await?;
//! fs::rename(dir.join("in/box/draft"), dir.join("in/box/letter")).await?;
//! let mut entries = fs::read_dir(dir.join("in/box")).await?;
//! while let Some(entry) = entries.next_entry().await? {
//!     assert_eq!(entry.file_name(), "letter");
//!     assert_eq!(entry.metadata().await?.len(), 5);
//! }
//! fs::remove_dir_all(&dir).await?;
//! assert!(!fs::try_exists(&dir).await?);
//! # std::io::Result::Ok(())
//! # }).unwrap();
//! ```

mod compat;
mod dir;
mod file;
mod options;
mod paths;
mod space;
mod tree;
mod volume;

use std::io;
use std::path::Path;

pub use compat::Compat;
pub use dir::{DirBuilder, DirEntry, ReadDir};
pub use file::{Cursor, File};
pub use options::OpenOptions;
pub use overlapped_drivers::class::{Advice, FileType, Metadata};
pub use paths::{
    canonicalize, create_dir, create_dir_all, hard_link, metadata, read_dir, read_link, remove_dir,
    remove_dir_all, remove_file, rename, set_permissions, symlink, symlink_metadata, try_exists,
};
pub use space::{tempfile, tempfile_in};
pub use volume::Volume;

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

/// Reads a whole file as text.
///
/// # Errors
/// As [`read`], and `InvalidData` when it is no UTF-8.
pub async fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = read(path).await?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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
