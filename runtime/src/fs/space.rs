//! A file's space, ranges of its data, its permissions and names; files without a name.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use overlapped_drivers::class::{
    Advice, Allocate, CopyRange, Hint, Link, Name, SetSecurity, ZeroData, ZeroRange,
};
use overlapped_iomgr::buf::{IoBuf, IoBufMut};
use overlapped_iomgr::{Request, Status};

use super::file::absolute;
use super::{File, OpenOptions};

/// Bytes of one step of a copy that the system makes: it cannot be cancelled within one.
const STEP: u64 = 64 << 20;

/// Bytes of one step of a copy that goes through this process.
const CHUNK: u64 = 128 * 1024;

impl File {
    /// Reserves space for the `len` bytes from `offset` on, so that writing them later does not fail
    /// for want of space. The data and the file's length stay as they are: [`File::set_len`] changes
    /// that.
    ///
    /// If it is dropped, it may have happened, in part too.
    ///
    /// # Errors
    /// Those of the system: `InvalidInput` (nothing asked for), `StorageFull` (what was reserved until
    /// then may stay so), `FileTooLarge`, `Unsupported` (by the file system);
    /// [`Status::OFFSET_OVERFLOW`].
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// let file = overlapped::fs::tempfile().await?;
    /// file.allocate(0, 1 << 20).await?;
    /// let metadata = file.metadata().await?;
    /// assert!(metadata.len() == 0 && metadata.allocated() >= 1 << 20);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn allocate(&self, offset: u64, len: u64) -> Request<'_, Allocate> {
        Request::new(&self.handle, Allocate { offset: absolute(offset), len })
    }

    /// Makes the `len` bytes from `offset` on zeroes and gives their space back, as far as it is whole
    /// blocks. The file's length stays.
    ///
    /// If it is dropped, it may have happened, in part too.
    ///
    /// # Errors
    /// As [`File::allocate`]; [`Status::NOT_SUPPORTED`] where a filter transforms the data and does not
    /// know holes.
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// let file = overlapped::fs::tempfile().await?;
    /// file.write_all_at(vec![7; 10_000], 0).await?;
    /// file.punch_hole(10, 9_000).await?;
    /// let (_, bytes) = file.read_at(Vec::with_capacity(10_000), 0).await?;
    /// assert!(bytes.iter().enumerate().all(|(i, &b)| b == if (10..9_010).contains(&i) { 0 } else { 7 }));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn punch_hole(&self, offset: u64, len: u64) -> Request<'_, ZeroData> {
        Request::new(&self.handle, ZeroData { offset: absolute(offset), len })
    }

    /// Makes the `len` bytes from `offset` on zeroes, and keeps space for them. The file's length stays.
    ///
    /// The system does it without writing them where it can; where a filter transforms the data, or must
    /// see all of it, zeroes are written through it. [`Stack::limits`](crate::driver::Stack::limits) says
    /// which.
    ///
    /// If it is dropped, it may have happened, in part too.
    ///
    /// # Errors
    /// As [`File::allocate`]; [`Status::NOT_SUPPORTED`] by what is no medium.
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// let file = overlapped::fs::tempfile().await?;
    /// file.write_all_at(vec![7; 10_000], 0).await?;
    /// file.zero_range(10, 20_000).await?;
    /// let (n, bytes) = file.read_at(Vec::with_capacity(20_000), 0).await?;
    /// assert_eq!((n, bytes[9], bytes[10], bytes[9_999]), (10_000, 7, 0, 0));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn zero_range(&self, offset: u64, len: u64) -> Request<'_, ZeroRange> {
        Request::new(&self.handle, ZeroRange::new(absolute(offset), len))
    }

    /// Says what use will be made of the `len` bytes from `offset` on (0: of all behind it). It changes
    /// no data and no result, only how soon they come.
    ///
    /// # Errors
    /// Those of the system: `NotSeekable` (a pipe); [`Status::OFFSET_OVERFLOW`].
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// use overlapped::fs::{Advice, File};
    /// let file = File::open("/proc/self/exe").await?;
    /// file.advise(0, 0, Advice::Sequential).await?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn advise(&self, offset: u64, len: u64, advice: Advice) -> Request<'_, Hint> {
        Request::new(&self.handle, Hint { offset: absolute(offset), len, advice })
    }

    /// Copies `len` bytes from `offset` on to the byte `to_offset` of another file, or of the same one
    /// if the ranges do not overlap; fewer where this file ends. Returns how many.
    ///
    /// The system does it by itself where it can: no byte comes to this process, and a file system that
    /// can share blocks does so. Where it cannot, or where a filter of either file would have to see the
    /// data, it is done by reads and writes.
    ///
    /// If the future is dropped, a part has been copied.
    ///
    /// # Errors
    /// Those of the system; what was copied before stays. `InvalidInput`: the ranges overlap, or the
    /// target appends. [`Status::OFFSET_OVERFLOW`].
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// let (one, two) = (overlapped::fs::tempfile().await?, overlapped::fs::tempfile().await?);
    /// one.write_all_at("hello world", 0).await?;
    /// assert_eq!(one.copy_range(6, &two, 0, 100).await?, 5);
    /// assert_eq!(two.read_at(Vec::with_capacity(9), 0).await?.1, b"world");
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn copy_range(
        &self,
        offset: u64,
        to: &File,
        to_offset: u64,
        len: u64,
    ) -> io::Result<u64> {
        if to.handle.appends() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file that appends cannot be copied into",
            ));
        }
        let (offset, to_offset) = (absolute(offset), absolute(to_offset));
        let mut copied = 0;
        while copied < len {
            let at = (offset.saturating_add(copied), to_offset.saturating_add(copied));
            let step = CopyRange::new(&self.handle, at.0, at.1, STEP.min(len - copied));
            match Request::new(&to.handle, step).await {
                Ok(n) if n > 0 => copied += n,
                // The end; but files whose length the system does not know end at once.
                Ok(_) => return Ok(copied + self.copy_through(at.0, to, at.1, len - copied).await?),
                Err(error) if system_cannot(&error) => {
                    return Ok(copied + self.copy_through(at.0, to, at.1, len - copied).await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// [`File::copy_range`] by reads and writes.
    async fn copy_through(
        &self,
        offset: u64,
        to: &File,
        to_offset: u64,
        len: u64,
    ) -> io::Result<u64> {
        let (from, target) = (self.metadata().await?, to.metadata().await?);
        let real = len.min(from.len().saturating_sub(offset));
        if from.identity() == target.identity() && offset.abs_diff(to_offset) < real {
            return Err(Status::from_errno(libc::EINVAL).into());
        }
        let mut copied = 0;
        let mut buf = Vec::with_capacity(CHUNK.min(len) as usize);
        while copied < len {
            let most = CHUNK.min(len - copied) as usize;
            let (n, part) =
                self.read_at(buf.slice_mut(..most), offset.saturating_add(copied)).await?;
            if n == 0 {
                break;
            }
            let full = part.into_inner().slice(..n);
            let ((), part) = to.write_all_at(full, to_offset.saturating_add(copied)).await?;
            buf = part.into_inner();
            copied += n as u64;
        }
        Ok(copied)
    }

    /// Sets the permission bits.
    ///
    /// If it is dropped, it may have happened or not.
    ///
    /// # Errors
    /// Those of the system: `PermissionDenied` (not the owner), ….
    pub fn set_permissions(&self, permissions: Permissions) -> Request<'_, SetSecurity> {
        Request::new(&self.handle, SetSecurity::of_open_file(permissions.mode()))
    }

    /// Gives the file one more name on its file system; and one that was made without
    /// ([`tempfile`]) its first, so that it appears there whole.
    ///
    /// If it is dropped, it may have happened or not.
    ///
    /// # Errors
    /// Those of the system: `AlreadyExists`, `CrossesDevices`, …; `NotFound`: the directory, or the
    /// file's last name is gone already, or there is no `/proc`.
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// # let dir = std::env::temp_dir().join(format!("overlapped-named-{}", std::process::id()));
    /// # overlapped::fs::create_dir(&dir).await?;
    /// let file = overlapped::fs::tempfile_in(&dir).await?;
    /// file.write_all_at("all of it", 0).await?;
    /// file.hard_link(dir.join("report")).await?;
    /// assert_eq!(overlapped::fs::read_to_string(dir.join("report")).await?, "all of it");
    /// # overlapped::fs::remove_dir_all(&dir).await?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn hard_link(&self, link: impl AsRef<Path>) -> Request<'_, Link> {
        Request::new(&self.handle, Link::to_open_file(Name::new(link)))
    }
}

/// Whether it is for the system's or a filter's sake that a copy has to be made otherwise.
fn system_cannot(error: &io::Error) -> bool {
    match error.raw_os_error() {
        // Across file systems; none of the kernel's, or the file system's, business; files of a kind
        // it does not copy (or ranges that overlap, which is found out).
        Some(errno) => {
            matches!(errno, libc::EXDEV | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL)
        }
        None => Status::from(error) == Status::NOT_SUPPORTED,
    }
}

/// Makes a file without a name, for reading and writing, in the directory for temporary files
/// ([`std::env::temp_dir`]). It goes when it is closed, also if the process is killed, unless it was
/// given a name ([`File::hard_link`]). For an example, see [`File::allocate`].
///
/// Cancel-safe: a file that is made after the future was dropped is closed, and so gone (X-35).
///
/// # Errors
/// Those of the system: `Unsupported` where the file system has no such files.
pub async fn tempfile() -> io::Result<File> {
    tempfile_in(std::env::temp_dir()).await
}

/// As [`tempfile`], on the file system of the directory given.
///
/// # Errors
/// As [`tempfile`].
pub async fn tempfile_in(directory: impl AsRef<Path>) -> io::Result<File> {
    let options = OpenOptions::new().read(true).write(true).mode(0o600);
    options.custom_flags(libc::O_TMPFILE).open(directory).await
}
