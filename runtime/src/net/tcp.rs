//! TCP streams and listeners.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use overlapped_drivers::bottom::{self, ListenerDriver, StreamDriver};
use overlapped_drivers::class::{
    Accept, Accepted, Close, Connect, Read, ReadVectored, ReceiveLease, Shutdown as ShutdownOp,
    Write, WriteVectored,
};
use overlapped_drivers::hal;
use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{
    Done, Driver, FileHandle, FileObject, Major, Operation, Request, Setup, Stack, Status,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Compat, ToSocketAddrs};

/// A stack of filters, top first, on the driver of TCP streams: for many connections to share.
///
/// # Errors
/// `InvalidInput` for more filters than a stack holds.
pub fn stack_of(filters: impl IntoIterator<Item = Arc<dyn Driver>>) -> io::Result<Arc<Stack>> {
    Ok(Stack::new(filters, Arc::new(StreamDriver))?)
}

fn plain_stack() -> Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    STACK.get_or_init(|| stack_of([]).expect("one driver is not too deep")).clone()
}

fn listener_stack() -> Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    let make = || Stack::new([], Arc::new(ListenerDriver)).expect("one driver is not too deep");
    STACK.get_or_init(make).clone()
}

/// A TCP connection.
///
/// Its methods build [`Request`]s: await them, wait for them on a plain thread, or post them to a
/// port. Reading and writing take `&self` and may go on at the same time, also in two tasks
/// ([`TcpStream::into_split`]). Reads are served one after the other; bytes that arrive for a read
/// that was dropped stay in the stream.
#[derive(Debug)]
pub struct TcpStream {
    handle: FileHandle,
}

