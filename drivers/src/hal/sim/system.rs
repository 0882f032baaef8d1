//! The contract of `hal::system`, met by the simulated machine.

use std::ffi::{CStr, OsString, c_int};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

use super::Simulator;
use super::faults::Fault;
use super::perform::Machine;
use super::world::{Address, Entry, Index, Kind, Outcome};
use crate::hal::system::{Descriptor, System};

/// Where the parts of a `struct linux_dirent64` are.
const LENGTH: usize = 16;
const TYPE: usize = 18;
const NAME: usize = 19;

impl Simulator {
    /// Asks the machine; whatever that changes goes on.
    fn ask<T>(&self, question: impl FnOnce(&mut Machine) -> Outcome<T>) -> Outcome<T> {
        let mut engine = self.engine();
        let answer = question(&mut engine.machine);
        engine.settle();
        answer
    }

    fn io<T>(&self, question: impl FnOnce(&mut Machine) -> Outcome<T>) -> io::Result<T> {
        self.ask(question).map_err(io::Error::from_raw_os_error)
    }

    /// Asks about a descriptor.
    fn on<T>(
        &self,
        fd: RawFd,
        question: impl FnOnce(&mut Machine, Index) -> Outcome<T>,
    ) -> Outcome<T> {
        self.ask(|machine| {
            let index = machine.numbers.index(fd)?;
            question(machine, index)
        })
    }

    /// Makes descriptors.
    fn make<const N: usize>(
        &self,
        make: impl FnOnce(&mut Machine) -> Outcome<[Index; N]>,
    ) -> io::Result<[Descriptor; N]> {
        let made = self.io(|machine| {
            machine.fate.check(Fault::NoDescriptors, libc::EMFILE)?;
            let made = make(machine)?;
            Ok(made.map(|index| machine.numbers.fd(index)))
        })?;
        // SAFETY: just made, for us.
        Ok(made.map(|fd| unsafe { Descriptor::from_raw(fd) }))
    }
}

fn error<T>(answer: Outcome<T>) -> io::Result<T> {
    answer.map_err(io::Error::from_raw_os_error)
}

/// As a system call's result.
fn result(answer: Outcome<usize>) -> i32 {
    answer.map_or_else(|errno| -errno, |n| i32::try_from(n).unwrap_or(i32::MAX))
}

impl System for Simulator {
    fn socket(&self, domain: Domain, kind: Type) -> io::Result<Descriptor> {
        let [socket] = self.make(|machine| Ok([machine.world.socket(domain, kind)?]))?;
        Ok(socket)
    }

    fn socket_pair(&self, kind: Type) -> io::Result<[Descriptor; 2]> {
        self.make(|machine| machine.world.socket_pair(kind))
    }

    fn bind(&self, socket: RawFd, address: &SockAddr, _reuse: bool) -> io::Result<()> {
        // Nothing keeps an address here once its socket is closed.
        let address = error(Address::of(address))?;
        error(self.on(socket, |machine, index| machine.world.bind(index, address)))
    }

    fn listen(&self, socket: RawFd, backlog: i32) -> io::Result<()> {
        error(self.on(socket, |machine, index| machine.world.listen(index, backlog)))
    }

    fn local_address(&self, socket: RawFd) -> io::Result<SockAddr> {
        error(self.on(socket, |machine, index| machine.world.local_address(index)?.to_system()))
    }

    fn peer_address(&self, socket: RawFd) -> io::Result<SockAddr> {
        error(self.on(socket, |machine, index| machine.world.peer_address(index)?.to_system()))
    }

    fn set_option(&self, socket: RawFd, level: c_int, name: c_int, _value: i32) -> io::Result<()> {
        let tcp = error(self.on(socket, |machine, index| Ok(machine.world.is_tcp(index))))?;
        if tcp && (level, name) == (libc::IPPROTO_TCP, libc::TCP_NODELAY) {
            // What is sent here is never held back.
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated socket has no such option"))
    }

    fn set_blocking(&self, fd: RawFd) -> io::Result<()> {
        error(self.on(fd, |machine, index| machine.world.thing(index).map(|_| ())))
    }

    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host == "localhost" {
            return Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]);
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulation has no names but localhost"))
    }

    fn pipe(&self) -> io::Result<[Descriptor; 2]> {
        self.make(|machine| Ok(machine.world.pipe()))
    }

    fn is_readable(&self, fd: RawFd) -> bool {
        let ready = self.on(fd, |machine, index| machine.world.readiness(index));
        ready.is_ok_and(|ready| ready & libc::POLLIN != 0)
    }

    fn is_regular(&self, fd: RawFd) -> bool {
        self.on(fd, |machine, index| Ok(machine.world.is_regular(index))).unwrap_or(false)
    }

    fn device_size(&self, _: RawFd) -> Option<u64> {
        None
    }

    fn position(&self, fd: RawFd) -> Option<u64> {
        self.on(fd, |machine, index| Ok(machine.world.file(index)?.position)).ok()
    }

    fn close(&self, fd: RawFd) -> i32 {
        result(self.on(fd, |machine, index| machine.world.close(index).map(|()| 0)))
    }

    fn read_directory(&self, directory: RawFd, into: &mut Vec<u8>) -> i32 {
        let before = into.len();
        let listed = self.on(directory, |machine, index| {
            let room = into.capacity() - before;
            machine.world.list(index, |entry| {
                let record = record(entry);
                let fits = into.len() - before + record.len() <= room;
                if fits {
                    into.extend(record);
                }
                fits
            })
        });
        result(listed.map(|()| into.len() - before))
    }

    fn set_mode(&self, at: RawFd, path: Option<&CStr>, mode: u32) -> i32 {
        result(self.ask(|machine| {
            let at = machine.numbers.at(at)?;
            machine.world.set_mode(at, path.map(CStr::to_bytes), mode).map(|()| 0)
        }))
    }

    fn copy_range(&self, from: (RawFd, u64), to: (RawFd, u64), len: usize) -> i32 {
        result(self.ask(|machine| {
            machine.fate.check(Fault::NoSpace, libc::ENOSPC)?;
            let len = machine.fate.cut(Fault::ShortWrite, len);
            let from = (machine.numbers.index(from.0)?, from.1);
            machine.world.copy_range(from, (machine.numbers.index(to.0)?, to.1), len)
        }))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let path = path.as_os_str().as_bytes();
        let target = self.io(|machine| machine.world.read_link(path))?;
        Ok(OsString::from_vec(target).into())
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        let path = path.as_os_str().as_bytes();
        let found = self.io(|machine| machine.world.real_path(path))?;
        Ok(OsString::from_vec(found).into())
    }
}

/// A directory's entry as the kernel gives it.
fn record(entry: &Entry) -> Vec<u8> {
    let length = (NAME + entry.name.len() + 1).next_multiple_of(8);
    let mut record = vec![0; length];
    record[..8].copy_from_slice(&entry.inode.to_ne_bytes());
    // A name has 255 bytes at the most.
    record[LENGTH..TYPE].copy_from_slice(&(length as u16).to_ne_bytes());
    record[TYPE] = match entry.kind {
        Kind::File => libc::DT_REG,
        Kind::Directory => libc::DT_DIR,
        Kind::Link => libc::DT_LNK,
        Kind::Socket => libc::DT_SOCK,
    };
    record[NAME..][..entry.name.len()].copy_from_slice(&entry.name);
    record
}
