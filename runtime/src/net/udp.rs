//! UDP.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use overlapped_drivers::bottom;
use overlapped_drivers::class::{
    Connect, Message, ReceiveMessage, SendMessage, Shutdown as ShutdownOp, Write,
};
use overlapped_drivers::hal::{
    self,
    system::{self, Descriptor},
};
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack};
use socket2::{Domain, SockAddr, SockRef, Type};

use super::datagram::{self, datagram_methods};
use super::stream::{self, descriptor_traits, handle_methods};
use super::tcp::ip;
use super::{RecvFrom, Source, ToSocketAddrs};

impl Source for SocketAddr {
    fn of(address: Option<&SockAddr>) -> io::Result<SocketAddr> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a message without an address");
        ip(address.ok_or_else(missing)?)
    }
}

/// A UDP socket.
///
/// Its methods build [`Request`]s: await them, wait for them on a plain thread, or post them to a
/// port. Options, among them broadcast, multicast groups and time to live, are reached through
/// [`UdpSocket::options`].
///
/// ```
/// use overlapped::net::UdpSocket;
/// overlapped::block_on(async {
///     let a = UdpSocket::bind("127.0.0.1:0").await?;
///     let b = UdpSocket::bind("127.0.0.1:0").await?;
///     a.send_to("hello", b.local_addr()?).await?;
///     let ((message, from), buf) = b.recv_from(Vec::with_capacity(1500)).await?;
///     assert_eq!((message.len, from, &buf[..]), (5, a.local_addr()?, &b"hello"[..]));
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UdpSocket {
    handle: FileHandle,
    /// Datagrams may have been put together: each receive asks for where to cut, which costs it.
    gro: AtomicBool,
}

datagram_methods!(UdpSocket, StdSocket, SocketAddr);

/// Of the level `IPPROTO_UDP`. `libc` has it for some targets only.
const UDP_GRO: i32 = 104;

impl UdpSocket {
    fn with(handle: FileHandle) -> UdpSocket {
        let fd = handle.fd();
        let gro = system::of(fd).option(fd, libc::IPPROTO_UDP, UDP_GRO).unwrap_or(0) != 0;
        UdpSocket { handle, gro: AtomicBool::new(gro) }
    }

    fn ask<B: IoBufMut>(&self, receive: ReceiveMessage<B>) -> ReceiveMessage<B> {
        if self.gro.load(Ordering::Relaxed) { receive.segment_size() } else { receive }
    }

