//! The operations of files and sockets: what they ask for, and what their callers get.
//!
//! Each is a value that [`Request::new`](overlapped_iomgr::Request::new) takes; files and sockets
//! of the application's crate have methods that build them.

use std::ffi::CString;
use std::io;

use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut, Lease, Vectored};
use overlapped_iomgr::{Done, FileHandle, Major, Operation, Setup, Status, minor};

use super::Metadata;

/// The offset that means "at the current position", and for sockets and pipes "none".
pub(crate) const CURRENT: u64 = u64::MAX;

pub(super) fn check_range(offset: u64, len: usize) -> Status {
    let fits = offset == CURRENT
        || offset.checked_add(len as u64).is_some_and(|end| end <= i64::MAX as u64);
    if fits { Status::SUCCESS } else { Status::OFFSET_OVERFLOW }
}

fn unit(done: &Done<'_>) -> io::Result<()> {
    done.status().result(0).map(drop)
}

/// Reads into an owned buffer. Yields the number of bytes, 0 at the end, and the buffer.
#[derive(Debug)]
pub struct Read<B> {
    buffer: B,
    offset: u64,
    minor: u8,
}

impl<B: IoBufMut> Read<B> {
    /// At the byte `offset` of a file.
    pub fn at(buffer: B, offset: u64) -> Read<B> {
        Read { buffer, offset, minor: minor::NONE }
    }

    /// The next bytes of a stream, or those at the current offset of a synchronous file object (I-35).
    pub fn next(buffer: B) -> Read<B> {
        Self::at(buffer, CURRENT)
    }

    /// The next bytes of a stream, which stay there.
    pub fn peek(buffer: B) -> Read<B> {
        Read { buffer, offset: CURRENT, minor: minor::PEEK }
    }

    /// The next bytes of a socket, of those that are there already. `WouldBlock` if there are none.
    pub fn now(buffer: B) -> Read<B> {
        Read { buffer, offset: CURRENT, minor: minor::NOW }
    }
}

impl<B: IoBufMut> Operation for Read<B> {
    type Output = BufResult<usize, B>;

    fn major(&self) -> Major {
        Major::Read
    }
    fn check(&self) -> Status {
        check_range(self.offset, self.buffer.capacity())
    }
    #[inline]
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(self.minor).offset(self.offset).data_in(self.buffer);
    }
    #[inline]
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let mut buffer = done.take::<B>();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffer));
        }
        // SAFETY: what `filled` is for; this buffer is the request's, which only `data_in` sets.
        unsafe { buffer.set_len(done.filled()) };
        Ok((done.filled(), buffer))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffer))
    }
}

/// Writes an owned buffer's bytes. Yields the number of bytes taken, and the buffer.
#[derive(Debug)]
pub struct Write<B> {
    buffer: B,
    offset: u64,
    minor: u8,
    through: bool,
}

impl<B: IoBuf> Write<B> {
    /// At the byte `offset` of a file.
    pub fn at(buffer: B, offset: u64) -> Write<B> {
        Write { buffer, offset, minor: minor::NONE, through: false }
    }

    /// To a stream, at the end of an appending file, or at the current offset of a synchronous file
    /// object (I-35).
    pub fn next(buffer: B) -> Write<B> {
        Self::at(buffer, CURRENT)
    }

    /// To a stream; the driver goes on until all is taken, if it can, so that a short result is
    /// rare.
    pub fn whole(buffer: B) -> Write<B> {
        Write { minor: minor::ALL, ..Write::next(buffer) }
    }

    /// To a socket; only as much as there is room for at once. `WouldBlock` if that is nothing.
    pub fn now(buffer: B) -> Write<B> {
        Write { minor: minor::NOW, ..Write::next(buffer) }
    }

    /// On the medium when it completes ([`Setup::write_through`]).
    pub fn through(self) -> Write<B> {
        Write { through: true, ..self }
    }
}

impl<B: IoBuf> Operation for Write<B> {
    type Output = BufResult<usize, B>;

