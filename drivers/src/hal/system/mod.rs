//! What is asked of the system besides requests: making sockets, binding, options, addresses, the
//! kind of a descriptor, closing on the spot, and what calls on the thread pool do.
//!
//! [`System`] is the contract, in this one place. The kernel meets it with system calls
//! (`kernel.rs`), a simulation with its world (`hal/sim/system.rs`). [`here`] is the calling
//! thread's: what it makes belongs to that world. [`of`] is a descriptor's, told by its number
//! alone: those of simulations begin at `SIMULATED`, where the kernel's do not reach.
//!
//! A descriptor that nobody has made a file object of is a [`Descriptor`], which closes itself in
//! the world it is from.

mod kernel;

use std::ffi::{CStr, c_int};
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

use super::sim::Simulator;
pub(crate) use kernel::Kernel;

/// The least number of a simulated descriptor. The kernel gives the lowest free one, and a table of
/// so many would take more memory than it allows.
pub(crate) const SIMULATED: RawFd = 1 << 30;

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "a simulation does not have this"))
}

/// The contract. What a world does not have answers `Unsupported`; results that are numbers are as a
/// system call's, or a negated errno.
///
/// Descriptors are the caller's, and open; one that is not gives `EBADF`.
pub trait System {
    /// Makes a socket, close-on-exec and blocking.
    ///
    /// # Errors
    /// Those of the system.
    fn socket(&self, domain: Domain, kind: Type) -> io::Result<Descriptor>;

    /// Makes two Unix sockets that are connected with each other.
    ///
    /// # Errors
    /// Those of the system.
    fn socket_pair(&self, kind: Type) -> io::Result<[Descriptor; 2]>;

    /// Gives a socket its address. `reuse`: also one that old connections still have.
    ///
    /// # Errors
    /// Those of the system.
    fn bind(&self, socket: RawFd, address: &SockAddr, reuse: bool) -> io::Result<()>;

    /// Has a socket listen.
    ///
    /// # Errors
    /// Those of the system.
    fn listen(&self, socket: RawFd, backlog: i32) -> io::Result<()>;

    /// The address of a socket.
    ///
    /// # Errors
    /// Those of the system.
    fn local_address(&self, socket: RawFd) -> io::Result<SockAddr>;

    /// The address of the other side.
    ///
    /// # Errors
    /// Those of the system.
    fn peer_address(&self, socket: RawFd) -> io::Result<SockAddr>;

    /// Who is at the other end of a Unix socket: process, user, group.
    ///
    /// # Errors
    /// Those of the system.
    fn peer_credentials(&self, socket: RawFd) -> io::Result<(i32, u32, u32)> {
        let _ = socket;
        unsupported()
    }

    /// Sets an option that is a number.
    ///
    /// # Errors
    /// Those of the system.
    fn set_option(&self, socket: RawFd, level: c_int, name: c_int, value: i32) -> io::Result<()>;

    /// An option that is a number.
    ///
    /// # Errors
    /// Those of the system.
    fn option(&self, socket: RawFd, level: c_int, name: c_int) -> io::Result<i32> {
        let _ = (socket, level, name);
        unsupported()
    }

    /// Makes the open file a blocking one, which is the hardware's convention: io_uring waits in the
    /// kernel only then.
    ///
    /// # Errors
    /// Those of the system.
    fn set_blocking(&self, fd: RawFd) -> io::Result<()>;

    /// The addresses behind a name. Blocks.
    ///
    /// # Errors
    /// Those of the look-up.
    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// Makes a pipe: the end that is read, the end that is written.
    ///
    /// # Errors
    /// Those of the system.
    fn pipe(&self) -> io::Result<[Descriptor; 2]>;

