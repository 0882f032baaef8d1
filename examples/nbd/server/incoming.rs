//! What a client sends: headers from a buffer, large payloads past it.

use std::io;
use std::sync::Arc;

use overlapped::buf::IoBufMut;
use overlapped_examples::nbd::{HEADER_LEN, Header};

use super::socket::Stream;

/// Bytes of the buffer: more than an option or a header needs.
const BUFFER: usize = 64 << 10;

/// What a client sends.
pub struct Incoming {
    stream: Arc<Stream>,
    /// Nothing, while a read has it that was dropped: this is of no use then.
    buffer: Box<[u8]>,
    /// What has come and was not taken.
    begin: usize,
    end: usize,
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the client is gone, in the middle of a message")
}

impl Incoming {
    pub fn new(stream: Arc<Stream>) -> Incoming {
        Incoming { stream, buffer: vec![0; BUFFER].into(), begin: 0, end: 0 }
    }

    /// What has come and was not taken.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Takes bytes that have come.
    pub fn consume(&mut self, n: usize) {
        self.begin += n;
        assert!(self.begin <= self.end, "only what has come can be taken");
    }

    /// Waits for more; `false`: no more comes.
    pub async fn more(&mut self) -> io::Result<bool> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        assert!(self.end < BUFFER, "what is needed at once fits in");
        let room = std::mem::take(&mut self.buffer).slice_mut(self.end..);
        match self.stream.read(room).await {
            Ok((n, part)) => {
                self.buffer = part.into_inner();
                self.end += n;
                Ok(n > 0)
            }
            Err(error) => {
                let (status, part) = error.into_parts();
                self.buffer = part.into_inner();
                Err(status.into())
            }
        }
    }

    /// The next request's header. `None`: the client has ended between two.
    pub async fn header(&mut self) -> io::Result<Option<Header>> {
        loop {
            if let Some(bytes) = self.bytes().first_chunk::<HEADER_LEN>() {
                let header = Header::parse(bytes);
                self.consume(HEADER_LEN);
                return header.map(Some).map_err(invalid);
            }
            if !self.more().await? {
                return if self.bytes().is_empty() { Ok(None) } else { Err(ended()) };
            }
        }
    }

    /// The `len` bytes of a payload.
    pub async fn payload(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut payload = Vec::with_capacity(len);
        let here = len.min(self.bytes().len());
        payload.extend_from_slice(&self.bytes()[..here]);
        self.consume(here);
        while payload.len() < len {
            let done = payload.len();
            let (n, part) = self.stream.read(payload.slice_mut(done..len)).await?;
            if n == 0 {
                return Err(ended());
            }
            payload = part.into_inner();
        }
        Ok(payload)
    }

    /// Takes the `len` bytes of a payload that nobody wants.
    pub async fn skip(&mut self, mut len: usize) -> io::Result<()> {
        loop {
            let here = len.min(self.bytes().len());
            self.consume(here);
            len -= here;
            if len == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return Err(ended());
            }
        }
    }
}

/// What the client must not do, as an error of the connection.
pub fn invalid(violation: overlapped_examples::nbd::Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}
