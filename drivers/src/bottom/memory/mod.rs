//! Bottoms that are memory: no descriptor, no hardware. A request is complete when `dispatch` returns
//! (I-27).
//!
//! What they share is here: a [`Medium`] says what it holds, and [`answer`] does the rest: opening and
//! closing, offsets, access, attributes, and saying no. To see a filter above one pend, put
//! [`Later`](crate::filter::Later) between them.

mod failing;
mod full;
mod null;
mod pages;
mod pattern;
mod ram;
mod zero;

use overlapped_iomgr::{Disposition, Irp, Major, Status, minor};

pub use failing::Failing;
pub use full::Full;
pub use null::Null;
pub use pattern::Pattern;
pub use ram::Memory;
pub use zero::Zero;

use crate::class::{Create, Metadata};

/// How a file on a bottom without descriptors was opened: the context of its file object, which the
/// bottom reads with [`FileObject::context`](overlapped_iomgr::FileObject::context).
#[derive(Debug)]
pub struct Opened {
    flags: i32,
}

impl Opened {
    /// `flags`: those of `open(2)`.
    pub fn new(flags: i32) -> Opened {
        Opened { flags }
    }

    /// The flags of `open(2)` that it was opened with.
    pub fn flags(&self) -> i32 {
        self.flags
    }

    fn may(&self, major: Major) -> bool {
        let access = self.flags & libc::O_ACCMODE;
        if major == Major::Read { access != libc::O_WRONLY } else { access != libc::O_RDONLY }
    }
}

/// A result: bytes, or why there are none.
type Bytes = Result<usize, Status>;

/// What a bottom holds. Its methods may run on several threads at once.
trait Medium {
    /// Fills a read from the byte `at` on; 0 bytes at the end.
    fn read(&self, irp: &mut Irp<'_>, at: u64) -> Bytes;

    /// Takes a write's bytes to the byte `at`, or, if that is `None`, to the end; yields also where
    /// they went.
    fn write(&self, irp: &Irp<'_>, at: Option<u64>) -> Result<(u64, usize), Status>;

    /// Its attributes.
    fn metadata(&self) -> Metadata;

    /// It is being opened with these flags of `open(2)`.
    fn open(&self, flags: i32) -> Result<(), Status> {
        let _ = flags;
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Status> {
        let _ = len;
        Err(Status::from_errno(libc::EINVAL))
    }

    fn zero(&self, at: u64, len: u64) -> Result<(), Status> {
        let _ = (at, len);
        Err(Status::NOT_SUPPORTED)
    }
}

/// A close that waits for the other requests: its scratch.
struct Closing;

/// Does a request.
fn answer(medium: &impl Medium, mut irp: Irp<'_>) -> Disposition {
    match irp.major() {
        Major::Create => {
            let done = create(medium, &irp);
            if let Ok(flags) = done {
                irp.file().set_seekable();
                if flags & libc::O_APPEND != 0 {
                    irp.file().set_appends();
                }
                irp.file().set_open(true);
            }
            complete(irp, done.map(|_| 0))
        }
        Major::Close => close(irp, Status::SUCCESS),
        Major::Cleanup => irp.complete(Status::SUCCESS, 0),
        _ if !irp.file().is_open() => irp.complete(Status::FILE_CLOSED, 0),
        _ => {
            let done = transfer(medium, &mut irp);
            complete(irp, done)
        }
    }
}

fn complete(irp: Irp<'_>, done: Bytes) -> Disposition {
    match done {
        Ok(n) => irp.complete(Status::SUCCESS, n),
        Err(status) => irp.complete(status, 0),
    }
}

/// Opens the medium; with which flags.
fn create(medium: &impl Medium, irp: &Irp<'_>) -> Result<i32, Status> {
    if irp.file().is_open() {
        return Err(Status::INVALID_PARAMETER);
    }
    let flags = irp.payload::<Create>().ok_or(Status::INVALID_PARAMETER)?.flags;
    if flags & libc::O_EXCL != 0 {
        // It is there.
        return Err(Status::from_errno(libc::EEXIST));
    }
    medium.open(flags)?;
    Ok(flags)
}

/// Closes the file object, when it is the only one who knows it, and reports `status`.
pub(crate) fn close(mut irp: Irp<'_>, status: Status) -> Disposition {
    if irp.scratch::<Closing>().is_none() {
        if !irp.file().set_open(false) {
            return irp.complete(Status::FILE_CLOSED, 0);
        }
        irp.set_scratch(Closing);
    }
    match irp.when_alone() {
        Ok(irp) => irp.complete(status, 0),
        Err(waits) => waits,
    }
}

fn transfer(medium: &impl Medium, irp: &mut Irp<'_>) -> Bytes {
    match (irp.major(), irp.minor()) {
        (Major::Read, minor::NONE | minor::VECTORED)
        | (Major::Write, minor::NONE | minor::VECTORED | minor::ALL) => data(medium, irp),
        (Major::Flush, _) => Ok(0),
        (Major::SetInformation, minor::NONE) => {
            check_write(irp, libc::EINVAL)?;
            medium.set_len(irp.arg()).map(|()| 0)
        }
        (Major::QueryInformation, minor::NONE) => {
            *irp.payload_mut::<Metadata>().ok_or(Status::INVALID_PARAMETER)? = medium.metadata();
            Ok(0)
        }
        (Major::FileSystemControl, minor::ZERO_DATA | minor::ZERO_RANGE) => {
            check_write(irp, libc::EBADF)?;
            if irp.arg() == 0 {
                return Err(Status::from_errno(libc::EINVAL));
            }
            medium.zero(irp.offset(), irp.arg()).map(|()| 0)
        }
        // Advice changes nothing but how soon data comes, which is at once.
        (Major::SetInformation, minor::HINT) => Ok(0),
        // What a file has, and this is one, but not all of one.
        (
            Major::Read
            | Major::Write
            | Major::QueryInformation
            | Major::SetInformation
            | Major::DirectoryControl
            | Major::FileSystemControl
            | Major::SetSecurity,
            _,
        ) => Err(Status::NOT_SUPPORTED),
        _ => Err(Status::INVALID_DEVICE_REQUEST),
    }
}

/// Refuses to change a file that was opened for reading alone, as the system does.
fn check_write(irp: &Irp<'_>, errno: i32) -> Result<(), Status> {
    match irp.file().context::<Opened>() {
        Some(opened) if !opened.may(Major::Write) => Err(Status::from_errno(errno)),
        _ => Ok(()),
    }
}

/// A read or a write, at its offset, or at the end.
fn data(medium: &impl Medium, irp: &mut Irp<'_>) -> Bytes {
    let (major, offset) = (irp.major(), irp.offset());
    if irp.file().context::<Opened>().is_some_and(|opened| !opened.may(major)) {
        return Err(Status::from_errno(libc::EBADF));
    }
    if major == Major::Read {
        return medium.read(irp, offset);
    }
    let appends = irp.file().appends();
    let (at, n) = medium.write(irp, (!appends).then_some(offset))?;
    if appends {
        irp.file().appended_up_to(at.saturating_add(n as u64));
    }
    Ok(n)
}

/// Fills a read with `n` zeroes, `skip` bytes from its start; how many fitted.
fn fill_zero(irp: &mut Irp<'_>, skip: usize, n: usize) -> usize {
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < n {
        let copied = irp.copy_in(skip + done, &ZEROES[..ZEROES.len().min(n - done)]);
        if copied == 0 {
            break;
        }
        done += copied;
    }
    done
}
