//! The processor's receive buffers, from which [`Op::RecvPooled`] takes when data is there.
//!
//! **Invariant.** An id is on the free list, or taken by [`Buffers::receive`] while it runs, or in
//! a lease. Operations that wait hold none.
//!
//! [`Op::RecvPooled`]: overlapped_iomgr::hal::Op::RecvPooled

use std::ffi::c_int;

use overlapped_iomgr::buf::{BufferPool, Lease};

use super::sys;

pub(super) struct Buffers {
    count: u16,
    size: u32,
    /// Allocated at the first receive.
    pool: Option<BufferPool>,
    /// Last in, first out.
    free: Vec<u16>,
}

/// Bytes asked for of a buffer of `size`; 0: all of it.
fn within(size: u32, most: u32) -> u32 {
    if most == 0 { size } else { most.min(size) }
}

impl Buffers {
    pub(super) fn new(count: u16, size: u32) -> Buffers {
        Buffers { count, size, pool: None, free: Vec::new() }
    }

    /// The most that [`Buffers::receive`] receives.
    pub(super) fn most(&self, most: u32) -> u32 {
        within(self.size, most)
    }

    /// Receives at most `most` bytes (0: a whole buffer) without waiting: a lease, or the result
    /// without one: 0 at the end of the stream, `-ENOBUFS`, `-EAGAIN`, ….
    pub(super) fn receive(&mut self, fd: c_int, most: u32) -> Result<Lease, i32> {
        let Buffers { count, size, pool, free } = self;
        if pool.is_none() && *count > 0 && *size > 0 {
            *pool = BufferPool::new(*count, *size);
            if pool.is_some() {
                free.extend((0..*count).rev());
            }
        }
        let Some(pool) = pool else { return Err(-libc::ENOBUFS) };
        // The one that came home last is still in the cache.
        free.extend(pool.pop_returned());
        let Some(&id) = free.last() else { return Err(-libc::ENOBUFS) };
        let len = within(*size, most);
        // SAFETY: the buffer is free, so nobody else uses it, and `len` is within it.
        let received = unsafe { sys::recv(fd, pool.address(id), len, 0) };
        if received <= 0 {
            return Err(received);
        }
        free.pop();
        // SAFETY: `id` has just left the free list, which makes it the hardware's no more.
        Ok(unsafe { pool.lease(id, received as u32) })
    }
}