    /// Binds to the first address that can be had. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// That of the last address tried: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`;
    /// `InvalidInput` when there is none.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        Self::bind_with(address, datagram::plain_stack()).await
    }

    /// As [`UdpSocket::bind`], with filters
    /// ([`datagram_stack_of`](super::datagram_stack_of)).
    ///
    /// # Errors
    /// As [`UdpSocket::bind`].
    pub async fn bind_with(
        address: impl ToSocketAddrs,
        stack: Arc<Stack>,
    ) -> io::Result<UdpSocket> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for address in address.resolve().await? {
            match bound(address).and_then(|s| Self::adopt(s, stack.clone())) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sets the peer, the first of the addresses that can be had: where `send` sends to, and the only
    /// one that is received from.
    ///
    /// # Errors
    /// That of the last address tried; `InvalidInput` when there is none.
    pub async fn connect(&self, address: impl ToSocketAddrs) -> io::Result<()> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        for address in address.resolve().await? {
            let connect = Connect { address: Box::new(address.into()) };
            match Request::new(&self.handle, connect).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends a message to an address, whole or not at all.
    ///
    /// A send that is dropped may have happened or not.
    ///
    /// # Errors
    /// Those of the system: `EMSGSIZE`, `NetworkUnreachable`, `PermissionDenied` (a broadcast that is
    /// not allowed). The error carries the buffer.
    pub fn send_to<B: IoBuf>(&self, buf: B, address: SocketAddr) -> Request<'_, SendMessage<B>> {
        Request::new(&self.handle, SendMessage::to(buf, address.into()))
    }

    /// Sends the buffer to the peer as datagrams of `segment` bytes each (the last may be shorter), at
    /// the cost of about one: at most 64 KiB, and some 64 datagrams, in one call (`UDP_SEGMENT`,
    /// Linux 4.18).
    ///
    /// # Errors
    /// Those of [`UdpSocket::send`], and of the system: `InvalidInput` for a segment that is larger
    /// than the route's packets, or for too many, `EMSGSIZE`.
    pub fn send_segments<B: IoBuf>(&self, buf: B, segment: u16) -> Request<'_, SendMessage<B>> {
        Request::new(&self.handle, SendMessage::to_peer(buf).segment_size(segment))
    }

    /// As [`UdpSocket::send_segments`], to an address.
    ///
    /// # Errors
    /// As [`UdpSocket::send_segments`] and [`UdpSocket::send_to`].
    pub fn send_segments_to<B: IoBuf>(
        &self,
        buf: B,
        segment: u16,
        address: SocketAddr,
    ) -> Request<'_, SendMessage<B>> {
        let send = SendMessage::to(buf, address.into()).segment_size(segment);
        Request::new(&self.handle, send)
    }

    /// Lets the system put datagrams of one sender and one size together before they are received
    /// (`UDP_GRO`, Linux 5.0): [`Message::segment_size`] says then where to cut. Give receives
    /// room for 64 KiB. A receive that waits already does not learn where to cut: ask for this first.
    /// Nor does one of another object for the same socket that was made before, nor any if the option is set
    /// by other means.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        let fd = self.handle.fd();
        // Before there are any, and as long as there may be some.
        self.gro.fetch_or(on, Ordering::Relaxed);
        system::of(fd).set_option(fd, libc::IPPROTO_UDP, UDP_GRO, i32::from(on))
    }

    /// Sends several messages, all at once: each is a request of its own, and they go to the system
    /// together. Yields what became of each, in their order.
    ///
    /// If this is dropped, each message may have been sent or not.
    ///
    /// # Errors
    /// Each message's: as [`UdpSocket::send_to`].
    pub async fn send_many_to<B: IoBuf>(
        &self,
        messages: Vec<(B, SocketAddr)>,
    ) -> Vec<BufResult<usize, B>> {
        let mut requests: Vec<_> = messages
            .into_iter()
            .map(|(buf, address)| (Some(self.send_to(buf, address)), None))
            .collect();
        poll_fn(|cx| {
            let mut all = true;
            for (request, result) in &mut requests {
                if let Some(waiting) = request {
                    match Pin::new(waiting).poll(cx) {
                        Poll::Ready(sent) => (*request, *result) = (None, Some(sent)),
                        Poll::Pending => all = false,
                    }
                }
            }
            if all { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        requests.into_iter().map(|(_, result)| result.expect("polled to its end")).collect()
    }

    /// Waits for a message, and takes what else is there already, one for each buffer. Yields what was
    /// received, in order: the first into the first buffer, and so on; and the buffers (all, unless a
    /// filter holds a receive back, and its buffer with it). A message is cut to its buffer's capacity;
    /// mind that `vec![Vec::with_capacity(1500); 16]` has it in its last buffer only.
    ///
    /// Cancel-safe: it waits only while it has nothing.
    ///
    /// # Errors
    /// That of the first receive, with the buffers. One of a later receive is in its place.
    ///
    /// ```
    /// use overlapped::net::UdpSocket;
    ///
    /// # overlapped::block_on(async {
    /// let (a, b) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
    /// let to = b.local_addr()?;
    /// for sent in a.send_many_to((0..5).map(|i| (vec![i], to)).collect()).await {
    ///     sent?;
    /// }
    /// let mut buffers: Vec<_> = (0..16).map(|_| Vec::with_capacity(1500)).collect();
    /// let mut received = 0;
    /// while received < 5 {
    ///     let messages;
    ///     (messages, buffers) = b.recv_many_from(buffers).await?;
    ///     for (message, buf) in messages.into_iter().zip(&buffers) {
    ///         let (message, _from) = message?;
    ///         assert_eq!(buf[..message.len], [received]);
    ///         received += 1;
    ///     }
    /// }
    /// # std::io::Result::Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn recv_many_from<B: IoBufMut>(
        &self,
        buffers: Vec<B>,
    ) -> BufResult<Vec<io::Result<(Message, SocketAddr)>>, Vec<B>> {
        let mut received = Vec::with_capacity(buffers.len());
        let mut back = Vec::with_capacity(buffers.len());
        let mut rest = buffers.into_iter();
        let Some(first) = rest.next() else { return Ok((received, back)) };
        match self.recv_from(first).await {
            Ok((message, buffer)) => {
                received.push(Ok(message));
                back.push(buffer);
            }
            Err(error) => {
                return Err(error.map_buf(|first| std::iter::once(first).chain(rest).collect()));
            }
        }
        for buffer in rest.by_ref() {
            let receive = self.ask(ReceiveMessage::from_anybody(buffer)).now();
            let mut request = Request::new(&self.handle, RecvFrom::new(receive));
            // The system answers at once. Where a filter does not, what it gets is the next receive's.
            let mut cx = Context::from_waker(Waker::noop());
            let mut received_now = Pin::new(&mut request).poll(&mut cx);
            if received_now.is_pending() {
                // It may be done, and pending only to give others their turn: the number of buffers
                // bounds this already.
                received_now = Pin::new(&mut request).poll(&mut cx);
            }
            match received_now {
                Poll::Ready(Ok((message, buffer))) => {
                    received.push(Ok(message));
                    back.push(buffer);
                }
                Poll::Ready(Err(error)) => {
                    let (status, buffer) = error.into_parts();
                    back.push(buffer);
                    if status.kind() != io::ErrorKind::WouldBlock {
                        received.push(Err(status.into()));
                    }
                    break;
                }
                Poll::Pending => break,
            }
        }
        back.extend(rest);
        Ok((received, back))
    }

    /// The address of this side.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(&stream::local_address(&self.handle)?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// Those of the system: `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(&stream::peer_address(&self.handle)?)
    }
}

fn bound(address: SocketAddr) -> io::Result<Descriptor> {
    let system = system::here();
    let socket = system.socket(Domain::for_address(address), Type::DGRAM)?;
    system.bind(socket.as_raw(), &address.into(), false)?;
    Ok(socket)
}