    fn major(&self) -> Major {
        Major::Write
    }
    fn check(&self) -> Status {
        check_range(self.offset, self.buffer.len())
    }
    #[inline]
    fn prepare(self, setup: &mut Setup<'_>) {
        if self.through {
            setup.write_through();
        }
        setup.minor(self.minor).offset(self.offset).data_out(self.buffer);
    }
    #[inline]
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

/// Reads into several buffers, one after the other.
#[derive(Debug)]
pub struct ReadVectored<B> {
    /// The buffers, filled in this order.
    pub buffers: Vec<B>,
    /// Byte offset in the file, or `u64::MAX` for streams.
    pub offset: u64,
}

impl<B: IoBufMut> Operation for ReadVectored<B> {
    type Output = BufResult<usize, Vec<B>>;

    fn major(&self) -> Major {
        Major::Read
    }
    fn check(&self) -> Status {
        check_vectored(self.offset, self.buffers.iter().map(IoBufMut::capacity))
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset).vectored_in(self.buffers);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let mut buffers = done.take::<Vectored<B>>().into_inner();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffers));
        }
        let mut left = done.filled();
        for buffer in &mut buffers {
            let n = left.min(buffer.capacity());
            // SAFETY: segments are filled in order, so the first `n` bytes of this one are.
            unsafe { buffer.set_len(n) };
            left -= n;
        }
        Ok((done.filled() - left, buffers))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffers))
    }
}

/// Writes several buffers, one after the other.
#[derive(Debug)]
pub struct WriteVectored<B> {
    /// The buffers, taken in this order.
    pub buffers: Vec<B>,
    /// Byte offset in the file, or `u64::MAX` for streams.
    pub offset: u64,
}

impl<B: IoBuf> Operation for WriteVectored<B> {
    type Output = BufResult<usize, Vec<B>>;

    fn major(&self) -> Major {
        Major::Write
    }
    fn check(&self) -> Status {
        check_vectored(self.offset, self.buffers.iter().map(IoBuf::len))
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.offset).vectored_out(self.buffers);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let buffers = done.take::<Vectored<B>>().into_inner();
        if done.status().is_error() {
            return Err(BufError::new(done.status(), buffers));
        }
        Ok((done.info(), buffers))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(BufError::new(status, self.buffers))
    }
}

/// Linux takes at most this many segments in one call.
const MAX_SEGMENTS: usize = 1024;

fn check_vectored(offset: u64, lens: impl ExactSizeIterator<Item = usize>) -> Status {
    if lens.len() > MAX_SEGMENTS {
        return Status::INVALID_PARAMETER;
    }
    let total = { lens }.try_fold(0usize, usize::checked_add);
    total.map_or(Status::OFFSET_OVERFLOW, |total| check_range(offset, total))
}

/// Receives into a buffer of the processor's pool, taken only when data is there.
#[derive(Debug)]
pub struct ReceiveLease {
    /// Most bytes wanted; 0 for as many as a pool buffer has.
    pub most: u32,
}

impl Operation for ReceiveLease {
    type Output = io::Result<Lease>;

    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        // Until the buffer is known, the limit stands for its length.
        let limit = if self.most == 0 { u32::MAX } else { self.most };
        setup.minor(minor::POOLED).offset(CURRENT).arg(u64::from(self.most)).limit(limit);
    }
    #[inline]
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        // The end of the stream brings no buffer.
        Ok(done.try_take::<Lease>().unwrap_or_else(|| Lease::from(Vec::new())))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Opens the file object.
#[derive(Debug)]
pub struct Create {
    /// Path.
    pub path: CString,
    /// `O_*` flags.
    pub flags: i32,
    /// Permission bits of a new file.
    pub mode: u32,
}

impl Operation for Create {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::Create
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.arg(u64::from(self.mode)).payload(self);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        unit(done)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* }
        = $major:ident, |$self:ident, $setup:ident| $prepare:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

        impl Operation for $name {
            type Output = io::Result<()>;
            fn major(&self) -> Major {
                Major::$major
            }
            fn prepare($self, $setup: &mut Setup<'_>) {
                $prepare;
            }
            fn finish(done: &mut Done<'_>) -> Self::Output {
                unit(done)
            }
            fn refuse(self, status: Status) -> Self::Output {
                Err(status.into())
            }
        }
    )*};
}

