//! Directories: their entries, and how new ones are made.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use overlapped_drivers::bottom::{self, FileContext};
use overlapped_drivers::class::{Create, Entries, FileType, Name, QueryAttributes, QueryDirectory};
use overlapped_iomgr::{FileHandle, Request, Status};

use super::Volume;

/// Permission bits of new directories, before the process's umask.
pub(super) const MODE: u32 = 0o777;

/// How to make directories.
///
/// ```
/// # overlapped::block_on(async {
/// # let dir = std::env::temp_dir().join(format!("overlapped-builder-{}", std::process::id()));
/// use overlapped::fs::{self, DirBuilder};
/// DirBuilder::new().recursive(true).mode(0o700).create(dir.join("a/b")).await?;
/// assert_eq!(fs::metadata(dir.join("a/b")).await?.mode(), 0o700);
/// # fs::remove_dir_all(&dir).await?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct DirBuilder {
    volume: Volume,
    recursive: bool,
    mode: u32,
}

impl Default for DirBuilder {
    fn default() -> DirBuilder {
        DirBuilder::new()
    }
}

impl DirBuilder {
    /// One directory, whose parent is there, with all permissions that the umask leaves.
    pub fn new() -> DirBuilder {
        DirBuilder { volume: Volume::default(), recursive: false, mode: MODE }
    }

    /// Makes missing parents too, and is content with a directory that is there already.
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Permission bits of what is made, before the process's umask.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Makes it through the filters of a volume.
    pub fn volume(mut self, volume: &Volume) -> Self {
        self.volume = volume.clone();
        self
    }

    /// Makes the directory.
    ///
    /// If the future is dropped, what has been made stays, and one more may be made.
    ///
    /// # Errors
    /// As [`create_dir`](super::create_dir), or [`create_dir_all`](super::create_dir_all).
    pub async fn create(&self, path: impl AsRef<Path>) -> io::Result<()> {
        if self.recursive {
            super::tree::create(&self.volume, path.as_ref(), self.mode).await
        } else {
            self.volume.make_directory(path.as_ref(), self.mode).await
        }
    }
}

/// Where the path of a directory to be opened starts.
pub(super) enum Start<'a> {
    /// As usual.
    Here,
    /// As usual, but its last part must be no link.
    NotThroughLink,
    /// In an open directory, and its last part must be no link.
    In(&'a FileHandle),
}

/// Opens a directory for listing.
pub(super) async fn open(
    volume: &Volume,
    path: &OsStr,
    start: Start<'_>,
) -> io::Result<FileHandle> {
    let (context, links) = match start {
        Start::Here => (FileContext::new(false), 0),
        Start::NotThroughLink => (FileContext::new(false), libc::O_NOFOLLOW),
        Start::In(parent) => (FileContext::relative_to(parent), libc::O_NOFOLLOW),
    };
    overlapped_drivers::hal::install();
    let handle = bottom::open(volume.stack().clone(), &path.to_string_lossy(), context)?;
    let path = CString::new(path.as_bytes()).map_err(|_| Status::NUL_IN_NAME)?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | links;
    Request::new(&handle, Create { path, flags, mode: 0 }).await?;
    Ok(handle)
}

/// The entries of a directory: await [`ReadDir::next_entry`], or use it as a [`Stream`]. See
/// [`read_dir`](super::read_dir).
pub struct ReadDir {
    /// Before the handle, which must be the last to go: its cleanup would look for requests.
    reading: Option<Request<'static, QueryDirectory>>,
    entries: Entries,
    directory: FileHandle,
    path: Arc<Path>,
    over: bool,
}

impl ReadDir {
    pub(super) async fn open(volume: &Volume, path: &Path) -> io::Result<ReadDir> {
        let directory = open(volume, path.as_os_str(), Start::Here).await?;
        let (entries, path) = (Entries::default(), path.into());
        Ok(ReadDir { reading: None, entries, directory, path, over: false })
    }

    /// The next entry, in the file system's order; `None` at the end, and after an error. `.` and
    /// `..` are left out. An entry made or removed meanwhile may be there or not.
    ///
    /// Cancel-safe: if the future is dropped, no entry is lost.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn next_entry(&mut self) -> io::Result<Option<DirEntry>> {
        poll_fn(|cx| self.poll_entry(cx)).await
    }

    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<DirEntry>>> {
        loop {
            if self.reading.is_none() {
                if let Some(entry) = self.entries.next() {
                    return Poll::Ready(Ok(Some(DirEntry {
                        name: entry.name.to_owned(),
                        inode: entry.inode,
                        file_type: entry.file_type,
                        directory: self.directory.clone(),
                        path: self.path.clone(),
                    })));
                }
                if self.over {
                    return Poll::Ready(Ok(None));
                }
            }
            let (directory, entries) = (&self.directory, &mut self.entries);
            let reading = self.reading.get_or_insert_with(|| {
                let query = QueryDirectory::new(std::mem::take(entries));
                Request::owned(directory.clone(), query)
            });
            let result = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            match result {
                Ok(entries) => {
                    self.over = entries.is_end();
                    self.entries = entries;
                }
                Err(error) => {
                    self.over = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl Stream for ReadDir {
    type Item = io::Result<DirEntry>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_entry(cx).map(io::Result::transpose)
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadDir").field(&self.path).finish()
    }
}

/// An entry of a directory. It keeps the directory open.
#[derive(Clone)]
pub struct DirEntry {
    name: OsString,
    inode: u64,
    file_type: Option<FileType>,
    directory: FileHandle,
    path: Arc<Path>,
}

impl DirEntry {
    /// Its name in the directory.
    pub fn file_name(&self) -> OsString {
        self.name.clone()
    }

    /// The path given to [`read_dir`](super::read_dir), and the name.
    pub fn path(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    /// Its inode's number.
    pub fn ino(&self) -> u64 {
        self.inode
    }

    /// What it is; links are not followed. Most file systems say it in the directory; then nothing
    /// is asked.
    ///
    /// # Errors
    /// As [`DirEntry::metadata`].
    pub async fn file_type(&self) -> io::Result<FileType> {
        match self.file_type {
            Some(file_type) => Ok(file_type),
            None => Ok(self.metadata().await?.file_type()),
        }
    }

    /// Asks for its attributes; links are not followed. The name is looked up in the directory that
    /// was listed, wherever that is by now.
    ///
    /// # Errors
    /// Those of the system: `NotFound` if the name has gone.
    pub fn metadata(&self) -> Request<'_, QueryAttributes> {
        Request::new(&self.directory, QueryAttributes::new(Name::new(&self.name), false))
    }
}

impl fmt::Debug for DirEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirEntry").field(&self.path()).finish()
    }
}
