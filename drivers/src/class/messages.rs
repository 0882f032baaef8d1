//! Operations whose data has an [`Envelope`]: messages with addresses, and descriptors passed along.

use std::os::fd::OwnedFd;

use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{Done, Major, Operation, Setup, Status, minor};
use socket2::SockAddr;

use super::Envelope;

/// Receives a message, or the next bytes of a stream, with what comes along.
#[derive(Debug)]
pub struct ReceiveMessage<B> {
    buffer: B,
    major: Major,
    minor: u8,
    envelope: Box<Envelope>,
}

impl<B: IoBufMut> ReceiveMessage<B> {
    fn new(buffer: B, major: Major) -> ReceiveMessage<B> {
        ReceiveMessage { buffer, major, minor: minor::NONE, envelope: Box::default() }
    }

    /// From the peer of a connected socket, as [`Major::Read`].
    pub fn next(buffer: B) -> ReceiveMessage<B> {
        Self::new(buffer, Major::Read)
    }

    /// From anybody, as [`Major::ReceiveFrom`].
    pub fn from_anybody(buffer: B) -> ReceiveMessage<B> {
        Self::new(buffer, Major::ReceiveFrom)
    }

    /// Leaves the message where it is.
    pub fn peek(mut self) -> ReceiveMessage<B> {
        self.minor = minor::PEEK;
        self
    }

    /// Takes up to so many descriptors; at most
    /// [`MOST_DESCRIPTORS`](super::MOST_DESCRIPTORS) come at once. Without this, descriptors are
    /// closed by the kernel.
    pub fn descriptors(mut self, most: usize) -> ReceiveMessage<B> {
        self.envelope.most_descriptors = most;
        self
    }

    /// Asks for the size of the datagrams that the data was put together from.
    pub fn segment_size(mut self) -> ReceiveMessage<B> {
        self.envelope.wants_segment_size = true;
        self
    }
}

/// What [`ReceiveMessage`] yields, besides the buffer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// Bytes in the buffer.
    pub len: usize,
    /// The message was longer than the buffer, and the rest is gone
    /// ([`Status::BUFFER_OVERFLOW`], 0.1).
    pub truncated: bool,
    /// Where it came from; `None` if the sender has no address, and on streams.
    pub address: Option<SockAddr>,
    /// Descriptors that came along, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// There were more descriptors than asked for, or than the process may open.
    pub descriptors_lost: bool,
    /// Bytes in each datagram (the last may be shorter) that the data was put together from; `None`
    /// for a single one.
    pub segment_size: Option<u16>,
}

impl<B: IoBufMut> Operation for ReceiveMessage<B> {
    type Output = BufResult<Message, B>;

    fn major(&self) -> Major {
        self.major
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(self.minor).offset(u64::MAX).companion(self.envelope).data_in(self.buffer);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let mut buffer = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffer));
        }
        let envelope = done.companion::<Envelope>().unwrap_or_default();
        // SAFETY: what `filled` is for; this buffer is the request's, which only `data_in` sets.
        unsafe { buffer.set_len(done.filled()) };
        let message = Message {
            len: done.filled(),
            truncated: done.status() == Status::BUFFER_OVERFLOW,
            segment_size: (envelope.segment_size > 0).then_some(envelope.segment_size),
            address: envelope.address,
            descriptors: envelope.descriptors,
            descriptors_lost: envelope.descriptors_lost,
        };
        Ok((message, buffer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffer))
    }
}

/// Sends a message to an address. Yields the number of bytes taken, and the buffer.
#[derive(Debug)]
pub struct SendTo<B> {
    buffer: B,
    envelope: Box<Envelope>,
}

impl<B: IoBuf> SendTo<B> {
    /// To this address.
    pub fn new(buffer: B, address: SockAddr) -> SendTo<B> {
        let mut envelope = Box::<Envelope>::default();
        envelope.address = Some(address);
        SendTo { buffer, envelope }
    }

    /// Cuts the data into datagrams of so many bytes; the last one may be shorter.
    pub fn segment_size(mut self, bytes: u16) -> SendTo<B> {
        self.envelope.segment_size = bytes;
        self
    }
}

impl<B: IoBuf> Operation for SendTo<B> {
    type Output = BufResult<usize, B>;

    fn major(&self) -> Major {
        Major::SendTo
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(u64::MAX).companion(self.envelope).data_out(self.buffer);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let buffer = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffer));
        }
        Ok((done.info(), buffer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffer))
    }
}

/// Sends bytes with descriptors to the peer of a connected Unix socket. Yields the number of bytes
/// taken, and buffer and descriptors, which stay open here.
#[derive(Debug)]
pub struct PassDescriptors<B> {
    buffer: B,
    envelope: Box<Envelope>,
    /// An empty message carries nothing.
    stream: bool,
}

impl<B: IoBuf> PassDescriptors<B> {
    /// `stream`: the socket is one of bytes, where descriptors travel with a byte.
    pub fn new(buffer: B, descriptors: Vec<OwnedFd>, stream: bool) -> PassDescriptors<B> {
        let mut envelope = Box::<Envelope>::default();
        envelope.descriptors = descriptors;
        PassDescriptors { buffer, envelope, stream }
    }
}

impl<B: IoBuf> Operation for PassDescriptors<B> {
    type Output = BufResult<usize, (B, Vec<OwnedFd>)>;

    fn major(&self) -> Major {
        Major::Write
    }
    fn check(&self) -> Status {
        let unheard =
            self.stream && self.buffer.is_empty() && !self.envelope.descriptors.is_empty();
        if unheard { Status::INVALID_PARAMETER } else { Status::SUCCESS }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(u64::MAX).companion(self.envelope).data_out(self.buffer);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let buffer = done.take::<B>();
        let descriptors = done.companion::<Envelope>().unwrap_or_default().descriptors;
        if done.status().is_error() {
            return Err(BufError::new(done.status(), (buffer, descriptors)));
        }
        Ok((done.info(), (buffer, descriptors)))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, (self.buffer, self.envelope.descriptors)))
    }
}
