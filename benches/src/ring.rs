//! The bare ring of the contestants and of the load generator.

use std::io;

use io_uring::{IoUring, squeue};

/// A ring with the flags that a loop of one thread wants.
///
/// # Errors
/// Those of `io_uring_setup`.
pub fn new(entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_no_sqarray();
    builder.setup_clamp().setup_cqsize(entries.saturating_mul(8)).build(entries)
}

/// Queues an entry, submitting when the queue is full.
///
/// # Safety
/// The memory that the entry names stays valid until its completion.
///
/// # Errors
/// Those of `io_uring_enter`.
pub unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the caller's promise.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}

/// Submits, waits for one completion, and hands all there are to `take` as (user data, result,
/// flags), copied out first.
///
/// # Errors
/// Those of `io_uring_enter`.
pub fn turn(ring: &mut IoUring, batch: &mut Vec<(u64, i32, u32)>) -> io::Result<()> {
    match ring.submit_and_wait(1) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
        Err(error) => return Err(error),
    }
    batch.clear();
    batch.extend(ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
    Ok(())
}
