//! Pipes and FIFOs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use overlapped_drivers::bottom::{self, PipeContext};
use overlapped_drivers::class::{Read, ReceiveLease, Write};
use overlapped_drivers::hal::{
    self,
    system::{self, Descriptor},
};
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack};

use super::plain_stack;
use crate::net::Compat;
use crate::net::stream::{
    descriptor_traits, handle_methods, into_descriptor, read_methods, write_methods,
};

/// Makes an anonymous pipe: what is written to one end is read from the other.
///
/// # Errors
/// When descriptors are exhausted; as [`PipeReader::from_std`].
///
/// ```
/// overlapped::block_on(async {
///     let (reader, writer) = overlapped::io::pipe()?;
///     writer.write_all("hello").await?;
///     drop(writer);
///     let (n, buf) = reader.read(Vec::with_capacity(16)).await?;
///     assert_eq!(&buf[..n], b"hello");
///     assert_eq!(reader.read(buf).await?.0, 0);
///     Ok::<_, std::io::Error>(())
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    pipe_with(plain_stack(), plain_stack())
}

/// As [`pipe`], with filters on the ends ([`pipe_stack_of`](super::pipe_stack_of)).
///
/// # Errors
/// As [`pipe`].
pub fn pipe_with(reader: Arc<Stack>, writer: Arc<Stack>) -> io::Result<(PipeReader, PipeWriter)> {
    let [r, w] = system::here().pipe()?;
    Ok((PipeReader { handle: adopt(r, reader)? }, PipeWriter { handle: adopt(w, writer)? }))
}

fn adopt(end: Descriptor, stack: Arc<Stack>) -> io::Result<FileHandle> {
    hal::install();
    system::of(end.as_raw()).set_blocking(end.as_raw())?;
    Ok(bottom::adopt_pipe(stack, "", end, PipeContext::new(true, false))?)
}

/// The end of a pipe that is read.
#[derive(Debug)]
pub struct PipeReader {
    handle: FileHandle,
}

/// The end of a pipe that is written.
#[derive(Debug)]
pub struct PipeWriter {
    handle: FileHandle,
}

macro_rules! both_ends {
    ($($type:ident, $std:ty;)*) => {$(
        impl $type {
            /// Takes over an end of a pipe of `std`, or any descriptor of a pipe that became one: a
            /// child's `ChildStdout`, by way of `OwnedFd`.
            ///
            /// # Errors
            /// When the runtime of this thread is ending, or the thread can have no processor.
            pub fn from_std(end: $std) -> io::Result<$type> {
                Self::from_std_with(end, plain_stack())
            }

            /// As `from_std`, with filters ([`pipe_stack_of`](super::pipe_stack_of)).
            ///
            /// # Errors
            /// As `from_std`.
            pub fn from_std_with(end: $std, stack: Arc<Stack>) -> io::Result<$type> {
                Ok($type { handle: adopt(OwnedFd::from(end).into(), stack)? })
            }

            /// The end as one of `std`, in blocking mode.
            ///
            /// # Errors
            /// When descriptors are exhausted; `ResourceBusy` when bytes that came for a read that was
            /// dropped are still to be read here, which would be lost.
            pub fn into_std(self) -> io::Result<$std> {
                let unread = bottom::pipe_has_unread(&self.handle);
                Ok(into_descriptor(&self.handle, unread)?.into())
            }

            handle_methods!();

            /// The end with the traits of `futures::io`. Its `close` only flushes: the pipe ends when
            /// it is dropped.
            pub fn compat(self) -> Compat {
                Compat::new(self.handle)
            }
        }

        descriptor_traits!($type);
    )*};
}

both_ends! {
    PipeReader, io::PipeReader;
    PipeWriter, io::PipeWriter;
}

impl PipeReader {
    /// Opens a FIFO for reading. Does not wait for a writer; reads do. When the last writer has gone,
    /// the end has come: to read from further ones, open the FIFO again.
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` when the path names no FIFO.
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeReader> {
        let end = system::here().open_fifo(path.as_ref(), false)?;
        Ok(PipeReader { handle: adopt(end, plain_stack())? })
    }

    read_methods!();
}

impl PipeWriter {
    /// Opens a FIFO for writing.
    ///
    /// # Errors
    /// Those of the system: `ENXIO` when nobody has it open for reading; `InvalidInput` when the path
    /// names no FIFO.
    pub fn open(path: impl AsRef<Path>) -> io::Result<PipeWriter> {
        let end = system::here().open_fifo(path.as_ref(), true)?;
        Ok(PipeWriter { handle: adopt(end, plain_stack())? })
    }

    write_methods!();
}
