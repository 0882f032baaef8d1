//! How files are opened.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use overlapped_drivers::bottom::{self, FileContext, Opened};
use overlapped_drivers::class::Create;
use overlapped_drivers::text::{Bottom, Text};
use overlapped_iomgr::wait::Alertable;
use overlapped_iomgr::{Driver, FileHandle, FileObject, Request, Status};

use super::{File, Volume};

/// How to open a file, as in `std`, with filters.
///
/// ```
/// # overlapped::block_on(async {
/// # let path = std::env::temp_dir().join(format!("overlapped-options-{}", std::process::id()));
/// use overlapped::driver::filter::Xor;
/// use overlapped::fs::OpenOptions;
/// use std::sync::Arc;
///
/// let options = OpenOptions::new().read(true).write(true).create(true);
/// let secret = options.clone().filter(Arc::new(Xor(0x55))).open(&path).await?;
/// secret.write_at(b"plain".to_vec(), 0).await?;
/// let raw = options.open(&path).await?;
/// let (_, bytes) = raw.read_at(vec![0; 5].into_boxed_slice(), 0).await?;
/// assert_eq!(bytes[0], b'p' ^ 0x55);
/// # std::fs::remove_file(&path)?;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    direct: bool,
    mode: Option<u32>,
    custom: i32,
    filters: Vec<Arc<dyn Driver>>,
    volume: Volume,
    synchronous: Option<Alertable>,
    bottom: Option<Arc<dyn Driver>>,
}

impl OpenOptions {
    /// Nothing asked for yet: not even reading.
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    /// Opens for reading.
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// Opens for writing.
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Every write goes to the end of the file, whatever its offset.
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// Empties the file. Needs [`OpenOptions::write`].
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Makes the file if it is missing. Needs writing or appending.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Makes the file, and fails if it is there.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Bypasses the page cache (`O_DIRECT`): offsets, lengths and memory must be multiples of the
    /// block size (B-7); see [`crate::buf::AlignedBuf`].
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Permission bits of a new file, before the process's umask. Default: `0o666`.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// More `O_*` flags. The access mode in them is ignored.
    pub fn custom_flags(mut self, flags: i32) -> Self {
        self.custom = flags & !libc::O_ACCMODE;
        self
    }

