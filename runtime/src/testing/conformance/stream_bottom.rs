//! Bottoms for streams.

use std::io;

use overlapped_iomgr::FileHandle;

use super::streams::Case;
use super::{Nonconformity, run};

/// Puts a bottom driver for streams through a suite: `make` gives the two ends of a connection, whose file
/// objects are on the bottom, and that is put through the cases of [`stream_filters`](super::stream_filters).
/// (Being reset is left out where [`Connect::reset`](crate::operation::Connect::reset) is refused.)
///
/// A pipe is not a stream of this kind: it has one direction and cannot be shut down.
///
/// # Errors
/// The first thing that is not as it should be.
///
/// ```
/// use overlapped::driver::testing::conformance;
/// use overlapped::net::UnixStream;
///
/// let make = async || {
///     let (a, b) = UnixStream::pair()?;
///     Ok([a.object().handle(), b.object().handle()])
/// };
/// conformance::stream_bottom(make, 1).unwrap();
/// ```
pub fn stream_bottom(
    make: impl AsyncFn() -> io::Result<[FileHandle; 2]>,
    seed: u64,
) -> Result<(), Nonconformity> {
    for case in Case::ALL {
        run(case.to_string(), async {
            let ends = make().await.map_err(|error| format!("the ends cannot be made: {error}"))?;
            case.check(ends, false, seed).await
        })?;
    }
    Ok(())
}
