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
        ReceiveMessage { buffer, major, minor: minor::NONE, envelope: Envelope::empty() }
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

    /// Takes a message only if it is there already; otherwise fails with `WouldBlock`.
    pub fn now(mut self) -> ReceiveMessage<B> {
        self.minor = minor::NOW;
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
        let ((message, ()), buffer) = Self::finish_from(done, |_| Ok(()))?;
        Ok((message, buffer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffer))
    }
}

impl<B: IoBufMut> ReceiveMessage<B> {
    /// As [`Operation::finish`], with what `sender` makes of the address that it came from: `None` if the
    /// sender has none, and on streams.
    ///
    /// # Errors
    /// Those of the request, and of `sender`.
    pub fn finish_from<A>(
        done: &mut Done<'_>,
        sender: impl FnOnce(Option<&SockAddr>) -> Result<A, Status>,
    ) -> BufResult<(Message, A), B> {
        let mut buffer = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffer));
        }
        let mut envelope = done.companion::<Envelope>().unwrap_or_default();
        // SAFETY: what `filled` is for; this buffer is the request's, which only `data_in` sets.
        unsafe { buffer.set_len(done.filled()) };
        let message = Message {
            len: done.filled(),
            truncated: done.status() == Status::BUFFER_OVERFLOW,
            segment_size: (envelope.segment_size > 0).then_some(envelope.segment_size),
            descriptors: std::mem::take(&mut envelope.descriptors),
            descriptors_lost: envelope.descriptors_lost,
        };
        let sender = sender(envelope.address.as_ref());
        envelope.recycle();
        match sender {
            Ok(sender) => Ok(((message, sender), buffer)),
            Err(status) => Err(BufError::new(status, buffer)),
        }
    }
}

/// Sends a message. Yields the number of bytes taken, and the buffer.
#[derive(Debug)]
pub struct SendMessage<B> {
    buffer: B,
    major: Major,
    envelope: Box<Envelope>,
}

impl<B: IoBuf> SendMessage<B> {
    /// To this address, as [`Major::SendTo`].
    pub fn to(buffer: B, address: SockAddr) -> SendMessage<B> {
        let mut envelope = Envelope::empty();
        envelope.address = Some(address);
        SendMessage { buffer, major: Major::SendTo, envelope }
    }

    /// To the peer of a connected socket, as [`Major::Write`].
    pub fn to_peer(buffer: B) -> SendMessage<B> {
        SendMessage { buffer, major: Major::Write, envelope: Envelope::empty() }
    }

    /// Cuts the data into datagrams of so many bytes; the last one may be shorter.
    pub fn segment_size(mut self, bytes: u16) -> SendMessage<B> {
        self.envelope.segment_size = bytes;
        self
    }
}

impl<B: IoBuf> Operation for SendMessage<B> {
    type Output = BufResult<usize, B>;

    fn major(&self) -> Major {
        self.major
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(u64::MAX).companion(self.envelope).data_out(self.buffer);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let buffer = done.take::<B>();
        if let Some(envelope) = done.companion::<Envelope>() {
            envelope.recycle();
        }
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
        let mut envelope = Envelope::empty();
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