    /// Opens a synchronous file object (I-35): its requests go one at a time, in the order in which they
    /// are issued, and the file has a current offset, which [`File::read`] and [`File::write`] go by
    /// and leave behind their last byte, and [`File::set_position`] moves. For a file whose position
    /// several tasks or threads share: each gets the next part, or appends behind the others' parts.
    /// One that has a position to itself is [`File::cursor`]; requests that name their offsets need
    /// neither.
    ///
    /// Alertable or not: whether APCs that come for a thread while it waits for a request on the file
    /// ([`Request::wait`]) end that wait, by cancelling the request (I-38).
    ///
    /// Such a file cannot be associated with a port (C-10).
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("overlapped-serial-{}", std::process::id()));
    /// use overlapped::fs::OpenOptions;
    /// use overlapped::wait::Alertable;
    ///
    /// let options = OpenOptions::new().read(true).write(true).create(true);
    /// let file = options.synchronous(Alertable::No).open_wait(&path)?;
    /// file.write(b"one, ".to_vec()).wait()?;
    /// file.write(b"two".to_vec()).wait()?;
    /// assert_eq!(file.position().wait()?, 8);
    /// file.set_position(5).wait()?;
    /// assert_eq!(file.read(Vec::with_capacity(9)).wait()?.1, b"two");
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn synchronous(mut self, alertable: Alertable) -> Self {
        self.synchronous = Some(alertable);
        self
    }

    /// Puts a filter below those given before: the first one given is the top of the stack.
    pub fn filter(mut self, filter: Arc<dyn Driver>) -> Self {
        self.filters.push(filter);
        self
    }

    /// Opens through the filters of a volume, which are below those given by
    /// [`OpenOptions::filter`].
    pub fn volume(mut self, volume: &Volume) -> Self {
        self.volume = volume.clone();
        self
    }

    /// Opens a file on a bottom driver of one's choice, in place of the file system's: on one that is
    /// memory ([`driver::bottom`](crate::driver::bottom)), or one of one's own. The path is its name in
    /// listings, and nothing else.
    ///
    /// The bottom gets a [`Create`](crate::operation::Create) with the flags that these options amount
    /// to; the file object's context is an [`Opened`](crate::driver::bottom::Opened). It says that it is
    /// open by [`FileObject::set_open`](crate::driver::FileObject::set_open).
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// use overlapped::driver::{bottom::Memory, filter::Xor};
    /// use overlapped::fs::OpenOptions;
    /// use std::sync::Arc;
    ///
    /// let memory = Arc::new(Memory::new());
    /// let options = OpenOptions::new().read(true).write(true).on(memory);
    /// let secret = options.clone().filter(Arc::new(Xor(0x55))).open("secret").await?;
    /// secret.write_all_at("plain", 0).await?;
    /// // The same bytes without the filter.
    /// let raw = options.open("raw").await?;
    /// let (n, bytes) = raw.read_at(Vec::with_capacity(9), 0).await?;
    /// assert_eq!((n, bytes[0]), (5, b'p' ^ 0x55));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn on(mut self, bottom: Arc<dyn Driver>) -> Self {
        self.bottom = Some(bottom);
        self
    }

    fn flags(&self) -> io::Result<i32> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let writes = self.write || self.append;
        let access = match (self.read, writes) {
            (true, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            (true, true) => libc::O_RDWR,
            (false, false) => return invalid("open a file for reading, writing or appending"),
        };
        if !writes && (self.create || self.create_new || self.truncate) {
            return invalid("creating or truncating a file needs write or append access");
        }
        if self.append && self.truncate && !self.create_new {
            return invalid("a file cannot be truncated and appended to");
        }
        let mut flags = access | self.custom | libc::O_CLOEXEC;
        for (wanted, flag) in [
            (self.append, libc::O_APPEND),
            (self.truncate && !self.create_new, libc::O_TRUNC),
            (self.create, libc::O_CREAT),
            (self.create_new, libc::O_CREAT | libc::O_EXCL),
            (self.direct, libc::O_DIRECT),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        Ok(flags)
    }

    /// The file object, not open yet, and the operation that opens it.
    fn prepare(self, path: &Path) -> io::Result<(FileHandle, Create)> {
        let flags = self.flags()?;
        let direct = flags & libc::O_DIRECT != 0;
        let name = path.to_string_lossy().into_owned();
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Status::NUL_IN_NAME)?;
        let on_bottom = self.bottom.is_some();
        let stack = self.volume.stack_below(self.filters, self.bottom)?;
        overlapped_drivers::hal::install();
        let handle = if on_bottom {
            FileObject::new(stack, &name, Box::new(Opened::new(flags)))?
        } else {
            bottom::open(stack, &name, FileContext::new(direct))?
        };
        Ok((handle, Create { path, flags, mode: self.mode.unwrap_or(0o666) }))
    }

    /// Opens a file.
    ///
    /// Cancel-safe: a file that is opened after the future was dropped is closed (X-35).
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` for options that contradict each other, for a path with
    /// a NUL byte, and for more filters than a stack holds.
    pub async fn open(self, path: impl AsRef<Path>) -> io::Result<File> {
        let synchronous = self.synchronous;
        let (handle, create) = self.prepare(path.as_ref())?;
        Request::new(&handle, create).await?;
        opened(handle, synchronous)
    }

    /// Opens what a stack's text says ([`driver::text`](crate::driver::text)): its bottom, with its filters
    /// below those given before.
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// use overlapped::fs::OpenOptions;
    ///
    /// let options = OpenOptions::new().read(true).write(true);
    /// let disk = options.clone().open_stack("xor(key=7) | memory(size=1M)").await?;
    /// disk.write_all_at("text", 4096).await?;
    /// assert_eq!(disk.metadata().await?.len(), 1 << 20);
    /// let error = options.open_stack("xor(key=300) | memory").await.map(drop).unwrap_err();
    /// assert!(error.to_string().contains("a number from 0 to 255"));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`OpenOptions::open`]; and a [`TextError`](crate::driver::text::TextError), which points at what
    /// is wrong in the text.
    pub async fn open_stack(mut self, text: &str) -> io::Result<File> {
        let built = text.parse::<Text>()?.build()?;
        self.filters.extend(built.filters);
        match built.bottom {
            Some(Bottom::File(path)) => self.open(path).await,
            Some(Bottom::Driver(bottom)) => {
                let name = bottom.name().to_owned();
                self.on(bottom).open(name).await
            }
            None => Err(no_bottom()),
        }
    }

    /// As [`OpenOptions::open`], for threads outside a runtime: waits for the file.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open_wait(self, path: impl AsRef<Path>) -> io::Result<File> {
        let synchronous = self.synchronous;
        let (handle, create) = self.prepare(path.as_ref())?;
        Request::new(&handle, create).wait()?;
        opened(handle, synchronous)
    }
}

/// A text without anything for the filters to stand on.
#[cold]
fn no_bottom() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the stack has no bottom: its last element should be file(PATH), memory or the like",
    )
}

/// The file, which no request but its create has seen.
fn opened(handle: FileHandle, synchronous: Option<Alertable>) -> io::Result<File> {
    if let Some(alertable) = synchronous {
        handle.make_synchronous(alertable)?;
    }
    Ok(File::new(handle))
}
