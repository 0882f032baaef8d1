//! TCP.
//!
//! [`TcpListener`] and [`TcpStream`] are made of file objects and requests like files; filters go
//! on with [`TcpListener::bind_with`] and [`TcpStream::connect_with`].

mod addr;
mod compat;
mod tcp;

pub use addr::ToSocketAddrs;
pub use compat::Compat;
pub use tcp::{
    AcceptStream, Incoming, OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream, stack_of,
};