plain! {
    /// Flushes a file to the medium.
    Flush {
        /// Only the data, and what is needed to read it back (`fdatasync`).
        data_only: bool
    } = Flush, |self, setup| setup.minor(if self.data_only { minor::DATA_ONLY } else { minor::NONE });
    /// Ends one or both directions of a socket.
    Shutdown {
        /// `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
        how: i32
    } = Shutdown, |self, setup| setup.arg(self.how as u64);
}

/// Closes the file object's descriptor and reports what the system says of it, when no other request
/// counts on the object any more. The object is of no use afterwards.
#[derive(Debug)]
pub struct Close(());

impl Close {
    /// The operation.
    ///
    /// # Safety
    /// Nobody uses the file object's descriptor any more, other than through the file object: the
    /// system gives its number to the next one opened.
    pub unsafe fn new() -> Close {
        Close(())
    }
}

impl Operation for Close {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::Close
    }
    fn prepare(self, _: &mut Setup<'_>) {}
    fn finish(done: &mut Done<'_>) -> Self::Output {
        unit(done)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Sets a file's length.
#[derive(Debug)]
pub struct SetLength {
    /// Bytes.
    pub len: u64,
}

impl Operation for SetLength {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::SetInformation
    }
    fn check(&self) -> Status {
        // The backends' kernels would each say it in their own way.
        if i64::try_from(self.len).is_ok() { Status::SUCCESS } else { Status::OFFSET_OVERFLOW }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.arg(self.len);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        unit(done)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Asks for a file's attributes.
#[derive(Debug)]
pub struct QueryInformation;

impl Operation for QueryInformation {
    type Output = io::Result<Metadata>;

    fn major(&self) -> Major {
        Major::QueryInformation
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.payload(Metadata::empty());
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        Ok(done.take())
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Asks for the current offset of a synchronous file object, in turn with its other requests (I-35).
#[derive(Debug)]
pub struct QueryPosition;

impl Operation for QueryPosition {
    type Output = io::Result<u64>;

    fn major(&self) -> Major {
        Major::QueryInformation
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::POSITION);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        Ok(done.status().result(done.info())? as u64)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Sets the current offset of a synchronous file object, in turn with its other requests (I-35).
#[derive(Debug)]
pub struct SetPosition {
    /// Bytes from the start; below 2^63.
    pub offset: u64,
}

impl Operation for SetPosition {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::SetInformation
    }
    fn check(&self) -> Status {
        if i64::try_from(self.offset).is_ok() { Status::SUCCESS } else { Status::OFFSET_OVERFLOW }
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::POSITION).arg(self.offset);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        unit(done)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Connects a socket.
#[derive(Debug)]
pub struct Connect {
    /// Where to.
    pub address: Box<socket2::SockAddr>,
}

impl Connect {
    /// Takes a connection away: the other side of a TCP connection finds it reset (`AF_UNSPEC`).
    pub fn reset() -> Connect {
        let nowhere = socket2::SockAddrStorage::zeroed();
        let len = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: of this length, all zero is an address: that of the family 0, `AF_UNSPEC`.
        Connect { address: Box::new(unsafe { socket2::SockAddr::new(nowhere, len) }) }
    }
}

impl Operation for Connect {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::Connect
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.payload(self.address);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        unit(done)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Takes one connection from a listener.
#[derive(Debug)]
pub struct Accept;

/// A connection as the listener's driver hands it over.
#[derive(Debug)]
pub struct Accepted(pub FileHandle);

impl Operation for Accept {
    type Output = io::Result<FileHandle>;

    fn major(&self) -> Major {
        Major::Accept
    }
    fn prepare(self, _: &mut Setup<'_>) {}
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        Ok(done.take::<Accepted>().0)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
