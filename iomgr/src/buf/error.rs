//! [`BufError`]: why a request failed, and the buffer back.

use std::error::Error;
use std::fmt;
use std::io;

use crate::status::Status;

/// The result of a request that takes a buffer: what it did (mostly the number of bytes) and the
/// buffer, or the error and the buffer.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::{Status, buf::{BufError, BufResult}};
/// fn read(buf: Vec<u8>) -> BufResult<usize, Vec<u8>> {
///     if buf.is_empty() { Err(BufError::new(Status::BUFFER_TOO_SMALL, buf)) } else { Ok((0, buf)) }
/// }
/// fn program() -> std::io::Result<()> {
///     let (n, buf) = read(vec![0; 16])?; // `?` drops the buffer of a failed request
///     assert_eq!((n, buf.len()), (0, 16));
///     Ok(())
/// }
/// program().unwrap();
/// assert_eq!(read(Vec::new()).unwrap_err().status(), Status::BUFFER_TOO_SMALL);
/// ```
pub type BufResult<T, B> = Result<(T, B), BufError<B>>;

/// The error of a request, with the buffer that went into it. Becomes an [`io::Error`] under `?`.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::{Status, buf::BufError};
/// let error = BufError::new(Status::from_errno(5), vec![1, 2, 3]);
/// assert_eq!(error.status().errno(), Some(5));
/// let (status, buf) = error.into_parts();
/// assert_eq!(buf, [1, 2, 3]);
/// ```
pub struct BufError<B> {
    status: Status,
    buf: B,
}

impl<B> BufError<B> {
    /// Puts the two together.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::BufError};
    /// assert_eq!(*BufError::new(Status::CANCELLED, "out").buf(), "out");
    /// ```
    pub fn new(status: Status, buf: B) -> BufError<B> {
        BufError { status, buf }
    }

    /// Why the request failed.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::BufError};
    /// assert_eq!(BufError::new(Status::CANCELLED, "").status(), Status::CANCELLED);
    /// ```
    pub fn status(&self) -> Status {
        self.status
    }

    /// The buffer, for looking.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::BufError};
    /// assert_eq!(*BufError::new(Status::CANCELLED, "out").buf(), "out");
    /// ```
    pub fn buf(&self) -> &B {
        &self.buf
    }

    /// The buffer back, for another try.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::BufError};
    /// assert_eq!(BufError::new(Status::CANCELLED, "out").into_buf(), "out");
    /// ```
    pub fn into_buf(self) -> B {
        self.buf
    }

    /// Both.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::BufError};
    /// let parts = BufError::new(Status::CANCELLED, "out").into_parts();
    /// assert_eq!(parts, (Status::CANCELLED, "out"));
    /// ```
    pub fn into_parts(self) -> (Status, B) {
        (self.status, self.buf)
    }

    /// The same error with another buffer, for instance the whole one instead of a slice of it.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{Status, buf::{BufError, IoBuf, Slice}};
    /// let error = BufError::new(Status::CANCELLED, "hello".slice(1..));
    /// assert_eq!(error.map_buf(Slice::into_inner).into_buf(), "hello");
    /// ```
    pub fn map_buf<C>(self, change: impl FnOnce(B) -> C) -> BufError<C> {
        BufError { status: self.status, buf: change(self.buf) }
    }
}

/// Never shows the buffer: its bytes may be secret, and `unwrap` must work for every type.
impl<B> fmt::Debug for BufError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufError").field("status", &self.status).finish_non_exhaustive()
    }
}

impl<B> fmt::Display for BufError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status.fmt(f)
    }
}

impl<B> Error for BufError<B> {}

/// Keeps the status and drops the buffer.
impl<B> From<BufError<B>> for io::Error {
    fn from(error: BufError<B>) -> io::Error {
        error.status.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Opaque;

    #[test]
    fn is_an_error_whatever_the_buffer() {
        let error: Box<dyn Error> = Box::new(BufError::new(Status::CANCELLED, Opaque));
        assert_eq!(error.to_string(), Status::CANCELLED.to_string());
        assert!(format!("{error:?}").contains("CANCELLED"));
    }

    #[test]
    fn keeps_its_status_as_an_io_error() {
        for status in [Status::CANCELLED, Status::from_errno(104)] {
            let error = io::Error::from(BufError::new(status, Opaque));
            assert_eq!(Status::from(error), status);
        }
    }
}
