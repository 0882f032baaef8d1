//! Another stack beside a filter's own: what it is, how it is opened, and what is asked of it.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use overlapped_iomgr::buf::{IoBuf, Slice};
use overlapped_iomgr::filter::{Io, Next, RangeLocks, Shared};
use overlapped_iomgr::{Driver, FileHandle, FileObject, Operation, Request, Stack, Status};

use crate::bottom::{self, FileContext, FileDriver, Opened};
use crate::class::{Create, Read, WriteVectored};
use crate::text::{Bottom, Parameters, Text, TextError};

/// The end of a file, or where there are no offsets.
const CURRENT: u64 = u64::MAX;

/// Another stack, for filters that have more than one below them ([`Compare`](super::compare::Compare),
/// [`Mirror`](super::mirror::Mirror)).
///
/// One that is not open yet is opened as the filter's own file is, with the same flags and mode, just
/// before that; or, for reading and writing, when it is first needed, if the filter was attached to an
/// open file.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::Side;
///
/// let disk = Side::path("/tmp/disk.img");
/// let secret = Side::text("xor(key=7) | file(/tmp/disk.img)").unwrap();
/// assert!(Side::text("xor(key=7)").unwrap_err().contains("bottom"), "on what?");
/// # _ = (disk, secret);
/// ```
#[derive(Clone)]
pub struct Side(Kind);

#[derive(Clone)]
enum Kind {
    Open(FileHandle),
    Stack(Vec<Arc<dyn Driver>>, Bottom),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Open(file) => f.debug_tuple("Side").field(&file.name()).finish(),
            Kind::Stack(filters, bottom) => {
                let names: Vec<_> = filters.iter().map(|filter| filter.name()).collect();
                f.debug_tuple("Side").field(&names).field(bottom).finish()
            }
        }
    }
}

impl Side {
    /// An open file. It stays open as long as the filter has it.
    pub fn open(file: &FileObject) -> Side {
        Side(Kind::Open(file.handle()))
    }

    /// A file to be opened.
    pub fn path(path: impl Into<PathBuf>) -> Side {
        Side(Kind::Stack(Vec::new(), Bottom::File(path.into())))
    }

    /// Filters, top first, on a bottom to be opened.
    pub fn stack(filters: impl IntoIterator<Item = Arc<dyn Driver>>, bottom: Bottom) -> Side {
        Side(Kind::Stack(filters.into_iter().collect(), bottom))
    }

    /// From text: a stack's, if `|` or `(` is in it, else a path. (A bottom that takes no parameters is
    /// written `memory()`.)
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn text(text: &str) -> Result<Side, String> {
        if !text.contains(['|', '(']) {
            return if text.is_empty() { Err("a path".into()) } else { Ok(Side::path(text)) };
        }
        let words = |error: TextError| error.to_string();
        let built = text.parse::<Text>().map_err(words)?.build().map_err(words)?;
        let bottom = built.bottom.ok_or("a stack with a bottom, file(PATH) for instance")?;
        Ok(Side::stack(built.filters, bottom))
    }

    /// The parameter of an element of a stack's text.
    pub(super) fn parameter(p: &mut Parameters<'_>, key: &'static str) -> Result<Side, TextError> {
        let text: String = p.required(key)?;
        Side::text(&text).map_err(|words| p.error(key, &words))
    }

    async fn opened(&self, how: &How) -> io::Result<FileHandle> {
        let (filters, bottom) = match &self.0 {
            Kind::Open(file) => return Ok(file.clone()),
            Kind::Stack(filters, bottom) => (filters.clone(), bottom),
        };
        let (handle, path, flags) = match bottom {
            Bottom::File(path) => {
                let name = path.to_string_lossy();
                let stack = Stack::new(filters, FileDriver::shared())?;
                let context = FileContext::new(how.flags & libc::O_DIRECT != 0);
                let path = CString::new(path.as_os_str().as_bytes());
                let path = path.map_err(|_| Status::NUL_IN_NAME)?;
                (bottom::open(stack, &name, context)?, path, how.flags)
            }
            Bottom::Driver(driver) => {
                // It is there already.
                let flags = how.flags & !libc::O_EXCL;
                let stack = Stack::new(filters, driver.clone())?;
                let handle = FileObject::new(stack, driver.name(), Box::new(Opened::new(flags)))?;
                (handle, CString::default(), flags)
            }
        };
        let create = Create { path, flags, mode: how.mode };
        Request::owned(handle.clone(), create).await?;
        Ok(handle)
    }
}

