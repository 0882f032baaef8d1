//! The bare loop that does the operations of a runtime with owned buffers: accept, receive into the
//! connection's own buffer, send, one operation in flight a connection.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use io_uring::{opcode, types};
use overlapped_benches::ring::{Done, Ring};
use overlapped_benches::server::{Totals, set_nodelay};

const ACCEPT: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

struct Connection {
    fd: OwnedFd,
    buffer: Vec<u8>,
    len: usize,
    sent: usize,
}

struct Server<'a> {
    listener: TcpListener,
    totals: &'a Totals,
    size: usize,
    ring: Ring,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

/// Serves until the signal.
pub fn run(listener: TcpListener, stop: &OwnedFd, totals: &Totals, size: usize) -> io::Result<()> {
    let (connections, free) = (Vec::new(), Vec::new());
    let ring = Ring::new(1024)?;
    // Never freed: what is in flight at the end may still be written to.
    let server = Box::leak(Box::new(Server { listener, totals, size, ring, connections, free }));
    let poll = opcode::PollAdd::new(types::Fd(stop.as_raw_fd()), libc::POLLIN as u32);
    // SAFETY: the entry names no memory.
    unsafe { server.ring.push(&poll.build().user_data(STOP))? };
    server.accept()?;
    let mut batch = Vec::with_capacity(8192);
    loop {
        server.ring.turn(true, &mut batch)?;
        for &done in &batch {
            match done.data {
                STOP => return Ok(()),
                ACCEPT => server.accepted(done.result)?,
                _ => server.step(done)?,
            }
        }
    }
}

impl Server<'_> {
    fn accept(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, null_mut(), null_mut()).flags(libc::SOCK_CLOEXEC);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(&entry.build().user_data(ACCEPT)) }
    }

    fn accepted(&mut self, result: i32) -> io::Result<()> {
        if result < 0 && result != -libc::ECONNABORTED {
            return Err(io::Error::from_raw_os_error(-result));
        }
        if result >= 0 {
            // SAFETY: the kernel has just given us the descriptor.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            set_nodelay(&fd);
            self.totals.connection();
            let connection = Connection { fd, buffer: vec![0; self.size], len: 0, sent: 0 };
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.connections[index] = Some(connection);
            self.receive(index)?;
        }
        self.accept()
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        let fd = types::Fd(connection.fd.as_raw_fd());
        let buffer = &mut connection.buffer;
        let entry = opcode::Recv::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).build();
        // SAFETY: the buffer stays with the connection until the completion.
        unsafe { self.ring.push(&entry.user_data((index as u64) << 1)) }
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        let fd = types::Fd(connection.fd.as_raw_fd());
        let rest = &connection.buffer[connection.sent..connection.len];
        let entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the buffer stays with the connection until the completion.
        unsafe { self.ring.push(&entry.user_data((index as u64) << 1 | 1)) }
    }

    fn step(&mut self, done: Done) -> io::Result<()> {
        let (index, is_send) = ((done.data >> 1) as usize, done.data & 1 == 1);
        if done.result <= 0 {
            self.connections[index] = None;
            self.free.push(index);
            return Ok(());
        }
        let connection = self.connections[index].as_mut().expect("live");
        if !is_send {
            (connection.len, connection.sent) = (done.result as usize, 0);
            return self.send(index);
        }
        connection.sent += done.result as usize;
        if connection.sent < connection.len {
            return self.send(index);
        }
        self.totals.count_alone(connection.len, 2);
        self.receive(index)
    }
}
