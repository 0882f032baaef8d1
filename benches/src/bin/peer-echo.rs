//! The echo servers that are not ours: bare io_uring loops, and tokio.
//!
//! `peer-echo --runtime raw|raw-pooled|tokio|tokio-mt --listen ADDR [--workers N]`

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, cqueue, opcode, types};
use lexopt::prelude::*;
use overlapped_benches::ring;

/// Bytes of a connection's buffer, as in our own server.
const BUFFER: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let (mut runtime, mut listen, mut workers) = (String::new(), String::new(), 1);
    let mut parser = lexopt::Parser::from_env();
    let mut read = || -> Result<(), lexopt::Error> {
        while let Some(argument) = parser.next()? {
            match argument {
                Long("runtime") => runtime = parser.value()?.string()?,
                Long("listen") => listen = parser.value()?.string()?,
                Long("workers") => workers = parser.value()?.parse()?,
                other => return Err(other.unexpected()),
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        eprintln!("{error}");
        std::process::exit(2);
    }
    let listener = TcpListener::bind(&listen)?;
    println!("listening {}", listener.local_addr()?);
    io::stdout().flush()?;
    match runtime.as_str() {
        "raw" => Bare::new(listener, None)?.run(),
        "raw-pooled" => {
            let mut ring = ring::new(1024)?;
            let pool = Pool::new(&mut ring)?;
            Bare::with_ring(listener, ring, Some(pool)).run()
        }
        "tokio" => tokio_echo(listener, tokio::runtime::Builder::new_current_thread()),
        "tokio-mt" => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            tokio_echo(listener, builder)
        }
        _ => Err(io::Error::other("--runtime: expected raw, raw-pooled, tokio or tokio-mt")),
    }
}

fn tokio_echo(listener: TcpListener, mut builder: tokio::runtime::Builder) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    listener.set_nonblocking(true)?;
    builder.enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        // A task, so that the multi-thread flavour accepts on a worker.
        let accept = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(async move {
                    let mut buffer = vec![0; BUFFER];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            io::Result::Ok(())
        });
        accept.await?
    })
}

const ACCEPT: u64 = u64::MAX;

/// Buffers that the kernel chooses from when data is there.
struct Pool {
    memory: Box<[u8]>,
    entries: *mut types::BufRingEntry,
    tail: u16,
}

/// A power of two.
const POOL: u16 = 1024;

impl Pool {
    fn new(ring: &mut IoUring) -> io::Result<Pool> {
        let memory = vec![0; usize::from(POOL) * BUFFER].into_boxed_slice();
        let layout = std::alloc::Layout::from_size_align(16 * usize::from(POOL), 4096)
            .expect("a small layout");
        // SAFETY: the size is not zero. Never freed: it lives as long as the process.
        let entries = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<types::BufRingEntry>();
        // SAFETY: page-aligned, zeroed, `POOL` entries, never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, POOL, 0, 0)? };
        let mut pool = Pool { memory, entries, tail: 0 };
        (0..POOL).for_each(|id| pool.give(id));
        Ok(pool)
    }

    fn address(&mut self, id: u16) -> *mut u8 {
        self.memory[usize::from(id) * BUFFER..].as_mut_ptr()
    }

    fn give(&mut self, id: u16) {
        let address = self.address(id);
        // SAFETY: entries at and behind the tail are ours; the tail lies in the first entry.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & (POOL - 1)));
            entry.set_addr(address as u64);
            entry.set_len(BUFFER as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(self.entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

struct Connection {
    fd: OwnedFd,
    /// The connection's own buffer; empty with a pool.
    buffer: Vec<u8>,
    /// The pool's buffer being sent.
    lent: u16,
    len: usize,
    sent: usize,
}

/// The loop: one receive or one send in flight per connection.
struct Bare {
    listener: TcpListener,
    ring: IoUring,
    pool: Option<Pool>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

impl Bare {
    fn new(listener: TcpListener, pool: Option<Pool>) -> io::Result<Bare> {
        Ok(Self::with_ring(listener, ring::new(1024)?, pool))
    }

    fn with_ring(listener: TcpListener, ring: IoUring, pool: Option<Pool>) -> Bare {
        Bare { listener, ring, pool, connections: Vec::new(), free: Vec::new() }
    }

    fn accept(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.listener.as_raw_fd());
        // SAFETY: the entry names no memory.
        unsafe {
            ring::push(&mut self.ring, &opcode::AcceptMulti::new(fd).build().user_data(ACCEPT))
        }
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        let fd = types::Fd(connection.fd.as_raw_fd());
        let entry = if self.pool.is_some() {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(0)
                .build()
                .flags(io_uring::squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::Recv::new(fd, connection.buffer.as_mut_ptr(), BUFFER as u32).build()
        };
        // SAFETY: the buffer stays with the connection until the completion.
        unsafe { ring::push(&mut self.ring, &entry.user_data((index as u64) << 1)) }
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        let start = match &mut self.pool {
            Some(pool) => pool.address(connection.lent),
            None => connection.buffer.as_mut_ptr(),
        };
        let rest = (connection.len - connection.sent) as u32;
        let fd = types::Fd(connection.fd.as_raw_fd());
        // SAFETY: `sent` is below `len`, which is inside the buffer.
        let entry = opcode::Send::new(fd, unsafe { start.add(connection.sent) }, rest)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the buffer stays with the connection, or out of the pool, until the completion.
        unsafe { ring::push(&mut self.ring, &entry.user_data((index as u64) << 1 | 1)) }
    }

    fn connected(&mut self, fd: i32) -> io::Result<()> {
        // SAFETY: the kernel has just given us the descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let one = 1i32;
        // SAFETY: the option's value is an int that lives for the call.
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                (&raw const one).cast(),
                size_of_val(&one) as u32,
            )
        };
        let buffer = if self.pool.is_some() { Vec::new() } else { vec![0; BUFFER] };
        let connection = Connection { fd, buffer, lent: 0, len: 0, sent: 0 };
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[index] = Some(connection);
        self.receive(index)
    }

    fn run(mut self) -> io::Result<()> {
        self.accept()?;
        let mut batch = Vec::with_capacity(4096);
        loop {
            ring::turn(&mut self.ring, &mut batch)?;
            for &(data, result, flags) in &batch {
                if data == ACCEPT {
                    if result >= 0 {
                        self.connected(result)?;
                    }
                    if !cqueue::more(flags) {
                        self.accept()?;
                    }
                    continue;
                }
                let (index, sent) = ((data >> 1) as usize, data & 1 == 1);
                if result == -libc::ENOBUFS {
                    self.receive(index)?;
                    continue;
                }
                let connection = self.connections[index].as_mut().expect("live");
                if result <= 0 {
                    if let (Some(pool), Some(id)) = (&mut self.pool, cqueue::buffer_select(flags)) {
                        pool.give(id);
                    }
                    self.connections[index] = None;
                    self.free.push(index);
                } else if !sent {
                    (connection.len, connection.sent) = (result as usize, 0);
                    connection.lent = cqueue::buffer_select(flags).unwrap_or(0);
                    self.send(index)?;
                } else {
                    connection.sent += result as usize;
                    let (done, lent) = (connection.sent == connection.len, connection.lent);
                    if !done {
                        self.send(index)?;
                        continue;
                    }
                    if let Some(pool) = &mut self.pool {
                        pool.give(lent);
                    }
                    self.receive(index)?;
                }
            }
        }
    }
}
