//! An open file.

use std::future::{Future, poll_fn};
use std::io::{self, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use overlapped_drivers::class::{
    Close, Flush, QueryInformation, QueryPosition, Read, ReadVectored, SetLength, SetPosition,
    Write, WriteVectored,
};
use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Status};

use super::{Compat, OpenOptions};

/// An open file. Tasks and threads share it by reference or `Arc`; dropping it closes it.
///
/// Its methods build [`Request`]s: await them, wait for them on a plain thread, or post them to a
/// port. A request that is dropped is cancelled; its buffer lives on until the system is done with
/// it. Reads and writes at offsets have no state in common, so any number may be in flight: this is
/// what a file is for. A position that moves along is either one reader's or writer's own
/// ([`File::cursor`]), or the file object's, shared by all who have it ([`OpenOptions::synchronous`]).
///
/// ```
/// use overlapped::fs::tempfile;
///
/// # overlapped::block_on(async {
/// let file = tempfile().await?;
/// file.write_all_at("hello, world", 0).await?;
/// // The buffer moves into the request and comes back with its result.
/// let (n, buf) = file.read_at(Vec::with_capacity(5), 7).await?;
/// assert_eq!(&buf[..n], b"world");
/// // One after the other, from a position on.
/// let mut cursor = file.cursor(3);
/// let (_, buf) = cursor.read(buf).await?;
/// assert_eq!(buf, b"lo, w");
/// assert_eq!(cursor.read(buf).await?.1, b"orld");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct File {
    pub(super) handle: FileHandle,
}

/// Offsets of appending writes mean nothing.
const CURRENT: u64 = u64::MAX;

/// A caller's offset: never [`CURRENT`], however large. What it becomes is refused as too large.
#[inline]
pub(super) fn absolute(offset: u64) -> u64 {
    offset.min(CURRENT - 1)
}