/// How the filter's own file was opened.
#[derive(Clone, Copy)]
pub(super) struct How {
    flags: i32,
    mode: u32,
}

impl How {
    /// For a request that opens it.
    pub(super) fn of(io: &Io<'_>) -> How {
        let flags = io.payload::<Create>().map_or(libc::O_RDWR, |create| create.flags);
        How { flags: flags | libc::O_CLOEXEC, mode: io.arg() as u32 }
    }
}

impl Default for How {
    fn default() -> How {
        How { flags: libc::O_RDWR | libc::O_CLOEXEC, mode: 0o666 }
    }
}

/// A side's file, opened once for each file of the filter.
#[derive(Default)]
pub(super) struct Beside {
    file: Mutex<Option<FileHandle>>,
    opening: RangeLocks,
}

impl Beside {
    fn file(&self) -> Option<FileHandle> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file; opened, if it is not.
    pub(super) async fn get(
        &self,
        side: &Side,
        next: Next<'_>,
        how: How,
    ) -> Result<FileHandle, Status> {
        if let Some(file) = self.file() {
            return Ok(file);
        }
        let _opening = self.opening.lock_for(next, 0..1, true).await?;
        if let Some(file) = self.file() {
            return Ok(file);
        }
        // In a box: nobody else's futures should be the larger for it.
        let opened: Result<FileHandle, io::Error> = Box::pin(side.opened(&how)).await;
        let file = opened.map_err(Status::from)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.clone());
        Ok(file)
    }
}

/// One of the stacks of a filter that has several.
#[derive(Clone)]
pub(super) enum Stand<'a> {
    Below(Next<'a>),
    /// Requests on it go on when the filter's is cancelled, to their end.
    There(FileHandle),
}

impl Stand<'_> {
    pub(super) async fn ask<K: Operation>(&self, operation: K) -> K::Output {
        match self {
            Stand::Below(next) => next.request(operation).await,
            Stand::There(file) => Request::new(file, operation).await,
        }
    }

    /// Reads so many bytes, fewer if the file ends.
    pub(super) async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, Status> {
        let (mut bytes, mut done) = (vec![0; len].into_boxed_slice(), 0);
        while done < len {
            use overlapped_iomgr::buf::IoBufMut;
            let part = Read::at(bytes.slice_mut(done..), at + done as u64);
            let (n, part) = self.ask(part).await.map_err(|error| error.status())?;
            bytes = part.into_inner();
            if n == 0 {
                break;
            }
            done += n;
        }
        let mut bytes = Vec::from(bytes);
        bytes.truncate(done);
        Ok(bytes)
    }

    /// Writes all; how many bytes, and what kept it from writing the rest.
    pub(super) async fn write<B: IoBuf>(
        &self,
        at: u64,
        mut parts: Vec<Slice<B>>,
    ) -> (usize, Result<(), Status>) {
        let mut done = 0;
        while !parts.is_empty() {
            let offset = if at == CURRENT { at } else { at + done as u64 };
            match self.ask(WriteVectored { buffers: parts, offset }).await {
                Ok((n, left)) if n > 0 => {
                    done += n;
                    parts = without(left, n);
                }
                Ok(_) => return (done, Err(Status::DISK_FULL)),
                Err(error) => return (done, Err(error.status())),
            }
        }
        (done, Ok(()))
    }
}

/// What is left of buffers without their first `n` bytes.
fn without<B: IoBuf>(parts: Vec<Slice<B>>, mut n: usize) -> Vec<Slice<B>> {
    let mut left = Vec::new();
    for part in parts {
        let (begin, end) = (part.begin() + n.min(IoBuf::len(&part)), part.end());
        n -= begin - part.begin();
        if begin < end {
            left.push(part.into_inner().slice(begin..end));
        }
    }
    left
}

/// A write's data, lent.
pub(super) fn data(io: &Io<'_>) -> Vec<Slice<Shared>> {
    io.share(0..io.len()).into_iter().map(|part| part.slice(..)).collect()
}
