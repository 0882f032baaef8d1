//! Multishot accept and receive, a pool of provided buffers, one send in flight a connection: the
//! best loop found for large messages.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::{cqueue, opcode, types};
use overlapped_benches::pool::{GROUP, Pool};
use overlapped_benches::ring::{Done, Ring};
use overlapped_benches::server::{Totals, set_nodelay};

const ACCEPT: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

struct Connection {
    fd: OwnedFd,
    /// Buffers received and not yet sent, in order: number and length.
    queue: VecDeque<(u16, usize)>,
    /// Bytes of the first one that are sent.
    sent: usize,
    is_receiving: bool,
    is_sending: bool,
    /// Waits for a buffer before it receives again.
    is_starved: bool,
    /// Nothing more will come.
    is_ended: bool,
}

struct Server<'a> {
    listener: TcpListener,
    totals: &'a Totals,
    ring: Ring,
    pool: Pool,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that found the pool empty, first come first served.
    starved: VecDeque<usize>,
}

/// Serves until the signal.
pub fn run(
    listener: TcpListener,
    stop: &OwnedFd,
    totals: &Totals,
    count: u16,
    size: usize,
) -> io::Result<()> {
    let ring = Ring::new(1024)?;
    let pool = Pool::new(&ring, count, size)?;
    let (connections, free, starved) = (Vec::new(), Vec::new(), VecDeque::new());
    // Never freed: what is in flight at the end may still be written to.
    let server =
        Box::leak(Box::new(Server { listener, totals, ring, pool, connections, free, starved }));
    let poll = opcode::PollAdd::new(types::Fd(stop.as_raw_fd()), libc::POLLIN as u32);
    // SAFETY: the entry names no memory.
    unsafe { server.ring.push(&poll.build().user_data(STOP))? };
    server.accept()?;
    let mut batch = Vec::with_capacity(8192);
    loop {
        // With free buffers and somebody waiting for one, somebody can go on at once.
        let wait = server.starved.is_empty() || server.pool.free() == 0;
        server.ring.turn(wait, &mut batch)?;
        for &done in &batch {
            match done.data {
                STOP => return Ok(()),
                ACCEPT => server.accepted(done)?,
                data if data & 1 == 0 => server.received((data >> 1) as usize, done)?,
                data => server.sent((data >> 1) as usize, done.result)?,
            }
        }
        server.feed()?;
    }
}

impl Server<'_> {
    fn accept(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(&entry.user_data(ACCEPT)) }
    }

    fn accepted(&mut self, done: Done) -> io::Result<()> {
        if done.result < 0 && done.result != -libc::ECONNABORTED {
            return Err(io::Error::from_raw_os_error(-done.result));
        }
        if done.result >= 0 {
            // SAFETY: the kernel has just given us the descriptor.
            let fd = unsafe { OwnedFd::from_raw_fd(done.result) };
            set_nodelay(&fd);
            self.totals.connection();
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.connections[index] = Some(Connection {
                fd,
                queue: VecDeque::with_capacity(4),
                sent: 0,
                is_receiving: false,
                is_sending: false,
                is_starved: false,
                is_ended: false,
            });
            self.receive(index)?;
        }
        if cqueue::more(done.flags) { Ok(()) } else { self.accept() }
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        connection.is_receiving = true;
        let fd = types::Fd(connection.fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build().user_data((index as u64) << 1);
        // SAFETY: the memory is the pool's.
        unsafe { self.ring.push(&entry) }
    }

    fn received(&mut self, index: usize, done: Done) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live until its last completion");
        connection.is_receiving = cqueue::more(done.flags);
        if let Some(id) = cqueue::buffer_select(done.flags) {
            self.pool.taken();
            if done.result > 0 && !connection.is_ended {
                connection.queue.push_back((id, done.result as usize));
            } else {
                self.pool.give(id);
            }
        }
        if done.result == -libc::ENOBUFS {
            connection.is_starved = true;
            self.starved.push_back(index);
        } else if done.result <= 0 {
            connection.is_ended = true;
        }
        let again = !connection.is_receiving && !connection.is_starved && !connection.is_ended;
        if !connection.is_sending && !connection.queue.is_empty() {
            self.send(index)?;
        }
        if again { self.receive(index) } else { self.settle(index) }
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live");
        let &(id, len) = connection.queue.front().expect("something to send");
        connection.is_sending = true;
        let rest = &self.pool.get(id)[connection.sent..len];
        let fd = types::Fd(connection.fd.as_raw_fd());
        let entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the buffer is not given back before the completion.
        unsafe { self.ring.push(&entry.user_data((index as u64) << 1 | 1)) }
    }

    fn sent(&mut self, index: usize, result: i32) -> io::Result<()> {
        let connection = self.connections[index].as_mut().expect("live until its last completion");
        connection.is_sending = false;
        if result <= 0 {
            connection.queue.drain(..).for_each(|(id, _)| self.pool.give(id));
            connection.is_ended = true;
            // SAFETY: ends the receive of a descriptor that we own.
            unsafe { libc::shutdown(connection.fd.as_raw_fd(), libc::SHUT_RDWR) };
            return self.settle(index);
        }
        connection.sent += result as usize;
        let &(id, len) = connection.queue.front().expect("what was being sent");
        if connection.sent == len {
            connection.queue.pop_front();
            connection.sent = 0;
            self.pool.give(id);
            self.totals.count_alone(len, 2);
        }
        if connection.queue.is_empty() { self.settle(index) } else { self.send(index) }
    }

    /// Closes a connection that has ended and has nothing in flight.
    fn settle(&mut self, index: usize) -> io::Result<()> {
        let connection = self.connections[index].as_ref().expect("live");
        let is_idle = !connection.is_receiving && !connection.is_sending && !connection.is_starved;
        if connection.is_ended && is_idle {
            self.connections[index] = None;
            self.free.push(index);
        }
        Ok(())
    }

    /// Lets as many starved connections receive as there are buffers for.
    fn feed(&mut self) -> io::Result<()> {
        for _ in 0..self.pool.free().min(self.starved.len()) {
            let index = self.starved.pop_front().expect("counted");
            let connection = self.connections[index].as_mut().expect("starved ones stay");
            connection.is_starved = false;
            if connection.is_ended {
                self.settle(index)?;
            } else {
                self.receive(index)?;
            }
        }
        Ok(())
    }
}