impl File {
    pub(super) fn new(handle: FileHandle) -> File {
        File { handle }
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path).await
    }

    /// Makes a file, or empties the one there is, for writing.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub async fn create(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path).await
    }

    /// The file object, for building requests of one's own and for looking at its stack.
    pub fn object(&self) -> &FileObject {
        &self.handle
    }

    /// Reads at a byte offset: up to the buffer's capacity, to its start. Yields the number of
    /// bytes, 0 at or past the end of the file, or if the buffer has no room.
    ///
    /// Cancel-safe: a read that is dropped has no effect.
    ///
    /// # Errors
    /// Those of the system; [`Status::OFFSET_OVERFLOW`], [`Status::UNALIGNED`] (direct I/O). The
    /// error carries the buffer.
    #[inline]
    pub fn read_at<B: IoBufMut>(&self, buf: B, offset: u64) -> Request<'_, Read<B>> {
        Request::new(&self.handle, Read::at(buf, absolute(offset)))
    }

    /// Writes at a byte offset (an appending file: at its end); yields the number of bytes written.
    ///
    /// A write that is dropped may have happened, wholly or in part, or not.
    ///
    /// # Errors
    /// As [`File::read_at`].
    #[inline]
    pub fn write_at<B: IoBuf>(&self, buf: B, offset: u64) -> Request<'_, Write<B>> {
        let offset = if self.handle.appends() { CURRENT } else { absolute(offset) };
        Request::new(&self.handle, Write::at(buf, offset))
    }

    /// As [`File::write_at`]; when it completes, the bytes are on the medium, and what is needed to read them
    /// back (`RWF_DSYNC`), as by a [`File::sync_data`] of these bytes alone.
    ///
    /// Below a filter that keeps writes back it is a write and a flush.
    ///
    /// # Errors
    /// As [`File::write_at`], and those of [`File::sync_data`]: it may then be written, and not durable.
    /// [`Status::NOT_SUPPORTED`](crate::Status::NOT_SUPPORTED) by what is no medium.
    ///
    /// ```
    /// # overlapped::block_on(async {
    /// let file = overlapped::fs::tempfile().await?;
    /// assert_eq!(file.write_through_at("committed", 0).await?.0, 9);
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn write_through_at<B: IoBuf>(&self, buf: B, offset: u64) -> Request<'_, Write<B>> {
        let offset = if self.handle.appends() { CURRENT } else { absolute(offset) };
        Request::new(&self.handle, Write::at(buf, offset).through())
    }

    /// As [`File::read_at`], into several buffers, one after the other; at most 1024.
    pub fn read_vectored_at<B: IoBufMut>(
        &self,
        buffers: Vec<B>,
        offset: u64,
    ) -> Request<'_, ReadVectored<B>> {
        Request::new(&self.handle, ReadVectored { buffers, offset: absolute(offset) })
    }

    /// As [`File::write_at`], from several buffers, one after the other; at most 1024.
    pub fn write_vectored_at<B: IoBuf>(
        &self,
        buffers: Vec<B>,
        offset: u64,
    ) -> Request<'_, WriteVectored<B>> {
        let offset = if self.handle.appends() { CURRENT } else { absolute(offset) };
        Request::new(&self.handle, WriteVectored { buffers, offset })
    }

    /// Reads the next bytes: at the current offset of a [synchronous](OpenOptions::synchronous) file,
    /// which moves behind them; or of what has no offsets, a named pipe or a terminal.
    ///
    /// Cancel-safe on a file: a read that is dropped moves nothing.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] on a file that has offsets and is not synchronous (I-36);
    /// otherwise as [`File::read_at`].
    pub fn read<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
        Request::new(&self.handle, Read::next(buf))
    }

    /// Writes at the current offset of a [synchronous](OpenOptions::synchronous) file, which moves
    /// behind what was written; at the end of an appending file; or to what has no offsets, a named
    /// pipe or a terminal.
    ///
    /// # Errors
    /// As [`File::read`].
    pub fn write<B: IoBuf>(&self, buf: B) -> Request<'_, Write<B>> {
        Request::new(&self.handle, Write::next(buf))
    }

    /// Asks for the current offset of a [synchronous](OpenOptions::synchronous) file, as it is when
    /// the requests before are done.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when the file is not synchronous.
    pub fn position(&self) -> Request<'_, QueryPosition> {
        Request::new(&self.handle, QueryPosition)
    }

    /// Sets the current offset of a [synchronous](OpenOptions::synchronous) file, when the requests
    /// before are done.
    ///
    /// # Errors
    /// As [`File::position`]; [`Status::OFFSET_OVERFLOW`] from 2^63 on.
    pub fn set_position(&self, offset: u64) -> Request<'_, SetPosition> {
        Request::new(&self.handle, SetPosition { offset })
    }

    /// Reads until the buffer's capacity is full.
    ///
    /// # Errors
    /// `UnexpectedEof` ([`Status::END_OF_FILE`]) when the file ends before; otherwise as
    /// [`File::read_at`].
    pub async fn read_exact_at<B: IoBufMut>(&self, buf: B, offset: u64) -> BufResult<(), B> {
        let full = buf.capacity();
        let (mut done, mut buf) = self.read_at(buf, offset).await?;
        while done < full {
            let part = self.read_at(buf.slice_mut(done..full), offset + done as u64).await;
            let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
            buf = slice.into_inner();
            if n == 0 {
                return Err(BufError::new(Status::END_OF_FILE, buf));
            }
            done += n;
        }
        Ok(((), buf))
    }

    /// Writes all of the buffer.
    ///
    /// # Errors
    /// `WriteZero` when the system takes nothing; otherwise as [`File::write_at`].
    pub async fn write_all_at<B: IoBuf>(&self, buf: B, offset: u64) -> BufResult<(), B> {
        let full = buf.len();
        let (mut done, mut buf) = self.write_at(buf, offset).await?;
        while done < full {
            if done == 0 {
                return Err(BufError::new(Status::UNEXPECTED_IO_ERROR, buf));
            }
            let part = self.write_at(buf.slice(done..full), offset + done as u64).await;
            let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
            buf = slice.into_inner();
            if n == 0 {
                return Err(BufError::new(Status::UNEXPECTED_IO_ERROR, buf));
            }
            done += n;
        }
        Ok(((), buf))
    }

    /// Flushes data and attributes to the medium (`fsync`).
    pub fn sync_all(&self) -> Request<'_, Flush> {
        Request::new(&self.handle, Flush { data_only: false })
    }

    /// Flushes the data, and what is needed to read it back (`fdatasync`).
    pub fn sync_data(&self) -> Request<'_, Flush> {
        Request::new(&self.handle, Flush { data_only: true })
    }

    /// Sets the length: cuts the file, or extends it with zeroes.
    pub fn set_len(&self, len: u64) -> Request<'_, SetLength> {
        Request::new(&self.handle, SetLength { len })
    }

    /// Asks for the file's attributes.
    ///
    /// # Errors
    /// Those of the system.
    pub fn metadata(&self) -> Request<'_, QueryInformation> {
        Request::new(&self.handle, QueryInformation)
    }

    /// Closes the file and reports what the system says of it; dropping it closes it too, but tells
    /// nobody. Requests that were posted and are still in flight are cancelled first, and have ended
    /// before the descriptor is closed (X-33).
    ///
    /// # Errors
    /// Those of the system: data that could not be written, for instance.
    pub async fn close(self) -> io::Result<()> {
        self.handle.cancel_requests();
        // SAFETY: `self` is the file's owner, from which descriptors are borrowed.
        Request::new(&self.handle, unsafe { Close::new() }).await
    }

    /// As [`File::close`], for threads outside a runtime.
    ///
    /// # Errors
    /// As [`File::close`].
    pub fn close_wait(self) -> io::Result<()> {
        self.handle.cancel_requests();
        // SAFETY: as in `close`.
        Request::new(&self.handle, unsafe { Close::new() }).wait()
    }

    /// Reads and writes one after the other, from the position given on. The position is the cursor's
    /// own; nothing else waits for its requests, or moves it. One that several share is that of a
    /// [synchronous](OpenOptions::synchronous) file.
    pub fn cursor(self, position: u64) -> Cursor {
        Cursor { file: self, position }
    }
}

