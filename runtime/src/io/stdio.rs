//! Standard input, output and error.
//!
//! Other processes share their open files (the shell, programs in a pipeline), so their mode is never
//! changed. Where epoll could not promise that a read or write does not wait, as with a terminal, it
//! waits for readiness and has a blocking thread do it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use overlapped_drivers::bottom::{self, PipeContext};
use overlapped_drivers::class::{Read, ReceiveLease, Write};
use overlapped_drivers::hal::{self, system};
use overlapped_iomgr::buf::{BufResult, IoBuf, IoBufMut};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack};

use super::plain_stack;
use crate::net::Compat;
use crate::net::stream::{descriptor_traits, read_methods, write_methods};

/// A file object on a duplicate of the descriptor, which can be closed like any other.
fn adopt(descriptor: BorrowedFd<'_>, name: &str, stack: Arc<Stack>) -> io::Result<FileHandle> {
    hal::install();
    let own = system::here().duplicate(descriptor.as_raw_fd())?;
    Ok(bottom::adopt_pipe(stack, name, own, PipeContext::new(false, false))?)
}

macro_rules! standard {
    ($($(#[$type_doc:meta])* $type:ident, $function:ident, $methods:ident;)*) => {$(
        $(#[$type_doc])*
        #[derive(Clone, Debug)]
        pub struct $type {
            handle: FileHandle,
        }

        /// The process's own; all that this returns are the same.
        ///
        /// # Errors
        /// When the descriptor is closed, or descriptors are exhausted; when the runtime of this thread
        /// is ending, or the thread can have no processor.
        pub fn $function() -> io::Result<$type> {
            static THE_ONE: Mutex<Option<$type>> = Mutex::new(None);
            // Nothing in here panics while it holds the lock.
            let mut one = THE_ONE.lock().unwrap_or_else(PoisonError::into_inner);
            if one.is_none() {
                *one = Some($type::with(plain_stack())?);
            }
            Ok(one.clone().expect("just made"))
        }

        impl $type {
            /// One of its own with filters ([`pipe_stack_of`](super::pipe_stack_of)): use only this
            /// one then.
            ///
            /// # Errors
            /// As of the function that yields the process's own.
            pub fn with(stack: Arc<Stack>) -> io::Result<$type> {
                let handle = adopt(io::$function().as_fd(), stringify!($function), stack)?;
                Ok($type { handle })
            }

            $methods!();

            /// The file object, for building requests of one's own and for looking at its stack.
            pub fn object(&self) -> &FileObject {
                &self.handle
            }

            /// With the traits of `futures::io`. Its `close` only flushes.
            pub fn compat(self) -> Compat {
                Compat::new(self.handle)
            }
        }

        descriptor_traits!($type);
    )*};
}

standard! {
    /// Standard input: a terminal, pipe, file or socket. Bytes that a dropped read has taken are the
    /// next read's, whoever asks; what `std::io::stdin` has buffered is not seen here.
    Stdin, stdin, read_methods;
    /// Standard output: a terminal, pipe, file or socket. Not buffered here. Writes in flight at the
    /// same time may come out in either order.
    Stdout, stdout, write_methods;
    /// Standard error. As [`Stdout`].
    Stderr, stderr, write_methods;
}
