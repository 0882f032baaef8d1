//! Regular files, and block devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Lower, Major, MajorSet, RelatedFile, Stack,
    Status, minor,
};

use super::{close, close_now, names};
use crate::class::{Create, Metadata, ops::CURRENT};
use crate::hal::system;

/// What the driver keeps per open.
#[derive(Debug)]
pub struct FileContext {
    direct: bool,
    /// What is open: 0 until somebody has looked, then `REGULAR` or `OTHER`; or `NAMES`.
    kind: AtomicU8,
    /// The directory that the path it is opened by starts at.
    related: Option<RelatedFile>,
}

const REGULAR: u8 = 1;
const OTHER: u8 = 2;
const NAMES: u8 = 3;

impl FileContext {
    /// `direct`: opened with `O_DIRECT`, so that offsets, lengths and memory must be aligned (B-7).
    pub fn new(direct: bool) -> FileContext {
        FileContext { direct, kind: AtomicU8::new(0), related: None }
    }

    /// Stands for no file: for requests on names that start at the working directory.
    pub fn names() -> FileContext {
        FileContext { direct: false, kind: AtomicU8::new(NAMES), related: None }
    }

    /// Opened by a path that starts at an open directory, which stays open as long as this does.
    pub fn relative_to(directory: &FileObject) -> FileContext {
        FileContext { related: Some(RelatedFile::new(directory)), ..FileContext::new(false) }
    }

    /// Whether a short operation on it never waits for somebody else, as one on a pipe may.
    fn is_regular(&self, fd: i32) -> bool {
        let known = self.kind.load(Ordering::Relaxed);
        if known != 0 {
            return known == REGULAR;
        }
        let regular = system::of(fd).is_regular(fd);
        self.kind.store(if regular { REGULAR } else { OTHER }, Ordering::Relaxed);
        regular
    }
}

/// The bottom driver of regular files.
#[derive(Debug, Default)]
pub struct FileDriver;

impl FileDriver {
    /// The one instance; it has no state of its own.
    pub fn shared() -> Arc<dyn Driver> {
        Arc::new(FileDriver)
    }
}

fn direct(file: &FileObject) -> bool {
    file.context::<FileContext>().is_some_and(|c| c.direct)
}

/// Whether the file object stands for no file. Asked only if it has no descriptor.
#[cold]
fn names_only(file: &FileObject) -> bool {
    file.context::<FileContext>().is_some_and(|c| c.kind.load(Ordering::Relaxed) == NAMES)
}

/// The directory that the path of a file to be opened starts at.
///
/// # Errors
/// It is closed.
fn directory(file: &FileObject) -> Result<i32, Status> {
    let context = file.context::<FileContext>();
    match context.and_then(|c| c.related.as_deref()).map(FileObject::fd) {
        None => Ok(libc::AT_FDCWD),
        Some(fd) if fd < 0 => Err(Status::FILE_CLOSED),
        Some(fd) => Ok(fd),
    }
}

/// Whether a short read or write may be done on the spot.
#[inline]
fn inline(file: &FileObject, fd: i32) -> bool {
    file.context::<FileContext>().is_some_and(|c| !c.direct && c.is_regular(fd))
}

