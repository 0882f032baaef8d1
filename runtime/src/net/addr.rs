//! Names to addresses, off the workers.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use overlapped_drivers::hal::system;

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

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    crate::spawn_blocking(move || system::here().look_up(&host, port)).await?
}

/// Host and port, as in `example.org:80`.
fn parts(name: &str) -> io::Result<(String, u16)> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let (host, port) = name.rsplit_once(':').ok_or_else(|| invalid("invalid socket address"))?;
    Ok((host.to_owned(), port.parse().map_err(|_| invalid("invalid port value"))?))
}

impl ToSocketAddrs for &str {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        match self.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => {
                let (host, port) = parts(self)?;
                look_up(host, port).await
            }
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
            Err(_) => look_up(self.0.to_owned(), self.1).await,
        }
    }
}

impl ToSocketAddrs for &[SocketAddr] {
    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        Ok(self.to_vec())
    }
}
