//! Sockets of messages: UDP, which may lose them, and Unix datagrams, which may not.

use std::collections::VecDeque;

use socket2::Domain;

use super::addresses::{Address, Local, MESSAGES, any, target};
use super::{Index, Outcome, Thing, World};

/// Bytes that wait for one reader.
const ROOM: usize = 128 * 1024;
/// Messages that wait for one Unix socket's reader.
const MESSAGES_WAITING: usize = 16;
/// The largest datagram.
const LARGEST: usize = 65_507;

/// A message that has come.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) from: Address,
    pub(crate) bytes: Vec<u8>,
}

/// What becomes of a datagram on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    Plain,
    Lost,
    Twice,
    /// Before this many of those that wait.
    Overtaking(usize),
}

pub(crate) struct Mailbox {
    domain: Domain,
    address: Address,
    peer: Option<Address>,
    /// One of a pair: the other.
    twin: Option<Index>,
    local: Option<Local>,
    messages: VecDeque<Message>,
    bytes: usize,
    error: Option<i32>,
    deaf: bool,
    mute: bool,
    /// Who waits for room here.
    kept_out: Vec<Index>,
}

impl Mailbox {
    pub(super) fn new(domain: Domain, address: Address) -> Mailbox {
        Mailbox {
            domain,
            address,
            peer: None,
            twin: None,
            local: None,
            messages: VecDeque::new(),
            bytes: 0,
            error: None,
            deaf: false,
            mute: false,
            kept_out: Vec::new(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn peer(&self) -> Option<&Address> {
        self.peer.as_ref()
    }

    pub(super) fn readiness(&self) -> i16 {
        let mut ready = if self.error.is_some() { libc::POLLERR } else { 0 };
        if !self.messages.is_empty() || self.deaf {
            ready |= libc::POLLIN;
        }
        ready | libc::POLLOUT
    }

    pub(super) fn shut_down(&mut self, how: i32) -> Outcome<()> {
        if self.peer.is_none() {
            return Err(libc::ENOTCONN);
        }
        self.deaf |= how != libc::SHUT_WR;
        self.mute |= how != libc::SHUT_RD;
        Ok(())
    }

    fn is_unix(&self) -> bool {
        self.domain == Domain::UNIX
    }

    fn is_full(&self, more: usize) -> bool {
        let many = self.is_unix() && self.messages.len() >= MESSAGES_WAITING;
        many || (self.bytes + more > ROOM && !self.messages.is_empty())
    }
}

impl World {
    pub(super) fn mailbox_pair(&mut self) -> [Index; 2] {
        let make = |peer| Mailbox { peer: Some(peer), ..Mailbox::new(Domain::UNIX, Address::None) };
        let pair = [(); 2].map(|()| self.insert(Thing::Datagrams(make(Address::None))));
        for (index, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            if let Ok(mailbox) = self.mailbox(index) {
                mailbox.twin = Some(other);
            }
        }
        pair
    }

    fn mailbox(&mut self, index: Index) -> Outcome<&mut Mailbox> {
        match self.thing_mut(index)? {
            Thing::Datagrams(mailbox) => Ok(mailbox),
            _ => Err(libc::ENOTSOCK),
        }
    }

    pub(super) fn bind_mailbox(&mut self, index: Index, address: Address) -> Outcome<()> {
        let mailbox = self.mailbox(index)?;
        let fresh = match mailbox.address {
            Address::None => matches!(address, Address::Path(_) | Address::Abstract(_)),
            Address::Ip(mine) => matches!(address, Address::Ip(to)
                if mine.port() == 0 && to.is_ipv4() == (mailbox.domain == Domain::IPV4)),
            _ => false,
        };
        if !fresh {
            return Err(libc::EINVAL);
        }
        let (address, local) = match address {
            Address::Ip(ip) => (Address::Ip(self.register(MESSAGES, ip, index)?), None),
            unix => {
                let local = self.register_local(&unix, index)?;
                (unix, Some(local))
            }
        };
        let mailbox = self.mailbox(index)?;
        (mailbox.address, mailbox.local) = (address, local);
        Ok(())
    }

    /// Gives a socket a port, if it has none.
    fn bind_to_any(&mut self, index: Index) -> Outcome<()> {
        let mailbox = self.mailbox(index)?;
        match mailbox.address {
            Address::Ip(ip) if ip.port() == 0 => {
                let any = any(mailbox.domain);
                self.bind_mailbox(index, Address::Ip(any))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn connect_mailbox(&mut self, index: Index, to: Address) -> Outcome<()> {
        let to = match to {
            Address::Ip(ip) => {
                self.bind_to_any(index)?;
                Address::Ip(target(ip))
            }
            unix => {
                let found = self.find_local(&unix)?;
                self.mailbox(found).map_err(|_| libc::EPROTOTYPE)?;
                unix
            }
        };
        self.mailbox(index)?.peer = Some(to);
        Ok(())
    }

    /// Where a message to the address, or else to the peer, goes.
    fn recipient(
        &mut self,
        index: Index,
        to: Option<&Address>,
    ) -> Outcome<(Option<Index>, Address)> {
        let mailbox = self.mailbox(index)?;
        if to.is_none()
            && let Some(twin) = mailbox.twin
        {
            return Ok((Some(twin), Address::None));
        }
        if to.is_none() && mailbox.peer == Some(Address::None) {
            // The other one of the pair has gone.
            mailbox.peer = None;
            return Err(libc::ECONNREFUSED);
        }
        let nobody = if mailbox.is_unix() { libc::ENOTCONN } else { libc::EDESTADDRREQ };
        match to.or(mailbox.peer.as_ref()).cloned().ok_or(nobody)? {
            Address::Ip(ip) => {
                let ip = target(ip);
                Ok((self.find(MESSAGES, ip), Address::Ip(ip)))
            }
            unix => {
                let found = self.find_local(&unix)?;
                self.mailbox(found).map_err(|_| libc::EPROTOTYPE)?;
                Ok((Some(found), unix))
            }
        }
    }

    /// Sends a message, to the address or the peer. `delivery`: what becomes of it, once it is known
    /// that there is somebody to get it; not asked for Unix sockets.
    pub(crate) fn send_message(
        &mut self,
        index: Index,
        to: Option<&Address>,
        bytes: &[u8],
        delivery: impl FnOnce(usize) -> Delivery,
    ) -> Outcome<usize> {
        let mailbox = self.mailbox(index)?;
        if let Some(error) = mailbox.error.take() {
            return Err(error);
        }
        if mailbox.mute {
            return Err(libc::EPIPE);
        }
        if bytes.len() > LARGEST {
            return Err(libc::EMSGSIZE);
        }
        self.bind_to_any(index)?;
        let (found, to) = self.recipient(index, to)?;
        let sender = self.mailbox(index)?;
        let (unix, connected, mut from) =
            (sender.is_unix(), sender.peer.is_some(), sender.address.clone());
        if let (Address::Ip(from), Address::Ip(to)) = (&mut from, &to)
            && from.ip().is_unspecified()
        {
            from.set_ip(to.ip());
        }
        let Some(found) = found else {
            // Somebody says so, to who is known to be talking to it.
            if connected {
                self.mailbox(index)?.error = Some(libc::ECONNREFUSED);
                self.changed.push(index);
            }
            return Ok(bytes.len());
        };
        let recipient = self.mailbox(found)?;
        // One that is connected hears nobody else.
        let stranger = recipient.peer.as_ref().is_some_and(|peer| *peer != from);
        if stranger || recipient.deaf {
            return if unix { Err(libc::EPERM) } else { Ok(bytes.len()) };
        }
        if recipient.is_full(bytes.len()) {
            if unix {
                recipient.kept_out.push(index);
                return Err(libc::EAGAIN);
            }
            return Ok(bytes.len());
        }
        let waiting = recipient.messages.len();
        let how = if unix { Delivery::Plain } else { delivery(waiting) };
        let message = Message { from, bytes: bytes.to_vec() };
        let (at, copies) = match how {
            Delivery::Plain => (waiting, 1),
            Delivery::Lost => return Ok(bytes.len()),
            Delivery::Twice => (waiting, 2),
            Delivery::Overtaking(others) => (waiting - others.min(waiting), 1),
        };
        for _ in 0..copies {
            recipient.messages.insert(at, message.clone());
            recipient.bytes += bytes.len();
        }
        self.changed.push(found);
        Ok(bytes.len())
    }

    pub(crate) fn receive_message(&mut self, index: Index, peek: bool) -> Outcome<Message> {
        let mailbox = self.mailbox(index)?;
        if let Some(error) = mailbox.error.take() {
            return Err(error);
        }
        if peek && let Some(first) = mailbox.messages.front() {
            return Ok(first.clone());
        }
        let Some(message) = mailbox.messages.pop_front() else {
            let end = Message { from: Address::None, bytes: Vec::new() };
            return if mailbox.deaf { Ok(end) } else { Err(libc::EAGAIN) };
        };
        mailbox.bytes -= message.bytes.len();
        let kept_out = std::mem::take(&mut mailbox.kept_out);
        self.changed.extend(kept_out);
        Ok(message)
    }

    pub(super) fn close_mailbox(&mut self, index: Index, mailbox: Mailbox) {
        self.changed.extend(mailbox.kept_out);
        self.forget_local(mailbox.local);
        if let Address::Ip(ip) = mailbox.address
            && self.bound[MESSAGES].get(&ip) == Some(&index)
        {
            self.bound[MESSAGES].remove(&ip);
        }
        if let Some(twin) = mailbox.twin
            && let Ok(other) = self.mailbox(twin)
            && other.twin == Some(index)
        {
            // Its number will be somebody else's. The next who sends finds out.
            other.twin = None;
            self.changed.push(twin);
        }
    }
}
