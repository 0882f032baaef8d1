//! What all echo servers share: the command line, the end by a signal, the last line.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::allocations::allocations;

/// Buffers of a pool. With fewer than the connections that are ready at a time, receives find it
/// empty, which costs small messages more (a sixth, with 16) than the cache gains with large ones.
const POOL: u16 = 256;

/// The command line of an echo server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which one.
    pub runtime: String,
    /// Address to listen at.
    pub listen: String,
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
        let (runtime, listen) = (String::new(), String::new());
        let mut options = Options { runtime, listen, workers: 1, buffer: None, pool: POOL };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => options.runtime = parser.value()?.string()?,
                Long("listen") => options.listen = parser.value()?.string()?,
                Long("workers") => options.workers = parser.value()?.parse()?,
                Long("buf") => options.buffer = Some(parser.value()?.parse()?),
                Long("pool") => options.pool = parser.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        if options.listen.is_empty() || options.buffer == Some(0) || options.workers == 0 {
            return Err("--listen is missing, or --buf or --workers is 0".into());
        }
        Ok(options)
    }

    /// Listens, and prints the first line.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(&self.listen)?;
        // SAFETY: only makes the backlog longer than the one that `bind` has set.
        unsafe { libc::listen(listener.as_raw_fd(), 4096) };
        println!("listening {}", listener.local_addr()?);
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

/// What a server has done, for its last line.
#[derive(Debug, Default)]
pub struct Totals {
    connections: AtomicU64,
    bytes: AtomicU64,
    requests: AtomicU64,
    /// Requests and allocations when the second half of the requests began: the steady state.
    mark: AtomicU64,
    mark_allocations: AtomicU64,
}

impl Totals {
    /// Counts a connection.
    pub fn connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts requests and the bytes they have received.
    pub fn count(&self, bytes: usize, requests: u64) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = self.requests.fetch_add(requests, Ordering::Relaxed) + requests;
        self.steady(now);
    }

    /// The same for a server of one thread, which needs no locked instructions.
    pub fn count_alone(&self, bytes: usize, requests: u64) {
        let bytes = self.bytes.load(Ordering::Relaxed) + bytes as u64;
        self.bytes.store(bytes, Ordering::Relaxed);
        let now = self.requests.load(Ordering::Relaxed) + requests;
        self.requests.store(now, Ordering::Relaxed);
        self.steady(now);
    }

    fn steady(&self, now: u64) {
        // Whenever the number has doubled, the steady state is counted from here on.
        if now > 1024.max(self.mark.load(Ordering::Relaxed) * 2) {
            self.mark.store(now, Ordering::Relaxed);
            self.mark_allocations.store(allocations(), Ordering::Relaxed);
        }
    }

    /// Prints the last line.
    pub fn print(&self) {
        let requests = self.requests.load(Ordering::Relaxed);
        let steady = requests - self.mark.load(Ordering::Relaxed);
        let allocated = allocations() - self.mark_allocations.load(Ordering::Relaxed);
        println!(
            "{}",
            serde_json::json!({
                "connections": self.connections.load(Ordering::Relaxed),
                "bytes": self.bytes.load(Ordering::Relaxed),
                "requests": requests,
                "allocations_per_request": allocated as f64 / steady.max(1) as f64,
            })
        );
    }
}
