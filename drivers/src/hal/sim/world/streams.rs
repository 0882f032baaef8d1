//! Connections: two sides with a bounded buffer each, for TCP, Unix streams and pipes.

use std::collections::VecDeque;

use super::{Index, Outcome, Thing, World};

/// Bytes that wait for the reader of one side.
const ROOM: usize = 64 * 1024;

/// A pipe takes so many bytes whole or not at all.
const ATOMIC: usize = 4096;

/// What a connection's rules are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    Tcp,
    Unix,
    Pipe,
}

/// One side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End {
    pub(super) connection: u64,
    pub(super) side: usize,
}

#[derive(Default)]
pub(super) struct Side {
    /// What has come, and has not been read.
    incoming: VecDeque<u8>,
    /// No more comes.
    ended: bool,
    /// Its owner reads no more.
    deaf: bool,
    /// Its owner has closed it.
    closed: bool,
    /// The connection was reset.
    dead: bool,
    /// The next operation's.
    error: Option<i32>,
    /// Who has it; nobody while it waits to be accepted.
    pub(super) owner: Option<Index>,
}

impl Side {
    pub(super) fn available(&self) -> usize {
        self.incoming.len()
    }
}

pub(super) struct Connection {
    style: Style,
    sides: [Side; 2],
}

impl World {
    /// Makes a connection; its two ends.
    pub(super) fn connect_ends(&mut self, style: Style) -> [End; 2] {
        let connection = self.next_connection;
        self.next_connection += 1;
        self.connections.insert(connection, Connection { style, sides: Default::default() });
        [0, 1].map(|side| End { connection, side })
    }

    pub(super) fn side(&mut self, end: End) -> &mut Side {
        let connection = self.connections.get_mut(&end.connection);
        &mut connection.expect("a side of it is open").sides[end.side]
    }

    fn other(&mut self, end: End) -> &mut Side {
        self.side(End { side: 1 - end.side, ..end })
    }

    fn style(&self, end: End) -> Style {
        self.connections[&end.connection].style
    }

    /// Says that something has changed for the other side's owner.
    fn tell_other(&mut self, end: End) {
        let owner = self.other(end).owner;
        self.changed.extend(owner);
    }

    pub(crate) fn pipe(&mut self) -> [Index; 2] {
        let [reader, writer] = self.connect_ends(Style::Pipe);
        // Each has one direction only.
        self.side(writer).ended = true;
        let ends = [reader, writer].map(|end| (end, self.insert(Thing::Pipe(end))));
        ends.map(|(end, index)| {
            self.side(end).owner = Some(index);
            index
        })
    }

    pub(super) fn receive_from(&mut self, end: End, most: usize, peek: bool) -> Outcome<Vec<u8>> {
        if self.style(end) == Style::Pipe && end.side == 1 {
            return Err(libc::EBADF);
        }
        let side = self.side(end);
        if most == 0 {
            return Ok(Vec::new());
        }
        if side.incoming.is_empty() {
            return match side.error.take() {
                Some(error) => Err(error),
                None if side.ended || side.deaf => Ok(Vec::new()),
                None => Err(libc::EAGAIN),
            };
        }
        let n = most.min(side.incoming.len());
        let (first, second) = side.incoming.as_slices();
        let split = n.min(first.len());
        let bytes = [&first[..split], &second[..n - split]].concat();
        if !peek {
            side.incoming.drain(..n);
            // There is room now.
            self.tell_other(end);
        }
        Ok(bytes)
    }

