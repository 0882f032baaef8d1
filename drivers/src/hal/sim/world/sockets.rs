//! Sockets that carry streams, listeners, and everybody's addresses.
//!
//! There is one machine, and every IP address is its own: programs on it may stand for many.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use socket2::{Domain, SockAddr, Type};

use super::datagrams::Mailbox;
use super::streams::{End, Style};
use super::tree::{Kind, Last, Node};
use super::{Index, Outcome, Thing, World};

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

pub(crate) struct Socket {
    domain: Domain,
    address: Address,
    /// How others find it, for taking that back.
    local: Option<Local>,
    state: State,
}

enum State {
    New,
    Listening { waiting: VecDeque<(End, Address)>, most: usize, kept_out: Vec<Index> },
    Connected { end: End, peer: Address },
}

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

    fn is_of(&self, domain: Domain) -> bool {
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
    pub(crate) fn socket(&mut self, domain: Domain, kind: Type) -> Outcome<Index> {
        if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
            return Err(libc::EAFNOSUPPORT);
        }
        let (address, local) =
            (if domain == Domain::UNIX { Address::None } else { Address::Ip(any(domain)) }, None);
        match kind {
            Type::STREAM => {
                let socket = Socket { domain, address, local, state: State::New };
                Ok(self.insert(Thing::Socket(socket)))
            }
            Type::DGRAM => Ok(self.insert(Thing::Datagrams(Mailbox::new(domain, address)))),
            _ => Err(libc::ESOCKTNOSUPPORT),
        }
    }

    pub(crate) fn socket_pair(&mut self, kind: Type) -> Outcome<[Index; 2]> {
        if kind == Type::DGRAM {
            return Ok(self.mailbox_pair());
        }
        let ends = self.connect_ends(Style::Unix);
        Ok(ends.map(|end| self.socket_of(Domain::UNIX, end, Address::None, Address::None)))
    }

    fn socket_of(&mut self, domain: Domain, end: End, address: Address, peer: Address) -> Index {
        let state = State::Connected { end, peer };
        let index = self.insert(Thing::Socket(Socket { domain, address, local: None, state }));
        self.side(end).owner = Some(index);
        index
    }

    fn socket_at(&self, index: Index) -> Outcome<&Socket> {
        match self.thing(index)? {
            Thing::Socket(socket) => Ok(socket),
            Thing::Datagrams(_) => Err(libc::EOPNOTSUPP),
            _ => Err(libc::ENOTSOCK),
        }
    }

    fn socket_at_mut(&mut self, index: Index) -> Outcome<&mut Socket> {
        match self.thing_mut(index)? {
            Thing::Socket(socket) => Ok(socket),
            Thing::Datagrams(_) => Err(libc::EOPNOTSUPP),
            _ => Err(libc::ENOTSOCK),
        }
    }

    // Addresses.

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

    pub(crate) fn bind(&mut self, index: Index, address: Address) -> Outcome<()> {
        if let Thing::Datagrams(_) = self.thing(index)? {
            return self.bind_mailbox(index, address);
        }
        let socket = self.socket_at(index)?;
        let fresh = matches!(socket.address, Address::None)
            || matches!(socket.address, Address::Ip(ip) if ip.port() == 0);
        if !matches!(socket.state, State::New) || !fresh || !address.is_of(socket.domain) {
            return Err(libc::EINVAL);
        }
        let (address, local) = match address {
            Address::Ip(ip) => (Address::Ip(self.register(STREAMS, ip, index)?), None),
            unix => {
                let local = self.register_local(&unix, index)?;
                (unix, Some(local))
            }
        };
        let socket = self.socket_at_mut(index)?;
        (socket.address, socket.local) = (address, local);
        Ok(())
    }

    pub(crate) fn listen(&mut self, index: Index, backlog: i32) -> Outcome<()> {
        let socket = self.socket_at(index)?;
        if !matches!(socket.state, State::New) {
            return Err(libc::EINVAL);
        }
        if let Address::Ip(ip) = socket.address
            && ip.port() == 0
        {
            let ip = self.register(STREAMS, ip, index)?;
            self.socket_at_mut(index)?.address = Address::Ip(ip);
        }
        let most = backlog.max(1) as usize;
        self.socket_at_mut(index)?.state =
            State::Listening { waiting: VecDeque::new(), most, kept_out: Vec::new() };
        Ok(())
    }

    pub(crate) fn local_address(&self, index: Index) -> Outcome<Address> {
        match self.thing(index)? {
            Thing::Datagrams(mailbox) => Ok(mailbox.address().clone()),
            _ => Ok(self.socket_at(index)?.address.clone()),
        }
    }

    pub(crate) fn peer_address(&self, index: Index) -> Outcome<Address> {
        if let Thing::Datagrams(mailbox) = self.thing(index)? {
            return mailbox.peer().cloned().ok_or(libc::ENOTCONN);
        }
        match &self.socket_at(index)?.state {
            State::Connected { end, peer } if !self.is_dead(*end) => Ok(peer.clone()),
            _ => Err(libc::ENOTCONN),
        }
    }

    // Connecting.

    pub(crate) fn connect(&mut self, index: Index, to: Address) -> Outcome<()> {
        if let Thing::Datagrams(_) = self.thing(index)? {
            return self.connect_mailbox(index, to);
        }
        let socket = self.socket_at(index)?;
        match socket.state {
            State::New if to.is_of(socket.domain) => {}
            State::New => return Err(libc::EAFNOSUPPORT),
            State::Connected { .. } => return Err(libc::EISCONN),
            State::Listening { .. } => return Err(libc::EINVAL),
        }
        let (domain, mut address) = (socket.domain, socket.address.clone());
        let to = match to {
            Address::Ip(ip) => Address::Ip(target(ip)),
            unix => unix,
        };
        let listener = match &to {
            Address::Ip(ip) => self.find(STREAMS, *ip).ok_or(libc::ECONNREFUSED)?,
            unix => self.find_local(unix)?,
        };
        match self.thing_mut(listener) {
            Ok(Thing::Socket(Socket {
                state: State::Listening { waiting, most, kept_out },
                ..
            })) => {
                if waiting.len() >= *most {
                    kept_out.push(index);
                    return Err(libc::EAGAIN);
                }
            }
            Ok(Thing::Datagrams(_)) => return Err(libc::EPROTOTYPE),
            _ => return Err(libc::ECONNREFUSED),
        }
        if let (Address::Ip(mine), Address::Ip(to)) = (&mut address, &to) {
            if mine.ip().is_unspecified() {
                mine.set_ip(to.ip());
            }
            if mine.port() == 0 {
                mine.set_port(self.free_port(STREAMS)?);
            }
        }
        let style = if domain == Domain::UNIX { Style::Unix } else { Style::Tcp };
        let [mine, theirs] = self.connect_ends(style);
        self.side(mine).owner = Some(index);
        if let State::Listening { waiting, .. } = &mut self.socket_at_mut(listener)?.state {
            waiting.push_back((theirs, address.clone()));
        }
        self.changed.extend([listener, index]);
        let socket = self.socket_at_mut(index)?;
        (socket.address, socket.state) = (address, State::Connected { end: mine, peer: to });
        Ok(())
    }

    pub(crate) fn accept(&mut self, index: Index) -> Outcome<Index> {
        let socket = self.socket_at_mut(index)?;
        let (domain, listens_at) = (socket.domain, socket.address.clone());
        let State::Listening { waiting, kept_out, .. } = &mut socket.state else {
            return Err(libc::EINVAL);
        };
        let (end, peer) = waiting.pop_front().ok_or(libc::EAGAIN)?;
        let kept_out = std::mem::take(kept_out);
        self.changed.extend(kept_out);
        let address = match (listens_at, &peer) {
            // It is known now which of its addresses was meant.
            (Address::Ip(mut mine), Address::Ip(peer)) => {
                if mine.ip().is_unspecified() {
                    mine.set_ip(peer.ip());
                }
                Address::Ip(mine)
            }
            (address, _) => address,
        };
        Ok(self.socket_of(domain, end, address, peer))
    }

    /// The end of a connection that a descriptor has.
    pub(super) fn end_of(&self, index: Index) -> Outcome<End> {
        match self.thing(index)? {
            Thing::Pipe(end) => Ok(*end),
            _ => match &self.socket_at(index)?.state {
                State::Connected { end, .. } => Ok(*end),
                _ => Err(libc::ENOTCONN),
            },
        }
    }

    /// Whether it carries messages, which are whole.
    pub(crate) fn has_messages(&self, index: Index) -> bool {
        matches!(self.thing(index), Ok(Thing::Datagrams(_)))
    }

    /// Whether it is TCP's.
    pub(crate) fn is_tcp(&self, index: Index) -> bool {
        self.socket_at(index).is_ok_and(|socket| socket.domain != Domain::UNIX)
    }

    /// Whether it is a connected socket, not a pipe.
    pub(crate) fn is_connection(&self, index: Index) -> bool {
        self.socket_at(index).is_ok() && self.end_of(index).is_ok()
    }

    /// How many bytes could be received now.
    pub(crate) fn available(&mut self, index: Index) -> Outcome<usize> {
        let end = self.end_of(index)?;
        Ok(self.side(end).available())
    }

    pub(crate) fn receive(&mut self, index: Index, most: usize, peek: bool) -> Outcome<Vec<u8>> {
        self.receive_from(self.end_of(index)?, most, peek)
    }

    /// How many of so many bytes could be sent now; the errno if none can.
    pub(crate) fn room(&mut self, index: Index, len: usize) -> Outcome<usize> {
        self.room_of(self.end_of(index).map_err(not_connected)?, len)
    }

    pub(crate) fn send(&mut self, index: Index, bytes: &[u8]) -> Outcome<usize> {
        self.send_to_other(self.end_of(index).map_err(not_connected)?, bytes)
    }

    pub(crate) fn shutdown(&mut self, index: Index, how: i32) -> Outcome<()> {
        match self.thing_mut(index)? {
            Thing::Datagrams(mailbox) => {
                mailbox.shut_down(how)?;
                self.changed.push(index);
                Ok(())
            }
            _ => self.shut_down(self.end_of(index)?, how),
        }
    }

    /// A connection is reset.
    pub(crate) fn reset(&mut self, index: Index) -> Outcome<()> {
        let end = self.end_of(index)?;
        self.break_connection(end);
        Ok(())
    }

    pub(super) fn close_socket(&mut self, index: Index, socket: Socket) {
        self.forget_local(socket.local);
        if let Address::Ip(ip) = socket.address
            && self.bound[STREAMS].get(&ip) == Some(&index)
        {
            self.bound[STREAMS].remove(&ip);
        }
        match socket.state {
            State::New => {}
            State::Connected { end, .. } => self.close_end(end),
            State::Listening { waiting, kept_out, .. } => {
                self.changed.extend(kept_out);
                for (end, _) in waiting {
                    self.break_connection(end);
                    self.close_end(end);
                }
            }
        }
    }

    pub(super) fn socket_readiness(&self, socket: &Socket) -> i16 {
        match &socket.state {
            State::New => libc::POLLOUT | libc::POLLHUP,
            State::Listening { waiting, .. } if waiting.is_empty() => 0,
            State::Listening { .. } => libc::POLLIN,
            State::Connected { end, .. } => self.end_readiness(*end),
        }
    }
}

fn not_connected(errno: i32) -> i32 {
    // What a send says to that.
    if errno == libc::ENOTCONN { libc::EPIPE } else { errno }
}
