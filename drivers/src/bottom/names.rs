//! What becomes of the operations on names, directories and ranges at the bottom of files: one of
//! the hardware's operations, or, where the kernel has none for a ring, a call on the thread pool.
//!
//! **Invariant.** A call's argument is the request's own payload, which nobody else touches until
//! the call has returned, for the request is with the hardware: `FileDriver` submits the operation
//! right after it was made here.

use std::ffi::{c_int, c_void};
use std::io;

use overlapped_iomgr::hal::Op;
use overlapped_iomgr::{Disposition, Irp, Major, Status, minor};

use crate::class::{
    Allocate, CopyRange, Delete, Hint, Link, MakeDirectory, Metadata, Name, NormalizeName,
    QueryAttributes, QueryDirectory, ReadLink, Rename, SetSecurity, SymbolicLink, ZeroData,
    ZeroRange,
};
use crate::hal::pool::perform;
use crate::hal::system;

/// The hardware's operation for a request. `at`: the open file, or `AT_FDCWD`.
///
/// # Errors
/// The status to complete the request with.
pub(super) fn operation(irp: &mut Irp<'_>, at: c_int) -> Result<Op, Status> {
    Ok(match (irp.major(), irp.minor()) {
        (Major::QueryInformation, minor::FULL_ATTRIBUTES) => {
            let ask = payload::<QueryAttributes>(irp)?;
            let flags = if ask.follow() { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
            let out = ask.out.as_mut_ptr().cast();
            Op::StatPath { at, path: ask.path().as_ptr(), flags, out }
        }
        // These two calls know no other directory.
        (Major::QueryInformation, minor::REPARSE_POINT) if at == libc::AT_FDCWD => {
            call::<ReadLink>(irp)?
        }
        (Major::QueryInformation, minor::NORMALIZED_NAME) if at == libc::AT_FDCWD => {
            call::<NormalizeName>(irp)?
        }
        (Major::SetInformation, minor::RENAME) => {
            let Rename { from, to } = payload(irp)?;
            Op::Rename { at, from: from.as_ptr(), to: to.as_ptr() }
        }
        (Major::SetInformation, minor::DISPOSITION) => {
            let Delete { path, directory } = payload(irp)?;
            let flags = if *directory { libc::AT_REMOVEDIR } else { 0 };
            Op::Unlink { at, path: path.as_ptr(), flags }
        }
        (Major::SetInformation, minor::LINK) => {
            let link = payload::<Link>(irp)?;
            let mut flags = 0;
            if link.is_open {
                // Of the thread that looks: the process's first one may have ended.
                link.from = Name::new(format!("/proc/thread-self/fd/{at}"));
                flags = libc::AT_SYMLINK_FOLLOW;
            }
            // The new name of an open file, if it is relative, starts at the working directory.
            let at = if link.is_open { libc::AT_FDCWD } else { at };
            Op::Link { at, from: link.from.as_ptr(), to: link.to.as_ptr(), flags }
        }
        (Major::SetInformation, minor::REPARSE_POINT) => {
            let SymbolicLink { target, path } = payload(irp)?;
            Op::SymbolicLink { at, target: target.as_ptr(), path: path.as_ptr() }
        }
        (Major::DirectoryControl, minor::MAKE_DIRECTORY) => {
            let MakeDirectory { path, mode } = payload(irp)?;
            Op::MakeDirectory { at, path: path.as_ptr(), mode: *mode }
        }
        (Major::DirectoryControl, minor::QUERY_DIRECTORY) => {
            payload::<QueryDirectory>(irp)?.fd = at;
            call::<QueryDirectory>(irp)?
        }
        (Major::SetSecurity, minor::NONE) => {
            payload::<SetSecurity>(irp)?.fd = at;
            call::<SetSecurity>(irp)?
        }
        (Major::SetInformation, minor::ALLOCATION) => {
            let Allocate { len, .. } = *payload(irp)?;
            let mode = libc::FALLOC_FL_KEEP_SIZE;
            Op::Allocate { fd: at, mode, offset: irp.offset(), len }
        }
        (Major::FileSystemControl, minor::ZERO_DATA) => {
            let ZeroData { len, .. } = *payload(irp)?;
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            Op::Allocate { fd: at, mode, offset: irp.offset(), len }
        }
        (Major::FileSystemControl, minor::ZERO_RANGE) => {
            let zero = payload::<ZeroRange>(irp)?;
            let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            zero.fd = at;
            Op::Allocate { fd: at, mode, offset: zero.offset, len: zero.len }
        }
        (Major::SetInformation, minor::HINT) => {
            let Hint { len, advice, .. } = *payload(irp)?;
            Op::Advise { fd: at, offset: irp.offset(), len, advice: advice.as_raw() }
        }
        (Major::FileSystemControl, minor::COPY_RANGE) => {
            let to = irp.offset();
            let copy = payload::<CopyRange>(irp)?;
            // Looked at once: a close that comes later takes it away, but waits with closing it.
            let source = copy.source.fd();
            if source < 0 {
                // One that has none is nothing that the system can copy from.
                let open = copy.source.is_open();
                return Err(if open { Status::NOT_SUPPORTED } else { Status::FILE_CLOSED });
            }
            (copy.to, copy.fds) = (to, (source, at));
            call::<CopyRange>(irp)?
        }
        _ => return Err(Status::INVALID_DEVICE_REQUEST),
    })
}

/// Goes on with a request for zeroes that the file system does not know.
pub(super) fn zero_otherwise(mut irp: Irp<'_>) -> Disposition {
    // Once: the call's own errors are the result.
    let known = payload::<ZeroRange>(&mut irp).and_then(|zero| {
        let first = !std::mem::replace(&mut zero.written, true);
        if first { Ok(()) } else { Err(Status::NOT_SUPPORTED) }
    });
    match known.and_then(|()| call::<ZeroRange>(&mut irp)) {
        // SAFETY: the module's invariant.
        Ok(op) => unsafe { irp.submit(op) },
        Err(status) => irp.complete(status, 0),
    }
}

fn payload<'a, T: 'static>(irp: &'a mut Irp<'_>) -> Result<&'a mut T, Status> {
    irp.payload_mut::<T>().ok_or(Status::INVALID_PARAMETER)
}

