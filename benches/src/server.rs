//! What all echo servers share: the command line, the end by a signal, the last line (the same as
//! our own).

use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

pub use overlapped_examples::Totals;

use crate::address::{Address, Listener};

/// Buffers of a pool. With fewer than the connections that are ready at a time, receives find it
/// empty, which costs small messages more (a sixth, with 16) than the cache gains with large ones.
const POOL: u16 = 256;

/// The command line of an echo server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which one.
    pub runtime: String,
    /// Address to listen at.
    pub listen: Address,
    /// Threads, where the runtime has several.
    pub workers: usize,
    /// Bytes of a buffer; `None`: the runtime's own default.
    pub buffer: Option<usize>,
    /// Buffers of a pool.
    pub pool: u16,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// For what is not in it, or missing.
    pub fn from_args() -> Result<Options, lexopt::Error> {
        use lexopt::prelude::*;
        let (mut runtime, mut listen) = (String::new(), None);
        let (mut workers, mut buffer, mut pool) = (1, None, POOL);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => runtime = parser.value()?.string()?,
                Long("listen") => listen = Some(parser.value()?.parse()?),
                Long("workers") => workers = parser.value()?.parse()?,
                Long("buf") => buffer = Some(parser.value()?.parse()?),
                Long("pool") => pool = parser.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        let listen = listen.ok_or("--listen is missing")?;
        if buffer == Some(0) || workers == 0 {
            return Err("--buf or --workers is 0".into());
        }
        Ok(Options { runtime, listen, workers, buffer, pool })
    }

    /// Listens, and prints the first line.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(&self) -> io::Result<Listener> {
        let listener = self.listen.bind()?;
        println!("listening {}", listener.address()?);
        io::stdout().flush()?;
        Ok(listener)
    }
}

/// Blocks SIGINT and SIGTERM, and gives a descriptor that is readable when one has come. Called
/// before any thread is started.
///
/// # Errors
/// Those of the system calls.
pub fn stop_signal() -> io::Result<OwnedFd> {
    // SAFETY: the set is plain bits and lives here; the descriptor that comes back is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Prints the totals and ends the process when the signal comes: for contestants whose loop has no
/// way to watch a descriptor of ours. The thread sleeps until then.
///
/// # Errors
/// When the thread cannot be started.
pub fn end_at(stop: OwnedFd, totals: Arc<Totals>) -> io::Result<()> {
    let wait = move || {
        let mut poll = libc::pollfd { fd: stop.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the entry lives for the call.
        while unsafe { libc::poll(&mut poll, 1, -1) } < 1 {}
        totals.print();
        std::process::exit(0);
    };
    std::thread::Builder::new().spawn(wait).map(drop)
}

/// Switches Nagle's algorithm off.
pub fn set_nodelay(socket: &impl AsRawFd) {
    let one = 1i32;
    // SAFETY: the option's value is an int that lives for the call. A socket that is broken
    // already says so at the next operation.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            size_of_val(&one) as u32,
        )
    };
}