/// Hands a request to the hardware, or ends it.
#[inline]
fn start(mut irp: Irp<'_>) -> Disposition {
    let fd = irp.file().fd();
    let (data, len) = irp.raw_data();
    let offset = irp.offset();
    let op = match (irp.major(), irp.minor()) {
        // The one that is open would be lost.
        (Major::Create, _) if fd >= 0 => return irp.complete(Status::INVALID_PARAMETER, 0),
        (Major::Create, _) => {
            let mode = irp.arg() as u32;
            let at = match directory(irp.file()) {
                Ok(at) => at,
                Err(status) => return irp.complete(status, 0),
            };
            let create = irp.payload_mut::<Create>().expect("put there by the operation");
            Op::Open { at, path: create.path.as_ptr(), flags: create.flags, mode }
        }
        (Major::Close, _) => return close(irp, false),
        // Nothing is kept for a handle.
        (Major::Cleanup, _) => return irp.complete(Status::SUCCESS, 0),
        _ if fd < 0 && !names_only(irp.file()) => return irp.complete(Status::FILE_CLOSED, 0),
        (Major::Read, minor::NONE) => {
            Op::Read { fd, buf: data, len, offset, inline: inline(irp.file(), fd) }
        }
        (Major::Read, minor::VECTORED) => Op::ReadV { fd, iov: data.cast(), count: len, offset },
        (Major::Write, minor::NONE | minor::ALL) => {
            let (inline, through) = (inline(irp.file(), fd), irp.is_write_through());
            Op::Write { fd, buf: data, len, offset, inline, through }
        }
        (Major::Write, minor::VECTORED) => {
            let through = irp.is_write_through();
            Op::WriteV { fd, iov: data.cast(), count: len, offset, through }
        }
        (Major::Flush, minor) => Op::Sync { fd, data_only: minor == minor::DATA_ONLY },
        (Major::SetInformation, minor::NONE) => Op::SetLength { fd, len: irp.arg() },
        // Of a synchronous file object the I/O manager answers.
        (Major::QueryInformation | Major::SetInformation, minor::POSITION) => {
            return irp.complete(Status::INVALID_PARAMETER, 0);
        }
        (Major::QueryInformation, minor::NONE) => {
            let out = irp.payload_mut::<Metadata>().expect("put there by the operation");
            Op::Stat { fd, out: out.as_mut_ptr().cast() }
        }
        _ => {
            let at = if fd < 0 { libc::AT_FDCWD } else { fd };
            match names::operation(&mut irp, at) {
                Ok(op) => op,
                Err(status) => return irp.complete(status, 0),
            }
        }
    };
    // SAFETY: data, paths, attributes and the arguments of calls belong to this request's
    // payload (or were lent by a driver above, whose location keeps them), until it completes.
    unsafe { irp.submit(op) }
}

impl Driver for FileDriver {
    fn name(&self) -> &str {
        "file"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Close,
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::QueryInformation,
            Major::SetInformation,
            Major::DirectoryControl,
            Major::FileSystemControl,
            Major::SetSecurity,
        ])
    }

    fn limits(&self, below: Limits) -> Limits {
        Limits { can: Capabilities::ALL, ..below }
    }

    #[inline]
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        start(irp)
    }

    #[inline]
    fn hardware(&self, mut irp: Irp<'_>, done: Completion) -> Disposition {
        let result = done.result;
        match irp.major() {
            Major::Create if result >= 0 => {
                if system::of(result).position(result).is_some() {
                    irp.file().set_seekable();
                }
                if irp.payload::<Create>().is_some_and(|c| c.flags & libc::O_APPEND != 0) {
                    irp.file().set_appends();
                }
                // SAFETY: the hardware has just opened it for this request.
                unsafe { irp.file().set_fd(result) };
                irp.complete(Status::SUCCESS, 0)
            }
            Major::QueryInformation if result == 0 && irp.minor() == minor::NONE => {
                let fd = irp.file().fd();
                if let Some(metadata) = irp.payload_mut::<Metadata>()
                    && metadata.file_type().is_block_device()
                    && let Some(len) = system::of(fd).device_size(fd)
                {
                    // The system says 0, and filters must know where it ends.
                    metadata.set_len(len);
                }
                irp.complete(Status::SUCCESS, 0)
            }
            Major::Write if result > 0 && irp.file().appends() && irp.file().is_synchronous() => {
                // Such a write goes by the system's own position, and leaves it where it has ended.
                let fd = irp.file().fd();
                if let Some(end) = system::of(fd).position(fd) {
                    irp.file().appended_up_to(end);
                }
                irp.complete(done.status(), done.info())
            }
            Major::Read | Major::Write if result == -libc::EINVAL && direct(irp.file()) => {
                irp.complete(Status::UNALIGNED, 0)
            }
            Major::FileSystemControl
                if result == -libc::EOPNOTSUPP && irp.minor() == minor::ZERO_RANGE =>
            {
                names::zero_otherwise(irp)
            }
            // A ring cancels what a thread of the kernel does by a signal.
            _ if result == -libc::EINTR && irp.is_cancelled() => irp.complete(Status::CANCELLED, 0),
            _ if irp.is_given_back(&done) => start(irp),
            _ => irp.complete(done.status(), done.info()),
        }
    }

    fn close_now(&self, file: &FileObject) {
        close_now(file);
    }
}

/// Makes the file object of a file that is not open yet; the [`Create`] operation opens it.
///
/// # Errors
/// See [`FileObject::new`].
pub fn open(stack: Arc<Stack>, name: &str, context: FileContext) -> Result<FileHandle, Status> {
    const { assert!(CURRENT == u64::MAX) };
    FileObject::new(stack, name, Box::new(context))
}