impl TcpStream {
    /// Connects to the first address that answers.
    ///
    /// Cancel-safe: a connection made after the future was dropped is closed.
    ///
    /// # Errors
    /// That of the last address tried; `InvalidInput` when there is none.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
        Self::connect_with(address, plain_stack()).await
    }

    /// As [`TcpStream::connect`], with filters on the stream ([`stack_of`]).
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub async fn connect_with(
        address: impl ToSocketAddrs,
        stack: Arc<Stack>,
    ) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        for address in address.resolve().await? {
            match Self::connect_one(address, stack.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_one(address: SocketAddr, stack: Arc<Stack>) -> io::Result<TcpStream> {
        let socket = new_socket(address)?;
        let stream = TcpStream::adopt(socket.into(), stack)?;
        let connect = Connect { address: Box::new(address.into()) };
        Request::new(&stream.handle, connect).await?;
        Ok(stream)
    }

    fn adopt(socket: OwnedFd, stack: Arc<Stack>) -> io::Result<TcpStream> {
        hal::install();
        // Blocking mode is the hardware's convention: io_uring waits in the kernel only then.
        SockRef::from(&socket).set_nonblocking(false)?;
        Ok(TcpStream { handle: bottom::adopt(stack, "", socket)? })
    }

    /// Takes over a connected socket of `std`.
    ///
    /// # Errors
    /// When the runtime of this thread is ending, or the thread can have no processor.
    pub fn from_std(stream: StdStream) -> io::Result<TcpStream> {
        Self::adopt(stream.into(), plain_stack())
    }

    /// As [`TcpStream::from_std`], with filters on the stream.
    ///
    /// # Errors
    /// As [`TcpStream::from_std`].
    pub fn from_std_with(stream: StdStream, stack: Arc<Stack>) -> io::Result<TcpStream> {
        Self::adopt(stream.into(), stack)
    }

    /// A socket of `std`, in blocking mode, for the same connection.
    ///
    /// # Errors
    /// When descriptors are exhausted; `ResourceBusy` when bytes that came for a read that was dropped
    /// are still to be read here, which would be lost.
    pub fn into_std(self) -> io::Result<StdStream> {
        if bottom::has_unread(&self.handle) {
            let what = "bytes that came for a read that was dropped are still to be read";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        self.options().set_nonblocking(false)?;
        Ok(self.as_fd().try_clone_to_owned()?.into())
    }

    /// Closes the connection and reports what the system says of it; dropping it closes it too, but
    /// tells nobody, and in its own time. Requests that are still in flight are cancelled first.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn close(self) -> io::Result<()> {
        close(&self.handle).await
    }

    /// The file object, for building requests of one's own and for looking at its stack.
    pub fn object(&self) -> &FileObject {
        &self.handle
    }

    /// Receives into a buffer: up to its capacity, to its start. Yields the number of bytes, 0 when
    /// the peer has ended its side.
    ///
    /// Cancel-safe: bytes that arrive for a read that was dropped are the next read's.
    ///
    /// # Errors
    /// Those of the system. The error carries the buffer.
    #[inline]
    pub fn read<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
        Request::new(&self.handle, Read::next(buf))
    }

    /// Receives into a buffer of the worker's pool, taken only when data is there: an idle
    /// connection holds none. Empty when the peer has ended its side.
    ///
    /// Cancel-safe, as [`TcpStream::read`].
    ///
    /// # Errors
    /// Those of the system.
    #[inline]
    pub fn read_lease(&self) -> Request<'_, ReceiveLease> {
        Request::new(&self.handle, ReceiveLease { most: 0 })
    }

    /// Receives into several buffers, one after the other; at most 1024. As [`TcpStream::read`].
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> Request<'_, ReadVectored<B>> {
        Request::new(&self.handle, ReadVectored { buffers, offset: u64::MAX })
    }

    /// Receives bytes that stay in the stream for the next read.
    pub fn peek<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
        Request::new(&self.handle, Read::peek(buf))
    }

    /// Receives until the buffer's capacity is full.
    ///
    /// # Errors
    /// `UnexpectedEof` ([`Status::END_OF_FILE`]) when the peer ends before; otherwise as
    /// [`TcpStream::read`].
    pub async fn read_exact<B: IoBufMut>(&self, buf: B) -> BufResult<(), B> {
        let full = buf.capacity();
        let mut buf = buf;
        let mut done = 0;
        while done < full {
            let part = self.read(buf.slice_mut(done..full)).await;
            let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
            buf = slice.into_inner();
            if n == 0 {
                return Err(BufError::new(Status::END_OF_FILE, buf));
            }
            done += n;
        }
        Ok(((), buf))
    }

    /// Sends from a buffer; yields the number of bytes taken.
    ///
    /// A write that is dropped may have happened, wholly or in part, or not.
    ///
    /// # Errors
    /// Those of the system (`BrokenPipe`, `ConnectionReset`). The error carries the buffer.
    #[inline]
    pub fn write<B: IoBuf>(&self, buf: B) -> Request<'_, Write<B>> {
        Request::new(&self.handle, Write::next(buf))
    }

    /// Sends from several buffers, one after the other; at most 1024. As [`TcpStream::write`].
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> Request<'_, WriteVectored<B>> {
        Request::new(&self.handle, WriteVectored { buffers, offset: u64::MAX })
    }

    /// Sends all of the buffer.
    ///
    /// # Errors
    /// As [`TcpStream::write`].
    pub async fn write_all<B: IoBuf>(&self, buf: B) -> BufResult<(), B> {
        let full = buf.len();
        // The system goes on by itself until all is taken; a short result means a signal or an end.
        let (mut done, mut buf) = Request::new(&self.handle, Write::whole(buf)).await?;
        while done < full {
            let part = Request::new(&self.handle, Write::whole(buf.slice(done..full))).await;
            let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
            buf = slice.into_inner();
            if n == 0 {
                return Err(BufError::new(Status::UNEXPECTED_IO_ERROR, buf));
            }
            done += n;
        }
        Ok(((), buf))
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// Those of the system.
    pub fn shutdown(&self, how: Shutdown) -> Request<'_, ShutdownOp> {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        Request::new(&self.handle, ShutdownOp { how })
    }

    /// Two halves, for two tasks. The connection closes when both are dropped; dropping the write
    /// half alone ends nothing: use [`TcpStream::shutdown`].
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let shared = Arc::new(self);
        (OwnedReadHalf(shared.clone()), OwnedWriteHalf(shared))
    }

    /// The stream as `futures::io::{AsyncRead, AsyncBufRead, AsyncWrite}`.
    pub fn compat(self) -> Compat {
        Compat::new(self.handle)
    }

    /// The socket's options, through `socket2`.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// Sends small writes at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.options().set_tcp_nodelay(nodelay)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.options().local_addr()?)
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// Those of the system: `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(self.options().peer_addr()?)
    }
}

fn ip(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    // Close-on-exec, and blocking.
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.fd()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the handle is.
        unsafe { BorrowedFd::borrow_raw(self.handle.fd()) }
    }
}

/// The receiving half of a stream; derefs to it.
#[derive(Debug)]
pub struct OwnedReadHalf(Arc<TcpStream>);

/// The sending half of a stream; derefs to it.
#[derive(Debug)]
pub struct OwnedWriteHalf(Arc<TcpStream>);

impl std::ops::Deref for OwnedReadHalf {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

impl std::ops::Deref for OwnedWriteHalf {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

impl OwnedReadHalf {
    /// The whole stream again, if `other` is its other half.
    ///
    /// # Errors
    /// Gives both back if they are not of one stream.
    pub fn reunite(
        self,
        other: OwnedWriteHalf,
    ) -> Result<TcpStream, (OwnedReadHalf, OwnedWriteHalf)> {
        if !Arc::ptr_eq(&self.0, &other.0) {
            return Err((self, other));
        }
        drop(other);
        Ok(Arc::into_inner(self.0).expect("there are two halves, and one has just been dropped"))
    }
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TcpListener {
    handle: FileHandle,
}

impl TcpListener {
    /// Binds to the first address that can be had and listens, with `SO_REUSEADDR` and a backlog of
    /// 4096. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// That of the last address tried: `AddrInUse`, `PermissionDenied`; `InvalidInput` when there
    /// is none.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
        Self::bind_with(address, plain_stack()).await
    }

