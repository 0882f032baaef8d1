//! What the handles of byte streams share: TCP, Unix sockets, pipes.
//!
//! Each type is a file object's handle in a field `handle`; the macros here give it its methods, so
//! that each has them in its own documentation.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use overlapped_drivers::class::{Close, Shutdown as ShutdownOp, Write};
use overlapped_drivers::hal::system;
use overlapped_iomgr::buf::{BufError, BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Status};
use socket2::SockAddr;

/// The methods of a stream that is read.
macro_rules! read_methods {
    () => {
        /// Receives into a buffer: up to its capacity, to its start. Yields the number of bytes, 0 when
        /// the peer has ended its side, or the buffer has no room.
        ///
        /// Cancel-safe: bytes that arrive for a read that was dropped are the next read's.
        ///
        /// # Errors
        /// Those of the system. The error carries the buffer.
        #[inline]
        pub fn read<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
            Request::new(&self.handle, Read::next(buf))
        }

        /// Receives into a buffer of the worker's pool, taken only when data is there: an idle
        /// stream holds none. Empty when the peer has ended its side.
        ///
        /// Cancel-safe, as `read`.
        ///
        /// # Errors
        /// Those of the system.
        #[inline]
        pub fn read_lease(&self) -> Request<'_, ReceiveLease> {
            Request::new(&self.handle, ReceiveLease { most: 0 })
        }

        /// Receives until the buffer's capacity is full. What has been received is lost if this is
        /// dropped before the end.
        ///
        /// # Errors
        /// `UnexpectedEof` ([`Status::END_OF_FILE`](crate::Status::END_OF_FILE)) when the peer ends
        /// before; otherwise as `read`.
        pub async fn read_exact<B: IoBufMut>(&self, buf: B) -> BufResult<(), B> {
            $crate::net::stream::read_exact(&self.handle, buf).await
        }
    };
}

/// The methods of a stream that is written.
macro_rules! write_methods {
    () => {
        /// Sends from a buffer; yields the number of bytes taken.
        ///
        /// A write that is dropped may have happened, wholly or in part, or not.
        ///
        /// # Errors
        /// Those of the system (`BrokenPipe`, `ConnectionReset`). The error carries the buffer.
        #[inline]
        pub fn write<B: IoBuf>(&self, buf: B) -> Request<'_, Write<B>> {
            Request::new(&self.handle, Write::next(buf))
        }

        /// Sends all of the buffer.
        ///
        /// # Errors
        /// As `write`.
        pub async fn write_all<B: IoBuf>(&self, buf: B) -> BufResult<(), B> {
            $crate::net::stream::write_all(&self.handle, buf).await
        }
    };
}

/// The methods of every handle of a descriptor.
macro_rules! handle_methods {
    () => {
        /// Closes it and reports what the system says of it; dropping it closes it too, but tells
        /// nobody, and in its own time. Requests that are still in flight are cancelled first.
        ///
        /// # Errors
        /// Those of the system.
        pub async fn close(self) -> io::Result<()> {
            $crate::net::stream::close(&self.handle).await
        }

        /// The file object, for building requests of one's own and for looking at its stack.
        pub fn object(&self) -> &FileObject {
            &self.handle
        }
    };
}

/// `AsFd` and `AsRawFd`.
macro_rules! descriptor_traits {
    ($($type:ty),*) => {$(
        impl std::os::fd::AsRawFd for $type {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.handle.fd()
            }
        }

        impl std::os::fd::AsFd for $type {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                // SAFETY: the descriptor is open as long as the handle is.
                unsafe { std::os::fd::BorrowedFd::borrow_raw(self.handle.fd()) }
            }
        }
    )*};
}

/// The methods of connected sockets that carry a stream.
macro_rules! socket_methods {
    ($type:ident, $std:ty) => {
        impl $type {
            pub(super) fn adopt(socket: Descriptor, stack: Arc<Stack>) -> io::Result<$type> {
                hal::install();
                system::of(socket.as_raw()).set_blocking(socket.as_raw())?;
                Ok($type { handle: bottom::adopt(stack, "", socket)? })
            }

            /// Takes over a connected socket of `std`.
            ///
            /// # Errors
            /// When the runtime of this thread is ending, or the thread can have no processor.
            pub fn from_std(stream: $std) -> io::Result<$type> {
                Self::from_std_with(stream, $crate::net::tcp::plain_stack())
            }

            /// As `from_std`, with filters on the stream.
            ///
            /// # Errors
            /// As `from_std`.
            pub fn from_std_with(stream: $std, stack: Arc<Stack>) -> io::Result<$type> {
                Self::adopt(OwnedFd::from(stream).into(), stack)
            }

            /// A socket of `std`, in blocking mode, for the same connection.
            ///
            /// # Errors
            /// When descriptors are exhausted; `ResourceBusy` when bytes that came for a read that was
            /// dropped are still to be read here, which would be lost.
            pub fn into_std(self) -> io::Result<$std> {
                let unread = bottom::has_unread(&self.handle);
                let own = $crate::net::stream::into_descriptor(&self.handle, unread)?;
                Ok(own.into())
            }

            handle_methods!();
            read_methods!();
            write_methods!();

            /// Receives into several buffers, one after the other; at most 1024. As `read`.
            pub fn read_vectored<B: IoBufMut>(
                &self,
                buffers: Vec<B>,
            ) -> Request<'_, ReadVectored<B>> {
                Request::new(&self.handle, ReadVectored { buffers, offset: u64::MAX })
            }

            /// Receives bytes that stay in the stream for the next read.
            pub fn peek<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
                Request::new(&self.handle, Read::peek(buf))
            }

            /// Sends from several buffers, one after the other; at most 1024. As `write`.
            pub fn write_vectored<B: IoBuf>(
                &self,
                buffers: Vec<B>,
            ) -> Request<'_, WriteVectored<B>> {
                Request::new(&self.handle, WriteVectored { buffers, offset: u64::MAX })
            }

            /// Ends one or both directions.
            ///
            /// # Errors
            /// Those of the system.
            pub fn shutdown(&self, how: Shutdown) -> Request<'_, ShutdownOp> {
                $crate::net::stream::shutdown(&self.handle, how)
            }

            /// Two halves, for two tasks. The connection closes when both are dropped; dropping the
            /// write half alone ends nothing: use `shutdown`.
            pub fn into_split(self) -> (OwnedReadHalf<$type>, OwnedWriteHalf<$type>) {
                $crate::net::stream::halves(self)
            }

            /// The stream as `futures::io::{AsyncRead, AsyncBufRead, AsyncWrite}`.
            pub fn compat(self) -> Compat {
                Compat::new(self.handle)
            }

            /// The socket's options, through `socket2`. A simulated socket has none: they fail.
            pub fn options(&self) -> SockRef<'_> {
                SockRef::from(self)
            }
        }

        descriptor_traits!($type);
    };
}

