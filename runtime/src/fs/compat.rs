//! A file with the traits of `futures::io`.

use std::future::Future;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncBufRead, AsyncRead, AsyncSeek, AsyncWrite};
use overlapped_drivers::class::{Flush, QueryInformation, Read, Write};
use overlapped_iomgr::buf::{IoBuf, Slice};
use overlapped_iomgr::{FileHandle, Request, Status};

/// Bytes read ahead, and most bytes taken from one `poll_write`.
const CHUNK: usize = 64 * 1024;

type Writing = Request<'static, Write<Slice<Vec<u8>>>>;

/// A file and a position as `futures::io::{AsyncRead, AsyncBufRead, AsyncWrite, AsyncSeek}`; see
/// [`Cursor::compat`](super::Cursor::compat).
///
/// Reading goes through a buffer of 64 KiB; writing copies into a buffer of its own, and an error
/// of a write is reported by the next write, flush, seek or close.
///
/// ```
/// use futures_util::io::{AsyncBufReadExt, AsyncSeekExt, AsyncWriteExt};
/// use std::io::SeekFrom;
///
/// # overlapped::block_on(async {
/// let mut file = overlapped::fs::tempfile().await?.cursor(0).compat();
/// file.write_all(b"one\ntwo\n").await?;
/// file.seek(SeekFrom::Start(4)).await?;
/// let mut line = String::new();
/// file.read_line(&mut line).await?;
/// assert_eq!(line, "two\n");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub struct Compat {
    handle: FileHandle,
    /// Where the next byte of the user's is read or written.
    position: u64,
    /// Bytes read ahead, and how many of them have been consumed.
    ahead: (Vec<u8>, usize),
    reading: Option<Request<'static, Read<Vec<u8>>>>,
    /// A write in flight, and its offset.
    writing: Option<(u64, Writing)>,
    spare: Vec<u8>,
    flushing: Option<Request<'static, Flush>>,
    asking: Option<Request<'static, QueryInformation>>,
}

impl Compat {
    pub(super) fn new(handle: FileHandle, position: u64) -> Compat {
        Compat {
            handle,
            position,
            ahead: (Vec::new(), 0),
            reading: None,
            writing: None,
            spare: Vec::new(),
            flushing: None,
            asking: None,
        }
    }

    /// Waits until what was written is with the system.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((at, request)) = &mut self.writing {
            let at = *at;
            let result = ready!(Pin::new(request).poll(cx));
            self.writing = None;
            let (n, slice) = result?;
            let (begin, end) = (slice.begin() + n, slice.end());
            let buffer = slice.into_inner();
            if begin == end {
                self.spare = buffer;
            } else if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            } else {
                let at = at + n as u64;
                let rest = Write::at(buffer.slice(begin..end), at);
                self.writing = Some((at, Request::owned(self.handle.clone(), rest)));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn forget_ahead(&mut self) {
        self.reading = None;
        self.ahead.0.clear();
        self.ahead.1 = 0;
    }
}

impl AsyncBufRead for Compat {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        if this.ahead.1 >= this.ahead.0.len() {
            if this.reading.is_none() {
                let mut buffer = std::mem::take(&mut this.ahead.0);
                buffer.reserve(CHUNK.saturating_sub(buffer.capacity()));
                this.ahead.1 = 0;
                let read = Read::at(buffer, this.position);
                this.reading = Some(Request::owned(this.handle.clone(), read));
            }
            let request = this.reading.as_mut().expect("made above");
            let result = ready!(Pin::new(request).poll(cx));
            this.reading = None;
            this.ahead = (result?.1, 0);
        }
        Poll::Ready(Ok(&this.ahead.0[this.ahead.1..]))
    }

    fn consume(mut self: Pin<&mut Self>, n: usize) {
        self.ahead.1 += n;
        self.position += n as u64;
    }
}

impl AsyncRead for Compat {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Compat {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        // What was read ahead may be overwritten now.
        this.forget_ahead();
        let n = buf.len().min(CHUNK);
        let mut copy = std::mem::take(&mut this.spare);
        copy.clear();
        copy.extend_from_slice(&buf[..n]);
        let write = Write::at(copy.slice(..), this.position);
        this.writing = Some((this.position, Request::owned(this.handle.clone(), write)));
        this.position += n as u64;
        // Issued now, so that the bytes are on their way even if nobody flushes.
        match this.poll_written(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(n)),
        }
    }

    /// Waits until everything written is with the system; not on the medium: that is
    /// [`File::sync_all`](super::File::sync_all).
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_written(cx)
    }

    /// As `poll_flush`, and onto the medium.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        let handle = &this.handle;
        let request = this
            .flushing
            .get_or_insert_with(|| Request::owned(handle.clone(), Flush { data_only: true }));
        let result = ready!(Pin::new(request).poll(cx));
        this.flushing = None;
        Poll::Ready(result)
    }
}

impl AsyncSeek for Compat {
    fn poll_seek(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: SeekFrom,
    ) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        let (base, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (this.position, by),
            SeekFrom::End(by) => {
                let handle = &this.handle;
                let request = this
                    .asking
                    .get_or_insert_with(|| Request::owned(handle.clone(), QueryInformation));
                let result = ready!(Pin::new(request).poll(cx));
                this.asking = None;
                (result?.len(), by)
            }
        };
        let position = base.checked_add_signed(by).filter(|&p| i64::try_from(p).is_ok());
        this.position = position.ok_or(Status::OFFSET_OVERFLOW)?;
        this.forget_ahead();
        Poll::Ready(Ok(this.position))
    }
}

impl std::fmt::Debug for Compat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compat")
            .field("file", &self.handle)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
