//! The contract as system calls.
//!
//! **Invariant.** A call borrows a descriptor for its own time only, and the caller keeps it open so
//! long ([`System`]); memory that a call fills is the call's own or the caller's `&mut`.

use std::ffi::{CStr, c_int};
use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{Descriptor, System};
use crate::hal::generation;
use crate::hal::pool::{self, again};

/// The kernel this process runs on.
#[derive(Debug)]
pub(crate) struct Kernel;

/// Runs something on a socket that is the caller's.
fn on<T>(socket: RawFd, run: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
    if socket < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: not −1, and open as long as the call takes (module invariant).
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket) };
    run(SockRef::from(&borrowed))
}

/// Checks a system call that makes a descriptor.
fn made(fd: c_int) -> io::Result<Descriptor> {
    // SAFETY: the system has just made it for us.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { Descriptor::from_raw(fd) }) }
}

impl System for Kernel {
    fn socket(&self, domain: Domain, kind: Type) -> io::Result<Descriptor> {
        Ok(OwnedFd::from(Socket::new(domain, kind, None)?).into())
    }

    fn socket_pair(&self, kind: Type) -> io::Result<[Descriptor; 2]> {
        let (a, b) = Socket::pair(Domain::UNIX, kind, None)?;
        Ok([a, b].map(|socket| OwnedFd::from(socket).into()))
    }

    fn bind(&self, socket: RawFd, address: &SockAddr, reuse: bool) -> io::Result<()> {
        on(socket, |socket| {
            if reuse {
                socket.set_reuse_address(true)?;
            }
            socket.bind(address)
        })
    }

    fn listen(&self, socket: RawFd, backlog: i32) -> io::Result<()> {
        on(socket, |socket| socket.listen(backlog))
    }

    fn local_address(&self, socket: RawFd) -> io::Result<SockAddr> {
        on(socket, |socket| socket.local_addr())
    }

    fn peer_address(&self, socket: RawFd) -> io::Result<SockAddr> {
        on(socket, |socket| socket.peer_addr())
    }

    fn peer_credentials(&self, socket: RawFd) -> io::Result<(i32, u32, u32)> {
        let nobody = libc::ucred { pid: 0, uid: 0, gid: 0 };
        // SAFETY: the option is of that type, which is plain numbers.
        let found = unsafe { option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, nobody) }?;
        Ok((found.pid, found.uid, found.gid))
    }

    fn option(&self, socket: RawFd, level: c_int, name: c_int) -> io::Result<i32> {
        // SAFETY: any bytes are a number.
        unsafe { option(socket, level, name, 0) }
    }

    fn set_option(&self, socket: RawFd, level: c_int, name: c_int, value: i32) -> io::Result<()> {
        let len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the value lives through the call and has the size the call is told.
        let set = unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), len) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set_blocking(&self, fd: RawFd) -> io::Result<()> {
        on(fd, |fd| fd.set_nonblocking(false))
    }

    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn pipe(&self) -> io::Result<[Descriptor; 2]> {
        let (reader, writer) = io::pipe()?;
        Ok([OwnedFd::from(reader).into(), OwnedFd::from(writer).into()])
    }

    fn open_fifo(&self, path: &Path, write: bool) -> io::Result<Descriptor> {
        let mut options = OpenOptions::new();
        let options = options.read(!write).write(write).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no FIFO"));
        }
        Ok(OwnedFd::from(file).into())
    }

    fn event(&self, value: u32, flags: c_int) -> io::Result<Descriptor> {
        // SAFETY: numbers only.
        made(unsafe { libc::eventfd(value, flags | libc::EFD_CLOEXEC) })
    }

    fn timer(&self, clock: c_int) -> io::Result<Descriptor> {
        // SAFETY: numbers only.
        made(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) })
    }

    fn set_timer(&self, timer: RawFd, to: &libc::itimerspec) -> io::Result<()> {
        // SAFETY: the new value lives through the call, and the old one is not asked for.
        let set = unsafe { libc::timerfd_settime(timer, 0, to, std::ptr::null_mut()) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn duplicate(&self, fd: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: numbers only.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if own < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system has just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(own) })
    }

    fn is_readable(&self, fd: RawFd) -> bool {
        pool::poll(fd, libc::POLLIN, 0) > 0
    }

    fn is_regular(&self, fd: RawFd) -> bool {
        // SAFETY: `stat` is plain numbers, and the call only fills it.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            libc::fstat(fd, &mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG
        }
    }

    fn device_size(&self, fd: RawFd) -> Option<u64> {
        let size = libc::_IOR::<usize>(0x12, 114); // BLKGETSIZE64
        let mut bytes = 0u64;
        // SAFETY: the call fills 64 bits, whatever the size of `usize` in its number, which live as long.
        let got = unsafe { libc::ioctl(fd, size, &raw mut bytes) };
        (got == 0).then_some(bytes)
    }

    fn position(&self, fd: RawFd) -> Option<u64> {
        // SAFETY: takes no memory, and changes nothing.
        u64::try_from(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }).ok()
    }

    fn close(&self, fd: RawFd) -> i32 {
        generation::note_close(fd);
        // SAFETY: the caller owns the descriptor and forgets it.
        let result = unsafe { libc::close(fd) };
        // Never to be repeated: the descriptor is gone whatever it says.
        if result == 0 { 0 } else { -pool::errno() }
    }

    fn read_directory(&self, directory: RawFd, into: &mut Vec<u8>) -> i32 {
        let room = into.spare_capacity_mut();
        // SAFETY: the kernel fills at most `room.len()` bytes of it.
        let n = again(|| unsafe {
            libc::syscall(libc::SYS_getdents64, directory, room.as_mut_ptr(), room.len()) as isize
        });
        if n > 0 {
            // SAFETY: filled just now, from the end on.
            unsafe { into.set_len(into.len() + n as usize) };
        }
        n
    }

    fn set_mode(&self, at: RawFd, path: Option<&CStr>, mode: u32) -> i32 {
        again(|| match path {
            // SAFETY: the path ends with a NUL.
            Some(path) => unsafe { libc::fchmodat(at, path.as_ptr(), mode, 0) as isize },
            // SAFETY: a descriptor and a number.
            None => unsafe { libc::fchmod(at, mode) as isize },
        })
    }

    fn copy_range(&self, from: (RawFd, u64), to: (RawFd, u64), len: usize) -> i32 {
        let (mut source, mut target) = (from.1 as i64, to.1 as i64);
        again(|| {
            // SAFETY: descriptors, and offsets that live through the call.
            unsafe { libc::copy_file_range(from.0, &raw mut source, to.0, &raw mut target, len, 0) }
        })
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::read_link(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }
}

/// An option of a socket's; what the system does not fill of it stays as it is.
///
/// # Safety
/// What the system gives for the option is a value of the type.
unsafe fn option<T: Copy>(socket: RawFd, level: c_int, name: c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: value and length live through the call, which is told the size.
    let got =
        unsafe { libc::getsockopt(socket, level, name, (&raw mut value).cast(), &raw mut len) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