/// −1 for a file that has no descriptor: one on a bottom that is memory ([`OpenOptions::on`]).
impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.fd()
    }
}

/// Panics for a file that has no descriptor: one on a bottom that is memory ([`OpenOptions::on`]).
impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.handle.fd();
        assert!(fd >= 0, "the file {:?} has no descriptor", self.handle.name());
        // SAFETY: the descriptor is open as long as the handle is.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

/// A file with a position of one reader's or writer's own; see [`File::cursor`].
#[derive(Debug)]
pub struct Cursor {
    file: File,
    position: u64,
}

impl Cursor {
    /// Reads at the position and moves it behind what was read. Cancel-safe: a read that is dropped
    /// moves nothing.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub async fn read<B: IoBufMut>(&mut self, buf: B) -> BufResult<usize, B> {
        let (n, buf) = self.file.read_at(buf, self.position).await?;
        self.position += n as u64;
        Ok((n, buf))
    }

    /// Writes at the position and moves it behind what was written.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub async fn write<B: IoBuf>(&mut self, buf: B) -> BufResult<usize, B> {
        let (n, buf) = self.file.write_at(buf, self.position).await?;
        self.position += n as u64;
        Ok((n, buf))
    }

    /// Writes all of the buffer at the position and moves it behind.
    ///
    /// # Errors
    /// As [`File::write_all_at`].
    pub async fn write_all<B: IoBuf>(&mut self, buf: B) -> BufResult<(), B> {
        let len = buf.len() as u64;
        let done = self.file.write_all_at(buf, self.position).await?;
        self.position += len;
        Ok(done)
    }

    /// Moves the position; returns it.
    ///
    /// # Errors
    /// `InvalidInput` for a position before the start or past 2^63; those of asking for the length.
    pub async fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.file.metadata().await?.len(), by),
        };
        let position = base.checked_add_signed(by).filter(|&p| i64::try_from(p).is_ok());
        self.position = position.ok_or(Status::OFFSET_OVERFLOW)?;
        Ok(self.position)
    }

    /// The position.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file as `futures::io::{AsyncRead, AsyncBufRead, AsyncWrite, AsyncSeek}`, from the
    /// position on. Not for appending files.
    pub fn compat(self) -> Compat {
        Compat::new(self.file.handle, self.position)
    }

    /// The file.
    pub fn get_ref(&self) -> &File {
        &self.file
    }

    /// The file again.
    pub fn into_inner(self) -> File {
        self.file
    }
}