    /// How many of so many bytes could be sent now.
    pub(super) fn room_of(&mut self, end: End, len: usize) -> Outcome<usize> {
        let style = self.style(end);
        if style == Style::Pipe && end.side == 0 {
            return Err(libc::EBADF);
        }
        let side = self.side(end);
        if let Some(error) = side.error.take() {
            return Err(error);
        }
        if side.dead {
            return Err(libc::EPIPE);
        }
        let other = self.other(end);
        // What the owner has ended itself, the other side sees.
        if style != Style::Pipe && other.ended {
            return Err(libc::EPIPE);
        }
        if other.closed || other.deaf {
            return match style {
                // The first bytes are on their way before the answer comes.
                Style::Tcp => Ok(len),
                Style::Unix | Style::Pipe => Err(libc::EPIPE),
            };
        }
        let room = ROOM.saturating_sub(other.incoming.len());
        let whole = style == Style::Pipe && len <= ATOMIC;
        if len > 0 && (room == 0 || (whole && room < len)) {
            return Err(libc::EAGAIN);
        }
        Ok(len.min(room))
    }

    pub(super) fn send_to_other(&mut self, end: End, bytes: &[u8]) -> Outcome<usize> {
        let n = self.room_of(end, bytes.len())?;
        let other = self.other(end);
        if other.closed {
            let side = self.side(end);
            // It had ended its side before, so that this is no reset but a broken pipe.
            (side.dead, side.error) = (true, Some(libc::EPIPE));
            let owner = side.owner;
            self.changed.extend(owner);
        } else if !other.deaf && n > 0 {
            other.incoming.extend(&bytes[..n]);
            self.tell_other(end);
        }
        Ok(n)
    }

    pub(super) fn shut_down(&mut self, end: End, how: i32) -> Outcome<()> {
        let tcp = self.style(end) == Style::Tcp;
        let other = self.other(end);
        // Both directions have ended, or the connection broke.
        if (tcp && other.closed && other.ended) || self.side(end).dead {
            return Err(libc::ENOTCONN);
        }
        if how != libc::SHUT_RD {
            self.other(end).ended = true;
        }
        if how != libc::SHUT_WR {
            self.side(end).deaf = true;
        }
        let owner = self.side(end).owner;
        self.changed.extend(owner);
        self.tell_other(end);
        Ok(())
    }

    /// The connection breaks, for both sides.
    pub(super) fn break_connection(&mut self, end: End) {
        for end in [end, End { side: 1 - end.side, ..end }] {
            let side = self.side(end);
            side.incoming.clear();
            (side.ended, side.dead, side.error) = (true, true, Some(libc::ECONNRESET));
            let owner = side.owner;
            self.changed.extend(owner);
        }
    }

    pub(super) fn is_dead(&self, end: End) -> bool {
        self.connections[&end.connection].sides[end.side].dead
    }

    pub(super) fn close_end(&mut self, end: End) {
        let style = self.style(end);
        let side = self.side(end);
        (side.closed, side.owner) = (true, None);
        let unread = !std::mem::take(&mut side.incoming).is_empty();
        let other = self.other(end);
        other.ended = true;
        if unread && style != Style::Pipe && !other.closed {
            // What it had not read is lost, and the sender should know.
            other.error = Some(libc::ECONNRESET);
            other.dead = true;
        }
        if other.closed {
            self.connections.remove(&end.connection);
        } else {
            self.tell_other(end);
        }
    }

    pub(super) fn end_readiness(&self, end: End) -> i16 {
        let connection = &self.connections[&end.connection];
        let (side, other) = (&connection.sides[end.side], &connection.sides[1 - end.side]);
        let (reads, writes) = match connection.style {
            Style::Pipe => (end.side == 0, end.side == 1),
            _ => (true, true),
        };
        let mut ready = 0;
        if reads && (!side.incoming.is_empty() || side.ended || side.deaf) {
            ready |= libc::POLLIN;
        }
        if reads && side.ended {
            ready |= libc::POLLRDHUP;
        }
        let gone = other.closed || side.dead;
        if writes && (gone || other.ended || other.incoming.len() < ROOM) {
            ready |= libc::POLLOUT;
        }
        if side.error.is_some() || (writes && gone && connection.style == Style::Pipe) {
            ready |= libc::POLLERR;
        }
        if side.dead || (side.ended && other.ended && connection.style != Style::Pipe) {
            ready |= libc::POLLHUP;
        }
        ready
    }
}