/// What a thread of the pool does for a request, with its payload.
trait Call: 'static {
    /// As a system call of the kernel's: its result, or the negated errno.
    fn run(&mut self) -> i32;
}

fn call<T: Call>(irp: &mut Irp<'_>) -> Result<Op, Status> {
    unsafe fn run<T: Call>(arg: *mut c_void) -> i32 {
        // SAFETY: the payload of a request that is with the hardware (module invariant), of this
        // type: see below.
        unsafe { &mut *arg.cast::<T>() }.run()
    }
    Ok(Op::Call { run: run::<T>, arg: (&raw mut *payload::<T>(irp)?).cast() })
}

impl Call for QueryDirectory {
    fn run(&mut self) -> i32 {
        // It may have been here before, if a filter sends it down once more.
        self.buffer.clear();
        let n = system::of(self.fd).read_directory(self.fd, &mut self.buffer);
        // A directory that has been removed has no entries any more.
        if n == -libc::ENOENT { 0 } else { n }
    }
}

impl Call for SetSecurity {
    fn run(&mut self) -> i32 {
        let path = self.path.as_ref().map(Name::as_c_str);
        let system = if path.is_some() { system::here() } else { system::of(self.fd) };
        system.set_mode(self.fd, path, self.mode)
    }
}

impl Call for ZeroRange {
    /// As a hole that space is reserved for; where there are no holes, by writing, up to the file's end.
    fn run(&mut self) -> i32 {
        let &mut ZeroRange { fd, offset, len, .. } = self;
        let allocate = |mode: i32| {
            let op = Op::Allocate { fd, mode: mode | libc::FALLOC_FL_KEEP_SIZE, offset, len };
            // SAFETY: it names no memory.
            unsafe { perform(&op) }
        };
        match allocate(libc::FALLOC_FL_PUNCH_HOLE) {
            0 => return allocate(0),
            unknown if unknown == -libc::EOPNOTSUPP => {}
            error => return error,
        }
        let mut found = Metadata::empty();
        // SAFETY: attributes that live through the call.
        let asked = unsafe { perform(&Op::Stat { fd, out: found.as_mut_ptr().cast() }) };
        if asked < 0 {
            return asked;
        }
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let (mut at, end) = (offset, offset.saturating_add(len).min(found.len()));
        while at < end {
            let len = (end - at).min(ZEROES.len() as u64) as u32;
            let (buf, inline, through) = (ZEROES.as_ptr(), false, false);
            // SAFETY: a static's memory.
            match unsafe { perform(&Op::Write { fd, buf, len, offset: at, inline, through }) } {
                0 => return -libc::EIO,
                error @ ..0 => return error,
                n => at += n as u64,
            }
        }
        0
    }
}

impl Call for CopyRange {
    fn run(&mut self) -> i32 {
        // The most one call transfers; so that it fits a result.
        let len = self.len.min(0x7fff_f000) as usize;
        let (source, target) = self.fds;
        system::of(target).copy_range((source, self.from), (target, self.to), len)
    }
}

impl Call for ReadLink {
    fn run(&mut self) -> i32 {
        let read = self.path().as_path().map(|path| system::here().read_link(path));
        answer(read, &mut self.out)
    }
}

impl Call for NormalizeName {
    fn run(&mut self) -> i32 {
        let found = self.path().as_path().map(|path| system::here().real_path(path));
        answer(found, &mut self.out)
    }
}

/// Puts a call's answer where it belongs, and its error into a result.
fn answer<T>(answer: Option<io::Result<T>>, out: &mut T) -> i32 {
    match answer {
        Some(Ok(value)) => {
            *out = value;
            0
        }
        Some(Err(error)) => -error.raw_os_error().unwrap_or(libc::EIO),
        None => -libc::EINVAL,
    }
}
