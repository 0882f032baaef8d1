//! Unix sockets: streams, listeners, datagrams, and what only they can do.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{
    SocketAddr, UnixDatagram as StdDatagram, UnixListener as StdListener, UnixStream as StdStream,
};
use std::sync::Arc;

use overlapped_drivers::bottom;
use overlapped_drivers::class::{
    Connect, PassDescriptors, Read, ReadVectored, ReceiveLease, ReceiveMessage, SendMessage,
    Shutdown as ShutdownOp, Write, WriteVectored,
};
use overlapped_drivers::hal::{
    self,
    system::{self, Descriptor},
};
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack};
use socket2::{Domain, SockRef, Type};

use super::accept::{self, sealed::FromHandle};
use super::datagram::{self, datagram_methods};
use super::stream::{
    self, descriptor_traits, handle_methods, read_methods, socket_methods, write_methods,
};
use super::tcp::{self, listener_stack};
use super::unix_addr::peer_credentials;
use super::{
    AcceptStream, Compat, Connection, Incoming, OwnedReadHalf, OwnedWriteHalf, PeerCredentials,
    RecvFrom, Source, ToUnixAddress,
};

/// A connected Unix socket that carries a stream.
///
/// Used as a [`TcpStream`](super::TcpStream); besides, descriptors can be passed along.
///
/// ```
/// use overlapped::net::UnixStream;
/// overlapped::block_on(async {
///     let (a, b) = UnixStream::pair()?;
///     a.write_all("hello").await?;
///     let (n, buf) = b.read(Vec::with_capacity(16)).await?;
///     assert_eq!(&buf[..n], b"hello");
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixStream {
    handle: FileHandle,
}

socket_methods!(UnixStream, StdStream);

impl UnixStream {
    /// Connects to a listener.
    ///
    /// Cancel-safe: a connection made after the future was dropped is closed.
    ///
    /// # Errors
    /// Those of the system: `NotFound`, `ConnectionRefused` (nobody listens), `PermissionDenied`.
    pub async fn connect(address: impl ToUnixAddress) -> io::Result<UnixStream> {
        Self::connect_with(address, tcp::plain_stack()).await
    }

    /// As [`UnixStream::connect`], with filters on the stream ([`stack_of`](super::stack_of)).
    ///
    /// # Errors
    /// As [`UnixStream::connect`].
    pub async fn connect_with(
        address: impl ToUnixAddress,
        stack: Arc<Stack>,
    ) -> io::Result<UnixStream> {
        let address = Box::new(address.to_address()?);
        let socket = system::here().socket(Domain::UNIX, Type::STREAM)?;
        let stream = UnixStream::adopt(socket, stack)?;
        Request::new(&stream.handle, Connect { address }).await?;
        Ok(stream)
    }

    /// Two streams that are connected with each other, without an address.
    ///
    /// # Errors
    /// When descriptors are exhausted; as [`UnixStream::from_std`].
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let [a, b] = system::here().socket_pair(Type::STREAM)?;
        let stack = tcp::plain_stack();
        Ok((UnixStream::adopt(a, stack.clone())?, UnixStream::adopt(b, stack)?))
    }

    /// Sends bytes with descriptors, which are open in the receiver then too. Yields the number of
    /// bytes taken, and buffer and descriptors back; the descriptors have gone with the first byte.
    ///
    /// # Errors
    /// `InvalidInput` for descriptors without a byte, or more than 253 of them; those of
    /// [`UnixStream::write`]. The error carries buffer and descriptors.
    ///
    /// ```
    /// use overlapped::net::UnixStream;
    /// use std::fs::File;
    ///
    /// # overlapped::block_on(async {
    /// let (a, b) = UnixStream::pair()?;
    /// let file = File::open("/proc/self/exe")?;
    /// let length = file.metadata()?.len();
    /// a.write_with_descriptors("!", vec![file.into()]).await?;
    ///
    /// let (message, buf) = b.read_with_descriptors(Vec::with_capacity(9), 1).await?;
    /// let passed = message.descriptors.into_iter().next().map(File::from).expect("it came along");
    /// assert_eq!((&buf[..], passed.metadata()?.len()), (&b"!"[..], length));
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub fn write_with_descriptors<B: IoBuf>(
        &self,
        buf: B,
        descriptors: Vec<OwnedFd>,
    ) -> Request<'_, PassDescriptors<B>> {
        Request::new(&self.handle, PassDescriptors::new(buf, descriptors, true))
    }

    /// Receives bytes and up to `most` descriptors, close-on-exec. Every other receive closes
    /// descriptors that come along.
    ///
    /// Cancel-safe: bytes and descriptors that arrive for a read that was dropped are the next
    /// read's.
    ///
    /// # Errors
    /// As [`UnixStream::read`].
    pub fn read_with_descriptors<B: IoBufMut>(
        &self,
        buf: B,
        most: usize,
    ) -> Request<'_, ReceiveMessage<B>> {
        Request::new(&self.handle, ReceiveMessage::next(buf).descriptors(most))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        peer_credentials(&self.handle)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        SocketAddr::of(Some(&stream::local_address(&self.handle)?))
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        SocketAddr::of(Some(&stream::peer_address(&self.handle)?))
    }
}

