//! Sockets: TCP, UDP and Unix sockets.
//!
//! Streams ([`TcpStream`], [`UnixStream`]), listeners ([`TcpListener`], [`UnixListener`]) and
//! datagram sockets ([`UdpSocket`], [`UnixDatagram`]) are made of file objects and requests like files. Filters go on with the functions that end in `_with`, on stacks that [`stack_of`] and
//! [`datagram_stack_of`] make.

mod accept;
mod addr;
mod compat;
mod datagram;
pub(crate) mod stream;
mod tcp;
mod udp;
mod unix;
mod unix_addr;

pub use accept::{AcceptStream, Connection, Incoming};
pub use addr::ToSocketAddrs;
pub use compat::Compat;
pub use datagram::{RecvFrom, Source, datagram_stack_of};
pub use overlapped_drivers::class::Message;
pub use stream::{OwnedReadHalf, OwnedWriteHalf};
pub use tcp::{TcpListener, TcpStream, stack_of};
pub use udp::UdpSocket;
pub use unix::{UnixDatagram, UnixListener, UnixStream};
pub use unix_addr::{PeerCredentials, ToUnixAddress};
