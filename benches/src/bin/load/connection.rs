//! One connection: a window of messages, sent in order, compared as they come back.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use io_uring::{opcode, types};
use overlapped_benches::address::Address;
use overlapped_benches::pool::GROUP;
use overlapped_benches::ring::Ring;

use crate::pattern::{PIECE, Pattern};

pub struct Connection {
    socket: OwnedFd,
    index: usize,
    size: u64,
    /// Whether each message is one.
    is_datagram: bool,
    /// Bytes that may be sent, are sent, and have come back.
    allowed: u64,
    sent: u64,
    received: u64,
    is_sending: bool,
    /// When the messages in flight were begun.
    begun: VecDeque<Instant>,
    /// Messages that came back in the measured window.
    pub echoes: u64,
}

impl Connection {
    pub fn open(address: &Address, index: usize, size: usize, depth: usize) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Address::Udp(address) => {
                let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.into()
            }
            Address::Unix(path) => UnixStream::connect(path)?.into(),
        };
        Ok(Connection {
            socket,
            index,
            size: size as u64,
            is_datagram: matches!(address, Address::Udp(_)),
            allowed: 0,
            sent: 0,
            received: 0,
            is_sending: false,
            begun: VecDeque::with_capacity(depth),
            echoes: 0,
        })
    }

    /// Receives into the pool from now on.
    pub fn receive(&self, ring: &mut Ring) -> io::Result<()> {
        let fd = types::Fd(self.socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build().user_data((self.index as u64) << 1);
        // SAFETY: the memory is the pool's.
        unsafe { ring.push(&entry) }
    }

    /// Begins one more message.
    pub fn begin(&mut self, now: Instant) {
        self.allowed += self.size;
        self.begun.push_back(now);
    }

    /// Sends what is allowed, one piece at a time.
    pub fn send(&mut self, ring: &mut Ring, pattern: &Pattern) -> io::Result<()> {
        if self.is_sending || self.sent == self.allowed {
            return Ok(());
        }
        self.is_sending = true;
        let piece = if self.is_datagram { self.size } else { PIECE as u64 };
        let len = (self.allowed - self.sent).min(piece) as usize;
        let bytes = pattern.at(self.index, self.sent, len);
        let fd = types::Fd(self.socket.as_raw_fd());
        let entry = opcode::Send::new(fd, bytes.as_ptr(), len as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data((self.index as u64) << 1 | 1);
        // SAFETY: the table is never changed, and outlives the ring's use.
        unsafe { ring.push(&entry) }
    }

    /// Notes what was sent.
    pub fn has_sent(&mut self, bytes: usize) {
        self.is_sending = false;
        self.sent += bytes as u64;
    }

    /// Compares what has come back.
    pub fn has_received(&mut self, bytes: &[u8], pattern: &Pattern) -> Result<(), String> {
        let wrong = |what: String| format!("connection {}: {what}", self.index);
        if self.is_datagram && bytes.len() as u64 != self.size {
            return Err(wrong(format!("a datagram of {} bytes came back", bytes.len())));
        }
        if self.received + bytes.len() as u64 > self.allowed {
            return Err(wrong("more came back than was sent".to_owned()));
        }
        let expected = pattern.at(self.index, self.received, bytes.len());
        if bytes != expected {
            let at = bytes.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            let position = self.received + at as u64;
            return Err(wrong(format!("another byte came back at position {position}")));
        }
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// When the oldest message was begun, if all of it has come back; it is done then.
    pub fn take_finished(&mut self) -> Option<Instant> {
        let oldest_end = self.allowed - (self.begun.len() as u64 * self.size) + self.size;
        if self.begun.is_empty() || self.received < oldest_end {
            return None;
        }
        self.begun.pop_front()
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.begun.is_empty()
    }
}
