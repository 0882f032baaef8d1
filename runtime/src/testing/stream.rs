//! A stream without a descriptor.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use overlapped_drivers::class::{
    Read, ReadVectored, ReceiveLease, Shutdown as ShutdownOp, Write, WriteVectored,
};
use overlapped_drivers::hal;
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{Driver, FileHandle, FileObject, Request, Stack};

use crate::net::stream::{handle_methods, read_methods, shutdown, write_methods};

/// A stream on a bottom driver of one's choice, in place of the one of sockets: on a [`Script`](super::Script), or one
/// of one's own. It is used as a [`TcpStream`](crate::net::TcpStream).
///
/// The bottom gets no [`Create`](crate::operation::Create), as that of sockets does not, and says that the
/// stream is closed by [`FileObject::set_open`].
///
/// ```
/// use overlapped::driver::filter::Xor;
/// use overlapped::driver::testing::{Answer, Script, Stream};
/// use overlapped::driver::{Driver, Major};
/// use std::sync::Arc;
///
/// # overlapped::block_on(async {
/// let script = Script::stream();
/// script.answer(Major::Read, Answer::bytes([b'h' ^ 7, b'i' ^ 7]));
/// let stream = Stream::on(script.driver(), [Arc::new(Xor(7)) as Arc<dyn Driver>])?;
/// assert_eq!(stream.read(Vec::with_capacity(9)).await?.1, b"hi");
/// stream.write_all("oh").await?;
/// assert_eq!(script.log().of(Major::Write)[0].data, [b'o' ^ 7, b'h' ^ 7]);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Stream {
    handle: FileHandle,
}

impl Stream {
    /// Opens it, with filters, top first.
    ///
    /// # Errors
    /// `InvalidInput` for more filters than a stack holds; when the runtime of this thread is ending, or
    /// the thread can have no processor.
    pub fn on(
        bottom: Arc<dyn Driver>,
        filters: impl IntoIterator<Item = Arc<dyn Driver>>,
    ) -> io::Result<Stream> {
        hal::install();
        let handle = FileObject::new(Stack::new(filters, bottom)?, "", Box::new(()))?;
        handle.set_open(true);
        Ok(Stream { handle })
    }

    handle_methods!();
    read_methods!();
    write_methods!();

    /// Receives into several buffers, one after the other; at most 1024. As [`Stream::read`].
    pub fn read_vectored<B: IoBufMut>(&self, buffers: Vec<B>) -> Request<'_, ReadVectored<B>> {
        Request::new(&self.handle, ReadVectored { buffers, offset: u64::MAX })
    }

    /// Receives bytes that stay in the stream for the next read.
    pub fn peek<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
        Request::new(&self.handle, Read::peek(buf))
    }

    /// Sends from several buffers, one after the other; at most 1024. As [`Stream::write`].
    pub fn write_vectored<B: IoBuf>(&self, buffers: Vec<B>) -> Request<'_, WriteVectored<B>> {
        Request::new(&self.handle, WriteVectored { buffers, offset: u64::MAX })
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// Those of the bottom.
    pub fn shutdown(&self, how: Shutdown) -> Request<'_, ShutdownOp> {
        shutdown(&self.handle, how)
    }
}