/// Chunks of a copy that are under way at once.
const DEPTH: u64 = 4;

/// Bytes of one step of a copy that goes step by step.
const STEP: usize = 64 * 1024;

/// Steps in a row that had to wait, after which a copy goes on with several at once.
const PATIENCE: u32 = 2;

/// Copies all of `from` to `to`; returns the bytes copied.
///
/// Step by step at first: if the thread has nothing else to do and the file is in the page cache,
/// each is done on the spot, at half the cost of one that is handed to the kernel.
pub(super) async fn copy(from: &File, to: &File, chunk: usize) -> io::Result<u64> {
    let (mut buf, mut offset, mut waited) = (Vec::with_capacity(STEP), 0, 0);
    while waited < PATIENCE {
        let mut read = from.read_at(buf, offset);
        let at_once = poll_fn(|cx| {
            let poll = Pin::new(&mut read).poll(cx);
            Poll::Ready(if let Poll::Ready(done) = poll { Some(done) } else { None })
        });
        let done = match at_once.await {
            Some(done) => {
                waited = 0;
                done
            }
            None => {
                waited += 1;
                read.await
            }
        };
        let n;
        (n, buf) = done?;
        if n == 0 {
            return Ok(offset);
        }
        ((), buf) = to.write_all_at(buf, offset).await?;
        offset += n as u64;
        // A copy that never waits must not keep the others.
        crate::yield_now().await;
    }
    Ok(offset + copy_lanes(from, to, offset, chunk).await?)
}

/// Copies what lies behind `start`, several chunks at once; returns the bytes copied.
async fn copy_lanes(from: &File, to: &File, start: u64, chunk: usize) -> io::Result<u64> {
    let lane = |index: u64| async move {
        let mut buf = Vec::with_capacity(chunk);
        let mut offset = start + index * chunk as u64;
        let mut copied = 0;
        loop {
            let n;
            (n, buf) = from.read_at(buf, offset).await?;
            if n == 0 {
                return io::Result::Ok(copied);
            }
            ((), buf) = to.write_all_at(buf, offset).await?;
            copied += n as u64;
            if n < chunk {
                // A short read: the rest of this chunk, one piece at a time.
                let mut at = n;
                while at < chunk {
                    let (n, part) =
                        from.read_at(Vec::with_capacity(chunk - at), offset + at as u64).await?;
                    if n == 0 {
                        return Ok(copied);
                    }
                    to.write_all_at(part, offset + at as u64).await?;
                    copied += n as u64;
                    at += n;
                }
            }
            offset += DEPTH * chunk as u64;
        }
    };
    all((0..DEPTH).map(lane)).await
}

/// Polls all futures until each is ready; the sum of their results, or the first error.
async fn all(
    futures: impl Iterator<Item = impl Future<Output = io::Result<u64>>>,
) -> io::Result<u64> {
    let mut lanes: Vec<_> = futures.map(|f| Some(Box::pin(f))).collect();
    let mut sum = 0;
    poll_fn(|cx| {
        let mut pending = false;
        for lane in &mut lanes {
            if let Some(future) = lane {
                match future.as_mut().poll(cx) {
                    Poll::Pending => pending = true,
                    Poll::Ready(result) => {
                        *lane = None;
                        match result {
                            Ok(n) => sum += n,
                            Err(error) => return Poll::Ready(Err(error)),
                        }
                    }
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(Ok(sum)) }
    })
    .await
}
