//! A bare loop on epoll, level-triggered: receive, send at once, and wait for room only when the
//! socket has none.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use overlapped_benches::server::{Totals, set_nodelay};

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

struct Connection {
    fd: OwnedFd,
    buffer: Vec<u8>,
    len: usize,
    sent: usize,
}

struct Server<'a> {
    set: OwnedFd,
    listener: TcpListener,
    totals: &'a Totals,
    size: usize,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Serves until the signal.
pub fn run(listener: TcpListener, stop: &OwnedFd, totals: &Totals, size: usize) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // SAFETY: the descriptor that comes back is ours.
    let set = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let (connections, free) = (Vec::new(), Vec::new());
    let mut server = Server { set, listener, totals, size, connections, free };
    server.watch(libc::EPOLL_CTL_ADD, server.listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
    server.watch(libc::EPOLL_CTL_ADD, stop.as_raw_fd(), libc::EPOLLIN, STOP)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 1024];
    loop {
        // SAFETY: the events live here, and the length is theirs.
        let n = unsafe {
            let start = events.as_mut_ptr();
            libc::epoll_wait(server.set.as_raw_fd(), start, events.len() as i32, -1)
        };
        let n = match check(n) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            n => n?,
        };
        for event in &events[..n as usize] {
            match event.u64 {
                STOP => return Ok(()),
                LISTENER => server.accept()?,
                index => server.step(index as usize, event.events)?,
            }
        }
    }
}

impl Server<'_> {
    fn watch(&self, how: i32, fd: RawFd, what: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: what as u32, u64: data };
        // SAFETY: the event lives for the call.
        check(unsafe { libc::epoll_ctl(self.set.as_raw_fd(), how, fd, &mut event) }).map(drop)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            let fd = OwnedFd::from(stream);
            set_nodelay(&fd);
            self.totals.connection();
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.watch(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), libc::EPOLLIN, index as u64)?;
            let buffer = vec![0; self.size];
            self.connections[index] = Some(Connection { fd, buffer, len: 0, sent: 0 });
        }
    }

    fn step(&mut self, index: usize, events: u32) -> io::Result<()> {
        let Some(connection) = self.connections[index].as_mut() else { return Ok(()) };
        let fd = connection.fd.as_raw_fd();
        let was_full = connection.sent < connection.len;
        let result = if was_full && events & libc::EPOLLOUT as u32 != 0 {
            connection.send()
        } else {
            connection.receive().and_then(|()| connection.send())
        };
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                // Closing takes it out of the set.
                self.connections[index] = None;
                self.free.push(index);
                return Ok(());
            }
        }
        let is_full = connection.sent < connection.len;
        if !is_full && connection.len > 0 {
            self.totals.count_alone(connection.len, 2);
            (connection.len, connection.sent) = (0, 0);
        }
        if is_full != was_full {
            let what = if is_full { libc::EPOLLOUT } else { libc::EPOLLIN };
            self.watch(libc::EPOLL_CTL_MOD, fd, what, index as u64)?;
        }
        Ok(())
    }
}

impl Connection {
    fn receive(&mut self) -> io::Result<()> {
        let (start, len) = (self.buffer.as_mut_ptr().cast(), self.buffer.len());
        // SAFETY: the buffer lives for the call.
        match unsafe { libc::recv(self.fd.as_raw_fd(), start, len, 0) } {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n if n < 0 => Err(io::Error::last_os_error()),
            n => {
                (self.len, self.sent) = (n as usize, 0);
                Ok(())
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.len {
            let rest = &self.buffer[self.sent..self.len];
            // SAFETY: the buffer lives for the call.
            let n = unsafe {
                let start = rest.as_ptr().cast();
                libc::send(self.fd.as_raw_fd(), start, rest.len(), libc::MSG_NOSIGNAL)
            };
            if n < 0 {
                return Err(io::Error::last_os_error());
            }
            self.sent += n as usize;
        }
        Ok(())
    }
}
