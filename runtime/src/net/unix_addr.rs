//! Addresses of Unix sockets, and who is at the other end.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use overlapped_drivers::hal::system;
use overlapped_iomgr::FileHandle;
use socket2::SockAddr;

use super::Source;

/// What names a Unix socket: a path, or an address of `std`, which may be one of the abstract
/// namespace ([`SocketAddrExt`]).
pub trait ToUnixAddress {
    /// The address.
    ///
    /// # Errors
    /// `InvalidInput` for a path that is too long (108 bytes) or holds a zero byte.
    fn to_address(&self) -> io::Result<SockAddr>;
}

impl ToUnixAddress for SocketAddr {
    fn to_address(&self) -> io::Result<SockAddr> {
        let name = match (self.as_pathname(), self.as_abstract_name()) {
            (Some(path), _) => path.as_os_str().to_owned(),
            // A leading zero byte is what makes a name abstract.
            (_, Some(name)) => OsStr::from_bytes(&[&[0], name].concat()).to_owned(),
            (None, None) => OsString::new(),
        };
        SockAddr::unix(name)
    }
}

macro_rules! paths {
    ($($type:ty),*) => {$(
        impl ToUnixAddress for $type {
            fn to_address(&self) -> io::Result<SockAddr> {
                let path: &Path = self.as_ref();
                // Checked by `std`: a zero byte would cut the name, or make it abstract.
                SocketAddr::from_pathname(path)?.to_address()
            }
        }
    )*};
}

paths!(Path, PathBuf, str, String, OsStr, OsString);

impl<T: ToUnixAddress + ?Sized> ToUnixAddress for &T {
    fn to_address(&self) -> io::Result<SockAddr> {
        (**self).to_address()
    }
}

impl Source for SocketAddr {
    fn of(address: Option<&SockAddr>) -> io::Result<SocketAddr> {
        let Some(address) = address else { return SocketAddr::from_pathname("") };
        match (address.as_pathname(), address.as_abstract_namespace()) {
            (Some(path), _) => SocketAddr::from_pathname(path),
            (_, Some(name)) => SocketAddr::from_abstract_name(name),
            (None, None) => SocketAddr::from_pathname(""),
        }
    }
}

/// Who is at the other end of a connection, as it was when the connection was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerCredentials {
    /// The process; 0 if it is not visible from here (another namespace).
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

pub(super) fn peer_credentials(socket: &FileHandle) -> io::Result<PeerCredentials> {
    let (pid, uid, gid) = system::of(socket.fd()).peer_credentials(socket.fd())?;
    Ok(PeerCredentials { pid, uid, gid })
}
