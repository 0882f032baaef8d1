//! TCP streams and listeners.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use overlapped_drivers::bottom::{self, ListenerDriver, StreamDriver};
use overlapped_drivers::class::{
    Connect, Read, ReadVectored, ReceiveLease, Shutdown as ShutdownOp, Write, WriteVectored,
};
use overlapped_drivers::hal::{
    self,
    system::{self, Descriptor},
};
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{Driver, FileHandle, FileObject, Request, Stack};
use socket2::{Domain, SockRef, Type};

use super::accept::{self, sealed::FromHandle};
use super::stream::{
    self, OwnedReadHalf, OwnedWriteHalf, descriptor_traits, handle_methods, read_methods,
    socket_methods, write_methods,
};
use super::{AcceptStream, Compat, Connection, Incoming, ToSocketAddrs};

/// A stack of filters, top first, on the driver of stream sockets (TCP and Unix): for many connections
/// to share.
///
/// # Errors
/// `InvalidInput` for more filters than a stack holds.
///
/// ```
/// use overlapped::driver::{Driver, filter::Xor};
/// use overlapped::net::{TcpListener, TcpStream, stack_of};
/// use std::sync::Arc;
///
/// # overlapped::block_on(async {
/// let stack = stack_of([Arc::new(Xor(0x55)) as Arc<dyn Driver>])?;
/// let listener = TcpListener::bind_with("127.0.0.1:0", stack).await?;
/// let client = TcpStream::connect(listener.local_addr()?).await?;
/// client.write_all(vec![b'p' ^ 0x55]).await?;
/// let (server, _) = listener.accept().await?;
/// assert_eq!(server.read(Vec::with_capacity(9)).await?.1, b"p");
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub fn stack_of(filters: impl IntoIterator<Item = Arc<dyn Driver>>) -> io::Result<Arc<Stack>> {
    Ok(Stack::new(filters, Arc::new(StreamDriver))?)
}

pub(super) fn plain_stack() -> Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    STACK.get_or_init(|| stack_of([]).expect("one driver is not too deep")).clone()
}

pub(super) fn listener_stack() -> Arc<Stack> {
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
///
/// ```
/// use overlapped::net::{TcpListener, TcpStream};
/// use std::net::Shutdown;
///
/// # overlapped::block_on(async {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let server = overlapped::spawn(async move {
///     let (stream, _) = listener.accept().await?;
///     // The reading half and the writing half may go to two tasks.
///     let (read, write) = stream.into_split();
///     let mut buf = Vec::with_capacity(4096);
///     loop {
///         let n;
///         (n, buf) = read.read(buf).await?;
///         if n == 0 {
///             return std::io::Result::Ok(());
///         }
///         ((), buf) = write.write_all(buf).await?;
///     }
/// });
/// let stream = TcpStream::connect(address).await?;
/// stream.write_all("hello").await?;
/// let ((), echo) = stream.read_exact(Vec::with_capacity(5)).await?;
/// assert_eq!(echo, b"hello");
/// stream.shutdown(Shutdown::Write).await?;
/// server.await??;
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
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
        let stream = TcpStream::adopt(socket, stack)?;
        let connect = Connect { address: Box::new(address.into()) };
        Request::new(&stream.handle, connect).await?;
        Ok(stream)
    }

    /// Sends small writes at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        let (fd, on) = (self.handle.fd(), i32::from(nodelay));
        system::of(fd).set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, on)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(&stream::local_address(&self.handle)?)
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// Those of the system: `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(&stream::peer_address(&self.handle)?)
    }
}

pub(super) fn ip(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))
}

fn new_socket(address: SocketAddr) -> io::Result<Descriptor> {
    system::here().socket(Domain::for_address(address), Type::STREAM)
}

socket_methods!(TcpStream, StdStream);

/// A listening TCP socket. For an example, see [`TcpStream`].
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
            match bound.and_then(|s| Self::adopt(s, connections.clone())) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn adopt(socket: Descriptor, connections: Arc<Stack>) -> io::Result<TcpListener> {
        hal::install();
        system::of(socket.as_raw()).set_blocking(socket.as_raw())?;
        let handle = bottom::adopt_listener(listener_stack(), connections, "", socket)?;
        Ok(TcpListener { handle })
    }

    /// Takes over a listening socket of `std`.
    ///
    /// # Errors
    /// When the runtime of this thread is ending, or the thread can have no processor.
    pub fn from_std(listener: StdListener) -> io::Result<TcpListener> {
        Self::from_std_with(listener, plain_stack())
    }

    /// As [`TcpListener::from_std`], with filters on every connection.
    ///
    /// # Errors
    /// As [`TcpListener::from_std`].
    pub fn from_std_with(
        listener: StdListener,
        connections: Arc<Stack>,
    ) -> io::Result<TcpListener> {
        Self::adopt(OwnedFd::from(listener).into(), connections)
    }

    /// A socket of `std`, in blocking mode, for the same listener, and the connections that this one
    /// has taken from the system already, ahead of accepts.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub async fn into_std(self) -> io::Result<(StdListener, Vec<TcpStream>)> {
        let (listener, ready) = accept::stop(&self.handle).await?;
        Ok((listener.into(), ready))
    }

    /// Closes the listener and reports what the system says of it: its address is free then. Dropping
    /// it closes it too, but in its own time.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn close(self) -> io::Result<()> {
        stream::close(&self.handle).await
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
        AcceptStream::from(&self.handle)
    }

    /// The connections, as a stream that never ends.
    pub fn incoming(&self) -> Incoming<'_> {
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
        ip(&stream::local_address(&self.handle)?)
    }
}

fn listen(address: SocketAddr) -> io::Result<Descriptor> {
    let socket = new_socket(address)?;
    let system = system::of(socket.as_raw());
    system.bind(socket.as_raw(), &address.into(), true)?;
    system.listen(socket.as_raw(), 4096)?;
    Ok(socket)
}

descriptor_traits!(TcpListener);

impl FromHandle for TcpStream {
    fn from_handle(handle: FileHandle) -> TcpStream {
        TcpStream { handle }
    }
}

impl Connection for TcpStream {
    type Address = SocketAddr;

    fn peer(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }
}
