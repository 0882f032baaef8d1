//! Sockets' addresses, and who has them.
//!
//! There is one machine, and every IP address is its own: programs on it may stand for many.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use socket2::{Domain, SockAddr};

use super::tree::{Kind, Last, Node};
use super::{Index, Outcome, World};

/// The first port that is given to who asks for any.
pub(super) const FIRST_PORT: u16 = 49152;

/// A socket's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    Ip(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
    None,
}

/// What a Unix socket is found by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Local {
    Inode(u64),
    Abstract(Vec<u8>),
}

/// Which of the tables in `World::bound`.
pub(super) const STREAMS: usize = 0;
pub(super) const MESSAGES: usize = 1;

impl Address {
    pub(crate) fn of(address: &SockAddr) -> Outcome<Address> {
        if let Some(ip) = address.as_socket() {
            return Ok(Address::Ip(ip));
        }
        if address.is_unnamed() {
            return Ok(Address::None);
        }
        let path = address.as_pathname().map(|path| path.as_os_str().as_bytes().to_vec());
        let name = || address.as_abstract_namespace().map(|name| Address::Abstract(name.to_vec()));
        path.map(Address::Path).or_else(name).ok_or(libc::EAFNOSUPPORT)
    }

    pub(crate) fn to_system(&self) -> Outcome<SockAddr> {
        let unix = |name: &[u8]| SockAddr::unix(OsStr::from_bytes(name)).map_err(|_| libc::EINVAL);
        match self {
            Address::Ip(ip) => Ok((*ip).into()),
            Address::Path(path) => unix(path),
            // A leading zero byte is what makes a name abstract.
            Address::Abstract(name) => unix(&[&[0], &name[..]].concat()),
            Address::None => unix(b""),
        }
    }

    pub(super) fn is_of(&self, domain: Domain) -> bool {
        match self {
            Address::Ip(SocketAddr::V4(_)) => domain == Domain::IPV4,
            Address::Ip(SocketAddr::V6(_)) => domain == Domain::IPV6,
            _ => domain == Domain::UNIX,
        }
    }
}

/// The address that stands for any of its kind.
pub(super) fn any(domain: Domain) -> SocketAddr {
    let ip: IpAddr = if domain == Domain::IPV6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    (ip, 0).into()
}

/// Where one gets to who goes to the address that stands for any: this machine.
pub(super) fn target(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

impl World {
    /// Whoever is found at the address: bound to it, or to all of its kind.
    pub(super) fn find(&self, table: usize, address: SocketAddr) -> Option<Index> {
        let bound = &self.bound[table];
        let mut wild = address;
        wild.set_ip(any(Domain::for_address(address)).ip());
        bound.get(&address).or_else(|| bound.get(&wild)).copied()
    }

    pub(super) fn free_port(&mut self, table: usize) -> Outcome<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if self.bound[table].keys().all(|address| address.port() != port) {
                return Ok(port);
            }
        }
        Err(libc::EADDRINUSE)
    }

    /// Registers an IP address; the one it is, which has a port.
    pub(super) fn register(
        &mut self,
        table: usize,
        mut at: SocketAddr,
        index: Index,
    ) -> Outcome<SocketAddr> {
        if at.port() == 0 {
            at.set_port(self.free_port(table)?);
        }
        let clash = |other: &SocketAddr| {
            other.port() == at.port()
                && other.is_ipv4() == at.is_ipv4()
                && (other.ip() == at.ip()
                    || other.ip().is_unspecified()
                    || at.ip().is_unspecified())
        };
        if self.bound[table].keys().any(clash) {
            return Err(libc::EADDRINUSE);
        }
        self.bound[table].insert(at, index);
        Ok(at)
    }

    /// Registers a Unix socket's address.
    pub(super) fn register_local(&mut self, address: &Address, index: Index) -> Outcome<Local> {
        let local = match address {
            Address::Path(path) => {
                let place = self.walk(None, path, Last::Name)?;
                self.vacant(&place)
                    .map_err(|e| if e == libc::EEXIST { libc::EADDRINUSE } else { e })?;
                let inode = self.add_inode(Node::Socket, 0o755);
                self.attach(place.parent, place.name, inode);
                Local::Inode(inode)
            }
            Address::Abstract(name) => Local::Abstract(name.clone()),
            _ => return Err(libc::EOPNOTSUPP),
        };
        if self.local.contains_key(&local) {
            return Err(libc::EADDRINUSE);
        }
        self.local.insert(local.clone(), index);
        Ok(local)
    }

    /// Whoever has a Unix socket's address.
    pub(super) fn find_local(&self, address: &Address) -> Outcome<Index> {
        let local = match address {
            Address::Path(path) => {
                let inode = self.walk(None, path, Last::Follow)?.found()?;
                if self.inode(inode).kind() != Kind::Socket {
                    return Err(libc::ECONNREFUSED);
                }
                Local::Inode(inode)
            }
            Address::Abstract(name) => Local::Abstract(name.clone()),
            _ => return Err(libc::EINVAL),
        };
        self.local.get(&local).copied().ok_or(libc::ECONNREFUSED)
    }

    pub(super) fn forget_local(&mut self, local: Option<Local>) {
        if let Some(local) = local {
            self.local.remove(&local);
        }
    }
}
