//! Sockets that carry streams, and listeners.

use std::collections::VecDeque;

use socket2::{Domain, Type};

use super::addresses::{Address, Local, STREAMS, any, target};
use super::datagrams::Mailbox;
use super::streams::{End, Style};
use super::{Index, Outcome, Thing, World};

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