pub(super) use socket_methods;
pub(crate) use {descriptor_traits, handle_methods, read_methods, write_methods};

pub(crate) async fn read_exact<B: IoBufMut>(file: &FileObject, buf: B) -> BufResult<(), B> {
    let full = buf.capacity();
    let mut buf = buf;
    let mut done = 0;
    while done < full {
        let read = overlapped_drivers::class::Read::next(buf.slice_mut(done..full));
        let part = Request::new(file, read).await;
        let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
        buf = slice.into_inner();
        if n == 0 {
            return Err(BufError::new(Status::END_OF_FILE, buf));
        }
        done += n;
    }
    Ok(((), buf))
}

pub(crate) async fn write_all<B: IoBuf>(file: &FileObject, buf: B) -> BufResult<(), B> {
    let full = buf.len();
    // The system goes on by itself until all is taken; a short result means a signal or an end.
    let (mut done, mut buf) = Request::new(file, Write::whole(buf)).await?;
    while done < full {
        let part = Request::new(file, Write::whole(buf.slice(done..full))).await;
        let (n, slice) = part.map_err(|e| e.map_buf(|s| s.into_inner()))?;
        buf = slice.into_inner();
        if n == 0 {
            return Err(BufError::new(Status::UNEXPECTED_IO_ERROR, buf));
        }
        done += n;
    }
    Ok(((), buf))
}

pub(crate) async fn close(handle: &FileHandle) -> io::Result<()> {
    handle.cancel_requests();
    // SAFETY: the caller is the descriptor's owner, from which it is borrowed, and ends here.
    Request::new(handle, unsafe { Close::new() }).await
}

pub(crate) fn shutdown(file: &FileObject, how: Shutdown) -> Request<'_, ShutdownOp> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    Request::new(file, ShutdownOp { how })
}

/// A descriptor of its own, in blocking mode, for what the handle has; unless something would be
/// lost.
pub(crate) fn into_descriptor(handle: &FileHandle, unread: bool) -> io::Result<OwnedFd> {
    if unread {
        let what = "data that came for a read that was dropped is still to be read";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
    }
    let system = system::of(handle.fd());
    system.set_blocking(handle.fd())?;
    system.duplicate(handle.fd())
}

pub(super) fn local_address(handle: &FileHandle) -> io::Result<SockAddr> {
    system::of(handle.fd()).local_address(handle.fd())
}

pub(super) fn peer_address(handle: &FileHandle) -> io::Result<SockAddr> {
    system::of(handle.fd()).peer_address(handle.fd())
}

/// The receiving half of a stream; derefs to it.
#[derive(Debug)]
pub struct OwnedReadHalf<S = super::TcpStream>(Arc<S>);

/// The sending half of a stream; derefs to it.
#[derive(Debug)]
pub struct OwnedWriteHalf<S = super::TcpStream>(Arc<S>);

pub(super) fn halves<S>(stream: S) -> (OwnedReadHalf<S>, OwnedWriteHalf<S>) {
    let shared = Arc::new(stream);
    (OwnedReadHalf(shared.clone()), OwnedWriteHalf(shared))
}

impl<S> std::ops::Deref for OwnedReadHalf<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> std::ops::Deref for OwnedWriteHalf<S> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> OwnedReadHalf<S> {
    /// The whole stream again, if `other` is its other half.
    ///
    /// # Errors
    /// Gives both back if they are not of one stream.
    pub fn reunite(
        self,
        other: OwnedWriteHalf<S>,
    ) -> Result<S, (OwnedReadHalf<S>, OwnedWriteHalf<S>)> {
        if !Arc::ptr_eq(&self.0, &other.0) {
            return Err((self, other));
        }
        drop(other);
        match Arc::into_inner(self.0) {
            Some(stream) => Ok(stream),
            None => unreachable!("there are two halves, and one has just been dropped"),
        }
    }
}
