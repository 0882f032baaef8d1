//! What is known of a file: attributes, and its type.

use std::fmt;
use std::fs::Permissions;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

/// What is known of a file.
#[derive(Clone)]
pub struct Metadata(Box<libc::statx>);

impl Metadata {
    /// All zero, for the system to fill.
    pub(crate) fn empty() -> Metadata {
        // SAFETY: `statx` is plain numbers, for which zero is a value.
        Metadata(Box::new(unsafe { MaybeUninit::zeroed().assume_init() }))
    }

    /// Of a file that the system does not know.
    pub(crate) fn of(kind: FileType, mode: u32) -> Metadata {
        let mut this = Metadata::empty();
        this.0.stx_mode = (kind.0 | mode) as u16;
        this.0.stx_nlink = 1;
        this.0.stx_blksize = 4096;
        this
    }

    /// With a length, and memory in use for it, both in bytes.
    pub(crate) fn sized(mut self, len: u64, allocated: u64) -> Metadata {
        self.0.stx_size = len;
        self.0.stx_blocks = allocated / 512;
        self
    }

    /// Sets the length, in bytes.
    pub(crate) fn set_len(&mut self, len: u64) {
        self.0.stx_size = len;
    }

    /// With an inode's number, on a device that no file of the system's is on.
    pub(crate) fn numbered(mut self, number: u64) -> Metadata {
        self.0.stx_ino = number;
        self
    }

    /// Where the system fills it. The address stays the same when the value moves.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::statx {
        &raw mut *self.0
    }

    /// Bytes. Of a block device that is open, those of its medium, which std does not say.
    #[expect(clippy::len_without_is_empty, reason = "as in std")]
    pub fn len(&self) -> u64 {
        self.0.stx_size
    }

    /// Bytes of the medium that are in use for it: fewer than [`Metadata::len`] where it has holes,
    /// more where space was reserved.
    pub fn allocated(&self) -> u64 {
        self.0.stx_blocks * 512
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode) & 0o7777
    }

    /// Permission bits, as std has them.
    pub fn permissions(&self) -> Permissions {
        Permissions::from_mode(self.mode())
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        FileType(u32::from(self.0.stx_mode) & libc::S_IFMT)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type().is_file()
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type().is_dir()
    }

    /// Whether it is a symbolic link: never so if links were followed.
    pub fn is_symlink(&self) -> bool {
        self.file_type().is_symlink()
    }

    /// The numbers of its device and of its inode there: together they tell files apart.
    pub fn identity(&self) -> (u64, u64) {
        (libc::makedev(self.0.stx_dev_major, self.0.stx_dev_minor), self.0.stx_ino)
    }

    /// Hard links to it: 0 once it has no name any more.
    pub fn links(&self) -> u32 {
        self.0.stx_nlink
    }

    /// The ids of the user and the group that own it.
    pub fn owner(&self) -> (u32, u32) {
        (self.0.stx_uid, self.0.stx_gid)
    }

    /// The file system's block size for I/O, in bytes.
    pub fn block_size(&self) -> u32 {
        self.0.stx_blksize
    }

    /// When its contents changed last. `None` for times before 1970, and for files in memory
    /// ([`Memory`](crate::bottom::Memory) and its like), which have no times.
    pub fn modified(&self) -> Option<SystemTime> {
        self.time(libc::STATX_MTIME, &self.0.stx_mtime)
    }

    /// When it was read last, as far as the file system keeps that. `None` as for
    /// [`Metadata::modified`].
    pub fn accessed(&self) -> Option<SystemTime> {
        self.time(libc::STATX_ATIME, &self.0.stx_atime)
    }

    /// When it was made. `None` where the file system does not say, and for times before 1970.
    pub fn created(&self) -> Option<SystemTime> {
        self.time(libc::STATX_BTIME, &self.0.stx_btime)
    }

    /// A time, if it is among those that the file has.
    fn time(&self, mask: u32, its: &libc::statx_timestamp) -> Option<SystemTime> {
        if self.0.stx_mask & mask == 0 { None } else { time(its) }
    }
}

fn time(time: &libc::statx_timestamp) -> Option<SystemTime> {
    let since = Duration::new(u64::try_from(time.tv_sec).ok()?, time.tv_nsec);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("file_type", &self.file_type())
            .field("len", &self.len())
            .field("mode", &format_args!("{:#o}", self.mode()))
            .finish_non_exhaustive()
    }
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileType(u32);

impl FileType {
    /// From the type in a directory's entry (`DT_*`), if the file system says it there.
    pub(crate) fn from_entry(kind: u8) -> Option<FileType> {
        // The kernel's: the type's four bits of a mode.
        (kind != libc::DT_UNKNOWN).then_some(FileType(u32::from(kind) << 12))
    }

    pub(crate) fn regular() -> FileType {
        FileType(libc::S_IFREG)
    }

    pub(crate) fn char_device() -> FileType {
        FileType(libc::S_IFCHR)
    }

    /// A regular file.
    pub fn is_file(self) -> bool {
        self.0 == libc::S_IFREG
    }

    /// A directory.
    pub fn is_dir(self) -> bool {
        self.0 == libc::S_IFDIR
    }

    /// A symbolic link.
    pub fn is_symlink(self) -> bool {
        self.0 == libc::S_IFLNK
    }

    /// A named pipe.
    pub fn is_fifo(self) -> bool {
        self.0 == libc::S_IFIFO
    }

    /// A socket.
    pub fn is_socket(self) -> bool {
        self.0 == libc::S_IFSOCK
    }

    /// A block device.
    pub fn is_block_device(self) -> bool {
        self.0 == libc::S_IFBLK
    }

    /// A character device.
    pub fn is_char_device(self) -> bool {
        self.0 == libc::S_IFCHR
    }
}

impl fmt::Debug for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            libc::S_IFREG => "File",
            libc::S_IFDIR => "Directory",
            libc::S_IFLNK => "Symlink",
            libc::S_IFIFO => "Fifo",
            libc::S_IFSOCK => "Socket",
            libc::S_IFBLK => "BlockDevice",
            libc::S_IFCHR => "CharDevice",
            _ => "Unknown",
        })
    }
}
