//! Names to addresses, off the workers.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What can be turned into socket addresses: the types that `std::net::ToSocketAddrs` takes. A name
/// is looked up on a blocking thread.
pub trait ToSocketAddrs: Sized + Send {
    /// The addresses, in the order in which to try them.
    ///
    /// # Errors
    /// Those of the look-up.
    fn resolve(self) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

macro_rules! at_once {
    ($($type:ty),*) => {$(
        impl ToSocketAddrs for $type {
            async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
                Ok(vec![self.into()])
            }
        }
    )*};
}

at_once!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

async fn look_up(
    name: impl std::net::ToSocketAddrs<Iter = std::vec::IntoIter<SocketAddr>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    crate::spawn_blocking(move || name.to_socket_addrs()).await?.map(Iterator::collect)
}

impl ToSocketAddrs for &str {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => look_up(self.to_owned()).await,
        }
    }
}

impl ToSocketAddrs for String {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        self.as_str().resolve().await
    }
}

impl ToSocketAddrs for (&str, u16) {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self.0.parse::<IpAddr>() {
            Ok(ip) => Ok(vec![(ip, self.1).into()]),
            Err(_) => look_up((self.0.to_owned(), self.1)).await,
        }
    }
}

impl ToSocketAddrs for &[SocketAddr] {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        Ok(self.to_vec())
    }
}
