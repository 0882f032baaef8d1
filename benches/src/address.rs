//! Where an echo server listens, and what it listens with.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;

/// Written `HOST:PORT` (TCP), `udp:HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A UDP port.
    Udp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let socket = |text: &str| text.parse().map_err(|_| format!("'{text}' is no HOST:PORT"));
        match text.split_once(':') {
            Some(("udp", rest)) => socket(rest).map(Address::Udp),
            Some(("unix", path)) => Ok(Address::Unix(path.into())),
            _ => socket(text).map(Address::Tcp),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Udp(address) => write!(f, "udp:{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// Of [`Address::Tcp`].
    Tcp(TcpListener),
    /// Of [`Address::Udp`].
    Udp(UdpSocket),
    /// Of [`Address::Unix`].
    Unix(UnixListener),
}

impl Address {
    /// Binds, with a backlog for many clients at once.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(&self) -> io::Result<Listener> {
        let deepen = |socket: &dyn AsRawFd| {
            // SAFETY: only makes the backlog longer than the one that `bind` has set.
            unsafe { libc::listen(socket.as_raw_fd(), 4096) };
        };
        Ok(match self {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                deepen(&listener);
                Listener::Tcp(listener)
            }
            Address::Udp(address) => Listener::Udp(UdpSocket::bind(address)?),
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                deepen(&listener);
                Listener::Unix(listener)
            }
        })
    }
}

impl Listener {
    /// Where it listens, with the port that was chosen.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Listener::Udp(socket) => Address::Udp(socket.local_addr()?),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                Address::Unix(address.as_pathname().unwrap_or("".as_ref()).into())
            }
        })
    }

    /// For contestants that serve TCP only.
    ///
    /// # Errors
    /// `Unsupported` for the others.
    pub fn tcp(self) -> io::Result<TcpListener> {
        match self {
            Listener::Tcp(listener) => Ok(listener),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "this one serves TCP only")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["127.0.0.1:80", "udp:[::1]:53", "unix:/run/a:b"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        assert!("udp:nowhere".parse::<Address>().is_err());
        assert!("".parse::<Address>().is_err());
    }
}