    /// Opens an end of a FIFO without waiting for the other one.
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` when the path names no FIFO.
    fn open_fifo(&self, path: &Path, write: bool) -> io::Result<Descriptor> {
        let _ = (path, write);
        unsupported()
    }

    /// Makes a counter (`eventfd`).
    ///
    /// # Errors
    /// Those of the system.
    fn event(&self, value: u32, flags: c_int) -> io::Result<Descriptor> {
        let _ = (value, flags);
        unsupported()
    }

    /// Makes a timer (`timerfd`) that goes by a clock.
    ///
    /// # Errors
    /// Those of the system.
    fn timer(&self, clock: c_int) -> io::Result<Descriptor> {
        let _ = clock;
        unsupported()
    }

    /// Sets such a timer.
    ///
    /// # Errors
    /// Those of the system.
    fn set_timer(&self, timer: RawFd, to: &libc::itimerspec) -> io::Result<()> {
        let _ = (timer, to);
        unsupported()
    }

    /// A descriptor of the kernel's for the same open file, for others to use.
    ///
    /// # Errors
    /// Those of the system.
    fn duplicate(&self, fd: RawFd) -> io::Result<OwnedFd> {
        let _ = fd;
        unsupported()
    }

    /// Whether the descriptor is readable at this moment.
    fn is_readable(&self, fd: RawFd) -> bool;

    /// Whether it is a regular file's.
    fn is_regular(&self, fd: RawFd) -> bool;

    /// Bytes of a block device; `None` of what is none.
    fn device_size(&self, fd: RawFd) -> Option<u64>;

    /// The system's own position in an open file; `None` of what has none, a pipe or a terminal.
    fn position(&self, fd: RawFd) -> Option<u64>;

    /// Closes a descriptor that nobody else uses.
    fn close(&self, fd: RawFd) -> i32;

    /// Reads the next entries of an open directory, as in `getdents64`, into the buffer's capacity.
    fn read_directory(&self, directory: RawFd, into: &mut Vec<u8>) -> i32;

    /// Sets the permission bits of a path's file, relative to the directory `at`, or of `at` itself.
    fn set_mode(&self, at: RawFd, path: Option<&CStr>, mode: u32) -> i32;

    /// Copies bytes between files, each given with an offset.
    fn copy_range(&self, from: (RawFd, u64), to: (RawFd, u64), len: usize) -> i32;

    /// What a symbolic link stands for.
    ///
    /// # Errors
    /// Those of the system.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;

    /// A path without links, `.` and `..`.
    ///
    /// # Errors
    /// Those of the system.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;
}

/// One of the worlds there are, as the contract.
#[derive(Debug)]
pub struct World(Which);

#[derive(Debug)]
enum Which {
    Kernel(Kernel),
    Simulated(Simulator),
}

impl Deref for World {
    type Target = dyn System;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Which::Kernel(kernel) => kernel,
            Which::Simulated(simulator) => simulator,
        }
    }
}

/// The calling thread's world: that of the simulation it is in, else the kernel.
pub fn here() -> World {
    World(Simulator::current().map_or(Which::Kernel(Kernel), Which::Simulated))
}

/// Whether the calling thread is a simulated machine's: there are no other threads then.
#[cfg(feature = "luks")]
pub(crate) fn is_simulated() -> bool {
    Simulator::current().is_some()
}

/// The world that the descriptor is from. One of a simulation that is over, or another thread's, is
/// nobody's: the kernel says so.
#[inline]
pub fn of(fd: RawFd) -> World {
    World(if fd < SIMULATED { Which::Kernel(Kernel) } else { simulated(fd) })
}

#[cold]
fn simulated(fd: RawFd) -> Which {
    match Simulator::current() {
        Some(simulator) if simulator.has_made(fd) => Which::Simulated(simulator),
        _ => Which::Kernel(Kernel),
    }
}

/// An open descriptor of any world. Dropping it closes it there.
#[derive(Debug)]
pub struct Descriptor(RawFd);

impl Descriptor {
    /// Takes a descriptor over.
    ///
    /// # Safety
    /// It is open, and the caller's to give away.
    pub unsafe fn from_raw(fd: RawFd) -> Descriptor {
        Descriptor(fd)
    }

    /// Its number.
    pub fn as_raw(&self) -> RawFd {
        self.0
    }

    /// Gives the descriptor up: the caller closes it.
    pub fn into_raw(self) -> RawFd {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }

    /// Whether it is from the calling thread's world, whose hardware can use it.
    pub fn is_from_here(&self) -> bool {
        let simulated = self.0 >= SIMULATED;
        match Simulator::current() {
            Some(simulator) => simulated && simulator.has_made(self.0),
            None => !simulated,
        }
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Descriptor {
        Descriptor(fd.into_raw_fd())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        of(self.0).close(self.0);
    }
}
