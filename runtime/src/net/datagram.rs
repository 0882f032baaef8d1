//! What sockets of messages share: UDP and Unix datagrams.

use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use overlapped_drivers::bottom::DatagramDriver;
use overlapped_drivers::class::{Message, ReceiveMessage};
use overlapped_iomgr::buf::{BufResult, IoBufMut};
use overlapped_iomgr::{Done, Driver, Major, Operation, Setup, Stack, Status};
use socket2::SockAddr;

/// A stack of filters, top first, on the driver of datagram sockets (UDP and Unix).
///
/// Requests with an address are [`Major::SendTo`] and [`Major::ReceiveFrom`], those without
/// [`Major::Write`] and [`Major::Read`]: a filter that is to see all data hooks all four.
///
/// # Errors
/// `InvalidInput` for more filters than a stack holds.
pub fn datagram_stack_of(
    filters: impl IntoIterator<Item = Arc<dyn Driver>>,
) -> io::Result<Arc<Stack>> {
    Ok(Stack::new(filters, Arc::new(DatagramDriver))?)
}

pub(super) fn plain_stack() -> Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    STACK.get_or_init(|| datagram_stack_of([]).expect("one driver is not too deep")).clone()
}

/// An address that messages come from.
pub trait Source: Sized + Send + 'static {
    /// From the system's form; `None`: the sender has no address.
    ///
    /// # Errors
    /// `InvalidData` when it is of another kind.
    fn of(address: Option<&SockAddr>) -> io::Result<Self>;
}

/// The operation of `recv_from` and `peek_from`; yields the message and its sender's address.
#[derive(Debug)]
pub struct RecvFrom<A, B> {
    inner: ReceiveMessage<B>,
    address: PhantomData<fn() -> A>,
}

impl<A, B> RecvFrom<A, B> {
    pub(super) fn new(inner: ReceiveMessage<B>) -> RecvFrom<A, B> {
        RecvFrom { inner, address: PhantomData }
    }
}

impl<A: Source, B: IoBufMut> Operation for RecvFrom<A, B> {
    type Output = BufResult<(Message, A), B>;

    fn major(&self) -> Major {
        self.inner.major()
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        self.inner.prepare(setup);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        ReceiveMessage::finish_from(done, |address| A::of(address).map_err(Status::from))
    }
    fn refuse(self, status: Status) -> Self::Output {
        self.inner.refuse(status).map(|_| unreachable!("a refusal is an error"))
    }
}

/// The methods of sockets of messages, which have `with`, to be made of a handle, and `ask`, which says what
/// a receive is to bring.
macro_rules! datagram_methods {
    ($type:ident, $std:ty, $address:ty) => {
        impl $type {
            fn adopt(socket: Descriptor, stack: Arc<Stack>) -> io::Result<$type> {
                hal::install();
                system::of(socket.as_raw()).set_blocking(socket.as_raw())?;
                Ok($type::with(bottom::adopt_datagram(stack, "", socket)?))
            }

            /// Takes over a socket of `std`.
            ///
            /// # Errors
            /// When the runtime of this thread is ending, or the thread can have no processor.
            pub fn from_std(socket: $std) -> io::Result<$type> {
                Self::from_std_with(socket, $crate::net::datagram::plain_stack())
            }

            /// As `from_std`, with filters on the socket
            /// ([`datagram_stack_of`](crate::net::datagram_stack_of)).
            ///
            /// # Errors
            /// As `from_std`.
            pub fn from_std_with(socket: $std, stack: Arc<Stack>) -> io::Result<$type> {
                Self::adopt(OwnedFd::from(socket).into(), stack)
            }

            /// The socket as one of `std`, in blocking mode.
            ///
            /// # Errors
            /// When descriptors are exhausted; `ResourceBusy` when messages that came for receives
            /// which were dropped are still to be received here, which would be lost.
            pub fn into_std(self) -> io::Result<$std> {
                let unread = bottom::has_unread(&self.handle);
                let own = $crate::net::stream::into_descriptor(&self.handle, unread)?;
                Ok(own.into())
            }

            handle_methods!();

            /// Sends a message to the peer that the socket is connected to, whole or not at all.
            ///
            /// A send that is dropped may have happened or not.
            ///
            /// # Errors
            /// Those of the system: no peer (UDP's is `EDESTADDRREQ`, a Unix socket's
            /// `NotConnected`), `ConnectionRefused` (also for an earlier message),
            /// `EMSGSIZE`. The error carries the buffer.
            pub fn send<B: IoBuf>(&self, buf: B) -> Request<'_, Write<B>> {
                Request::new(&self.handle, Write::next(buf))
            }

            /// Receives a message, from the peer if the socket is connected. Yields
            /// [`Message`](crate::net::Message) and buffer. A message that is longer than the
            /// buffer's capacity is cut, and says so in `truncated`.
            ///
            /// Cancel-safe: a message that arrives for a receive that was dropped is the next
            /// receive's, whole.
            ///
            /// # Errors
            /// Those of the system. The error carries the buffer.
            pub fn recv<B: IoBufMut>(&self, buf: B) -> Request<'_, ReceiveMessage<B>> {
                Request::new(&self.handle, self.ask(ReceiveMessage::next(buf)))
            }

            /// As `recv`, and the message stays for the next receive.
            ///
            /// # Errors
            /// As `recv`.
            pub fn peek<B: IoBufMut>(&self, buf: B) -> Request<'_, ReceiveMessage<B>> {
                Request::new(&self.handle, ReceiveMessage::next(buf).peek())
            }

            /// Receives a message from anybody. Yields [`Message`](crate::net::Message) and address,
            /// and the buffer.
            ///
            /// Cancel-safe, as `recv`.
            ///
            /// # Errors
            /// As `recv`.
            pub fn recv_from<B: IoBufMut>(&self, buf: B) -> Request<'_, RecvFrom<$address, B>> {
                let receive = self.ask(ReceiveMessage::from_anybody(buf));
                Request::new(&self.handle, RecvFrom::new(receive))
            }

            /// As `recv_from`, and the message stays for the next receive.
            ///
            /// # Errors
            /// As `recv`.
            pub fn peek_from<B: IoBufMut>(&self, buf: B) -> Request<'_, RecvFrom<$address, B>> {
                let receive = ReceiveMessage::from_anybody(buf).peek();
                Request::new(&self.handle, RecvFrom::new(receive))
            }

            /// Ends one or both directions.
            ///
            /// # Errors
            /// Those of the system.
            pub fn shutdown(&self, how: Shutdown) -> Request<'_, ShutdownOp> {
                $crate::net::stream::shutdown(&self.handle, how)
            }

            /// The socket's options, through `socket2`. A simulated socket has none: they fail.
            pub fn options(&self) -> SockRef<'_> {
                SockRef::from(self)
            }
        }

        descriptor_traits!($type);
    };
}

pub(super) use datagram_methods;
