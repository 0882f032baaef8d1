//! Regular files.

use std::sync::Arc;

use overlapped_iomgr::hal::{Completion, Op};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Lower, Major, MajorSet, Stack, Status, minor,
};

use super::{close, close_now};
use crate::class::{Create, ops::CURRENT};

/// What the driver keeps per open.
#[derive(Debug, Clone, Copy)]
pub struct FileContext {
    /// Opened with `O_DIRECT`: offsets, lengths and memory must be aligned (B-7).
    pub direct: bool,
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
        ])
    }

    #[inline]
    fn dispatch(&self, mut irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        let fd = irp.file().fd();
        let (data, len) = irp.raw_data();
        let offset = irp.offset();
        let op = match (irp.major(), irp.minor()) {
            // The one that is open would be lost.
            (Major::Create, _) if fd >= 0 => return irp.complete(Status::INVALID_PARAMETER, 0),
            (Major::Create, _) => {
                let mode = irp.arg() as u32;
                let create = irp.payload_mut::<Create>().expect("put there by the operation");
                Op::Open { path: create.path.as_ptr(), flags: create.flags, mode }
            }
            (Major::Close, _) => return close(irp, false),
            _ if fd < 0 => return irp.complete(Status::FILE_CLOSED, 0),
            (Major::Read, minor::NONE) => {
                Op::Read { fd, buf: data, len, offset, inline: !direct(irp.file()) }
            }
            (Major::Read, minor::VECTORED) => {
                Op::ReadV { fd, iov: data.cast(), count: len, offset }
            }
            (Major::Write, minor::NONE | minor::ALL) => {
                Op::Write { fd, buf: data, len, offset, inline: !direct(irp.file()) }
            }
            (Major::Write, minor::VECTORED) => {
                Op::WriteV { fd, iov: data.cast(), count: len, offset }
            }
            (Major::Flush, minor) => Op::Sync { fd, data_only: minor == minor::DATA_ONLY },
            (Major::SetInformation, _) => Op::SetLength { fd, len: irp.arg() },
            (Major::QueryInformation, _) => {
                let out =
                    irp.payload_mut::<Box<libc::statx>>().expect("put there by the operation");
                Op::Stat { fd, out: (&raw mut **out).cast() }
            }
            _ => return irp.complete(Status::INVALID_DEVICE_REQUEST, 0),
        };
        // SAFETY: data, path and statx memory belong to this request's payload (or were lent by a
        // driver above, whose location keeps them), until it completes.
        unsafe { irp.submit(op) }
    }

    #[inline]
    fn hardware(&self, irp: Irp<'_>, done: Completion) -> Disposition {
        let result = done.result;
        match irp.major() {
            Major::Create if result >= 0 => {
                // SAFETY: the hardware has just opened it for this request.
                unsafe { irp.file().set_fd(result) };
                irp.complete(Status::SUCCESS, 0)
            }
            Major::Read | Major::Write if result == -libc::EINVAL && direct(irp.file()) => {
                irp.complete(Status::UNALIGNED, 0)
            }
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
