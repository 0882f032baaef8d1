//! A stream with the traits of `futures::io`.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};
use overlapped_drivers::class::{ReceiveLease, Shutdown as ShutdownOp, Write};
use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{FileHandle, Request};

/// Most bytes taken from one `poll_write`.
const MOST: usize = 64 * 1024;

/// A stream as `futures::io::{AsyncRead, AsyncBufRead, AsyncWrite}`; see
/// [`TcpStream::compat`](super::TcpStream::compat) and its like.
///
/// Reading receives into leased pool buffers and copies once, or not at all through `AsyncBufRead`.
/// Writing copies into a buffer of its own; an error of a write is reported by the next write,
/// flush or close.
///
/// So what is written for `futures` runs here; and hyper, whose own traits the crate `smol-hyper`
/// (without its default features) puts on top of these: `smol_hyper::rt::FuturesIo::new(stream.compat())`.
///
/// ```
/// # use overlapped::net::{TcpListener, TcpStream};
/// use futures_util::io::{AsyncBufReadExt, AsyncWriteExt};
///
/// # overlapped::block_on(async {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let mut client = TcpStream::connect(listener.local_addr()?).await?.compat();
/// client.write_all(b"first line\nsecond").await?;
/// client.flush().await?;
///
/// let mut server = listener.accept().await?.0.compat();
/// let mut line = String::new();
/// server.read_line(&mut line).await?;
/// assert_eq!(line, "first line\n");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub struct Compat {
    handle: FileHandle,
    receiving: Option<Request<'static, ReceiveLease>>,
    received: Option<Lease>,
    sending: Option<Request<'static, Write<Outgoing>>>,
    spare: Vec<u8>,
    closing: Option<Request<'static, ShutdownOp>>,
}

type Outgoing = overlapped_iomgr::buf::Slice<Vec<u8>>;

impl Compat {
    pub(crate) fn new(handle: FileHandle) -> Compat {
        Compat {
            handle,
            receiving: None,
            received: None,
            sending: None,
            spare: Vec::new(),
            closing: None,
        }
    }

    /// Waits until what was written is with the system.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        use overlapped_iomgr::buf::IoBuf;
        while let Some(request) = &mut self.sending {
            let result = ready!(Pin::new(request).poll(cx));
            self.sending = None;
            let (n, slice) = result?;
            let (sent, end) = (slice.begin() + n, slice.end());
            let buffer = slice.into_inner();
            if sent < end {
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let rest = Write::whole(buffer.slice(sent..end));
                self.sending = Some(Request::owned(self.handle.clone(), rest));
            } else {
                self.spare = buffer;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Compat {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.received.as_ref().is_none_or(|lease| lease.is_empty()) {
            this.received = None;
            let request = this.receiving.get_or_insert_with(|| {
                Request::owned(this.handle.clone(), ReceiveLease { most: 0 })
            });
            let result = ready!(Pin::new(request).poll(cx));
            this.receiving = None;
            this.received = Some(result?);
        }
        Poll::Ready(Ok(this.received.as_deref().unwrap_or_default()))
    }

    fn consume(mut self: Pin<&mut Self>, n: usize) {
        if let Some(lease) = &mut self.received {
            lease.advance(n);
        }
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
        use overlapped_iomgr::buf::IoBuf;
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        let n = buf.len().min(MOST);
        let mut copy = std::mem::take(&mut this.spare);
        copy.clear();
        copy.extend_from_slice(&buf[..n]);
        let mut request = Request::owned(this.handle.clone(), Write::whole(copy.slice(..)));
        // Issued now, so that the bytes are on their way even if nobody flushes.
        match Pin::new(&mut request).poll(cx) {
            Poll::Pending => this.sending = Some(request),
            Poll::Ready(Ok((sent, slice))) if sent == n => this.spare = slice.into_inner(),
            Poll::Ready(Ok((sent, _))) => return Poll::Ready(Ok(sent)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        let how = Shutdown::Write as i32;
        debug_assert_eq!(how, libc::SHUT_WR);
        let request = this
            .closing
            .get_or_insert_with(|| Request::owned(this.handle.clone(), ShutdownOp { how }));
        let result = ready!(Pin::new(request).poll(cx));
        this.closing = None;
        Poll::Ready(result)
    }
}

impl std::fmt::Debug for Compat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compat").field("file", &self.handle).finish_non_exhaustive()
    }
}
