//! A simulated machine's state: files and names, sockets and pipes, and the table of descriptors. It
//! knows of no operations that wait, and of no faults: every function does what a system call on a
//! non-blocking descriptor would do, or fails with its errno.
//!
//! - `content`: a file's bytes. `tree`: inodes, and the way along a path. `names`: what is done to
//!   names. `files`: open files.
//! - `streams`: connections, which pipes are too. `sockets`: sockets and listeners. `datagrams`:
//!   messages. `addresses`: who has which.
//!
//! **Invariants.** An inode lives as long as it has a name or is open. A connection lives as long as
//! one of its sides is open. Whatever may let an operation go on that found nothing before is noted
//! in `changed`.

mod addresses;
mod content;
mod datagrams;
mod files;
mod names;
mod sockets;
mod streams;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::random::Random;
pub(crate) use addresses::Address;
use addresses::Local;
pub(crate) use datagrams::Delivery;
use datagrams::Mailbox;
pub(crate) use files::{BLOCK, Entry, Open, OpenHow};
use sockets::Socket;
use streams::{Connection, End};
use tree::Inode;
pub(crate) use tree::{Attributes, Kind};

/// What a system call gives: its result, or an errno.
pub(crate) type Outcome<T> = Result<T, i32>;

/// A descriptor's number, less the first one of the simulation.
pub(crate) type Index = usize;

/// What a descriptor stands for.
pub(crate) enum Thing {
    File(Open),
    Socket(Socket),
    Datagrams(Mailbox),
    Pipe(End),
}

pub(crate) struct World {
    /// Virtual nanoseconds since the beginning.
    pub(crate) now: u64,
    /// Descriptors on which something has changed.
    pub(crate) changed: Vec<Index>,
    random: Random,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    things: Vec<Option<Thing>>,
    /// Numbers below the length of `things` that are free: the lowest is given first.
    free: BTreeSet<Index>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Who has an IP address: sockets of streams, and of messages.
    bound: [BTreeMap<SocketAddr, Index>; 2],
    /// Who has a Unix socket's address.
    local: BTreeMap<Local, Index>,
    next_port: u16,
}

impl World {
    pub(crate) fn new(random: Random) -> World {
        let mut world = World {
            now: 0,
            changed: Vec::new(),
            random,
            inodes: BTreeMap::new(),
            next_inode: tree::ROOT,
            things: Vec::new(),
            free: BTreeSet::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            bound: Default::default(),
            local: BTreeMap::new(),
            next_port: addresses::FIRST_PORT,
        };
        world.make_root();
        world
    }

    /// Descriptors that are open.
    pub(crate) fn open_descriptors(&self) -> usize {
        self.things.len() - self.free.len()
    }

    fn insert(&mut self, thing: Thing) -> Index {
        match self.free.pop_first() {
            Some(index) => {
                self.things[index] = Some(thing);
                index
            }
            None => {
                self.things.push(Some(thing));
                self.things.len() - 1
            }
        }
    }

    pub(crate) fn thing(&self, index: Index) -> Outcome<&Thing> {
        self.things.get(index).and_then(Option::as_ref).ok_or(libc::EBADF)
    }

    fn thing_mut(&mut self, index: Index) -> Outcome<&mut Thing> {
        self.things.get_mut(index).and_then(Option::as_mut).ok_or(libc::EBADF)
    }

    pub(crate) fn close(&mut self, index: Index) -> Outcome<()> {
        self.thing(index)?;
        let Some(thing) = self.things[index].take() else { return Err(libc::EBADF) };
        self.free.insert(index);
        self.changed.push(index);
        match thing {
            Thing::File(open) => self.let_go(open.inode),
            Thing::Socket(socket) => self.close_socket(index, socket),
            Thing::Datagrams(mailbox) => self.close_mailbox(index, mailbox),
            Thing::Pipe(end) => self.close_end(end),
        }
        Ok(())
    }

    /// What it is ready for, as `poll(2)` says it.
    pub(crate) fn readiness(&self, index: Index) -> Outcome<i16> {
        Ok(match self.thing(index)? {
            Thing::File(_) => libc::POLLIN | libc::POLLOUT,
            Thing::Socket(socket) => self.socket_readiness(socket),
            Thing::Datagrams(mailbox) => mailbox.readiness(),
            Thing::Pipe(end) => self.end_readiness(*end),
        })
    }
}