impl FromHandle for UnixStream {
    fn from_handle(handle: FileHandle) -> UnixStream {
        UnixStream { handle }
    }
}

impl Connection for UnixStream {
    type Address = SocketAddr;

    fn peer(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }
}

/// A listening Unix socket. The file of a path stays when it is closed, and a later `bind` to the
/// same path fails until somebody removes it.
#[derive(Debug)]
pub struct UnixListener {
    handle: FileHandle,
}

impl UnixListener {
    /// Binds and listens, with a backlog of 4096.
    ///
    /// # Errors
    /// Those of the system: `AddrInUse`, `PermissionDenied`, `NotFound` (the folder).
    pub fn bind(address: impl ToUnixAddress) -> io::Result<UnixListener> {
        Self::bind_with(address, tcp::plain_stack())
    }

    /// As [`UnixListener::bind`], with filters on every connection ([`stack_of`](super::stack_of)).
    ///
    /// # Errors
    /// As [`UnixListener::bind`].
    pub fn bind_with(
        address: impl ToUnixAddress,
        connections: Arc<Stack>,
    ) -> io::Result<UnixListener> {
        let system = system::here();
        let socket = system.socket(Domain::UNIX, Type::STREAM)?;
        system.bind(socket.as_raw(), &address.to_address()?, false)?;
        system.listen(socket.as_raw(), 4096)?;
        Self::adopt(socket, connections)
    }

    fn adopt(socket: Descriptor, connections: Arc<Stack>) -> io::Result<UnixListener> {
        hal::install();
        system::of(socket.as_raw()).set_blocking(socket.as_raw())?;
        let handle = bottom::adopt_listener(listener_stack(), connections, "", socket)?;
        Ok(UnixListener { handle })
    }

    /// Takes over a listening socket of `std`.
    ///
    /// # Errors
    /// When the runtime of this thread is ending, or the thread can have no processor.
    pub fn from_std(listener: StdListener) -> io::Result<UnixListener> {
        Self::from_std_with(listener, tcp::plain_stack())
    }

    /// As [`UnixListener::from_std`], with filters on every connection.
    ///
    /// # Errors
    /// As [`UnixListener::from_std`].
    pub fn from_std_with(
        listener: StdListener,
        connections: Arc<Stack>,
    ) -> io::Result<UnixListener> {
        Self::adopt(OwnedFd::from(listener).into(), connections)
    }

    /// A socket of `std`, in blocking mode, for the same listener, and the connections that this one
    /// has taken from the system already, ahead of accepts.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub async fn into_std(self) -> io::Result<(StdListener, Vec<UnixStream>)> {
        let (listener, ready) = accept::stop(&self.handle).await?;
        Ok((listener.into(), ready))
    }

    handle_methods!();

    /// Takes the oldest connection.
    ///
    /// Cancel-safe: a connection that came for an accept that was dropped is the next one's.
    ///
    /// # Errors
    /// Those of the system, after which a server goes on: descriptors exhausted (`EMFILE`; the
    /// connection waits, and a later accept takes it).
    pub fn accept(&self) -> Request<'_, AcceptStream<UnixStream>> {
        AcceptStream::from(&self.handle)
    }

    /// The connections, as a stream that never ends.
    pub fn incoming(&self) -> Incoming<'_, UnixStream> {
        Incoming::new(&self.handle)
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
        SocketAddr::of(Some(&stream::local_address(&self.handle)?))
    }
}

descriptor_traits!(UnixListener);

/// A Unix socket of messages: in order, and none lost, unlike UDP's.
///
/// ```
/// use overlapped::net::UnixDatagram;
/// overlapped::block_on(async {
///     let (a, b) = UnixDatagram::pair()?;
///     a.send("hello").await?;
///     a.send("again").await?;
///     let (message, buf) = b.recv(Vec::with_capacity(3)).await?;
///     assert_eq!((&buf[..], message.truncated), (&b"hel"[..], true));
///     assert_eq!(b.recv(Vec::with_capacity(16)).await?.1, b"again");
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixDatagram {
    handle: FileHandle,
}

