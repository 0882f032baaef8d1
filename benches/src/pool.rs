//! A ring of buffers that the kernel chooses from when data is there.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::memory::{ALIGNMENT, Buffer};
use crate::ring::Ring;

/// The group of the one pool of a ring.
pub const GROUP: u16 = 0;

/// A pool of provided buffers.
pub struct Pool {
    memory: Buffer,
    entries: Buffer,
    size: usize,
    count: u16,
    tail: u16,
    /// Buffers that the kernel holds.
    free: usize,
}

impl Pool {
    /// Registers `count` buffers (a power of two) of `size` bytes with a ring.
    ///
    /// # Errors
    /// Those of the registration.
    pub fn new(ring: &Ring, count: u16, size: usize) -> io::Result<Pool> {
        if !count.is_power_of_two() || size == 0 {
            return Err(io::Error::other(
                "a pool has a power of two of buffers, each of some size",
            ));
        }
        let memory = Buffer::new(usize::from(count) * size);
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let entries = Buffer::new(bytes.next_multiple_of(ALIGNMENT));
        // SAFETY: page-aligned, zeroed, and long enough. The ring is never closed, and the pool
        // lives as long as its loop.
        unsafe {
            let start = entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0)?;
        }
        let mut pool = Pool { memory, entries, size, count, tail: 0, free: 0 };
        (0..count).for_each(|id| pool.give(id));
        Ok(pool)
    }

    /// The memory of a buffer that the kernel has chosen.
    pub fn get(&self, id: u16) -> &[u8] {
        &self.memory[usize::from(id) * self.size..][..self.size]
    }

    /// Buffers that the kernel can still choose.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Notes that the kernel has chosen one.
    pub fn taken(&mut self) {
        self.free -= 1;
    }

    /// Gives a buffer (back) to the kernel.
    pub fn give(&mut self, id: u16) {
        let address = self.get(id).as_ptr() as u64;
        let entries = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: entries at and behind the tail are ours; the tail lies in the first entry.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(address);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
        self.free += 1;
    }
}