    /// As [`TcpListener::bind`], with filters on every connection ([`stack_of`]).
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub async fn bind_with(
        address: impl ToSocketAddrs,
        connections: Arc<Stack>,
    ) -> io::Result<TcpListener> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for address in address.resolve().await? {
            let bound = listen(address);
            match bound.and_then(|s| Self::adopt(s.into(), connections.clone())) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn adopt(socket: OwnedFd, connections: Arc<Stack>) -> io::Result<TcpListener> {
        hal::install();
        SockRef::from(&socket).set_nonblocking(false)?;
        let handle = bottom::adopt_listener(listener_stack(), connections, "", socket)?;
        Ok(TcpListener { handle })
    }

    /// Takes over a listening socket of `std`.
    ///
    /// # Errors
    /// When the runtime of this thread is ending, or the thread can have no processor.
    pub fn from_std(listener: StdListener) -> io::Result<TcpListener> {
        Self::adopt(listener.into(), plain_stack())
    }

    /// As [`TcpListener::from_std`], with filters on every connection.
    ///
    /// # Errors
    /// As [`TcpListener::from_std`].
    pub fn from_std_with(
        listener: StdListener,
        connections: Arc<Stack>,
    ) -> io::Result<TcpListener> {
        Self::adopt(listener.into(), connections)
    }

    /// A socket of `std`, in blocking mode, for the same listener, and the connections that this one
    /// has taken from the system already, ahead of accepts.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub async fn into_std(self) -> io::Result<(StdListener, Vec<TcpStream>)> {
        while !bottom::stop_accepting(&self.handle) {
            crate::time::sleep(Duration::from_millis(1)).await;
        }
        self.options().set_nonblocking(false)?;
        let ready = bottom::take_ready(&self.handle);
        let ready = ready.into_iter().map(|handle| TcpStream { handle }).collect();
        Ok((self.as_fd().try_clone_to_owned()?.into(), ready))
    }

    /// Closes the listener and reports what the system says of it: its address is free then. Dropping
    /// it closes it too, but in its own time.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn close(self) -> io::Result<()> {
        close(&self.handle).await
    }

    /// The file object, for building requests of one's own and for looking at its stack.
    pub fn object(&self) -> &FileObject {
        &self.handle
    }

    /// Takes the oldest connection.
    ///
    /// Cancel-safe: a connection that came for an accept that was dropped is the next one's.
    ///
    /// # Errors
    /// Those of the system, after which a server goes on: descriptors exhausted (`EMFILE`; the
    /// connection waits, and a later accept takes it), `ConnectionAborted` for a peer that has reset
    /// its connection already.
    pub fn accept(&self) -> Request<'_, AcceptStream> {
        Request::new(&self.handle, AcceptStream)
    }

    /// The connections, as a stream that never ends.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self, next: None }
    }

    /// The socket's options, through `socket2`.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.options().local_addr()?)
    }
}

async fn close(handle: &FileHandle) -> io::Result<()> {
    handle.cancel_requests();
    // SAFETY: the caller is the socket's owner, from which descriptors are borrowed, and ends here.
    Request::new(handle, unsafe { Close::new() }).await
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.fd()
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the handle is.
        unsafe { BorrowedFd::borrow_raw(self.handle.fd()) }
    }
}

/// The operation of [`TcpListener::accept`]; yields the stream and its peer's address.
#[derive(Debug)]
pub struct AcceptStream;

impl Operation for AcceptStream {
    type Output = io::Result<(TcpStream, SocketAddr)>;

    fn major(&self) -> Major {
        Accept.major()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        Accept.prepare(setup);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        let Accepted(handle) = done.take();
        let stream = TcpStream { handle };
        // A peer that has reset the connection already has no address any more.
        let gone = |_| io::Error::from_raw_os_error(libc::ECONNABORTED);
        let peer = stream.peer_addr().map_err(gone)?;
        Ok((stream, peer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// The stream of connections of [`TcpListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
    next: Option<Request<'a, AcceptStream>>,
}

impl Stream for Incoming<'_> {
    type Item = io::Result<(TcpStream, SocketAddr)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let listener = self.listener;
        let next = self.next.get_or_insert_with(|| listener.accept());
        let poll = Pin::new(next).poll(cx);
        if poll.is_ready() {
            self.next = None;
        }
        poll.map(Some)
    }
}