datagram_methods!(UnixDatagram, StdDatagram, SocketAddr);

impl UnixDatagram {
    fn with(handle: FileHandle) -> UnixDatagram {
        UnixDatagram { handle }
    }

    fn ask<B: IoBufMut>(&self, receive: ReceiveMessage<B>) -> ReceiveMessage<B> {
        receive
    }

    /// A socket with an address.
    ///
    /// # Errors
    /// Those of the system: `AddrInUse`, `PermissionDenied`, `NotFound` (the folder).
    pub fn bind(address: impl ToUnixAddress) -> io::Result<UnixDatagram> {
        Self::bind_with(address, datagram::plain_stack())
    }

    /// As [`UnixDatagram::bind`], with filters
    /// ([`datagram_stack_of`](super::datagram_stack_of)).
    ///
    /// # Errors
    /// As [`UnixDatagram::bind`].
    pub fn bind_with(address: impl ToUnixAddress, stack: Arc<Stack>) -> io::Result<UnixDatagram> {
        let system = system::here();
        let socket = system.socket(Domain::UNIX, Type::DGRAM)?;
        system.bind(socket.as_raw(), &address.to_address()?, false)?;
        Self::adopt(socket, stack)
    }

    /// A socket without an address: it can send, but nobody can send to it, unless it is one of a
    /// pair.
    ///
    /// # Errors
    /// When descriptors are exhausted; as [`UnixDatagram::from_std`].
    pub fn unbound() -> io::Result<UnixDatagram> {
        Self::adopt(system::here().socket(Domain::UNIX, Type::DGRAM)?, datagram::plain_stack())
    }

    /// Two sockets that are connected with each other, without an address.
    ///
    /// # Errors
    /// As [`UnixDatagram::unbound`].
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let [a, b] = system::here().socket_pair(Type::DGRAM)?;
        let stack = datagram::plain_stack();
        Ok((UnixDatagram::adopt(a, stack.clone())?, UnixDatagram::adopt(b, stack)?))
    }

    /// Sets the peer: where `send` sends to, and the only one that is received from.
    ///
    /// # Errors
    /// Those of the system: `NotFound`, `ConnectionRefused`.
    pub async fn connect(&self, address: impl ToUnixAddress) -> io::Result<()> {
        let address = Box::new(address.to_address()?);
        Request::new(&self.handle, Connect { address }).await
    }

    /// Sends a message to an address, whole or not at all.
    ///
    /// # Errors
    /// Those of the system: `NotFound`, `ConnectionRefused`, `EMSGSIZE`. The error carries the
    /// buffer.
    pub async fn send_to<B: IoBuf>(
        &self,
        buf: B,
        address: impl ToUnixAddress,
    ) -> BufResult<usize, B> {
        match address.to_address() {
            Ok(address) => Request::new(&self.handle, SendMessage::to(buf, address)).await,
            Err(error) => Err(overlapped_iomgr::buf::BufError::new(error.into(), buf)),
        }
    }

    /// Sends a message with descriptors to the peer. Otherwise as
    /// [`UnixStream::write_with_descriptors`], but the message may be empty.
    ///
    /// # Errors
    /// `InvalidInput` for more than 253 descriptors; those of [`UnixDatagram::send`].
    pub fn send_with_descriptors<B: IoBuf>(
        &self,
        buf: B,
        descriptors: Vec<OwnedFd>,
    ) -> Request<'_, PassDescriptors<B>> {
        Request::new(&self.handle, PassDescriptors::new(buf, descriptors, false))
    }

    /// Receives a message and up to `most` descriptors, close-on-exec. Every other receive closes
    /// descriptors that come along. Cancel-safe, as [`UnixDatagram::recv`].
    ///
    /// # Errors
    /// As [`UnixDatagram::recv`].
    pub fn recv_with_descriptors<B: IoBufMut>(
        &self,
        buf: B,
        most: usize,
    ) -> Request<'_, ReceiveMessage<B>> {
        Request::new(&self.handle, ReceiveMessage::next(buf).descriptors(most))
    }

    /// Who is at the other end of a pair.
    ///
    /// # Errors
    /// Those of the system.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        peer_credentials(&self.handle)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        SocketAddr::of(Some(&stream::local_address(&self.handle)?))
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// Those of the system.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        SocketAddr::of(Some(&stream::peer_address(&self.handle)?))
    }
}
